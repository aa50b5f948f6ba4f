"""From the data settings of a recipe to checked annotations."""

from contextlib import suppress
from pathlib import Path

from detection.data.annotations import CocoAnnotations
from detection.data.check import NAMES, DataCheck, Split, check_data
from detection.data.faults import DataError, write_faults
from detection.settings import DataSettings, EvalDataSettings
from divdet.engine.distributed import World
from divdet.engine.errors import UserError
from divdet.engine.files import make_folder

FAULTS = "faults.txt"


def read_splits(data: DataSettings, folder: Path, world: World | None = None) -> tuple[CocoAnnotations, ...]:
    """Reads and checks the training and the validation split, and prints what they hold.

    Args:
        data: the settings. With ``skip_bad`` faulty entries and images are left out and counted; without ``check`` no
            image is decoded.
        folder: for faults.txt, which lists all faults.
        world: the processes of this run, of which the main one does the work.

    Raises:
        DataError: for faults of the data, all at once.
        UserError: for settings that cannot be used.
    """

    def prepare() -> tuple[CocoAnnotations, ...]:
        training, validation = _checked(data, ("train", "val"), folder)
        if all(record.crowd.all() for record in training.images):
            raise UserError(f"{training.path}: there is no object to learn from ({training.describe()})")
        return training, validation

    training, validation = (world or World()).await_main(prepare)
    print(f"training on {training.path}: {training.describe()}")
    print(f"evaluating on {validation.path}: {validation.describe()}")
    return training, validation


def read_validation(data: EvalDataSettings, folder: Path) -> CocoAnnotations:
    """Reads and checks the validation split alone; see ``read_splits``."""
    (validation,) = _checked(data, ("val",), folder)
    print(f"{validation.path}: {validation.describe()}")
    return validation


def _checked(data: EvalDataSettings, wanted: tuple[Split, ...], folder: Path) -> list[CocoAnnotations]:
    check = check_data(data, wanted, data.check)
    for note in check.notes:
        print(f"note: {note}")
    report_faults(check, folder, data.skip_bad)
    for split, annotations in check.splits.items():
        if not annotations.images:
            raise UserError(f"{annotations.path}: none of its {NAMES[split]} images is sound")
    return list(check.splits.values())


def report_faults(check: DataCheck, folder: Path, skip_bad: bool) -> None:
    """Writes faults.txt, or removes it where there are none; raises DataError unless they can be left out."""
    written = folder / FAULTS
    if not check.faults:
        with suppress(OSError):  # of an earlier run; a folder that cannot be written will be named later
            written.unlink()
        return
    make_folder(folder)
    write_faults(check.faults, written)
    if not (skip_bad and check.complete):
        raise DataError(check.faults, written)
    kinds = ", ".join(f"{count} {kind}" for kind, count in check.left_out.items())
    print(f"data.skip_bad left out {kinds}; {written} lists them")
