"""What runs a detector's network: PyTorch, its compiler, ONNX Runtime or OpenVINO, each from uint8 images on.

Normalisation is part of what they run, as an operation: folded into the first convolution it would be wrong at the
borders, where that convolution pads with the mean colour and not with black.
"""

from __future__ import annotations

import importlib
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from classification.backbones.resnet import DETECTION_INPUT
from detection.models.ssd import SSD
from detection.preprocess import Normalize
from detection.runtimes.fuse_conv_bn import fuse_conv_bn
from detection.settings import RuntimeSettings
from divdet.engine.concurrency import beside, concurrent
from divdet.engine.devices import check_compiler, resolve_device
from divdet.engine.errors import UserError
from divdet.engine.signal_stack import kept_signal_stack

# [N, 300, 300, 3] uint8 RGB on the detector's device -> what ``SSD.forward`` returns of it
Network = Callable[[Tensor], tuple[Tensor, Tensor]]

_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_ON_CPU = ("onnxruntime", "openvino")


class FromPixels(nn.Module):
    """``network`` behind the normalisation of its images, which reach it in ``dtype`` (None: torch's default one).

    It holds the network itself, not a copy: a network in training is evaluated as it is at that moment.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype or torch.get_default_dtype()
        self.normalize = Normalize().to(next(network.parameters()).device)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(beside(self.network.concurrent, images.device, self._prepared, images))

    def _prepared(self, images: Tensor) -> Tensor:
        return self.normalize(images).to(self.dtype)


def runtime_device(settings: RuntimeSettings, name: str) -> torch.device:
    """Where a runtime runs under ``--device name``: auto is the CPU for those that know no other.

    Raises:
        UserError: for a device that does not exist here, or on which the runtime does not run.
    """
    device = resolve_device("cpu" if settings.runtime in _ON_CPU and name == "auto" else name)
    if settings.runtime in _ON_CPU and device.type != "cpu":
        raise UserError(f"--runtime {settings.runtime} runs on the CPU: use --device cpu, or --runtime compile")
    if settings.precision == "fp16" and device.type == "cpu":
        raise UserError("--precision fp16 is for a GPU: use bf16 or float32 on a CPU")
    return device


def create_network(
    model: SSD,
    settings: RuntimeSettings,
    device: torch.device,
    calibration: str | None = None,
    keep: Path | None = None,
) -> Network:
    """Prepares a trained network to be run: batch norms are folded into convolutions, weights copied.

    So ``model`` stays as it is, later changes of it do not arrive, and the weights are in memory twice.

    Args:
        model: on ``device``, in evaluation mode.
        settings: runtime, precision, concurrency.
        calibration: folder of images to calibrate 8 bits with.
        keep: the checkpoint, beside which a network in 8 bits is kept for the next time; None keeps nothing.

    Raises:
        UserError: where the runtime is not installed, lacks a compiler, or cannot take this network; and as
            ``detection.runtimes.int8.quantized`` and ``divdet.engine.concurrency.concurrent``.
    """
    dtype = _DTYPES.get(settings.precision, torch.float32)
    network = fuse_conv_bn(model, (1, 3, DETECTION_INPUT, DETECTION_INPUT)).to(dtype, memory_format=torch.channels_last)
    pixels = FromPixels(network, dtype).eval()
    match settings.runtime:
        case "torch":
            network.concurrent = concurrent(network.branches(), settings.concurrency, settings.devices, device)
            return pixels
        case "compile":
            return _torch_compiled(pixels, device)
        case "onnxruntime":
            return _onnxruntime(pixels)
        case "openvino" if settings.precision == "int8":
            from detection.runtimes.int8 import quantized  # which needs this module

            return run_openvino(quantized(pixels, calibration, keep))
        case "openvino":
            return run_openvino(to_openvino(pixels))
    raise ValueError(settings.runtime)


def _torch_compiled(pixels: FromPixels, device: torch.device) -> Network:
    """Compiled at the first call, and again for every batch size; on CUDA recorded as a CUDA graph."""
    check_compiler("--runtime compile")
    # Freezing makes constants of the weights, laid out as the CPU's matrix library wants them.
    how: dict[str, Any] = {"options": {"freezing": True}} if device.type == "cpu" else {"mode": "reduce-overhead"}
    return torch.compile(pixels, dynamic=False, **how)


def _onnxruntime(pixels: FromPixels) -> Network:
    onnxruntime = library("onnxruntime", "onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Its threads would wait for the next image by spinning, on the cores that post-processing runs on.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(to_onnx(pixels), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        deltas, logits = session.run(None, {"images": images.numpy()})
        return torch.from_numpy(deltas), torch.from_numpy(logits)

    return run


def run_openvino(graph: Any) -> Network:
    """Runs an OpenVINO model on the CPU, on as many threads as torch has, in float32 where it is not in 8 bits."""
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    openvino = library("openvino", "openvino")
    with kept_signal_stack():
        compiled = openvino.compile_model(graph, "CPU", options)
    one_at_a_time = threading.Lock()  # it has one request, and refuses a thread that comes meanwhile

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        with one_at_a_time:
            found = compiled(images.numpy(), share_inputs=True)
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])

    return run


def to_onnx(pixels: FromPixels) -> bytes:
    """The network as an ONNX model of any batch size: ``images`` -> ``deltas``, ``logits``.

    Raises:
        UserError: where the exporter is not installed or cannot take the network.
    """
    library("onnx", "onnxruntime")
    library("onnxscript", "onnxruntime")
    names = {"input_names": ["images"], "output_names": ["deltas", "logits"]}
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    return _exported(
        "onnxruntime",
        lambda: torch.onnx.export(
            pixels, (_example(),), dynamo=True, dynamic_shapes=shapes, verbose=False, **names
        ).model_proto.SerializeToString(),
    )


def to_openvino(pixels: FromPixels) -> Any:
    """The network as an OpenVINO model of any batch size.

    Raises:
        UserError: where OpenVINO is not installed or cannot take the network.
    """
    openvino = library("openvino", "openvino")
    shape = openvino.PartialShape([-1, *_example().shape[1:]])
    return _exported("openvino", lambda: openvino.convert_model(pixels, example_input=_example(), input=[shape]))


def _example() -> Tensor:
    # Of two images, since exporters take one for a constant.
    return torch.zeros(2, DETECTION_INPUT, DETECTION_INPUT, 3, dtype=torch.uint8)


def _exported(runtime: str, export: Callable[[], Any]) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporters, about themselves
            return export()
    except Exception as error:  # their types are not promised
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"--runtime {runtime} cannot take this network ({type(error).__name__}: {reason}); use --runtime torch"
        ) from error


def library(name: str, extra: str) -> Any:
    """Imports a package of the extra that a runtime is named after. Raises UserError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"--runtime {extra} needs {name}: pip install 'divdet[{extra}]'") from error
