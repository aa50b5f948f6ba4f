"""Trains SSD300 with S members on COCO-format data (see detection/training.py)."""

from detection.config import TrainDetection
from detection.training import train
from engine.cli import parse, run

if __name__ == "__main__":
    run(lambda: train(parse(TrainDetection)))
