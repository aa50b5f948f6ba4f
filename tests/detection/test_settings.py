"""The settings of post-processing: ranges, and the configuration library."""

import pytest

from detection.settings import PostprocessSettings
from divdet.engine.errors import UserError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("score_threshold", -0.1), ("score_threshold", 1.5), ("score_threshold", float("nan")), ("nms_iou", 2.0),
        ("fusion_iou", -1.0), ("nms_iou", None), ("fusion_skip", 1.1), ("candidates_per_class", 0),
        ("max_per_member", 0),
    ],
)  # fmt: skip
def test_settings_out_of_range_name_their_field(field: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"postprocess\.{field} is {value}"):
        PostprocessSettings(**{field: value})


def test_an_unknown_rule_of_fusion_is_refused() -> None:
    with pytest.raises(UserError, match=r"postprocess\.fusion_conf is 'foo': choose one of avg, max"):
        PostprocessSettings(fusion_conf="foo")


def test_settings_can_be_read_by_the_configuration_library() -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(PostprocessSettings, "postprocess")
    read = parser.parse_args(["--postprocess.fusion_conf=max", "--postprocess.max_per_member=30"])
    assert parser.instantiate(read).postprocess == PostprocessSettings(fusion_conf="max", max_per_member=30)
