"""Checkpoints: of classifiers, of detectors, of runs to be continued, and published ones."""

from __future__ import annotations

import io
import pickle
import shutil
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

import classification.training
from classification.settings import EvalDataSettings, EvaluateClassification, TrainClassification
from detection.detector import Detector
from detection.drawing import draw_boxes
from detection.models.ssd import create_ssd
from detection.settings import TrainDetection
from divdet.commands import eval_cls
from divdet.commands.eval_det import checkpoint_defaults
from divdet.commands.import_checkpoint import import_checkpoint
from divdet.commands.network_settings import ImportCheckpoint
from divdet.commands.settings import EvaluateDetection
from divdet.engine import checkpoint
from divdet.engine.cli import parse, to_dict
from divdet.engine.files import write_json
from divdet.engine.loop import _Training
from tests.fuzz.mutation import damaged, document, value
from tests.fuzz.recipe_cases import classification_recipe, detection_recipe, train_without_steps, write_folders

_BIG = ("model", "trained", "optimizer", "state_dict")


class _Payload:
    """Would create a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def _strange(draw: Random, root: Path) -> Any:
    """What a pickle can hold and JSON cannot."""
    return draw.choice(
        [
            *(torch.zeros(3), torch.tensor(math_nan := float("nan")), torch.zeros(1).expand(10**12), torch.zeros(2, 0)),
            *(
                (1, 2),
                {1, 2},
                b"bytes",
                1j,
                torch.Size([2]),
                torch.float16,
                OrderedDict(a=1),
                {1: 2, None: 3},
                {(): []},
            ),
            *(
                bytearray(9),
                [torch.zeros(2)],
                {"a": torch.ones(2, dtype=torch.bool)},
                math_nan,
                np.float64(3),
                _Payload(root / "owned"),
            ),
        ]
    )


def _strange_tensor(draw: Random, like: Tensor, root: Path) -> Any:
    """Something else in the place of a weight."""
    if not isinstance(like, Tensor):
        return value(draw)
    changes: list[Callable[[], Any]] = [
        lambda: like.double(),
        lambda: like.half(),
        lambda: like.to(torch.bfloat16),
        lambda: like.long(),
        lambda: like.to(torch.complex64),
        lambda: like.bool(),
        lambda: like.to("meta"),
        lambda: like.to_sparse(),
        lambda: torch.full_like(like, -1),
        lambda: like.float() * float("nan"),
        lambda: like.float() * 1e38 * 1e38,
        lambda: like[None],
        lambda: like.flatten()[:0],
        lambda: torch.zeros(()).expand(like.shape),
        lambda: torch.nn.Parameter(like.float()),
        lambda: torch.quantize_per_tensor(like.float(), 0.1, 0, torch.qint8) if like.dtype.is_floating_point else like,
        lambda: like.float().to(torch.float8_e4m3fn),
        lambda: like.tolist(),
        lambda: _strange(draw, root),
        lambda: value(draw),
    ]
    try:
        return draw.choice(changes)()
    except (RuntimeError, NotImplementedError):  # an earlier change does not go with it
        return like


def _changed_tree(draw: Random, saved: dict[str, Any], root: Path) -> Any:
    big = {key: saved[key] for key in _BIG if key in saved}
    tree = saved
    if draw.randrange(3):
        tree = document(draw, {key: {} if key in big else entry for key, entry in saved.items()})
        if isinstance(tree, dict):
            tree = {key: big[key] if entry == {} and key in big else entry for key, entry in tree.items()}
            if draw.randrange(6) == 0 and tree:
                holder, key = tree, draw.choice(list(tree))
                while isinstance(holder[key], dict) and holder[key] and key not in big and draw.randrange(4):
                    holder = holder[key] = dict(holder[key])
                    key = draw.choice(list(holder))
                holder[key] = _strange(draw, root)
            return tree
    if big:
        name = draw.choice(list(big))
        weights = dict(big[name])
        for _ in range(draw.choice((1, 1, 2, 9))):
            if not weights:
                break
            key = draw.choice(list(weights))
            match draw.randrange(6):
                case 0:
                    del weights[key]
                case 1:
                    weights[draw.choice((f"{key}x", "", 1, None, f"module.{key}", "a\nb"))] = weights[key]
                case _:
                    weights[key] = _strange_tensor(draw, weights[key], root)
        tree = {**saved, name: weights}
    return tree


def _repacked(draw: Random, data: bytes) -> bytes:
    """A checkpoint in which one of the archive's files is changed, under a right checksum."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        names = old.namelist()
        changed = draw.choice([name for name in names if name.endswith((".pkl", "version", "byteorder", "/0"))])
        for name in names:
            content = old.read(name)
            if name == changed:
                content = damaged(draw, content, content)
            new.writestr(name, content, draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    return buffer.getvalue()


def hostile_checkpoint(draw: Random, saved: dict[str, Any], root: Path) -> bytes:
    """A changed checkpoint's bytes."""
    zipped = draw.randrange(5) > 0
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = _changed_tree(draw, saved, root) if draw.randrange(4) else saved
        try:
            if draw.randrange(40) == 0:
                pickle.dump(tree, buffer, draw.choice((0, 2, 4, 5)))
            else:
                torch.save(
                    tree, buffer, _use_new_zipfile_serialization=zipped, pickle_protocol=draw.choice((2, 2, 2, 4))
                )
        except (pickle.PicklingError, AttributeError, RuntimeError, NotImplementedError, TypeError):
            torch.save(saved, buffer)  # it cannot be written
    data = buffer.getvalue()
    if tree is not saved and draw.randrange(8):
        return data
    return _repacked(draw, data) if data[:2] == b"PK" and draw.randrange(3) else damaged(draw, data, data[-300:])


class _Checkpoints:
    """What the kinds share: ``saved`` is changed, and ``use`` takes the file."""

    names: tuple[str, ...] = ("case.pt",)

    def __init__(self, root: Path, saved: dict[str, Any]) -> None:
        self.root, self.path, self.saved = root, root / "case.pt", saved

    def write(self, draw: Random) -> None:
        """The next case."""
        self.path.write_bytes(hostile_checkpoint(draw, self.saved, self.root))

    def read(self) -> None:
        """Uses it; nothing in it may have been run."""
        try:
            self.use()
        finally:
            assert not (self.root / "owned").exists()

    def use(self) -> None:
        """What the tools do with it."""
        raise NotImplementedError


def _recipe(tool: type, recipe: dict[str, Any]) -> Any:
    sections = {key: entry for key, entry in recipe.items() if isinstance(entry, dict)}
    words = [f"--{section}.{key}={entry}" for section, fields in sections.items() for key, entry in fields.items()]
    return parse(tool, words + [f"--{key}={entry}" for key, entry in recipe.items() if key not in sections])


def saved_run(root: Path) -> tuple[TrainClassification, dict[str, Any]]:
    """A recipe and the last.pt of a run of it, stopped after a step."""
    config = _recipe(TrainClassification, classification_recipe(root))

    def one_step(*arguments: Any) -> dict[str, Any]:
        training = _Training(*arguments)
        for parameter in training.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        training.optimizer.step()
        training.average.update()
        training.history.append({"epoch": 1, "lr": 0.1, "train_loss": 1.5, "top1": 50.0})
        training.epoch, training.batch, training.totals, training.best.value = 1, 2, {"loss": 2.5}, 50.0
        training._save()
        return {}

    with patch.object(classification.training, "fit", one_step):
        classification.training.train(config)
    last = root / "output/last.pt"
    saved = checkpoint.read(last)
    last.unlink()
    return config, saved


class Classifiers(_Checkpoints):
    """eval_cls.py's checkpoints, down to metrics.json."""

    names = ("case.pt", "the network's outputs are not finite")

    def __init__(self, root: Path) -> None:
        write_folders(root)
        _, saved = saved_run(root)
        del saved["trained"], saved["optimizer"], saved["history"], saved["totals"], saved["layout"]
        super().__init__(root, saved)

    def use(self) -> None:
        """Evaluates it."""
        data = EvalDataSettings("folder", str(self.root / "classes"))
        config = EvaluateClassification(str(self.path), data, batch_size=2, workers=0, output=str(self.root / "output"))
        eval_cls.checkpoint_defaults(config)
        eval_cls.evaluate(replace(config, device="cpu"))


class Runs(_Checkpoints):
    """last.pt of a run, which is continued."""

    names = ("case.pt", "the checkpoint of")

    def __init__(self, root: Path) -> None:
        write_folders(root)
        self.config, saved = saved_run(root)
        super().__init__(root, saved)

    def write(self, draw: Random) -> None:
        """The next case."""
        shutil.rmtree(self.root / "output", ignore_errors=True)  # otherwise what the case before left is continued
        super().write(draw)

    def use(self) -> None:
        """Continues it, up to its first step."""
        train_without_steps(replace(self.config, resume=str(self.path)))


class Detectors(_Checkpoints):
    """detect.py's checkpoints; a few of those that load are run."""

    def __init__(self, root: Path) -> None:
        write_folders(root)
        config = _recipe(TrainDetection, detection_recipe(root))
        saved = {"kind": "detection", "model": create_ssd("resnet10_16", 2, 2).state_dict(), "config": to_dict(config)}
        saved["meta"] = {"categories": [{"id": 1, "name": "cat"}, {"id": 18, "name": "dog"}]}
        super().__init__(root, saved)
        self.count = 0
        (root / "output").mkdir()
        torch.save(saved, self.path)
        self.use()  # it is accepted; numba compiles now

    def use(self) -> None:
        """Loads it, and draws with its names."""
        checkpoint_defaults(EvaluateDetection(checkpoint=str(self.path)))
        detector = Detector.load(self.path, "cpu")
        image = np.zeros((40, 60, 3), np.uint8)
        found = [
            {"category": name, "category_id": i} for name, i in zip(detector.names, detector.category_ids, strict=True)
        ]
        write_json(found, self.root / "output/detections.json")
        draw_boxes(image, [[1, 1, 30, 30]] * len(found), range(len(found)), detector.names)
        self.count += 1
        if self.count % 50 == 1:
            detector.predict([image])


class Published(_Checkpoints):
    """Source files of import_checkpoint.py."""

    def __init__(self, root: Path) -> None:
        write_folders(root)
        self.configs = []
        output = str(root / "output/imported.pt")
        for task, dataset in (("cls", "cifar10"), ("det", "coco")):
            self.configs.append(ImportCheckpoint(str(root / "case.pt"), task, "resnet10_16", 2, dataset, output=output))
        members = classification.training.create_ensemble("resnet10_16", 2, 10, "cifar10").state_dict()
        classifier = {
            "state_dict": {f"models.{name.removeprefix('members.')}": v for name, v in members.items()},
            "epoch": 3,
        }
        detector = {}
        for name, tensor in create_ssd("resnet10_16", 2, 80).state_dict().items():
            parts = name.replace("extras.", "additional_blocks.").split(".")
            if parts[0] == "members":
                parts[:3] = ["feature_extractor", "backbone", parts[1], parts[2].removeprefix("layer")]
            detector[".".join(parts)] = tensor
        self.sources = [classifier, {"model": detector, "epoch": 65}]
        self.config = self.configs[0]
        super().__init__(root, classifier)

    def write(self, draw: Random) -> None:
        """The next case."""
        which = draw.randrange(2)
        self.saved, self.config = self.sources[which], self.configs[which]
        super().write(draw)

    def use(self) -> None:
        """Imports it."""
        import_checkpoint(self.config)
