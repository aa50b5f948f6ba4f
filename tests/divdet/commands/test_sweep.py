"""The sweep command: what it writes, what it keeps, and what it refuses."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from detection import create_ssd
from detection.evaluation.setting_search import Measured, Search, search
from detection.prediction_settings import PostprocessSettings
from detection.saved import saved_settings
from detection.settings import ModelSettings, TrainDetection
from divdet.commands import COMMANDS
from divdet.engine import checkpoint
from divdet.engine.cli import to_dict
from divdet.engine.errors import UserError
from tests.detection.generated import shapes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of two members with fresh weights, which knows its data, and a low threshold that some scores pass."""
    folder = tmp_path_factory.mktemp("detector")
    torch.manual_seed(0)
    data = shapes(folder / "shapes")
    categories = json.loads(Path(data.val_annotations).read_text())["categories"]
    model = create_ssd("resnet10_16", 2, num_classes=len(categories))
    postprocess = PostprocessSettings(score_threshold=0.2, candidates_per_class=20)
    config = to_dict(TrainDetection(model=ModelSettings("resnet10_16", 2), data=data, postprocess=postprocess))
    meta = {"categories": categories}
    torch.save({"kind": "detection", "model": model.state_dict(), "config": config, "meta": meta}, folder / "best.pt")
    return folder / "best.pt"


def run(trained: Path, output: Path, *words: str) -> dict[str, Any]:
    argv = ["--checkpoint", str(trained), "--device", "cpu", "--output", str(output), *words]
    command = COMMANDS["sweep"]
    return command.call(command.parse(argv))


def planted(*arguments: Any) -> Search:
    """A search that ends with something better than fresh weights can have."""
    found = search(*arguments)
    found.tried.append((replace(found.start, nms_iou=0.2, member_weights=[1.0, 0.5]), Measured(0.9)))
    return found


def test_finds_writes_and_keeps(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("divdet.commands.sweep.search", planted)
    before, tuned = trained.read_bytes(), tmp_path / "new/tuned.pt"
    words = ("--fusion_method", "wbf", "--nms_iou", "0.2,0.9", "--fusion_iou", "0.3", "--fusion_conf", "avg,max")
    words += ("--score_threshold", "0.1", "--weights", "2", "--write", str(tuned))
    content = run(trained, tmp_path, *words)
    assert json.loads((tmp_path / "sweep.json").read_text()) == content
    assert content["images"] == {"chosen_on": 3, "held_out": 2, "seed": 0}
    assert len(content["tried"]) >= 8
    today, best = content["today"], content["best"]
    assert content["tried"][0]["settings"] == today["settings"]
    assert best["value"] == max(one["value"] for one in content["tried"]) > today["value"]
    assert content["gain"]["value"] == pytest.approx(best["held_out"] - today["held_out"])
    # The copy is the same detector with other settings; the source is as it was
    assert trained.read_bytes() == before
    source, copy = checkpoint.load(trained), checkpoint.load(tuned)
    assert all(torch.equal(source.model[name], weight) for name, weight in copy.model.items())
    assert asdict(saved_settings(copy)[0]) == best["settings"]
    assert source.config | {"postprocess": best["settings"]} == copy.config
    assert best["settings"]["member_weights"] == [1.0, 0.5]
    printed = capsys.readouterr().out
    assert "found: --postprocess.nms_iou 0.2 --postprocess.member_weights [1.0,0.5]" in printed
    assert f"{len(content['tried'])} settings of 3 images in " in printed
    assert "nms_iou         0.2 " in printed


def test_only_what_a_single_network_has_is_varied(trained: Path, tmp_path: Path) -> None:
    saved = checkpoint.load(trained)
    model = create_ssd("resnet10_16", 1, num_classes=len(saved.meta["categories"]))
    config = saved.config | {"model": to_dict(ModelSettings("resnet10_16", 1))}
    alone = tmp_path / "alone.pt"
    torch.save({"kind": "detection", "model": model.state_dict(), "config": config, "meta": saved.meta}, alone)
    content = run(alone, tmp_path, "--metric", "F1", "--nms_iou", "0.3", "--score_threshold", "[]")
    start = content["today"]["settings"]
    varied = {key for one in content["tried"] for key, value in one["settings"].items() if value != start[key]}
    assert varied == {"nms_iou", "class_agnostic"}
    assert content["metric"] == "F1"
    assert 0 <= content["today"]["score"] <= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nms_iou", "0.4,1.5"], r"nms_iou is 1\.5: choose a value from 0 to 1"),
        (["--nms_iou", "0.4;0.5"], "nms_iou is '0.4;0.5': give numbers such as 0.4,0.5,0.6"),
        (["--fusion_method", "wbf,wfb"], "fusion_method is 'wfb': choose one of wbf, nms"),
        (["--class_agnostic", "maybe"], "class_agnostic is 'maybe': choose true or false"),
        (["--weights", "-1,1"], "weights: a factor is -1.0"),
        (["--weights", "nan"], "weights: a factor is nan"),
        (["--rounds", "0"], "rounds is 0"),
        (["--metric", "mAP"], "metric"),
    ],
)
def test_values_that_no_option_has(trained: Path, tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(trained, tmp_path, *words)


def test_what_cannot_be_used_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--checkpoint is missing"):
        COMMANDS["sweep"].call(COMMANDS["sweep"].parse([]))
    with pytest.raises(UserError, match="suppression built in"):
        run(tmp_path / "detector.onnx", tmp_path)
    linked, before = trained.with_name("linked.pt"), trained.read_bytes()
    if not linked.exists():
        os.link(trained, linked)
    for path in (trained, trained.parent / "shapes/../best.pt", linked):
        with pytest.raises(UserError, match="the checkpoint itself"):
            run(trained, tmp_path, "--write", str(path))
    with pytest.raises(UserError, match="a folder: give a file"):
        run(trained, tmp_path, "--write", str(tmp_path))
    assert trained.read_bytes() == before
    data = saved_settings(checkpoint.load(trained))[1]
    truth = json.loads(Path(data.val_annotations).read_text())
    truth["images"] = truth["images"][:1]
    truth["annotations"] = [one for one in truth["annotations"] if one["image_id"] == truth["images"][0]["id"]]
    (tmp_path / "one.json").write_text(json.dumps(truth))
    one = ("--data.val_annotations", str(tmp_path / "one.json"), "--data.val_images", data.val_images)
    with pytest.raises(UserError, match="0 of 1 images are held out, and none of them has an object"):
        run(trained, tmp_path, *one)
