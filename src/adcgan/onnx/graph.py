"""The graph: uint8 images in; score, components, anomaly map and reconstruction out."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adcgan.detectors import Model
from adcgan.onnx.metadata import INPUT, MAP, RECONSTRUCTION, SCORE, Description
from adcgan.scoring import Scored

if TYPE_CHECKING:
    from onnx import GraphProto

# ONNX Runtime 1.14 and later can read it.
OPSET = 18
# What the first dimension is called.
_BATCH = "n"
_SIDES = ("height", "width")


class Graph(nn.Module):
    """A model's pass over images as they come, and the score of its components.

    It computes the score too, in float64 like the detector, so that the file alone gives scores
    in any runtime.
    """

    weights: Tensor

    def __init__(self, model: Model, description: Description) -> None:
        super().__init__()
        self.model = model
        by_name = description.score.weights
        weights = [by_name[name] for name in description.components]
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float64))
        self.bias = description.score.bias

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return score, components, anomaly map and reconstruction of images (n, H, W, C)."""
        found: Scored[Tensor] = self.model(images.permute(0, 3, 1, 2).to(torch.float32) / 255)
        components = tuple(found.components.values())
        score = torch.stack(components, 1).double() @ self.weights + self.bias
        made = found.reconstruction
        pictures = (found.anomaly_map, None if made is None else made.permute(0, 2, 3, 1))
        return score, *components, *(picture for picture in pictures if picture is not None)


def to_onnx(model: Model, description: Description) -> bytes:
    """Return the .onnx file of a model on the CPU, not sealed yet.

    Parameters
    ----------
    model : Model
        Fitted, without parametrized weights, in evaluation mode.
    description : Description
        Its metadata.
    """
    import onnx

    channels, height, width = description.image_shape
    example = torch.zeros((2, height, width, channels), dtype=torch.uint8)
    buffer: Any = io.BytesIO()  # only the other exporter writes files alone
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter's remarks: that sizes become constants, which those of images are, and that
        # there is another exporter, which takes ten times as long and fails in torch 2.6.
        warnings.simplefilter("ignore")
        found: Scored[Tensor] = model(example.permute(0, 3, 1, 2) / 255)
        sides: list[int | str] = [height, width]
        if description.resize == "keep":
            sides = list(_SIDES)
        shapes: dict[str, list[int | str]] = {INPUT: [*sides, channels], SCORE: []}
        shapes |= {name: [] for name in description.components}
        shapes |= {} if found.anomaly_map is None else {MAP: sides}
        shapes |= {} if found.reconstruction is None else {RECONSTRUCTION: shapes[INPUT]}
        torch.onnx.export(
            Graph(model, description).eval(),
            (example,),
            buffer,
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[name for name in shapes if name != INPUT],
            dynamic_axes={name: _open_axes(shape) for name, shape in shapes.items()},
        )
    file = onnx.load_model_from_string(buffer.getvalue())
    _tidy(file.graph, shapes)
    onnx.helper.set_model_props(file, description.to_metadata())
    content: bytes = file.SerializeToString(deterministic=True)
    return content


def _open_axes(shape: list[int | str]) -> dict[int, str]:
    """Return the axes of a tensor that are of any length: the batch, and sides with a name."""
    named = {i + 1: side for i, side in enumerate(shape) if isinstance(side, str)}
    return {0: _BATCH} | named


def _tidy(graph: GraphProto, shapes: dict[str, list[int | str]]) -> None:
    """Write out the shapes that tracing left open, and remove its notes on the source."""
    graph.name = "adcgan"
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*graph.input, *graph.output):
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        shape.dim.add(dim_param=_BATCH)
        for side in shapes[value.name]:
            shape.dim.add(**{"dim_param" if isinstance(side, str) else "dim_value": side})
