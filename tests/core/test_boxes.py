"""Boxes and anchors: hand-made values, the original's recorded numbers, and laws."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mrcnn.core import boxes as b
from tests.helpers import GOLDEN

NO_BOXES = np.zeros((0, 4))


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "pure.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def arguments():
    return json.loads((GOLDEN / "pure.json").read_text())


def check(actual, expected):
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


def areas(boxes):
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


@st.composite
def box_arrays(draw, least=0):
    """[N, 4] float64 boxes with sides of 1..100 within 0..200."""
    count = draw(st.integers(least, 6))
    start = draw(hnp.arrays(np.float64, (count, 2), elements=st.floats(0, 100)))
    size = draw(hnp.arrays(np.float64, (count, 2), elements=st.floats(1, 100)))
    return np.concatenate([start, start + size], axis=1)


# --- The original's numbers -------------------------------------------------------------------


def test_golden_iou(golden):
    box, boxes = golden["iou.box"], golden["iou.boxes"]
    check(b.compute_iou(box, boxes, areas(box), areas(boxes)), golden["iou.out"])


@pytest.mark.parametrize("case", ["overlaps", "overlaps_int"])
def test_golden_overlaps(golden, case):
    overlaps = b.compute_overlaps(golden[f"{case}.boxes1"], golden[f"{case}.boxes2"])
    check(overlaps, golden[f"{case}.out"])


def test_golden_overlaps_masks(golden):
    masks1, masks2 = golden["overlaps_masks.masks1"], golden["overlaps_masks.masks2"]
    check(b.compute_overlaps_masks(masks1, masks2), golden["overlaps_masks.out"])
    empty = b.compute_overlaps_masks(masks1[..., :0], masks2[..., :3])
    check(empty, golden["overlaps_masks_empty.out"])
    assert empty.shape == (0, 3)


@pytest.mark.parametrize(
    ("case", "threshold"), [("nms", 0.1), ("nms", 0.3), ("nms", 0.7), ("nms_int", 0.3)]
)
def test_golden_nms(golden, case, threshold):
    kept = b.non_max_suppression(golden[f"{case}.boxes"], golden[f"{case}.scores"], threshold)
    check(kept, golden[f"{case}.out_{threshold}"])


def test_golden_deltas(golden):
    check(b.apply_box_deltas(golden["deltas.boxes"], golden["deltas.deltas"]), golden["deltas.out"])
    check(b.box_refinement(golden["refine.box"], golden["refine.gt_box"]), golden["refine.out"])


def test_golden_frames(golden):
    shape = golden["norm.shape"]
    check(b.norm_boxes(golden["norm.boxes_int"], shape), golden["norm.out"])
    check(b.denorm_boxes(golden["denorm.boxes"], shape), golden["denorm.out"])
    check(b.denorm_boxes(golden["norm.out"], shape), golden["denorm_roundtrip.out"])


def test_golden_extract_bboxes(golden):
    check(b.extract_bboxes(golden["extract_bboxes.mask"]), golden["extract_bboxes.out"])
    check(b.extract_bboxes(golden["mask.in"]), golden["mask.bbox"])


def test_golden_trim_zeros(golden):
    check(b.trim_zeros(golden["trim_zeros.x"]), golden["trim_zeros.out"])


@pytest.mark.parametrize("case", ["anchors0", "anchors1"])
def test_golden_anchors(golden, arguments, case):
    check(b.generate_anchors(**arguments[case]), golden[f"{case}.out"])


@pytest.mark.parametrize("case", ["pyramid0", "pyramid1", "pyramid2"])
def test_golden_pyramid_anchors(golden, arguments, case):
    strides, given_ = [4, 8, 16, 32, 64], arguments[case]
    shapes = b.backbone_shapes(given_["image_shape"], strides)
    check(shapes, golden[f"{case}.backbone_shapes"])
    anchors = b.generate_pyramid_anchors(
        given_["scales"], given_["ratios"], shapes, strides, given_["anchor_stride"]
    )
    assert len(anchors) == golden[f"{case}.count"]
    check(np.concatenate([anchors[:30], anchors[-30:]]), golden[f"{case}.first_last"])
    check(anchors.sum(axis=0), golden[f"{case}.sum"])
    if f"{case}.full" in golden:
        check(anchors, golden[f"{case}.full"])


# --- Hand-made values -------------------------------------------------------------------------


def test_extract_bboxes_is_tight_and_exclusive():
    mask = np.zeros((6, 8, 3), np.uint8)
    mask[2:4, 1:6, 0] = 1
    mask[5, 7, 1] = 7
    assert b.extract_bboxes(mask).tolist() == [[2, 1, 4, 6], [5, 7, 6, 8], [0, 0, 0, 0]]


@pytest.mark.parametrize("shape", [(5, 6, 0), (0, 0, 2)])
def test_extract_bboxes_of_nothing(shape):
    boxes = b.extract_bboxes(np.zeros(shape, bool))
    assert boxes.shape == (shape[2], 4)
    assert boxes.dtype == np.int32
    assert not boxes.any()


def test_overlaps_by_hand():
    one = [[0, 0, 10, 10]]
    others = [[0, 0, 10, 10], [0, 5, 10, 15], [10, 0, 20, 10], [5, 5, 5, 5]]
    np.testing.assert_allclose(b.compute_overlaps(one, others), [[1, 1 / 3, 0, 0]])


def test_boxes_without_area_overlap_nothing():
    assert b.compute_overlaps([[3, 3, 3, 3]], [[3, 3, 3, 3]]).tolist() == [[0]]


def test_overlaps_of_large_and_unsigned_integers():
    box = np.array([[0, 0, 60000, 60000]], np.int32)
    np.testing.assert_allclose(b.compute_overlaps(box, box), 1)
    apart = np.array([[0, 0, 2, 2], [9, 9, 12, 12]], np.uint8)
    np.testing.assert_allclose(b.compute_overlaps(apart, apart), np.eye(2))


def test_overlaps_of_more_boxes_than_a_block():
    boxes = b.generate_anchors(32, [0.5, 1, 2], (160, 160), 8, 1)
    few = boxes[::9999]
    whole = b.compute_overlaps(boxes, few)
    for j, box in enumerate(few):
        alone = b.compute_iou(box, boxes, areas(box), areas(boxes))
        np.testing.assert_allclose(whole[:, j], alone, rtol=1e-12)


@pytest.mark.parametrize("first", [NO_BOXES, []])
def test_overlaps_of_no_boxes(first):
    assert b.compute_overlaps(first, np.ones((3, 4))).shape == (0, 3)
    assert b.compute_overlaps(np.ones((3, 4)), first).shape == (3, 0)


def test_overlaps_masks_by_hand():
    masks = np.zeros((4, 4, 3))
    masks[:2, :, 0] = 1
    masks[1:3, :, 1] = 0.51
    masks[:, :, 2] = 0.5  # not above a half: empty
    overlaps = b.compute_overlaps_masks(masks, masks)
    np.testing.assert_allclose(overlaps, [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]], rtol=1e-6)


def test_overlaps_masks_equal_those_of_boxes():
    boxes = np.array([[0, 0, 300, 900], [100, 50, 600, 700], [599, 0, 600, 1]])
    masks = np.zeros((600, 900, 3), bool)
    for i, (y1, x1, y2, x2) in enumerate(boxes):
        masks[y1:y2, x1:x2, i] = True
    expected = b.compute_overlaps(boxes, boxes)
    np.testing.assert_allclose(b.compute_overlaps_masks(masks, masks), expected, rtol=1e-6)


def test_nms_by_hand():
    boxes = [[0, 0, 10, 10], [0, 1, 10, 11], [0, 20, 10, 30], [0, 6, 10, 16]]
    assert b.non_max_suppression(boxes, [0.5, 0.9, 0.7, 0.6], 0.3).tolist() == [1, 2]
    # IoU of exactly the threshold stays: 5 of 15 columns are shared.
    assert b.non_max_suppression([[0, 0, 1, 10], [0, 5, 1, 15]], [2, 1], 1 / 3).tolist() == [0, 1]


def test_nms_takes_the_later_of_equal_scores():
    boxes = np.tile([0, 0, 10, 10], (50, 1))
    assert b.non_max_suppression(boxes, np.ones(50), 0.5).tolist() == [49]


def test_nms_of_no_boxes():
    kept = b.non_max_suppression(NO_BOXES, np.zeros(0), 0.5)
    assert kept.shape == (0,)
    assert kept.dtype == np.int32


def test_deltas_by_hand():
    box = [[10.0, 20.0, 30.0, 60.0]]
    moved = b.apply_box_deltas(box, [[0.5, -0.25, 0.0, np.log(2)]])
    np.testing.assert_allclose(moved, [[20, -10, 40, 70]], rtol=1e-6)
    deltas = b.box_refinement(box, [[20, -10, 40, 70]])
    np.testing.assert_allclose(deltas, [[0.5, -0.25, 0, np.log(2)]], rtol=1e-6)


def test_deltas_of_no_boxes():
    assert b.apply_box_deltas(NO_BOXES, NO_BOXES).shape == (0, 4)
    assert b.box_refinement(NO_BOXES, NO_BOXES).shape == (0, 4)


def test_frames_by_hand():
    np.testing.assert_allclose(b.norm_boxes([[0, 0, 101, 201]], (101, 201)), [[0, 0, 1, 1]])
    # 0.5 * 5 = 2.5 and 0.5 * 5 + 1 = 3.5: halves round to even
    assert b.denorm_boxes([[0.5, 0.5, 0.5, 0.5]], (6, 6)).tolist() == [[2, 2, 4, 4]]
    assert b.norm_boxes(NO_BOXES, (9, 9)).shape == b.denorm_boxes(NO_BOXES, (9, 9)).shape == (0, 4)


def test_frames_take_batches():
    boxes = np.arange(24).reshape(2, 3, 4)
    assert b.norm_boxes(boxes, (50, 60)).shape == (2, 3, 4)
    assert np.array_equal(b.denorm_boxes(b.norm_boxes(boxes, (50, 60)), (50, 60, 3)), boxes)


def test_trim_zeros_of_nothing():
    assert b.trim_zeros(NO_BOXES).shape == (0, 4)
    assert b.trim_zeros(np.zeros((3, 4))).shape == (0, 4)


def test_backbone_shapes_round_up():
    assert b.backbone_shapes((65, 130, 3), [4, 64]).tolist() == [[17, 33], [2, 3]]


def test_anchors_by_hand():
    anchors = b.generate_anchors(8, [0.25, 1], (1, 3), 16, 2)
    # ratio = width / height, the area stays 64
    expected = [[-8, -2, 8, 2], [-4, -4, 4, 4], [-8, 30, 8, 34], [-4, 28, 4, 36]]
    assert anchors.tolist() == expected


# --- Refused input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: b.extract_bboxes(np.zeros((4, 4))), r"mask has shape \(4, 4\); pass"),
        (lambda: b.compute_overlaps(np.zeros((3, 5)), NO_BOXES), r"boxes1 has shape \(3, 5\)"),
        (lambda: b.compute_overlaps(NO_BOXES, [1, 2, 3, 4]), r"boxes2 has shape \(4,\)"),
        (
            lambda: b.compute_overlaps_masks(np.ones((4, 4, 1)), np.ones((4, 5, 1))),
            r"\(4, 4\) pixels but masks2 of \(4, 5\)",
        ),
        (lambda: b.non_max_suppression(np.ones((2, 4)), [1], 0.5), "one score for each box"),
        (lambda: b.apply_box_deltas(np.ones((2, 4)), np.ones((1, 4))), "got 2 boxes and 1 deltas"),
        (
            lambda: b.generate_pyramid_anchors([8], [1], [(2, 2)], [4, 8], 1),
            "1 scales, 1 feature shapes and 2 strides",
        ),
    ],
)
def test_refusals_name_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- Laws -------------------------------------------------------------------------------------


@given(box_arrays(), box_arrays())
def test_overlaps_are_symmetric_and_bounded(first, second):
    overlaps = b.compute_overlaps(first, second)
    np.testing.assert_allclose(overlaps, b.compute_overlaps(second, first).T, rtol=1e-9)
    assert ((overlaps >= 0) & (overlaps <= 1)).all()
    np.testing.assert_allclose(np.diag(b.compute_overlaps(first, first)), 1)


@given(box_arrays(least=1), st.data())
def test_deltas_round_trip(first, data):
    second = data.draw(hnp.arrays(np.float64, first.shape, elements=st.floats(0, 100)))
    second[:, 2:] = second[:, :2] + 1 + second[:, 2:]
    back = b.apply_box_deltas(first, b.box_refinement(first, second))
    np.testing.assert_allclose(back, second, rtol=1e-4, atol=2e-3)


@given(
    hnp.arrays(np.int32, (5, 4), elements=st.integers(-10, 5000)),
    st.integers(2, 5000),
    st.integers(2, 5000),
)
def test_frames_round_trip(boxes, height, width):
    shape = (height, width)
    assert np.array_equal(b.denorm_boxes(b.norm_boxes(boxes, shape), shape), boxes)


@given(box_arrays(least=1), st.floats(0, 1))
def test_nms_keeps_only_separate_boxes_and_drops_only_covered_ones(boxes, threshold):
    scores = np.linspace(0, 1, len(boxes))
    kept = b.non_max_suppression(boxes, scores, threshold)
    assert (np.diff(scores[kept]) <= 0).all()
    overlaps = b.compute_overlaps(boxes, boxes)
    assert (overlaps[np.ix_(kept, kept)] - np.eye(len(kept)) <= threshold + 1e-9).all()
    dropped = np.setdiff1d(np.arange(len(boxes)), kept)
    assert (overlaps[np.ix_(dropped, kept)].max(axis=1, initial=0) > threshold - 1e-9).all()


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9)))
def test_extracted_boxes_hold_the_mask_tightly(mask):
    for i, (y1, x1, y2, x2) in enumerate(b.extract_bboxes(mask)):
        inside = mask[y1:y2, x1:x2, i]
        assert inside.sum() == mask[..., i].sum()
        if inside.size:
            edges = inside[0], inside[-1], inside[:, 0], inside[:, -1]
            assert all(edge.any() for edge in edges)
