"""The latent critic D_z: its losses (Eq. 3), and its inputs in training and in scoring (Eq. 5).

The paper gives D_z different arguments in two places, and their order matters. In Eq. 3, the latent
that is judged comes second: D_z(z, z) against D_z(z, E(x)). In Eq. 5, the latent that is scored
comes first: D_z(E(G(z)), z) against D_z(E(x), E(G(z))). If D_z judges single latents
(``"single"``), that latent is kept and its partner dropped. The two functions that build D_z's
inputs are both here, so that no caller has to decide which is which.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from adcgan.errors import InputError
from adcgan.losses.adversarial import logistic_critic_loss, logistic_generator_loss

LatentKind = Literal["pair", "single"]
LATENT_KINDS: tuple[LatentKind, ...] = get_args(LatentKind)


def latent_critic_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Compute the loss of D_z: the binary cross-entropy of Eq. 3, to be minimised.

    −E[log D_z(real)] − E[log(1 − D_z(fake))]. The paper prints the second term as 1 − log D_z,
    which is treated as a misprint.

    Parameters
    ----------
    real_logits, fake_logits : Tensor of shape (B,)
        Raw outputs of D_z before the sigmoid, for D_z(z, z) and D_z(z, E(x)).

    Returns
    -------
    Tensor of shape ()
        Sum of the two terms, at least 0; 2 log 2 if D_z cannot tell the two apart.
    """
    return logistic_critic_loss(real_logits, fake_logits)


def latent_encoder_loss(fake_logits: Tensor) -> Tensor:
    """Compute the loss of the encoder against D_z (Eq. 3), which makes D_z judge E(x) as real.

    −E[log D_z(fake)] instead of E[log(1 − D_z(fake))]: the same objective, with a gradient that
    does not vanish while D_z is winning (Goodfellow et al. 2014, section 3).

    Parameters
    ----------
    fake_logits : Tensor of shape (B,)
        Raw outputs of D_z before the sigmoid, for D_z(z, E(x)).

    Returns
    -------
    Tensor of shape ()
        Loss of at least 0; log 2 if D_z cannot tell the two apart.
    """
    return logistic_generator_loss(fake_logits)


def latent_training_inputs(kind: LatentKind, z: Tensor, e_x: Tensor) -> tuple[Tensor, Tensor]:
    """Build the real and fake inputs of D_z in Eq. 3.

    Parameters
    ----------
    kind : {"pair", "single"}
        ``"pair"``: (z, z) and (z, E(x)) as written; ``"single"``: z and E(x).
    z, e_x : Tensor of shape (B, Z)
        The generator's noise and the encoded images E(x).

    Returns
    -------
    real, fake : Tensor of shape (B, 2Z), or (B, Z) for ``"single"``

    Raises
    ------
    InputError
        If `kind` is not one of the two.
    """
    if _is_single(kind):
        return z, e_x
    return torch.cat([z, z], dim=1), torch.cat([z, e_x], dim=1)


def latent_scoring_inputs(
    kind: LatentKind, z: Tensor, e_g_z: Tensor, e_x: Tensor
) -> tuple[Tensor, Tensor]:
    """Build the inputs of D_z in L_FL (Eq. 5), for all images with all K noise draws.

    Parameters
    ----------
    kind : {"pair", "single"}
        ``"pair"``: (E(G(z)), z) and (E(x), E(G(z))) as written; ``"single"``: E(G(z)) and E(x).
    z, e_g_z : Tensor of shape (K, Z)
        The noise draws and the encodings E(G(z)) of the images generated from them.
    e_x : Tensor of shape (B, Z)
        The encoded images E(x).

    Returns
    -------
    generated : Tensor of shape (K, 2Z), or (K, Z) for ``"single"``
        The same for all images.
    image : Tensor of shape (B·K, 2Z), or (B·K, Z) for ``"single"``
        Ordered by image, so that D_z's outputs can be reshaped to (B, K).

    Raises
    ------
    InputError
        If `kind` is not one of the two.
    """
    # Not len(e_x), which would fix the number of images in an exported graph.
    images, draws = e_x.shape[0], len(e_g_z)
    first = e_x.repeat_interleave(draws, dim=0)
    if _is_single(kind):
        return e_g_z, first
    return torch.cat([e_g_z, z], dim=1), torch.cat([first, e_g_z.repeat(images, 1)], dim=1)


def _is_single(kind: LatentKind) -> bool:
    """Check `kind` and return whether D_z judges single latents."""
    if kind not in LATENT_KINDS:
        raise InputError(
            "The 'kind' parameter of the latent critic's inputs must be one of "
            f"{', '.join(map(repr, LATENT_KINDS))}. Got {kind!r} instead."
        )
    return kind == "single"
