"""detect and eval-det in several processes: the same bytes as one, also after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from divdet.commands.partial_results import PartialResults
from divdet.engine.distributed import World
from divdet.engine.errors import UserError
from tests.detection.generated import write_detector
from tests.processes import command, environment, run

IMAGES, BATCH = 23, 2


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and annotated images of several sizes, one of which cannot be read by detect."""
    folder = tmp_path_factory.mktemp("case")
    write_detector(folder / "best.pt", 2, {"id": 1, "name": "square"})
    random, images, boxes = np.random.default_rng(0), [], []
    (folder / "photos/deep").mkdir(parents=True)
    for number in range(IMAGES):
        size = (60 + number, 80)
        name = f"deep/{number}.jpg" if number % 2 else f"{number}.jpg"
        Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(folder / "photos" / name)
        images.append({"id": number, "file_name": name, "width": 80, "height": size[0]})
        boxes.append({"id": number, "image_id": number, "category_id": 1, "bbox": [5, 5, 40, 40]})
    truth = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "square"}]}
    (folder / "truth.json").write_text(json.dumps(truth))
    return folder


def words(case: Path, output: str, *more: object) -> list[object]:
    common = ["--checkpoint", case / "best.pt", case / "photos", "--score_threshold=0.5", f"--batch_size={BATCH}"]
    return [*common, "--device=cpu", "--save=jsonl,csv", "--output", case / output, *more]


def check_same(one: Path, other: Path) -> None:
    files = sorted(path.relative_to(one) for path in one.rglob("*"))
    assert sorted(path.relative_to(other) for path in other.rglob("*")) == files
    assert len(files) == IMAGES + 3  # pictures, json, jsonl, csv
    assert all((one / file).read_bytes() == (other / file).read_bytes() for file in files)


@pytest.fixture(scope="module")
def whole(case: Path) -> Path:
    run("detect.py", *words(case, "whole"))
    return case / "whole"


def test_the_lines_say_what_was_found(whole: Path) -> None:
    entries = json.loads((whole / "detections.json").read_text())
    lines = [json.loads(line) for line in (whole / "detections.jsonl").read_text().splitlines()]
    rows = (whole / "detections.csv").read_text().splitlines()
    assert len(lines) == IMAGES
    assert len(rows) == 1 + len(entries) > 20
    named = [
        {"image_id": line["image_id"], "file_name": line["file_name"]} | found
        for line in lines
        for found in line["objects"]
    ]
    assert named == entries
    x, y, width, height = entries[0]["bbox"]
    assert rows[1].split(",")[-4:] == [str(round(value, 2)) for value in (x, y, x + width, y + height)]


def test_killed_processes_go_on_in_another_number(case: Path, whole: Path) -> None:
    slow = command("detect.py", *words(case, "killed", "--workers=0"), processes=2)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(slow, env=environment(), start_new_session=True, **streams)
    limit, files = time.monotonic() + 120, [case / f"killed/detections.part{number}.jsonl" for number in ("", 1)]
    while not all(file.exists() and file.read_bytes().count(b"\n") > 1 for file in files):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit
        time.sleep(0.01)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for number in [*map(int, workers), process.pid]:  # torchrun's workers are in groups of their own
        os.kill(number, signal.SIGKILL)
    process.wait()
    with open(files[1], "ab") as file:
        file.write(b'{"batch": 99, "images": [')  # as a power cut leaves it
    assert not (case / "killed/detections.json").exists()
    assert "resuming" in run("detect.py", *words(case, "killed", "--resume=auto"))
    check_same(whole, case / "killed")


def test_evaluation_in_two_processes_is_that_of_one(case: Path) -> None:
    data = ["--data.val_annotations", case / "truth.json", "--data.val_images", case / "photos", "--batch_size=2"]
    common = ["--checkpoint", case / "best.pt", *data, "--device=cpu"]
    for number in (1, 2):
        run("eval_det.py", *common, "--output", case / f"eval{number}", processes=number)
    for name in ("metrics.json", "detections.json"):
        assert (case / "eval1" / name).read_bytes() == (case / "eval2" / name).read_bytes()
    assert len(json.loads((case / "eval1/detections.json").read_text())) > 100


def test_partial_results_hold_what_was_whole(tmp_path: Path) -> None:
    settings = {"a": {"b": 1, "c": [1, 2]}}

    partial = PartialResults(tmp_path, settings, False, World())
    partial.add(3, [{"image_id": 1, "objects": []}], [])
    partial.add(0, [], ["broken"])
    list(partial.batches())
    code = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'ab'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    locking = [sys.executable, "-c", code, str(partial.path)]
    assert subprocess.run(locking, stderr=subprocess.DEVNULL).returncode  # no other process gets in
    partial._file.close()
    assert not subprocess.run(locking).returncode
    (tmp_path / "detections.part1.jsonl").write_bytes(partial.path.read_bytes().replace(b'"batch": 3', b'"batch": 7'))
    with open(partial.path, "ab") as file:
        file.write(bytes(100))
    partial = PartialResults(tmp_path, settings, True, World())
    assert partial.done == {0, 3, 7}
    assert [batch["batch"] for batch in partial.batches()] == [0, 3, 7]
    partial._file.close()
    with pytest.raises(UserError, match=r"part\.jsonl: holds 2 batches of a stopped run: add --resume auto"):
        PartialResults(tmp_path, settings, False, World())
    with pytest.raises(UserError, match="the stopped run had different d: continue it with the same"):
        PartialResults(tmp_path, settings | {"d": 1}, True, World())
    partial.remove()
    assert not list(tmp_path.iterdir())
