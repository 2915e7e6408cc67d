"""Small data sets laid out as other tools do."""

import json

SQUARE = {"segmentation": [[0, 0, 5, 0, 5, 5]], "bbox": [0, 0, 5, 5], "area": 12, "iscrowd": 0}


def content(names=("a.jpg",), categories=((1, "shoe"), (2, "hat"))):
    """A COCO file's content: one object in each image, of the classes in turn."""
    images = [
        {"id": i, "file_name": name, "width": 9, "height": 9} for i, name in enumerate(names, 1)
    ]
    annotations = [
        {"id": i, "image_id": i, "category_id": categories[i % len(categories)][0], **SQUARE}
        for i in range(1, len(names) + 1)
    ]
    records = [{"id": number, "name": name} for number, name in categories]
    return {"images": images, "annotations": annotations, "categories": records}


def lay_out(root, files):
    """Writes files by path: dicts as JSON, text as it is, None as an empty image.

    Returns:
        The folder.
    """
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "" if value is None else value if isinstance(value, str) else json.dumps(value)
        )
    return root


# Layout -> its files; the images of the validation split are called as those of the train split.
COCO = content()
LAYOUTS = {
    "converted": {
        "train_coco.json": COCO,
        "train/image/a.jpg": None,
        "validation_coco.json": COCO,
        "validation/image/a.jpg": None,
    },
    "COCO": {
        "annotations/instances_train2017.json": COCO,
        "annotations/person_keypoints_train2017.json": COCO,
        "annotations/instances_val2017.json": COCO,
        "train2017/a.jpg": None,
        "val2017/a.jpg": None,
    },
    "COCO, images below": {
        "annotations/instances_train.json": COCO,
        "annotations/instances_val.json": COCO,
        "images/train/a.jpg": None,
        "images/val/a.jpg": None,
    },
    "Roboflow": {
        "README.roboflow.txt": "kangaroos",
        "train/_annotations.coco.json": COCO,
        "train/a.jpg": None,
        "valid/_annotations.coco.json": COCO,
        "valid/a.jpg": None,
        "test/_annotations.coco.json": COCO,
        "test/a.jpg": None,
    },
    "a file in each folder": {
        "train/labels.json": COCO,
        "train/images/a.jpg": None,
        "validation/labels.json": COCO,
        "validation/images/a.jpg": None,
    },
    "files at the top": {
        "train.json": COCO,
        "val.json": COCO,
        "train/a.jpg": None,
        "valid/a.jpg": None,
    },
    "data.toml": {
        "data.toml": '[train]\nannotations = "x/one.json"\nimages = "y"\n'
        '[val]\nannotations = "x/two.json"\nimages = "z"\n',
        "x/one.json": COCO,
        "x/two.json": COCO,
        "y/a.jpg": None,
        "z/a.jpg": None,
    },
    "one folder around all": {
        "archive/train/_annotations.coco.json": COCO,
        "archive/train/a.jpg": None,
        "archive/valid/_annotations.coco.json": COCO,
        "archive/valid/a.jpg": None,
        "__MACOSX/train/_annotations.coco.json": COCO,
    },
}
# The same without splits.
UNDIVIDED = {
    "CVAT": {"annotations/instances_default.json": COCO, "images/a.jpg": None},
    "CVAT, subset": {"annotations/instances_default.json": COCO, "images/default/a.jpg": None},
    "Label Studio": {"result.json": content(["images/a.jpg"]), "images/a.jpg": None},
    "Label Studio, Windows": {"result.json": content(["images\\a.jpg"]), "images/a.jpg": None},
    "Label Studio, addresses": {
        "result.json": content(["/data/upload/3/a.jpg"]),
        "images/a.jpg": None,
    },
    "beside the images": {"annotations.json": COCO, "a.jpg": None, "notes.json": {"a": 1}},
    "VIA as COCO": {"via_project_coco.json": COCO, "images/a.jpg": None},
    "data.toml": {"data.toml": '[all]\nannotations = "b.json"\n', "b.json": COCO, "a.jpg": None},
}
