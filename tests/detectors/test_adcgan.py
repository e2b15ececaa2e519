from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adcgan import ADCGAN, InputError
from adcgan.detectors.adcgan import ADCGANModel
from adcgan.scoring import normality_score, variants

QUICK: dict[str, Any] = {
    "width": 0.125,
    "warmup_epochs": 4,
    "epochs": 6,
    "min_steps": 0,
    "fpr": 0.2,
    "device": "cpu",
}


def discs(n: int, seed: int, planted: bool = False) -> NDArray[np.uint8]:
    """Return soft grey discs (n, 16, 16), with a bright square in a corner if `planted`."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(6, 10, (n, 2, 1, 1))
    y, x = np.mgrid[:16, :16]
    distance = (y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2
    images = np.uint8(140 * np.exp(-distance / 18))
    if planted:
        images[:, 1:5, 11:15] = 255
    return images


@cache
def fitted(**settings: Any) -> ADCGAN:
    return ADCGAN(**{**QUICK, **settings}).fit(discs(400, 0))


def test_planted_anomalies_score_higher() -> None:
    detector = fitted()
    normal = detector.decision_function(discs(100, 1))
    planted = detector.decision_function(discs(100, 2, planted=True))
    assert np.median(planted) > normal.max()
    assert detector.predict(discs(100, 2, planted=True)).mean() > 0.95
    assert detector.predict(discs(100, 1)).mean() < 0.4


def test_components_have_the_papers_meaning() -> None:
    detector, images = fitted(), discs(10, 3)
    parts = detector.score_components(images)
    assert list(parts) == ["discrimination", "residual", "encoded", "latent"]
    x = images[..., None] / 255
    np.testing.assert_allclose(
        parts["residual"], np.abs(x - detector.reconstruct(images)).sum((1, 2, 3)), rtol=1e-4
    )
    np.testing.assert_allclose(
        detector.decision_function(images), normality_score(parts, lam=0.1, rho=0.5)
    )
    for key, value in detector.score_variants(parts).items():
        np.testing.assert_array_equal(value, variants(parts, 0.1, 0.5)[key])


def test_latent_component_follows_equation_5() -> None:
    detector, images = fitted(n_latents=3), discs(4, 4)
    model = detector.model_
    assert isinstance(model, ADCGANModel)
    judge = model.latent_critic
    assert judge is not None
    with torch.no_grad():
        x = torch.tensor(images)[:, None].float() / 255
        e_x = model.encoder(x)
        expected = np.zeros(4)
        for z in judge.draws:
            e_g_z = model.encoder(model.generator(z[None]))
            made = judge(torch.cat([e_g_z, z[None]], 1)).sigmoid()
            for i in range(4):
                pair = torch.cat([e_x[i : i + 1], e_g_z], 1)
                expected[i] += float(abs(made - judge(pair).sigmoid())) / 3
    np.testing.assert_allclose(detector.score_components(images)["latent"], expected, rtol=1e-4)


def test_the_autoencoder_has_no_decoder_but_the_generator() -> None:
    networks = {
        name for name, child in fitted().model_.named_children() if list(child.parameters())
    }
    assert networks == {"encoder", "generator", "critic", "latent_critic"}


@pytest.mark.parametrize("latent", ["single", "none"])
def test_other_latent_readings(latent: str) -> None:
    detector = ADCGAN(**{**QUICK, "epochs": 1, "latent": latent}).fit(discs(60, 0))
    parts = detector.score_components(discs(5, 1))
    assert ("latent" in parts) == (latent != "none")
    assert ("LFL" in detector.score_variants(parts)) == (latent != "none")
    assert isinstance(detector.model_, ADCGANModel)
    assert (detector.model_.latent_critic is not None) == (latent != "none")


def test_batch_statistics_change_the_scores_and_not_the_weights() -> None:
    recomputed, running = (
        ADCGAN(**{**QUICK, "epochs": 1, "batch_statistics": kind}).fit(discs(60, 0))
        for kind in ("recomputed", "running")
    )
    for (name, a), b in zip(
        recomputed.model_.named_parameters(), running.model_.parameters(), strict=True
    ):
        torch.testing.assert_close(a, b, atol=0, rtol=0, msg=name)
    images = discs(5, 1)
    assert not np.allclose(
        recomputed.decision_function(images), running.decision_function(images), rtol=1e-3
    )


@pytest.mark.parametrize("negatives", ["self", "all"])
def test_other_negatives_train(negatives: str) -> None:
    detector = ADCGAN(**{**QUICK, "epochs": 1, "negatives": negatives}).fit(discs(100, 0))
    assert np.isfinite(detector.decision_function(discs(5, 1))).all()


def test_more_critic_steps_update_the_critic_more(monkeypatch: pytest.MonkeyPatch) -> None:
    from adcgan.training import Optimizers

    counts: dict[str, int] = {}
    update = Optimizers.update

    def counting(self: Optimizers, name: str, losses: Any) -> None:
        counts[name] = counts.get(name, 0) + 1
        update(self, name, losses)

    monkeypatch.setattr(Optimizers, "update", counting)
    ADCGAN(**{**QUICK, "warmup_epochs": 2, "epochs": 3, "critic_steps": 2}).fit(discs(72, 0))
    per_epoch = 65 // 32
    assert counts == {
        "autoencoder": 5 * per_epoch,
        "critic": 6 * per_epoch,
        "generator": 3 * per_epoch,
        "latent_critic": 3 * per_epoch,
    }


def test_mean_reduction_divides_each_component_by_its_size() -> None:
    total, mean = fitted(), fitted(reduction="mean")
    a, b = total.score_components(discs(5, 1)), mean.score_components(discs(5, 1))
    np.testing.assert_allclose(a["residual"] / 256, b["residual"], rtol=1e-5)
    np.testing.assert_allclose(a["encoded"] / 100, b["encoded"], rtol=1e-5)
    np.testing.assert_allclose(a["latent"], b["latent"], rtol=1e-5)


def test_validation_normalisation_puts_components_on_one_scale() -> None:
    detector = fitted(normalise="validation")
    held_out_like = detector.score_variants(detector.score_components(discs(300, 9)))["GF"]
    assert abs(held_out_like.mean()) < 1.5
    # A quarter of 40 held-out images tells the mean of the others to within a few tenths.
    assert abs(detector.calibration_scores_.mean()) < 1


def test_the_peak_of_the_anomaly_map_lies_in_the_planted_square() -> None:
    heat = fitted().anomaly_map(discs(100, 2, planted=True))
    assert heat.shape == (100, 16, 16)
    assert (heat >= 0).all()
    peaks = np.array([np.unravel_index(h.argmax(), h.shape) for h in heat])
    inside = ((peaks >= [1, 11]) & (peaks < [5, 15])).all(1)
    # The square covers 16 of 256 pixels: by chance 6% of the peaks would lie in it.
    assert inside.mean() > 0.9


def test_reconstructions_are_images() -> None:
    images = discs(7, 5)
    made = fitted().reconstruct(images)
    assert made.shape == (7, 16, 16, 1)
    assert made.dtype == np.float32
    assert 0 <= made.min() <= made.max() <= 1


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("width", 0, "a number above 0"),
        ("batch_size", 1, "a whole number of at least 2"),
        ("epochs", 0, "a whole number of at least 1"),
        ("lam", 1.5, "a number of at least 0 and at most 1"),
        ("negatives", "none", "one of 'batch', 'self', 'all'"),
        ("lr", float("nan"), "a number above 0"),
        ("random_state", None, "a whole number of at least 0"),
        ("dropout", True, "a number of at least 0 and below 1"),
        ("n_latents", 2.5, "a whole number of at least 1"),
    ],
)
def test_parameters_out_of_range_are_named(name: str, value: Any, words: str) -> None:
    with pytest.raises(InputError, match=f"'{name}' parameter of ADCGAN must be {words}"):
        ADCGAN(**{name: value}).fit(discs(10, 0))


def test_defaults_are_the_papers() -> None:
    p = ADCGAN().get_params()
    assert (p["alpha"], p["beta"], p["lam"], p["rho"]) == (0.3, 0.3, 0.1, 0.5)
    assert (p["warmup_epochs"], p["epochs"], p["batch_size"]) == (5, 15, 32)
    assert (p["lr"], p["lr_autoencoder"], p["validation_fraction"]) == (3e-4, 2e-4, 0.1)
    assert (p["width"], p["negatives"], p["latent"]) == (1.0, "batch", "pair")


def test_colour_images_and_lists_of_pictures() -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)) for _ in range(12)
    ]
    detector = ADCGAN(**{**QUICK, "epochs": 1, "image_size": 16, "fpr": 0.5}).fit(pictures)
    assert detector.image_shape_ == (3, 16, 16)
    assert detector.decision_function(pictures).shape == (12,)
    assert detector.reconstruct(pictures[:2]).shape == (2, 16, 16, 3)


def test_score_map_and_reconstruction_of_a_batch_take_one_pass_through_g_and_the_two_of_e() -> None:
    detector = fitted()
    model = detector.model_
    assert isinstance(model, ADCGANModel)
    calls: dict[str, int] = {"encoder": 0, "generator": 0}

    def counting(name: str) -> Any:
        def count(*_: Any) -> None:
            calls[name] += 1

        return model.get_submodule(name).register_forward_hook(count)

    hooks = [counting(name) for name in calls]
    try:
        (scored,) = detector.passes(discs(20, 1)[:, None])
        assert scored.anomaly_map is not None
        assert scored.reconstruction is not None
        # E(x), G(E(x)) and E(G(E(x))) are what Eq. 4 and 5 are made of.
        assert calls == {"encoder": 2, "generator": 1}
        assert detector.assess(discs(20, 1), maps=True).maps is not None
        assert calls == {"encoder": 4, "generator": 2}
    finally:
        for hook in hooks:
            hook.remove()
