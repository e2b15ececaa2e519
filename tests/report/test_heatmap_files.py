from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from adcgan.data.imageset import ImageSet
from adcgan.errors import InputError
from adcgan.progress import silent
from adcgan.report import heatmap_files, write_heatmaps


def image_set(names):
    n = len(names)
    images = np.full((n, 1, 16, 16), 60, np.uint8)
    images[:, 0, 0, 0] = np.arange(n)
    return ImageSet(images=images, names=names, positions=np.arange(n))


def picture(path):
    with Image.open(path) as image:
        return np.asarray(image)


def maps(n):
    """Return maps as hot as the image's number."""
    return np.broadcast_to(np.arange(n, dtype=np.float32)[:, None, None], (n, 16, 16))


def test_each_image_has_a_picture_at_its_own_path_and_no_scrap(tmp_path):
    names = ["a.png", "sub/a.png", "sub/b.jpg"]
    write_heatmaps(tmp_path, image_set(names), maps(3), np.arange(3.0), silent)
    found = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert found == ["a.png.png", "sub/a.png.png", "sub/b.jpg.png"]
    assert picture(tmp_path / "a.png.png").shape == (256, 256, 3)


def test_pictures_share_one_scale(tmp_path):
    names = [f"{i}.png" for i in range(3)]
    hottest = write_heatmaps(tmp_path, image_set(names), maps(3), np.arange(3.0), silent)
    assert hottest == pytest.approx(2)
    cold, warm, hot = (picture(tmp_path / f"{name}.png")[-1, -1].astype(int) for name in names)
    assert cold.tolist() == [60, 60, 60]
    assert cold.sum() < warm.sum() < hot.sum()


def test_the_scale_comes_from_few_images_the_extremes_among_them(tmp_path, monkeypatch):
    monkeypatch.setattr(heatmap_files, "_SCALE_IMAGES", 2)
    names = [f"{i}.png" for i in range(11)]
    hottest = write_heatmaps(tmp_path, image_set(names), maps(11), np.arange(11.0), silent)
    assert len(list(tmp_path.iterdir())) == 11
    assert hottest == pytest.approx(10)


@pytest.mark.parametrize("name", ["../escaped.png", "/absolute.png"])
def test_a_name_cannot_lead_out_of_the_folder(tmp_path, name):
    with pytest.raises(InputError, match="inside"):
        write_heatmaps(tmp_path / "maps", image_set([name]), maps(1), np.zeros(1), silent)
    assert list(tmp_path.iterdir()) == []
