"""The graph: uint8 images in; score, components, anomaly map and reconstruction out."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adcgan.detectors import Detector
from adcgan.scoring.onnx_file import INPUT, MAP, RECONSTRUCTION, SCORE, Description

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

# ONNX Runtime 1.14 and later can read it.
OPSET = 18
# What the first dimension is called.
_BATCH = "n"


class Graph(nn.Module):
    """A detector's whole computation on images as they come.

    The score is computed here too, in float64 as the detector does, so that the file alone gives
    scores to whatever runs it.
    """

    weights: Tensor

    def __init__(self, detector: Detector, description: Description) -> None:
        super().__init__()
        self.detector = detector
        # Registered, so that the weights go into the file once each, by name.
        self.networks = detector.networks_
        by_name = description.score.weights
        weights = [by_name[name] for name in description.components]
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float64))
        self.bias = description.score.bias

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return score, components, anomaly map and reconstruction of images (n, H, W, C)."""
        x = images.permute(0, 3, 1, 2).to(torch.float32) / 255
        components = tuple(self.detector._component_batch(x).values())
        score = torch.stack(components, 1).double() @ self.weights + self.bias
        # What these have in common is merged later.
        made = self.detector._reconstruct_batch(x).permute(0, 2, 3, 1)
        return score, *components, self.detector._map_batch(x), made


def to_onnx(detector: Detector, description: Description) -> bytes:
    """Return the .onnx file of a detector on the CPU, not sealed yet.

    Parameters
    ----------
    detector : Detector
        Fitted, without parametrized weights, in evaluation mode.
    description : Description
        Its metadata.
    """
    import onnx

    channels, height, width = description.image_shape
    example = torch.zeros((2, height, width, channels), dtype=torch.uint8)
    shapes = {
        INPUT: [height, width, channels],
        SCORE: [],
        **{name: [] for name in description.components},
        MAP: [height, width],
        RECONSTRUCTION: [height, width, channels],
    }
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter's remarks: that sizes become constants, which those of images are, and that
        # there is another exporter, which takes ten times as long and fails in torch 2.6.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Graph(detector, description).eval(),
            (example,),
            buffer,  # type: ignore[arg-type]  # only the other exporter writes files alone
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[name for name in shapes if name != INPUT],
            dynamic_axes={name: {0: _BATCH} for name in shapes},
        )
    model = onnx.load_model_from_string(buffer.getvalue())
    _merge_equal_nodes(model.graph)
    _tidy(model.graph, shapes)
    onnx.helper.set_model_props(model, description.to_metadata())
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _merge_equal_nodes(graph: GraphProto) -> None:
    """Compute once what is written more than once: score, map and reconstruction share networks.

    Equal nodes have the same operator, inputs and attributes; none of ours is random. ONNX Runtime
    merges such nodes too, but not those that reach their weights through identities, as here.
    """
    outputs = {value.name for value in graph.output}
    instead: dict[str, str] = {}
    first: dict[tuple[object, ...], NodeProto] = {}
    kept: list[NodeProto] = []
    for node in graph.node:
        _rename_inputs(node, instead)
        if outputs & set(node.output):
            kept.append(node)
        elif node.op_type == "Identity":
            instead[node.output[0]] = node.input[0]
        else:
            attributes = sorted(attribute.SerializeToString() for attribute in node.attribute)
            equal = first.setdefault((node.op_type, *node.input, None, *attributes), node)
            if equal is node:
                kept.append(node)
            instead.update(zip(node.output, equal.output, strict=True))
    copies = [type(node).FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)


def _rename_inputs(node: NodeProto, instead: dict[str, str]) -> None:
    """Take other names for inputs, those of graphs inside the node included."""
    for position, name in enumerate(node.input):
        node.input[position] = instead.get(name, name)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            _rename_inputs(inner, instead)


def _tidy(graph: GraphProto, shapes: dict[str, list[int]]) -> None:
    """Write out the shapes that tracing left open, and take out what it notes of the source."""
    graph.name = "adcgan"
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*graph.input, *graph.output):
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        shape.dim.add(dim_param=_BATCH)
        for side in shapes[value.name]:
            shape.dim.add(dim_value=side)
