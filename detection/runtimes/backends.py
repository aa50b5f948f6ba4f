"""What runs a detector's network: PyTorch, its compiler, ONNX Runtime or OpenVINO, each from uint8 images on.

Each runs the normalization as an operation of its own. Folded into the first convolution it would be wrong at the
borders, where that convolution pads the normalized image with zeros.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from detection.models.head import DividedDetector
from detection.prediction_settings import RuntimeSettings
from detection.preprocess import FromPixels, Network
from detection.runtimes.exporting import library, to_onnx, to_openvino
from detection.runtimes.fuse_conv_bn import fuse_conv_bn
from divdet.engine.concurrency import concurrent
from divdet.engine.devices import check_compiler, resolve_device
from divdet.engine.errors import UserError
from divdet.engine.signal_stack import kept_signal_stack

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_ON_CPU = ("onnxruntime", "openvino")


def runtime_device(settings: RuntimeSettings, name: str) -> torch.device:
    """Resolves ``--device name`` for a runtime; auto is the CPU for those that run nowhere else."""
    device = resolve_device("cpu" if settings.runtime in _ON_CPU and name == "auto" else name)
    if settings.runtime in _ON_CPU and device.type != "cpu":
        raise UserError(f"--runtime {settings.runtime} runs on the CPU: use --device cpu, or --runtime compile")
    if settings.precision == "fp16" and device.type == "cpu":
        raise UserError("--precision fp16 is for a GPU: use bf16 or float32 on a CPU")
    return device


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
            return _run_onnx(pixels)
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


def _run_onnx(pixels: FromPixels) -> Network:
    return run_onnx(to_onnx(pixels))


def run_onnx(model: bytes) -> Network:
    """Runs a serialized ONNX model, whose input is ``images``, on as many threads as torch has."""
    onnxruntime = library("onnxruntime", "onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Otherwise its threads spin while they wait for the next image, on the cores that post-processing needs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(map(torch.from_numpy, session.run(None, {"images": images.numpy()})))

    return run


def run_openvino(graph: Any) -> Network:
    """Compiles an OpenVINO model for the CPU: on as many threads as torch has, in float32 where it is not in int8."""
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    options["INFERENCE_NUM_THREADS"] = torch.get_num_threads()
    openvino = library("openvino", "openvino")
    with kept_signal_stack():
        compiled = openvino.compile_model(graph, "CPU", options)
    lock = threading.Lock()  # a second call while the first one runs would fail

    def run(images: Tensor) -> tuple[Tensor, ...]:
        with lock:
            found = compiled(images.numpy(), share_inputs=True)
        return tuple(torch.from_numpy(found[number]) for number in range(len(found)))

    return run
