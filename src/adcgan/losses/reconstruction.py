"""The reconstruction loss of the autoencoder (section 2.1)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from adcgan.losses.precision import at_least_float32


def reconstruction_loss(x: Tensor, x_hat: Tensor) -> Tensor:
    """Compute the mean squared error of reconstructions, L_AE of section 2.1.

    Parameters
    ----------
    x, x_hat : Tensor of the same shape
        Images x and their reconstructions G(E(x)), floating-point and on the same scale.

    Returns
    -------
    Tensor of shape ()
        Mean over pixels, channels and images, in squared units of that scale; at least 0.
    """
    assert x.shape == x_hat.shape
    return functional.mse_loss(at_least_float32(x_hat), at_least_float32(x))
