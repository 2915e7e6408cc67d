"""COCO annotations and results as arrays, checked before anything is scored.

I images, G annotated instances, N detections, K categories. Images and classes are positions
in the sorted ids (`GroundTruth.image_ids`, `GroundTruth.category_ids`), not the ids. Boxes are COCO's
[x, y, width, height] in pixels of the image; masks are run-length encodings (RLE) of its size.
"""

import json
import math
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import orjson
from pycocotools import mask as rle_tools

from mrcnn.coco.run_lengths import first_broken

# What DeepFashion2 notes for every garment: the names of the values 1, 2 and 3.
ATTRIBUTES = {
    "scale": ("small", "moderate", "large"),
    "occlusion": ("slight", "medium", "heavy"),
    "zoom_in": ("no", "medium", "large"),
    "viewpoint": ("no wear", "frontal", "side or back"),
}
KINDS = ("bbox", "segm")
BROKEN = "the runs of its RLE don't add up to its image's pixels"


@dataclass
class GroundTruth:
    """What is to be found, instances sorted by image and else in the file's order.

    Attributes:
        image_ids: [I] int or str, rising; category_ids: [K] int, rising.
        images: [I] dicts of the file (file_name, width, height).
        names: [K] category names.
        image, classes: [G] int, positions in image_ids and category_ids.
        areas: [G] float, the file's `area` (pixels), which decides small, medium and large.
        crowd: [G] bool.
        boxes: [G, 4] float. segmentations: [G] as in the file, None where there is none.
        attributes: name of `ATTRIBUTES` -> [G] int, 0 where an annotation doesn't say.
        known_ids: every image id of the file, chosen or not.
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    images: list[dict[str, Any]]
    names: list[str]
    image: np.ndarray
    classes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    boxes: np.ndarray
    segmentations: list[Any]
    attributes: dict[str, np.ndarray]
    known_ids: set[int]

    @cached_property
    def offsets(self):
        """[I + 1] int: instances of image i are offsets[i] to offsets[i + 1] - 1."""
        return np.searchsorted(self.image, np.arange(len(self.image_ids) + 1))

    @cached_property
    def rles(self):
        """[G] RLE dicts."""
        rles = []
        for i, segmentation in zip(self.image.tolist(), self.segmentations, strict=True):
            try:
                rles.append(to_rle(segmentation, self.size(i)))
            except ValueError as error:
                where = f"an annotation of image_id {self.image_ids[i]}"
                raise ValueError(f"{where}: {error}; repair it or convert again") from None
        given = [n for n, s in enumerate(self.segmentations) if isinstance(s, dict)]
        broken = first_broken([rles[n] for n in given])
        if broken is not None:
            where = f"an annotation of image_id {self.image_ids[self.image[given[broken]]]}"
            raise ValueError(f"{where}: {BROKEN}; repair it or convert again")
        return rles

    @property
    def has_masks(self):
        return all(s is not None for s in self.segmentations)

    def size(self, image):
        """(height, width) of the image at a position."""
        entry = self.images[image]
        return entry["height"], entry["width"]


@dataclass
class Detections:
    """What was found, sorted by image and else in the order of the results.

    Attributes:
        image, classes: [N] int, positions in the truth's image_ids and category_ids.
        scores: [N] float64.
        boxes: [N, 4] float.
        rles: [N] RLE dicts, or None if the results are boxes only.
        left_out: number of results for images of the file that aren't scored.
    """

    image: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    rles: list[Any] | None
    left_out: int = 0

    def __len__(self):
        return len(self.image)

    def offsets(self, images):
        """[images + 1] int: detections of image i are offsets[i] to offsets[i + 1] - 1."""
        return np.searchsorted(self.image, np.arange(images + 1))


def read_json(path):
    """Content of a JSON file; NaN, which other tools write, is read as such.

    Raises:
        ValueError: if it is no JSON, with the path.
    """
    with open(path, "rb") as file:
        data = file.read()
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            return json.loads(data)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)} is no JSON file: {error}") from None


def read_ground_truth(annotations, image_ids=None, limit=None):
    """The `GroundTruth` of COCO instances.

    Args:
        annotations: path, the content of the file, a `pycocotools.coco.COCO`, or a `GroundTruth`,
            which is returned as it is.
        image_ids: ids of the images to score; None for all.
        limit: int, the first images by id only; None for all.

    Raises:
        ValueError: if the file is no COCO instances file, or image_ids has unknown ids.
    """
    if isinstance(annotations, GroundTruth):
        if image_ids is not None or limit is not None:
            raise ValueError("got a GroundTruth and image_ids; choose images when it is read")
        return annotations
    content = _content(annotations)
    images = {entry["id"]: entry for entry in content["images"]}
    chosen = sorted(images) if image_ids is None else sorted(set(image_ids))
    check_known("image_ids", chosen, images)
    chosen = chosen[:limit]
    position = {image_id: i for i, image_id in enumerate(chosen)}
    categories = sorted(content["categories"], key=lambda entry: entry["id"])
    known = {entry["id"] for entry in categories}
    rows = [
        a for a in content["annotations"] if a["image_id"] in position and a["category_id"] in known
    ]
    rows.sort(key=lambda a: position[a["image_id"]])  # stable, so else in the file's order
    return _truth(rows, [images[i] for i in chosen], categories, position, set(images))


def _content(annotations):
    if isinstance(annotations, str | os.PathLike):
        content, name = read_json(annotations), os.fspath(annotations)
    else:
        content, name = getattr(annotations, "dataset", annotations), "the annotations"
    needed = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(key in content for key in needed):
        raise ValueError(
            f"{name}: no COCO instances file, which has {needed}; convert_to_coco.py writes such"
        )
    return content


def _truth(rows, images, categories, position, known_ids):
    ids = [entry["id"] for entry in categories]
    place = {category: k for k, category in enumerate(ids)}
    boxless = [a.get("id") for a in rows if len(a.get("bbox") or ()) != 4]
    if boxless:
        raise ValueError(
            f"{len(boxless)} annotations, such as id {boxless[0]}, have no bbox [x, y, width, "
            "height]; add it or convert again"
        )
    boxes = np.array([a["bbox"] for a in rows], float).reshape(-1, 4)
    areas = [a.get("area", w * h) for a, (_, _, w, h) in zip(rows, boxes, strict=True)]
    attributes = {
        name: np.array([a.get(name) or 0 for a in rows], int)
        for name in ATTRIBUTES
        if any(name in a for a in rows)
    }
    return GroundTruth(
        image_ids=np.array([entry["id"] for entry in images]),
        category_ids=np.array(ids, int),
        images=images,
        names=[entry["name"] for entry in categories],
        image=np.array([position[a["image_id"]] for a in rows], int),
        classes=np.array([place[a["category_id"]] for a in rows], int),
        areas=np.array(areas, float),
        crowd=np.array([bool(a.get("iscrowd")) for a in rows], bool),
        boxes=boxes,
        segmentations=[a.get("segmentation") for a in rows],
        attributes=attributes,
        known_ids=known_ids,
    )


def to_rle(segmentation, size):
    """RLE of polygons, or of an RLE with plain or compressed counts.

    Args:
        segmentation: list of polygons [x1, y1, x2, y2, ...] or dict of size and counts.
        size: (height, width) of the image.

    Raises:
        ValueError: if it is neither, or an RLE of another size.
    """
    if isinstance(segmentation, list):
        if not segmentation:
            return rle_tools.encode(np.zeros(size, np.uint8, order="F"))
        if not all(isinstance(p, list) and len(p) >= 6 for p in segmentation):
            raise ValueError(
                "polygons must be lists of 6 or more numbers [x1, y1, x2, y2, x3, y3, ...]"
            )
        if not all(
            isinstance(v, int | float) and math.isfinite(v) for p in segmentation for v in p
        ):
            raise ValueError("a polygon holds what is no finite number")
        return rle_tools.merge(rle_tools.frPyObjects(segmentation, *size))
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= set(segmentation):
        raise ValueError(
            f"a segmentation is {type(segmentation).__name__}; give polygons or an RLE dict of "
            "size and counts"
        )
    if tuple(segmentation["size"]) != tuple(size):
        raise ValueError(
            f"its RLE is of size {list(segmentation['size'])} (height, width) but the image is "
            f"{list(size)}"
        )
    if isinstance(segmentation["counts"], list):
        runs = segmentation["counts"]
        if not all(isinstance(n, int) and n >= 0 for n in runs) or sum(runs) != size[0] * size[1]:
            raise ValueError(BROKEN)
        return rle_tools.frPyObjects(segmentation, *size)
    return segmentation


def _is_finite(numbers):
    try:
        return math.isfinite(sum(numbers))
    except TypeError:  # some are no numbers
        return False


def check_known(name, ids, known):
    """Raises ValueError, with examples, if some ids are not among the known ones."""
    unknown = sorted(set(ids) - set(known), key=str)
    if unknown:
        raise ValueError(
            f"{name} has {len(unknown)} ids that the annotations don't have, such as "
            f"{unknown[:5]}; theirs are like {sorted(known)[:5]}. Pass the annotations that the "
            "results were made for"
        )


def read_results(truth, results, masks=None):
    """The `Detections` in a COCO results file, of this or any other tool.

    Args:
        truth: `GroundTruth` of the same data.
        results: path, or list of dicts: image_id, category_id, score, and bbox, segmentation
            (RLE, compressed or not, or polygons) or both. A missing bbox is taken from the
            segmentation.
        masks: whether to read the masks; None reads them if the results have them.

    Raises:
        ValueError: for unknown images or categories, scores that are no finite numbers,
            masks of another size than their image, or results without what is asked for.
    """
    rows, name = results, "results"
    if isinstance(results, str | os.PathLike):
        rows, name = read_json(results), os.fspath(results)
    if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        raise ValueError(
            f"{name} is no COCO results file, which is a list of dicts with image_id, "
            "category_id, score, bbox and segmentation"
        )
    for key in ("image_id", "category_id", "score"):
        _check_key(rows, key)
    check_known("image_id of results", (r["image_id"] for r in rows), truth.known_ids)
    _check_categories(truth, rows)
    _check_scores(rows)
    position = {image_id: i for i, image_id in enumerate(truth.image_ids.tolist())}
    numbers = [n for n, r in enumerate(rows) if r["image_id"] in position]
    numbers.sort(key=lambda n: position[rows[n]["image_id"]])
    place = {category: k for k, category in enumerate(truth.category_ids.tolist())}
    if masks is None:
        masks = any(rows[n].get("segmentation") is not None for n in numbers)
    image = np.array([position[rows[n]["image_id"]] for n in numbers], int)
    rles = _rles(truth, rows, numbers, image, masks)
    return Detections(
        image=image,
        classes=np.array([place[rows[n]["category_id"]] for n in numbers], int),
        scores=np.array([rows[n]["score"] for n in numbers], float),
        boxes=_boxes(rows, numbers, rles),
        rles=rles if masks or not numbers else None,  # nothing found is no mask either
        left_out=len(rows) - len(numbers),
    )


def _check_key(rows, key):
    lacking = [n for n, r in enumerate(rows) if key not in r]
    if lacking:
        raise ValueError(
            f"result {lacking[0]} (and {len(lacking) - 1} more) has no {key!r}; each result "
            "needs image_id, category_id and score"
        )
    odd = [n for n, r in enumerate(rows) if isinstance(r[key], list | dict)]
    if odd:
        raise ValueError(
            f"result {odd[0]} has the {key} {rows[odd[0]][key]!r}; give a number or a name"
        )


def _check_categories(truth, rows):
    try:
        ids = (r["category_id"] for r in rows)
        check_known("category_id of results", ids, truth.category_ids.tolist())
    except ValueError as error:
        if any(r["category_id"] == 0 for r in rows):
            hint = "; if your ids count from 0, add 1 to each"
            raise ValueError(f"{error}{hint}") from None
        raise


def _check_scores(rows):
    """A NaN would be sorted anywhere, and the scores would depend on where."""
    wrong = [n for n, r in enumerate(rows) if not _is_score(r["score"])]
    if wrong:
        row = rows[wrong[0]]
        raise ValueError(
            f"result {wrong[0]} (image_id {row['image_id']}) has the score {row['score']!r}, and "
            f"{len(wrong) - 1} more have no finite number; detections can't be ranked without, "
            "so repair or drop them"
        )


def _is_score(value):
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _rles(truth, rows, numbers, image, wanted):
    """[N] RLEs; None for each result that has a bbox if masks aren't wanted."""
    rles: list[Any] = []
    for n, i in zip(numbers, image.tolist(), strict=True):
        if not wanted and "bbox" in rows[n]:
            rles.append(None)
            continue
        if "segmentation" not in rows[n]:
            key, kind = ("segmentation", "segm") if wanted else ("bbox", "bbox")
            raise ValueError(
                f"result {n} has no {key!r}, which {kind!r} needs; add it or leave {kind!r} "
                "out of kinds"
            )
        try:
            rles.append(to_rle(rows[n]["segmentation"], truth.size(i)))
        except ValueError as error:
            raise ValueError(
                f"result {n} (image_id {rows[n]['image_id']}): {error}; are these results of "
                "another split?"
            ) from None
    given = [n for n, rle in zip(numbers, rles, strict=True) if rle is not None]
    broken = first_broken([rle for rle in rles if rle is not None])
    if broken is not None:
        n = given[broken]
        raise ValueError(
            f"result {n} (image_id {rows[n]['image_id']}): {BROKEN}; write the file again"
        )
    return rles


def _boxes(rows, numbers, rles):
    boxes = np.zeros((len(numbers), 4))
    for i, n in enumerate(numbers):
        if "bbox" in rows[n]:
            box = rows[n]["bbox"]
            is_list = isinstance(box, list | tuple) and len(box) == 4
            if not is_list or not all(isinstance(v, int | float | np.number) for v in box):
                raise ValueError(f"result {n} has the bbox {box}; give [x, y, width, height]")
            boxes[i] = box
        else:
            boxes[i] = rle_tools.toBbox(rles[i])
    wrong = np.flatnonzero(~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] < 0).any(axis=1))
    if len(wrong):
        raise ValueError(
            f"result {numbers[wrong[0]]} has the bbox {boxes[wrong[0]].tolist()}, and "
            f"{len(wrong) - 1} more are like it; give finite [x, y, width, height], not corners"
        )
    return boxes


def outside(truth, detections):
    """Share of boxes that reach more than 2 pixels beyond their image: a sign of a wrong file.

    Returns:
        float 0..1; 0 without detections or if the file gives no sizes.
    """
    if not len(detections) or any("width" not in entry for entry in truth.images):
        return 0.0
    sizes = np.array([(entry["width"], entry["height"]) for entry in truth.images], float)
    ends = detections.boxes[:, :2] + detections.boxes[:, 2:]
    beyond = (ends > sizes[detections.image] + 2) | (detections.boxes[:, :2] < -2)
    return float(beyond.any(axis=1).mean())
