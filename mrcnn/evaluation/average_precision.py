"""COCO's average precision and recall, for all sizes and subsets in one pass over the matches.

The rules are those of pycocotools' COCOeval, and a test holds the numbers equal. The order of
work differs: the overlaps of each image are computed once, then every image, class, IoU threshold
and view is matched at once, as arrays.

A view says which instances count: all, those of a size, or those of a subset. The others are
ignored: missing one is no false negative, and a detection that matches one counts neither way. A
detection without a match is a false positive in every view, except that views of a size ignore
detections of another size.

I images, G instances, N detections, K classes, A views, T IoU thresholds, R recalls.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as rle_tools

from mrcnn.coco.ground_truth import KINDS, Detections, GroundTruth
from mrcnn.coco.reader import ATTRIBUTES
from mrcnn.evaluation.metrics import CocoNumbers

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MAX_DETECTIONS = 100  # of a class in an image
SIZES: dict[str, tuple[float, float]] = {
    "all": (0, 1e5**2),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e5**2),
}
# Elements of the larger arrays while matching; bounds the memory.
CHUNK = 4_000_000
FALSE_POSITIVE, TRUE_POSITIVE, IGNORED = 0, 1, 2


@dataclass(frozen=True)
class Views:
    """Which instances each view ignores.

    Attributes:
        names: [A] (group, value), such as ("size", "all"), ("occlusion", "heavy").
        ignored: [A, G] bool.
        areas: [A, 2] float: the range outside which unmatched detections are ignored.
    """

    names: list[tuple[str, str]]
    ignored: np.ndarray
    areas: np.ndarray


@dataclass(frozen=True)
class Matches:
    """What every detection is in every view; detections sorted by class, then best score first.

    Attributes:
        views: [A] (group, value) as in `Views`.
        rows: [N] position in the `Detections`; at most 100 of a class in an image are kept.
        image, classes: [N] int. scores: [N] float. rank: [N] int, of a class in its image.
        codes: [N, A, T] uint8, FALSE_POSITIVE, TRUE_POSITIVE or IGNORED.
        truth_image, truth_classes: [G] int.
        truth_ignored: [A, G] bool.
        images, names: number of images, names of the K classes.
    """

    views: list[tuple[str, str]]
    rows: np.ndarray
    image: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    rank: np.ndarray
    codes: np.ndarray
    truth_image: np.ndarray
    truth_classes: np.ndarray
    truth_ignored: np.ndarray
    images: int
    names: list[str]

    @property
    def class_bounds(self) -> np.ndarray:
        """[K + 1] int: detections of class k are class_bounds[k] to class_bounds[k + 1] - 1."""
        return np.searchsorted(self.classes, np.arange(len(self.names) + 1))


@dataclass(frozen=True)
class Overlaps:
    """IoU of all detections and instances that share an image.

    Attributes:
        values: float, for each image its [detections, instances], row by row.
        starts: [I + 1] int, where an image's values begin.
        detections, instances: [I + 1] int, where an image's detections and instances begin.
    """

    values: np.ndarray
    starts: np.ndarray
    detections: np.ndarray
    instances: np.ndarray

    def at(self, image: np.ndarray, detection: np.ndarray, instance: np.ndarray) -> np.ndarray:
        """IoU of detections and instances of images, given as arrays of one shape."""
        row, column = detection - self.detections[image], instance - self.instances[image]
        width = self.instances[image + 1] - self.instances[image]
        values: np.ndarray = self.values[self.starts[image] + row * width + column]
        return values


def make_views(truth: GroundTruth, subsets: bool = True) -> Views:
    """The views of a data set: four of size, then those of the attributes it has, if asked for."""
    names: list[tuple[str, str]] = []
    ignored, areas = [], []
    for name, (low, high) in SIZES.items():
        names.append(("size", name))
        ignored.append(truth.crowd | (truth.areas < low) | (truth.areas > high))
        areas.append((low, high))
    for attribute, values in truth.attributes.items() if subsets else ():
        for number, name in enumerate(ATTRIBUTES[attribute], 1):
            names.append((attribute, name))
            ignored.append(truth.crowd | (values != number))
            areas.append((-np.inf, np.inf))
    return Views(names, np.array(ignored), np.array(areas, float))


def compute_overlaps(truth: GroundTruth, detections: Detections, kind: str) -> Overlaps:
    """IoU of boxes ("bbox") or masks ("segm"); with a crowd the share of the detection inside it.

    Raises:
        ValueError: for another kind, or if either side has no masks but they are asked for.
    """
    if kind not in KINDS:
        raise ValueError(f"kinds has {kind!r}; use 'bbox' and 'segm'")
    if kind == "segm":
        if detections.rles is None or not truth.has_masks:
            who = "the annotations" if detections.rles is not None else "the results"
            raise ValueError(f"{who} have no masks, which 'segm' needs; leave it out of kinds")
        shapes: Any = detections.rles, truth.rles
    else:
        shapes = detections.boxes, truth.boxes
    detected, annotated = shapes
    ends, truth_ends = detections.offsets(len(truth.image_ids)), truth.offsets
    starts = np.concatenate([[0], np.cumsum(np.diff(ends) * np.diff(truth_ends))])
    values = np.zeros(starts[-1])
    crowd = truth.crowd.astype(np.uint8)
    for i in np.flatnonzero(np.diff(starts)).tolist():
        d, g = slice(ends[i], ends[i + 1]), slice(truth_ends[i], truth_ends[i + 1])
        values[starts[i] : starts[i + 1]] = rle_tools.iou(
            detected[d], annotated[g], crowd[g]
        ).ravel()
    return Overlaps(values, starts, ends, truth_ends)


def match_detections(
    truth: GroundTruth, detections: Detections, kind: str, views: Views, overlaps: Overlaps
) -> Matches:
    """Pairs the detections of each image and class with its instances, best score first.

    Args:
        kind: "bbox" or "segm", by which the size of detections goes.
        overlaps: `compute_overlaps` of the kind.
    """
    classes = len(truth.category_ids)
    key = detections.image * classes + detections.classes
    order = np.lexsort((-detections.scores, key))  # stable, as COCO's sort
    rank = rank_in_runs(key[order])
    order, rank = order[rank < MAX_DETECTIONS], rank[rank < MAX_DETECTIONS]
    truth_key = truth.image * classes + truth.classes
    codes = np.zeros((len(order), len(views.names), len(THRESHOLDS)), np.uint8)
    pairing = Pairing(overlaps, views.ignored, truth.crowd, THRESHOLDS)
    for places, paired in pair(pairing, detections.image, key, order, rank, truth_key):
        ignored = views.ignored[np.arange(len(views.names))[:, np.newaxis], paired]
        matched = np.where(ignored, IGNORED, TRUE_POSITIVE)
        codes[places] = np.where(paired < 0, FALSE_POSITIVE, matched)
    areas = _areas(detections, kind)[order][:, np.newaxis]
    other_size = (areas < views.areas[:, 0]) | (areas > views.areas[:, 1])
    codes[(codes == FALSE_POSITIVE) & other_size[..., np.newaxis]] = IGNORED
    # COCO ranks a class over all images by a stable sort of what is sorted within each.
    by_class = np.lexsort((-detections.scores[order], detections.classes[order]))
    order, rank = order[by_class], rank[by_class]
    return Matches(
        views=views.names,
        rows=order,
        image=detections.image[order],
        classes=detections.classes[order],
        scores=detections.scores[order],
        rank=rank,
        codes=codes[by_class],
        truth_image=truth.image,
        truth_classes=truth.classes,
        truth_ignored=views.ignored,
        images=len(truth.image_ids),
        names=truth.names,
    )


def rank_in_runs(keys: np.ndarray) -> np.ndarray:
    """Position of each element within its run of equal, neighbouring keys."""
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else keys
    first: np.ndarray = np.repeat(starts, np.diff(np.r_[starts, len(keys)]))
    ranks: np.ndarray = np.arange(len(keys)) - first
    return ranks


def _areas(detections: Detections, kind: str) -> np.ndarray:
    if kind == "segm" and detections.rles is not None:
        # A few at a time: pycocotools 2.0.11 fails on more than 255 (their number is a uint8).
        parts = [detections.rles[i : i + 250] for i in range(0, len(detections), 250)]
        return np.array([area for part in parts for area in rle_tools.area(part)], float)
    areas: np.ndarray = np.prod(detections.boxes[:, 2:], axis=1)
    return areas


@dataclass(frozen=True)
class Pairing:
    """Rules of `pair`: overlaps, which instances are ignored [A, G], crowds [G], thresholds [T]."""

    overlaps: Overlaps
    ignored: np.ndarray
    crowd: np.ndarray
    thresholds: np.ndarray


def pair(
    pairing: Pairing,
    image: np.ndarray,
    key: np.ndarray,
    order: np.ndarray,
    rank: np.ndarray,
    truth_key: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields pairs of detections and instances that share a key, many keys at a time.

    The best detection chooses first: of the instances still free (a crowd always is) and
    overlapping enough, the one that overlaps most, the last one on a tie; an ignored one only
    if no other fits.

    Args:
        image, key: [N] int of each detection; the key rises with the image.
        order: positions of the detections sorted by key, then by descending score.
        rank: as long as order, position within the key.
        truth_key: [G] int, the key of each instance.

    Yields:
        places: [n] int, positions in `order`.
        paired: [n, A, T] int, the instance, -1 without one.
    """
    by_key = np.argsort(truth_key, kind="stable")
    keys, first, count = np.unique(truth_key[by_key], return_index=True, return_counts=True)
    starts = np.flatnonzero(rank == 0)
    lengths = np.diff(np.r_[starts, len(order)])
    where = np.searchsorted(keys, key[order[starts]])
    known = where < len(keys)
    known[known] = keys[where[known]] == key[order[starts]][known]
    starts, lengths, where = starts[known], lengths[known], where[known]
    cells = len(pairing.ignored) * len(pairing.thresholds)
    for size in np.unique(count[where]):
        groups = np.flatnonzero(count[where] == size)
        groups = groups[np.argsort(lengths[groups], kind="stable")]
        work = np.cumsum((lengths[groups] + size) * cells) // CHUNK
        for part in np.split(groups, np.flatnonzero(np.diff(work)) + 1):
            instances = by_key[first[where[part]][:, np.newaxis] + np.arange(size)]
            steps = np.arange(lengths[part].max())
            places = starts[part][:, np.newaxis] + steps
            real = steps < lengths[part][:, np.newaxis]
            detected = order[np.where(real, places, places[:, :1])]
            shape = (*detected.shape, size)
            overlaps = pairing.overlaps.at(
                np.broadcast_to(image[detected][..., np.newaxis], shape),
                np.broadcast_to(detected[..., np.newaxis], shape),
                np.broadcast_to(instances[:, np.newaxis], shape),
            )
            yield places[real], _choose(pairing, overlaps, instances, real)[real]


def _choose(
    pairing: Pairing, overlaps: np.ndarray, instances: np.ndarray, real: np.ndarray
) -> np.ndarray:
    """[n, D, A, T] int: the instance of each detection, -1 without one.

    Args:
        overlaps: [n, D, g] of the n groups' detections, best first, and instances.
        instances: [n, g] int.
        real: [n, D] bool, False where a group has fewer detections.
    """
    least = np.minimum(pairing.thresholds, 1 - 1e-10)[:, np.newaxis]
    ignored = pairing.ignored[:, instances].transpose(1, 0, 2)[:, :, np.newaxis]  # [n, A, 1, g]
    crowd = pairing.crowd[instances][:, np.newaxis, np.newaxis]
    count, size = instances.shape
    free = np.ones((count, len(pairing.ignored), len(pairing.thresholds), size), bool)
    chosen = np.full((*real.shape, *free.shape[1:3]), -1, np.int32)
    for step in range(real.shape[1]):
        overlap = overlaps[:, step, np.newaxis, np.newaxis]
        fits = (overlap >= least) & free & real[:, step, np.newaxis, np.newaxis, np.newaxis]
        best = _last_best(fits & ~ignored, overlap)
        best = np.where(best < 0, _last_best(fits & ignored, overlap), best)
        taken = np.arange(size) == best[..., np.newaxis]
        free &= ~taken | crowd
        rows = np.arange(count)[:, np.newaxis, np.newaxis]
        chosen[:, step] = np.where(best < 0, -1, instances[rows, best])
    return chosen


def _last_best(fits: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """Position of the largest overlap that fits, the last one on a tie; -1 without any."""
    values = np.where(fits, overlap, -1.0)[..., ::-1]
    best = values.shape[-1] - 1 - values.argmax(axis=-1)
    return np.where(fits.any(axis=-1), best, -1)


@dataclass(frozen=True)
class PrecisionRecall:
    """COCO's tables; NaN where a class has no instances.

    Attributes:
        precision: [T, R, K, A] the best precision at a recall or beyond.
        recall: [T, K, A] with up to 100 detections of a class in an image.
        recall_at: {1, 10, 100} -> [T, K] of all instances.
        instances: [K, A] int, instances that count.
    """

    precision: np.ndarray
    recall: np.ndarray
    recall_at: dict[int, np.ndarray]
    instances: np.ndarray


def accumulate(matches: Matches) -> PrecisionRecall:
    """Precision and recall over the detections of all images."""
    classes, views = len(matches.names), len(matches.views)
    precision = np.full((len(THRESHOLDS), len(RECALLS), classes, views), np.nan)
    recall = np.full((len(THRESHOLDS), classes, views), np.nan)
    recall_at = {most: np.full((len(THRESHOLDS), classes), np.nan) for most in (1, 10, 100)}
    counted = [matches.truth_classes[~ignored] for ignored in matches.truth_ignored]
    instances = np.array([np.bincount(c, minlength=classes) for c in counted]).T
    bounds = matches.class_bounds
    for k in range(classes):
        part = slice(bounds[k], bounds[k + 1])
        for a in np.flatnonzero(instances[k]):
            codes = matches.codes[part, a].T
            precision[:, :, k, a], recall[:, k, a] = _curve(codes, instances[k, a])
        if instances[k, 0]:
            right = matches.codes[part, 0] == TRUE_POSITIVE
            for most, table in recall_at.items():
                hits = right[matches.rank[part] < most].sum(axis=0)
                table[:, k] = hits / instances[k, 0]
    return PrecisionRecall(precision, recall, recall_at, instances)


def _curve(codes: np.ndarray, instances: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision [T, R] at the 101 recalls, and the recall [T] reached, of one class in a view."""
    precision = np.zeros((len(codes), len(RECALLS)))
    right = np.cumsum(codes == TRUE_POSITIVE, axis=1)
    if not right.shape[1]:
        return precision, np.zeros(len(codes))
    wrong = np.cumsum(codes == FALSE_POSITIVE, axis=1)
    values = right / (wrong + right + np.spacing(1))
    values = np.maximum.accumulate(values[:, ::-1], axis=1)[:, ::-1]
    recalls = right / instances
    for t, row in enumerate(recalls):
        at = np.searchsorted(row, RECALLS, side="left")
        reached = at < len(row)
        precision[t, reached] = values[t, at[reached]]
    return precision, recalls[:, -1]


def mean(values: np.ndarray) -> float | None:
    """Mean of the values that are not NaN; None if there are none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else None


def summary(tables: PrecisionRecall) -> CocoNumbers:
    """COCO's twelve numbers, None where there are no instances."""
    precision, recall = tables.precision, tables.recall
    small, medium, large = 1, 2, 3  # positions of the views
    return CocoNumbers(
        AP=mean(precision[..., 0]),
        AP50=mean(precision[0, ..., 0]),
        AP75=mean(precision[5, ..., 0]),
        APs=mean(precision[..., small]),
        APm=mean(precision[..., medium]),
        APl=mean(precision[..., large]),
        AR1=mean(tables.recall_at[1]),
        AR10=mean(tables.recall_at[10]),
        AR100=mean(tables.recall_at[100]),
        ARs=mean(recall[..., small]),
        ARm=mean(recall[..., medium]),
        ARl=mean(recall[..., large]),
    )
