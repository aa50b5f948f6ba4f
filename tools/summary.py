"""Prints what a divided network costs (see classification/backbones/cost.py and detection/models/cost.py)."""

from divdet.commands.summary import Summary, print_summary
from divdet.engine.cli import parse, run

if __name__ == "__main__":
    run(lambda: print_summary(parse(Summary)))
