"""Box formulas on tensors: the original's numbers, hand-made values, and their NumPy twins."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mrcnn.core import boxes as np_boxes
from mrcnn.network import tensor_ops as ops

pytestmark = pytest.mark.tf


NO_BOXES = np.zeros((0, 4), np.float32)
# TensorFlow is slow to call, and its numbers should not depend on the day.
light = settings(max_examples=40, deadline=None, derandomize=True)


def check(actual, expected):
    actual = np.asarray(actual)
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


def numbers(low, high):
    return st.floats(low, high, width=32)


@st.composite
def box_arrays(draw, count=None):
    """[N, 4] float32 boxes with sides of 1..100 within 0..200."""
    count = draw(st.integers(0, 6)) if count is None else count
    start = draw(hnp.arrays(np.float32, (count, 2), elements=numbers(0, 100)))
    size = draw(hnp.arrays(np.float32, (count, 2), elements=numbers(1, 100)))
    return np.concatenate([start, start + size], axis=1)


@st.composite
def box_pairs(draw):
    count = draw(st.integers(0, 6))
    return draw(box_arrays(count)), draw(box_arrays(count))


# --- The original's numbers -------------------------------------------------------------------


def test_golden_norm_boxes(golden):
    boxes = ops.norm_boxes_graph(golden["norm.boxes_int"], golden["norm.shape"])
    check(boxes, golden["norm_graph.out"])


def test_golden_denorm_boxes(golden):
    boxes = ops.denorm_boxes_graph(golden["denorm.boxes"], golden["norm.shape"])
    check(boxes, golden["denorm_graph.out"])


def test_golden_clip_boxes(golden):
    boxes = tf.constant(golden["deltas.boxes"] / 100)
    window = tf.constant([0.1, 0.2, 0.9, 0.8])
    check(ops.clip_boxes_graph(boxes, window), golden["clip_graph.out"])


def test_golden_apply_box_deltas(golden):
    deltas = golden["deltas.deltas"].astype(np.float32)
    boxes = ops.apply_box_deltas_graph(golden["deltas.boxes"], deltas)
    check(boxes, golden["deltas_graph.out"])


def test_golden_overlaps(golden):
    overlaps = ops.overlaps_graph(golden["overlaps.boxes1"], golden["overlaps.boxes2"])
    check(overlaps, golden["overlaps_graph.out"])


def test_golden_box_refinement(golden):
    deltas = ops.box_refinement_graph(golden["refine.box"], golden["refine.gt_box"])
    check(deltas, golden["box_refinement_graph.out"])


def test_golden_smooth_l1(golden):
    loss = ops.smooth_l1_loss(golden["smooth_l1.y_true"], golden["smooth_l1.y_pred"])
    check(loss, golden["smooth_l1.out"])


def test_golden_image_meta(golden):
    parts = ops.parse_image_meta_graph(tf.constant(golden["meta.out"][None], tf.float32))
    names = {k.removeprefix("meta.parse.") for k in golden if k.startswith("meta.parse.")}
    assert set(parts) == names
    for name, part in parts.items():
        assert part.dtype == tf.float32
        np.testing.assert_array_equal(part, golden[f"meta.parse.{name}"].astype(np.float32))


# --- The twins in NumPy -----------------------------------------------------------------------


@light
@given(box_arrays(), st.data())
def test_apply_box_deltas_equals_numpy(boxes, data):
    deltas = data.draw(hnp.arrays(np.float32, boxes.shape, elements=numbers(-1, 1)))
    expected = np_boxes.apply_box_deltas(boxes, deltas)
    # float32 of numbers up to a few hundred
    np.testing.assert_allclose(
        ops.apply_box_deltas_graph(boxes, deltas), expected, rtol=1e-6, atol=1e-4
    )


@light
@given(box_pairs())
def test_box_refinement_equals_numpy_and_is_undone_by_apply(pair):
    box, gt_box = pair
    deltas = ops.box_refinement_graph(box, gt_box)
    # Centres up to 150 are subtracted (2e-5 of rounding) and divided by sides from 1 on.
    np.testing.assert_allclose(deltas, np_boxes.box_refinement(box, gt_box), rtol=1e-5, atol=1e-4)
    restored = ops.apply_box_deltas_graph(box, deltas)
    np.testing.assert_allclose(restored, gt_box, rtol=1e-4, atol=1e-3)


@light
@given(box_arrays(), box_arrays())
def test_overlaps_equal_numpy(boxes1, boxes2):
    overlaps = ops.overlaps_graph(boxes1, boxes2)
    assert overlaps.shape == (len(boxes1), len(boxes2))
    # Thin boxes far from the origin have an area right to 1e-5 only.
    expected = np_boxes.compute_overlaps(boxes1, boxes2)
    np.testing.assert_allclose(overlaps, expected, rtol=1e-4, atol=1e-5)


@light
@given(hnp.arrays(np.int32, (5, 4), elements=st.integers(0, 1024)), st.integers(2, 1024))
def test_norm_and_denorm_equal_numpy(boxes, side):
    shape = (side, 1024)
    normalised = ops.norm_boxes_graph(boxes, shape)
    # Sides of 2 pixels normalise by 1, so the numbers reach 1024.
    np.testing.assert_allclose(normalised, np_boxes.norm_boxes(boxes, shape), rtol=1e-6)
    pixels = ops.denorm_boxes_graph(normalised, shape)
    np.testing.assert_array_equal(pixels, np_boxes.denorm_boxes(normalised.numpy(), shape))
    np.testing.assert_array_equal(pixels, boxes)


@light
@given(hnp.arrays(np.float32, (6, 4), elements=st.sampled_from([0.0, -1.0, 2.0])))
def test_trim_zeros_equals_numpy(boxes):
    trimmed, keep = ops.trim_zeros_graph(tf.constant(boxes))
    np.testing.assert_array_equal(trimmed, np_boxes.trim_zeros(boxes))
    np.testing.assert_array_equal(keep, boxes.any(axis=1))


# --- Hand-made values -------------------------------------------------------------------------


def test_apply_box_deltas_moves_then_scales_about_the_centre():
    boxes = tf.constant([[0.0, 0.0, 2.0, 4.0]])
    deltas = tf.constant([[0.5, 0.25, np.log(2.0), 0.0]], tf.float32)
    np.testing.assert_allclose(
        ops.apply_box_deltas_graph(boxes, deltas), [[0.0, 1.0, 4.0, 5.0]], atol=1e-6
    )


def test_box_refinement_of_hand_made_boxes():
    deltas = ops.box_refinement_graph([[0, 0, 2, 4]], [[0, 1, 4, 5]])
    assert deltas.dtype == tf.float32
    np.testing.assert_allclose(deltas, [[0.5, 0.25, np.log(2.0), 0.0]], atol=1e-6)


def test_clip_boxes_keeps_the_inside_and_flattens_the_outside():
    boxes = tf.constant([[0.2, 0.3, 0.5, 0.6], [-1.0, 0.3, 2.0, 0.6], [2.0, 2.0, 3.0, 3.0]])
    clipped = ops.clip_boxes_graph(boxes, tf.constant([0.1, 0.2, 0.9, 0.8]))
    expected = [[0.2, 0.3, 0.5, 0.6], [0.1, 0.3, 0.9, 0.6], [0.9, 0.8, 0.9, 0.8]]
    np.testing.assert_allclose(clipped, expected)


def test_overlaps_of_hand_made_boxes():
    boxes1 = tf.constant([[0.0, 0.0, 2.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
    boxes2 = tf.constant([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [2.0, 2.0, 3.0, 3.0]])
    expected = [[1.0, 2 / 6, 0.0], [0.0, 0.0, 0.0]]
    np.testing.assert_allclose(ops.overlaps_graph(boxes1, boxes2), expected)
    batch = ops.overlaps_graph(tf.stack([boxes1, boxes1 + 9.0]), tf.stack([boxes2, boxes2 + 9.0]))
    np.testing.assert_allclose(batch, [expected, expected], rtol=1e-6)


def test_overlaps_of_empty_boxes():
    empty, box = tf.zeros((1, 4)), tf.constant([[0.0, 0.0, 1.0, 1.0]])
    assert ops.overlaps_graph(empty, box).numpy() == 0
    assert np.isnan(ops.overlaps_graph(empty, empty).numpy())
    assert ops.overlaps_graph(tf.constant(NO_BOXES), box).shape == (0, 1)


def test_box_areas():
    boxes = tf.constant([[[0.0, 0.0, 2.0, 3.0], [1.0, 1.0, 1.0, 4.0]]])
    np.testing.assert_array_equal(ops.box_areas(boxes), [[6.0, 0.0]])


def test_has_area():
    boxes = tf.constant([[0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 1, 0], [1, 1, 0, 0], [0, 0, np.nan, 1]])
    np.testing.assert_array_equal(ops.has_area(boxes), [True, False, False, False, False])
    assert ops.has_area(tf.zeros((2, 0, 4))).shape == (2, 0)


def test_norm_boxes_maps_the_first_and_last_pixel_to_0_and_1():
    boxes = np.array([[[0, 0, 5, 9]], [[1, 2, 3, 5]]])
    normalised = ops.norm_boxes_graph(boxes, (5, 9))
    assert normalised.dtype == tf.float32
    np.testing.assert_allclose(normalised, [[[0, 0, 1, 1]], [[0.25, 0.25, 0.5, 0.5]]])


def test_denorm_boxes_rounds_halves_to_even():
    pixels = ops.denorm_boxes_graph(tf.constant([[0.25, 0.75, 0.25, 0.75]]), (3, 3))
    np.testing.assert_array_equal(pixels, [[0, 2, 2, 2]])  # from 0.5, 1.5, 1.5, 2.5
    assert pixels.dtype == tf.int32


def test_smooth_l1_has_its_knee_at_1():
    distance = tf.constant([0.0, 0.5, -0.5, 1.0, -3.0])
    expected = [0.0, 0.125, 0.125, 0.5, 2.5]
    np.testing.assert_allclose(ops.smooth_l1_loss(distance, tf.zeros(5)), expected)
    np.testing.assert_allclose(ops.smooth_l1_loss(tf.zeros(5), distance), expected)


def test_formulas_take_no_boxes():
    none = tf.constant(NO_BOXES)
    assert ops.apply_box_deltas_graph(none, none).shape == (0, 4)
    assert ops.box_refinement_graph(none, none).shape == (0, 4)
    assert ops.clip_boxes_graph(none, tf.constant([0.0, 0.0, 1.0, 1.0])).shape == (0, 4)
    assert ops.norm_boxes_graph(none, (4, 4)).shape == (0, 4)
    assert ops.denorm_boxes_graph(none, (4, 4)).shape == (0, 4)
    assert ops.trim_zeros_graph(none)[0].shape == (0, 4)


# --- Batches ----------------------------------------------------------------------------------


def test_non_zero_rows_finds_any_number():
    boxes = tf.constant([[[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0]]])
    np.testing.assert_array_equal(ops.non_zero_rows(boxes), [[False, True]])


def test_batch_pack_takes_the_first_rows_of_each_image():
    x = tf.reshape(tf.range(12), [2, 3, 2])
    packed = ops.batch_pack_graph(x, tf.constant([1, 2]), 2)
    np.testing.assert_array_equal(packed, [[0, 1], [6, 7], [8, 9]])
    assert ops.batch_pack_graph(x, tf.constant([0, 0]), 2).shape == (0, 2)


def test_batch_slice_stacks_one_output_or_several():
    a, b = tf.constant([[1.0], [2.0]]), tf.constant([[3.0], [4.0]])
    np.testing.assert_array_equal(ops.batch_slice(a, lambda x: x * 2, 2), [[2.0], [4.0]])
    both = ops.batch_slice([a, b], lambda x, y: (x + y, x - y), 2, names=["sum", "difference"])
    assert isinstance(both, list)
    np.testing.assert_array_equal(both, [[[4.0], [6.0]], [[-2.0], [-2.0]]])


def test_map_batch_needs_no_known_batch_size():
    def rows(x, y):
        return ops.pad_rows(x[:1] * y, 3)

    x, y = tf.constant(np.arange(8, dtype=np.float32).reshape(2, 2, 2)), tf.constant([1.0, 10.0])
    expected = [[[0, 1], [0, 0], [0, 0]], [[40, 50], [0, 0], [0, 0]]]
    np.testing.assert_array_equal(ops.map_batch(rows, [x, y]), expected)
    spec = [tf.TensorSpec([None, 2, 2]), tf.TensorSpec([None])]
    traced = tf.function(lambda *args: ops.map_batch(rows, args), input_signature=spec)
    np.testing.assert_array_equal(traced(x, y), expected)
    assert traced(x[:0], y[:0]).shape == (0, 3, 2)


@pytest.mark.parametrize("count", [0, 2, 3])
def test_pad_rows_appends_zeros(count):
    padded = ops.pad_rows(tf.ones((count, 2, 5)), 3)
    assert padded.shape == (3, 2, 5)
    np.testing.assert_array_equal(padded, np.arange(3)[:, None, None] < [[[count] * 5] * 2])
