"""Small COCO data sets on disk."""

import json

import numpy as np
from PIL import Image

from mrcnn.config import Config
from mrcnn.core.classes import DEEPFASHION2
from mrcnn.data.dataset import CocoDataset
from mrcnn.data.loader import BatchLoader


def write_coco(folder, class_ids):
    """A split "train" with one image, never read here, for each class id."""
    (folder / "train" / "image").mkdir(parents=True)
    images = [
        {"id": i + 1, "file_name": f"{i}.jpg", "width": 9, "height": 9}
        for i in range(len(class_ids))
    ]
    for image in images:
        (folder / "train" / "image" / image["file_name"]).touch()
    square = {"segmentation": [[0, 0, 5, 0, 5, 5]], "bbox": [0, 0, 5, 5], "area": 12, "iscrowd": 0}
    annotations = [
        {"id": i + 1, "image_id": i + 1, "category_id": class_id, **square}
        for i, class_id in enumerate(class_ids)
    ]
    names = [{"id": i, "name": name} for i, name in enumerate(DEEPFASHION2) if i]
    content = {"images": images, "annotations": annotations, "categories": names}
    (folder / "train_coco.json").write_text(json.dumps(content))
    return folder


def write_data(folder, count=7, width=60, height=80):
    """Noisy images of which each third is empty; others have a trapezoid, some a crowd."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(count):
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": width, "height": height})
        for crowd in [0, 1][: i % 3]:
            x, y = rng.integers(2, 20, 2).tolist()
            polygon = [x, y, x + 30, y + 4, x + 25, y + 40, x + 3, y + 35]
            annotation = {"image_id": i, "category_id": 1 + i % 2, "iscrowd": crowd}
            annotations.append(annotation | {"segmentation": [polygon]})
    categories = [{"id": 1, "name": "shirt"}, {"id": 2, "name": "skirt"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "coco.json").write_text(json.dumps(content))
    return folder


def read_data(folder):
    dataset = CocoDataset()
    dataset.load_coco(folder / "coco.json", folder, source="own")
    dataset.prepare()
    return dataset


def config(side=64, **values):
    values = {"NUM_CLASSES": 3, "IMAGE_MIN_DIM": side, "IMAGE_MAX_DIM": side} | values
    defaults = {"RPN_ANCHOR_SCALES": (16, 32, 64, 128, 256), "MAX_GT_INSTANCES": 5}
    return type("OwnConfig", (Config,), defaults | values)()


def loader(dataset, **values):
    values = {"batch_size": 4, "shuffle": True, "workers": 0} | values
    settings = values.pop("config", None) or config()
    return BatchLoader(dataset, settings, **values)
