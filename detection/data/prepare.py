"""From the data settings of a recipe to checked annotations."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from detection.data.annotations import NAMES, CocoAnnotations, Split, by_path
from detection.data.category_match import match_categories
from detection.data.check import DataCheck, check_images, check_objects
from detection.data.faults import DataError, DataFault, write_faults
from detection.data.formats.read import Known, read_annotations
from detection.data.repeated_files import merge_repeated
from detection.settings import DataSettings, EvalDataSettings
from divdet.engine.distributed import World
from divdet.engine.errors import UserError
from divdet.engine.files import make_folder

FAULTS = "faults.txt"


def read_splits(
    data: DataSettings, folder: Path | None = None, world: World | None = None
) -> tuple[CocoAnnotations, ...]:
    """Reads and checks the training and the validation split, and prints what they hold.

    Args:
        data: the settings. With ``skip_bad`` faulty entries and images are left out and counted; without ``check`` no
            image is decoded.
        folder: for faults.txt, which lists all faults; None: they are only raised.
        world: the processes of this run, of which the main one does the work.

    Raises:
        DataError: for faults of the data, all at once.
        UserError: for settings that cannot be used.
    """
    if data.path and data.train_annotations and data.val_annotations:
        raise UserError(
            f"data.path is {data.path}, but data.train_annotations and data.val_annotations name both splits: set "
            "these to null, or leave data.path out"
        )

    def prepare() -> tuple[CocoAnnotations, ...]:
        return tuple(_checked(data, ("train", "val"), folder))

    training, validation = (world or World()).await_main(prepare)
    print(f"training on {training.path}: {training.describe()}")
    print(f"evaluating on {validation.path}: {validation.describe()}")
    return training, validation


def read_validation(data: EvalDataSettings, folder: Path | None, world: World | None = None) -> CocoAnnotations:
    """Reads and checks the validation split alone; see ``read_splits``."""
    return (world or World()).await_main(lambda: _checked(data, ("val",), folder))[0]


def named_splits(data: EvalDataSettings, known: Known) -> list[Split]:
    """The splits that the settings name; ``known`` keeps what was found."""
    found = {split for split in NAMES if getattr(data, f"{split}_annotations")}
    if data.path:
        found |= {name or "train" for name in known.find_splits(data.path, data.format)}
    if data.val_fraction is not None:
        found |= set(NAMES)
    return [split for split in NAMES if split in found]


def check_data(
    data: EvalDataSettings, wanted: Iterable[Split], need_images: bool = True, known: Known | None = None
) -> DataCheck:
    """Reads splits and, unless ``data.check`` is off, decodes all their images.

    ``need_images`` is whether the images must be there; ``known`` is what ``named_splits`` found.

    Raises:
        UserError: for settings that cannot be used. Faults of the data are returned.
    """
    check = DataCheck()
    known = known or Known()
    for split in wanted:
        faults: list[DataFault] = []
        try:
            check.splits[split] = read_annotations(data, split, faults, need_images, known)
        except UserError as error:
            faults += error.faults if isinstance(error, DataError) else [_fault_of(error)]
            check.lasting += faults
        else:
            check.lasting += [fault for fault in faults if fault.place.startswith("categories[")]
        check.leave_out(f"faulty {NAMES[split]} entries", faults)
    if data.check:
        check_images(check)
    if training := check.splits.get("train"):
        check.splits["train"] = training = merge_repeated(training)
    if len(check.splits) == 2:
        try:
            check.splits["val"] = match_categories(training.category_ids, training.names, check.splits["val"])
        except UserError as error:
            if not check.lasting:  # otherwise it may follow from a category with a fault
                check.lasting.append(_fault_of(error))
                check.leave_out("categories", check.lasting)
            del check.splits["val"]  # its labels mean other classes
    check_objects(check)
    return check


def _fault_of(error: UserError) -> DataFault:
    """An error as a fault of the file that it begins with; raises the error where it is about the settings."""
    file, _, what = str(error).partition(": ")
    if re.match(r"data\.\w+ ", str(error)) or not what:  # data.train_images is …, but not data.yaml: …
        raise error
    return DataFault(file, "", what)


def _checked(data: EvalDataSettings, wanted: tuple[Split, ...], folder: Path | None) -> list[CocoAnnotations]:
    check = check_data(data, wanted)
    for note in check.notes:
        print(f"note: {note}")
    _report_faults(check, folder, data.skip_bad)
    for split, held in check.splits.items():
        if not held.images:
            raise UserError(f"{held.path}: none of its {NAMES[split]} images is sound")
    return [by_path(held) for held in check.splits.values()]  # so that all formats train alike


def _report_faults(check: DataCheck, folder: Path | None, skip_bad: bool) -> None:
    """Writes faults.txt, or removes it where there are none; raises DataError unless they can be left out."""
    written = folder and folder / FAULTS
    if written and check.faults:
        make_folder(folder)
        write_faults(check.faults, written)
    elif written:
        with suppress(OSError):  # of an earlier run; a folder that cannot be written will be named later
            written.unlink()
    if not check.faults:
        return
    if skip_bad and check.lasting:
        lasting = dict.fromkeys(check.lasting)
        why = "; data.skip_bad cannot leave this out"
        raise DataError([fault._replace(what=fault.what + why) for fault in lasting], written)
    if not skip_bad:
        raise DataError(check.faults, written)
    kinds = "; ".join(f"{kind}: {count}" for kind, count in check.left_out.items())
    print(f"data.skip_bad left out: {kinds}" + (f" ({written} lists them)" if written else ""))
