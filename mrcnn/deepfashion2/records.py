"""One image of DeepFashion2 -> COCO records, with all that is wrong with it listed.

Files: `image/000001.jpg` and `annos/000001.json`, which holds `source`, `pair_id` and the garments
`item1`, `item2`, ... Boxes there are [x1, y1, x2, y2], in COCO [x, y, w, h]; both, polygons
[x1, y1, x2, y2, ...] and landmarks [x1, y1, v1, ...] are in pixels of the image as stored (no
EXIF rotation: that is what the loader trains on), x2 and y2 of boxes exclusive.

The official form is that of `evaluation/deepfashion2_to_coco.py` in the data set's repository.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from mrcnn.coco import masks
from mrcnn.coco.reader import ATTRIBUTES as NAMED_ATTRIBUTES
from mrcnn.core.classes import (
    DEEPFASHION2,
    DEEPFASHION2_CATEGORY_IDS,
    DEEPFASHION2_LANDMARK_OFFSETS,
)
from mrcnn.core.problems import Place, Problem, Unusable, shown
from mrcnn.deepfashion2.entries import ITEM, Record, image_size, read_annotation

SOURCES = ("user", "shop")
# Lowest and highest value of the item attributes that evaluation subsets are made from.
ATTRIBUTES = {name: (1, len(words)) for name, words in NAMED_ATTRIBUTES.items()}
ATTRIBUTES["style"] = (0, 2**31 - 1)
NUM_LANDMARKS = DEEPFASHION2_LANDMARK_OFFSETS[-1]
# No real garment comes near; pycocotools' time and memory go by them.
MOST_POLYGONS = 10_000
MOST_SIDES, LONGEST = 500, 2**21  # longer sides, and pixels, along one polygon
LARGEST = 10**9  # of a box; products of what is larger don't fit 64 bits
_KEPT = "kept as it is, for the official form"


class Form(NamedTuple):
    """What to write."""

    keypoints: bool = False  # the 294 landmarks (x, y, visibility) and their number too
    # The official tool's fields and values: boxes and polygons as annotated, area w * h,
    # keypoints, none of the attributes that its authors left out.
    official: bool = False

    @property
    def has_keypoints(self) -> bool:
        return self.keypoints or self.official


def categories(form: Form) -> list[Record]:
    """COCO's category records of the 13 garments, ids 1..13."""
    extra: Record = {}
    if form.has_keypoints:
        extra = {"keypoints": [str(i + 1) for i in range(NUM_LANDMARKS)], "skeleton": []}
    supercategory = "clothes" if form.official else "clothing"
    return [
        {"id": i, "name": name, "supercategory": supercategory, **extra}
        for i, name in enumerate(DEEPFASHION2)
        if i > 0
    ]


def convert_image(
    folder: Path, name: str, annotation: str | None, form: Form, problems: list[Problem]
) -> tuple[Record, list[Record]] | None:
    """One image's COCO image record and annotations, both without ids.

    Args:
        folder: of the split, with `image/` and `annos/`.
        name: of the file in `image/`.
        annotation: name of the file in `annos/`; None in a split without annotations.
        problems: takes what was found.

    Returns:
        The records, or None, after a note in `problems`, if the image can't be used.
    """
    place = Place(problems, name)
    try:
        width, height = image_size(folder / "image" / name, place)
        data = {} if annotation is None else read_annotation(folder / "annos" / annotation, place)
    except Unusable as error:
        place.note_error(error, "picture skipped")
        return None
    image: Record = {"file_name": name, "width": width, "height": height}
    if annotation is not None:
        image |= _image_fields(data, place)
    items = []
    for key in sorted(filter(ITEM.fullmatch, data), key=lambda key: int(key[len("item") :])):
        place.item = key
        try:
            items.append(convert_item(data[key], width, height, form, place))
        except Unusable as error:
            place.note_error(error, "item skipped")
    if form.official:
        pair_id = image.pop("pair_id", None)
        image.pop("source", None)
        image |= {"coco_url": "", "date_captured": "", "flickr_url": "", "license": 0}
        items = [{**item, "pair_id": pair_id} for item in items]
    return image, items


def _image_fields(data: Record, place: Place) -> Record:
    """pair_id and source; notes keys that are neither these nor items."""
    for key in data:
        if key not in ("source", "pair_id") and not ITEM.fullmatch(key):
            detail = f"{shown(key)} is neither an item nor pair_id or source"
            place.note("unknown key", detail, "ignored")
    pair_id = checked_number(data, "pair_id", 0, 2**53, place)
    source = data.get("source")
    if source not in SOURCES:
        place.note("bad attribute", f"source is {shown(source)}", "set to null")
        source = None
    return {"pair_id": pair_id, "source": source}


def convert_item(item: Any, width: int, height: int, form: Form, place: Place) -> Record:
    """One garment's COCO annotation, without ids, of `item1`, ... in an image of width x height.

    Raises:
        Unusable: if the category is unknown or ambiguous, or no polygon is usable.
    """
    if not isinstance(item, dict):
        raise Unusable("bad item", f"is a {type(item).__name__}, not an object")
    category_id = checked_category(item, form, place)
    polygons, area = usable_polygons(item.get("segmentation"), width, height, form, place)
    box = usable_box(item.get("bounding_box"), polygons, width, height, form, place)
    points = usable_landmarks(item, category_id, form, place)
    record = {
        "category_id": category_id,
        "bbox": box,
        "area": box[2] * box[3] if form.official else area,
        "iscrowd": 0,
        "segmentation": polygons,
    }
    for name, (low, high) in ATTRIBUTES.items():
        value = checked_number(item, name, low, high, place)
        if name == "style" or not form.official:
            record[name] = value
    if points is not None:
        record |= keypoints(points, category_id)
    return record


def checked_category(item: Record, form: Form, place: Place) -> int:
    """The category id, 1..13, if `category_name` agrees with it."""
    category_id, name = item.get("category_id"), item.get("category_name")
    if type(category_id) is not int or not 1 <= category_id < len(DEEPFASHION2):
        raise Unusable("unknown category", f"category_id is {shown(category_id)}, not 1 to 13")
    known = DEEPFASHION2_CATEGORY_IDS.get(name) if isinstance(name, str) else None
    if known == category_id:
        return category_id
    problem = Unusable("unknown category", f"category_name is {shown(name)}")
    if known is not None:
        detail = f"category_id is {category_id} but {name!r} has id {known}"
        problem = Unusable("category mismatch", detail)
    if not form.official:
        raise problem
    place.note_error(problem, "the category_id taken, for the official form")
    return category_id


def checked_number(record: Record, name: str, low: int, high: int, place: Place) -> int | None:
    """The whole number `record[name]`; None, with a note, if it isn't in low..high."""
    value = record.get(name)
    if type(value) is int and low <= value <= high:
        return value
    place.note("bad attribute", f"{name} is {shown(value)}", "set to null")
    return None


def usable_polygons(
    polygons: Any, width: int, height: int, form: Form, place: Place
) -> tuple[list[list[float]], float]:
    """The polygons that cover pixels of the image, and the area of their union in pixels.

    The official form keeps all that are lists of numbers.
    """
    if not isinstance(polygons, list):
        raise Unusable("bad segmentation", f"is a {type(polygons).__name__}, not a list")
    if len(polygons) > MOST_POLYGONS:
        raise Unusable("bad segmentation", f"has {len(polygons):,} polygons")
    kept, filled = [], []
    for position, polygon in enumerate(polygons, 1):
        try:
            filled.append(polygon_mask(polygon, width, height))
            kept.append(polygon)
        except Unusable as error:
            keep = form.official and isinstance(polygon, list) and all_finite(polygon)
            action = _KEPT if keep else "polygon dropped"
            place.note(error.kind, f"polygon {position} {error.detail}", action)
            if keep:
                kept.append(polygon)
    if not kept:
        raise Unusable("no usable polygon", f"none of {len(polygons)}")
    return kept, masks.area(masks.union(filled))


def polygon_mask(polygon: Any, width: int, height: int) -> masks.RLE:
    """One polygon as a run-length encoded mask of the image's size."""
    if not isinstance(polygon, list):
        raise Unusable("bad polygon", f"is a {type(polygon).__name__}, not a list")
    if not all_finite(polygon):
        raise Unusable("non-finite number", "has a value that is no finite number")
    if len(polygon) < 6 or len(polygon) % 2:
        raise Unusable("bad polygon", f"has {len(polygon)} values; 3 or more points are needed")
    # Points a whole image away are not sloppy outlines, and rasterising takes time and memory
    # by their distance.
    xs, ys = polygon[0::2], polygon[1::2]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    if left < -width or right > 2 * width or top < -height or bottom > 2 * height:
        raise Unusable("bad polygon", "has points far outside the image")
    longest = min(MOST_SIDES * max(width, height), LONGEST)
    bound = len(xs) * (max(right - left, bottom - top) + 1)
    if bound > longest and outline_length(polygon) > longest:
        raise Unusable("bad polygon", f"has an outline of more than {longest:,} pixels")
    try:
        mask = masks.fill([polygon], (height, width))
    except ValueError as error:
        raise Unusable("bad polygon", str(error)) from None
    if not masks.area(mask):
        raise Unusable("empty polygon", "covers no pixel of the image")
    return mask


def outline_length(polygon: list[float]) -> float:
    """Pixels as pycocotools counts them, some for each point too."""
    points = np.array(polygon, float).reshape(-1, 2)
    steps = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1)
    return float(steps.sum() + 0.2 * len(steps))


def usable_box(
    box: Any, polygons: list[list[float]], width: int, height: int, form: Form, place: Place
) -> list[float]:
    """The box [x, y, w, h] clipped to the image; that of the polygons if `box` is no use."""
    if not isinstance(box, list) or len(box) != 4:
        problem = Unusable("bad box", f"{shown(box)} is no list of 4 numbers")
    elif not all_finite(box):
        problem = Unusable("non-finite number", f"the box is {shown(box)}")
    elif max(map(abs, box)) > LARGEST:
        problem = Unusable("bad box", f"{box} reaches too far")
    else:
        clipped = clip_box(box, width, height)
        if clipped == box:
            return to_xywh(box)
        problem = Unusable("box beyond picture", f"{box} in {width} x {height}")
        if clipped is None:
            detail = f"{box} is empty or outside the {width} x {height} image"
            problem = Unusable("bad box", detail)
        if form.official:
            place.note_error(problem, _KEPT)
            return to_xywh(box)
        if clipped:
            place.note_error(problem, "clipped")
            return to_xywh(clipped)
    if form.official:
        raise problem
    place.note_error(problem, "box taken from the polygons")
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    around = clip_box([min(xs), min(ys), max(xs), max(ys)], width, height)
    if around is None:
        raise Unusable("bad box", "the box of the polygons is empty too")
    return to_xywh(around)


def clip_box(box: list[float], width: int, height: int) -> list[float] | None:
    """[x1, y1, x2, y2] cut to the image; None if nothing is left."""
    x1, y1, x2, y2 = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
    return [x1, y1, x2, y2] if x1 < x2 and y1 < y2 else None


def to_xywh(box: list[float]) -> list[float]:
    """[x1, y1, x2, y2] -> [x, y, w, h]."""
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def usable_landmarks(
    item: Record, category_id: int, form: Form, place: Place
) -> list[float] | None:
    """The category's landmarks [x, y, v] * n; zeros if they are no use, None if not asked for.

    They are checked in any case, unless the item has none and none are asked for.
    """
    wanted = form.has_keypoints
    if not wanted and "landmarks" not in item:
        return None
    points = item.get("landmarks")
    first, end = DEEPFASHION2_LANDMARK_OFFSETS[category_id - 1 : category_id + 1]
    try:
        check_landmarks(points, end - first, DEEPFASHION2[category_id])
    except Unusable as error:
        place.note_error(error, "landmarks set to 0" if wanted else "landmarks not used")
        points = [0] * (3 * (end - first))
    return points if wanted else None


def check_landmarks(points: Any, count: int, name: str) -> None:
    """Raises Unusable unless these are a garment's landmarks."""
    if not isinstance(points, list):
        raise Unusable("bad landmarks", f"is a {type(points).__name__}, not a list")
    if len(points) != 3 * count:
        raise Unusable("bad landmarks", f"{len(points)} numbers; {name} has 3 x {count}")
    if not all_finite(points):
        raise Unusable("non-finite number", "a landmark has a value that is no finite number")
    if not set(points[2::3]) <= {0, 1, 2}:
        raise Unusable("bad landmarks", "a visibility is none of 0, 1, 2")


def keypoints(points: list[float], category_id: int) -> Record:
    """COCO's `keypoints` (3 x 294 numbers, other categories' are 0) and `num_keypoints`."""
    first, end = DEEPFASHION2_LANDMARK_OFFSETS[category_id - 1 : category_id + 1]
    return {
        "num_keypoints": sum(v > 0 for v in points[2::3]),
        "keypoints": [0] * (3 * first) + points + [0] * (3 * (NUM_LANDMARKS - end)),
    }


def all_finite(values: list[Any]) -> TypeGuard[list[float]]:
    """Whether all are JSON numbers that a float can hold; True, False, NaN are not."""
    if not set(map(type, values)) <= {int, float}:
        return False
    limit = sys.float_info.max
    # NaN compares false with anything, and a sum that has one is NaN.
    total = sum(values)
    return not values or (total == total and min(values) >= -limit and max(values) <= limit)
