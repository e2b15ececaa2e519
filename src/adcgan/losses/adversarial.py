"""Adversarial losses.

The paper's relativistic pair (Eq. 6) and, for the systems it is compared with, the logistic pair of
the original GAN and the gradient penalty of WGAN-GP.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from adcgan.losses.precision import at_least_float32


def relativistic_critic_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Compute the relativistic loss of the critic, L_adv_D of Eq. 6.

    −E[log σ(C(x_r) − C(x_f))], computed as softplus(−(C(x_r) − C(x_f))), which does not overflow.
    Real and fake images are paired by their position in the batch.

    Parameters
    ----------
    real_logits, fake_logits : Tensor of shape (B,)
        Raw outputs of the critic, C(x_r) and C(x_f).

    Returns
    -------
    Tensor of shape ()
        Loss of at least 0; log 2 if the critic cannot tell the two apart.
    """
    # Shapes (B,) and (B, 1) would broadcast to all B² pairs, which is a different loss.
    assert real_logits.shape == fake_logits.shape
    return functional.softplus(at_least_float32(fake_logits) - at_least_float32(real_logits)).mean()


def relativistic_generator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Compute the relativistic loss of the generator, L_adv_G of Eq. 6: the critic's, swapped.

    Parameters
    ----------
    real_logits, fake_logits : Tensor of shape (B,)
        Raw outputs of the critic, C(x_r) and C(x_f), in the same order as for the critic's loss.

    Returns
    -------
    Tensor of shape ()
        Loss of at least 0; log 2 if the critic cannot tell the two apart.
    """
    return relativistic_critic_loss(fake_logits, real_logits)


def logistic_critic_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Compute the binary cross-entropy loss of a critic (Goodfellow et al. 2014, Eq. 1).

    −E[log σ(C(real))] − E[log(1 − σ(C(fake)))], to be minimised.

    Parameters
    ----------
    real_logits, fake_logits : Tensor of any shape
        Raw outputs of the critic, before the sigmoid.

    Returns
    -------
    Tensor of shape ()
        Loss of at least 0; 2 log 2 if the critic cannot tell the two apart.
    """
    real, fake = at_least_float32(real_logits), at_least_float32(fake_logits)
    return functional.softplus(-real).mean() + functional.softplus(fake).mean()


def logistic_generator_loss(fake_logits: Tensor) -> Tensor:
    """Compute the non-saturating loss of a generator (Goodfellow et al. 2014, section 3).

    −E[log σ(C(fake))], to be minimised.

    Parameters
    ----------
    fake_logits : Tensor of any shape
        Raw outputs of the critic, before the sigmoid.

    Returns
    -------
    Tensor of shape ()
        Loss of at least 0; log 2 if the critic cannot tell fake from real.
    """
    return functional.softplus(-at_least_float32(fake_logits)).mean()


def wasserstein_gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor
) -> Tensor:
    """Compute the gradient penalty of WGAN-GP (Gulrajani et al. 2017, Eq. 3), without its weight.

    E[(‖∇C(x̂)‖₂ − 1)²] at x̂ = mix·real + (1 − mix)·fake. It trains only the critic: no gradient
    reaches `real` or `fake`.

    Parameters
    ----------
    critic : callable
        Maps (B, …) to one raw output per item, (B,) or (B, 1). It must treat the items of a batch
        independently; batch normalisation would mix their gradients.
    real, fake : Tensor of shape (B, …)
        Images of the same shape.
    mix : Tensor of shape (B,)
        Position of each point between the two, drawn by the caller uniformly from [0, 1).

    Returns
    -------
    Tensor of shape ()
        Penalty of at least 0, differentiable with respect to the critic's weights.
    """
    assert real.shape == fake.shape
    assert mix.shape == real.shape[:1]
    weight = mix.reshape(-1, *[1] * (real.dim() - 1))
    between = (weight * real + (1 - weight) * fake).detach().requires_grad_()
    # Use a view: PyTorch's operation counter cannot track a module whose input is a leaf.
    values = critic(between.view_as(between))
    (slope,) = torch.autograd.grad(values.sum(), between, create_graph=True)
    length = torch.linalg.vector_norm(at_least_float32(slope).flatten(1), dim=1)
    penalty: Tensor = (length - 1).square().mean()
    return penalty
