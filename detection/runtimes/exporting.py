"""A network, from uint8 pixels to raw outputs, in the formats of other libraries."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from divdet.engine.errors import UserError

if TYPE_CHECKING:
    from detection.preprocess import FromPixels


def to_onnx(pixels: FromPixels) -> bytes:
    """Exports to ONNX for any batch size: ``images`` -> ``deltas``, ``logits``."""
    library("onnx", "onnxruntime")
    library("onnxscript", "onnxruntime")
    names = {"input_names": ["images"], "output_names": ["deltas", "logits"]}
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    with exporting("--runtime onnxruntime"):
        example = (example_of(pixels),)
        program = torch.onnx.export(pixels, example, dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
        return program.model_proto.SerializeToString()


def to_openvino(pixels: FromPixels) -> Any:
    """Converts to an OpenVINO model for any batch size."""
    openvino = library("openvino", "openvino")
    example = example_of(pixels)
    shape = openvino.PartialShape([-1, *example.shape[1:]])
    with exporting("--runtime openvino"):
        return openvino.convert_model(pixels, example_input=example, input=[shape])


def library(name: str, extra: str, option: str = "") -> Any:
    """Imports a package of one of divdet's extras, for ``option``; raises UserError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{option or f'--runtime {extra}'} needs {name}: pip install 'divdet[{extra}]'") from error


def example_of(pixels: FromPixels) -> Tensor:
    """Images to export a network with: two, since exporters make a batch size of 1 a constant."""
    side = pixels.network.input.size
    return torch.zeros(2, side, side, 3, dtype=torch.uint8)


@contextmanager
def exporting(option: str, instead: str = "--runtime torch") -> Iterator[None]:
    """Turns an exporter's errors into a UserError that names the ``option`` and another one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporters warn about their own code
            yield
    except UserError:
        raise
    except Exception as error:  # the exporters do not document their exceptions
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{option} cannot take this network ({type(error).__name__}: {reason}); use {instead}"
        ) from error
