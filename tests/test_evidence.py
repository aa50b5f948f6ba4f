"""The page of evidence says what the result files say."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.evidence import page, run
from benchmarks.evidence.figures import Figures
from benchmarks.evidence.resampling import RESAMPLES, resampled_ap
from benchmarks.evidence.rows import ROWS, Row
from detection.data.coco import load_annotations
from detection.data.coco_results import load_results
from divdet.engine.errors import UserError

DOCS = Path(__file__).parents[1] / "docs"


def write(folder: Path, row: str, seed: int, members: list[float], ensemble: float, **fields: Any) -> None:
    result = {
        "row": row,
        "task": "cls",
        "data": "some.npz",
        "members": len(members),
        "seed": seed,
        "metrics": {"top1": ensemble, "members": [{"top1": one} for one in members], "combine": {"max": ensemble - 1}},
        "recipe": {"train": {"epochs": 2}},
        "cost": {"params": 2_000_000, "gflops": 0.5},
        "minutes": None,
        **fields,
    }
    (folder / f"{row}-{seed}.json").write_text(json.dumps(result))


@pytest.fixture
def figures(tmp_path: Path) -> Figures:
    write(tmp_path, "a_s1", 0, [70.0], 70.0)
    write(tmp_path, "a_s1", 1, [72.0], 72.0)
    write(tmp_path, "a_s2", 0, [70.0, 69.0], 73.0, minutes=5.0)
    write(tmp_path, "a_s2", 1, [71.0, 73.0], 75.0)
    write(tmp_path, "b_s2", 0, [60.0, 61.0], 64.0)
    write(tmp_path, "a_other_s1", 0, [50.0], 50.0)
    return Figures(tmp_path, {"a_s1": "a_s1", "a_s2": "a_s1", "b_s2": "a_s1", "a_other_s1": "a_s1"})


def test_figures_of_a_row(figures: Figures) -> None:
    assert figures.mean("a_s1", "top1") == "71.00 ± 1.41"
    assert figures.mean("a_s2", "members") == "70.75 ± 1.77"
    assert figures.values("a_s2", "gain") == [3.0, 2.0]
    assert figures.mean("a_s2", "max", 1) == "73.0 ± 1.4"
    assert figures.mean("b_s2", "top1") == "64.00"  # of one run, no spread
    assert figures.average("a_s2") == 74.0
    assert figures.mean("a_s1", "gain") == "–"
    assert figures.values("a_s2", "minutes") == [5.0]  # of runs that went through
    assert figures.span("*_s2", "gain") == "2.00 to 3.00"
    assert figures.mean("a_s2", "params", 1) == "2.0 ± 0.0"


def test_differences_are_of_runs_with_the_same_seed(figures: Figures) -> None:
    # 73 − 70 and 75 − 72
    assert figures.differences("a_s2", "a_s1") == [3.0, 3.0]
    assert figures.above("a_s2") == "+3.00"  # no spread, no interval
    assert figures.above("b_s2") == "-6.00"  # its seed 0 against a_s1's
    assert figures.above("a_s1") == "–"
    figures.rows["a_s2"][1]["metrics"]["top1"] = 73.0
    # 2 ± t · 1.4142 / √2, with t = 12.7062 at 97.5 % of one degree of freedom
    assert figures.above("a_s2") == "+2.00 (-10.71 to +14.71)"
    # the mean of the members 69.5 and 72 less those of the ensembles
    assert figures.difference("a_s2", "a_s1", "members", "top1") == "-0.25 (-3.43 to +2.93)"


def test_rows_at_several_widths(tmp_path: Path) -> None:
    for row in ("some_w128_s1", "some_w16_s4", "some_w16_s1", "other_s1", "some_w16_views_s4"):
        write(tmp_path, row, 0, [70.0], 70.0)
    found = Figures(tmp_path, {}).widths()
    assert found == {"some": {16: {1: "some_w16_s1", 4: "some_w16_s4"}, 128: {1: "some_w128_s1"}}}
    assert list(found["some"]) == [16, 128]


def test_runs_of_another_recipe_are_refused(figures: Figures, tmp_path: Path) -> None:
    write(tmp_path, "a_s1", 2, [72.0], 72.0, recipe={"train": {"epochs": 3}})
    with pytest.raises(UserError, match=r"a_s1-2\.json"):
        Figures(tmp_path, {})


def test_damaged_results_are_named(tmp_path: Path) -> None:
    for text in ('{"row": "a_s1", ', "{}", "[]"):
        (tmp_path / "a_s1-0.json").write_text(text)
        with pytest.raises(UserError, match=r"a_s1-0\.json"):
            Figures(tmp_path, {})


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)
def test_rows_are_compared_with_an_undivided_network_of_their_kind(row: Row) -> None:
    whole = ROWS[row.whole]
    assert whole.members == 1
    assert (whole.config, whole.data, whole.categories) == (row.config, row.data, row.categories)
    assert not row.start or whole.start
    backbones = [[word for word in one.words if word.startswith("--model")] for one in (row, whole)]
    assert backbones[0] == backbones[1] or all("=timm:" in words[0] for words in backbones)  # of other sizes


@pytest.mark.parametrize("name", ["tiny_sliced_s1", "tiny_sliced_s2"])
def test_a_single_network_is_trained_on_and_several_take_slices(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(run, "tool", lambda *words: started.append(" ".join(map(str, words))))
    run.train(ROWS[name], 2, tmp_path, tmp_path)
    start = "divide_from" if name.endswith("s2") else "pretrained"  # model.divide_from refuses one member
    assert f"--model.{start} {tmp_path / 'tiny_large_s1-2' / 'last.pt'}" in started[1]
    assert len(started) == 2


def test_unknown_figures_are_errors(figures: Figures, tmp_path: Path) -> None:
    text = tmp_path / "conclusions.md"
    for wrong in ("{{ mean('c_s2', 'top1') }}", "{{ mean('a_s2', 'AP') }}", "{{ median('a_s2', 'top1') }}"):
        text.write_text(wrong)
        with pytest.raises(Exception, match=r"c_s2|AP|median"):
            page.conclusions(figures, text)
    text.write_text("S=2 has {{ mean('a_s2', 'top1', 1) }} %.\n")
    assert page.conclusions(figures, text) == "S=2 has 74.0 ± 1.4 %."


def test_the_page_is_that_of_the_results(tmp_path: Path) -> None:
    page.main(["--output", str(tmp_path)])
    assert (tmp_path / "evidence.md").read_text() == (DOCS / "evidence.md").read_text(), (
        "results and page differ: python -m benchmarks.evidence.page"
    )
    for picture in (tmp_path / "pictures").iterdir():
        assert (DOCS / "pictures" / picture.name).exists()


def test_resampled_ap_is_that_of_the_drawn_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    objects, found = [], []
    for image in range(4):
        for _ in range(3):
            box = [*rng.uniform(0, 60, 2), *rng.uniform(20, 40, 2)]
            objects.append((image, box))
            found.append((image, [side + rng.normal(0, 3) for side in box], rng.uniform()))

    def coco(drawn: Sequence[int], folder: Path) -> tuple[Path, Path]:
        """The same image drawn twice as two images."""
        truth = {
            "images": [
                {"id": new, "file_name": f"{new}.png", "width": 100, "height": 100} for new in range(len(drawn))
            ],
            "categories": [{"id": 7, "name": "cell"}],
            "annotations": [],
        }
        results = []
        for new, old in enumerate(drawn):
            for image, box in objects:
                if image == old:
                    one = {"image_id": new, "category_id": 7, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                    truth["annotations"].append({**one, "id": len(truth["annotations"]) + 1})
            results += [
                {"image_id": new, "category_id": 7, "bbox": box, "score": score}
                for image, box, score in found
                if image == old
            ]
        folder.mkdir()
        (folder / "truth.json").write_text(json.dumps(truth))
        (folder / "results.json").write_text(json.dumps(results))
        return folder / "truth.json", folder / "results.json"

    truth, results = coco(range(4), tmp_path / "all")
    annotations = load_annotations(truth, None)
    numbers = resampled_ap(annotations, load_results(results, annotations))
    for k, drawn in list(enumerate(np.random.default_rng(0).integers(4, size=(RESAMPLES, 4))))[:5]:
        truth, results = map(str, coco(drawn, tmp_path / str(k)))
        reference = COCO(truth)
        evaluation = COCOeval(reference, reference.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert numbers[k] == pytest.approx(evaluation.stats[0], abs=6e-6)  # of five digits
    assert len(set(numbers)) > 10
