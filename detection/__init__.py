"""SSD300 on divided backbones: data, training, post-processing, fusion, evaluation."""

import divdet.engine  # noqa: F401 - before OpenCV and torch are loaded
from detection.detector import Detections, Detector
from detection.models.ssd import SSD, create_ssd

__all__ = ["SSD", "Detections", "Detector", "create_ssd"]
