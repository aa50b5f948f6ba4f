"""Evaluates members and ensemble of a train_cls.py checkpoint (see classification/evaluation.py)."""

from classification.config import EvaluateClassification
from classification.evaluation import checkpoint_data, evaluate
from divdet.engine.cli import parse, run

if __name__ == "__main__":
    run(lambda: evaluate(parse(EvaluateClassification, defaults=checkpoint_data)))
