"""Prints a detector's 12 COCO numbers, or those of a results file (see detection/evaluation/evaluate.py)."""

from detection.evaluation.evaluate import checkpoint_defaults, evaluate
from detection.training.config import EvaluateDetection
from divdet.engine.cli import parse, run

if __name__ == "__main__":
    run(lambda: evaluate(parse(EvaluateDetection, defaults=checkpoint_defaults)))
