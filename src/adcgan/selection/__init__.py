"""Which detector for these images: candidates learn from normal images and are compared.

There are few or no anomalies to choose by, so candidates are judged mostly on anomalies made from
held-out normal images.
"""

from __future__ import annotations

from adcgan.selection.candidates import candidates
from adcgan.selection.comparing import compare
from adcgan.selection.comparison import Comparison

__all__ = ["Comparison", "candidates", "compare"]
