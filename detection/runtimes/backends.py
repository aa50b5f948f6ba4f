"""What runs a detector's network: PyTorch, its compiler, ONNX Runtime or OpenVINO, each from uint8 images on.

Each runs the normalization as an operation of its own. Folded into the first convolution it would be wrong at the
borders, where that convolution pads the normalized image with zeros.
"""

from __future__ import annotations

from typing import Any

import torch

from detection.models.head import DividedDetector
from detection.prediction_settings import RuntimeSettings
from detection.preprocess import FromPixels, Network
from detection.runtimes.exporting import to_onnx, to_openvino
from detection.runtimes.fuse_conv_bn import fuse_conv_bn
from detection.runtimes.running import run_onnx, run_openvino
from divdet.engine.concurrency import concurrent
from divdet.engine.devices import check_compiler

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def create_network(
    model: DividedDetector, settings: RuntimeSettings, device: torch.device, calibration: str | None = None
) -> Network:
    """Prepares a copy of a trained network to be run, with batch norms fused into convolutions.

    Args:
        model: on ``device``, in evaluation mode. It is not changed, and later changes of it do not reach the copy.
        settings: runtime, precision, concurrency.
        device: where to run.
        calibration: folder of images to calibrate int8 with.

    Raises:
        UserError: if the runtime is not installed, lacks a compiler, or cannot take this network.
    """
    dtype = _DTYPES.get(settings.precision, torch.float32)
    network = fuse_conv_bn(model, (1, 3, model.input.size, model.input.size))
    network = network.to(dtype, memory_format=torch.channels_last)
    pixels = FromPixels(network, dtype).eval()
    match settings.runtime:
        case "torch":
            network.concurrent = concurrent(network.branches(), settings.concurrency, settings.devices, device)
            return pixels
        case "compile":
            return _compile(pixels, device)
        case "onnxruntime":
            return run_onnx(to_onnx(pixels))
        case "openvino" if settings.precision == "int8":
            from detection.runtimes.int8 import quantize

            return run_openvino(quantize(pixels, calibration))
        case "openvino":
            return run_openvino(to_openvino(pixels))
    raise ValueError(settings.runtime)


def _compile(pixels: FromPixels, device: torch.device) -> Network:
    """Compiles at the first call, and again for every batch size; on CUDA the network becomes a CUDA graph."""
    check_compiler("--runtime compile")
    # Freezing makes the weights constants in the layout that the CPU's matrix library wants.
    how: dict[str, Any] = {"options": {"freezing": True}} if device.type == "cpu" else {"mode": "reduce-overhead"}
    return torch.compile(pixels, dynamic=False, **how)
