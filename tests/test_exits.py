"""Runs that an error ends, with data workers on: one line, the exit code, and no process that stays."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from detection.data.synthetic import generate
from tests.processes import ROOT, command, end_after_error, environment

LIMIT = 40  # seconds, on a busy machine; what hangs does so for ever


def check_end(words: list[str], code: int, named: str, **variables: str) -> None:
    found, text, seconds = end_after_error(words, LIMIT, **variables)
    assert seconds < math.inf, f"killed: {text}"
    assert found == code, text
    assert any(line.startswith("error: ") and named in line for line in text.splitlines()), text
    assert code != 2 or "Traceback" not in text, text


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words of train_det.py on images of which the third for validation is cut off."""
    folder = tmp_path_factory.mktemp("data")
    generate(folder, 4, 4, seed=0)
    damaged = folder / "images/val/000003.jpg"
    damaged.write_bytes(damaged.read_bytes()[:300])
    words = ["--model.backbone=resnet10_16", "--device=cpu", "--train.epochs=1", "--train.batch_size=2"]
    for split in ("train", "val"):
        words.append(f"--data.{split}_images={folder / 'images' / split}")
        words.append(f"--data.{split}_annotations={folder / f'annotations/instances_{split}.json'}")
    return [*words, "--train.workers=1", "--data.cache=false", "--data.check=false"]  # faults come in the midst


@pytest.fixture(scope="module")
def stopped(recipe: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose first validation fails, which holds the epoch's weights."""
    output = tmp_path_factory.mktemp("runs") / "det"
    check_end(command("train_det.py", *recipe, f"--output={output}"), 2, "000003.jpg")
    return output


def test_a_damaged_validation_image_ends_training_and_evaluation(stopped: Path, tmp_path: Path) -> None:
    words = command("eval_det.py", f"--checkpoint={stopped / 'last.pt'}", f"--output={tmp_path}")
    check_end(words, 2, "000003.jpg", OMP_NUM_THREADS="2")  # of which one is left to a worker


def test_a_damaged_image_ends_all_processes_of_torchrun(recipe: list[str], tmp_path: Path) -> None:
    words = command("train_det.py", *recipe, "--train.workers=2", f"--output={tmp_path / 'run'}", processes=2)
    check_end(words, 1, "000003.jpg")


FORKING = """
import os, signal, sys, warnings
import cv2, torch
from detection import Detector
from detection.prediction_settings import RuntimeSettings
from detection.sources import find_images

warnings.simplefilter("ignore")
torch.set_num_threads(2)
cv2.setNumThreads(2)
images = find_images(sys.argv[2:])
settings = [RuntimeSettings(concurrency=how) for how in ("sequential", "threads")]
detectors = [Detector.load(sys.argv[1], "cpu", run=run) for run in settings]
other = Detector.load(sys.argv[1], "cpu")
other.network = torch.nn.Identity()  # stands for another runtime
before = [detector.predict(images) for detector in detectors]
if not (child := os.fork()):
    signal.alarm(60)
    for detector, expected in zip(detectors, before):
        for one, two in zip(detector.predict(images), expected, strict=True):
            torch.testing.assert_close(one.boxes, two.boxes, rtol=1e-3, atol=1e-2)
    try:
        other.predict(images)
    except Exception as error:
        print(error)
    sys.exit()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_process_forked_after_prediction_predicts(stopped: Path, recipe: list[str]) -> None:
    images = recipe[4].partition("=")[2]
    words = [sys.executable, "-c", FORKING, str(stopped / "last.pt"), images]
    done = subprocess.run(words, env=environment(OMP_NUM_THREADS="2"), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the detector was loaded by another process"), done.stdout


# What Windows lacks or refuses, as far as Python's own modules run without it; sigtimedwait is what macOS lacks
WINDOWS = """
import errno, fcntl, multiprocessing, os, signal

multiprocessing.set_start_method("spawn")
synchronize = os.fsync

def fsync(file):
    if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")
    synchronize(file)

os.fsync = fsync
del os.setpgrp, os.killpg, os.sched_getaffinity, signal.sigtimedwait, signal.sigwaitinfo
"""


def test_training_where_windows_functions_are_missing(recipe: list[str], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WINDOWS)
    words = command("train_det.py", *recipe, f"--output={tmp_path / 'run'}")
    check_end(words, 2, "000003.jpg", PYTHONPATH=f"{tmp_path}:{ROOT}", PYTHONIOENCODING="cp1252")
    assert (tmp_path / "run/last.pt").exists()


NO_TEMPORARY_FOLDER = """
import tempfile

tempfile._candidate_tempdir_list = lambda: ["/proc/none"]
"""


def test_training_without_a_folder_for_temporary_files(recipe: list[str], tmp_path: Path) -> None:
    """As in a container whose file system is read-only: batches would never come from workers."""
    (tmp_path / "sitecustomize.py").write_text(NO_TEMPORARY_FOLDER)
    words = command("train_det.py", *recipe, f"--output={tmp_path / 'run'}")
    # torch's compiler, which looks for such a folder first, has its own
    check_end(words, 2, "set TMPDIR", PYTHONPATH=f"{tmp_path}:{ROOT}", TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"))
