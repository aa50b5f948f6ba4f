"""Pictures of ground truth, each member's boxes and the fused boxes side by side."""

from pathlib import Path

import torch

from detection.data.annotations import CocoAnnotations
from detection.data.dataset import read_record
from detection.detector import Detector, to_pixels
from detection.drawing import comparison, save_image
from detection.preprocess import to_input
from divdet.engine.files import make_folder


def draw_comparisons(
    detector: Detector, annotations: CocoAnnotations, folder: Path, count: int, score_threshold: float = 0.3
) -> list[Path]:
    """Draws the first ``count`` images with objects, one file each; returns the paths.

    Boxes with a score below ``score_threshold`` are left out. With ``fusion_conf: avg``, a box found by one of two
    members keeps half its score, so it may show in that member's panel only.
    """
    folder, written = make_folder(folder), []
    for record in [record for record in annotations.images if len(record.labels)][:count]:
        image = read_record(record)
        members, fused = detector.detect(torch.from_numpy(to_input(image, detector.input))[None])
        panels = [("ground truth", record.boxes, record.labels, None)]
        titled = [(f"member {number + 1}", results[0]) for number, results in enumerate(members)]
        titled += [("fused", fused[0])] if len(members) > 1 else []
        for title, found in titled:
            found = to_pixels(found, image.shape[1], image.shape[0], detector.input)
            kept = found.scores >= score_threshold
            panels.append((title, *(column[kept].numpy() for column in (found.boxes, found.labels, found.scores))))
        path = folder / ("_".join(Path(record.file_name).with_suffix("").parts) + ".jpg")  # train/1 is not val/1
        save_image(path, comparison(image, panels, detector.names))
        written.append(path)
    return written
