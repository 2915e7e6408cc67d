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

from mrcnn import coco_eval
from mrcnn.coco_data import ATTRIBUTES, read_results, read_truth
from mrcnn.evaluation import coco_scores

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
HEIGHT, WIDTH = 150, 160
CLASSES = 4  # the last one never has anything to find


def rle_of(x, y, width, height):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    mask[y : y + height // 3, x : x + width // 3] = 0  # so masks and boxes differ
    rle = rle_tools.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def random_box(rng):
    width, height = rng.integers(4, 130, 2)
    x, y = rng.integers(0, WIDTH - width), rng.integers(0, HEIGHT - height)
    return [int(v) for v in (x, y, width, height)]


def near(rng, box):
    """The box, moved and resized by a few pixels."""
    x, y, width, height = (int(v) for v in np.array(box) + rng.integers(-4, 5, 4))
    x, y = max(x, 0), max(y, 0)
    return [x, y, min(max(width, 2), WIDTH - x), min(max(height, 2), HEIGHT - y)]


def random_data(seed, pictures=12, busy=4):
    """A COCO file's content and results: ties, crowds, empty pictures, an absent class."""
    rng = np.random.default_rng(seed)
    images = [{"id": 3 * i + 2, "height": HEIGHT, "width": WIDTH} for i in range(pictures)]
    annotations, results = [], []
    for image in images:
        for _ in range(rng.integers(0, busy)):
            box = random_box(rng)
            segmentation = rle_of(*box)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image["id"],
                "category_id": int(rng.integers(1, CLASSES)),
                "bbox": box,
                "segmentation": segmentation,
                "area": float(rle_tools.area(segmentation)),
                "iscrowd": int(rng.random() < 0.1),
            }
            annotation |= {name: int(rng.integers(1, 4)) for name in ATTRIBUTES}
            annotations.append(annotation)
            for _ in range(rng.integers(0, 4)):
                same = rng.random() < 0.8
                category = annotation["category_id"] if same else int(rng.integers(1, CLASSES + 1))
                results.append(found(image["id"], category, near(rng, box), rng))
        for _ in range(rng.integers(0, 3)):
            category = int(rng.integers(1, CLASSES + 1))
            results.append(found(image["id"], category, random_box(rng), rng))
    order = rng.permutation(len(results))
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    return truth, [results[i] for i in order]


def found(image_id, category_id, box, rng):
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box,
        "segmentation": rle_of(*box),
        "score": float(rng.integers(1, 11)) / 10,  # few values, so many ties
    }


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


def accumulated(content, results, kind):
    truth = read_truth(content)
    detections = read_results(truth, results)
    views = coco_eval.make_views(truth)
    overlaps = coco_eval.compute_overlaps(truth, detections, kind)
    matches = coco_eval.match(truth, detections, kind, views, overlaps)
    return matches, coco_eval.accumulate(matches)


def assert_equal(values, expected):
    assert [v is None for v in values] == [v is None for v in expected]
    some = [(v, e) for v, e in zip(values, expected, strict=True) if e is not None]
    np.testing.assert_allclose(
        [v for v, _ in some], [e for _, e in some], rtol=0, atol=1e-9, strict=True
    )


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 7))
@settings(deadline=None, max_examples=40)
def test_all_numbers_equal_pycocotools(kind, seed, pictures, busy):
    content, results = random_data(seed, pictures, busy)
    scores = coco_scores(content, results, [kind])[kind]
    values = [scores[name] for name in NAMES] + list(scores["per_class"].values())
    assert_equal(values, reference(content, results, kind))
    assert scores["per_class"][f"class {CLASSES}"] is None


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_subsets_equal_pycocotools(attribute, kind):
    """COCOeval ignores what is beyond its largest area: given to all outside the subset."""
    content, results = random_data(7, pictures=25)
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
        assert_equal([coco_eval.mean(v) for v in values], expected[:3] + expected[12:])


def test_more_than_100_detections_of_a_class_in_a_picture():
    content, results = random_data(3, pictures=3)
    crowded = [{**r, "image_id": 2, "category_id": 1 + n % 2} for n, r in enumerate(results * 20)]
    assert len(crowded) > 220
    assert_equal(
        list(coco_scores(content, crowded, ["segm"])["segm"].values())[:12],
        reference(content, crowded, "segm")[:12],
    )


def test_work_in_small_parts_gives_the_same(monkeypatch):
    content, results = random_data(5, pictures=20)
    whole = coco_scores(content, results)
    monkeypatch.setattr(coco_eval, "CHUNK", 300)
    assert coco_scores(content, results) == whole


def test_without_results_and_without_truth():
    content, results = random_data(5)
    nothing = {**content, "annotations": []}
    for kind in ("bbox", "segm"):
        scores = coco_scores(content, [])[kind]
        assert scores["AP"] == scores["AR100"] == 0
        assert coco_scores(nothing, results)[kind]["AP"] is None
        assert coco_scores(nothing, [])[kind]["AR1"] is None


BOX = [10, 10, 40, 40]
APART = [90, 90, 30, 30]


def one_picture(*instances):
    """Content with one picture; instances are (box, occlusion)."""
    rows = [
        {
            "id": n,
            "image_id": 1,
            "category_id": 1,
            "bbox": box,
            "area": 1600.0,
            "iscrowd": 0,
            "segmentation": rle_of(*box),
            "occlusion": occlusion,
        }
        for n, (box, occlusion) in enumerate(instances, 1)
    ]
    return {
        "images": [{"id": 1, "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "shirt"}],
        "annotations": rows,
    }


def detection(box, score):
    return {
        "image_id": 1,
        "category_id": 1,
        "bbox": box,
        "segmentation": rle_of(*box),
        "score": score,
    }


def test_subset_by_hand():
    """Garments outside the subset are no miss, finding them no fault; inventions count."""
    content = one_picture((BOX, 1), (APART, 3))
    both = [detection(BOX, 0.9), detection(APART, 0.8)]
    matches, found = accumulated(content, both, "segm")
    ap = dict(
        zip(
            matches.views,
            (coco_eval.mean(v) for v in found.precision.transpose(3, 0, 1, 2)),
            strict=True,
        )
    )
    assert ap["occlusion", "slight"] == pytest.approx(1)
    assert ap["occlusion", "heavy"] == pytest.approx(1)
    assert ap["occlusion", "medium"] is None
    assert ("scale", "small") not in ap  # the file says nothing of scale
    assert matches.codes[:, matches.views.index(("occlusion", "heavy")), 0].tolist() == [
        coco_eval.IGNORED,
        coco_eval.RIGHT,
    ]
    # An invention above all: right 1 of 2 in the subset too.
    _, found = accumulated(content, [*both, detection([60, 5, 20, 20], 1.0)], "segm")
    assert coco_eval.mean(found.precision[..., -1]) == pytest.approx(0.5)
