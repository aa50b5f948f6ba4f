"""The import_checkpoint command: published checkpoints as checkpoints of this toolkit."""

import os
from pathlib import Path

from classification.backbones.dividing import check_members
from classification.backbones.registry import BACKBONES
from classification.importing import import_classifier
from detection.models.released import import_detector
from divdet.commands.network_settings import ImportCheckpoint
from divdet.engine import checkpoint
from divdet.engine.errors import UserError
from divdet.engine.files import make_folder


def import_checkpoint(config: ImportCheckpoint) -> checkpoint.Checkpoint:
    """Writes the checkpoint and returns it.

    Weights that a published network holds but never uses are left out and counted.

    Raises:
        UserError: if an argument is missing, the file cannot be read, a weight does not fit (it is named), or the
            output cannot be written.
    """
    for name in ("source", "backbone", "output"):
        if getattr(config, name) is None:
            known = f": one of {', '.join(BACKBONES)}" if name == "backbone" else ""
            raise UserError(f"--{name} is missing{known}")
    check_members(config.members)
    output = Path(config.output)
    if os.path.isdir(output) or output.resolve() == Path(config.source).resolve():
        raise UserError(f"{output}: name the file to write, another than --source and not a folder")
    if config.task == "cls":
        dataset = config.dataset or "imagenet"
        found = import_classifier(config.source, config.backbone, config.members, dataset)
    else:
        if config.dataset not in (None, "coco"):
            raise UserError(f"--dataset {config.dataset}: the published detectors are of coco")
        found = import_detector(config.source, config.backbone, config.members, config.head, config.input_size)
    make_folder(output.parent)
    checkpoint.save(found, output)
    count = sum(value.numel() for value in found.model.values())
    print(f"{config.source}: {len(found.model)} tensors, {count / 1e6:.2f} M values, all placed")
    print(f"wrote {output}")
    return found
