"""The latent critic D_z: its loss (Eq. 3), and what it judges in training and in scoring (Eq. 5).

The paper writes two different arguments for D_z in two places, and the order matters. In Eq. 3
the latent that is judged comes second: D_z(z, z) against D_z(z, E(x)). In Eq. 5 the one that is
scored comes first: D_z(E(G(z)), z) against D_z(E(x), E(G(z))). Where D_z judges one latent alone
(``"single"``), that one is kept and its partner dropped. The two functions that build D_z's
inputs stand here side by side so that no caller has to decide which is which.
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
    """Loss of D_z: the binary cross-entropy of Eq. 3, to be minimised.

    −E[log D_z(real)] − E[log(1 − D_z(fake))]. The paper prints the second term as 1 − log D_z,
    read here as a misprint.

    Parameters
    ----------
    real_logits, fake_logits : Tensor of shape (B,)
        D_z's raw outputs before the sigmoid, for D_z(z, z) and D_z(z, E(x)).

    Returns
    -------
    Tensor of shape ()
        The sum of the two terms: at least 0; 2 log 2 where D_z cannot tell the two apart.
    """
    return logistic_critic_loss(real_logits, fake_logits)


def latent_encoder_loss(fake_logits: Tensor) -> Tensor:
    """Loss of the encoder against D_z (Eq. 3), which wants E(x) to be judged real.

    −E[log D_z(fake)] rather than E[log(1 − D_z(fake))]: the same aim, with a gradient that does
    not vanish while D_z wins (Goodfellow et al. 2014, section 3).

    Parameters
    ----------
    fake_logits : Tensor of shape (B,)
        D_z's raw outputs before the sigmoid, for D_z(z, E(x)).

    Returns
    -------
    Tensor of shape ()
        At least 0; log 2 where D_z cannot tell the two apart.
    """
    return logistic_generator_loss(fake_logits)


def latent_training_inputs(kind: LatentKind, z: Tensor, e_x: Tensor) -> tuple[Tensor, Tensor]:
    """Build what D_z judges in Eq. 3: real and fake.

    Parameters
    ----------
    kind : {"pair", "single"}
        ``"pair"``: (z, z) and (z, E(x)) as written; ``"single"``: z and E(x).
    z, e_x : Tensor of shape (B, Z)
        The generator's noise, and the encoded images E(x).

    Returns
    -------
    real, fake : Tensor of shape (B, 2Z), or (B, Z) for ``"single"``

    Raises
    ------
    InputError
        If `kind` is neither of the two.
    """
    if _is_single(kind):
        return z, e_x
    return torch.cat([z, z], dim=1), torch.cat([z, e_x], dim=1)


def latent_scoring_inputs(
    kind: LatentKind, z: Tensor, e_g_z: Tensor, e_x: Tensor
) -> tuple[Tensor, Tensor]:
    """Build what D_z judges in L_FL (Eq. 5), for every image with every one of K noise draws.

    Parameters
    ----------
    kind : {"pair", "single"}
        ``"pair"``: (E(G(z)), z) and (E(x), E(G(z))) as written; ``"single"``: E(G(z)) and E(x).
    z, e_g_z : Tensor of shape (K, Z)
        The noise draws, and the encodings E(G(z)) of what is generated from them.
    e_x : Tensor of shape (B, Z)
        The encoded images E(x).

    Returns
    -------
    generated : Tensor of shape (K, 2Z), or (K, Z) for ``"single"``
        The same for all images.
    image : Tensor of shape (B·K, 2Z), or (B·K, Z) for ``"single"``
        Image by image, so that D_z's outputs reshape to (B, K).

    Raises
    ------
    InputError
        If `kind` is neither of the two.
    """
    # Not len(e_x): that would fix the number of images in an exported graph.
    images, draws = e_x.shape[0], len(e_g_z)
    first = e_x.repeat_interleave(draws, dim=0)
    if _is_single(kind):
        return e_g_z, first
    return torch.cat([e_g_z, z], dim=1), torch.cat([first, e_g_z.repeat(images, 1)], dim=1)


def _is_single(kind: LatentKind) -> bool:
    """Check `kind` and say whether D_z judges one latent alone."""
    if kind not in LATENT_KINDS:
        raise InputError(
            "The 'kind' parameter of the latent critic's inputs must be one of "
            f"{', '.join(map(repr, LATENT_KINDS))}. Got {kind!r} instead."
        )
    return kind == "single"
