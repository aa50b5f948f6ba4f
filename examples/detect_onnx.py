"""Finds objects by an exported .onnx file, without PyTorch and divdet: python detect_onnx.py model.onnx photo.jpg …"""

import json
import sys

import cv2
import numpy as np
import onnxruntime

model, *photos = sys.argv[1:] if len(sys.argv) > 2 else sys.exit("usage: python detect_onnx.py model.onnx photo.jpg …")
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
known = json.loads(session.get_modelmeta().custom_metadata_map["divdet"])
size, letterbox, rule = known["input"]["size"], known["input"]["fit"] == "letterbox", known["config"]["postprocess"]
if other := [k for k, v in rule.items() if type(v) not in (int, float) and v not in ("wbf", "avg", None, False)]:
    sys.exit(f"detect_onnx.py does weighted boxes fusion alone: export with the defaults of {', '.join(other)}")
for file in photos:
    image = cv2.imread(file, cv2.IMREAD_COLOR_RGB)  # turned upright by its EXIF orientation
    height, width = image.shape[:2] if image is not None else sys.exit(f"{file}: no such file, or not an image")
    scale = size / (max(width, height) if letterbox else np.array([width, height]))
    filled = np.clip(np.round(scale * np.array([width, height])).astype(int), 1, size)  # pixels of the input
    image = cv2.resize(image, np.minimum(filled, [width, height]).tolist(), interpolation=cv2.INTER_AREA)
    pixels = np.full((size, size, 3), (124, 116, 104), np.uint8)  # the mean color
    pixels[: filled[1], : filled[0]] = cv2.resize(image, filled.tolist(), interpolation=cv2.INTER_LINEAR)
    boxes, scores, labels = (found[0] for found in session.run(None, {"images": pixels[None]}))  # [S, L]
    members, k = len(scores), 0
    kept = np.nonzero((scores > 0) & (scores >= (rule["fusion_skip"] if members > 1 else 0)))
    boxes, scores, labels = boxes[kept].astype(float).clip(0, 1), scores[kept].astype(float), labels[kept]
    mean, total, count, of = np.zeros((len(boxes), 4)), np.zeros(len(boxes)), np.zeros(len(boxes)), labels.copy()
    for i in np.argsort(-scores, kind="stable"):  # weighted boxes fusion: each joins the cluster that it overlaps most
        sides = np.minimum(mean[:k, 2:], boxes[i, 2:]) - np.maximum(mean[:k, :2], boxes[i, :2])
        shared, area = sides.clip(0).prod(1), np.prod(boxes[i, 2:] - boxes[i, :2])
        iou = np.where(of[:k] == labels[i], shared / ((mean[:k, 2:] - mean[:k, :2]).prod(1) + area - shared + 1e-12), 0)
        c = iou.argmax() if members > 1 and iou.max(initial=0) > rule["fusion_iou"] else k
        mean[c] = (mean[c] * total[c] + boxes[i] * scores[i]) / (total[c] + scores[i])
        total[c], count[c], of[c], k = total[c] + scores[i], count[c] + 1, labels[i], max(k, c + 1)
    score = total[:k] / count[:k] * np.minimum(1, count[:k] / members)  # fusion_conf avg
    for c in np.argsort(-score, kind="stable"):
        box = np.clip(mean[c] * np.tile(size / filled, 2), 0, 1) * [width, height, width, height]
        if (box[2:] > box[:2]).all():  # else it lies outside the image
            print(file, known["categories"][of[c]]["name"], f"{score[c]:.6f}", *(f"{value:.3f}" for value in box))
