"""COCO files counted by hand: DeepFashion2's form with all that it notes, and a foreign one."""

import json

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask


def rectangle(x, y, w, h):
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def garment(image_id, category_id, *boxes, **more):
    """An annotation of one rectangle a box; its own box is the first one."""
    x, y, w, h = boxes[0]
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x, y, w, h],
        "area": w * h,
        "iscrowd": 0,
        "segmentation": [rectangle(*box) for box in boxes],
        **more,
    }


def attributes(scale, occlusion, zoom_in, viewpoint):
    return {"scale": scale, "occlusion": occlusion, "zoom_in": zoom_in, "viewpoint": viewpoint}


CATEGORIES = [
    {"id": 9, "name": "skirt"},
    {"id": 5, "name": "vest"},
    {"id": 7, "name": "shorts"},
]
# Two images with garments and one without, by id: b, c, a.
IMAGES = [
    {"id": 3, "file_name": "a.png", "width": 100, "height": 80, "pair_id": 7, "source": "user"},
    {"id": 1, "file_name": "b.png", "width": 100, "height": 80, "pair_id": 7, "source": "shop"},
    {"id": 2, "file_name": "c.png", "width": 60, "height": 120, "pair_id": 9, "source": "user"},
]
ANNOTATIONS = [
    garment(3, 5, (10, 10, 40, 20), id=1, **attributes(1, 1, 1, 2)),
    garment(3, 5, (0, 0, 100, 80), (2, 2, 9, 9), id=2, **attributes(3, 2, 2, 2)),
    garment(3, 9, (50, 20, 40, 40), id=3, **attributes(2, 3, 3, 3)),
    garment(1, 5, (20, 30, 30, 30), id=4, **attributes(None, 7, 1, 1)),
]


def content(annotations=ANNOTATIONS, pictures=IMAGES, categories=CATEGORIES):
    return {"images": pictures, "annotations": annotations, "categories": categories}


def write(folder, coco_content=None, name="things.json"):
    """Writes a COCO file and its images, grey 200; returns the file's path."""
    coco_content = coco_content or content()
    folder.mkdir(parents=True, exist_ok=True)
    for entry in coco_content["images"]:
        picture = Image.new("RGB", (entry["width"], entry["height"]), (200,) * 3)
        picture.save(folder / entry["file_name"])
    (folder / name).write_text(json.dumps(coco_content), encoding="utf-8")
    return folder / name


def encoded(x, y, w, h, compressed, size=(80, 100)):
    """The RLE of a rectangle in an image of `size` (height, width)."""
    mask = np.zeros(size, np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    if compressed:
        rle = coco_mask.encode(mask)
        return {"size": list(size), "counts": rle["counts"].decode()}
    flat = mask.ravel(order="F").astype(int)
    changes = np.flatnonzero(np.diff(flat, prepend=0))  # the first run is one of zeros
    return {"size": list(size), "counts": np.diff([0, *changes, flat.size]).tolist()}


FOREIGN_CATEGORIES = [
    {"id": 90, "name": "tooth <brush>", "supercategory": "indoor"},
    {"id": 0, "name": "人"},
]
FOREIGN_IMAGES = [
    {"id": 11, "file_name": "x 1.png", "width": 100.0, "height": 80, "license": 3},
    {"id": 12, "file_name": "x 2.png", "width": 100, "height": 80},
]


def foreign():
    """Another data set's file: RLE, crowds, fields of its own, boxes and areas missing."""
    annotations = [
        garment(11, 90, (5, 5, 30, 20), attributes={"colour": [1, 2]}),
        {"image_id": 11, "category_id": 0, "segmentation": encoded(10, 20, 30, 40, True)},
        {"image_id": 12, "category_id": 0, "segmentation": encoded(0, 0, 100, 8, False)},
        {
            "image_id": 12,
            "category_id": 90,
            "bbox": [1, 1, 50, 50],
            "area": 2500.0,
            "iscrowd": 1,
            "segmentation": encoded(1, 1, 50, 50, False),
        },
    ]
    return content(annotations, FOREIGN_IMAGES, FOREIGN_CATEGORIES)


def write_foreign(folder):
    """The foreign file as COCO lays it out: annotations/ beside the folder of the images."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "val2017").mkdir()
    for entry in FOREIGN_IMAGES:
        picture = Image.new("RGB", (100, 80), (90, 120, 150))
        picture.save(folder / "val2017" / entry["file_name"])
    path = folder / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(foreign()), encoding="utf-8")
    return path
