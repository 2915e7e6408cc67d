"""Where a model goes wrong: confused classes, score thresholds, calibration, mask boundaries.

I images, G instances, N detections, K classes.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mrcnn.coco import masks
from mrcnn.coco.ground_truth import Detections, GroundTruth
from mrcnn.evaluation.average_precision import (
    IGNORED,
    TRUE_POSITIVE,
    Matches,
    Overlaps,
    Pairing,
    pair,
    rank_in_runs,
)
from mrcnn.evaluation.metrics import (
    Boundary,
    BoundaryMeans,
    Calibration,
    CalibrationBin,
    ConfusedPair,
    OperatingPoint,
)

MATCH_IOU = 0.5
BINS = 15
# Boundary IoU's band, as a share of the image's diagonal (Cheng et al., 2103.16562).
BOUNDARY_SHARE = 0.02
# Always listed: the author of the project that this one follows expected confusion here.
WATCHED = (
    ("short_sleeved_shirt", "long_sleeved_shirt"),
    ("short_sleeved_outwear", "long_sleeved_outwear"),
    ("short_sleeved_dress", "long_sleeved_dress"),
    ("trousers", "skirt"),
)


@dataclass(frozen=True)
class Pairs:
    """Detections above a score threshold, paired with instances of any class.

    Crowds, and detections that match one, appear nowhere in it.

    Attributes:
        threshold: the least score.
        detections, instances: [M] int, positions of the pairs. overlaps: [M] their IoU.
        false_positives: positions of the detections without an instance.
        missed: positions of the instances without a detection (false negatives).
        counts: [K + 1, K + 1] int, the annotated class by row, the detected by column, the
            background last.
    """

    threshold: float
    detections: np.ndarray
    instances: np.ndarray
    overlaps: np.ndarray
    false_positives: np.ndarray
    missed: np.ndarray
    counts: np.ndarray


def operating_points(
    matches: Matches,
) -> tuple[OperatingPoint | None, dict[str, OperatingPoint | None]]:
    """The best F1 at IoU 0.5 of all classes together, and by class; None without instances."""
    codes = matches.codes[:, 0, 0]
    classes = matches.truth_classes[~matches.truth_ignored[0]]
    points = {}
    for k, name in enumerate(matches.names):
        mine = matches.classes == k
        points[name] = _best_f1(matches.scores[mine], codes[mine], int((classes == k).sum()))
    return _best_f1(matches.scores, codes, len(classes)), points


def _best_f1(scores: np.ndarray, codes: np.ndarray, instances: int) -> OperatingPoint | None:
    if not instances:
        return None
    order = np.argsort(-scores, kind="stable")
    order = order[codes[order] != IGNORED]
    scores, right = scores[order], codes[order] == TRUE_POSITIVE
    if not right.any():
        return OperatingPoint(threshold=None, precision=None, recall=0.0, f1=0.0)
    last = np.r_[scores[1:] != scores[:-1], True]  # a threshold can't part equal scores
    hits, kept = np.cumsum(right)[last], np.flatnonzero(last) + 1
    f1 = 2 * hits / (kept + instances)
    best = int(f1.argmax())
    return OperatingPoint(
        threshold=float(scores[last][best]),
        precision=float(hits[best] / kept[best]),
        recall=float(hits[best] / instances),
        f1=float(f1[best]),
    )


def f1_curve(matches: Matches, thresholds: np.ndarray) -> np.ndarray:
    """F1 of all classes together at IoU 0.5, for each of the score thresholds."""
    codes = matches.codes[:, 0, 0]
    scores = np.sort(matches.scores[codes != IGNORED])
    hits = np.sort(matches.scores[codes == TRUE_POSITIVE])
    kept = len(scores) - np.searchsorted(scores, thresholds)
    right = len(hits) - np.searchsorted(hits, thresholds)
    instances = int((~matches.truth_ignored[0]).sum())
    f1: np.ndarray = 2 * right / np.maximum(kept + instances, 1)
    return f1


def calibration(matches: Matches) -> Calibration | None:
    """Whether a score says how often the model is right (at IoU 0.5).

    The expected calibration error is the mean distance of score and share of true positives over
    15 bins of equal width, weighted by their counts. Detections that match crowds are left out.
    None without detections, or if scores outside 0..1 show that they are no probabilities.
    """
    codes = matches.codes[:, 0, 0]
    scores, right = matches.scores[codes != IGNORED], codes[codes != IGNORED] == TRUE_POSITIVE
    if not len(scores) or scores.min() < 0 or scores.max() > 1:
        return None
    place = np.minimum((scores * BINS).astype(int), BINS - 1)
    bins = [
        CalibrationBin(
            low=int(i) / BINS,
            high=(int(i) + 1) / BINS,
            count=int((place == i).sum()),
            score=float(scores[place == i].mean()),
            right=float(right[place == i].mean()),
        )
        for i in np.unique(place)
    ]
    ece = sum(b.count * abs(b.score - b.right) for b in bins) / len(scores)
    return Calibration(ece=float(ece), detections=len(scores), bins=bins)


def pair_any_class(
    truth: GroundTruth, detections: Detections, overlaps: Overlaps, threshold: float
) -> Pairs:
    """Pairs detections that score `threshold` or more with instances at IoU 0.5, best first."""
    kept = np.flatnonzero(detections.scores >= threshold)
    order = kept[np.lexsort((-detections.scores[kept], detections.image[kept]))]
    pairing = Pairing(overlaps, truth.crowd[np.newaxis], truth.crowd, np.array([MATCH_IOU]))
    matched = np.full(len(order), -1)
    ranks = rank_in_runs(detections.image[order])
    image = detections.image
    for places, paired in pair(pairing, image, image, order, ranks, truth.image):
        matched[places] = paired[:, 0, 0]
    crowd = (matched >= 0) & truth.crowd[matched] if len(truth.crowd) else matched >= 0
    detected, instances = order[(matched >= 0) & ~crowd], matched[(matched >= 0) & ~crowd]
    false_positives = order[matched < 0]
    missed = np.setdiff1d(np.flatnonzero(~truth.crowd), instances)
    background = len(truth.category_ids)
    counts = np.zeros((background + 1, background + 1), int)
    np.add.at(counts, (truth.classes[instances], detections.classes[detected]), 1)
    np.add.at(counts, (background, detections.classes[false_positives]), 1)
    np.add.at(counts, (truth.classes[missed], background), 1)
    ious = overlaps.at(truth.image[instances], detected, instances)
    return Pairs(float(threshold), detected, instances, ious, false_positives, missed, counts)


def confused_pairs(counts: np.ndarray, names: list[str], most: int = 10) -> list[ConfusedPair]:
    """Pairs of classes by how often one was taken for the other, most first.

    Args:
        counts: [K + 1, K + 1] int of `Pairs`.
        names: K class names.
        most: so many of the most confused, and `WATCHED` always.
    """
    totals, place = counts.sum(axis=1).tolist(), {name: k for k, name in enumerate(names)}
    both = np.triu((counts + counts.T)[:-1, :-1], 1)
    order = np.flatnonzero(both)
    order = order[np.argsort(-both.flat[order], kind="stable")][:most]
    chosen = [divmod(n, len(names)) for n in order.tolist()]
    watched = [tuple(sorted((place[a], place[b]))) for a, b in WATCHED if {a, b} <= place.keys()]
    chosen += sorted((p for p in watched if p not in chosen), key=lambda p: (-both[p], p))
    return [
        ConfusedPair(
            a=names[i],
            b=names[j],
            count=int(both[i, j]),
            rate=int(both[i, j]) / (totals[i] + totals[j]) if totals[i] + totals[j] else None,
            a_as_b=int(counts[i, j]),
            b_as_a=int(counts[j, i]),
            a_total=totals[i],
            b_total=totals[j],
            watched=(i, j) in watched,
        )
        for i, j in chosen
    ]


def boundary_quality(truth: GroundTruth, detections: Detections, pairs: Pairs) -> Boundary | None:
    """Mean mask IoU and boundary IoU of the paired masks, and by class; None without pairs."""
    if detections.rles is None or not len(pairs.instances):
        return None
    positions = zip(pairs.detections.tolist(), pairs.instances.tolist(), strict=True)
    values = np.array([boundary_iou(detections.rles[d], truth.rles[g]) for d, g in positions])
    classes = truth.classes[pairs.instances]

    def means(chosen: np.ndarray) -> BoundaryMeans | None:
        if not chosen.any():
            return None
        return BoundaryMeans(
            mask_iou=float(pairs.overlaps[chosen].mean()),
            boundary_iou=float(values[chosen].mean()),
            pairs=int(chosen.sum()),
        )

    return Boundary(
        mask_iou=float(pairs.overlaps.mean()),
        boundary_iou=float(values.mean()),
        pairs=len(values),
        per_class={name: means(classes == k) for k, name in enumerate(truth.names)},
    )


def boundary_iou(a: masks.RLE, b: masks.RLE) -> float:
    """Boundary IoU of two RLE masks of one size; 0 if both are empty.

    It is the IoU of the parts of both masks that lie within 2 % of the image's diagonal of their
    own outline; the image's edge counts as outline.
    """
    radius = max(1, round(BOUNDARY_SHARE * math.hypot(*a["size"])))
    x, y, w, h = masks.bounds(masks.union([a, b])).astype(int)
    parts = [masks.decode(mask)[y : y + h, x : x + w].view(bool) for mask in (a, b)]
    bands = [part & ~_eroded(part, radius) for part in parts]
    union = (bands[0] | bands[1]).sum()
    return float((bands[0] & bands[1]).sum() / union) if union else 0.0


def _eroded(mask: np.ndarray, radius: int) -> np.ndarray:
    """Pixels farther than `radius` from all that is outside, counted along rows and columns."""
    size = 2 * radius + 1
    eroded: np.ndarray = ndimage.minimum_filter(mask.view(np.uint8), size, mode="constant")
    return eroded.view(bool)


def image_quality(truth: GroundTruth, detections: Detections, pairs: Pairs) -> np.ndarray:
    """[I] float 0..1: the panoptic quality of each image.

    The IoU summed over pairs of the right class, divided by their number plus half the other
    detections and half the other instances. NaN where there is neither.
    """
    images = len(truth.image_ids)
    same = truth.classes[pairs.instances] == detections.classes[pairs.detections]
    image = truth.image[pairs.instances]
    overlap = np.bincount(image[same], pairs.overlaps[same], images)
    right = np.bincount(image[same], minlength=images)
    wrong = 2 * np.bincount(image[~same], minlength=images)
    wrong += np.bincount(truth.image[pairs.missed], minlength=images)
    wrong += np.bincount(detections.image[pairs.false_positives], minlength=images)
    with np.errstate(invalid="ignore"):
        return overlap / (right + wrong / 2)
