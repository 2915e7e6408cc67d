"""Small data sets of other tools' formats, and what they become."""

import csv
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mrcnn.coco import masks
from tests.helpers.commands import run_command

WIDTH, HEIGHT = 80, 60
SQUARE = [[10, 5], [30, 5], [30, 25], [10, 25]]  # 20 x 20 at (10, 5)
ORIENTATION = 0x0112


def save_image(path, size=(WIDTH, HEIGHT), orientation=None):
    """A grey image; its file has the EXIF orientation, if one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation:
        exif[ORIENTATION] = orientation
    Image.new("RGB", size, (90, 120, 150)).save(path, exif=exif)
    return path


def save_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


class Annotation(NamedTuple):
    """What is in a COCO file, by names."""

    image: str
    name: str
    box: list
    area: float
    segmentation: object


class Result:
    """What `convert --from` wrote and printed.

    Attributes:
        images: split -> {file name: (width, height)}.
        annotations: split -> [Annotation].
        names: of the classes, in the order of their ids.
        problems: [(file, item, kind)] of all splits.
    """

    def __init__(self, folder, printed):
        self.printed = printed
        self.images, self.annotations, self.problems, self.names = {}, {}, [], []
        self.files = {}
        for path in sorted(Path(folder).glob("*_coco.json")):
            split = path.name.removesuffix("_coco.json")
            coco = self.files[split] = json.loads(path.read_text("utf-8"))
            self.names = [category["name"] for category in coco["categories"]]
            assert [c["id"] for c in coco["categories"]] == list(range(1, len(self.names) + 1))
            names = {image["id"]: image["file_name"] for image in coco["images"]}
            assert list(names) == list(range(1, len(names) + 1))
            assert [a["id"] for a in coco["annotations"]] == list(
                range(1, len(coco["annotations"]) + 1)
            )
            assert {a["iscrowd"] for a in coco["annotations"]} <= {0}
            self.images[split] = {i["file_name"]: (i["width"], i["height"]) for i in coco["images"]}
            self.annotations[split] = [
                Annotation(
                    names[a["image_id"]],
                    self.names[a["category_id"] - 1],
                    a["bbox"],
                    a["area"],
                    a["segmentation"],
                )
                for a in coco["annotations"]
            ]
            with open(path.with_name(f"{split}.problems.csv"), encoding="utf-8", newline="") as f:
                rows = list(csv.reader(f))
            assert rows[0] == ["file", "item", "problem", "action"]
            self.problems += [(file, item, text.split(":")[0]) for file, item, text, _ in rows[1:]]

    @property
    def kinds(self):
        return sorted(kind for _, _, kind in self.problems)

    def one(self):
        """The only annotation of all splits."""
        ((annotation,),) = self.annotations.values()
        return annotation

    def pixels(self, split="train", number=0):
        """The mask of an annotation: bool [H, W]."""
        annotation = self.annotations[split][number]
        width, height = self.images[split][annotation.image]
        return masks.decode(masks.to_rle(annotation.segmentation, (height, width))).astype(bool)


def convert(source_format, data, *options, status=0, output=None):
    """Runs `convert --from` and reads what it wrote, in a folder beside the data."""
    output = output or data.parent / "out"
    printed = run_command(
        "convert", "--from", source_format, "--data", data, "--output_dir", output, *options,
        status=status,
    )  # fmt: skip
    return Result(output, printed)


def iou(one, other):
    return np.logical_and(one, other).sum() / np.logical_or(one, other).sum()
