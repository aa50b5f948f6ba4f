"""How many faults of few causes are shown."""

from pathlib import Path

from detection.data.faults import SHOWN, DataError, DataFault, write_faults

CAUSES = [
    "has class {0}, but the list of names has {1} classes, counted from 0",
    "has '{0}.5x', which is no number; separate numbers by spaces",
    "has -0.{0}: coordinates are fractions",
    "has bbox [{0}, nan, {1}], which is not four finite numbers [x, y, width, height]",
    "is a training image, and validation has the same as data/images/{0}.jpg; keep it in one of them",
    "the image has {0}0x{1}1 pixels, but its annotations say {1}x{0}; use the images that were annotated",
    "has no bbox",
    "has no image_id",
    "has 4 columns: a line is class cx cy w h",
]


def faults(times: int, causes: list[str]) -> list[DataFault]:
    return [
        DataFault(f"labels/{number // 4}.txt", f"line {number % 4 + 1}", cause.format(number, number + 3))
        for cause in causes
        for number in range(times)
    ]


def test_each_cause_is_shown_once(tmp_path: Path) -> None:
    found = faults(40, CAUSES)
    head, *lines, last = str(DataError(found, tmp_path / "faults.txt")).split("\n  ")
    assert head == "360 faults in the data:"
    assert lines == [f"labels/0.txt: line 1 {cause.format(0, 3)} (and 39 more lines in 10 files)" for cause in CAUSES]
    assert last == f"{tmp_path / 'faults.txt'} lists them all"
    write_faults(found, tmp_path / "faults.txt")
    assert len((tmp_path / "faults.txt").read_text().splitlines()) == 360


def test_no_more_than_ten_causes_are_shown() -> None:
    causes = [*CAUSES, *(f"has no {name}" for name in ("area", "file_name", "id"))]
    *lines, last = str(DataError(faults(2, causes))).split("\n  ")
    assert len(lines) == 1 + SHOWN
    assert last == "… and 4 more"


def test_few_faults_are_all_shown() -> None:
    found = faults(SHOWN, CAUSES[:1])
    assert str(DataError(found)).split("\n  ")[1:] == [str(fault) for fault in found]


def test_more_are_counted_as_what_they_are() -> None:
    images = [DataFault(f"{number}.jpg", "", "the image file is empty; replace it") for number in range(12)]
    entries = [DataFault("a.json", f"annotations[{number}]", "has no bbox") for number in range(2)]
    lines = str(DataError([*images, *entries])).split("\n  ")
    assert lines[1:] == [
        "0.jpg: the image file is empty; replace it (and 11 more files)",
        "a.json: annotations[0] has no bbox (and 1 more entry)",
    ]
