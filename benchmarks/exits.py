"""Gives runs an unusable image, and checks that they end at once.

    python -m benchmarks.exits                                       # everything, about ten minutes on two cores
    python -m benchmarks.exits det-validation --workers 1 --processes 2

Each run gets a file that is cut off, empty or of another size than annotated, at one stage: ``det-cache`` while images
are cached; ``-first`` and ``-last`` in the first and last batch of an epoch; ``-loss``: instead of a bad image a loss
that is not finite, an error of the main process; ``-validation`` after the first epoch; ``-evaluation`` by eval_det.py
and eval_cls.py; ``det-prediction`` by detect.py. Evaluation and prediction run in one process.

A run passes if it prints one line that names the file, exits with code 2 (torchrun: 1), and has ended with all its
processes within 10 s of that line. Prints a line per run; exit code 1 if any fails.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import torch

from detection.data.synthetic import generate
from divdet.engine.sampling import EpochSampler
from tests.processes import command, end_after_error, run

LIMIT = 10  # seconds
BATCH = 2
STAGES = [
    *(f"{task}-{stage}" for task in ("det", "cls") for stage in ("first", "last", "loss", "validation", "evaluation")),
    "det-cache",
    "det-prediction",
]
FAULTS: dict[str, Callable[[Path], object]] = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:300]),
    "empty": lambda path: path.write_bytes(b""),
    "of another size": lambda path: cv2.imwrite(str(path), cv2.imread(str(path))[1:]),
}


class Runs:
    """Sound data and checkpoints in ``folder``, and runs on damaged copies of the data."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        generate(folder / "sound", 8, 4, seed=0)
        for task in ("det", "cls"):
            run(f"train_{task}.py", *self._recipe(task, folder / "sound", 0), "--output", folder / task)

    def _recipe(self, task: str, data: Path, workers: int) -> list[str]:
        words = ["--model.backbone=resnet10_16", "--model.members=2", "--device=cpu", "--train.epochs=1"]
        words += [f"--train.batch_size={BATCH}", f"--train.workers={workers}"]
        if task == "cls":
            return [*words, "--data.dataset=folder", f"--data.root={data / 'crops'}", "--data.image_size=16"]
        for split in ("train", "val"):
            words.append(f"--data.{split}_images={data / 'images' / split}")
            words.append(f"--data.{split}_annotations={data / f'annotations/instances_{split}.json'}")
        return words

    def _images(self, task: str, split: str, data: Path) -> list[Path]:
        if task == "cls":
            return sorted((data / "crops" / split).rglob("*.jpg"))  # as torchvision's ImageFolder lists them
        listed = json.loads((data / f"annotations/instances_{split}.json").read_text())["images"]
        return [data / "images" / split / image["file_name"] for image in listed]

    def run(self, stage: str, workers: int, processes: int) -> tuple[str, int, str, float, bool]:
        """Returns the fault, exit code, output, seconds from the error to the end, and whether all is right."""
        task, _, stage = stage.partition("-")
        self.number += 1
        data, output = self.folder / f"data{self.number}", self.folder / f"run{self.number}"
        shutil.copytree(self.folder / "sound", data)
        images = self._images(task, "val" if stage in ("validation", "evaluation", "prediction") else "train", data)
        at = len(images) // 2
        if stage in ("first", "last"):
            order = list(EpochSampler(len(images), BATCH, 0, 1, 0, processes))
            at = order[0 if stage == "first" else -1][1]
        faults = list(FAULTS)[: 2 if task == "cls" or stage == "prediction" else 3]  # others have no size that is known
        fault = "loss" if stage == "loss" else faults[self.number % len(faults)]
        if stage != "loss":
            FAULTS[fault](images[at])
        named = "is not finite" if stage == "loss" else images[at].name
        threads = "1"
        checkpoint = f"--checkpoint={self.folder / task / 'last.pt'}"
        if stage == "prediction":
            words = command("detect.py", checkpoint, f"--output={output}", data / "images/val")
        elif task == "det" and stage == "evaluation":
            threads = str(workers + 1)  # eval_det.py has no setting: all but one of its threads become workers
            words = command("eval_det.py", checkpoint, f"--output={output}", *self._recipe(task, data, 0)[-2:])
        elif stage == "evaluation":
            options = (f"--output={output}", f"--workers={workers}", "--data.dataset=folder", "--batch_size=2")
            words = command("eval_cls.py", checkpoint, *options, f"--data.root={data / 'crops'}")
        else:
            words = [*self._recipe(task, data, workers), f"--output={output}"]
            words += [f"--data.cache={'true' if stage == 'cache' else 'false'}"] * (task == "det")
            words += ["--train.lr=1e30"] * (stage == "loss")
            words = command(f"train_{task}.py", *words, processes=processes)
        code, text, seconds = end_after_error(words, LIMIT, OMP_NUM_THREADS=threads)
        lines = [line for line in text.splitlines() if line.startswith("error: ") and named in line]
        right = code == (1 if processes > 1 else 2) and len(lines) >= 1 and seconds <= LIMIT
        shutil.rmtree(data)
        return fault, code, text, seconds, right and (processes > 1 or "Traceback" not in text)


def main() -> None:
    """Runs the stages that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", choices=[*STAGES, []], help="default: all")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="data-loading processes")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="of torchrun where more than 1")
    arguments = parser.parse_args()
    wrong = 0
    print(f"{'stage':<16} {'workers':>7} {'processes':>9}  {'image':<16} {'code':>4} {'ended after':>11}")
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder))
        for stage in arguments.stages or STAGES:
            alone = stage.endswith(("evaluation", "prediction"))
            most = {"det-prediction": 0, "det-evaluation": torch.get_num_threads() - 1}
            for processes in [1] if alone else arguments.processes:
                for workers in [number for number in arguments.workers if number <= most.get(stage, number)]:
                    fault, code, text, seconds, right = runs.run(stage, workers, processes)
                    wrong += not right
                    row = f"{stage:<16} {workers:>7} {processes:>9}  {fault:<16} {code:>4} {seconds:>9.1f} s"
                    print(row if right else f"{row}  WRONG:\n{text}", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
