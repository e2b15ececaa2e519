from __future__ import annotations

import pytest
import torch

from adcgan.detectors import ADGAN, AEGAN, ALAD, EGBAD, AnoGAN, Detector, RobustAutoencoder
from adcgan.detectors.baselines.stacks import Down, Up, channels_for, halvings, signed, unsigned

SIZES = [16, 17, 28, 32, 45, 64, 100, 256]


@pytest.mark.parametrize(
    ("size", "expected"), [(16, 3), (28, 3), (32, 3), (63, 3), (64, 4), (256, 6)]
)
def test_published_networks_keep_three_halvings_until_the_side_doubles(size, expected):
    assert halvings(size) == expected


def test_each_doubling_adds_a_layer_of_half_the_channels_next_to_the_image():
    assert channels_for(32, (128, 256, 512), 1.0) == [128, 256, 512]
    assert channels_for(128, (128, 256, 512), 1.0) == [64, 64, 128, 256, 512]
    assert channels_for(32, (128, 256, 512), 0.25) == [32, 64, 128]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel", [3, 4, 5])
def test_down_knows_the_size_of_what_it_makes(size, kernel):
    down = Down(1, size, [4, 4, 4], kernel=kernel)
    assert down(torch.rand(2, 1, size, size)).shape == (2, down.features)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel", [3, 4])
def test_up_makes_images_of_the_size_asked_for(size, kernel):
    hidden = channels_for(size, (4, 4, 4), 1.0)
    made = Up(3, size, 5, hidden, kernel=kernel)(torch.randn(2, 5))
    assert made.shape == (2, 3, size, size)
    assert made.abs().max() <= 1


def test_signed_and_unsigned_undo_one_another():
    x = torch.rand(2, 1, 4, 4)
    torch.testing.assert_close(unsigned(signed(x)), x)
    assert signed(torch.tensor([0.0, 1.0])).tolist() == [-1, 1]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("system", [ADGAN, AEGAN, ALAD, AnoGAN, EGBAD, RobustAutoencoder])
def test_every_system_scores_images_of_every_size(system: type[Detector], channels, size):
    options = {"search_steps": 1} if "search_steps" in system().get_params() else {}
    model = system(width=0.02, device="cpu", **options).make_model((channels, size, size)).eval()
    with torch.no_grad():
        found = model(torch.rand(1, channels, size, size))
    assert all(part.shape == (1,) and part.isfinite().all() for part in found.components.values())
    assert found.reconstruction.shape == (1, channels, size, size)
    assert found.anomaly_map.shape == (1, size, size)


def published_parameters(system: type[Detector], network: str, size: int = 32) -> dict[str, int]:
    network_ = system().make_model((3, size, size)).get_submodule(network)
    shapes = [p.shape for p in network_.parameters() if p.dim() == 4]
    return {"layers": len(shapes), "widest": max(max(shape[:2]) for shape in shapes)}


def test_full_width_networks_have_the_published_layers_at_32_px():
    assert published_parameters(ALAD, "generator") == {"layers": 4, "widest": 512}
    assert published_parameters(AEGAN, "encoder") == {"layers": 4, "widest": 512}
    assert published_parameters(AEGAN, "critic") == {"layers": 3, "widest": 512}
    assert published_parameters(ADGAN, "critic") == {"layers": 3, "widest": 256}


def test_aegan_generator_has_the_published_kernels_at_32_px():
    generator = AEGAN(width=0.1).make_model((3, 32, 32)).generator
    kernels = [p.shape[-1] for p in generator.parameters() if p.dim() == 4]
    # The first, published as 4×4 with padding 1 on a 1×1 map, reaches its inner 2×2 alone.
    assert kernels == [2, 4, 5, 4]
