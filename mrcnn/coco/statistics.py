"""What is in a COCO instance-segmentation file, counted in one pass.

Any such file will do: polygons, RLE or crowds, any classes, with the attributes that
`convert_to_coco.py` writes or without; the images are not needed. `statistics` has the keys.

Boxes are [x, y, w, h] and areas square pixels, both of the image as stored. N: instances,
which are annotations that are no crowds; of crowds there is only the number.
"""

import math
import mmap
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

# Values of DeepFashion2's attributes, and what they mean.
ATTRIBUTES: dict[str, dict[Any, str]] = {
    "scale": {1: "small", 2: "moderate", 3: "large"},
    "occlusion": {1: "slight", 2: "medium", 3: "heavy"},
    "zoom_in": {1: "no", 2: "medium", 3: "large"},
    "viewpoint": {1: "no wear", 2: "frontal", 3: "side or back"},
    "source": {"user": "user", "shop": "shop"},
}
PROBLEMS = {
    "pictures_with_a_used_id": "images left out, as another one has their id",
    "categories_with_a_used_id": "categories left out, as another one has their id",
    "annotations_of_unknown_pictures": "annotations left out, of an image that is not there",
    "annotations_of_unknown_categories": "annotations left out, of a category that is not there",
    "annotations_with_a_used_id": "annotations whose id another one has",
    "without_a_mask": "annotations without a mask",
    "without_a_box_or_an_area": "annotations without a box or an area (taken from the mask)",
    "unreadable_masks": "masks of those that are neither polygons nor an RLE of the image's size",
    "empty_boxes": "boxes without width or height",
    "boxes_beyond_the_picture": "boxes that reach beyond the image",
}
# COCO's AP of small objects is that of areas below 32 x 32, of large ones from 96 x 96.
SMALL, LARGE = 32**2, 96**2
SIDES = (0, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
ASPECTS = (0, 0.1, 0.2, 0.25, 0.33, 0.5, 0.67, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 10)


class _Picture(msgspec.Struct, gc=False):
    id: int
    file_name: str
    width: float  # some tools write 640.0
    height: float
    pair_id: Any = None
    source: Any = None


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str


class _Annotation(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    id: int | None = None
    bbox: tuple[float, float, float, float] | None = None
    area: float | None = None
    iscrowd: int | bool | None = 0
    # Left unparsed: nine tenths of a file are polygons, and few of them are drawn.
    segmentation: msgspec.Raw = msgspec.Raw()
    scale: Any = None
    occlusion: Any = None
    zoom_in: Any = None
    viewpoint: Any = None


class _File(msgspec.Struct):
    images: list[_Picture]
    annotations: list[_Annotation] = []
    categories: list[_Category] = []


@dataclass
class Truth:
    """A COCO file's images and annotations, put in order.

    Attributes:
        images: by id.
        categories: by id.
        annotations: those of these images and categories, crowds too.
        places: (index of the image, index of the category) of each annotation.
        problems: key of `PROBLEMS` -> how often.
    """

    pictures: list[_Picture]
    categories: list[_Category]
    annotations: list[_Annotation] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    problems: Counter[str] = field(default_factory=Counter)


# --- Reading ----------------------------------------------------------------------------------


def read_truth(path, limit=None):
    """The `Truth` of a COCO file.

    Args:
        path: str or Path of the JSON file.
        limit: int, keep the first images by id and what belongs to them; None for all.

    Raises:
        ValueError: if the file is no COCO instances file.
    """
    with open(path, "rb") as file:
        # Mapped, not read: polygons stay in the file, whose pages the system can take back.
        empty = file.seek(0, 2) == 0
        data = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        content = msgspec.json.decode(data, type=_File)
    except msgspec.DecodeError as error:
        raise ValueError(
            f"{path} is no COCO instances file ({error}); pass one with images, annotations and "
            "categories, such as convert_to_coco.py writes"
        ) from None
    pictures = {p.id: p for p in reversed(content.images)}
    categories = {c.id: c for c in reversed(content.categories)}
    truth = Truth(
        sorted(pictures.values(), key=lambda p: p.id)[:limit],
        sorted(categories.values(), key=lambda c: c.id),
    )
    truth.problems["pictures_with_a_used_id"] = len(content.images) - len(pictures)
    truth.problems["categories_with_a_used_id"] = len(content.categories) - len(categories)
    _take_annotations(truth, content.annotations, set(pictures))
    return truth


def _take_annotations(truth, annotations, known_pictures):
    """Fills the truth's annotations and places; what belongs nowhere is counted."""
    picture_index = {p.id: i for i, p in enumerate(truth.pictures)}
    category_index = {c.id: i for i, c in enumerate(truth.categories)}
    ids = set()
    for annotation in annotations:
        picture = picture_index.get(annotation.image_id)
        category = category_index.get(annotation.category_id)
        if picture is None:
            # Beyond the limit is no problem.
            if annotation.image_id not in known_pictures:
                truth.problems["annotations_of_unknown_pictures"] += 1
            continue
        if category is None:
            truth.problems["annotations_of_unknown_categories"] += 1
            continue
        if annotation.id is not None and annotation.id in ids:
            truth.problems["annotations_with_a_used_id"] += 1
        ids.add(annotation.id)
        _complete(annotation, truth.pictures[picture], truth.problems)
        truth.annotations.append(annotation)
        truth.places.append((picture, category))


def _complete(annotation, picture, problems):
    """Fills in a missing box or area from the mask, else one from the other; counts troubles."""
    if not polygon_count(annotation.segmentation) and not is_rle(annotation.segmentation):
        problems["without_a_mask"] += 1
    if annotation.bbox is None or annotation.area is None:
        from pycocotools import mask as coco_mask

        problems["without_a_box_or_an_area"] += 1
        try:
            rle = mask_rle(annotation.segmentation, picture)
            box, area = tuple(map(float, coco_mask.toBbox(rle))), float(coco_mask.area(rle))
        except ValueError:
            problems["unreadable_masks"] += 1
            box = annotation.bbox or (0.0, 0.0, 0.0, 0.0)
            area = box[2] * box[3]
        annotation.bbox = annotation.bbox or box
        annotation.area = area if annotation.area is None else annotation.area
    x, y, width, height = annotation.bbox
    if width <= 0 or height <= 0:
        problems["empty_boxes"] += 1
    # Half a pixel is what roundings of COCO's own boxes come to.
    elif min(x, y) < -0.5 or x + width > picture.width + 0.5 or y + height > picture.height + 0.5:
        problems["boxes_beyond_the_picture"] += 1


def is_rle(segmentation):
    """Whether a raw segmentation is run-length encoded."""
    return bytes(memoryview(segmentation)[:1]) == b"{"


def polygon_count(segmentation):
    """Polygons in a raw segmentation, 0 for an RLE, null or nothing."""
    return 0 if is_rle(segmentation) else max(0, bytes(segmentation).count(b"[") - 1)


def mask_rle(segmentation, picture):
    """A raw segmentation as pycocotools' RLE.

    Raises:
        ValueError: if it is no mask of the image's size.
    """
    height, width = int(picture.height), int(picture.width)
    try:
        rle = _rle(msgspec.json.decode(segmentation), height, width)
    except (TypeError, KeyError, ValueError, OverflowError):
        rle = None
    if rle is None:
        raise ValueError(
            f"a mask of {picture.file_name} is neither polygons nor a {height} x {width} RLE"
        )
    return rle


def _rle(content, height, width):
    """The RLE of a parsed segmentation; None, or an error of pycocotools', if it is none."""
    from pycocotools import mask as coco_mask

    if isinstance(content, list):
        # pycocotools would read 4 numbers as a box. Points far away would cost it memory.
        polygons = [polygon for polygon in content if len(polygon) >= 6]
        far = 10 * max(height, width)
        if polygons and all(abs(value) <= far for polygon in polygons for value in polygon):
            return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    elif content["size"] == [height, width]:
        counts = content["counts"]
        if isinstance(counts, str) and counts:
            return content
        if sum(counts) == height * width:
            return coco_mask.frPyObjects(content, height, width)
    return None


# --- Statistics -------------------------------------------------------------------------------


def statistics(truth):
    """Counts of what is in a `Truth`.

    Returns:
        dict that JSON can hold:

        images, pictures_without_instances, annotations, instances, crowds: int.
        pairs: int, different pair_id; None if no image has one.
        instances_per_picture: {"0": pictures, ...}, numbers that occur.
        instances_mean: float, instances per image; None without images.
        picture_sizes: distinct, width and height (min, median, max; None without images),
            most_common (up to 10 of width, height, images).
        classes: a list by id of id, name, instances, share (of all instances), images, crowds
            and attributes (as below, for the class).
        classes_without_instances: names.
        imbalance: largest, smallest (names, the latter of a class with instances), ratio; None
            without instances.
        attributes: for each of `ATTRIBUTES`, instances by word, such as {"small": 4,
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
    rows = [i for i, a in enumerate(truth.annotations) if not a.iscrowd]
    items = [truth.annotations[i] for i in rows]
    places = np.array([truth.places[i] for i in rows], int).reshape(-1, 2)
    per_picture = np.bincount(places[:, 0], minlength=len(truth.pictures))
    levels = {name: _levels(name, items) for name in ATTRIBUTES if name != "source"}
    levels["source"] = _levels("source", truth.pictures)[places[:, 0]]
    classes = _class_counts(truth, places, levels)
    return {
        "pictures": len(truth.pictures),
        "pictures_without_instances": int((per_picture == 0).sum()),
        "annotations": len(truth.annotations),
        "instances": len(items),
        "crowds": len(truth.annotations) - len(items),
        "pairs": len({str(p.pair_id) for p in truth.pictures} - {"None"}) or None,
        "instances_per_picture": _occurrences(per_picture),
        "instances_mean": len(items) / len(truth.pictures) if truth.pictures else None,
        "picture_sizes": _picture_sizes(truth.pictures),
        "classes": classes,
        "classes_without_instances": [c["name"] for c in classes if not c["instances"]],
        "imbalance": _imbalance(classes),
        "attributes": {name: _words(name, levels[name]) for name in ATTRIBUTES},
        "pictures_by_source": _words("source", _levels("source", truth.pictures)),
        **_shapes(truth, items, places),
        "problems": {key: truth.problems[key] for key in PROBLEMS if truth.problems[key]},
    }


def _occurrences(values):
    """{"value": how often}, by value."""
    return {str(value): count for value, count in sorted(Counter(map(int, values)).items())}


def _levels(name, records):
    """Positions of an attribute's values: 0.. as in `ATTRIBUTES`, then other, then missing."""
    positions = {value: i for i, value in enumerate(ATTRIBUTES[name])}
    other = len(positions)

    def position(value):
        if value is None:
            return other + 1
        # A foreign file may have anything under the same name, lists too.
        return positions.get(value, other) if type(value) in (int, float, str) else other

    return np.array([position(getattr(record, name)) for record in records], int)


def _words(name, levels):
    """{word: count} from `_level` positions, None if all are missing."""
    words = [*ATTRIBUTES[name].values(), "other", "missing"]
    counts = np.bincount(levels, minlength=len(words))
    if counts[-1] == counts.sum():
        return None
    return dict(zip(words, counts.tolist(), strict=True))


def _class_counts(truth, places, levels):
    """The entries of `statistics`' classes."""
    total = len(truth.categories)
    counts = np.bincount(places[:, 1], minlength=total)
    pictures = np.bincount(np.unique(places, axis=0)[:, 1], minlength=total)
    pairs = zip(truth.places, truth.annotations, strict=True)
    crowds = Counter(category for (_, category), a in pairs if a.iscrowd)
    order = np.argsort(places[:, 1], kind="stable")
    rows = np.split(order, np.cumsum(counts)[:-1]) if total else []
    return [
        {
            "id": category.id,
            "name": category.name,
            "instances": int(counts[k]),
            "share": float(counts[k] / max(len(places), 1)),
            "pictures": int(pictures[k]),
            "crowds": crowds[k],
            "attributes": {name: _words(name, levels[name][rows[k]]) for name in ATTRIBUTES},
        }
        for k, category in enumerate(truth.categories)
    ]


def _imbalance(classes):
    present = [c for c in classes if c["instances"]]
    if not present:
        return None
    smallest, largest = (pick(present, key=lambda c: c["instances"]) for pick in (min, max))
    ratio = largest["instances"] / smallest["instances"]
    return {"largest": largest["name"], "smallest": smallest["name"], "ratio": ratio}


def _picture_sizes(pictures):
    sizes = Counter((int(p.width), int(p.height)) for p in pictures)
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


def _shapes(truth, items, places):
    """`statistics`' boxes, areas, polygons_per_instance and rle."""
    boxes = np.array([a.bbox for a in items], float).reshape(-1, 4)
    areas = np.array([a.area for a in items], float)
    whole = np.array([p.width * p.height for p in truth.pictures], float)[places[:, 0]]
    solid = boxes[(boxes[:, 2:] > 0).all(axis=1)]
    polygons = [polygon_count(a.segmentation) for a in items if not is_rle(a.segmentation)]
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
        "polygons_per_instance": _occurrences(polygons),
        "rle": len(items) - len(polygons),
    }


def histogram(values, edges, open_end=False):
    """Edges and counts as `statistics` describes them; values outside go to the end bins."""
    edges = np.asarray(edges, float)
    bounds = np.append(edges, np.inf) if open_end else edges
    inside = np.clip(values, edges[0], None if open_end else edges[-1])
    counts = np.histogram(inside, bounds)[0]
    return {"edges": [*edges.tolist(), *([None] * open_end)], "counts": counts.tolist()}


def round_edges(values, bins=20):
    """Edges from 0 past the largest value in steps of 1, 2 or 5 times a power of ten."""
    largest = max(1.0, float(np.max(values, initial=0)))
    power = 10.0 ** math.floor(math.log10(largest / bins))
    step = max(1.0, next(m * power for m in (1, 2, 5, 10) if m * power * bins >= largest))
    return np.arange(math.ceil(largest / step) + 1) * step
