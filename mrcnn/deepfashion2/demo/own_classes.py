"""The drawn scenes as somebody's own data set: three classes, ids with gaps, COCO's layout."""

from collections.abc import Iterable
from typing import Any

import shapely

from mrcnn.deepfashion2.demo.garments import BOTTOMS, DRESSES, OUTWEAR, TOPS

# id, name, and the garments that it stands for
CLASSES = ((7, "top", (*TOPS, *OUTWEAR)), (20, "bottom", BOTTOMS), (55, "dress", DRESSES))
SPLITS = (("train", 0.8), ("val", 0.2))


def as_coco(scenes: Iterable[tuple[str, tuple[int, int], dict[str, Any]]]) -> dict[str, Any]:
    """The content of a COCO file.

    Args:
        scenes: file name, (width, height) and DeepFashion2's annotation of each image.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (name, (width, height), annotation) in enumerate(scenes, 1):
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for key in sorted(key for key in annotation if key.startswith("item")):
            entry = _annotation(annotation[key])
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **entry})
    categories = [{"id": number, "name": name} for number, name, _ in CLASSES]
    return {"images": images, "annotations": annotations, "categories": categories}


def _annotation(item: dict[str, Any]) -> dict[str, Any]:
    x1, y1, x2, y2 = item["bounding_box"]
    rings = item["segmentation"]
    area = sum(shapely.Polygon(list(zip(r[::2], r[1::2], strict=True))).area for r in rings)
    (category,) = [number for number, _, kinds in CLASSES if item["category_id"] in kinds]
    return {
        "category_id": category,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": round(area, 1),
        "iscrowd": 0,
        "segmentation": rings,
    }
