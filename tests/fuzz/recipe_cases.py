"""YAML recipes and command lines."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import torch
import yaml

import classification.training
import detection.training.train
from classification.settings import EvaluateClassification, TrainClassification
from detection.default_boxes import ssd300_default_boxes
from detection.models.multibox_loss import multibox_loss
from detection.postprocess import postprocess
from detection.settings import TrainDetection
from detection.sources import find_images
from divdet.commands import eval_cls
from divdet.commands.eval_det import checkpoint_defaults, evaluate
from divdet.commands.network_settings import ImportCheckpoint, Quickstart, Summary
from divdet.commands.settings import Detect, EvaluateDetection
from divdet.commands.summary import print_summary
from divdet.engine import cli
from divdet.engine.cli import parse, to_yaml
from divdet.engine.devices import resolve_device
from divdet.engine.loop import _Training
from divdet.engine.optimization import learning_rate
from tests.fuzz.annotation_cases import GROUND_TRUTH, RESULTS, load_ground_truth, write_images
from tests.fuzz.image_cases import valid_images
from tests.fuzz.mutation import DEEP, LONG, damaged, document, expanded, value


def classification_recipe(root: Path) -> dict[str, Any]:
    """A recipe whose data `write_folders` makes."""
    return {
        "model": {"backbone": "resnet10_16", "members": 2, "stem": "cifar", "dropout": 0.1},
        "data": {"dataset": "folder", "root": str(root / "classes"), "image_size": 16, "crop": "padded", "padding": 4}
        | {"flip": 0.5, "auto_augment": "rand", "rand_augment_operations": 1, "erasing": 0.5, "limit": 3},
        "train": {"epochs": 2, "batch_size": 2, "lr": 0.1, "warmup_epochs": 0.5, "cot_warmup_epochs": 1, "workers": 0}
        | {"mixup": 0.2, "label_smoothing": 0.1, "ema_decay": 0.9, "clip_gradient": 1.0, "accumulate": 2}
        | {"save_every": 1},
        "output": str(root / "output"),
        "seed": 1,
        "device": "cpu",
    }


def detection_recipe(root: Path) -> dict[str, Any]:
    """A recipe whose data `write_folders` makes."""
    sets = {f"{split}_{what}": str(path) for split in ("train", "val") for what, path in _detection_data(root).items()}
    return {
        "model": {"backbone": "resnet10_16", "members": 2},
        "data": sets | {"zoom_out": 0.5, "zoom_out_ratio": 2.0, "iou_crop": 0.5, "flip": 0.5, "photometric": False},
        "train": {"epochs": 3, "batch_size": 2, "lr": 0.02, "schedule": "step", "milestones": [1, 2], "workers": 0}
        | {"neg_to_pos_ratio": 3.0, "cot_weight": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "precision": "float32"},
        "postprocess": {"score_threshold": 0.1, "candidates_per_class": 20, "nms_iou": 0.45, "max_per_member": 30}
        | {"fusion_iou": 0.6, "fusion_skip": 0.0001, "fusion_conf": "avg"},
        "output": str(root / "output"),
        "seed": 1,
        "device": "cpu",
    }


def _detection_data(root: Path) -> dict[str, Path]:
    return {"annotations": root / "truth.json", "images": root / "data"}


def write_folders(root: Path) -> None:
    """The data of both recipes, and a results file."""
    write_images(root)
    (root / "truth.json").write_text(json.dumps(GROUND_TRUTH))
    (root / "results.json").write_text(json.dumps(RESULTS))
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = root / "classes" / split / name
            folder.mkdir(parents=True)
            for number in range(2):
                (folder / f"{number}.png").write_bytes(valid_images()["png"])


def _settings_used(task: Any, loader: Any, folder: Any, *rest: Any) -> dict[str, Any]:
    """What `fit` does with settings before and in the first step, but without a network's forward pass."""
    training, settings = _Training(task, loader, folder, *rest), folder.config.train
    for epoch in (0, 0.5, settings.epochs - 1, settings.epochs):
        learning_rate(settings, epoch)
    samples = [loader.dataset[0, index] for index in (0, len(loader.dataset) - 1)]
    loader.collate_fn(samples)
    task.name(0).encode()
    if hasattr(task, "detector"):
        draw = torch.Generator().manual_seed(0)
        shape = (len(task.model.members), 1, 8732)
        logits = 3 * torch.randn(*shape, task.model.num_classes + 1, generator=draw)
        deltas = torch.randn(*shape, 4, generator=draw)
        postprocess(deltas, logits, ssd300_default_boxes(), task.config.postprocess)
        classes = torch.zeros(1, 20, dtype=torch.int64)
        classes[0, 3] = 1
        multibox_loss(deltas[:, :, :20], logits[:, :, :20], deltas[0, :, :20], classes, settings.neg_to_pos_ratio)
    training.optimizer.step()
    training.average.update()
    folder.close()
    return {}


def train_without_steps(config: TrainClassification | TrainDetection) -> None:
    """The train tools, all but their steps."""
    where = classification.training if isinstance(config, TrainClassification) else detection.training.train
    with patch.object(where, "fit", _settings_used):
        where.train(config)


def _inside(root: Path, output: str | None) -> str:
    """An output folder of the same odd name, inside the one that may be written to."""
    return str(root / "output") + "/" + (output or "").replace("..", "").lstrip("/")


# Building a parser takes longer than parsing.
_parser = cache(cli._parser)

_FRAGMENTS = (
    *("seed: !!python/object/apply:os.system ['touch owned']", "model: !!python/name:os.system", "seed: !!int '7'"),
    *(
        "train: &t {epochs: 3}\ndata: {<<: *t}",
        "<<: {seed: 3}",
        "seed: *nothing",
        "train: {<<: [*a, *b]}",
        "a: &a [*a]",
    ),
    *(
        "? [complex, key]\n: 1",
        "train: {epochs: .inf}",
        "train: {lr: .nan}",
        "seed: 0x10",
        "seed: 1_000",
        "seed: 1:30:00",
    ),
    *(
        "---\nseed: 1",
        "...",
        "%YAML 9.9\n---",
        "\tseed: 1",
        "seed: 1\nseed: 2",
        "&x seed: 1",
        "seed: |\n  1",
        "\ufeffseed: 1",
    ),
    *(
        "model: !!binary aGVsbG8=",
        "seed: 2001-01-01",
        "data: !!set {a, b}",
        "model: !!omap [a: 1]",
        "__class__: os.system",
    ),
    *(
        "class_path: os.system\ninit_args: {command: touch owned}",
        "config: case.yaml",
        "print_config: true",
        "help: true",
    ),
    *("model: {class_path: subprocess.Popen, init_args: {args: [touch, owned]}}", "train: {milestones: [[1]]}"),
)


class Recipes:
    """YAML files, down to the first training step."""

    names = (
        "case.yaml",
        "truth.json",
        "Option '",
        "data",
        "train",
        "model",
        "postprocess",
        "output",
        "seed",
        "device",
        "backbone",
    )
    names += (
        "not a folder",
        "cannot be read",
        "no such checkpoint",
        "members",
    )  # of a folder or file that the recipe names

    def __init__(self, root: Path) -> None:
        write_folders(root)
        self.root, self.path = root, root / "case.yaml"
        self.tool: type = TrainDetection
        for self.tool, recipe in (
            (TrainDetection, detection_recipe(root)),
            (TrainClassification, classification_recipe(root)),
        ):
            self.path.write_text(yaml.safe_dump(recipe))
            self.read()  # it is accepted; numba compiles now

    def write(self, draw: Random) -> None:
        """The next case."""
        self.tool = draw.choice((TrainDetection, TrainClassification))
        valid = detection_recipe(self.root) if self.tool is TrainDetection else classification_recipe(self.root)
        text = yaml.safe_dump(document(draw, valid), default_flow_style=draw.choice((None, False)), allow_unicode=False)
        content = expanded(draw, text).encode()
        match draw.randrange(6):
            case 0:
                content = damaged(draw, content)
            case 1:
                content += draw.choice(_FRAGMENTS).encode()
            case 2:
                lines = content.splitlines()
                lines.insert(draw.randrange(len(lines) + 1), draw.choice(_FRAGMENTS).encode())
                content = b"\n".join(lines)
        self.path.write_bytes(content)

    def read(self) -> None:
        """Parses it and sets the training up."""
        with patch.object(cli, "_parser", _parser):
            config = parse(self.tool, ["--config", str(self.path)])
        to_yaml(config).encode()
        config.output = _inside(self.root, config.output)
        if self.tool is TrainClassification:
            config.data.download = False
        if "timm" in config.model.backbone:
            return
        train_without_steps(config)


@dataclass(frozen=True)
class _Tool:
    config: type
    words: list[str]
    options: dict[str, Any]


class CommandLines:
    """The words behind each tool."""

    names = ("--", "argument", *Recipes.names, "batch_size", "case", "no image found", "members", "dataset", "score")

    def __init__(self, root: Path) -> None:
        write_folders(root)
        load_ground_truth(root)
        self.root, self.words = root, []
        detect = {"positional": "sources", "defaults": checkpoint_defaults}
        truth, results = f"--data.val_annotations={root}/truth.json", f"--detections={root}/results.json"
        missing = f"{root}/case.pt"
        self.tools = [
            _Tool(TrainDetection, ["--model.backbone", "resnet10_16", "--train.lr=0.1", "--seed", "3"], {}),
            _Tool(TrainClassification, ["--model.members", "2", "--data.flip=0.5", "--data.dataset", "npz"], {}),
            _Tool(EvaluateDetection, [results, truth, "--batch_size", "2"], {"defaults": checkpoint_defaults}),
            _Tool(
                EvaluateClassification,
                ["--checkpoint", missing, "--others", '["a.pt"]'],
                {"defaults": eval_cls.checkpoint_defaults},
            ),
            _Tool(Detect, [f"{root}/data", f"{root}/data/*.png", "--score_threshold", "0.5"], detect),
            _Tool(Summary, ["--task", "cls", "--backbone", "resnet10_16", "--members=2", "--dataset", "cifar10"], {}),
            _Tool(ImportCheckpoint, ["--source", missing, "--backbone", "resnet10_16", "--output", "case.pt"], {}),
            _Tool(Quickstart, ["--size", "100", "--epochs=1", "--device", "cpu"], {}),
        ]
        self.tool = self.tools[0]

    def write(self, draw: Random) -> None:
        """The next case."""
        self.tool = draw.choice(self.tools)
        words = list(self.tool.words)
        for _ in range(draw.choice((1, 1, 2, 3))):
            at = draw.randrange(len(words) + 1)
            odd = value(draw)
            odd = "[" * 500 if odd == DEEP else "[" + "0," * 500 + "0]" if odd == LONG else odd
            text = (odd if isinstance(odd, str) else json.dumps(odd)).replace("\0", "").replace("\ud800", "\udcff")
            match draw.randrange(6):
                case 0 | 1:
                    words[at : at + 1] = [text]
                case 2:
                    words[at:at] = [text]
                case 3:
                    del words[at : at + 1]
                case 4:
                    words = [
                        word if i != at or "=" not in word else f"{word.split('=')[0]}={text}"
                        for i, word in enumerate(words)
                    ]
                case 5:
                    keys = (
                        "--config",
                        "--output",
                        "--seed",
                        "--device",
                        "--train.epochs",
                        "--postprocess",
                        "--data",
                        "--",
                        "-h",
                    )
                    words[at:at] = [
                        draw.choice((*keys, "--print_config", "--print_config=", "--train", "--sources")),
                        text,
                    ]
        self.words = words

    def read(self) -> None:
        """Parses them, and runs those of the tools that only read text."""
        with nullcontext() if "defaults" in self.tool.options else patch.object(cli, "_parser", _parser):
            config = parse(self.tool.config, list(self.words), **self.tool.options)
        to_yaml(config)
        resolve_device(config.device)
        config.output = _inside(self.root, config.output)
        if isinstance(config, Summary):
            print_summary(config)
        elif isinstance(config, EvaluateDetection):
            evaluate(config)
        elif isinstance(config, Detect) and not any("**" in source for source in config.sources):
            find_images(config.sources)
