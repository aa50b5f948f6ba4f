"""Imports the paper's published checkpoints (see detection/models/released.py)."""

from detection.models.released import ImportCheckpoint, import_checkpoint
from divdet.engine.cli import parse, run

if __name__ == "__main__":
    run(lambda: import_checkpoint(parse(ImportCheckpoint)))
