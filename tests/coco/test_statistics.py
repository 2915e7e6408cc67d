"""Counts of `coco.statistics` against hand-counted files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcnn.coco.statistics import WORDS, histogram, read_completed, round_edges, statistics
from tests.helpers.coco_contents import CATEGORIES, IMAGES, content, garment, write_foreign


def counted(source, limit=None):
    return statistics(read_completed(source, limit))


def used(bins):
    """The bins of a histogram that hold something: {lower edge: count}."""
    return {
        edge: n
        for edge, n in zip(bins["edges"], bins["counts"], strict=False)
        if n and n is not None
    }


def test_images_and_instances():
    found = counted(content())
    assert (found["pictures"], found["annotations"], found["instances"]) == (3, 4, 4)
    assert (found["crowds"], found["pairs"], found["pictures_without_instances"]) == (0, 2, 1)
    assert found["instances_per_picture"] == {"0": 1, "1": 1, "3": 1}
    assert found["instances_mean"] == pytest.approx(4 / 3)
    assert found["picture_sizes"] == {
        "distinct": 2,
        "width": {"min": 60, "median": 100, "max": 100},
        "height": {"min": 80, "median": 80, "max": 120},
        "most_common": [
            {"width": 100, "height": 80, "pictures": 2},
            {"width": 60, "height": 120, "pictures": 1},
        ],
    }
    assert found["problems"] == {}


def test_classes():
    found = counted(content())
    rows = [
        (c["id"], c["name"], c["instances"], c["share"], c["pictures"], c["crowds"])
        for c in found["classes"]
    ]
    assert rows == [
        (5, "vest", 3, 0.75, 2, 0),
        (7, "shorts", 0, 0.0, 0, 0),
        (9, "skirt", 1, 0.25, 1, 0),
    ]
    assert found["classes_without_instances"] == ["shorts"]
    assert found["imbalance"] == {"largest": "vest", "smallest": "skirt", "ratio": 3.0}


def test_attributes():
    found = counted(content())
    assert found["attributes"] == {
        "scale": {"small": 1, "moderate": 1, "large": 1, "other": 0, "missing": 1},
        "occlusion": {"slight": 1, "medium": 1, "heavy": 1, "other": 1, "missing": 0},
        "zoom_in": {"no": 2, "medium": 1, "large": 1, "other": 0, "missing": 0},
        "viewpoint": {"no wear": 1, "frontal": 2, "side or back": 1, "other": 0, "missing": 0},
        "source": {"user": 3, "shop": 1, "other": 0, "missing": 0},
    }
    assert found["pictures_by_source"] == {"user": 2, "shop": 1, "other": 0, "missing": 0}
    vest, shorts, skirt = (c["attributes"] for c in found["classes"])
    assert vest["scale"] == {"small": 1, "moderate": 0, "large": 1, "other": 0, "missing": 1}
    assert vest["source"] == {"user": 2, "shop": 1, "other": 0, "missing": 0}
    assert skirt["viewpoint"]["side or back"] == 1 and sum(skirt["viewpoint"].values()) == 1
    assert shorts == dict.fromkeys(WORDS)


def test_attributes_of_foreign_types_are_other():
    values = (0.5, "2", [1], {"a": 1}, True, 2.0)
    found = counted(content([garment(1, 5, (0, 0, 9, 9), scale=v) for v in values]))
    assert found["attributes"]["scale"] == {
        "small": 0,
        "moderate": 1,
        "large": 0,
        "other": 5,
        "missing": 0,
    }


def test_boxes_and_areas():
    found = counted(content())
    boxes, areas = found["boxes"], found["areas"]
    assert boxes["width"]["edges"] == list(range(0, 101, 5))
    assert used(boxes["width"]) == {30: 1, 40: 2, 95: 1}  # 100 belongs to the last bin
    assert boxes["height"]["edges"] == list(range(0, 81, 5))
    assert used(boxes["height"]) == {20: 1, 30: 1, 40: 1, 75: 1}
    assert used(boxes["aspect"]) == {1: 2, 1.25: 1, 2: 1}
    # 800 and 900, 1600, 8000 square pixels
    assert used(areas["pixels"]) == {16**2: 2, 32**2: 1, 64**2: 1}
    assert areas["pixels"]["edges"][-2:] == [1024**2, None]
    assert used(areas["share_of_picture"]) == {0.1: 2, 0.2: 1, 0.95: 1}
    assert (areas["small"], areas["medium"], areas["large"]) == (2, 2, 0)
    assert found["polygons_per_instance"] == {"1": 3, "2": 1} and found["rle"] == 0


@pytest.mark.parametrize(
    ("area", "size"),
    [(1023, "small"), (1024, "medium"), (9215, "medium"), (9216, "large")],
)
def test_sizes_are_those_of_coco(area, size):
    areas = counted(content([garment(1, 5, (0, 0, 9, 9), area=area)]))["areas"]
    assert {k: areas[k] for k in ("small", "medium", "large")} == {
        k: int(k == size) for k in ("small", "medium", "large")
    }


def test_the_limit_keeps_the_first_images_by_id():
    found = counted(content(), limit=2)
    assert (found["pictures"], found["instances"], found["pairs"]) == (2, 1, 2)
    assert found["problems"] == {}  # what lies beyond the limit is none


def test_no_annotations():
    found = counted(content([]))
    assert (found["pictures"], found["instances"], found["imbalance"]) == (3, 0, None)
    assert found["pictures_without_instances"] == 3
    assert found["instances_per_picture"] == {"0": 3} and found["instances_mean"] == 0
    assert found["attributes"] == dict.fromkeys(WORDS)
    assert found["classes_without_instances"] == ["vest", "shorts", "skirt"]
    assert [c["share"] for c in found["classes"]] == [0, 0, 0]
    assert found["boxes"]["width"] == {"edges": [0, 1], "counts": [0]}
    assert found["polygons_per_instance"] == {} and found["rle"] == 0


def test_images_only():
    """As for a split without annotations."""
    found = counted({"images": IMAGES})
    assert (found["pictures"], found["instances"], found["classes"]) == (3, 0, [])


def test_no_images():
    found = counted(content([], [], []))
    assert (found["pictures"], found["instances_mean"], found["pairs"]) == (0, None, None)
    assert found["picture_sizes"] == {
        "distinct": 0,
        "width": None,
        "height": None,
        "most_common": [],
    }
    assert found["pictures_by_source"] is None


def test_a_foreign_file(tmp_path):
    found = counted(write_foreign(tmp_path))
    assert (found["annotations"], found["instances"], found["crowds"]) == (4, 3, 1)
    assert [(c["id"], c["instances"], c["pictures"], c["crowds"]) for c in found["classes"]] == [
        (0, 2, 2, 0),
        (90, 1, 1, 1),
    ]
    assert found["rle"] == 2 and found["polygons_per_instance"] == {"1": 1}
    # Areas of 600, 1200 and 800; boxes of 30 x 20, 30 x 40 and 100 x 8.
    assert used(found["areas"]["pixels"]) == {16**2: 2, 32**2: 1}
    assert used(found["boxes"]["width"]) == {30: 2, 95: 1}
    assert used(found["boxes"]["aspect"]) == {0.67: 1, 1.5: 1, 10: 1}
    assert found["attributes"] == dict.fromkeys(WORDS)
    assert (found["pairs"], found["pictures_by_source"]) == (None, None)
    assert found["problems"] == {"without_a_box_or_an_area": 2}


def test_problems_are_counted():
    found = counted(
        content(
            [
                garment(1, 5, (0, 0, 9, 9), id=1),
                garment(1, 5, (0, 0, 9, 9), id=1),
                garment(77, 5, (0, 0, 9, 9)),
                garment(1, 77, (0, 0, 9, 9)),
                garment(1, 5, (5, 5, 0, 9)),
                garment(1, 5, (95, 5, 6, 9)),
                garment(1, 5, (-0.4, 0, 100.4, 80.4)),  # rounding, no problem
                garment(1, 5, (1, 1, 4, 5), segmentation=None),
                {"image_id": 1, "category_id": 5, "segmentation": [[1, 2, 3, 4]]},
            ],
            [*IMAGES, IMAGES[1] | {"file_name": "second.png"}],
            [*CATEGORIES, {"id": 5, "name": "again"}],
        )
    )
    assert found["problems"] == {
        "pictures_with_a_used_id": 1,
        "categories_with_a_used_id": 1,
        "annotations_of_unknown_pictures": 1,
        "annotations_of_unknown_categories": 1,
        "annotations_with_a_used_id": 1,
        "without_a_mask": 1,
        "without_a_box_or_an_area": 1,
        "unreadable_masks": 1,
        "empty_boxes": 2,  # that of the unreadable mask too
        "boxes_beyond_the_picture": 1,
    }
    assert found["instances"] == 7
    assert [c["name"] for c in found["classes"]] == ["vest", "shorts", "skirt"]


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 1, 9, 1]],
        [[0, 0, 1e9, 0, 1e9, 1e9]],
        [[None] * 6],
        [1, 2, 3, 4, 5, 6],
        {"size": [80, 101], "counts": [8080]},
        {"size": [80, 100], "counts": [7999]},
        {"size": [80, 100], "counts": ""},
        {"size": [80, 100]},
    ],
)
def test_a_mask_that_is_none_is_no_crash(segmentation):
    annotation = {"image_id": 1, "category_id": 5, "segmentation": segmentation}
    found = counted(content([annotation]))
    assert found["problems"]["unreadable_masks"] == 1


@pytest.mark.parametrize("field", ["file_name", "width", "height"])
def test_images_need_names_and_sizes(field):
    without = [{key: value for key, value in IMAGES[0].items() if key != field}]
    with pytest.raises(ValueError, match=rf"images\[0\] has no `{field}`"):
        read_completed(content([], without))


numbers = st.lists(st.floats(0, 1e7), max_size=30)


@given(numbers)
def test_round_edges_hold_all_values(values):
    edges = round_edges(np.array(values))
    steps = np.diff(edges)
    assert edges[0] == 0 and edges[-1] >= max([1, *values])
    assert 1 <= len(steps) <= 20
    assert np.allclose(steps, steps[0]) and steps[0] >= 1
    assert f"{steps[0]:.0e}"[0] in "125"


@given(numbers, st.booleans())
def test_histogram_counts_each_value_once(values, open_end):
    edges = [0, 1, 10, 1000]
    bins = histogram(np.array(values), edges, open_end)
    bounds = [*edges[1:3], 1000 if open_end else np.inf, *([np.inf] if open_end else [])]
    below = [sum(v < bound for v in values) for bound in bounds]
    assert bins["counts"] == np.diff([0, *below]).tolist()
    assert bins["edges"] == [*edges, *([None] if open_end else [])]
