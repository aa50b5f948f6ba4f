"""Imports the paper's published checkpoints (see detection/importing.py)."""

from detection.importing import ImportCheckpoint, import_checkpoint
from engine.cli import parse, run

if __name__ == "__main__":
    run(lambda: import_checkpoint(parse(ImportCheckpoint)))
