"""Draws what a detector finds in images (see divdet/commands/detect.py)."""

from detection.evaluation.evaluate import checkpoint_defaults
from detection.training.config import Detect
from divdet.commands.detect import detect
from divdet.engine.cli import parse, run

if __name__ == "__main__":
    run(lambda: detect(parse(Detect, positional="sources", defaults=checkpoint_defaults)))
