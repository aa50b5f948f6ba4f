from pathlib import Path

import cv2
import numpy as np
import pytest

from detection.drawing import class_color, comparison, draw_boxes, save_image, text_color
from divdet.engine.errors import UserError

NAMES = ["disc", "wine glass", "Größe", "собака", "自転車"]
GREY = 90


def _changed(image: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    return (image != drawn).any(-1)


def _plain(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def _plate_above(image: np.ndarray, drawn: np.ndarray, top: int) -> np.ndarray:
    """The label plate of a single box that begins at row ``top``."""
    rows, columns = _changed(image, drawn)[:top].nonzero()
    return drawn[rows.min() : top, columns.min() : columns.max() + 1]


def _holds(picture: np.ndarray, part: np.ndarray) -> bool:
    # OpenCV's sum of squared differences is rounded; one wrong pixel of a plate adds thousands.
    return cv2.matchTemplate(picture, part, cv2.TM_SQDIFF).min() < 500


def test_frame_covers_the_boxes_edge_pixels_and_leaves_inside_and_outside() -> None:
    image = _plain(400, 500)
    changed = _changed(image, draw_boxes(image, [[100, 150, 300, 350]], [0], NAMES))
    assert (image == GREY).all()
    assert changed[150, 100:300].all()
    assert changed[349, 100:300].all()
    assert changed[150:350, 100].all()
    assert changed[150:350, 299].all()
    assert not changed[160:340, 110:290].any()
    changed[150:350, 100:300] = False
    rows, columns = changed.nonzero()  # the plate: above the box, from its left edge
    assert rows.max() == 149
    assert rows.min() > 120
    assert columns.min() == 100


@pytest.mark.parametrize("name", range(len(NAMES)))
def test_names_of_any_script_are_written_distinctly(name: int) -> None:
    image = _plain(200, 300)
    plates = [draw_boxes(image, [[20, 80, 280, 180]], [0], [text])[50:80] for text in (NAMES[name], "??????", "")]
    ink = np.abs(plates[0].astype(int) - text_color(class_color(0))).sum(-1) < 120
    assert ink.sum() > 10
    assert not np.array_equal(plates[0], plates[1])
    assert not np.array_equal(plates[0], plates[2])


def test_scripts_have_real_glyphs_not_one_placeholder() -> None:
    image = _plain(200, 300)
    drawn = [draw_boxes(image, [[20, 80, 280, 180]], [0], [text]) for text in "äбλ犬車ñ"]
    assert len({picture.tobytes() for picture in drawn}) == 6


@pytest.mark.parametrize("box", [[0, 0, 60, 40], [580, 0, 640, 30], [0, 440, 50, 480], [600, 460, 640, 480]])
def test_plates_stay_whole_inside_the_image(box: list[int]) -> None:
    image = _plain(480, 640)
    free = draw_boxes(image, [[200, 200, 200 + box[2] - box[0], 200 + box[3] - box[1]]], [1], NAMES, [0.87])
    plate = _plate_above(image, free, 200)
    assert min(plate.shape[:2]) > 8
    assert _holds(draw_boxes(image, [box], [1], NAMES, [0.87]), plate)


def test_overlapping_labels_move_apart_and_the_highest_score_keeps_its_place() -> None:
    image = _plain(480, 640)
    boxes = [[200, 200, 320, 330], [202, 202, 322, 332]]
    first, second = (draw_boxes(image, [boxes[i]], [label], NAMES, [0.9 - i / 10]) for i, label in enumerate((0, 3)))
    both = draw_boxes(image, boxes[::-1], [3, 0], NAMES, [0.8, 0.9])
    home = _changed(image, first)[:200].nonzero()
    assert np.array_equal(both[home], first[home])
    assert _holds(both, _plate_above(image, second, 202))


def test_labels_that_others_would_hide_are_left_out() -> None:
    image, labels = _plain(480, 640), [0] * 12 + [3]
    boxes = [[200, 200, 320, 330]] * 12 + [[212, 207, 332, 337]]  # parts of its label would show
    scores = np.linspace(0.9, 0.1, 13)
    assert np.array_equal(
        draw_boxes(image, boxes, labels, NAMES, scores),
        draw_boxes(image, boxes, labels, [*NAMES[:3], "", NAMES[4]], scores),
    )


def test_highest_score_lies_on_top_whatever_the_order() -> None:
    image = _plain(300, 300)
    boxes = [[50, 100, 200, 250], [50, 100, 200, 250]]
    first = draw_boxes(image, boxes, [0, 1], NAMES, [0.9, 0.2])
    second = draw_boxes(image, boxes, [1, 0], NAMES, [0.2, 0.9])
    assert tuple(first[249, 120]) == class_color(0)
    assert np.array_equal(first, second)


def test_frames_of_small_pictures_have_two_pixels_of_color() -> None:  # JPEG washes a single one out
    drawn = draw_boxes(_plain(240, 320), [[51, 51, 151, 151]], [4], NAMES)
    assert (drawn[149:151, 60:140] == class_color(4)).all()


def test_colors_belong_to_classes_and_differ() -> None:
    colors = [class_color(label) for label in range(80)]
    assert len(set(colors)) == 80
    assert colors == [class_color(label) for label in range(80)]
    drawn = draw_boxes(_plain(200, 200), [[20, 50, 100, 150]], [2], NAMES)
    assert tuple(drawn[149, 60]) == class_color(2)


@pytest.mark.parametrize("label", range(80))
def test_text_has_the_contrast_that_wcag_asks_of_large_text(label: int) -> None:
    def luminance(color: tuple[int, int, int]) -> float:
        parts = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
        return float(np.dot(parts, [0.2126, 0.7152, 0.0722]))

    plate = class_color(label)
    light, dark = sorted((luminance(plate), luminance(text_color(plate))), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_crowds_are_dashed_and_marked() -> None:
    image, box = _plain(300, 400), [[100, 100, 300, 250]]
    solid = _changed(image, draw_boxes(image, box, [0], NAMES))[249, 100:300]
    dashed = _changed(image, draw_boxes(image, box, [0], NAMES, crowd=[True]))[249, 100:300]
    assert solid.all()
    assert 0.3 < dashed.mean() < 0.7


@pytest.mark.parametrize("boxes", [np.zeros((0, 4)), [], np.zeros((0, 4), np.float32)])
def test_no_boxes_leave_the_image(boxes: np.ndarray) -> None:
    image = _plain(50, 60)
    drawn = draw_boxes(image, boxes, [], NAMES, [])
    assert np.array_equal(drawn, image)
    assert drawn is not image


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (12, 400), (400, 12), (2600, 3900)])
def test_images_of_any_size(size: tuple[int, int]) -> None:
    image = _plain(*size)
    box = [0.1 * size[1], 0.4 * size[0], 0.9 * size[1], 0.9 * size[0]]
    drawn = draw_boxes(image, [box, [-50, -50, 9999, 9999]], [0, 1], NAMES, [0.5, 0.4])
    assert drawn.shape == image.shape
    assert _changed(image, drawn).any()


def test_line_and_text_grow_with_the_image() -> None:
    def plate_height(side: int) -> int:
        image = _plain(side, side)
        box = [[0.2 * side, 0.4 * side, 0.8 * side, 0.8 * side]]
        return int(_changed(image, draw_boxes(image, box, [0], NAMES))[: int(0.4 * side), int(0.2 * side) + 1].sum())

    assert plate_height(2000) == pytest.approx(2.5 * plate_height(800), rel=0.1)


def test_comparison_places_each_result_under_its_title() -> None:
    image = _plain(300, 500)
    empty, one = (np.zeros((0, 4)), [], None), ([[100, 100, 300, 200]], [1], [0.5])
    picture = comparison(image, [("ground truth", *empty), ("fused", *one)], NAMES)
    bar = picture.shape[0] - 300
    assert picture.shape[1] == 1006
    assert (picture[bar:, :500] == GREY).all()
    assert np.array_equal(picture[bar:, 506:], draw_boxes(image, *one[:2], NAMES, one[2]))
    assert (picture[:bar] > 200).any()


@pytest.mark.parametrize(("count", "grid"), [(1, (1, 1)), (4, (1, 4)), (5, (2, 3)), (9, (3, 3))])
def test_comparison_of_many_is_a_grid_scaled_to_a_legible_size(count: int, grid: tuple[int, int]) -> None:
    picture = comparison(_plain(100, 200), [("t", [[10, 10, 90, 90]], [0], None)] * count, NAMES)
    bar = round(420 / 14)
    assert picture.shape == (grid[0] * (210 + bar + 6) - 6, grid[1] * 426 - 6, 3)


def test_comparison_shrinks_huge_images() -> None:
    assert comparison(_plain(3000, 4000), [("t", [], [], None)], NAMES).shape[1] == 960


@pytest.mark.parametrize(("name", "error"), [("a.png", 0), ("a.jpg", 3), ("a.JPEG", 3)])
def test_saved_images_read_back(tmp_path: Path, name: str, error: int) -> None:
    y, x = np.mgrid[:64, :80]
    image = np.stack([x * 3, y * 3, x + y], -1).astype(np.uint8)
    save_image(tmp_path / name, image)
    back = cv2.imread(str(tmp_path / name))[..., ::-1]
    assert np.abs(back.astype(int) - image).mean() <= error
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.gif", "a", "missing/a.png"])
def test_what_cannot_be_written_is_a_user_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=name.replace("/", ".")):
        save_image(tmp_path / name, _plain(4, 4))
