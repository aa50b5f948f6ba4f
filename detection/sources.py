"""What a detector looks at: image files, folders, patterns, lists, addresses, videos and cameras."""

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from divdet.engine.addresses import is_address, path_of, serves_stream
from divdet.engine.errors import UserError, printable
from divdet.engine.words import counted

# What OpenCV decodes. HDR and PFM are not among them: they hold no 8- or 16-bit pixels.
_FORMATS = (
    "apng avif bmp dib gif j2c j2k jfif jp2 jpc jpe jpeg jpf jpg jpx mpo pam pbm pgm png pnm ppm ras tif tiff webp"
)
IMAGE_SUFFIXES = frozenset(f".{name}" for name in _FORMATS.split())
_VIDEO_FORMATS = "asf avi m2ts m4v mjpeg mkv mov mp4 mpeg mpg mts ts webm wmv"
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _VIDEO_FORMATS.split())
MOST_LISTED = 10_000_000  # lines on stdin, which may have no end
_LIVE_SUFFIXES = VIDEO_SUFFIXES | {".m3u8", ".mjpg", ".mpd", ".sdp"}
_LIVE = ("rtsp://", "rtsps://", "rtmp://", "udp://", "tcp://", "camera:")


def is_live(source: str) -> bool:
    """Whether a source is a camera or a stream, which has no end."""
    if is_address(source):
        return _suffix(path_of(source)) in _LIVE_SUFFIXES
    return source.lower().startswith(_LIVE)


def is_video(source: str) -> bool:
    """Whether a source is a video file, a camera or a stream."""
    return is_live(source) or (_suffix(source) in VIDEO_SUFFIXES and not os.path.isdir(source))


def is_served_stream(source: str) -> bool:
    """Whether an address that names no image, such as ``http://camera/?action=stream``, answers with a stream."""
    return is_address(source) and _suffix(path_of(source)) not in IMAGE_SUFFIXES and serves_stream(source)


def explained(path: str, error: UserError) -> UserError:
    """What to do with a folder, pattern or video that was given as an image; for other paths the error itself."""
    if os.path.isdir(path) or ("*" in path and "://" not in path):
        return UserError(f"{path}: is no single image: give a list, such as sorted(glob.glob('photos/*.jpg'))")
    if is_video(path):
        return UserError(f"{path}: is a video: its frames are looked at by detector.stream(…), or by divdet detect")
    return error


def find_images(sources: Sequence[str | Path], leave_out: Path | None = None) -> list[str]:
    """Returns the image files and addresses that ``sources`` name, each once, in order.

    Prints how many files of other kinds were skipped.

    Args:
        sources: image files; folders, of which images are taken by suffix and sorted by name, all the way down, but for
            hidden ones and links to folders; glob patterns (``**`` for any depth), likewise; http(s) addresses of
            images; and ``-``, a list of files and addresses on stdin, one a line. UserError if one of them has no
            image.
        leave_out: a folder whose files are not taken from the folders around it: where pictures are written.
    """
    found: dict[str, str] = {}
    left_out = os.path.realpath(leave_out) if leave_out else None
    for source in sources:
        for image in _listed() if str(source) == "-" else _images_of(str(source), left_out):
            found.setdefault(image if is_address(image) else os.path.abspath(image), image)
    return list(found.values())


def _listed() -> Iterator[str]:
    """The files that stdin lists. All that are missing are named at once."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")  # as names of files are read
    listed = [line.rstrip("\r\n") for line in islice(sys.stdin, MOST_LISTED + 1)]
    if len(listed) > MOST_LISTED:
        raise UserError(f"-: stdin lists more than {MOST_LISTED:,} images: give it in parts")
    listed = [line for line in listed if line.strip()]
    if not listed:
        raise UserError("-: stdin lists no image: write a file or an address on each line")
    missing = [line for line in listed if not (is_address(line) or os.path.isfile(line))]
    if missing:
        raise UserError(f"-: {len(missing)} of the {len(listed)} lines on stdin name no file, the first: {missing[0]}")
    yield from listed


def _images_of(source: str, left_out: str | None) -> list[str]:
    """The images of a source; says how many other files it has."""
    if is_address(source) or os.path.isfile(source):
        return [source]
    if "://" in source:
        raise UserError(f"{source}: images come from http:// and https:// addresses, streams also from rtsp://")
    if left_out and os.path.isdir(source) and os.path.realpath(source) == left_out:
        raise UserError(f"{source}: pictures would be written among its images: choose another --output")
    skipped: Counter[str] = Counter()
    files = _files_below(source, left_out, skipped) if os.path.isdir(source) else _matching(source, left_out, skipped)
    images = []
    for path in files:
        if _suffix(path) in IMAGE_SUFFIXES:
            images.append(path)
        else:
            skipped[_suffix(path) or "without suffix"] += 1
    kinds = ", ".join(f"{count} {kind}" for kind, count in skipped.most_common(9))
    if not images:
        held = f" among {counted(len(files), 'file')} ({kinds})" if files else f" ({kinds})" if kinds else ""
        camera = f"; a camera is camera:{source}" if source.isdecimal() else ""
        raise UserError(
            f"{source}: no image found{held}: name an image file, a folder with images, or a quoted pattern{camera}"
        )
    if skipped:
        others = f"{skipped.total()} other{'s' * (skipped.total() > 1)}"
        print(printable(f"{source}: {counted(len(images), 'image')}; skipped {others} ({kinds})"))
    return images


def _matching(pattern: str, left_out: str | None, skipped: Counter[str]) -> list[str]:
    """The files that a pattern matches, sorted, each once: links may lead in circles."""
    files = {}
    for path in sorted(glob.iglob(pattern, recursive=True)):
        if not os.path.isfile(path):
            continue
        real = os.path.realpath(path)
        if left_out and real.startswith(left_out + os.sep):
            skipped["in the folder of results"] += 1
        else:
            files.setdefault(real, path)
    return list(files.values())


def _files_below(folder: str, left_out: str | None, skipped: Counter[str]) -> list[str]:
    """All files of a folder, sorted; counts what it leaves out."""
    files = []

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename}: the folder cannot be read: {error.strerror}")

    for parent, folders, names in os.walk(folder, onerror=fail):
        kept = []
        for name in folders:
            path = os.path.join(parent, name)
            if name.startswith("."):
                skipped["hidden folders"] += 1
            elif os.path.islink(path):
                skipped["links to folders"] += 1
            elif left_out and os.path.realpath(path) == left_out:
                skipped["folder of results"] += 1
            else:
                kept.append(name)
        folders[:] = kept
        files += [os.path.join(parent, name) for name in names if not name.startswith(".")]
    return sorted(files)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
