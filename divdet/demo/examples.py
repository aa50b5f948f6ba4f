"""Images to try a detector on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detection.data.formats.read import read_annotations
from detection.drawing import save_image, shrink
from detection.settings import DataSettings
from detection.sources import find_images
from divdet.demo.uploads import read_upload
from divdet.engine.errors import UserError

MOST_EXAMPLES = 12
_THUMBNAIL = 240  # pixels of the longer side


@dataclass(frozen=True)
class Example:
    """An image file, and a small copy of it."""

    path: Path
    thumbnail: Path


def example_files(folder: str | None, data: DataSettings) -> list[Path]:
    """Image files from all over a folder, or over the checkpoint's validation data if it is here.

    Raises:
        UserError: for a folder without images.
    """
    if folder is not None:
        return spread([Path(file) for file in find_images([folder])])
    try:
        images = read_annotations(data, "val", faults=[]).images
    except UserError as error:
        print(f"no examples: the checkpoint's validation data is not here ({error})")
        return []
    return spread([record.path for record in images if len(record.boxes)] or [record.path for record in images])


def spread(files: Sequence[Path], most: int = MOST_EXAMPLES) -> list[Path]:
    """At most so many files, evenly over all of them."""
    count = min(most, len(files))
    return [files[index * len(files) // count] for index in range(count)]


def make_examples(files: Sequence[Path], folder: Path, max_pixels: int, orient: bool) -> list[Example]:
    """Writes small copies into ``folder``; says which files cannot be read and leaves them out."""
    made = []
    for number, file in enumerate(files):
        try:
            image = read_upload(file, max_pixels, orient)
        except UserError as error:
            print(f"an example is left out: {error}")
            continue
        thumbnail = folder / f"example_{number}.jpg"
        save_image(thumbnail, shrink(image, _THUMBNAIL)[0])
        made.append(Example(file.resolve(), thumbnail))
    return made
