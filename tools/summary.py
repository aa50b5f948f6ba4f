"""Prints what a divided network costs (see classification/summary.py and detection/summary.py)."""

from detection.summary_command import Summary, print_summary
from engine.cli import parse, run

if __name__ == "__main__":
    run(lambda: print_summary(parse(Summary)))
