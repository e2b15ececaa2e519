from __future__ import annotations

import subprocess
import sys
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adcgan.data.prepare import DeviceImages, copy_on, epoch_order, split_held_out

CPU = torch.device("cpu")


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def expected(images: NDArray[np.uint8], index: Any) -> NDArray[np.float32]:
    result: NDArray[np.float32] = images[index].astype(np.float32) / np.float32(255)
    return result


def test_batches_are_scaled_to_one() -> None:
    images = noise(10, 3, 16, 16)
    index = np.array([3, 3, 9, 0])
    batch = DeviceImages(images, CPU).gather(index)
    assert batch.dtype == torch.float32
    np.testing.assert_array_equal(batch.numpy(), expected(images, index))


def test_index_may_be_a_tensor() -> None:
    images = noise(10, 1, 16, 16)
    batch = DeviceImages(images, CPU).gather(torch.tensor([2, 1]))
    np.testing.assert_array_equal(batch.numpy(), expected(images, [2, 1]))


def test_arrays_on_a_cpu_are_not_copied() -> None:
    images = noise(10, 1, 16, 16)
    held = DeviceImages(images, CPU)
    images[4] = 255
    assert held.gather(np.array([4])).min() == 1
    assert held.resident
    assert (len(held), held.shape) == (10, (1, 16, 16))


def test_channels_last_views_are_gathered_as_channels_first() -> None:
    images = noise(10, 16, 16, 3).transpose(0, 3, 1, 2)
    batch = DeviceImages(images, CPU).gather(np.array([5]))
    np.testing.assert_array_equal(batch.numpy(), expected(images, [5]))


def test_reversed_views_are_gathered() -> None:
    images = noise(10, 1, 16, 16)[::-1]
    batch = DeviceImages(images, CPU).gather(np.array([5]))
    np.testing.assert_array_equal(batch.numpy(), expected(images, [5]))


def test_batches_may_be_changed_without_changing_the_images() -> None:
    images = noise(4, 1, 16, 16)
    held = DeviceImages(images, CPU)
    before = images.copy()
    held.gather(np.arange(4)).zero_()
    np.testing.assert_array_equal(images, before)


def test_read_only_files_are_mapped_and_not_read_whole(tmp_path: Path) -> None:
    # In a process of its own: torch warns of read-only arrays once per process, and the memory a
    # process holds is its own.
    code = f"""
import resource, warnings
import numpy as np, torch
from adcgan.data.prepare import DeviceImages
warnings.simplefilter("error")
path = {str(tmp_path / "x")!r}
with open(path, "wb") as file:
    file.truncate(2 << 30)
images = np.memmap(path, np.uint8, "r", shape=(1 << 17, 1, 128, 128))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
held = DeviceImages(images, torch.device("cpu"))
del images
assert held.gather(np.array([0, 1 << 16])).sum() == 0
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_read_only_arrays_are_used_in_silence() -> None:
    images = noise(4, 1, 16, 16)
    images.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = DeviceImages(images, CPU).gather(np.array([1]))
    np.testing.assert_array_equal(batch.numpy(), expected(images, [1]))
    assert not images.flags.writeable


@pytest.mark.cuda
@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("layout", ["first", "last"])
def test_batches_are_the_same_on_a_gpu_with_and_without_room(
    budget: int | None, layout: str
) -> None:
    images = noise(100, 3, 32, 32)
    if layout == "last":
        images = noise(100, 32, 32, 3).transpose(0, 3, 1, 2)
    held = DeviceImages(images, torch.device("cuda"), budget)
    assert held.resident == (budget is None)
    order = epoch_order(100, 0, 0)
    batches = [held.gather(order[i : i + 10]) for i in range(0, 100, 10)]
    on_device = held.gather(torch.from_numpy(order).cuda())
    together = torch.cat(batches)
    assert together.device.type == "cuda"
    # CUDA may divide by multiplying with the inverse: a last-bit difference.
    np.testing.assert_allclose(together.cpu().numpy(), expected(images, order), atol=1e-7)
    assert torch.equal(together, on_device)


def test_one_array_is_on_a_device_once_while_it_is_in_use() -> None:
    elsewhere, images = torch.device("meta"), noise(10, 1, 16, 16)
    first, second = DeviceImages(images, elsewhere), DeviceImages(images, elsewhere)
    copy = copy_on(elsewhere, images)
    assert copy is not None
    assert first._images is second._images is copy.tensor
    # It stays where it is when there would be no room for another.
    assert DeviceImages(images, elsewhere, 0).resident
    assert not DeviceImages(images.copy(), elsewhere, 0).resident
    gone = weakref.ref(copy.tensor)
    del first, second, copy
    assert gone() is None


def test_epoch_order_is_a_permutation_by_seed_and_epoch() -> None:
    order = epoch_order(1000, 3, 5)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    np.testing.assert_array_equal(order, epoch_order(1000, 3, 5))
    others = [epoch_order(1000, 3, 6), epoch_order(1000, 4, 5), np.arange(1000)]
    assert all(order.tolist() != other.tolist() for other in others)


def test_epoch_order_does_not_touch_global_random_state() -> None:
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index,union-attr] # noqa: NPY002
    epoch_order(10, 0, 0)
    split_held_out(10, 0.1, 0)
    assert np.array_equal(before[0], np.random.get_state()[1])  # type: ignore[index] # noqa: NPY002
    assert torch.equal(before[1], torch.get_rng_state())


@pytest.mark.parametrize(
    ("n", "fraction", "count"),
    [(1000, 0.1, 100), (2, 0.1, 1), (2, 0.9, 1), (3, 0.999, 2), (5, 0.0, 1), (25, 0.1, 2)],
)
def test_held_out_images_are_a_seeded_share(n: int, fraction: float, count: int) -> None:
    train, held_out = split_held_out(n, fraction, 0)
    assert len(held_out) == count
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held_out])), np.arange(n))
    assert (np.diff(train) > 0).all()
    assert (np.diff(held_out) > 0).all()
    assert held_out.tolist() == split_held_out(n, fraction, 0)[1].tolist()


def test_other_seeds_hold_out_other_images() -> None:
    assert split_held_out(100, 0.1, 0)[1].tolist() != split_held_out(100, 0.1, 1)[1].tolist()


def test_importing_the_loaders_imports_neither_torch_nor_sklearn() -> None:
    code = """
import sys, adcgan.data
assert not {"torch", "sklearn", "datasets"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
