"""How long a system trains."""

from __future__ import annotations


def step_count(n_train: int, batch_size: int, epochs: int, min_steps: int) -> int:
    """Return the steps of `epochs` passes over `n_train` images, but at least `min_steps`."""
    return max(epochs * (n_train // min(batch_size, n_train)), min_steps)
