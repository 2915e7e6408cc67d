"""Reading COCO files: hand-made ones, odd ones, and what goes wrong with them."""

import json
import pickle

import numpy as np
import pytest
from pycocotools.coco import COCO

from mrcnn.coco.reader import IS_RLE, MISSING, NO_MASK, OTHER, read_coco

TRIANGLE = [1, 2, 30.5, 4, 1, 20]
RLE = {"size": [40, 60], "counts": "abc"}


def image(image_id, name="a.jpg", **fields):
    return {"id": image_id, "file_name": name, "width": 60, "height": 40, **fields}


def annotation(image_id, category_id=8, segmentation=(TRIANGLE,), **fields):
    return {
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": segmentation,
        **fields,
    }


def content(images=(), annotations=(), categories=((8, "trousers"), (9, "skirt"))):
    return {
        "annotations": list(annotations),
        "images": list(images),
        "categories": [{"id": i, "name": name} for i, name in categories],
        "info": {"anything": [1, 2]},
    }


@pytest.fixture
def read(tmp_path):
    def write_and_read(*parts, **more):
        path = tmp_path / "coco.json"
        path.write_text(json.dumps(content(*parts, **more)))
        return read_coco(path)

    return write_and_read


def test_records_and_arrays(read):
    crowd = annotation(7, 9, RLE, iscrowd=1, id=5, bbox=[1, 2, 3, 4], area=6.5, scale=3)
    two = annotation(3, 8, [TRIANGLE, [0, 0, 5, 0, 5, 5, 0, 5]], area=5, keypoints=[0] * 882)
    coco = read([image(7, "b.jpg", pair_id=2), image(3)], [crowd, two, annotation(7, iscrowd=True)])
    assert [(i.id, i.file_name, i.size, i.pair_id) for i in coco.images] == [
        (3, "a.jpg", (40, 60), None),
        (7, "b.jpg", (40, 60), 2),
    ]
    assert [(c.id, c.name) for c in coco.categories] == [(8, "trousers"), (9, "skirt")]
    assert coco.image.tolist() == [0, 1, 1] and coco.offsets.tolist() == [0, 1, 3]
    assert coco.classes.tolist() == [0, 1, 0]
    assert coco.crowd.tolist() == [False, True, True]
    assert coco.ids.tolist() == [None, 5, None]
    np.testing.assert_array_equal(coco.boxes, [[np.nan] * 4, [1, 2, 3, 4], [np.nan] * 4])
    np.testing.assert_array_equal(coco.areas, [5, 6.5, np.nan])
    assert coco.polygons.tolist() == [2, IS_RLE, 1]
    assert {name: a.tolist() for name, a in coco.attributes.items()} == {
        "scale": [MISSING, 3, MISSING]
    }
    assert [coco.segmentation(row) for row in range(3)] == [two["segmentation"], RLE, [TRIANGLE]]
    assert not coco.faults and not any(coco.problems.values())


def test_the_same_from_path_content_and_pycocotools(read, tmp_path):
    table = read([image(3)], [annotation(3, id=1)])
    path = tmp_path / "coco.json"
    bytes_counts = annotation(3, 8, RLE | {"counts": b"abc"}, bbox=np.arange(4.0))
    others = [read_coco(str(path)), read_coco(json.loads(path.read_text())), COCO(str(path))]
    for other in map(read_coco, others):
        assert other.images == table.images
        assert other.segmentation(0) == table.segmentation(0)
    assert read_coco(table) is table
    odd = read_coco(content([image(3)], [bytes_counts]))
    assert odd.segmentation(0) == RLE and odd.boxes.tolist() == [[0, 1, 2, 3]]


def test_some_images_and_some_annotations(read):
    rows = [annotation(i, c, id=n) for n, (i, c) in enumerate([(1, 8), (3, 9), (2, 8), (3, 8)])]
    coco = read([image(i) for i in (1, 2, 3)], rows)
    chosen = coco.select([0, 2])
    assert [i.id for i in chosen.images] == [1, 3]
    assert (chosen.image.tolist(), chosen.ids.tolist()) == ([0, 1, 1], [0, 1, 3])
    assert chosen.offsets.tolist() == [0, 1, 3]
    trousers = coco.take(coco.classes == 0)
    assert (len(trousers), trousers.offsets.tolist()) == (3, [0, 1, 2, 3])
    assert coco.first(None) is coco.first(3) is coco
    assert len(coco.first(2)) == 2
    assert coco.select([]).offsets.tolist() == [0]


def test_masks_by_the_looks_of_them(read):
    shapes = [None, [], [[1, 2, 3, 4]], {}, {"size": [1, 1], "counts": ""}, [TRIANGLE], RLE, "x"]
    coco = read([image(1)], [annotation(1, 8, s) for s in shapes])
    assert coco.polygons.tolist() == [NO_MASK, 0, 1, IS_RLE, IS_RLE, 1, IS_RLE, 0]
    assert coco.masked.tolist() == [False, False, True, True, True, True, True, False]
    assert coco.usable.tolist() == [False] * 5 + [True, True, False]
    without = {"image_id": 1, "category_id": 8}
    assert read([image(1)], [without]).segmentation(0) is None


def test_what_belongs_nowhere_is_counted(read):
    rows = [annotation(1), annotation(2), annotation(2, 5), annotation(1, 5)]
    coco = read([image(1)], rows)
    assert len(coco) == 1
    assert coco.problems["annotations_of_unknown_pictures"] == 2
    assert coco.problems["annotations_of_unknown_categories"] == 1


def test_foreign_attribute_values(read):
    values = [1, 2.0, 7, "2", True, [1], None]
    coco = read([image(1)], [annotation(1, zoom_in=v) for v in values] + [annotation(1)])
    assert coco.attributes["zoom_in"].tolist() == [1, 2, *[OTHER] * 4, MISSING, MISSING]


def test_empty_lists(read):
    coco = read()
    assert (coco.images, len(coco), coco.boxes.shape) == ([], 0, (0, 4))
    assert coco.offsets.tolist() == [0]
    assert read([image(1)]).offsets.tolist() == [0, 0]


def test_text_ids_come_after_numbers(read):
    coco = read([image("b"), image(10), image("a"), image(9)], [annotation("a")])
    assert [i.id for i in coco.images] == [9, 10, "a", "b"]
    assert coco.image.tolist() == [2]


def test_nan_is_a_missing_value(read):
    rows = [annotation(1, area=float("nan"), bbox=[1, 2, 3, 4]), annotation(1, bbox=[1, 2])]
    coco = read([image(1)], rows)
    assert np.isnan(coco.areas).all()
    np.testing.assert_array_equal(coco.boxes, [[1, 2, 3, 4], [np.nan] * 4])


def test_survives_pickling(read):
    coco = pickle.loads(pickle.dumps(read([image(1)], [annotation(1)])))
    assert coco.segmentation(0) == [TRIANGLE]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is empty"),
        ("{", "truncated"),
        ("[]", "Expected `object`, got `array`"),
        ('{"annotations": [], "categories": []}', "missing required field `images`"),
        (
            '{"images": [{"id": 1, "file_name": "a", "width": "6", "height": 4}]}',
            "Expected `float`, got `str` - at `$.images[0].width`",
        ),
        (
            '{"images": [], "annotations": [{"image_id": 1}]}',
            "`category_id` - at `$.annotations[0]`",
        ),
        ('{"images": [NaN]}', "Expected `object`, got `null` - at `$.images[0]`"),
    ],
)
def test_other_files_are_refused(tmp_path, text, words):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        read_coco(path)
    assert f"{path} is not a COCO instances file" in str(caught.value)
    assert words in str(caught.value)
    assert "convert_to_coco.py" in str(caught.value)


def test_what_some_need(read):
    coco = read([{"id": 4}, image(4), image(5)], [annotation(4)], categories=((8, "a"), (8, "b")))
    assert [entry.file_name for entry in coco.images] == ["", "a.jpg"]  # the first with an id stays
    assert [entry.name for entry in coco.categories] == ["a"]
    assert coco.problems["pictures_with_a_used_id"] == 1
    assert coco.problems["categories_with_a_used_id"] == 1
    coco.require("annotations", "categories")
    with pytest.raises(ValueError, match=r"images\[0\] has no `width`"):
        coco.require("annotations", "width")
    with pytest.raises(ValueError, match="category id 8 twice"):
        coco.require("unique ids")
    with pytest.raises(ValueError, match="image id 4 twice"):
        read([image(4), image(5), image(4)]).require("unique ids")
    with pytest.raises(ValueError, match="image 4 has no width and height"):
        coco.images[0].size  # noqa: B018 - made when asked for
    with pytest.raises(ValueError, match="the content given .* no list `categories`"):
        read_coco({"images": [], "annotations": []}).require("categories")
