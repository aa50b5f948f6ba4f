"""Other formats of JSON files than COCO's, told by their content."""

from __future__ import annotations

from typing import Any

# What other JSON files of annotations hold, or the first of their entries.
_OTHERS = {
    "a results file, which eval_det takes as --detections": {"image_id", "category_id", "score"},
    "labelme's JSON of one image: export the data set as COCO": {"shapes", "imagePath"},
    "a VIA project: export it as COCO": {"_via_img_metadata"},
    "VIA's annotations: export them as COCO": {"filename", "regions"},
    "Label Studio's own JSON: export it as COCO": {"annotations", "data"},
    "Datumaro's JSON: export it as COCO": {"categories", "items"},
    "mmdetection's own format: give the COCO file that it was made from": {"metainfo", "data_list"},
    "mmdetection's middle format: convert it to COCO": {"filename", "ann"},
    "Create ML's JSON: convert it to COCO": {"image", "annotations"},
    "a list of COCO's annotations alone: add images and categories": {"image_id", "category_id"},
}


def other_format(data: Any) -> str:
    """Which other format the content of a JSON file looks like, as the end of a sentence."""
    entry = data[0] if isinstance(data, list) and data else data
    keys = entry.keys() if isinstance(entry, dict) else set()
    values = [value for value in data.values() if isinstance(value, dict)] if isinstance(data, dict) else []
    for name, known in _OTHERS.items():
        if known <= keys or any(known <= value.keys() for value in values[:1]):
            return f"; it looks like {name}"
    return ""
