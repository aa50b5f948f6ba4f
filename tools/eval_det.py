"""Prints a detector's 12 COCO numbers, or those of a results file (see detection/scoring.py)."""

from detection.config import EvaluateDetection
from detection.scoring import checkpoint_defaults, evaluate
from engine.cli import parse, run

if __name__ == "__main__":
    run(lambda: evaluate(parse(EvaluateDetection, defaults=checkpoint_defaults)))
