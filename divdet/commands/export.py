"""The export command: a whole ensemble as one file of another library."""

from __future__ import annotations

import io
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from detection.detector import Detector, saved_model, saved_settings
from detection.prediction_settings import EXPORT_ENDINGS
from detection.preprocess import FromPixels
from detection.runtimes.exporting import to_openvino
from detection.runtimes.fuse_conv_bn import fuse_conv_bn
from detection.runtimes.int8 import quantize
from detection.runtimes.whole_formats import write_onnx, write_openvino, write_torch
from detection.settings import EvalDataSettings
from divdet.commands import eval_det
from divdet.commands.settings import EvaluateDetection, Export
from divdet.engine import checkpoint
from divdet.engine.errors import UserError
from divdet.engine.files import make_folder, reason
from divdet.engine.fingerprint import digest_file

_PACKAGES = ("divdet", "torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "openvino", "nncf")


def checkpoint_defaults(config: Export) -> dict[str, Any]:
    """A checkpoint's own settings and data as defaults."""
    _refuse_exported(config)
    return eval_det.checkpoint_defaults(config)


def export(config: Export) -> Path:
    """Writes a checkpoint's detector in another format, and what int8 costs.

    Returns:
        The file.

    Raises:
        UserError: for a checkpoint, output or images that cannot be used, or a library that is not installed or cannot
            take the network.
    """
    if not config.checkpoint:
        raise UserError("--checkpoint is missing: give a checkpoint of train-det")
    _refuse_exported(config)
    path = Path(config.output or Path(config.checkpoint).with_suffix(EXPORT_ENDINGS[config.format]))
    saved = checkpoint.load(config.checkpoint, "detection")
    detector = Detector.from_checkpoint(saved, torch.device("cpu"), config.postprocess)
    data, settings = saved_settings(saved)[1], detector.resolved_settings()
    make_folder(path.parent)
    side = detector.input.size
    pixels = FromPixels(fuse_conv_bn(detector.model, (1, 3, side, side))).eval()
    categories = zip(detector.category_ids, detector.names, strict=True)
    known = {
        "format": config.format,
        "precision": config.precision,
        "input": asdict(detector.input),
        "categories": [{"id": number, "name": name} for number, name in categories],
        "config": {
            "model": asdict(saved_model(saved)) | {"pretrained": None, "divide_from": None, "input_size": side},
            "data": {field.name: getattr(config.data, field.name) for field in fields(EvalDataSettings)},
            "postprocess": asdict(settings),
        },
        "checkpoint": {"epoch": saved.epoch, "digest": digest_file(config.checkpoint)},
        "versions": _versions(),
        "commit": _commit(),
    }
    files = [path.with_suffix(".bin"), path] if config.format == "openvino" else [path]
    with _beside(files) as made:
        match config.format:
            case "onnx":
                write_onnx(pixels, settings, known, made)
            case "torch":
                write_torch(pixels, settings, known, made)
            case "openvino":
                int8 = config.precision == "int8"
                graph = quantize(pixels, config.calibration or data.train_images) if int8 else to_openvino(pixels)
                write_openvino(graph, pixels, settings, known, made)
        found = Detector.load(made)  # as anybody will
    found.source = str(path)
    size = sum(file.stat().st_size for file in files) / 1e6
    print(f"wrote {' and '.join(map(str, files))}: {size:.1f} MB, {found!r}")
    if config.precision == "int8":
        print(_cost(config, path))
    return path


@contextmanager
def _beside(files: list[Path]) -> Iterator[Path]:
    """Where to make ``files``, in a folder beside them: the last one's path. They move if no error occurs."""
    path = files[-1]
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
            yield Path(folder) / path.name
            for file in files:
                (Path(folder) / file.name).replace(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({reason(error)})") from error


def _refuse_exported(config: Export) -> None:
    if config.checkpoint and Path(config.checkpoint).suffix in EXPORT_ENDINGS.values():
        raise UserError(f"{config.checkpoint}: is exported already: give the checkpoint that it was made of")


def _cost(config: Export, path: Path) -> str:
    """AP of the checkpoint and of the file, on the validation data."""
    if not (config.data.val_annotations or config.data.path):
        return "int8's AP was not measured, for want of validation data: give --data.val_annotations and .val_images"
    found = []
    for source, run in ((config.checkpoint, {}), (path, {"runtime": "openvino", "precision": "int8"})):
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
            what = {"checkpoint": str(source), "data": config.data, "postprocess": config.postprocess}
            settings = EvaluateDetection(**what, **run, device="cpu", output=folder)
            try:
                found.append(eval_det.evaluate(settings))
            except UserError as error:
                return f"int8's AP was not measured: {error}"
    before, after = (metrics["AP"] for metrics in found)
    return f"AP {before:.4f} in float32, {after:.4f} in int8 ({after - before:+.4f}) on {found[0]['images']} images"


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _commit() -> str | None:
    """The commit of the source tree, where there is one."""
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return None
    asked = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or None
