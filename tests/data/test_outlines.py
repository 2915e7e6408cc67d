"""Objects drawn in their boxes: hand-made pixels, and agreement with full-size masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn.core.boxes import extract_bboxes
from mrcnn.core.image import minimize_mask, resize_mask
from mrcnn.data.outlines import (
    Bitmap,
    Instance,
    Polygons,
    as_arrays,
    by_centres,
    check_masks,
    from_coco,
    from_masks,
    hide,
    pack,
    place_all,
    unpack,
)

SAME = np.eye(2, 3)
# A rectangle over columns 2..4 and rows 1..5.
RECTANGLE = [2, 1, 5, 1, 5, 6, 2, 6]


def full(instance, shape):
    """The mask bool [H, W] of an instance."""
    mask = np.zeros(shape, bool)
    y1, x1, y2, x2 = instance[-2]
    mask[y1:y2, x1:x2] = instance[-1]
    return mask


def test_a_polygon_fills_the_pixels_whose_centres_are_inside():
    box, pixels = Polygons([RECTANGLE]).place(SAME, (10, 10))
    assert box == (1, 2, 6, 5)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.ones((5, 3)))
    # A triangle over the lower left half of 4 x 4 pixels; centres on the edge are inside.
    _, pixels = Polygons([[0, 0, 4, 4, 0, 4]]).place(SAME, (4, 4))
    assert pixels.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


def test_parts_unite_and_what_is_outside_is_cut_off():
    two = Polygons([RECTANGLE, [7, 7, 12, 7, 12, 12, 7, 12]])
    instance = two.place(SAME, (10, 10))
    expected = np.zeros((10, 10), bool)
    expected[1:6, 2:5] = expected[7:, 7:] = True
    assert instance[0] == (1, 2, 10, 10)
    np.testing.assert_array_equal(full(instance, (10, 10)), expected)
    assert Polygons([[20, 20, 30, 20, 30, 30]]).place(SAME, (10, 10)) is None
    assert Polygons([[3.1, 3.1, 3.2, 3.1, 3.2, 3.2]]).place(SAME, (10, 10)) is None  # no centre


def test_a_matrix_moves_polygons():
    mirrored = np.array([[-1.0, 0, 10], [0, 1, 0]])
    assert Polygons([RECTANGLE]).place(mirrored, (10, 10))[0] == (1, 5, 6, 8)
    doubled = np.array([[2.0, 0, 0], [0, 2, -1]])
    box, pixels = Polygons([RECTANGLE]).place(doubled, (20, 20))
    assert box == (1, 4, 11, 10)
    assert pixels.all()


def test_bitmaps_move_like_polygons():
    bitmap = Bitmap(np.ones((5, 3), np.uint8), 1, 2)
    assert bitmap.place(SAME, (10, 10))[0] == (1, 2, 6, 5)
    mirrored = np.array([[-1.0, 0, 10], [0, 1, 0]])
    assert bitmap.place(mirrored, (10, 10))[0] == (1, 5, 6, 8)
    doubled = np.array([[2.0, 0, 0], [0, 2, -1]])
    box, pixels = bitmap.place(doubled, (20, 20))
    assert box == (1, 4, 11, 10)
    assert pixels.all()
    assert bitmap.place(SAME, (4, 3))[0] == (1, 2, 4, 3)  # cut off by the image
    assert bitmap.place(np.array([[1.0, 0, 50], [0, 1, 0]]), (10, 10)) is None


def test_enlarged_bitmaps_keep_the_halves_nearer_to_their_pixels():
    corner = Bitmap(np.array([[1, 0, 0], [1, 0, 0], [1, 1, 1]], np.uint8), 0, 0)
    _, pixels = corner.place(np.array([[3.0, 0, 0], [0, 3, 0]]), (9, 9))
    expected = np.repeat(np.repeat(corner.pixels, 3, axis=0), 3, axis=1)
    assert np.argwhere(pixels != expected).tolist() == [  # corners are rounded
        *[[0, 0], [0, 2], [5, 3], [6, 8], [8, 0], [8, 8]]
    ]
    assert pixels[1, :4].tolist() == [1, 1, 1, 0]


def test_by_centres_takes_pixel_centres_to_pixel_centres():
    # The centre of pixel 0 lies at 0.5; doubled at 1.0, which is index 0.5.
    np.testing.assert_allclose(
        by_centres(np.array([[2.0, 0, 0], [0, 1, 3]])), [[2, 0, 0.5], [0, 1, 3]]
    )


def test_from_coco_reads_polygons_and_rle():
    plain = {"size": [4, 3], "counts": [5, 2, 5]}  # by columns: rows 1, 2 of column 1
    assert from_coco(plain, (4, 3)).place(SAME, (4, 3))[0] == (1, 1, 3, 2)
    from pycocotools import mask as coco_mask

    compressed = coco_mask.frPyObjects(plain, 4, 3)
    assert from_coco(compressed, (4, 3)).place(SAME, (4, 3))[0] == (1, 1, 3, 2)
    assert from_coco([RECTANGLE, [1, 2, 3, 4]], (9, 9)).place(SAME, (9, 9))[0] == (
        1,
        2,
        6,
        5,
    )
    assert from_coco([[*RECTANGLE, 7]], (9, 9)).place(SAME, (9, 9))[0] == (1, 2, 6, 5)
    assert from_coco({"size": [4, 3], "counts": [12]}, (4, 3)) is None
    assert from_coco([[1, 2, 3, 4]], (4, 3)) is None
    with pytest.raises(ValueError, match=r"size \[4, 3\].*image is \[5, 3\]"):
        from_coco(plain, (5, 3))


def test_place_all_drops_what_is_gone_and_keeps_the_order():
    masks = np.zeros((6, 6, 3), bool)
    masks[0, 0, 0] = masks[3:5, 2:4, 2] = True
    shapes = from_masks(masks)
    assert shapes[1] is None
    moved = np.array([[1.0, 0, -1], [0, 1, 0]])
    assert [(i.class_id, i.box) for i in place_all(shapes, [4, 5, -6], moved, (6, 6))] == [
        (-6, (3, 1, 5, 3))
    ]
    assert place_all([], np.zeros(0, np.int32), SAME, (6, 6)) == []


def test_hiding_cuts_drops_and_keeps():
    whole = Instance(1, (0, 0, 4, 4), np.ones((4, 4), np.uint8))
    far = Instance(2, (6, 6, 8, 8), np.ones((2, 2), np.uint8))
    cut, same = hide([whole, far], (0, 0, 4, 3), None)
    assert cut.box == (0, 3, 4, 4)
    assert same is far
    assert hide([whole, far], (0, 0, 4, 3), None, min_share=0.3) == [far]  # a quarter is left
    assert hide([far], (5, 5, 9, 9), None) == []
    pattern = np.zeros((2, 2), np.uint8)
    pattern[0, 0] = 1
    (pierced,) = hide([whole], (1, 1, 3, 3), pattern)
    assert pierced.box == whole.box
    assert pierced.pixels.sum() == 15 and not pierced.pixels[1, 1]
    assert whole.pixels.all()  # the given one stays
    assert hide([], (0, 0, 4, 4), None) == []


def test_packing_and_back():
    rng = np.random.default_rng(0)
    instances = []
    for i in range(11):
        pixels = np.pad(rng.integers(0, 2, (3, 4), np.uint8), 1, constant_values=1)
        instances.append(Instance(i + 1, (i, 2, i + 5, 8), pixels))
    packed = pack(instances, (20, 12))
    assert packed.shape == (20, 12, 2)
    back = unpack(packed, [i.class_id for i in instances])
    for a, b in zip(instances, back, strict=True):
        assert a[:2] == b[:2]
        np.testing.assert_array_equal(a.pixels, b.pixels)
    packed[...] = 0
    assert unpack(packed, range(11)) == []
    assert pack([], (4, 4)).shape == (4, 4, 1)


def test_arrays_of_instances():
    instance = Instance(-3, (1, 2, 5, 4), np.ones((4, 2), np.uint8))
    class_ids, boxes, masks = as_arrays([instance], (8, 8), (5, 6))
    assert (class_ids.tolist(), boxes.tolist()) == ([-3], [[1, 2, 5, 4]])
    assert masks.shape == (5, 6, 1) and masks.all()
    *_, masks = as_arrays([instance], (8, 8))
    assert masks.shape == (8, 8, 1) and masks.sum() == 8
    empty = as_arrays([], (8, 8), (5, 6))
    assert [x.shape for x in empty] == [(0,), (0, 4), (5, 6, 0)]
    assert [x.dtype for x in empty] == [np.int32, np.int32, bool]


def test_masks_that_do_not_fit_are_refused():
    check_masks(np.zeros((0, 0, 0)), [], (9, 9, 3), "a")
    with pytest.raises(ValueError, match="2 masks but 1 class ids"):
        check_masks(np.zeros((9, 9, 2)), [1], (9, 9, 3), "a")
    with pytest.raises(ValueError, match=r"shape \(8, 9, 1\) for the image a"):
        check_masks(np.zeros((8, 9, 1)), [1], (9, 9, 3), "a")


coordinate = st.floats(-20, 120, width=32)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=12))
def test_drawing_in_the_box_is_drawing_in_the_image(points):
    """At the image's own scale the pixels are those of pycocotools' full-size mask.

    But for single pixels of an edge, where the last digit decides how pycocotools rounds.
    """
    from pycocotools import mask as coco_mask

    polygon = np.clip(points, 0, 100).ravel().tolist()
    expected = coco_mask.decode(coco_mask.frPyObjects([polygon], 100, 100))[:, :, 0]
    placed = Polygons([polygon]).place(SAME, (100, 100))
    if placed is None:
        assert expected.sum() <= 1
        return
    assert (full(placed, (100, 100)) != expected).sum() <= len(points)
    assert np.abs(extract_bboxes(expected[..., None])[0] - placed[0]).max() <= 1


def both_ways(outline, side, scale):
    """(box, mini-mask) of a polygon drawn scaled, and of its mask scaled and minimized."""
    new_side = round(side * scale)
    polygon = Polygons([outline.clip(0, side).ravel().tolist()])
    mask = full(polygon.place(SAME, (side, side)), (side, side))[..., None]
    mask = resize_mask(mask, scale, [(0, 0)] * 3)
    boxes = extract_bboxes(mask)
    theirs = boxes[0], minimize_mask(boxes, mask, (56, 56))[..., 0]
    matrix = np.array([[new_side / side, 0, 0], [0, new_side / side, 0]])
    instances = place_all([polygon], [1], matrix, (new_side, new_side))
    _, boxes, masks = as_arrays(instances, (new_side, new_side), (56, 56))
    return (boxes[0], masks[..., 0]), theirs


def wavy(middle, height, width, waves, points):
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radius = 1 + waves * np.sin(3 * angle)
    return middle + radius[:, None] * np.stack([width * np.cos(angle), height * np.sin(angle)], 1)


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@settings(max_examples=40, deadline=None)
@given(
    st.floats(50, 190), st.floats(50, 190), st.floats(0, 0.3), st.integers(12, 60),
    st.floats(0.5, 3.0),
)  # fmt: skip
def test_mini_masks_agree_with_the_full_size_way(height, width, waves, points, scale):
    """The other way knows outlines to a stored pixel, which is `scale` new ones wide."""
    ours, theirs = both_ways(wavy(200, height, width, waves, points), 400, scale)
    assert np.abs(ours[0] - theirs[0]).max() <= np.ceil(max(1, scale))
    assert iou(ours[1], theirs[1]) > 0.9


def test_mini_masks_agree_on_the_average():
    rng = np.random.default_rng(0)
    values = []
    for _ in range(40):
        outline = wavy(200, *rng.uniform(50, 190, 2), rng.uniform(0, 0.3), 60)
        ours, theirs = both_ways(outline, 400, rng.uniform(0.5, 2))
        assert np.abs(ours[0] - theirs[0]).max() <= 1
        values.append(iou(ours[1], theirs[1]))
    assert np.mean(values) > 0.98
