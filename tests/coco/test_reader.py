"""Reading COCO files: hand-made ones, odd ones, and what goes wrong with them."""

import json
import pickle

import pytest

from mrcnn.coco.reader import CocoFile

TRIANGLE = [1, 2, 30.5, 4, 1, 20]
RLE = {"size": [40, 60], "counts": "abc"}


def image(image_id, name="a.jpg"):
    return {"id": image_id, "file_name": name, "width": 60, "height": 40}


def annotation(image_id, category_id=8, segmentation=(TRIANGLE,), **fields):
    return {
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": segmentation,
        **fields,
    }


@pytest.fixture
def read(tmp_path):
    def write_and_read(images=(), annotations=(), categories=((8, "trousers"), (9, "skirt"))):
        content = {
            "annotations": list(annotations),
            "images": list(images),
            "categories": [{"id": i, "name": name} for i, name in categories],
            "info": {"anything": [1, 2]},
        }
        path = tmp_path / "coco.json"
        path.write_text(json.dumps(content))
        return CocoFile(path)

    return write_and_read


def test_records_come_back_as_they_were(read):
    crowd = annotation(7, 9, RLE, iscrowd=1)
    two = annotation(3, 8, [TRIANGLE, [0, 0, 5, 0, 5, 5, 0, 5]], area=5, keypoints=[0] * 882)
    coco = read([image(7, "b.jpg"), image(3)], [crowd, two, annotation(7)])
    assert [(i.id, i.file_name, i.width, i.height) for i in coco.images] == [
        (3, "a.jpg", 60, 40),
        (7, "b.jpg", 60, 40),
    ]
    assert [(c.id, c.name) for c in coco.categories] == [(8, "trousers"), (9, "skirt")]
    assert list(coco.annotations(0)) == [
        {"category_id": 8, "iscrowd": 0, "segmentation": two["segmentation"]}
    ]
    assert list(coco.annotations(1)) == [
        {"category_id": 9, "iscrowd": 1, "segmentation": RLE},
        {"category_id": 8, "iscrowd": 0, "segmentation": [TRIANGLE]},
    ]
    assert len(coco) == 3
    assert (coco.unusable, coco.strays) == (0, 0)


def test_annotations_are_a_sequence(read):
    coco = read([image(1)], [annotation(1, c) for c in (8, 9, 8)])
    found = coco.annotations(0)
    assert len(found) == 3
    assert found[-1] == found[0] == found[:1][0]
    assert [a["category_id"] for a in found[1:]] == [9, 8]
    with pytest.raises(IndexError):
        found[3]
    assert [a["category_id"] for a in coco.annotations(0, [9])] == [9]
    assert list(coco.annotations(0, [])) == []


def test_labels_without_segmentations(read):
    coco = read(
        [image(1), image(2)], [annotation(1, 8), annotation(2, 9), annotation(1, 9, iscrowd=1)]
    )
    assert coco.annotations(0).labels() == [(8, False), (9, True)]
    assert coco.annotations(1, []).labels() == []


def test_more_than_a_batch(read, monkeypatch):
    from mrcnn.coco import reader

    monkeypatch.setattr(reader._Texts, "BATCH", 3)
    polygons = [[[0, 0, i, 0, 0, i]] for i in range(1, 11)]
    coco = read([image(1), image(2)], [annotation(1 + i % 2, 8, p) for i, p in enumerate(polygons)])
    found = [[a["segmentation"] for a in coco.annotations(k)] for k in (0, 1)]
    assert found == [polygons[0::2], polygons[1::2]]


def test_what_is_left_out_is_counted(read):
    bad = [None, [], [[1, 2, 3, 4]], {}, {"size": [1, 1], "counts": ""}]
    annotations = [annotation(1, 8, s) for s in bad] + [
        annotation(1),
        annotation(2),
        annotation(1, 5),
    ]
    coco = read([image(1)], annotations)
    assert (len(coco), coco.unusable, coco.strays) == (1, 5, 2)


def test_empty_lists(read):
    coco = read()
    assert (coco.images, len(coco)) == ([], 0)
    assert list(read([image(1)]).annotations(0)) == []


def test_text_ids_come_after_numbers(read):
    coco = read([image("b"), image(10), image("a"), image(9)], [annotation("a")])
    assert [i.id for i in coco.images] == [9, 10, "a", "b"]
    assert [len(coco.annotations(k)) for k in range(4)] == [0, 0, 1, 0]


def test_survives_pickling(read):
    coco = pickle.loads(pickle.dumps(read([image(1)], [annotation(1)])))
    assert coco.annotations(0)[0]["segmentation"] == [TRIANGLE]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("{", "truncated"),
        ("[]", "Expected `object`"),
        ('{"images": [], "annotations": []}', "`categories`"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "images[0]"),
        (
            '{"images": [{"id": 1, "file_name": "a", "width": "6", "height": 4}],'
            '"annotations": [], "categories": []}',
            "Expected `int`, got `str` - at `$.images[0].width`",
        ),
    ],
)
def test_other_files_are_refused(tmp_path, text, words):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        CocoFile(path)
    assert words in str(caught.value)
    assert "convert_to_coco.py" in str(caught.value)


def test_ids_that_occur_twice_are_refused(read):
    with pytest.raises(ValueError, match="image id 4 twice"):
        read([image(4), image(5), image(4)])
    with pytest.raises(ValueError, match="category id 8 twice"):
        read([image(4)], categories=((8, "a"), (8, "b")))
