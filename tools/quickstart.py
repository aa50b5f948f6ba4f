"""Runs the whole pipeline on generated data (see detection/quickstart.py)."""

from detection.quickstart import Quickstart, quickstart
from engine.cli import parse, run

if __name__ == "__main__":
    run(lambda: quickstart(parse(Quickstart)))
