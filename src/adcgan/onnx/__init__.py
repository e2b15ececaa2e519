"""Detectors as files: one .onnx file, what it says of itself, and what scores with it.

`OnnxScorer` needs neither torch nor what writes files, so `export` is imported by itself.
"""

from __future__ import annotations

from adcgan.onnx.scorer import OnnxScorer

__all__ = ["OnnxScorer"]
