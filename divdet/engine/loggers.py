"""Where a run's numbers go besides metrics.jsonl: the loggers of ``train.loggers``."""

from collections.abc import Sequence
from importlib.util import find_spec

from divdet.engine.errors import UserError
from divdet.engine.local_loggers import CsvLogger, TensorBoardLogger
from divdet.engine.logger import Logger
from divdet.engine.mlflow_logger import MlflowLogger
from divdet.engine.wandb_logger import WandbLogger

_LOGGERS = {"tensorboard": TensorBoardLogger, "csv": CsvLogger, "wandb": WandbLogger, "mlflow": MlflowLogger}
_EXTRAS = ("wandb", "mlflow")  # extras, packages and loggers have the same names


def check_loggers(names: Sequence[str]) -> None:
    """Raises UserError for a logger whose package is not installed, and for others beside ``none``."""
    if "none" in names and len(names) > 1:
        raise UserError("train.loggers has none beside others: leave out one or the other")
    for name in names:
        if name not in _EXTRAS:
            continue
        spec = find_spec(name)
        # W&B writes a folder named wandb, which Python takes for a package without code where it is on the path.
        if spec is None or spec.origin is None:
            raise UserError(f"train.loggers has {name}, which is not installed: pip install 'divdet[{name}]'")


def build_loggers(names: Sequence[str], log_every: int) -> list[Logger]:
    """The loggers of these names, each once; ``none`` is none."""
    return [_LOGGERS[name](log_every) for name in dict.fromkeys(names) if name != "none"]
