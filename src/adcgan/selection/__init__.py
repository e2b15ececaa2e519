"""Which detector for these images: candidates learn from normal images and are compared.

There are few or no anomalies to choose by, so that most of what they are judged on is made of
held-out normal images.
"""

from __future__ import annotations

from adcgan.selection.candidates import candidates
from adcgan.selection.comparing import compare
from adcgan.selection.comparison import Comparison

__all__ = ["Comparison", "candidates", "compare"]
