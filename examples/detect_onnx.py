"""Finds objects by an exported .onnx file, without PyTorch and divdet: python detect_onnx.py model.onnx photo.jpg …"""

import json
import sys

import cv2
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
known = json.loads(session.get_modelmeta().custom_metadata_map["divdet"])
size, letterbox, rule = known["input"]["size"], known["input"]["fit"] == "letterbox", known["config"]["postprocess"]
for file in sys.argv[2:]:
    image = cv2.cvtColor(cv2.imread(file), cv2.COLOR_BGR2RGB)  # turned upright by its EXIF orientation
    height, width = image.shape[:2]
    scale = size / (max(width, height) if letterbox else np.array([width, height]))
    filled = np.clip(np.round(scale * np.array([width, height])).astype(int), 1, size)  # pixels of the input
    image = cv2.resize(image, np.minimum(filled, [width, height]).tolist(), interpolation=cv2.INTER_AREA)
    image = cv2.resize(image, filled.tolist(), interpolation=cv2.INTER_LINEAR)
    pixels = np.full((size, size, 3), (124, 116, 104), np.uint8)  # the mean color
    pixels[: filled[1], : filled[0]] = image
    boxes, scores, labels = (found[0] for found in session.run(None, {"images": pixels[None]}))  # [S, L]
    members, fused = len(scores), []
    kept = np.nonzero((scores > 0) & (scores >= (rule["fusion_skip"] if members > 1 else 0)))
    boxes, scores, labels = boxes[kept].astype(float).clip(0, 1), scores[kept].astype(float), labels[kept]
    for i in np.argsort(-scores, kind="stable"):  # weighted boxes fusion: each joins the cluster that it overlaps most
        best, cluster = rule["fusion_iou"], None
        for other in fused if members > 1 else []:
            sides = np.minimum(boxes[i, 2:], other["box"][2:]) - np.maximum(boxes[i, :2], other["box"][:2])
            shared, areas = np.prod(sides.clip(0)), [np.prod(box[2:] - box[:2]) for box in (boxes[i], other["box"])]
            if other["label"] == labels[i] and shared > best * (sum(areas) - shared):
                best, cluster = shared / (sum(areas) - shared), other
        if cluster is None:
            fused.append(cluster := {"label": labels[i], "of": []})
        cluster["of"].append(i)
        cluster["box"] = np.average(boxes[cluster["of"]], axis=0, weights=scores[cluster["of"]])
        cluster["score"] = scores[cluster["of"]].mean() * min(1, len(cluster["of"]) / members)  # fusion_conf: avg
    for found in sorted(fused, key=lambda found: -found["score"]):
        box = np.clip(found["box"] * np.tile(size / filled, 2), 0, 1) * [width, height, width, height]
        print(file, known["categories"][found["label"]]["name"], f"{found['score']:.6f}", *(f"{v:.3f}" for v in box))
