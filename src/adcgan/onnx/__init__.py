"""Detectors as .onnx files: writing them, their metadata, and scoring with them.

`OnnxScorer` needs neither torch nor onnx, so `export` is imported separately.
"""

from __future__ import annotations

from adcgan.onnx.scorer import OnnxScorer

__all__ = ["OnnxScorer"]
