"""The convert command: a data set in another format."""

from collections.abc import Sequence
from pathlib import Path

from detection.data.faults import SHOWN, DataError, DataFault, write_faults
from detection.data.formats.layouts import find_splits
from detection.data.formats.read import ImagesNotFound, read_source
from detection.data.formats.write import write_data_set
from divdet.commands.settings import Convert
from divdet.engine.errors import UserError, printable
from divdet.engine.files import make_folder


def convert(config: Convert) -> None:
    """Reads all splits of a data set and writes them in another format.

    Raises:
        DataError: for faults of the data, those of all splits at once.
        UserError: for settings that cannot be used, or a folder that holds files.
    """
    path = one_source(config.sources)
    if not config.to:
        raise UserError("--to is missing: choose coco, yolo or voc")
    if not config.output:
        raise UserError("--output is missing: name the folder to write")
    sources = find_splits(path, config.format, config.images)
    faults: list[DataFault] = []
    splits = {}
    for split, source in sources.items():
        try:
            splits[split or "train"] = read_source(
                source, sources.values(), config.orientation, config.voc_origin, faults
            )
        except DataError as error:
            faults += error.faults
        except ImagesNotFound as error:
            raise UserError(f"{error}: name their folder by --images") from error
    if faults:
        raise data_error(list(dict.fromkeys(faults)), config.output)
    for split, annotations in splits.items():
        print(printable(f"{split}: {annotations.describe()}"))
    items, counts = write_data_set(splits, config.to, config.output, config.link)
    for what, count in counts.items():
        print(f"note: {count} {what}")
    written = ", ".join(f"{split} {len(images)}" for split, images in items.items())
    print(f"wrote {config.output} ({config.to}): images of {written}")


def data_error(faults: Sequence[DataFault], output: str) -> DataError:
    """The error for faults of the data; more than the message shows are written to a file beside the output."""
    if len(faults) <= SHOWN:
        return DataError(faults)
    written = Path(f"{Path(output)}-faults.txt")
    make_folder(written.absolute().parent)
    write_faults(faults, written)
    return DataError(faults, written)


def one_source(sources: list[str]) -> str:
    """The only positional argument."""
    if len(sources) != 1:
        raise UserError(f"give one data set, a file or a folder, not {len(sources)}")
    return sources[0]
