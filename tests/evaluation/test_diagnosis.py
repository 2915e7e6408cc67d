"""Confusion, thresholds, calibration and boundaries, by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle_tools

from mrcnn.coco.ground_truth import read_ground_truth, read_results
from mrcnn.evaluation import average_precision, diagnosis
from mrcnn.evaluation.metrics import ConfusedPair, OperatingPoint

SIDE = 100
NAMES = ("shirt", "trousers", "skirt")


def rle(mask):
    return rle_tools.encode(np.asfortranarray(mask, np.uint8))


def square(y, x, side=20):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def row(category, y, x, **more):
    mask = rle(square(y, x))
    text = {"size": mask["size"], "counts": mask["counts"].decode()}
    box = [x, y, 20, 20]
    return {"image_id": 1, "category_id": category, "bbox": box, "segmentation": text, **more}


def scored(annotations, results, images=(1,)):
    """GroundTruth, detections, overlaps and matches of masks."""
    content = {
        "images": [{"id": i, "height": SIDE, "width": SIDE} for i in images],
        "categories": [{"id": k, "name": name} for k, name in enumerate(NAMES, 1)],
        "annotations": [
            {"area": 400, "iscrowd": 0, "id": n, **a} for n, a in enumerate(annotations, 1)
        ],
    }
    truth = read_ground_truth(content)
    detections = read_results(truth, results)
    overlaps = average_precision.compute_overlaps(truth, detections, "segm")
    views = average_precision.make_views(truth)
    matches = average_precision.match_detections(truth, detections, "segm", views, overlaps)
    return truth, detections, overlaps, matches


TRUTH = [row(1, 0, 0), row(2, 0, 40), row(3, 40, 0), row(3, 40, 40)]
FOUND = [
    row(1, 0, 0, score=0.9),  # right
    row(3, 0, 42, score=0.8),  # trousers taken for a skirt
    row(2, 0, 40, score=0.7),  # the trousers again, in their class: too late
    row(3, 80, 80, score=0.6),  # a false positive
    row(3, 40, 0, score=0.3),  # right, but below the threshold
]


def test_confusion_by_hand():
    truth, detections, overlaps, _ = scored(TRUTH, FOUND)
    pairs = diagnosis.pair_any_class(truth, detections, overlaps, 0.5)
    assert pairs.counts.tolist() == [
        [1, 0, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 2],
        [0, 1, 1, 0],
    ]
    assert pairs.instances.tolist() == [0, 1] and pairs.detections.tolist() == [0, 1]
    np.testing.assert_allclose(pairs.overlaps, [1, 360 / 440])
    assert pairs.missed.tolist() == [2, 3] and sorted(pairs.false_positives.tolist()) == [2, 3]
    all_ = diagnosis.pair_any_class(truth, detections, overlaps, 0.0)
    assert all_.counts[2].tolist() == [0, 0, 1, 1]


def test_crowds_are_in_no_cell():
    crowd = row(1, 0, 0) | {"iscrowd": 1}
    truth, detections, overlaps, _ = scored([crowd], [row(2, 0, 0, score=1.0)] * 2)
    pairs = diagnosis.pair_any_class(truth, detections, overlaps, 0.0)
    assert not pairs.counts.any() and not len(pairs.missed) and not len(pairs.false_positives)


def test_confusion_without_anything():
    for annotations, results, counts in (([], FOUND[:1], (3, 0)), (TRUTH[:1], [], (0, 3))):
        truth, detections, overlaps, matches = scored(annotations, results)
        pairs = diagnosis.pair_any_class(truth, detections, overlaps, 0.0)
        assert pairs.counts.sum() == pairs.counts[counts] == 1
        assert diagnosis.boundary_quality(truth, detections, pairs) is None
        assert diagnosis.image_quality(truth, detections, pairs).tolist() == [0]
    assert diagnosis.calibration(matches) is None
    assert diagnosis.operating_points(matches)[0].f1 == 0


def test_confused_pairs_show_the_watched_ones_always():
    counts = np.zeros((4, 4), int)
    counts[0, 1], counts[1, 0], counts[0, 0], counts[1, 3] = 2, 1, 6, 1
    first, watched = diagnosis.confused_pairs(counts, NAMES)
    assert first == ConfusedPair(
        a="shirt",
        b="trousers",
        count=3,
        rate=0.3,
        a_as_b=2,
        b_as_a=1,
        a_total=8,
        b_total=2,
        watched=False,
    )
    assert (watched.a, watched.b, watched.count) == ("trousers", "skirt", 0)
    assert watched.rate == 0 and watched.watched
    nothing = diagnosis.confused_pairs(np.zeros((4, 4), int), NAMES)
    assert [row.rate for row in nothing] == [None]


def test_best_f1_by_hand():
    # Skirts by score: wrong .8, wrong .6, right .3; 2 of them to find.
    _, _, _, matches = scored(TRUTH, FOUND)
    overall, points = diagnosis.operating_points(matches)
    assert points["skirt"] == OperatingPoint(0.3, 1 / 3, 0.5, 0.4)
    assert points["shirt"] == OperatingPoint(0.9, 1, 1, 1)
    # All: right .9, wrong .8, right .7, wrong .6, right .3 of 4: F1 is 2/5, 2/6, 4/7, 4/8, 6/9.
    assert overall == OperatingPoint(0.3, 0.6, 0.75, 2 / 3)
    np.testing.assert_allclose(
        diagnosis.f1_curve(matches, np.array([0.3, 0.31, 0.9, 1])), [2 / 3, 0.5, 0.4, 0]
    )


def test_a_threshold_does_not_part_equal_scores():
    same = [row(1, 0, 0, score=0.5), row(1, 60, 60, score=0.5)]
    _, _, _, matches = scored(TRUTH[:1], same)
    best = diagnosis.operating_points(matches)[1]["shirt"]
    assert best.precision == 0.5 and best.f1 == pytest.approx(2 / 3)
    assert diagnosis.operating_points(matches)[1]["skirt"] is None  # no skirt to find


def test_calibration_by_hand():
    # Four at .9 of which one is right, one wrong at .1: (4 |.9 - .25| + 1 |.1 - 0|) / 5.
    found = [row(1, 0, 0, score=0.9)] + [row(1, 60, 20 * i, score=0.9) for i in range(3)]
    _, _, _, matches = scored(TRUTH[:1], [*found, row(1, 30, 60, score=0.1)])
    found = diagnosis.calibration(matches)
    assert found.ece == pytest.approx((4 * 0.65 + 0.1) / 5)
    assert [bin_.count for bin_ in found.bins] == [1, 4]
    last = found.bins[1]
    assert (last.low, last.high, last.count, last.right) == (13 / 15, 14 / 15, 4, 0.25)
    assert last.score == pytest.approx(0.9)
    _, _, _, matches = scored(TRUTH[:1], [row(1, 0, 0, score=17.0)])
    assert diagnosis.calibration(matches) is None  # no probabilities


def bands(masks, radius):
    """Boundary bands by the definition: pixels with one outside within `radius` in a square."""
    for mask in masks:
        padded = np.pad(mask, radius)
        inner = np.ones_like(mask)
        for dy in range(2 * radius + 1):
            for dx in range(2 * radius + 1):
                inner &= padded[dy : dy + SIDE, dx : dx + SIDE]
        yield mask & ~inner


@given(st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_boundary_iou_by_its_definition(seed):
    rng = np.random.default_rng(seed)
    masks = [square(*rng.integers(0, 80, 2), rng.integers(1, 60)) for _ in range(3)]
    masks = [masks[0] | masks[2], masks[1] | masks[2]]
    a, b = bands(masks, round(0.02 * np.hypot(SIDE, SIDE)))
    value = diagnosis.boundary_iou(*map(rle, masks))
    assert value == pytest.approx((a & b).sum() / (a | b).sum())


def test_boundary_iou_by_hand():
    assert diagnosis.boundary_iou(rle(square(0, 0)), rle(square(0, 0))) == 1
    assert diagnosis.boundary_iou(rle(square(0, 0)), rle(square(50, 50))) == 0
    nothing = rle(np.zeros((SIDE, SIDE)))
    assert diagnosis.boundary_iou(nothing, nothing) == 0
    # Bands of 3 pixels: 20² - 14² = 204 pixels; the inner square has its own, apart from it.
    assert diagnosis.boundary_iou(rle(square(0, 0)), rle(square(5, 5, 10))) == 0


def test_image_quality_by_hand():
    away = row(1, 0, 0) | {"image_id": 2}
    truth, detections, overlaps, _ = scored([*TRUTH, away], FOUND, images=(1, 2, 3))
    pairs = diagnosis.pair_any_class(truth, detections, overlaps, 0.5)
    quality = diagnosis.image_quality(truth, detections, pairs)
    # 1 right of IoU 1; half of: 1 confused on both sides, 2 missed, 2 false positives.
    assert quality[0] == pytest.approx(1 / (1 + (2 + 2 + 2) / 2))
    assert quality[1] == 0 and np.isnan(quality[2])
    means = diagnosis.boundary_quality(truth, detections, pairs)
    assert means.pairs == 2 and means.mask_iou == pytest.approx((1 + 360 / 440) / 2)
    assert means.per_class["shirt"].boundary_iou == 1
    assert means.per_class["skirt"] is None
