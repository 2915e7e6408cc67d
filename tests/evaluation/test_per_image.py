"""Scores: hand-made values, the original's recorded numbers, and COCO's own results."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle_tools
from pycocotools.coco import COCO

from mrcnn.evaluation import per_image as ev
from tests.helpers import GOLDEN

TRUTH = ("gt_boxes", "gt_class_ids", "gt_masks")
PREDICTED = ("pred_boxes", "pred_class_ids", "pred_scores", "pred_masks")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "pure.npz") as arrays:
        return dict(arrays)


def given_to(golden):
    return [golden[f"ap.{name}"] for name in (*TRUTH, *PREDICTED)]


def rectangles(boxes, shape=(40, 40)):
    masks = np.zeros((*shape, len(boxes)), bool)
    for i, (y1, x1, y2, x2) in enumerate(boxes):
        masks[y1:y2, x1:x2, i] = True
    return masks


def instances(boxes, classes, scores=None):
    """What stands for ground truth (without scores) or predictions in calls."""
    boxes = np.array(boxes, np.int32).reshape(-1, 4)
    given_ = [boxes, np.array(classes, np.int32)]
    given_ += [] if scores is None else [np.array(scores, float)]
    return [*given_, rectangles(boxes)]


# --- matterport's family ----------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.5, 0.75, 0.9])
def test_golden_matches_and_ap(golden, threshold):
    matches = ev.compute_matches(*given_to(golden), iou_threshold=threshold)
    for name, value in zip(("gt_match", "pred_match", "overlaps"), matches, strict=True):
        expected = golden[f"matches_{threshold}.{name}"]
        assert value.dtype == expected.dtype
        np.testing.assert_allclose(value, expected, atol=1e-6)
    scores = ev.compute_ap(*given_to(golden), iou_threshold=threshold)
    for name, value in zip(("mAP", "precisions", "recalls"), scores, strict=False):
        np.testing.assert_allclose(value, golden[f"ap_{threshold}.{name}"], atol=1e-6)
    assert np.array_equal(scores[3], matches[2])


def test_golden_ap_range(golden, capsys):
    mean = ev.compute_ap_range(*given_to(golden))
    np.testing.assert_allclose(mean, golden["ap_range.out"], atol=1e-6)
    assert "AP @0.50-0.95:\t 0.574" in capsys.readouterr().out
    assert ev.compute_ap_range(*given_to(golden), verbose=0) == mean
    assert capsys.readouterr().out == ""


def test_golden_ap_without_predictions(golden):
    nothing = instances([], [], [])
    nothing[-1] = golden["ap.pred_masks"][..., :0]
    mean, precisions, recalls, overlaps = ev.compute_ap(*given_to(golden)[:3], *nothing)
    assert mean == golden["ap_nopred.mAP"]
    assert np.array_equal(precisions, golden["ap_nopred.precisions"])
    assert np.array_equal(recalls, golden["ap_nopred.recalls"])
    assert overlaps.shape == (0, 4)


def test_golden_recall(golden):
    truth = golden["ap.gt_boxes"][:4]  # the rest is padding
    recall, positive_ids = ev.compute_recall(golden["ap.pred_boxes"], truth, 0.5)
    assert recall == golden["recall.out"]
    assert np.array_equal(positive_ids, golden["recall.positive_ids"])


TWO = [[0, 0, 10, 10], [20, 20, 30, 30]]


def test_matches_by_hand():
    truth = instances(TWO, [1, 2])
    # By score: a copy of the first, a worse copy of it, the second in the wrong class.
    predicted = instances([[0, 0, 10, 9], TWO[1], TWO[0]], [1, 1, 1], [0.8, 0.7, 0.9])
    gt_match, pred_match, overlaps = ev.compute_matches(*truth, *predicted)
    assert gt_match.tolist() == [0, -1]
    assert pred_match.tolist() == [0, -1, -1]
    np.testing.assert_allclose(overlaps, [[1, 0], [0.9, 0], [0, 1]], rtol=1e-6)


def test_match_at_exactly_the_threshold():
    truth, predicted = instances(TWO[:1], [1]), instances([[0, 0, 10, 5]], [1], [1])
    assert ev.compute_matches(*truth, *predicted, iou_threshold=0.5)[0].tolist() == [0]
    assert ev.compute_matches(*truth, *predicted, iou_threshold=0.51)[0].tolist() == [-1]
    assert ev.compute_matches(*truth, *predicted, score_threshold=0.51)[0].tolist() == [-1]


def test_ap_by_hand():
    truth = instances(TWO, [1, 2])
    hit_miss_hit = instances([TWO[0], [0, 30, 5, 35], TWO[1]], [1, 1, 2], [0.9, 0.8, 0.7])
    mean, precisions, recalls, _ = ev.compute_ap(*truth, *hit_miss_hit)
    np.testing.assert_allclose(recalls, [0, 0.5, 0.5, 1, 1])
    np.testing.assert_allclose(precisions, [1, 1, 2 / 3, 2 / 3, 0])
    assert mean == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_ap_without_ground_truth_is_zero():
    mean, precisions, recalls, overlaps = ev.compute_ap(
        *instances([], []), *instances(TWO, [1, 2], [0.9, 0.8])
    )
    assert mean == 0
    assert precisions.tolist() == [0, 0, 0, 0]
    assert recalls.tolist() == [0, 0, 0, 1]
    assert overlaps.shape == (2, 0)
    assert ev.compute_ap(*instances([], []), *instances([], [], []))[0] == 0


def test_recall_without_boxes_is_zero():
    none = np.zeros((0, 4))
    for predicted, truth in ((none, TWO), (TWO, none), (none, none)):
        recall, positive_ids = ev.compute_recall(predicted, truth, 0.5)
        assert recall == 0
        assert positive_ids.shape == (0,)


@given(st.data())
@settings(deadline=None, max_examples=25)
def test_ap_of_exact_boxes_depends_on_their_classes_alone(data):
    """Boxes that do not overlap, each detected exactly: right where the class is."""
    count = data.draw(st.integers(1, 5))
    boxes = [(0, 8 * i, 30, 8 * i + 8) for i in range(count)]
    truth = instances(boxes, range(1, count + 1))
    ranks = data.draw(st.permutations(range(count)))  # ranks[i]: of the detection of box i
    classes = np.array(data.draw(st.permutations(truth[1].tolist())))
    predicted = [truth[0], classes, 1 - np.array(ranks) / 10, truth[2]]
    right = (classes == truth[1])[np.argsort(ranks)]
    precisions = np.cumsum(right) / np.arange(1, count + 1)
    best_from = np.maximum.accumulate(precisions[::-1])[::-1]
    expected = best_from[right].sum() / count
    assert ev.compute_ap(*truth, *predicted)[0] == pytest.approx(expected)
    assert ev.compute_ap_range(*truth, *predicted, verbose=0) == pytest.approx(expected)


# --- COCO's scores ----------------------------------------------------------------------------

CATEGORIES = [{"id": 3, "name": "shirt"}, {"id": 5, "name": "skirt"}, {"id": 9, "name": "vest"}]


def encode(mask):
    rle = rle_tools.encode(np.asfortranarray(mask, np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def result(image_id, category_id, box, score):
    """A rectangle as a result; box [x, y, width, height]."""
    x, y, width, height = box
    mask = rectangles([(y, x, y + height, x + width)], (100, 120))[..., 0]
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(box),
        "segmentation": encode(mask),
        "score": score,
    }


@pytest.fixture
def annotations(tmp_path):
    """Two images with shirts and skirts, no vest; an image without anything."""
    rows = [(1, 3, [10, 10, 20, 30]), (1, 5, [50, 40, 50, 50]), (2, 3, [0, 0, 40, 40])]
    truth = {
        "images": [{"id": i, "height": 100, "width": 120} for i in (1, 2, 7)],
        "categories": CATEGORIES,
        "annotations": [
            {
                "id": n,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": [x, y, w, h],
                "area": w * h,
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                "iscrowd": 0,
            }
            for n, (image_id, category_id, (x, y, w, h)) in enumerate(rows, 1)
        ],
    }
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(truth))
    return path


PERFECT = [
    result(1, 3, [10, 10, 20, 30], 0.9),
    result(1, 5, [50, 40, 50, 50], 0.8),
    result(2, 3, [0, 0, 40, 40], 0.7),
]


def test_coco_scores_of_perfect_results(annotations, capsys):
    results = copy.deepcopy(PERFECT)
    scores = ev.coco_scores(annotations, results)
    assert capsys.readouterr().out == ""
    assert results == PERFECT  # untouched
    for kind in ("bbox", "segm"):
        found = scores[kind]
        assert found.pop("per_class") == pytest.approx({"shirt": 1, "skirt": 1, "vest": None})
        assert found.pop("APl") is found.pop("ARl") is None  # no large garment
        assert found.pop("AR1") == pytest.approx(1)
        names = ("AP", "AP50", "AP75", "APs", "APm", "AR10", "AR100", "ARs", "ARm")
        assert found == pytest.approx(dict.fromkeys(names, 1))


def test_coco_scores_by_hand(annotations):
    # One of two shirts at IoU 0.8: right at 0.5, 0.55, ... 0.8, which is 7 of 10 thresholds.
    shirt = result(2, 3, [0, 0, 40, 32], 0.9)
    scores = ev.coco_scores(COCO(str(annotations)), [shirt, PERFECT[1]], kinds=["segm"])
    assert list(scores) == ["segm"]
    half = 51 / 101  # COCO reads precision at 101 recalls
    assert scores["segm"]["per_class"]["shirt"] == pytest.approx(0.7 * half)
    assert scores["segm"]["AP"] == pytest.approx((0.7 * half + 1) / 2)
    assert scores["segm"]["AP75"] == pytest.approx((half + 1) / 2)
    assert scores["segm"]["AR1"] == pytest.approx((0.35 + 1) / 2)


def test_coco_scores_without_results_are_zero(annotations):
    scores = ev.coco_scores(annotations, [])
    for kind in ("bbox", "segm"):
        assert scores[kind]["AP"] == scores[kind]["AP50"] == scores[kind]["AR100"] == 0
        assert scores[kind]["per_class"] == {"shirt": 0, "skirt": 0, "vest": None}


def test_coco_scores_of_some_images(annotations):
    scores = ev.coco_scores(annotations, [*PERFECT, result(1, 3, [0, 0, 9, 9], 1.0)], image_ids=[2])
    assert scores["segm"]["AP"] == pytest.approx(1)
    assert scores["segm"]["per_class"] == pytest.approx({"shirt": 1, "skirt": None, "vest": None})
    assert ev.coco_scores(annotations, PERFECT, image_ids=[7])["bbox"]["AP"] is None


def test_coco_sizes_of_masks_go_by_the_mask(annotations):
    # The skirt's mask has an area of 2500 (medium); a far too large box changes nothing.
    skirt = PERFECT[1] | {"bbox": [0, 0, 120, 100]}
    scores = ev.coco_scores(annotations, [skirt])
    assert scores["segm"]["per_class"]["skirt"] == pytest.approx(1)
    assert scores["bbox"]["per_class"]["skirt"] == 0
    # A false one with a small mask and a large box still counts among the small ones.
    false = PERFECT[0] | {"image_id": 7, "bbox": [0, 0, 120, 100], "score": 1.0}
    assert ev.coco_scores(annotations, [*PERFECT, false])["segm"]["APs"] == pytest.approx(0.5)


def test_coco_boxes_come_from_masks_if_missing(annotations):
    bare = [{k: v for k, v in row.items() if k != "bbox"} for row in PERFECT]
    assert ev.coco_scores(annotations, bare)["bbox"]["AP"] == pytest.approx(1)
    boxes = [{k: v for k, v in row.items() if k != "segmentation"} for row in PERFECT]
    assert ev.coco_scores(annotations, boxes, kinds=["bbox"])["bbox"]["AP"] == pytest.approx(1)
    with pytest.raises(ValueError, match="result 0 has no 'segmentation', which 'segm' needs"):
        ev.coco_scores(annotations, boxes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"results": [PERFECT[0] | {"image_id": 99}]}, r"image_id of results has .*\[99\]"),
        ({"results": [PERFECT[0] | {"category_id": 4}]}, r"category_id of results has .*\[4\]"),
        ({"image_ids": [1, 5]}, r"image_ids has .*\[5\]"),
        ({"kinds": ["keypoints"]}, "kinds has 'keypoints'; use"),
    ],
)
def test_coco_scores_refuse_what_does_not_fit(annotations, arguments, message):
    with pytest.raises(ValueError, match=message):
        ev.coco_scores(annotations, **{"results": PERFECT} | arguments)
