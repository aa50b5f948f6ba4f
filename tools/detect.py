"""Draws what a detector finds in images (see detection/prediction.py)."""

from detection.config import Detect
from detection.prediction import detect
from detection.scoring import checkpoint_defaults
from engine.cli import parse, run

if __name__ == "__main__":
    run(lambda: detect(parse(Detect, positional="sources", defaults=checkpoint_defaults)))
