"""The length of training."""

from __future__ import annotations


def step_count(n_train: int, batch_size: int, epochs: int, min_steps: int) -> int:
    """Return the number of steps in `epochs` epochs of `n_train` images, at least `min_steps`."""
    return max(epochs * (n_train // min(batch_size, n_train)), min_steps)
