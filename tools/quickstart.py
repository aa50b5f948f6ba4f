"""Runs the whole pipeline on generated data (see divdet/commands/quickstart.py)."""

from divdet.commands.quickstart import Quickstart, quickstart
from divdet.engine.cli import parse, run

if __name__ == "__main__":
    run(lambda: quickstart(parse(Quickstart)))
