"""Trains SSD300 with S members on COCO-format data (see detection/training/train.py)."""

from detection.training.config import TrainDetection
from detection.training.train import train
from divdet.engine.cli import parse, run

if __name__ == "__main__":
    run(lambda: train(parse(TrainDetection)))
