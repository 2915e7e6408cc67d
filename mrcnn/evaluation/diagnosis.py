"""Where a model goes wrong: what it confuses, where it is unsure, how its masks end.

I images, G instances, N detections, K classes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from mrcnn.coco import masks
from mrcnn.evaluation.average_precision import IGNORED, RIGHT, Overlaps, Pairing, pair, rank_in_runs

MATCH_IOU = 0.5
BINS = 15
# Boundary IoU's band, as a share of the image's diagonal (Cheng et al., 2103.16562).
BOUNDARY_SHARE = 0.02
# Asked for whatever the counts: what the followed project's author took his model to mix up.
WATCHED = (
    ("short_sleeved_shirt", "long_sleeved_shirt"),
    ("short_sleeved_outwear", "long_sleeved_outwear"),
    ("short_sleeved_dress", "long_sleeved_dress"),
    ("trousers", "skirt"),
)


@dataclass
class Pairs:
    """Detections above a score threshold, paired with instances of any class.

    Attributes:
        threshold: the least score.
        found, truth: [M] int, positions of the pairs; overlaps: [M] their IoU.
        invented: positions of detections without an instance. missed: of instances without a
            detection; crowds, and what matches one, are in none of these.
        counts: [K + 1, K + 1] int, the true class by row, the predicted by column, the
            background last.
    """

    threshold: float
    found: np.ndarray
    truth: np.ndarray
    overlaps: np.ndarray
    invented: np.ndarray
    missed: np.ndarray
    counts: np.ndarray


def operating_points(matches):
    """The score threshold of the best F1, at IoU 0.5, of all classes together and of each.

    Args:
        matches: `Matches`.

    Returns:
        overall, {class name: point}; a point is {threshold, precision, recall, f1}, None for a
        class without instances. Without a right detection the threshold is None and F1 is 0.
    """
    codes = matches.codes[:, 0, 0]
    wanted = ~matches.truth_ignored[0]
    overall = _best_f1(matches.scores, codes, int(wanted.sum()))
    points = {}
    for k, name in enumerate(matches.names):
        mine = matches.classes == k
        instances = int((wanted & (matches.truth_classes == k)).sum())
        points[name] = _best_f1(matches.scores[mine], codes[mine], instances)
    return overall, points


def _best_f1(scores, codes, instances):
    if not instances:
        return None
    order = np.argsort(-scores, kind="stable")
    order = order[codes[order] != IGNORED]
    scores, right = scores[order], codes[order] == RIGHT
    if not right.any():
        return {"threshold": None, "precision": None, "recall": 0.0, "f1": 0.0}
    last = np.r_[scores[1:] != scores[:-1], True]  # a threshold can't part equal scores
    hits, kept = np.cumsum(right)[last], np.flatnonzero(last) + 1
    f1 = 2 * hits / (kept + instances)
    best = int(f1.argmax())
    return {
        "threshold": float(scores[last][best]),
        "precision": float(hits[best] / kept[best]),
        "recall": float(hits[best] / instances),
        "f1": float(f1[best]),
    }


def f1_curve(matches, thresholds):
    """F1 of all classes together at IoU 0.5 for each of the given score thresholds; float array."""
    codes = matches.codes[:, 0, 0]
    counted = codes != IGNORED
    scores = np.sort(matches.scores[counted])
    hits = np.sort(matches.scores[codes == RIGHT])
    kept = len(scores) - np.searchsorted(scores, thresholds)
    right = len(hits) - np.searchsorted(hits, thresholds)
    instances = int((~matches.truth_ignored[0]).sum())
    return 2 * right / np.maximum(kept + instances, 1)


def calibration(matches):
    """Whether a score says how often the model is right (at IoU 0.5): the ECE.

    Args:
        matches: `Matches`.

    Returns:
        {ece, detections, bins: [{low, high, count, score, right}]}: the expected calibration
        error is the mean distance of score and share of right detections over 15 bins of
        equal width, weighted by their counts. Crowds and empty bins are left out. None
        without detections, or if scores are not within 0..1 and so no probabilities.
    """
    codes = matches.codes[:, 0, 0]
    scores, right = matches.scores[codes != IGNORED], codes[codes != IGNORED] == RIGHT
    if not len(scores) or scores.min() < 0 or scores.max() > 1:
        return None
    place = np.minimum((scores * BINS).astype(int), BINS - 1)
    rows = []
    for i in range(BINS):
        mine = place == i
        if mine.any():
            rows.append(
                {
                    "low": i / BINS,
                    "high": (i + 1) / BINS,
                    "count": int(mine.sum()),
                    "score": float(scores[mine].mean()),
                    "right": float(right[mine].mean()),
                }
            )
    ece = sum(r["count"] * abs(r["score"] - r["right"]) for r in rows) / len(scores)
    return {"ece": float(ece), "detections": len(scores), "bins": rows}


def pair_any_class(truth, detections, overlaps: Overlaps, threshold):
    """Pairs detections with instances at IoU 0.5, whatever the classes; the best score first.

    Args:
        truth, detections: of the same images.
        overlaps: of masks or boxes.
        threshold: the least score of the detections to look at.

    Returns:
        Pairs.
    """
    kept = np.flatnonzero(detections.scores >= threshold)
    order = kept[np.lexsort((-detections.scores[kept], detections.image[kept]))]
    pairing = Pairing(overlaps, truth.crowd[np.newaxis], truth.crowd, np.array([MATCH_IOU]))
    matched = np.full(len(order), -1)
    ranks = rank_in_runs(detections.image[order])
    for places, paired in pair(
        pairing, detections.image, detections.image, order, ranks, truth.image
    ):
        matched[places] = paired[:, 0, 0]
    crowd = (matched >= 0) & truth.crowd[matched] if len(truth.crowd) else matched >= 0
    found, target = order[(matched >= 0) & ~crowd], matched[(matched >= 0) & ~crowd]
    invented = order[matched < 0]
    missed = np.setdiff1d(np.flatnonzero(~truth.crowd), target)
    classes = len(truth.category_ids)
    counts = np.zeros((classes + 1, classes + 1), int)
    np.add.at(counts, (truth.classes[target], detections.classes[found]), 1)
    np.add.at(counts, (classes, detections.classes[invented]), 1)
    np.add.at(counts, (truth.classes[missed], classes), 1)
    image = truth.image[target]
    return Pairs(
        float(threshold),
        found,
        target,
        overlaps.at(image, found, target),
        invented,
        missed,
        counts,
    )


def confused_pairs(counts, names, most=10):
    """Pairs of classes by how often one was taken for the other.

    Args:
        counts: [K + 1, K + 1] int of `Pairs`.
        names: K class names.
        most: so many of the most confused, and `WATCHED` always.

    Returns:
        list of {a, b, count, rate, a_as_b, b_as_a, a_total, b_total, watched}, most first: rate
        is the share of the annotated a and b, None without any.
    """
    rows: list[dict[str, Any]] = []
    for i, a in enumerate(names):
        for j, b in enumerate(names[i + 1 :], i + 1):
            totals = [int(counts[i].sum()), int(counts[j].sum())]
            row = {
                "a": a,
                "b": b,
                "count": int(counts[i, j] + counts[j, i]),
                "rate": None,
                "a_as_b": int(counts[i, j]),
                "b_as_a": int(counts[j, i]),
                "a_total": totals[0],
                "b_total": totals[1],
                "watched": (a, b) in WATCHED or (b, a) in WATCHED,
            }
            if sum(totals):
                row["rate"] = row["count"] / sum(totals)
            rows.append(row)
    rows.sort(key=lambda row: -row["count"])
    confused = [row for n, row in enumerate(rows) if n < most and row["count"]]
    return confused + [row for row in rows if row["watched"] and row not in confused]


def boundary_quality(truth, detections, pairs):
    """Mask IoU and boundary IoU of the paired masks.

    Boundary IoU is the IoU of the parts of both masks that lie within 2 % of the image's
    diagonal of their own outline; the image's edge counts as outline.

    Returns:
        {mask_iou, boundary_iou, pairs, per_class: {name: {the same}}}; None without pairs.
    """
    values = np.array(
        [
            boundary_iou(detections.rles[d], truth.rles[g])
            for d, g in zip(pairs.found.tolist(), pairs.truth.tolist(), strict=True)
        ]
    )
    classes = truth.classes[pairs.truth]

    def means(chosen):
        if not chosen.any():
            return None
        return {
            "mask_iou": float(pairs.overlaps[chosen].mean()),
            "boundary_iou": float(values[chosen].mean()),
            "pairs": int(chosen.sum()),
        }

    overall = means(np.ones(len(values), bool))
    per_class = {name: means(classes == k) for k, name in enumerate(truth.names)}
    return overall and overall | {"per_class": per_class}


def boundary_iou(a, b):
    """Boundary IoU of two RLE masks of one size; 0 if both are empty."""
    height, width = a["size"]
    radius = max(1, round(BOUNDARY_SHARE * float(np.hypot(height, width))))
    x, y, w, h = masks.bounds(masks.union([a, b])).astype(int)
    parts = [masks.decode(mask)[y : y + h, x : x + w].view(bool) for mask in (a, b)]
    bands = [part & ~_eroded(part, radius) for part in parts]
    union = (bands[0] | bands[1]).sum()
    return float((bands[0] & bands[1]).sum() / union) if union else 0.0


def _eroded(mask, radius):
    """What is farther than `radius` from all that is outside, counted along rows and columns."""
    size = 2 * radius + 1
    return ndimage.minimum_filter(mask.view(np.uint8), size, mode="constant").view(bool)


def picture_quality(truth, detections, pairs):
    """How well each image went: the panoptic quality over its instances.

    Returns:
        [I] float 0..1: the IoU summed over pairs of the right class, divided by their number
        plus half the other detections and half the other instances. NaN where there is
        neither.
    """
    images = len(truth.image_ids)
    same = truth.classes[pairs.truth] == detections.classes[pairs.found]
    image = truth.image[pairs.truth]
    overlap = np.bincount(image[same], pairs.overlaps[same], images)
    right = np.bincount(image[same], minlength=images)
    wrong = 2 * np.bincount(image[~same], minlength=images)
    wrong += np.bincount(truth.image[pairs.missed], minlength=images)
    wrong += np.bincount(detections.image[pairs.invented], minlength=images)
    with np.errstate(invalid="ignore"):
        return overlap / (right + wrong / 2)
