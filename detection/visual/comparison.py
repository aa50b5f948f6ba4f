"""Pictures of ground truth, each member's boxes and the fused boxes side by side."""

from pathlib import Path

import torch

from detection.data.coco import CocoAnnotations
from detection.data.dataset import read_record
from detection.detector import Detector, to_pixels
from detection.drawing import comparison, save_image
from detection.postprocess import Boxes
from detection.preprocess import to_input
from divdet.engine.files import make_folder


def draw_comparisons(
    detector: Detector, annotations: CocoAnnotations, folder: Path, count: int, score_threshold: float = 0.3
) -> list[Path]:
    """Draws the first ``count`` images with objects, one file each; returns the paths.

    Boxes with a score below ``score_threshold`` are left out. With ``fusion_conf: avg``, a box found by one of two
    members keeps half its score, so it may show in that member's panel only.
    """
    folder = make_folder(folder)
    written = []
    for record in [record for record in annotations.images if len(record.labels)][:count]:
        image = read_record(record)
        members, fused = detector.detect(torch.from_numpy(to_input(image))[None])
        panels = [("ground truth", record.boxes, record.labels, None)]
        for number, results in enumerate(members):
            panels.append(_panel(f"member {number + 1}", results[0], image.shape, score_threshold))
        if len(members) > 1:
            panels.append(_panel("fused", fused[0], image.shape, score_threshold))
        path = folder / ("_".join(Path(record.file_name).with_suffix("").parts) + ".jpg")  # train/1 is not val/1
        save_image(path, comparison(image, panels, detector.names))
        written.append(path)
    return written


def _panel(title: str, found: Boxes, shape: tuple[int, ...], score_threshold: float) -> tuple:
    found = to_pixels(found, shape[1], shape[0])
    kept = found.scores >= score_threshold
    return title, found.boxes[kept].numpy(), found.labels[kept].numpy(), found.scores[kept].numpy()
