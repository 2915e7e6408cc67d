"""What is in a COCO instance-segmentation file, counted.

Any such file will do: polygons, RLE or crowds, any classes, with the attributes that
`convert_to_coco.py` writes or without; the images are not needed. `statistics` has the keys.

Boxes are [x, y, w, h] and areas square pixels, both of the image as stored. N: instances,
which are annotations that are no crowds; of crowds there is only the number.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mrcnn.coco.masks import RLE, area, bounds, to_rle
from mrcnn.coco.reader import (
    ATTRIBUTES,
    IS_RLE,
    MISSING,
    OTHER,
    PROBLEMS,
    CocoTable,
    Image,
    read_coco,
)

SOURCES = ("user", "shop")
# The words of each attribute, that of the image included, by which its values are counted.
WORDS = ATTRIBUTES | {"source": SOURCES}
# COCO's AP of small objects is that of areas below 32 x 32, of large ones from 96 x 96.
SMALL, LARGE = 32**2, 96**2
SIDES = (0, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
ASPECTS = (0, 0.1, 0.2, 0.25, 0.33, 0.5, 0.67, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 10)

Counts = dict[str, int]


def read_completed(source: Any, limit: int | None = None) -> CocoTable:
    """The table of a COCO file, every box and area filled in and all problems counted.

    Args:
        source: as of `reader.read_coco`; annotations and categories may be missing.
        limit: keep the first images by id and what belongs to them; None for all.

    Raises:
        ValueError: if the file is no COCO file, or an image has no name or size.
    """
    table = read_coco(source)
    table.require("file_name", "width", "height")
    table = table.first(limit)
    boxes, areas, problems = table.boxes.copy(), table.areas.copy(), Counter(table.problems)
    ids = [key for key in table.ids.tolist() if key is not None]
    problems["annotations_with_a_used_id"] = len(ids) - len(set(ids))
    problems["without_a_mask"] = int((~table.masked).sum())
    lacking = np.flatnonzero(np.isnan(boxes).any(axis=1) | np.isnan(areas))
    problems["without_a_box_or_an_area"] = len(lacking)
    for row in lacking.tolist():
        try:
            mask = mask_of(table, row)
            box, size = bounds(mask), float(area(mask))
        except ValueError:
            problems["unreadable_masks"] += 1
            box = np.nan_to_num(boxes[row])
            size = box[2] * box[3]
        boxes[row] = np.where(np.isnan(boxes[row]), box, boxes[row])
        areas[row] = size if np.isnan(areas[row]) else areas[row]
    sizes = _image_sizes(table.images)[table.image]
    empty = (boxes[:, 2:] <= 0).any(axis=1)
    # Half a pixel is what roundings of COCO's own boxes come to.
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    beyond = (low < -0.5).any(axis=1) | (high > sizes + 0.5).any(axis=1)
    problems["empty_boxes"] = int(empty.sum())
    problems["boxes_beyond_the_picture"] = int((beyond & ~empty).sum())
    return replace(table, boxes=boxes, areas=areas, problems=problems)


def mask_of(table: CocoTable, row: int) -> RLE:
    """An annotation's mask; ValueError if there is none."""
    if not table.masked[row]:
        raise ValueError("there is no polygon and no RLE")
    image = table.images[table.image[row]]
    try:
        return to_rle(table.segmentation(row), image.size)
    except ValueError as error:
        raise ValueError(f"a mask of {image.file_name}: {error}") from None


def _image_sizes(images: list[Image]) -> np.ndarray:
    return np.array([(p.width, p.height) for p in images], float).reshape(-1, 2)


def statistics(table: CocoTable) -> dict[str, Any]:
    """Counts of what is in a table of `read_completed`.

    Returns:
        dict that JSON can hold:

        pictures, pictures_without_instances, annotations, instances, crowds: int.
        pairs: int, different pair_id; None if no image has one.
        instances_per_picture: {"0": images, ...}, numbers that occur.
        instances_mean: float, instances per image; None without images.
        picture_sizes: distinct, width and height (min, median, max; None without images),
            most_common (up to 10 of width, height, pictures).
        classes: a list by id of id, name, instances, share (of all instances), pictures, crowds
            and attributes (as below, for the class).
        classes_without_instances: names.
        imbalance: largest, smallest (names, the latter of a class with instances), ratio; None
            without instances.
        attributes: for each of `WORDS`, instances by word, such as {"small": 4,
            "moderate": 3, "large": 2, "other": 0, "missing": 1}; None where no instance has it.
        pictures_by_source: the same form, of images.
        boxes: histograms of width, height (pixels) and aspect (width / height; boxes that are
            empty are left out).
        areas: histograms of pixels and share_of_picture; small, medium, large: COCO's sizes.
        polygons_per_instance: {"1": instances, ...}; rle: instances that are no polygons;
            those without a mask are under "0".
        problems: {key of `PROBLEMS`: how often}, those that occur.

        A histogram is edges [K + 1] and counts [K]: bin i goes from edges[i] to below
        edges[i + 1], the last includes its end; a last edge of None stands for infinity.
    """
    wanted = table.take(~table.crowd)
    per_image = np.bincount(wanted.image, minlength=len(table.images))
    sources = np.array([_source_code(p.source) for p in table.images], int)
    codes = wanted.attributes | {"source": sources[wanted.image]}
    classes = _class_counts(table, wanted, codes)
    return {
        "pictures": len(table.images),
        "pictures_without_instances": int((per_image == 0).sum()),
        "annotations": len(table),
        "instances": len(wanted),
        "crowds": len(table) - len(wanted),
        "pairs": len({str(p.pair_id) for p in table.images} - {"None"}) or None,
        "instances_per_picture": _occurrences(per_image),
        "instances_mean": len(wanted) / len(table.images) if table.images else None,
        "picture_sizes": _size_counts(table.images),
        "classes": classes,
        "classes_without_instances": [c["name"] for c in classes if not c["instances"]],
        "imbalance": _imbalance(classes),
        "attributes": _attributes(codes),
        "pictures_by_source": _words("source", sources),
        **_shapes(wanted),
        "problems": {key: table.problems[key] for key in PROBLEMS if table.problems[key]},
    }


def _occurrences(values: Iterable[int]) -> Counts:
    """{"value": how often}, by value."""
    return {str(value): count for value, count in sorted(Counter(map(int, values)).items())}


def _source_code(value: Any) -> int:
    """As the table's attributes: 1 or 2, `MISSING` or `OTHER`."""
    if value is None:
        return MISSING
    return SOURCES.index(value) + 1 if value in SOURCES else OTHER


def _attributes(
    codes: dict[str, np.ndarray], rows: np.ndarray | slice = slice(None)
) -> dict[str, Counts | None]:
    """The counts of each of `WORDS` over some instances."""
    return {name: _words(name, codes[name][rows]) if name in codes else None for name in WORDS}


def _words(name: str, codes: np.ndarray) -> Counts | None:
    """{word: count}, None if all are missing."""
    words = {word: int((codes == n).sum()) for n, word in enumerate(WORDS[name], 1)}
    words |= {"other": int((codes == OTHER).sum()), "missing": int((codes == MISSING).sum())}
    return None if words["missing"] == len(codes) else words


def _class_counts(
    table: CocoTable, wanted: CocoTable, codes: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """The entries of `statistics`' classes."""
    total = len(table.categories)
    counts = np.bincount(wanted.classes, minlength=total)
    crowds = np.bincount(table.classes[table.crowd], minlength=total)
    order = np.argsort(wanted.classes, kind="stable")
    rows = np.split(order, np.cumsum(counts)[:-1]) if total else []
    return [
        {
            "id": category.id,
            "name": category.name,
            "instances": int(counts[k]),
            "share": float(counts[k] / max(len(wanted), 1)),
            "pictures": len(np.unique(wanted.image[rows[k]])),
            "crowds": int(crowds[k]),
            "attributes": _attributes(codes, rows[k]),
        }
        for k, category in enumerate(table.categories)
    ]


def _imbalance(classes: list[dict[str, Any]]) -> dict[str, Any] | None:
    present = [c for c in classes if c["instances"]]
    if not present:
        return None
    smallest = min(present, key=lambda c: c["instances"])
    largest = max(present, key=lambda c: c["instances"])
    ratio = largest["instances"] / smallest["instances"]
    return {"largest": largest["name"], "smallest": smallest["name"], "ratio": ratio}


def _size_counts(images: list[Image]) -> dict[str, Any]:
    sizes = Counter((int(p.width), int(p.height)) for p in images)
    found: dict[str, Any] = {"distinct": len(sizes)}
    for k, name in enumerate(("width", "height")):
        values = [size[k] for size in sizes.elements()]
        found[name] = None
        if values:
            middle = float(np.median(values))
            found[name] = {"min": min(values), "median": middle, "max": max(values)}
    common = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:10]
    found["most_common"] = [{"width": w, "height": h, "pictures": n} for (w, h), n in common]
    return found


def _shapes(wanted: CocoTable) -> dict[str, Any]:
    """`statistics`' boxes, areas, polygons_per_instance and rle."""
    boxes, areas = wanted.boxes, wanted.areas
    whole = _image_sizes(wanted.images).prod(axis=1)[wanted.image]
    solid = boxes[(boxes[:, 2:] > 0).all(axis=1)]
    polygons = wanted.polygons[wanted.polygons != IS_RLE]
    return {
        "boxes": {
            "width": histogram(boxes[:, 2], round_edges(boxes[:, 2])),
            "height": histogram(boxes[:, 3], round_edges(boxes[:, 3])),
            "aspect": histogram(solid[:, 2] / solid[:, 3], ASPECTS, open_end=True),
        },
        "areas": {
            "pixels": histogram(areas, np.square(SIDES), open_end=True),
            "share_of_picture": histogram(areas / np.maximum(whole, 1), np.arange(21) / 20),
            "small": int((areas < SMALL).sum()),
            "medium": int(((areas >= SMALL) & (areas < LARGE)).sum()),
            "large": int((areas >= LARGE).sum()),
        },
        "polygons_per_instance": _occurrences(polygons.clip(min=0)),
        "rle": len(wanted) - len(polygons),
    }


def histogram(
    values: np.ndarray, edges: npt.ArrayLike, open_end: bool = False
) -> dict[str, list[float | None]]:
    """Edges and counts as `statistics` describes them; values outside go to the end bins."""
    low = np.asarray(edges, float)
    bounds = np.append(low, np.inf) if open_end else low
    inside = np.clip(values, low[0], None if open_end else low[-1])
    counts = np.histogram(inside, bounds)[0]
    return {"edges": [*low.tolist(), *([None] * open_end)], "counts": counts.tolist()}


def round_edges(values: np.ndarray, bins: int = 20) -> np.ndarray:
    """Edges from 0 past the largest value in steps of 1, 2 or 5 times a power of ten."""
    largest = max(1.0, float(np.max(values, initial=0)))
    power = 10.0 ** math.floor(math.log10(largest / bins))
    step = max(1.0, next(m * power for m in (1, 2, 5, 10) if m * power * bins >= largest))
    return np.arange(math.ceil(largest / step) + 1) * step
