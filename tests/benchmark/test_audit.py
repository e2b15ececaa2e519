from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from adcgan.benchmark import auroc
from adcgan.benchmark.audit import _fresh, audit, audited_images, released_assessment
from adcgan.cli import app
from adcgan.data import load_named
from adcgan.data.prepare import to_floats
from adcgan.detectors import ADCGAN, DETECTORS
from adcgan.errors import InputError
from adcgan.progress import silent

pytestmark = pytest.mark.filterwarnings("ignore:A false-positive budget of")


@pytest.fixture(scope="module")
def digits():
    return load_named("digits", "train"), load_named("digits", "test")


def trained(digits, latent):
    zeros = digits[0].select(np.flatnonzero(digits[0].labels == 0)[:40])
    detector = ADCGAN(
        width=0.125, warmup_epochs=1, epochs=1, min_steps=0, latent=latent, device="cpu"
    )
    return detector.fit(zeros, progress=silent)


@pytest.fixture(scope="module", params=["single", "pair"])
def detector(request, digits):
    return trained(digits, request.param)


@pytest.fixture(scope="module")
def images(digits):
    normal, anomalous = audited_images(digits[1], None, "one-vs-all", 0)
    return normal.select(slice(12)), anomalous.select(slice(30))


def slow_reference(detector, images, z):
    """The released components, one image at a time, in the words of the protocol."""
    encoder, generator = detector.model_.encoder, detector.model_.generator
    critic, judge = detector.model_.critic, detector.model_.latent_critic
    rows = []
    for i in range(len(images)):
        x = to_floats(torch.tensor(images.images[i : i + 1]))
        own_z = torch.from_numpy(z[i : i + 1])
        with torch.no_grad():
            e_x = encoder(x)
            x_hat = generator(e_x)
            e_x_hat = encoder(x_hat)
            # In the place of E(G(z)) stands E(G(E(x))).
            first, second = (e_x_hat, own_z), (e_x, e_x_hat)
            axis = 0 if detector.latent == "single" else 1
            p_first = judge(torch.cat(first, dim=axis)).sigmoid()
            p_second = judge(torch.cat(second, dim=axis)).sigmoid()
            rows.append(
                {
                    "discrimination": (critic(x).local - critic(x_hat).local).abs().mean(),
                    "residual": (x - x_hat).abs().mean(),
                    "encoded": (e_x - e_x_hat).abs().mean(),
                    "latent": (p_first - p_second).abs().mean(),
                }
            )
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def test_the_components_are_those_of_a_slow_reference(detector, images):
    normal, anomalous = images
    labels, components = released_assessment(detector, normal, anomalous, seed=7)
    assert labels.tolist() == [0] * 12 + [1] * 30
    z = _fresh(detector.model_, 12, np.random.SeedSequence(7, spawn_key=(0,))).numpy()
    on_normal = slow_reference(detector, normal, z)
    # All anomalies share the z of the last normal image.
    on_anomalous = slow_reference(detector, anomalous, np.repeat(z[-1:], 30, axis=0))
    for name, values in components.items():
        expected = np.concatenate([on_normal[name], on_anomalous[name]])
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)


def as_it_is(detector, images, z):
    """The score of the release's script, one image at a time, in its words."""
    model = detector.model_
    scores = []
    for i in range(len(images)):
        x = to_floats(torch.tensor(images.images[i : i + 1]))
        own_z = torch.from_numpy(z[i : i + 1])
        with torch.no_grad():
            e_x = model.encoder(x)
            g_z = model.generator(e_x)
            e_g_z = model.encoder(g_z)

            def answers(first, second):
                stacked = torch.cat([first, second], 0)
                return torch.nn.functional.leaky_relu(model.latent_critic(stacked), 0.2)

            d_z_random, d_z_learned = answers(e_g_z, own_z), answers(e_x, e_g_z)
            feature = torch.norm(d_z_random - d_z_learned, 1)
            latent = (e_x - e_g_z).abs().mean()
            residual = (x - g_z).abs().mean()
            local = (model.critic(x).local - model.critic(g_z).local).abs().mean()
        scores.append(float(0.9 * residual + 0.1 * local + 0.1 * latent + 0.9 * feature))
    return np.array(scores)


def test_the_releases_arithmetic_as_it_is_is_that_of_its_script(digits, images):
    detector = trained(digits, "single")
    result = audit(detector, *images, draws=3, seed=4, progress=silent)
    streams = np.random.SeedSequence(4).spawn(3)
    z_normal, _, shared = (
        _fresh(detector.model_, n, stream).numpy()
        for n, stream in zip((12, 30, 3), streams, strict=True)
    )
    normal = as_it_is(detector, images[0], z_normal)
    for i in range(3):
        anomalous = as_it_is(detector, images[1], np.repeat(shared[i : i + 1], 30, 0))
        expected = auroc([0] * 12 + [1] * 30, np.append(normal, anomalous))
        assert result.as_is.released[i] == pytest.approx(expected, abs=1e-6)
    # Logits are not bounded as probabilities are, so one shared z weighs more.
    assert np.ptp(result.as_is.control) > np.ptp(result.paper.control)


def test_models_that_judge_pairs_have_no_such_arithmetic(digits, images):
    assert audit(trained(digits, "pair"), *images, draws=1, progress=silent).as_is is None


def test_the_draws_differ_and_are_the_same_for_the_same_seed(detector, images):
    first = audit(detector, *images, draws=8, seed=1, progress=silent)
    again = audit(detector, *images, draws=8, seed=1, progress=silent)
    other = audit(detector, *images, draws=8, seed=2, progress=silent)
    assert first.paper.released.tolist() == again.paper.released.tolist()
    assert first.paper.released.tolist() != other.paper.released.tolist()
    assert len(set(first.paper.released.tolist())) > 1
    assert (first.n_normal, first.n_anomalous) == (12, 30)


def test_the_honest_figure_is_that_of_the_models_own_score(detector, images):
    result = audit(detector, *images, draws=1, progress=silent)
    scores = np.concatenate([detector.decision_function(part) for part in images])
    assert result.honest == auroc([0] * 12 + [1] * 30, scores)
    other = audit(detector, *images, draws=1, seed=5, progress=silent)
    assert other.honest == result.honest
    # Another z for each image: of few images, one of these figures may come out the same.
    figures = [
        (one.paper.fresh, *one.paper.released, *one.paper.control) for one in (result, other)
    ]
    assert figures[0] != figures[1]


def test_alike_images_are_told_apart_by_the_leak_alone(digits, images):
    # Normal images against themselves: chance, unless the protocol knows the labels.
    detector = trained(digits, "single")
    result = audit(detector, images[0], images[0], draws=50, progress=silent)
    assert result.honest == pytest.approx(0.5)
    assert np.ptp(result.paper.released) > 0.05
    assert result.paper.control.tolist() == result.paper.released.tolist()
    other = audit(detector, *images, draws=50, progress=silent)
    assert other.paper.control.tolist() == result.paper.control.tolist()


def test_the_training_anomalies_join_only_when_asked(digits):
    train, test = digits
    normal, anomalous = audited_images(test, train, "all-vs-one", 3)
    assert len(normal) == np.sum(test.labels != 3)
    assert len(anomalous) == np.sum(test.labels == 3) + np.sum(train.labels == 3)
    assert len(audited_images(test, None, "all-vs-one", 3)[1]) == np.sum(test.labels == 3)


def test_other_systems_and_models_without_latent_critic_are_refused(digits, images):
    pixels = DETECTORS["pixel-pca"]().fit(digits[0].select(slice(40)))
    with pytest.raises(InputError, match=r"must be adcgan\. Got PixelPCA"):
        audit(pixels, *images)
    with pytest.raises(InputError, match="latent='none'"):
        released_assessment(trained(digits, "none"), *images, seed=0)


def test_no_draws_are_refused(detector, images):
    with pytest.raises(InputError, match=r"'draws' parameter must be at least 1\. Got 0"):
        audit(detector, *images, draws=0)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_writes_a_page_a_plot_and_the_figures(detector, tmp_path):
    model, out = tmp_path / "model", tmp_path / "audit"
    detector.save(model)
    arguments = ["audit", model, "digits", "--normal", "0", "--out", out, "--draws", "20"]
    result = run(*arguments, "--device", "cpu", "--json")
    assert result.exit_code == 0, result.output
    figures = json.loads((out / "audit.json").read_text())
    assert json.loads(result.stdout) == figures
    assert figures["warning"] == "leaks labels; for audit only"
    assert len(figures["paper"]["released"]["aurocs"]) == figures["draws"] == 20
    released = figures["paper"]["released"]
    assert released["minimum"] == min(released["aurocs"])
    assert (figures["as_is"] is None) == (detector.latent == "pair")
    page = (out / "audit.md").read_text()
    assert "Leaks labels; for audit only." in page
    assert f"AUROC {figures['honest']['auroc']:.4f}." in page
    assert ("the release's arithmetic as it is" in page) == (detector.latent == "single")
    assert ("trained on pairs" in page) == (detector.latent == "pair")
    assert (out / "audit.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_wants_one_class_of_a_named_set(detector, tmp_path):
    model = tmp_path / "model"
    detector.save(model)
    result = run("audit", model, "photos", "--normal", "0", "--out", tmp_path / "a")
    assert result.exit_code == 2
    assert "DATASET must be one of mnist" in result.stderr
    result = run("audit", model, "digits", "--out", tmp_path / "a")
    assert result.exit_code == 2
    assert "Exactly one of 'normal' and 'anomalous'" in result.stderr
