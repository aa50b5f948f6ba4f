"""The commands: ``divdet NAME …`` and ``tools/name.py …``. Arguments are read before torch is imported."""

from collections.abc import Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, NoReturn

from divdet.engine.cli import parse, run
from divdet.engine.errors import UserError
from divdet.engine.tuning import keep_freed_memory, limit_threads, settle_waiting


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        help: what it does, in a line.
        settings: its dataclass of arguments, as ``module:name``, in a module that does not import torch.
        function: called with them, as ``module:name``.
        defaults: for ``divdet.engine.cli.parse``, as ``module:name``.
        positional: the field that takes the positional arguments.
    """

    help: str
    settings: str
    function: str
    defaults: str | None = None
    positional: str | None = None

    def parse(self, argv: Sequence[str] | None = None, prog: str | None = None) -> Any:
        """The settings that the arguments give; see ``divdet.engine.cli.parse``."""
        defaults = (lambda read: resolve_name(self.defaults)(read)) if self.defaults else None
        return parse(resolve_name(self.settings), argv, prog=prog, positional=self.positional, defaults=defaults)

    def call(self, settings: Any, **options: Any) -> Any:
        """Runs the command; returns what its function does, which takes ``options`` from Python alone."""
        return resolve_name(self.function)(settings, **options)


_SETTINGS = "divdet.commands.settings"
_DATA, _NETWORK = "divdet.commands.data_settings", "divdet.commands.network_settings"
COMMANDS = {
    "train-det": Command("trains a detector", "detection.settings:TrainDetection", "divdet.commands.train_det:train"),
    "eval-det": Command(
        "prints the 12 COCO numbers of a detector, or of a results file",
        f"{_SETTINGS}:EvaluateDetection",
        "divdet.commands.eval_det:evaluate",
        defaults="divdet.commands.eval_det:checkpoint_defaults",
    ),
    "detect": Command(
        "finds objects in images",
        f"{_SETTINGS}:Detect",
        "divdet.commands.detect:detect",
        defaults="divdet.commands.eval_det:checkpoint_defaults",
        positional="sources",
    ),
    "demo": Command(
        "serves a page on which a detector is tried",
        "divdet.commands.demo_settings:Demo",
        "divdet.commands.demo:demo",
        defaults="divdet.commands.fused_checkpoints:prediction_defaults",
    ),
    "serve": Command(
        "answers images sent by HTTP with the objects in them",
        "divdet.commands.serve_settings:Serve",
        "divdet.commands.serve:serve",
        defaults="divdet.commands.fused_checkpoints:prediction_defaults",
    ),
    "export": Command(
        "writes a detector as ONNX, OpenVINO or torch.export",
        f"{_SETTINGS}:Export",
        "divdet.commands.export:export",
        defaults="divdet.commands.export:checkpoint_defaults",
    ),
    "fuse": Command(
        "fuses results files of any detectors",
        f"{_SETTINGS}:Fuse",
        "divdet.commands.fuse:fuse",
        positional="results",
    ),
    "sweep": Command(
        "finds a detector's thresholds and way of fusion",
        f"{_SETTINGS}:Sweep",
        "divdet.commands.sweep:sweep",
        defaults="divdet.commands.sweep:checkpoint_defaults",
    ),
    "inspect-data": Command(
        "checks a data set and says what it is like",
        f"{_DATA}:InspectData",
        "divdet.commands.inspect_data:inspect_data",
    ),
    "train-cls": Command(
        "co-trains divided classifiers", "classification.settings:TrainClassification", "classification.training:train"
    ),
    "eval-cls": Command(
        "evaluates members and ensemble of a classifier",
        "classification.settings:EvaluateClassification",
        "divdet.commands.eval_cls:evaluate",
        defaults="divdet.commands.eval_cls:checkpoint_defaults",
    ),
    "convert": Command(
        "writes a data set as COCO, YOLO or Pascal VOC",
        f"{_DATA}:Convert",
        "divdet.commands.convert:convert",
        positional="sources",
    ),
    "split": Command(
        "divides a data set into training and validation",
        f"{_DATA}:Split",
        "divdet.commands.split:split",
        positional="sources",
    ),
    "summary": Command(
        "counts what a divided network costs", f"{_NETWORK}:Summary", "divdet.commands.summary:print_summary"
    ),
    "benchmark": Command(
        "times a network against its members, in sequence and at once",
        f"{_NETWORK}:Benchmark",
        "divdet.commands.benchmark:print_benchmark",
    ),
    "plan": Command(
        "times widths, S and runtimes here, and says which are worth their time",
        f"{_NETWORK}:Plan",
        "divdet.commands.plan:print_plan",
        positional="runs",
    ),
    "quickstart": Command(
        "runs the whole pipeline on generated images",
        f"{_NETWORK}:Quickstart",
        "divdet.commands.quickstart:quickstart",
    ),
    "import-checkpoint": Command(
        "imports the paper's published weights",
        f"{_NETWORK}:ImportCheckpoint",
        "divdet.commands.import_checkpoint:import_checkpoint",
    ),
}


def main(name: str, argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Runs a command and ends the process (see ``divdet.engine.cli.run``).

    Args:
        name: of ``COMMANDS``.
        argv: its arguments; by default the process's own.
        prog: what the user calls it; by default the script's name.
    """

    def call() -> None:
        limit_threads()  # before torch is loaded
        settle_waiting()
        keep_freed_memory()
        settings = COMMANDS[name].parse(argv, prog)
        try:
            COMMANDS[name].call(settings)
        except FileNotFoundError as error:  # in a container whose file system is read-only
            if not str(error.strerror).startswith("No usable temporary directory"):
                raise
            raise UserError("no folder for temporary files can be written: set TMPDIR to one that can") from error

    run(call)
