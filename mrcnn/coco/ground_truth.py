"""Ground truth and results as arrays, checked before anything is scored.

I images, G annotated instances, N detections, K categories. Images and classes are positions
in the sorted ids (`GroundTruth.image_ids`, `GroundTruth.category_ids`), not the ids. Boxes are COCO's
[x, y, width, height] in pixels of the image; masks are run-length encodings (RLE) of its size.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import orjson

from mrcnn.coco.masks import RLE, MaskError, Size, bounds, to_rles
from mrcnn.coco.reader import NO_MASK, NOT_GIVEN, CocoTable, ImageId, read_coco

KINDS = ("bbox", "segm")


@dataclass
class GroundTruth(CocoTable):
    """What is to be found: a table of which each annotation, an instance here, has a box and an area.

    Attributes:
        known_ids: every image id of the file, chosen or not.
        areas: [G] float, pixels, which decide small, medium and large.
        The others are those of `CocoTable`.
    """

    known_ids: set[ImageId]

    @cached_property
    def image_ids(self) -> np.ndarray:
        """[I] int or str, rising."""
        return np.array([entry.id for entry in self.images])

    @cached_property
    def category_ids(self) -> np.ndarray:
        """[K] int, rising."""
        return np.array([entry.id for entry in self.categories], int)

    @property
    def names(self) -> list[str]:
        """[K] category names."""
        return [entry.name for entry in self.categories]

    @cached_property
    def rles(self) -> list[RLE]:
        """[G] masks; ValueError if one is none, see `mrcnn.coco.masks`."""
        segmentations = (self.segmentation(row) for row in range(len(self)))
        try:
            return to_rles(segmentations, (self.size(i) for i in self.image.tolist()))
        except MaskError as error:
            where = f"an annotation of image_id {self.image_ids[self.image[error.index]]}"
            raise ValueError(f"{where}: {error}; repair it or convert again") from None

    @property
    def has_masks(self) -> bool:
        return not (self.polygons == NO_MASK).any()

    def size(self, image: int) -> Size:
        """(height, width) of the image at a position."""
        return self.images[image].size


@dataclass
class Detections:
    """What was found, sorted by image and else in the order of the results.

    Attributes:
        image, classes: [N] int, positions in the ground truth's image_ids and category_ids.
        scores: [N] float64.
        boxes: [N, 4] float.
        rles: [N] masks, or None if the results are boxes only.
        left_out: number of results for images of the file that aren't scored.
    """

    image: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    rles: list[RLE] | None
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.image)

    def offsets(self, images: int) -> np.ndarray:
        """[images + 1] int: detections of image i are offsets[i] to offsets[i + 1] - 1."""
        return np.searchsorted(self.image, np.arange(images + 1))


def read_ground_truth(
    annotations: Any, image_ids: Iterable[ImageId] | None = None, limit: int | None = None
) -> GroundTruth:
    """The `GroundTruth` of COCO instances.

    Args:
        annotations: what `reader.read_coco` takes (a path, a table, the content of a file, a
            `pycocotools.coco.COCO`), or a `GroundTruth`, which is returned as it is.
        image_ids: ids of the images to score; None for all.
        limit: the first images by id only; None for all.

    Raises:
        ValueError: if the file is no COCO instances file, or image_ids has unknown ids.
    """
    if isinstance(annotations, GroundTruth):
        if image_ids is not None or limit is not None:
            raise ValueError("got a GroundTruth and image_ids; choose images when it is read")
        return annotations
    table = read_coco(annotations)
    table.require("annotations", "categories", "unique ids")
    position = {entry.id: i for i, entry in enumerate(table.images)}
    chosen = table
    if image_ids is not None:
        wanted = set(image_ids)
        check_known("image_ids", wanted, position)
        chosen = table.select(sorted(position[image_id] for image_id in wanted))
    chosen = chosen.first(limit)
    boxless = np.flatnonzero(np.isnan(chosen.boxes).any(axis=1))
    if len(boxless):
        raise ValueError(
            f"{len(boxless)} annotations, such as id {chosen.ids[boxless[0]]}, have no bbox "
            "[x, y, width, height]; add it or convert again"
        )
    values = {entry.name: getattr(chosen, entry.name) for entry in fields(chosen)}
    areas = np.where(np.isnan(chosen.areas), chosen.boxes[:, 2:].prod(axis=1), chosen.areas)
    return GroundTruth(**{**values, "areas": areas, "known_ids": set(position)})


def read_json(path: str | os.PathLike[str]) -> Any:
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
            raise ValueError(f"{os.fspath(path)} is not a JSON file: {error}") from None


def check_known(name: str, ids: Iterable[ImageId], known: Iterable[ImageId]) -> None:
    """Raises ValueError, with examples, if some ids are not among the known ones."""
    theirs = set(known)
    unknown = sorted(set(ids) - theirs, key=_numbers_first)
    if unknown:
        raise ValueError(
            f"{name} has {len(unknown)} ids that the annotations don't have, such as "
            f"{unknown[:5]}; theirs are like {sorted(theirs, key=_numbers_first)[:5]}. Pass "
            "the annotations that the results were made for"
        )


def _numbers_first(key: Any) -> tuple[bool, float, str]:
    """Sorts ids: numbers by value, then all else as text."""
    is_number = isinstance(key, int | float)
    return not is_number, key if is_number else 0, str(key)


def read_results(truth: GroundTruth, results: Any, masks: bool | None = None) -> Detections:
    """The `Detections` in a COCO results file, of this or any other tool.

    Args:
        truth: of the same data.
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
        rows, name = read_json(results), os.fsdecode(results)
    if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        raise ValueError(
            f"{name} is not a COCO results file, which is a list of dicts with image_id, "
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
    made = _masks(truth, rows, numbers, image, masks)
    return Detections(
        image=image,
        classes=np.array([place[rows[n]["category_id"]] for n in numbers], int),
        scores=np.array([rows[n]["score"] for n in numbers], float),
        boxes=_boxes(rows, numbers, made),
        rles=list(made.values())
        if masks or not numbers
        else None,  # nothing found is no mask either
        left_out=len(rows) - len(numbers),
    )


def _check_key(rows: list[dict[str, Any]], key: str) -> None:
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


def _check_categories(truth: GroundTruth, rows: list[dict[str, Any]]) -> None:
    try:
        ids = (r["category_id"] for r in rows)
        check_known("category_id of results", ids, truth.category_ids.tolist())
    except ValueError as error:
        if any(r["category_id"] == 0 for r in rows):
            hint = "; if your ids count from 0, add 1 to each"
            raise ValueError(f"{error}{hint}") from None
        raise


def _check_scores(rows: list[dict[str, Any]]) -> None:
    """A NaN would be sorted anywhere, and the scores would depend on where."""
    wrong = [n for n, r in enumerate(rows) if not _is_score(r["score"])]
    if wrong:
        row = rows[wrong[0]]
        raise ValueError(
            f"result {wrong[0]} (image_id {row['image_id']}) has the score {row['score']!r}, and "
            f"{len(wrong) - 1} more have no finite number; detections can't be ranked without, "
            "so repair or drop them"
        )


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _masks(
    truth: GroundTruth,
    rows: list[dict[str, Any]],
    numbers: list[int],
    image: np.ndarray,
    wanted: bool,
) -> dict[int, RLE]:
    """Masks by number of the result: all if they are wanted, else of those without a bbox."""
    sizes = {}
    for n, i in zip(numbers, image.tolist(), strict=True):
        if not wanted and "bbox" in rows[n]:
            continue
        if "segmentation" not in rows[n]:
            key, kind = ("segmentation", "segm") if wanted else ("bbox", "bbox")
            raise ValueError(
                f"result {n} has no {key!r}, which {kind!r} needs; add it or leave {kind!r} "
                "out of kinds"
            )
        sizes[n] = truth.size(i)
    try:
        masks = to_rles((rows[n]["segmentation"] for n in sizes), sizes.values())
    except MaskError as error:
        n = list(sizes)[error.index]
        raise ValueError(
            f"result {n} (image_id {rows[n]['image_id']}): {error}; repair it, or are these "
            "results of another split?"
        ) from None
    return dict(zip(sizes, masks, strict=True))


def _boxes(rows: list[dict[str, Any]], numbers: list[int], masks: dict[int, RLE]) -> np.ndarray:
    boxes = np.zeros((len(numbers), 4))
    for i, n in enumerate(numbers):
        if "bbox" in rows[n]:
            box = rows[n]["bbox"]
            is_list = isinstance(box, list | tuple) and len(box) == 4
            if not is_list or not all(isinstance(v, int | float | np.number) for v in box):
                raise ValueError(f"result {n} has the bbox {box}; give [x, y, width, height]")
            boxes[i] = box
        else:
            boxes[i] = bounds(masks[n])
    wrong = np.flatnonzero(~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] < 0).any(axis=1))
    if len(wrong):
        raise ValueError(
            f"result {numbers[wrong[0]]} has the bbox {boxes[wrong[0]].tolist()}, and "
            f"{len(wrong) - 1} more are like it; give finite [x, y, width, height], not corners"
        )
    return boxes


def outside(truth: GroundTruth, detections: Detections) -> float:
    """Share of boxes that reach more than 2 pixels beyond their image: a sign of a wrong file.

    Returns:
        0..1; 0 without detections or if the file gives no sizes.
    """
    if not len(detections) or any(entry.width == NOT_GIVEN for entry in truth.images):
        return 0.0
    sizes = np.array([(entry.width, entry.height) for entry in truth.images], float)
    ends = detections.boxes[:, :2] + detections.boxes[:, 2:]
    beyond = (ends > sizes[detections.image] + 2) | (detections.boxes[:, :2] < -2)
    return float(beyond.any(axis=1).mean())
