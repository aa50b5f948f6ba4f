"""Times a large network against its members, in sequence and at once (see detection/benchmark_command.py)."""

from detection.benchmark_command import Benchmark, print_benchmark
from engine.cli import parse, run

if __name__ == "__main__":
    run(lambda: print_benchmark(parse(Benchmark)))
