"""COCO's classes, as the detectors that others publish have them."""

from torchvision.models.detection import SSD300_VGG16_Weights

# torchvision lists names by category id, with N/A in the gaps and background at 0.
_NAMES = enumerate(SSD300_VGG16_Weights.COCO_V1.meta["categories"])
COCO = [{"id": number, "name": name} for number, name in _NAMES if number and name != "N/A"]  # 80, by id
