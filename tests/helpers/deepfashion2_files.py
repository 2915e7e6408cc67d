"""Small splits in DeepFashion2's layout, and what the converter makes of them."""

import csv
import json
import tempfile
from collections import Counter
from pathlib import Path

import orjson
from PIL import Image

from mrcnn.deepfashion2.converter import DEFAULT_FORM, convert_split

WIDTH, HEIGHT = 60, 40
SQUARE = [10, 5, 30, 5, 30, 25, 10, 25]  # 20 x 20 at (10, 5)


def an_item(**changes):
    item = {
        "category_name": "trousers",
        "category_id": 8,
        "style": 1,
        "bounding_box": [10, 5, 30, 25],
        "landmarks": [0] * 42,
        "segmentation": [SQUARE],
        "scale": 2,
        "occlusion": 1,
        "zoom_in": 3,
        "viewpoint": 2,
    }
    return {**item, **changes}


def write_image(folder, stem, items, size=(WIDTH, HEIGHT), **top):
    """An image and its annotation file; `items` is a list or the whole content."""
    for name in ("image", "annos"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 150)).save(folder / "image" / f"{stem}.jpg")
    data = items
    if isinstance(items, list):
        data = {"source": "user", "pair_id": 7, **top}
        data.update({f"item{i}": item for i, item in enumerate(items, 1)})
    (folder / "annos" / f"{stem}.json").write_text(json.dumps(data))


class Found:
    """The rows of a problems file, and their counts by kind."""

    def __init__(self, path):
        with open(path, encoding="utf-8", newline="") as file:
            self.rows = [tuple(row) for row in csv.reader(file)][1:]
        self.kinds = Counter(row[2].split(":")[0] for row in self.rows)


def convert(folder, **options):
    """(COCO content, Found) of a split, by way of its files."""
    with tempfile.TemporaryDirectory() as name:
        summary = convert_split(folder, Path(name), **options)
        coco = orjson.loads((Path(name) / f"{folder.name}_coco.json").read_bytes())
        found = Found(Path(name) / f"{folder.name}.problems.csv")
    assert summary.problems == found.kinds
    assert summary.images == len(coco["images"])
    assert summary.items == Counter(a["category_id"] for a in coco["annotations"])
    return coco, found


def convert_one(folder, *items, form=DEFAULT_FORM, **top):
    """(images, annotations, problems) of a split with one image."""
    write_image(folder, "000001", list(items), **top)
    coco, problems = convert(folder, form=form)
    return coco["images"], coco["annotations"], problems
