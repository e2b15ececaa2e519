"""The normality score by component (Eq. 4 and 5). Higher means more anomalous.

The four components are tensor functions, one value for each image. Weighing them is NumPy in
float64, so it can be repeated on stored components.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from adcgan.errors import InputError
from adcgan.scoring.backend import Components

if TYPE_CHECKING:
    from torch import Tensor

Reduction = Literal["sum", "mean"]

COMPONENTS = ("discrimination", "residual", "encoded", "latent")
_REQUIRED = COMPONENTS[:3]


def discrimination_loss(f_x: Tensor, f_x_hat: Tensor, reduction: Reduction = "sum") -> Tensor:
    """Discrimination loss L_GD = Σ|f_D(x) − f_D(G(E(x)))| (section 2.2, after Eq. 4).

    Parameters
    ----------
    f_x, f_x_hat : Tensor of shape (B, …)
        The critic's local feature maps of the images and of their reconstructions.
    reduction : {"sum", "mean"}, default="sum"
        Over each image's features; the sum is what the paper writes.

    Returns
    -------
    Tensor of shape (B,)
        At least 0; 0 for equal features.

    Raises
    ------
    InputError
        If `reduction` is neither of the two.
    """
    return _absolute_difference(f_x, f_x_hat, reduction)


def residual_loss(x: Tensor, x_hat: Tensor, reduction: Reduction = "sum") -> Tensor:
    """Residual loss L_GR = Σ|x − G(E(x))| (section 2.2, after Eq. 4).

    Parameters
    ----------
    x, x_hat : Tensor of shape (B, …)
        Images and their reconstructions, floating point, on the same scale.
    reduction : {"sum", "mean"}, default="sum"
        Over each image's pixels and channels; the sum is what the paper writes.

    Returns
    -------
    Tensor of shape (B,)
        At least 0, in units of that scale; 0 for a perfect reconstruction.

    Raises
    ------
    InputError
        If `reduction` is neither of the two.
    """
    return _absolute_difference(x, x_hat, reduction)


def encoded_loss(e_x: Tensor, e_x_hat: Tensor, reduction: Reduction = "sum") -> Tensor:
    """Feature reconstruction loss of the encoding: L_FE = Σ|E(x) − E(G(E(x)))| (Eq. 5).

    Parameters
    ----------
    e_x, e_x_hat : Tensor of shape (B, Z)
        Encodings of the images and of their reconstructions.
    reduction : {"sum", "mean"}, default="sum"
        Over the dimensions of the latent; the sum is what the paper writes.

    Returns
    -------
    Tensor of shape (B,)
        At least 0; 0 for equal encodings.

    Raises
    ------
    InputError
        If `reduction` is neither of the two.
    """
    return _absolute_difference(e_x, e_x_hat, reduction)


def latent_loss(p_generated: Tensor, p_image: Tensor) -> Tensor:
    """Feature reconstruction loss of D_z: L_FL = |D_z(E(G(z)), z) − D_z(E(x), E(G(z)))| (Eq. 5).

    The paper leaves open which z. Here K draws that belong to the model are shared by all images
    and averaged over, so that a score depends on its image and the model alone.

    Parameters
    ----------
    p_generated : Tensor of shape (K,) or (B, K)
        D_z(E(G(z)), z) for each draw, as probabilities in [0, 1]: Eq. 3 takes their logarithm.
    p_image : Tensor of shape (B, K)
        D_z(E(x), E(G(z))) for each image and draw, as probabilities.

    Returns
    -------
    Tensor of shape (B,)
        In [0, 1].
    """
    assert p_image.dim() == 2
    assert p_generated.dim() in (1, 2)
    assert p_generated.shape[-1] == p_image.shape[1]
    return (_wide(p_generated) - _wide(p_image)).abs().mean(1)


def normality_score(components: Components, lam: float, rho: float) -> NDArray[np.float64]:
    """Weigh the components to the normality score NS = L_Gr + L_Fr (Eq. 4).

    L_Gr = λ·discrimination + (1 − λ)·residual and L_Fr = ρ·encoded + (1 − ρ)·latent.

    Parameters
    ----------
    components : mapping of str to array of shape (n,)
        By the names in `COMPONENTS`. Without ``"latent"`` (a model without D_z) L_Fr = ρ·encoded.
    lam, rho : float
        The weights λ and ρ, from 0 to 1. The paper uses 0.1 and 0.5.

    Returns
    -------
    array of shape (n,), float64
        Higher means more anomalous. nan where a component is nan, whatever its weight.

    Raises
    ------
    InputError
        If a component is missing or unknown, or a weight is outside [0, 1].
    """
    parts = _checked(components)
    _check_weight("lam", lam)
    _check_weight("rho", rho)
    score = lam * parts["discrimination"] + (1 - lam) * parts["residual"] + rho * parts["encoded"]
    if "latent" in parts:
        score = score + (1 - rho) * parts["latent"]
    return score


def variants(components: Components, lam: float, rho: float) -> dict[str, NDArray[np.float64]]:
    """Score the four models of the ablation (Table 4) from one model's components.

    Parameters
    ----------
    components : mapping of str to array of shape (n,)
        By the names in `COMPONENTS`; ``"latent"`` may be absent.
    lam, rho : float
        The weights λ and ρ, from 0 to 1; ρ matters for ``"GF"`` alone.

    Returns
    -------
    dict of str to array of shape (n,), float64
        ``"LG"``: L_Gr alone; ``"LFE"``: L_Gr + L_FE (ρ = 1); ``"LFL"``: L_Gr + L_FL (ρ = 0), left
        out where there is no latent component; ``"GF"``: the normality score with `rho`.

    Raises
    ------
    InputError
        If a component is missing or unknown, or a weight is outside [0, 1].
    """
    generation = {name: components[name] for name in _REQUIRED if name in components}
    scores = {
        # Without a latent component and with ρ = 0 nothing of L_Fr is left.
        "LG": normality_score(generation, lam, rho=0.0),
        "LFE": normality_score(components, lam, rho=1.0),
    }
    if "latent" in components:
        scores["LFL"] = normality_score(components, lam, rho=0.0)
    scores["GF"] = normality_score(components, lam, rho)
    return scores


def location_and_scale(components: Components) -> tuple[dict[str, float], dict[str, float]]:
    """Measure each component's mean and standard deviation on held-out normal images.

    Parameters
    ----------
    components : mapping of str to array of shape (m,)
        Components of the held-out normal images, m ≥ 1.

    Returns
    -------
    location, scale : dict of str to float
        Mean and standard deviation (of the population, in float64) by component. The scale is
        exactly 0 where all values are equal.

    Raises
    ------
    InputError
        If a component is empty or has values that are not finite.
    """
    location: dict[str, float] = {}
    scale: dict[str, float] = {}
    for name, values in components.items():
        exact = np.asarray(values, dtype=np.float64)
        if exact.size == 0 or not np.isfinite(exact).all():
            raise InputError(
                f"The {name!r} component of the held-out images must be finite and not empty. "
                f"Got {exact.size} values, {int(np.isfinite(exact).sum())} of them finite, instead."
            )
        location[name] = float(exact.mean())
        # Rounding of the mean can give equal values a spread of 1e-17, which must not divide.
        scale[name] = float(exact.std()) if exact.max() > exact.min() else 0.0
    return location, scale


def standardise(
    components: Components, location: Mapping[str, float], scale: Mapping[str, float]
) -> dict[str, NDArray[np.float64]]:
    """Put every component on the scale of the held-out normal images, for normalise="validation".

    Parameters
    ----------
    components : mapping of str to array of shape (n,)
        Components to transform.
    location, scale : mapping of str to float
        What `location_and_scale` measured. A scale of 0 counts as 1.

    Returns
    -------
    dict of str to array of shape (n,), float64
        (component − location) / scale; nan stays nan.
    """
    return {
        name: (np.asarray(values, dtype=np.float64) - location[name]) / (scale[name] or 1.0)
        for name, values in components.items()
    }


def _absolute_difference(first: Tensor, second: Tensor, reduction: Reduction) -> Tensor:
    """Reduce |first − second| over all but the first dimension."""
    assert first.shape == second.shape
    distance = (_wide(first) - _wide(second)).abs().flatten(1)
    if reduction == "sum":
        return distance.sum(1)
    if reduction == "mean":
        return distance.mean(1)
    raise InputError(
        f"The 'reduction' parameter must be one of 'sum', 'mean'. Got {reduction!r} instead."
    )


def _wide(tensor: Tensor) -> Tensor:
    """Widen half precision to float32: a score is a sum of thousands of small differences."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


def _checked(components: Components) -> dict[str, NDArray[np.float64]]:
    """Return the components in float64, or say which is missing or unknown."""
    missing = [name for name in _REQUIRED if name not in components]
    unknown = [name for name in components if name not in COMPONENTS]
    if missing or unknown:
        raise InputError(
            f"The 'components' parameter must have {', '.join(map(repr, _REQUIRED))} and may have "
            f"'latent'. Got {', '.join(map(repr, components)) or 'nothing'} instead."
        )
    return {name: np.asarray(values, dtype=np.float64) for name, values in components.items()}


def _check_weight(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"The {name!r} parameter must be from 0 to 1. Got {value!r} instead.")
