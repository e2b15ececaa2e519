"""Anomalies made of normal images: what they change, and that a seed decides them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from adcgan.data.planted import CONTENTS, DEFECTS, SEEN, other_content, planted


def photograph() -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    rows, columns = np.indices((160, 200))
    plane = 120 + 40 * np.sin(rows / 15) + 30 * np.cos(columns / 11)
    pixels = plane[..., None] + rng.normal(0, 5, (160, 200, 3))
    return np.asarray(pixels.clip(0, 255), dtype=np.uint8)


@pytest.mark.parametrize("kind", DEFECTS)
def test_a_defect_changes_what_its_mask_marks_and_no_more(kind: str) -> None:
    image = photograph()
    before = image.copy()
    damaged, where = planted(image, kind, np.random.default_rng(1))
    assert np.array_equal(image, before)
    assert damaged.shape == image.shape
    assert 0 < where.mean() < 0.2
    far = np.abs(damaged.astype(int) - image).max(axis=2)
    assert far[~where].max() < SEEN
    assert far[where].min() >= SEEN


@pytest.mark.parametrize("kind", DEFECTS)
def test_defects_grow_with_their_size(kind: str) -> None:
    image = photograph()
    areas = [
        sum(planted(image, kind, np.random.default_rng(seed), size)[1].sum() for seed in range(20))
        for size in (0.5, 1, 2)
    ]
    assert areas[0] < areas[1] < areas[2]


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("shape", [(28, 28, 1), (60, 90, 3)])
def test_other_contents_are_as_large_and_not_the_same(
    kind: str, shape: tuple[int, int, int]
) -> None:
    image = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    made = other_content(image, kind, np.random.default_rng(1))
    assert made.shape == shape
    assert made.dtype == np.uint8
    assert (made != image).mean() > 0.5


@pytest.mark.parametrize("kind", [*DEFECTS, *CONTENTS])
def test_a_seed_decides_everything(kind: str) -> None:
    image = photograph()[:, :160]

    def made(seed: int) -> NDArray[np.uint8]:
        rng = np.random.default_rng(seed)
        return planted(image, kind, rng)[0] if kind in DEFECTS else other_content(image, kind, rng)

    assert np.array_equal(made(3), made(3))
    assert any(not np.array_equal(made(3), made(seed)) for seed in range(4, 20))
