"""Writes a whole ensemble as one file of another library: ONNX, OpenVINO or torch.export."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detection.prediction_settings import PostprocessSettings
from detection.preprocess import FromPixels
from detection.runtimes.exporting import example_of, exporting, library
from detection.runtimes.sealed import onnx_entry, sealed_onnx, sealed_xml
from detection.runtimes.whole import Suppression, WholeDetector
from divdet.engine.errors import UserError
from divdet.engine.files import write_atomically

_OUTPUTS = ["boxes", "scores", "labels"]
_OPSET = 20
_ONNX_LIMIT = 2**31 - 2**20  # protobuf's, and room for what is said of the network


def write_onnx(pixels: FromPixels, settings: PostprocessSettings, known: dict[str, Any], path: Path) -> None:
    """Writes ``images`` -> ``boxes``, ``scores``, ``labels`` (see ``Suppression``), for any batch size.

    Args:
        pixels: the network.
        settings: with ``max_per_member``.
        known: what to say of the network, in the file's metadata.
        path: the file to write.
    """
    model = _to_onnx(WholeDetector(pixels, settings).eval(), (example_of(pixels),), ["images"])
    if len(model) > _ONNX_LIMIT:
        raise UserError(f"{path}: the network has more than the 2 GB that an ONNX file holds; use --format openvino")
    content = sealed_onnx(model + onnx_entry("divdet", json.dumps(known)))
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def write_openvino(
    graph: Any, pixels: FromPixels, settings: PostprocessSettings, known: dict[str, Any], path: Path
) -> None:
    """Writes the same as OpenVINO's .xml, and the weights beside it as .bin.

    Args:
        graph: the network alone, as ``to_openvino`` or ``quantize`` makes it.
        pixels: the same network, for the decoding of its outputs.
        settings, known, path: as of ``write_onnx``.
    """
    openvino = library("openvino", "openvino", "--format openvino")
    with torch.no_grad():
        raw = [torch.zeros_like(output) for output in pixels(example_of(pixels))]
    suppression = Suppression(pixels.network, settings).eval()
    tail = openvino.Core().read_model(_to_onnx(suppression, tuple(raw), ["regressions", "logits"], batch_at=1))
    for parameter, result in zip(tail.get_parameters(), graph.get_results(), strict=True):
        for reader in parameter.output(0).get_target_inputs():
            reader.replace_source_output(result.input_value(0))
    graph.get_parameters()[0].output(0).set_names({"images"})
    whole = openvino.Model(tail.get_results(), graph.get_parameters(), "divdet")
    whole.set_rt_info(json.dumps(known), ["divdet"])
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(whole, Path(folder) / "whole.xml", compress_to_fp16=False)
        xml, weights = ((Path(folder) / f"whole.{ending}").read_bytes() for ending in ("xml", "bin"))
    write_atomically(path.with_suffix(".bin"), lambda temporary: temporary.write_bytes(weights))
    write_atomically(path, lambda temporary: temporary.write_bytes(sealed_xml(xml, weights)))


def write_torch(pixels: FromPixels, settings: PostprocessSettings, known: dict[str, Any], path: Path) -> None:
    """Writes the same by ``torch.export.save``: a zip archive, whose records have checksums. Arguments as above.

    Nothing in it needs to be unpickled: example inputs are left out, and what torch would say of the nodes' origin.
    """
    with exporting("--format torch", "--format onnx"), torch.no_grad():
        whole = WholeDetector(pixels, settings).eval()
        shapes = ({0: torch.export.Dim("images", min=1)},)
        program = torch.export.export(whole, (example_of(pixels),), dynamic_shapes=shapes)
        for node in program.graph.nodes:
            node.meta = {key: value for key, value in node.meta.items() if key in ("val", "tensor_meta")}
        program.example_inputs = None

        def write(temporary: Path) -> None:
            with open(temporary, "wb") as file:
                torch.export.save(program, file, extra_files={"divdet.json": json.dumps(known)})

        write_atomically(path, write)


def _to_onnx(module: torch.nn.Module, example: tuple[Tensor, ...], names: list[str], batch_at: int = 0) -> bytes:
    for name in ("onnx", "onnxscript"):
        library(name, "onnxruntime", "--format onnx")
    shapes = ({batch_at: "N"},) * len(example)
    with exporting("--format onnx", "--format torch"), torch.no_grad():
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=names,
            output_names=_OUTPUTS,
            opset_version=_OPSET,
            custom_translation_table={torch.ops.divdet.kept_boxes.default: _kept_in_onnx},
            verbose=False,
        )
        return program.model_proto.SerializeToString()


def _kept_in_onnx(boxes: Any, scores: Any, iou: float, threshold: float) -> Any:
    """``kept_boxes`` in ONNX's operators."""
    from onnxscript import opset20 as op

    count = op.Slice(op.Shape(scores), op.Constant(value_ints=[1]), op.Constant(value_ints=[2]))
    limits = count, op.Constant(value_floats=[iou]), op.Constant(value_floats=[threshold])
    rows = op.NonMaxSuppression(boxes, op.Unsqueeze(scores, op.Constant(value_ints=[1])), *limits)
    rows = op.Gather(rows, op.Constant(value_ints=[0, 2]), axis=1)  # group and box; there is one class
    found = op.Slice(op.Shape(rows), op.Constant(value_ints=[0]), op.Constant(value_ints=[1]))
    ones = op.Expand(op.Constant(value_float=1.0), found)
    return op.ScatterND(op.Mul(scores, op.Constant(value_float=0.0)), rows, ones)
