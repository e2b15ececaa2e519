from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from adcgan.errors import InputError
from adcgan.scoring import (
    COMPONENTS,
    discrimination_loss,
    encoded_loss,
    latent_loss,
    location_and_scale,
    normality_score,
    residual_loss,
    standardise,
    variants,
)

Distance = Callable[..., Tensor]
DISTANCES = [discrimination_loss, residual_loss, encoded_loss]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def parts(n: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.gamma(2.0, 10.0, n) for name in COMPONENTS}


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("shape", [(3, 7), (3, 2, 4, 4)])
def test_distances_reduce_absolute_differences_image_by_image(
    distance: Distance, shape: tuple[int, ...]
) -> None:
    first, second = normal(0, *shape), normal(1, *shape)
    total, mean = distance(first, second), distance(first, second, "mean")
    assert total.shape == mean.shape == (3,)
    for i in range(3):
        pairs = zip(first[i].flatten().tolist(), second[i].flatten().tolist(), strict=True)
        expected = sum(abs(a - b) for a, b in pairs)
        assert total[i].item() == pytest.approx(expected, rel=1e-12)
        assert mean[i].item() == pytest.approx(expected / first[i].numel(), rel=1e-12)


@pytest.mark.parametrize("distance", DISTANCES)
def test_distances_are_zero_for_equal_arguments_and_symmetric(distance: Distance) -> None:
    first, second = normal(0, 3, 7), normal(1, 3, 7)
    assert (distance(first, first) == 0).all()
    assert torch.equal(distance(first, second), distance(second, first))


@pytest.mark.parametrize("distance", DISTANCES)
def test_half_precision_is_summed_in_float32(distance: Distance) -> None:
    first, second = normal(0, 2, 5000).bfloat16(), normal(1, 2, 5000).bfloat16()
    result = distance(first, second)
    assert result.dtype == torch.float32
    torch.testing.assert_close(
        result.double(), distance(first.double(), second.double()), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("distance", DISTANCES)
def test_unknown_reductions_are_refused(distance: Distance) -> None:
    with pytest.raises(InputError, match=r"'reduction' .* 'sum', 'mean'. Got 'max'"):
        distance(normal(0, 2, 3), normal(1, 2, 3), "max")


def test_latent_loss_averages_absolute_differences_over_the_draws() -> None:
    p_generated, p_image = normal(0, 5).sigmoid(), normal(1, 3, 5).sigmoid()
    result = latent_loss(p_generated, p_image)
    for b in range(3):
        expected = sum(abs(p_generated[k].item() - p_image[b, k].item()) for k in range(5)) / 5
        assert result[b].item() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(latent_loss(p_generated.expand(3, 5), p_image), result)


def test_latent_loss_of_an_image_does_not_depend_on_its_companions() -> None:
    p_generated, p_image = normal(0, 5).sigmoid(), normal(1, 3, 5).sigmoid()
    alone = torch.cat([latent_loss(p_generated, p_image[i : i + 1]) for i in range(3)])
    assert torch.equal(latent_loss(p_generated, p_image), alone)


def test_score_follows_equation_4() -> None:
    components = parts()
    score = normality_score(components, lam=0.1, rho=0.3)
    assert score.dtype == np.float64
    for i in range(6):
        gd, gr, fe, fl = (float(components[name][i]) for name in COMPONENTS)
        assert score[i] == pytest.approx(0.1 * gd + 0.9 * gr + 0.3 * fe + 0.7 * fl, rel=1e-12)


def test_score_without_a_latent_component_keeps_the_weight_of_the_encoded_one() -> None:
    components = parts()
    whole = normality_score(components, lam=0.1, rho=0.3)
    latent = components.pop("latent")
    np.testing.assert_allclose(normality_score(components, 0.1, 0.3), whole - 0.7 * latent)


def test_score_of_float32_components_is_weighed_in_float64() -> None:
    components = {name: values.astype(np.float32) for name, values in parts().items()}
    exact = {name: values.astype(np.float64) for name, values in components.items()}
    np.testing.assert_array_equal(
        normality_score(components, 0.1, 0.3), normality_score(exact, 0.1, 0.3)
    )


def test_an_image_without_components_has_no_score_and_spoils_no_other() -> None:
    components = parts()
    whole = normality_score(components, 0.1, 0.5)
    for values in components.values():
        values[2] = np.nan
    score = normality_score(components, 0.1, 0.5)
    assert np.isnan(score).tolist() == [False, False, True, False, False, False]
    np.testing.assert_array_equal(np.delete(score, 2), np.delete(whole, 2))


def test_variants_are_the_four_models_of_table_4() -> None:
    components = parts()
    gd, gr, fe, fl = (components[name] for name in COMPONENTS)
    generation = 0.1 * gd + 0.9 * gr
    result = variants(components, lam=0.1, rho=0.3)
    assert list(result) == ["LG", "LFE", "LFL", "GF"]
    np.testing.assert_allclose(result["LG"], generation)
    np.testing.assert_allclose(result["LFE"], generation + fe)
    np.testing.assert_allclose(result["LFL"], generation + fl)
    np.testing.assert_allclose(result["GF"], generation + 0.3 * fe + 0.7 * fl)
    np.testing.assert_array_equal(result["GF"], normality_score(components, 0.1, 0.3))


def test_variants_leave_out_the_latent_one_where_there_is_no_latent_component() -> None:
    components = parts()
    del components["latent"]
    result = variants(components, lam=0.1, rho=0.3)
    assert list(result) == ["LG", "LFE", "GF"]
    np.testing.assert_allclose(result["GF"] - result["LG"], 0.3 * components["encoded"])


def test_standardised_held_out_components_have_mean_0_and_deviation_1() -> None:
    components = parts(n=50)
    result = standardise(components, *location_and_scale(components))
    for name in COMPONENTS:
        assert result[name].mean() == pytest.approx(0.0, abs=1e-12)
        assert result[name].std() == pytest.approx(1.0)


def test_new_components_are_standardised_by_the_held_out_figures_alone() -> None:
    location, scale = location_and_scale({"residual": np.array([1.0, 3.0])})
    assert (location, scale) == ({"residual": 2.0}, {"residual": 1.0})
    result = standardise({"residual": np.array([5.0, np.nan])}, location, scale)
    np.testing.assert_array_equal(result["residual"], [3.0, np.nan])


def test_a_component_without_spread_is_only_shifted() -> None:
    # The rounded mean of three times 0.1 is not 0.1, so their deviation is not 0 as computed.
    components = {"latent": np.full(3, 0.1)}
    assert components["latent"].std() > 0
    location, scale = location_and_scale(components)
    assert scale == {"latent": 0.0}
    moved = standardise({"latent": np.array([0.1, 2.1])}, location, scale)
    np.testing.assert_allclose(moved["latent"], [0.0, 2.0], atol=1e-12)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf]])
def test_held_out_components_must_be_finite(values: list[float]) -> None:
    with pytest.raises(InputError, match=r"'residual' component .* finite"):
        location_and_scale({"residual": np.array(values)})


@pytest.mark.parametrize("score", [normality_score, variants])
def test_missing_and_unknown_components_are_refused(score: Callable[..., object]) -> None:
    components = parts()
    with pytest.raises(InputError, match=r"'components' .* Got .*'extra' instead"):
        score(components | {"extra": components["latent"]}, 0.1, 0.5)
    del components["residual"]
    with pytest.raises(InputError, match=r"must have 'discrimination', 'residual', 'encoded'"):
        score(components, 0.1, 0.5)


@pytest.mark.parametrize("score", [normality_score, variants])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_weights_outside_0_to_1_are_refused(score: Callable[..., object], value: float) -> None:
    with pytest.raises(InputError, match=r"'lam' .* from 0 to 1"):
        score(parts(), value, 0.5)
    with pytest.raises(InputError, match=r"'rho' .* from 0 to 1"):
        score(parts(), 0.1, value)


def test_scores_can_be_combined_where_torch_is_not_loaded() -> None:
    command = "import sys, adcgan.scoring; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
