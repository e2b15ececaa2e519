"""One ONNX file from a fitted detector, checked against it; scored by `adcgan.OnnxScorer`."""

from __future__ import annotations

from adcgan.export.file import Export, export_onnx

__all__ = ["Export", "export_onnx"]
