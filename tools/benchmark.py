"""Times a large network against its members, in sequence and at once (see divdet/commands/benchmark.py)."""

from divdet.commands.benchmark import Benchmark, print_benchmark
from divdet.engine.cli import parse, run

if __name__ == "__main__":
    run(lambda: print_benchmark(parse(Benchmark)))
