"""What the summary command prints, and what it refuses."""

import json
from typing import Any

import pytest

from classification.backbones.cost import summarize
from divdet.commands import summary as summary_command
from divdet.commands.network_settings import Summary
from divdet.commands.summary import print_summary
from divdet.engine.errors import UserError


def printed(capsys: pytest.CaptureFixture[str], *arguments: Any, **changes: Any) -> str:
    print_summary(Summary(*arguments, **changes))
    return capsys.readouterr().out


def test_a_network_is_divided_by_the_papers_counts_of_members(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, "cls", "resnet10_16", json=True))
    assert found["divisions"] == [{"members": s} | summarize("resnet10_16", s, "cifar100") for s in (1, 2, 4, 8)]
    assert found["refused"] == []
    lines = printed(capsys, "cls", "resnet10_16").splitlines()
    assert lines[0] == "resnet10_16 on cifar100"
    assert lines[1].split() == ["members", "1", "2", "4", "8"]
    assert lines[2].split() == ["params", *(f"{cost['params']:,}" for cost in found["divisions"])]


def test_refused_divisions_say_why_beside_those_that_are_possible(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary_command, "DIVISIONS", (1, 8, 16))  # the network has 8 groups
    found = json.loads(printed(capsys, "cls", "resnext29_8x64d", json=True))
    assert [cost["members"] for cost in found["divisions"]] == [1, 8]
    reason = "8 groups cannot be divided into 16 members: S may be at most 8"
    assert found["refused"] == [{"members": 16, "reason": reason}]
    lines = printed(capsys, "cls", "resnext29_8x64d").splitlines()
    assert lines[1].split() == ["members", "1", "8"]
    assert lines[-1] == f"  members 16: {reason}"
    with pytest.raises(UserError, match="8 groups cannot be divided into 16"):
        print_summary(Summary("cls", "resnext29_8x64d", members=16))


@pytest.mark.parametrize("task", ["cls", "det"])
def test_a_list_of_models_is_as_many_members(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm")
    found = json.loads(printed(capsys, task, "timm:resnet10t,mobilenetv3_small_050", json=True))
    assert [cost["members"] for cost in found["divisions"]] == [2]
    assert len(found["divisions"][0]["params_per_member"]) == 2


def test_image_size_scales_the_convolutions_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    small, large = (json.loads(printed(capsys, "cls", "wrn16_8", 1, image_size=size, json=True)) for size in (None, 64))
    classifier = 512 * 100
    assert large["params"] == small["params"]
    assert large["macs"] - classifier == 4 * (small["macs"] - classifier)
    assert printed(capsys, "cls", "wrn16_8", 1, image_size=64).startswith("wrn16_8 on cifar100 at 64 pixels\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "det", "image_size": 30}, "--image_size is 30: SSD300 takes 257 to 4096 pixels"),
        ({"image_size": 0}, "image_size must be 1 to"),
        ({"image_size": -32}, "image_size must be 1 to"),
        ({"image_size": 10**30}, "image_size must be 1 to"),
        ({"backbone": "senet154", "image_size": 1}, "senet154 cannot take images of 1 pixels"),
        ({"backbone": None}, "--backbone is missing"),
        ({"task": "det", "dataset": "0"}, "give coco or the number of foreground classes"),
    ],
)
def test_what_cannot_be_counted_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        print_summary(Summary(**{"backbone": "wrn50_2"} | changes))
