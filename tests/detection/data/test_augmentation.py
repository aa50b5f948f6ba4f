"""Pixels and boxes move together: a coloured rectangle is found where its box says."""

import numpy as np
import pytest

from detection.data.augmentation import TrainingAugmentation
from detection.heads import Input
from detection.preprocess import MEAN, Window, resize_window, to_input
from detection.settings import DataSettings

GEOMETRY = {"photometric": False}
SIZE = Input().size


def scene(width: int, height: int, box: tuple[int, int, int, int]) -> np.ndarray:
    image = np.full((height, width, 3), 40, np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = (250, 40, 40)
    return image


def extent(view: np.ndarray) -> np.ndarray:
    """The red rectangle's edges, to a fraction of a pixel: by how red the rows and columns are."""
    red = (view[..., 0].astype(float) - view[..., 2]).clip(0) / 210
    columns, rows = red.max(axis=0), red.max(axis=1)

    def edges(profile: np.ndarray) -> tuple[float, float]:
        inside = np.flatnonzero(profile > 0.5)
        first, last = inside[0], inside[-1]
        after = profile[last + 1] if last + 1 < len(profile) else 0
        return first - (profile[first - 1] if first else 0), last + 1 + after

    (x1, x2), (y1, y2) = edges(columns), edges(rows)
    return np.array([x1, y1, x2, y2])


@pytest.mark.parametrize("size", [(300, 300), (640, 480), (211, 500), (90, 61)])
@pytest.mark.parametrize("form", [Input(), Input(412, "letterbox")])
@pytest.mark.parametrize("seed", range(12))
def test_boxes_follow_the_pixels(size: tuple[int, int], seed: int, form: Input) -> None:
    width, height = size
    box = (width // 3, height // 4, width // 3 + width // 2, height // 4 + height // 2)
    image = scene(width, height, box)
    augment = TrainingAugmentation(DataSettings(zoom_out=0.7, **GEOMETRY), 1, form)
    (view,), boxes, labels = augment(image, np.array([box], np.float32), np.array([3]), seed)
    assert view.shape == (form.size, form.size, 3)
    assert view.dtype == np.uint8
    assert labels.tolist() == [3]
    # One input pixel; where a small image is enlarged, interpolation blurs an edge over form.size / size of them.
    tolerance = max(1.0, 0.75 * form.size / min(size) / 0.3)
    np.testing.assert_allclose(boxes[0] * form.size, extent(view), atol=tolerance)


def test_flip_mirrors_the_whole_image() -> None:
    settings = DataSettings(zoom_out=0, iou_crop=0, flip=1.0, **GEOMETRY)
    image = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    (view,), boxes, _ = TrainingAugmentation(settings)(
        image, np.array([[30, 60, 90, 120]], np.float32), np.array([0]), 0
    )
    np.testing.assert_array_equal(view, image[:, ::-1])
    np.testing.assert_allclose(boxes, [[0.7, 0.2, 0.9, 0.4]], atol=1e-6)


def test_zoom_out_fills_with_the_mean_colour() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    view, mapping = resize_window(image, Window(-100, -100, 300, 300), 300)
    np.testing.assert_array_equal(view[100:200, 100:200], 0)
    np.testing.assert_array_equal(view[0, 0], np.round(MEAN))
    np.testing.assert_allclose(mapping, [1, 1, 100, 100])


def test_iou_crops_obey_the_rule_and_reach_every_overlap() -> None:
    """Any box overlaps the crop by one of the drawn IoUs, sides are 0.3 to 1 of the image's, aspect 0.5 to 2."""
    from detection.data.augmentation import _iou_crop

    boxes = np.array([[100, 100, 300, 260], [20, 300, 60, 340]], np.float32)
    whole, crops = 0, []
    for seed in range(400):
        window = _iou_crop(Window(0, 0, 400, 400), boxes, np.random.default_rng(seed))
        if (window.x, window.y, window.width, window.height) == (0, 0, 400, 400):
            whole += 1
            continue
        crops.append(window)
        assert 0.3 - 1e-9 <= window.width / 400 <= 1
        assert 0.5 <= window.width / window.height <= 2
        assert window.x >= 0
        assert window.x + window.width <= 400 + 1e-9
    assert 30 <= whole <= 90  # one option of seven
    ious = []
    for w in crops:
        inner = np.minimum(boxes[0, 2:], (w.x + w.width, w.y + w.height)) - np.maximum(boxes[0, :2], (w.x, w.y))
        area = inner.clip(0).prod()
        ious.append(area / (w.width * w.height + 200 * 160 - area))
    assert max(ious) > 0.7
    assert min(ious) < 0.2


def test_an_image_without_objects_and_the_same_seed() -> None:
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    augment = TrainingAugmentation(DataSettings())
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    first, boxes, _ = augment(image, *nothing, 5)
    assert boxes.shape == (0, 4)
    np.testing.assert_array_equal(first, augment(image, *nothing, 5)[0])
    assert not np.array_equal(first, augment(image, *nothing, 6)[0])


def test_photometric_keeps_geometry_and_changes_colours() -> None:
    image = scene(300, 300, (60, 60, 200, 200))
    settings = DataSettings(zoom_out=0, iou_crop=0, flip=0)
    views = [TrainingAugmentation(settings)(image, np.zeros((0, 4)), np.zeros(0), seed)[0][0] for seed in range(20)]
    changed = [not np.array_equal(view, image) for view in views]
    assert 4 <= sum(changed) <= 16


def test_members_views_differ_in_their_colours_only() -> None:
    image = scene(300, 300, (60, 60, 200, 200))
    box = np.array([[60, 60, 200, 200]], np.float32)
    augment = TrainingAugmentation(DataSettings(different_views=True), members=3)
    alone = TrainingAugmentation(DataSettings(), members=3)
    differing = 0
    for seed in range(20):
        views, boxes, _ = augment(image, box, np.array([0]), seed)
        assert views.shape == (3, SIZE, SIZE, 3)
        differing += any(not np.array_equal(views[0], view) for view in views[1:])
        plain, same_boxes, _ = alone(image, box, np.array([0]), seed)
        np.testing.assert_array_equal(boxes, same_boxes)
        np.testing.assert_array_equal(views[0], plain[0])
    assert differing >= 10


def test_evaluation_input_is_the_whole_image() -> None:
    image = scene(600, 450, (150, 150, 300, 300))
    np.testing.assert_allclose(extent(to_input(image, Input())), [75, 100, 150, 200], atol=0.5)
