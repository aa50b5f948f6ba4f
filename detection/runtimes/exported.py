"""Detectors in exported files: .onnx, .xml (OpenVINO) and .pt2 (torch.export)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detection.boxes import Boxes
from detection.category_names import category_name
from detection.heads import Input, input_of
from detection.prediction_settings import EXPORT_ENDINGS, PostprocessSettings, RuntimeSettings
from detection.preprocess import Network
from detection.runtimes.exporting import library
from detection.runtimes.running import run_onnx, run_openvino, runtime_device
from detection.runtimes.safe_program import read_known
from detection.runtimes.sealed import read_onnx, read_openvino
from detection.saved import saved_settings
from detection.settings import DataSettings
from divdet.engine.checkpoint import Checkpoint
from divdet.engine.errors import UserError

# What runs each format
RUNTIMES = dict(zip(EXPORT_ENDINGS.values(), ("onnxruntime", "openvino", "torch"), strict=True))
_PRECISIONS = ("float32", "int8")
# Settings that are part of the network
_FIXED = ("score_threshold", "candidates_per_class", "nms_iou", "max_per_member")


def is_exported(path: str | Path) -> bool:
    """Whether a file's name ends as those of exported files do."""
    return Path(path).suffix in RUNTIMES


class ExportedModel(nn.Module):
    """Stands for a detector's model where there is none: what is known of it, without weights.

    Decoding and the members' suppression are part of the network.

    Attributes:
        members: S empty modules.
        head, num_classes, input: see ``DividedDetector``.
    """

    def __init__(self, head: str, members: int, num_classes: int, input: Input) -> None:
        super().__init__()
        self.members = nn.ModuleList(nn.Identity() for _ in range(members))
        self.head, self.num_classes, self.input = head, num_classes, input

    def boxes(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> list[list[Boxes]]:
        """From the network's outputs (see ``WholeDetector``) to boxes indexed [member][image]."""
        if not (scores.isfinite().all() and boxes[scores > 0].isfinite().all()):
            raise UserError("the network's outputs are not finite: train with a lower rate, or use another checkpoint")
        counts = (scores > 0).sum(-1).tolist()  # [N][S]
        return [
            [
                Boxes(*(part[image, member, : counts[image][member]].clone() for part in (boxes, scores, labels)))
                for image in range(len(scores))
            ]
            for member in range(len(self.members))
        ]


class Exported(NamedTuple):
    """What a file holds of a detector."""

    model: ExportedModel
    names: list[str]
    category_ids: list[int]
    settings: PostprocessSettings
    data: DataSettings
    network: Network


def saved_of(path: str | Path) -> Checkpoint:
    """What an exported file says of itself, as a checkpoint without weights.

    Raises:
        UserError: where it is missing, damaged or another file, or its library is not installed.
    """
    return _saved(Path(path), _open(Path(path))[0])


def _saved(path: Path, known: dict[str, Any]) -> Checkpoint:
    meta = {"categories": known.get("categories"), "exported": known}
    return Checkpoint("detection", {}, known["config"], meta, source=str(path), epoch=known["checkpoint"]["epoch"])


def run_defaults(saved: Checkpoint) -> dict[str, str]:
    """Runtime and precision of an exported file, as fields of ``RuntimeSettings``; from what ``saved_of`` returns."""
    return {"runtime": RUNTIMES[Path(saved.source).suffix], "precision": saved.meta["exported"]["precision"]}


def load_exported(
    path: str | Path, device: str, settings: PostprocessSettings | None, run: RuntimeSettings | None
) -> Exported:
    """Loads what ``Detector.load`` makes a detector of, with its arguments.

    Raises:
        UserError: as ``saved_of``; for another device than the CPU, another runtime than the file's, or settings that
            differ in what is part of the network.
    """
    path = Path(path)
    runtime = RUNTIMES[path.suffix]
    if run and (run.runtime != runtime or run.concurrency != "sequential"):
        raise UserError(f"{path}: runs by {runtime} as it is: leave out --runtime and --concurrency")
    if runtime_device(RuntimeSettings(), "cpu" if device == "auto" else device).type != "cpu":
        raise UserError(f"{path}: exported files run on the CPU here: use --device cpu, or the checkpoint on a GPU")
    known, load = _open(path)
    precision = known["precision"]
    if run and (run.calibration or run.precision != precision):
        raise UserError(f"{path}: is in {precision} as it is: leave out --precision and --calibration")
    own, data = saved_settings(_saved(path, known))
    with _explained(path):
        head, members, size = (known["config"]["model"][key] for key in ("head", "members", "input_size"))
        names = [category_name(category["name"]) for category in known["categories"]]
        ids = [int(category["id"]) for category in known["categories"]]
        if None in names or type(members) is not int or not 1 <= members <= 2**10:
            raise ValueError("names or members")
        model = ExportedModel(head, members, len(names), input_of(head, size))
        network = load()
        _check_outputs(network, model)
    if settings:
        _refuse_others(path, own, settings, members)
    return Exported(model, names, ids, settings or own, data, network)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the runtimes do not document their exceptions
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path}: cannot be run ({type(error).__name__}: {reason:.200}); export it again") from error


def _open(path: Path) -> tuple[dict[str, Any], Any]:
    """Checks a file; returns what it says of itself, and a function that loads its network."""
    with _explained(path):
        text, load = _read(path)
        known = json.loads(text)
        config, precision, epoch = known["config"], known["precision"], known["checkpoint"]["epoch"]
    if not (isinstance(config, dict) and precision in _PRECISIONS and type(epoch) is int):
        raise UserError(f"{path}: what it says of itself is damaged; export it again")
    return known, load


def _read(path: Path) -> tuple[str, Any]:
    match path.suffix:
        case ".onnx":
            content = read_onnx(path)
            onnxruntime = library("onnxruntime", "onnxruntime", f"{path}:")
            quick = onnxruntime.SessionOptions()
            quick.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            session = onnxruntime.InferenceSession(content, quick, providers=["CPUExecutionProvider"])
            text = session.get_modelmeta().custom_metadata_map["divdet"]
            load = lambda: run_onnx(content)  # noqa: E731
        case ".xml":
            xml, weights = read_openvino(path)
            openvino = library("openvino", "openvino", f"{path}:")
            graph = openvino.Core().read_model(xml, weights)
            text = graph.get_rt_info(["divdet"]).astype(str)
            load = lambda: run_openvino(graph)  # noqa: E731
        case _:
            import detection.runtimes.whole  # noqa: F401 - defines the operator in it

            text = read_known(path)
            load = lambda: torch.export.load(path).module()  # noqa: E731
    return text, load


def _check_outputs(network: Network, model: ExportedModel) -> None:
    side, members = model.input.size, len(model.members)
    with torch.inference_mode():
        boxes, scores, labels = network(torch.zeros(1, side, side, 3, dtype=torch.uint8))
    shape = (1, members, scores.shape[-1])
    if not (boxes.shape == (*shape, 4) and scores.shape == labels.shape == shape):
        raise ValueError(f"its outputs are not of {members} members")


def _refuse_others(path: Path, own: PostprocessSettings, wanted: PostprocessSettings, members: int) -> None:
    own, wanted = (replace(one, max_per_member=one.max_per_member or 200 * members) for one in (own, wanted))
    for name in _FIXED:
        if getattr(own, name) != getattr(wanted, name):
            raise UserError(
                f"{path}: postprocess.{name} is {getattr(own, name)} in the network itself, not "
                f"{getattr(wanted, name)}: export it with --postprocess.{name} {getattr(wanted, name)}"
            )
