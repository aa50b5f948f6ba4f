"""Runs networks that ONNX Runtime and OpenVINO hold, on the CPU."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from detection.prediction_settings import RuntimeSettings
from detection.preprocess import Network
from detection.runtimes.exporting import library
from divdet.engine.devices import resolve_device
from divdet.engine.errors import UserError
from divdet.engine.signal_stack import kept_signal_stack

_ON_CPU = ("onnxruntime", "openvino")


def runtime_device(settings: RuntimeSettings, name: str) -> torch.device:
    """Resolves ``--device name`` for a runtime; auto is the CPU for those that run nowhere else."""
    device = resolve_device("cpu" if settings.runtime in _ON_CPU and name == "auto" else name)
    if settings.runtime in _ON_CPU and device.type != "cpu":
        raise UserError(f"--runtime {settings.runtime} runs on the CPU: use --device cpu, or --runtime compile")
    if settings.precision == "fp16" and device.type == "cpu":
        raise UserError("--precision fp16 is for a GPU: use bf16 or float32 on a CPU")
    return device


class _OfThisProcess:
    """A network that a library holds, so that it cannot be sent to another process."""

    def __init__(self, run: Network) -> None:
        self._run = run

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        return self._run(images)

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        return self

    def __reduce__(self) -> Any:
        raise UserError(
            "a detector that runs by ONNX Runtime or OpenVINO cannot be sent to another process: load it there"
        )


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

    return _OfThisProcess(run)


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

    return _OfThisProcess(run)
