"""COCO's numbers against pycocotools, and subsets against what they are defined as."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle_tools
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn.coco.reader import ATTRIBUTES
from mrcnn.evaluation import average_precision
from mrcnn.evaluation.per_image import coco_scores
from tests.helpers.coco_cases import (
    APART,
    BOX,
    CLASSES,
    accumulated,
    detection,
    one_image,
    random_data,
)

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def reference(content, results, kind):
    """COCOeval's twelve numbers and then AP by class, None where it has -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth, detections = COCO(), COCO()
        truth.dataset = content
        truth.createIndex()
        rows = []
        for n, row in enumerate(results, 1):
            area = rle_tools.area(row["segmentation"])
            if kind == "bbox":
                area = row["bbox"][2] * row["bbox"][3]
            rows.append({**row, "id": n, "iscrowd": 0, "area": float(area)})
        detections.dataset = {**content, "annotations": rows}
        detections.createIndex()
        scoring = COCOeval(truth, detections, kind)
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
    per_class = scoring.eval["precision"][:, :, :, 0, -1].mean(axis=(0, 1))
    return [None if v < 0 else v for v in (*scoring.stats, *per_class)]


def assert_equal(values, expected):
    assert [v is None for v in values] == [v is None for v in expected]
    some = [(v, e) for v, e in zip(values, expected, strict=True) if e is not None]
    np.testing.assert_allclose(
        [v for v, _ in some], [e for _, e in some], rtol=0, atol=1e-9, strict=True
    )


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 7))
@settings(deadline=None, max_examples=25)
def test_all_numbers_equal_pycocotools(kind, seed, images, busy):
    content, results = random_data(seed, images, busy)
    scores = coco_scores(content, results, [kind])[kind]
    values = [scores[name] for name in NAMES] + list(scores["per_class"].values())
    assert_equal(values, reference(content, results, kind))
    assert scores["per_class"][f"class {CLASSES}"] is None


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_subsets_equal_pycocotools(attribute, kind):
    """COCOeval ignores what is beyond its largest area: given to all outside the subset."""
    content, results = random_data(7, count=25)
    _, found = accumulated(content, results, kind)
    for number in (1, 2, 3):
        rows = [
            {**a, "area": a["area"] if a[attribute] == number else 1e11}
            for a in content["annotations"]
        ]
        expected = reference({**content, "annotations": rows}, results, kind)
        a = 4 + 3 * list(ATTRIBUTES).index(attribute) + number - 1
        values = [found.precision[..., a], found.precision[0, ..., a], found.precision[5, ..., a]]
        values += [found.precision[:, :, k, a] for k in range(CLASSES)]
        assert_equal([average_precision.mean(v) for v in values], expected[:3] + expected[12:])


def test_more_than_100_detections_of_a_class_in_an_image():
    content, results = random_data(3, count=3)
    crowded = [{**r, "image_id": 2, "category_id": 1 + n % 2} for n, r in enumerate(results * 20)]
    assert len(crowded) > 220
    assert_equal(
        list(coco_scores(content, crowded, ["segm"])["segm"].values())[:12],
        reference(content, crowded, "segm")[:12],
    )


def test_work_in_small_parts_gives_the_same(monkeypatch):
    content, results = random_data(5, count=20)
    whole = coco_scores(content, results)
    monkeypatch.setattr(average_precision, "CHUNK", 300)
    assert coco_scores(content, results) == whole


def test_without_results_and_without_truth():
    content, results = random_data(5)
    nothing = {**content, "annotations": []}
    for kind in ("bbox", "segm"):
        scores = coco_scores(content, [])[kind]
        assert scores["AP"] == scores["AR100"] == 0
        assert coco_scores(nothing, results)[kind]["AP"] is None
        assert coco_scores(nothing, [])[kind]["AR1"] is None


def test_ties_by_hand():
    """Of two garments that overlap a detection the same, COCO takes the last."""
    content = one_image(([10, 10, 40, 40], 1), ([30, 10, 40, 40], 1))
    results = [detection([20, 10, 40, 40], 0.9), detection([34, 10, 40, 40], 0.8)]
    matches, found = accumulated(content, results, "bbox")
    assert matches.codes[:, 0, 0].tolist() == [
        average_precision.TRUE_POSITIVE,
        average_precision.FALSE_POSITIVE,
    ]
    assert average_precision.mean(found.precision[..., 0]) == pytest.approx(
        reference(content, results, "bbox")[0], abs=1e-9
    )


def test_overlap_of_just_the_threshold_is_enough():
    content, half = one_image(([10, 10, 40, 40], 1)), detection([10, 10, 40, 20], 0.9)
    matches, _ = accumulated(content, [half], "bbox")
    assert matches.codes[0, 0, :2].tolist() == [
        average_precision.TRUE_POSITIVE,
        average_precision.FALSE_POSITIVE,
    ]


def test_subset_by_hand():
    """Garments outside the subset count neither way; false positives count in every subset."""
    content = one_image((BOX, 1), (APART, 3))
    both = [detection(BOX, 0.9), detection(APART, 0.8)]
    matches, found = accumulated(content, both, "segm")
    ap = dict(
        zip(
            matches.views,
            (average_precision.mean(v) for v in found.precision.transpose(3, 0, 1, 2)),
            strict=True,
        )
    )
    assert ap["occlusion", "slight"] == pytest.approx(1)
    assert ap["occlusion", "heavy"] == pytest.approx(1)
    assert ap["occlusion", "medium"] is None
    assert ("scale", "small") not in ap  # the file says nothing of scale
    assert matches.codes[:, matches.views.index(("occlusion", "heavy")), 0].tolist() == [
        average_precision.IGNORED,
        average_precision.TRUE_POSITIVE,
    ]
    # A false positive that scores best: precision 1 / 2 in the subset too.
    _, found = accumulated(content, [*both, detection([60, 5, 20, 20], 1.0)], "segm")
    assert average_precision.mean(found.precision[..., -1]) == pytest.approx(0.5)
