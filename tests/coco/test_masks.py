"""The one way to a mask: hand-made values, pycocotools' own, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from mrcnn.coco import masks
from mrcnn.coco.masks import RLE, MaskError, decode, to_rle, to_rles

SIZE = (6, 7)
# Rows 1 to 3, columns 2 to 5.
RECTANGLE = [2, 1, 6, 1, 6, 4, 2, 4]
FILLED = np.zeros(SIZE, np.uint8)
FILLED[1:4, 2:6] = 1


def runs(pixels):
    """Plain run lengths of pixels [H, W], column by column."""
    changes = np.flatnonzero(np.diff(np.asarray(pixels, int).ravel("F"), prepend=0))
    return np.diff([0, *changes, pixels.size]).tolist()


def forms(pixels):
    """A mask in each form that a file may have it in."""
    size, encoded = list(pixels.shape), coco_mask.encode(np.asfortranarray(pixels, np.uint8))
    yield {"size": size, "counts": runs(pixels)}
    yield {"size": size, "counts": encoded["counts"].decode()}
    yield encoded


def test_all_forms_give_the_same_pixels():
    for segmentation in ([RECTANGLE], [RECTANGLE, [9, 9, 8, 8]], *forms(FILLED)):
        np.testing.assert_array_equal(decode(to_rle(segmentation, SIZE)), FILLED)


def test_box_area_and_text():
    mask = to_rle([RECTANGLE], SIZE)
    box, pixels = masks.crop(mask)
    assert (box, pixels.tolist()) == ((1, 2, 4, 6), [[1] * 4] * 3)
    assert masks.bounds(mask).tolist() == [2, 1, 4, 3]
    assert masks.area(mask) == 12
    assert masks.as_text(mask) == {"size": [6, 7], "counts": mask["counts"].decode()}
    assert masks.as_text(masks.as_text(mask)) == masks.as_text(mask)


def test_parts_unite_and_an_odd_number_is_dropped():
    two = to_rle([RECTANGLE, [0, 0, 1, 0, 1, 1, 0, 1, 5]], SIZE)
    expected = FILLED.copy()
    expected[0, 0] = 1
    np.testing.assert_array_equal(decode(two), expected)


def test_nothing_inside():
    for segmentation in ([], *forms(np.zeros(SIZE, np.uint8))):
        mask = to_rle(segmentation, SIZE)
        assert decode(mask).shape == SIZE
        assert masks.area(mask) == 0 and masks.crop(mask) is None
    assert to_rles([], []) == []


REFUSED = [
    (None, "is NoneType; give polygons or an RLE"),
    ("x", "is str; give polygons or an RLE"),
    ({"size": [6, 7]}, "is dict"),
    ([[1, 2, 3, 4]], "6 or more numbers"),
    ([1, 2, 3, 4, 5, 6], "must be lists of numbers, got int"),
    ([[None] * 6], "not a finite number"),
    ([["a", 1, 2, 1, 2, 2]], "not a finite number"),
    ([[0, 0, float("nan"), 0, 1, 1]], "not a finite number"),
    ([[0, 0, float("inf"), 0, 1, 1]], "far outside the image"),
    ([[0, 0, 71, 0, 1, 1]], "far outside the image"),
    ([[0, 0, -1e9, 0, 1, 1]], "far outside the image"),
    ({"size": [7, 6], "counts": [42]}, r"of size \[7, 6\].*image is \[6, 7\]"),
    ({"size": 42, "counts": [42]}, "of size 42"),
    ({"size": [6, 7], "counts": [41]}, "add up"),
    ({"size": [6, 7], "counts": []}, "add up"),
    ({"size": [6, 7], "counts": [-1, 43]}, "add up"),
    ({"size": [6, 7], "counts": [41.5, 0.5]}, "add up"),
    ({"size": [6, 7], "counts": ""}, "add up"),
    ({"size": [6, 7], "counts": "9"}, "add up"),  # pycocotools hangs on it
    ({"size": [6, 7], "counts": None}, "add up"),
]


@pytest.mark.parametrize(("segmentation", "message"), REFUSED)
def test_what_is_no_mask_is_refused(segmentation, message):
    with pytest.raises(ValueError, match=message):
        to_rle(segmentation, SIZE)


@pytest.mark.parametrize(("segmentation", "message"), REFUSED)
def test_the_first_that_is_none_is_told(segmentation, message):
    good = [RECTANGLE]
    with pytest.raises(MaskError, match=message) as caught:
        to_rles([good, *forms(FILLED), segmentation, good], [SIZE] * 6)
    assert caught.value.index == 4


def test_what_training_uses():
    usable = ([RECTANGLE], [[1, 2], RECTANGLE], {"counts": "9"}, {"counts": [1]})
    assert all(masks.is_usable(s) for s in usable)
    useless = (
        None,
        [],
        "x",
        [[1, 2, 3, 4]],
        {},
        {"counts": ""},
        {"counts": []},
        [1, 2, 3, 4, 5, 6],
    )
    assert not any(masks.is_usable(s) for s in useless)


sizes = st.tuples(st.integers(1, 30), st.integers(1, 30))


@given(sizes, st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_every_mask_survives_every_form(size, seed, share):
    pixels = (np.random.default_rng(seed).random(size) < share).astype(np.uint8)
    expected = coco_mask.encode(np.asfortranarray(pixels))
    assert masks.encode(pixels) == expected
    for segmentation in forms(pixels):
        mask: RLE = to_rle(segmentation, size)
        np.testing.assert_array_equal(decode(mask), pixels)
        assert masks.as_text(mask)["counts"] == expected["counts"].decode()
    found = masks.crop(expected)
    if found is None:
        assert not pixels.any()
    else:
        (y1, x1, y2, x2), part = found
        assert part.sum() == pixels.sum() == masks.area(expected)
        np.testing.assert_array_equal(part, pixels[y1:y2, x1:x2])


point = st.floats(-50, 80, width=32)
polygon = st.lists(point, min_size=6, max_size=20)


@given(sizes, st.lists(polygon, min_size=1, max_size=4))
def test_polygons_are_filled_as_by_pycocotools(size, parts):
    if max(abs(v) for part in parts for v in part) > 10 * max(size):
        with pytest.raises(ValueError, match="far outside"):
            to_rle(parts, size)
        return
    expected = coco_mask.merge(coco_mask.frPyObjects(parts, *size))
    assert to_rle(parts, size) == expected
    assert to_rle([*parts, [0, 0, 9, 9]], size) == expected  # not read as a box


@pytest.mark.parametrize("size", [(1_000_000, 1_000_000), (65_536, 65_536), (-5, 10)])
@pytest.mark.parametrize("segmentation", [[], [[1, 1, 1, 20, 20, 20]]])
def test_images_of_impossible_sizes_have_no_masks(segmentation, size):
    """pycocotools counts pixels in 32 bits, and crashes beyond."""
    with pytest.raises(ValueError, match="which no mask can have; correct its size"):
        to_rle(segmentation, size)
