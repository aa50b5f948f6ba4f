"""Co-trains S divided networks (see classification/training.py)."""

from classification.config import TrainClassification
from classification.training import train
from divdet.engine.cli import parse, run

if __name__ == "__main__":
    run(lambda: train(parse(TrainClassification)))
