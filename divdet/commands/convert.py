"""The convert command: a data set in another format."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from detection.data.annotations import CocoAnnotations
from detection.data.check import DataCheck, check_images
from detection.data.coco_json import read_json
from detection.data.coco_values import as_list
from detection.data.faults import SHOWN, DataError, DataFault, write_faults
from detection.data.formats.folders import Source
from detection.data.formats.items import Item
from detection.data.formats.layouts import find_splits
from detection.data.formats.new_folder import refuse_filled
from detection.data.formats.read import ImagesNotFound, read_source
from detection.data.formats.write import write_data_set
from detection.data.prepare import FAULTS
from detection.data.tiles import TileRule, cut_data_set
from divdet.commands.data_settings import Convert
from divdet.engine.errors import UserError, printable
from divdet.engine.files import make_folder
from divdet.engine.words import counted


def convert(config: Convert) -> None:
    """Reads all splits of a data set and writes them in another format.

    With ``skip_bad`` what is sound is written, and faults.txt in the output folder lists the rest.

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
    splits, faults = _read(sources, config)
    if config.skip_bad and len(splits) == len(sources):
        for annotations in splits.values():
            if not annotations.images:
                raise UserError(f"{annotations.path}: none of its images is sound")
    elif faults:
        raise data_error(faults, config.output)
    for split, annotations in splits.items():
        print(printable(f"{split}: {annotations.describe()}"))
    if config.tile:
        items, counts = _write_tiles(splits, config)
    else:
        items, counts = write_data_set(splits, config.to, config.output, config.link)
    if faults:
        written = Path(config.output, FAULTS)
        write_faults(faults, written)
        print(f"skip_bad left out: {len(faults)} entries and images ({written} lists them)")
    if lost := sum(_segmentations(source) for source in sources.values()):
        counts["segmentations left out: boxes alone are written"] = lost
    for what, count in counts.items():
        print(f"note: {count} {what}")
    written = ", ".join(f"{split} {len(images)}" for split, images in items.items())
    print(f"wrote {config.output} ({config.to}): images of {written}")


def _write_tiles(splits: dict[str, CocoAnnotations], config: Convert) -> tuple[dict[str, list[Item]], Counter[str]]:
    """Writes tiles of the images; see ``detection.data.tiles``."""
    output = Path(config.output)
    refuse_filled(output)
    rule = TileRule(config.tile, config.overlap, config.min_share, config.empty_ratio, config.seed)
    make_folder(output.absolute().parent)
    with TemporaryDirectory(prefix=f".{output.name[:200]}.", dir=output.absolute().parent) as folder:
        tiles, counts = cut_data_set(splits, rule, Path(folder))
        for split, annotations in tiles.items():
            before = f"{counted(len(splits[split].images), 'image')} cut into tiles of {config.tile} pixels"
            print(printable(f"{split}: {before}: {annotations.describe()}"))
        items, further = write_data_set(tiles, config.to, output, link=True)
    return items, counts + further


def _read(sources: dict[str, Source], config: Convert) -> tuple[dict[str, CocoAnnotations], list[DataFault]]:
    """What is sound of each split, without those that cannot be used at all; and the faults of all."""
    faults: list[DataFault] = []
    splits = {}
    for split, source in sources.items():
        try:
            found = read_source(source, sources.values(), config.orientation, config.voc_origin, faults)
        except DataError as error:
            faults += error.faults
            continue
        except ImagesNotFound as error:
            raise UserError(f"{error}: name their folder by --images") from error
        check = DataCheck({"train": found})  # one at a time: what splits share is no fault here
        check_images(check)
        faults += check.faults
        splits[split or "train"] = check.splits["train"]
    return splits, list(dict.fromkeys(faults))


def _segmentations(source: Source) -> int:
    """How many outlines or masks a COCO file has."""
    again = source.format == "coco" and source.path.is_file()  # the shell's <(…) is read once
    entries = as_list(read_json(source.path)["annotations"], Counter()) if again else []
    return sum(bool(entry.get("segmentation")) for entry in entries if isinstance(entry, dict))


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
