"""Reading annotations and results: every form of a mask, and what is refused."""

import json

import numpy as np
import pytest
from pycocotools import mask as rle_tools
from pycocotools.coco import COCO

from mrcnn.coco import ground_truth
from mrcnn.coco.ground_truth import read_ground_truth, read_results
from mrcnn.coco.reader import read_coco
from tests.helpers.coco_cases import APART, BOX, HEIGHT, WIDTH, detection, one_image, random_data

SQUARE = [10, 10, 50, 10, 50, 50, 10, 50]


def test_truth_is_sorted_by_image_and_else_as_in_the_file():
    content, _ = random_data(1, count=6)
    content["images"].reverse()
    content["annotations"].reverse()
    truth = read_ground_truth(content)
    assert truth.image_ids.tolist() == [2, 5, 8, 11, 14, 17]
    assert truth.names == ["class 1", "class 2", "class 3", "class 4"]
    for i, image_id in enumerate(truth.image_ids):
        rows = [a for a in content["annotations"] if a["image_id"] == image_id]
        mine = slice(*truth.offsets[i : i + 2])
        assert truth.boxes[mine].tolist() == [a["bbox"] for a in rows]
        assert (truth.classes[mine] + 1).tolist() == [a["category_id"] for a in rows]
        assert truth.attributes["zoom_in"][mine].tolist() == [a["zoom_in"] for a in rows]


def test_truth_of_some_images(tmp_path):
    content, _ = random_data(1, count=6)
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    assert read_ground_truth(path, limit=2).image_ids.tolist() == [2, 5]
    assert read_ground_truth(path, image_ids=[14, 5]).image_ids.tolist() == [5, 14]
    assert read_ground_truth(str(path)).known_ids == {2, 5, 8, 11, 14, 17}
    assert read_ground_truth(COCO(str(path)), limit=1).image_ids.tolist() == [2]
    truth = read_ground_truth(content)
    assert read_ground_truth(truth) is truth
    with pytest.raises(ValueError, match="choose images when it is read"):
        read_ground_truth(truth, limit=1)


def test_one_table_serves_all(tmp_path):
    content, _ = random_data(1, count=6)
    table = read_coco(content)
    truth = read_ground_truth(table, limit=2)
    assert truth.known_ids == {2, 5, 8, 11, 14, 17}
    assert [entry.id for entry in table.images] == [2, 5, 8, 11, 14, 17]  # as it was


def test_text_ids_and_sizes_with_a_point():
    content = one_image((BOX, 1))
    content["images"][0] |= {"id": "a", "height": float(HEIGHT), "width": float(WIDTH)}
    content["annotations"][0]["image_id"] = "a"
    truth = read_ground_truth(content)
    found = read_results(truth, [detection(BOX, 0.5) | {"image_id": "a"}])
    assert truth.image_ids.tolist() == ["a"] and truth.size(0) == (HEIGHT, WIDTH)
    assert rle_tools.iou(found.rles, truth.rles, [0]).tolist() == [[1]]


def test_nothing_at_all():
    truth = read_ground_truth({"images": [], "annotations": [], "categories": []})
    assert len(truth.image_ids) == len(truth.boxes) == len(truth.rles) == 0
    assert truth.offsets.tolist() == [0] and truth.has_masks
    assert len(read_results(truth, [])) == 0
    one = read_ground_truth(one_image())
    assert one.offsets.tolist() == [0, 0] and one.boxes.shape == (0, 4)


def test_a_missing_area_is_that_of_the_box():
    content = one_image((BOX, 1), (APART, 2))
    content["annotations"][0]["area"] = None
    del content["annotations"][1]["area"]
    assert read_ground_truth(content).areas.tolist() == [1600, 900]


def test_annotations_without_masks():
    content = one_image((BOX, 1))
    content["annotations"][0]["segmentation"] = None
    assert not read_ground_truth(content).has_masks


def test_boxes_of_results_come_from_their_masks():
    truth = read_ground_truth(one_image((BOX, 1)))
    row = {"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": [SQUARE]}
    assert read_results(truth, [row, row]).boxes.tolist() == [BOX, BOX]
    found = read_results(truth, [{**row, "bbox": APART}, row], masks=False)
    assert found.boxes.tolist() == [APART, BOX] and found.rles is None


def test_results_in_the_order_of_images():
    content, results = random_data(4, count=8)
    truth = read_ground_truth(content, image_ids=[5, 8])
    found = read_results(truth, results)
    expected = [r for i in (5, 8) for r in results if r["image_id"] == i]
    assert found.scores.tolist() == [r["score"] for r in expected]
    assert found.left_out == len(results) - len(expected) > 0
    assert np.diff(found.offsets(2)).tolist() == [
        sum(r["image_id"] == i for r in results) for i in (5, 8)
    ]


def test_boxes_alone_are_no_masks():
    truth = read_ground_truth(one_image((BOX, 1)))
    bare = {"image_id": 1, "category_id": 1, "score": 1, "bbox": BOX}
    assert read_results(truth, [bare]).rles is None
    assert read_results(truth, []).rles == []
    with pytest.raises(ValueError, match="result 1 has no 'segmentation'"):
        read_results(truth, [detection(BOX, 0.5), bare])


GOOD = detection(BOX, 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": float("nan")}, r"result 1 \(image_id 1\) has the score nan, and 0 more"),
        ({"score": float("inf")}, "has the score inf"),
        ({"score": "0.5"}, "has the score '0.5'"),
        ({"score": None}, "has the score None"),
        ({"image_id": 9}, r"image_id of results has 1 ids .* such as \[9\]"),
        ({"category_id": 7}, r"category_id of results .* such as \[7\]"),
        ({"category_id": 0}, "if your ids count from 0, add 1"),
        ({"segmentation": {"size": [9, 9], "counts": "0"}}, r"size \[9, 9\].*another split"),
        ({"segmentation": [[1, 2, 3, 4]]}, "polygons must be lists of 6 or more"),
        ({"segmentation": "x"}, "a segmentation is str; give polygons"),
        ({"bbox": [1, 2, 3]}, r"has the bbox \[1, 2, 3\]"),
        ({"bbox": [9, 9, -3, 4]}, "give finite"),
        ({"bbox": [9, 9, float("nan"), 4]}, "give finite"),
    ],
)
def test_refused_results(change, message):
    truth = read_ground_truth(one_image((BOX, 1)))
    with pytest.raises(ValueError, match=message):
        read_results(truth, [GOOD, {**GOOD, **change}])


def test_examples_of_ids_come_in_the_order_of_numbers():
    known = [30, 4, 200, "b", 1, 5]
    with pytest.raises(ValueError, match=r"\[9, 10, 'a'\]; theirs are like \[1, 4, 5, 30, 200\]"):
        ground_truth.check_known("ids", [10, "a", 9, 4], known)


def test_results_without_a_key_or_of_another_form(tmp_path):
    truth = read_ground_truth(one_image((BOX, 1)))
    with pytest.raises(ValueError, match="result 0 .and 0 more. has no 'score'"):
        read_results(truth, [{"image_id": 1, "category_id": 1}])
    with pytest.raises(ValueError, match="not a COCO results file"):
        read_results(truth, {"annotations": []})
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{**GOOD, "score": float("nan")}]))  # as Python writes NaN
    with pytest.raises(ValueError, match="has the score nan"):
        read_results(truth, path)
    path.write_text("{")
    with pytest.raises(ValueError, match="results.json is not a JSON file"):
        read_results(truth, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": [[1, 2]]}, "an annotation of image_id 1: polygons must be"),
        ({"bbox": None}, "1 annotations, such as id 1, have no bbox"),
    ],
)
def test_refused_annotations(change, message):
    content = one_image((BOX, 1))
    content["annotations"][0] |= change
    with pytest.raises(ValueError, match=message):
        read_ground_truth(content).rles  # noqa: B018 - made at the first use
    with pytest.raises(ValueError, match="not a COCO instances file"):
        read_ground_truth({"images": []})


def test_share_of_boxes_outside_their_image():
    truth = read_ground_truth(one_image((BOX, 1)))
    corners = {**GOOD, "bbox": [100, 100, 140, 140]}
    assert ground_truth.outside(truth, read_results(truth, [GOOD, corners])) == 0.5
    assert ground_truth.outside(truth, read_results(truth, [])) == 0


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [4, 5], "counts": "9"},  # pycocotools would hang on runs that don't fill it
        {"size": [4, 5], "counts": [5, 5]},
        {"size": [4, 5], "counts": [-5, 25]},
        [["a", 1, 2, 1, 2, 2]],
    ],
)
def test_broken_masks_are_refused(segmentation):
    truth = read_ground_truth(tiny())
    row = {"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": segmentation}
    with pytest.raises(ValueError, match=r"result 0 \(image_id 1\)"):
        read_results(truth, [row])
    content = tiny()
    content["annotations"][0]["segmentation"] = segmentation
    with pytest.raises(ValueError, match="an annotation of image_id 1"):
        read_ground_truth(content).rles  # noqa: B018 - made when asked for


@pytest.mark.parametrize(
    "wrong", [{"bbox": None}, {"bbox": ["a", 1, 2, 2]}, {"image_id": [1]}, {"category_id": {}}]
)
def test_odd_values_are_refused(wrong):
    truth = read_ground_truth(tiny())
    row = {"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [0, 0, 2, 2]} | wrong
    with pytest.raises(ValueError, match="result 0 has the"):
        read_results(truth, [row])


def tiny():
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2], "area": 4}
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 5}],
        "annotations": [annotation],
        "categories": [{"id": 1, "name": "skirt"}],
    }
