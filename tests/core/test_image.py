"""Reading, resizing, masks and the image meta: hand-made values, recorded numbers, and laws."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage import transform

from mrcnn.config import Config
from mrcnn.core import image as im
from mrcnn.core.boxes import extract_bboxes
from tests.helpers import GOLDEN

CASES = json.loads((GOLDEN / "pure.json").read_text())
NO_PADDING = [(0, 0), (0, 0), (0, 0)]


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "pure.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def photos():
    with np.load(GOLDEN / "images.npz") as arrays:
        return dict(arrays)


def reference_resize(image, shape, **options):
    """What `resize` is to equal, by scikit-image."""
    image = image.astype(np.float64) if image.dtype == bool else image
    return transform.resize(
        image, shape, order=1, mode="constant", cval=0, anti_aliasing=False, **options
    )


def reference_paste(mask, box, shape):
    """What `unmold_mask` is to equal, and the values it is thresholded from."""
    y1, x1, y2, x2 = box
    values = np.zeros(shape, np.float32)
    values[y1:y2, x1:x2] = reference_resize(mask, (y2 - y1, x2 - x1))
    pasted = np.zeros(shape, bool)
    pasted[y1:y2, x1:x2] = values[y1:y2, x1:x2] >= 0.5
    return pasted, values


# --- Resizing: the original's numbers ---------------------------------------------------------


@pytest.mark.parametrize("case", CASES["resize"], ids=lambda case: case["key"])
def test_golden_resize_image(golden, photos, case):
    small = golden["resize.small_input"]
    inputs = {"small": small, "small_float": small.astype(np.float32), **photos}
    random.seed(7)
    image, window, scale, padding, crop = im.resize_image(inputs[case["input"]], **case["kwargs"])
    assert (image.dtype, list(image.shape)) == (case["dtype"], case["shape"])
    assert (list(window), scale) == (case["window"], case["scale"])
    assert [list(pair) for pair in padding] == case["padding"]
    assert (crop and list(crop)) == case["crop"]

    key = case["key"]
    if f"{key}.out" in golden:
        values, expected = image, golden[f"{key}.out"]
    else:
        values, expected = image.ravel()[golden[f"{key}.idx"]], golden[f"{key}.val"]
    difference = np.abs(values.astype(float) - expected)
    if image.dtype == np.uint8:
        # Truncation: see golden/README.md. At these scales many values are whole numbers.
        share = 0.025 if scale in (1.5, 2) else 0.001
        assert difference.max() <= 1
        assert (difference > 0).mean() <= share
    else:
        assert difference.max() < 1e-4  # of 255


@pytest.mark.parametrize("shape", [(56, 56), (17, 33), (28, 28), (1, 5), (100, 64)])
def test_golden_resize(golden, shape):
    resized = im.resize(golden["resize_prim.in"], shape)
    assert resized.dtype == np.float32
    expected = golden[f"resize_prim.out_{shape[0]}x{shape[1]}"]
    np.testing.assert_allclose(resized, expected, atol=2e-6)


def test_golden_resize_of_bool(golden):
    resized = im.resize(golden["resize_prim.bool_in"], (20, 20))
    assert resized.dtype == np.float64
    np.testing.assert_allclose(resized, golden["resize_prim.bool_out_20x20"], atol=1e-9)


# --- Resizing: hand-made values ---------------------------------------------------------------


def test_resize_by_hand():
    row = np.array([[0.0, 1.0]])
    # Pixel centers at -0.25, 0.25, 0.75, 1.25: beyond the border the weight of 0 is a quarter.
    np.testing.assert_allclose(im.resize(row, (1, 4)), [[0, 0.25, 0.75, 0.75]])
    np.testing.assert_allclose(im.resize(row, (1, 1)), [[0.5]])


def test_resize_keeps_to_the_range():
    assert (im.resize(np.ones((3, 3), bool), (12, 12)) == 1).all()


def test_resize_scales_integers_only_if_asked():
    white = np.full((2, 2, 3), 255, np.uint8)
    assert im.resize(white, (2, 2)).max() == 1
    assert im.resize(white, (2, 2), preserve_range=True).max() == 255


@pytest.mark.parametrize(
    "options",
    [{"order": 0}, {"order": 3}, {"mode": "edge"}, {"cval": 9.0}, {"anti_aliasing": True}],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_resize_hands_other_cases_to_skimage(options, dtype):
    image = (np.arange(60).reshape(6, 10) * 3).astype(dtype)
    ours = im.resize(image, (4, 13), **options)
    default = {"order": 1, "mode": "constant", "cval": 0, "anti_aliasing": False}
    theirs = transform.resize(image, (4, 13), **default | options)
    assert ours.dtype == theirs.dtype
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float64])
def test_resize_image_keeps_the_dtype(dtype):
    image, *_ = im.resize_image(np.full((30, 40, 3), 200, dtype), 32, 64)
    assert image.dtype == dtype
    assert image.max() == 200


def test_resize_image_takes_extreme_proportions():
    image, window, scale, padding, _ = im.resize_image(np.ones((1, 3000, 3), np.uint8), 32, 64)
    assert image.shape == (64, 64, 3)
    assert window == (31, 0, 32, 64)
    mask = im.resize_mask(np.ones((1, 3000, 2), bool), scale, padding)
    assert extract_bboxes(mask).tolist() == [list(window)] * 2


def test_resize_image_does_not_draw_but_for_crops():
    random.seed(3)
    state = random.getstate()
    im.resize_image(np.ones((30, 40, 3), np.uint8), 64, 64, mode="square")
    im.resize_image(np.ones((30, 40, 3), np.uint8), 64, 64, mode="pad64")
    assert random.getstate() == state


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "squash", "max_dim": 64}, "mode is 'squash'; use"),
        ({"mode": "square"}, "max_dim is None"),
        ({"mode": "crop"}, "min_dim is None"),
        ({"mode": "pad64", "min_dim": 100}, "min_dim is 100; .*multiple of 64"),
    ],
)
def test_resize_image_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        im.resize_image(np.ones((30, 40, 3)), **arguments)


@pytest.mark.parametrize("shape", [(30, 40), (0, 40, 3)])
def test_resize_image_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"image has shape .*; pass \[height, width, channels\]"):
        im.resize_image(np.ones(shape), max_dim=64)


# --- Resizing: laws ---------------------------------------------------------------------------


@settings(deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.float32, np.float64, bool]),
        hnp.array_shapes(min_dims=2, max_dims=3, max_side=30),
        elements={"min_value": 0, "max_value": 100},
    ),
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
    st.booleans(),
)
def test_resize_equals_skimage(image, shape, preserve_range):
    ours = im.resize(image, shape, preserve_range=preserve_range)
    theirs = reference_resize(image, shape, preserve_range=preserve_range)
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "window", "scale"),
    [
        ((100, 100), (0, 64, 128, 192), 1.28),  # as high as it may be
        ((64, 256), (32, 0, 96, 256), 1.0),  # as wide as it may be
        ((300, 100), (0, 106, 128, 149), 128 / 300),
        ((100, 400), (32, 0, 96, 256), 256 / 400),
        ((128, 256), (0, 0, 128, 256), 1),
    ],
)
def test_an_image_fits_into_a_rectangle(shape, window, scale):
    plan = im.plan_resize(shape, 128, (128, 256))
    assert plan.molded_shape == (128, 256)
    assert plan.window == window and plan.scale == pytest.approx(scale)


@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([None, 64, 128]))
def test_a_square_may_be_written_as_a_rectangle(height, width, min_dim):
    square = im.plan_resize((height, width), min_dim, 128)
    assert im.plan_resize((height, width), min_dim, [128, 128]) == square


@settings(deadline=None)
@given(
    st.integers(1, 150),
    st.integers(1, 150),
    st.sampled_from([None, 0, 1.5]),
    st.sampled_from(["none", "square", "pad64", "crop"]),
)
def test_resize_image_window_holds_the_image(height, width, min_scale, mode):
    image = np.full((height, width, 3), 255, np.uint8)
    image, window, scale, padding, crop = im.resize_image(image, 64, 128, min_scale, mode)
    y1, x1, y2, x2 = window
    assert 0 <= y1 < y2 <= image.shape[0]
    assert 0 <= x1 < x2 <= image.shape[1]
    assert image[y1:y2, x1:x2].min() > 0
    assert image.sum(dtype=int) == image[y1:y2, x1:x2].sum(dtype=int)
    if mode == "square":
        assert image.shape == (128, 128, 3)
    if mode == "pad64":
        assert image.shape[0] % 64 == image.shape[1] % 64 == 0
    if mode == "crop":
        assert image.shape == (64, 64, 3)
    # A mask of the whole image covers just the window.
    mask = im.resize_mask(np.ones((height, width, 1), bool), scale, padding, crop)
    assert mask.shape[:2] == image.shape[:2]
    assert extract_bboxes(mask).tolist() == [list(window)]


# --- Masks: the original's numbers ------------------------------------------------------------


@pytest.mark.parametrize(("size", "boundary_pixels"), [(28, 5), (56, 2)])
def test_golden_mini_masks(golden, size, boundary_pixels):
    mask, boxes = golden["mask.in"], golden["mask.bbox"]
    mini = im.minimize_mask(boxes, mask, (size, size))
    assert mini.dtype == bool
    assert np.array_equal(mini, golden[f"minimize_mask.out_{size}"])
    full = im.expand_mask(boxes, mini, mask.shape)
    assert full.dtype == bool
    assert (full != golden[f"expand_mask.out_{size}"]).sum() <= boundary_pixels


@pytest.mark.parametrize(
    ("key", "arguments"),
    [
        ("out", (1.28, [(0, 0), (3, 4), (0, 0)])),
        ("out_0.6", (0.6, [(1, 2), (3, 4), (0, 0)])),
        ("out_crop", (1.5, NO_PADDING, (5, 6, 64, 64))),
    ],
)
def test_golden_resize_mask(golden, key, arguments):
    resized = im.resize_mask(golden["mask.in"], *arguments)
    assert resized.dtype == bool
    assert np.array_equal(resized, golden[f"resize_mask.{key}"])


@pytest.mark.parametrize("case", range(4))
def test_golden_unmold_mask(golden, case):
    expected = golden[f"unmold_mask.out{case}"]
    box = golden[f"unmold_mask.bbox{case}"]
    unmolded = im.unmold_mask(golden["unmold_mask.in"], box, (*expected.shape, 3))
    assert unmolded.dtype == bool
    assert np.array_equal(unmolded, expected)


# --- Masks: hand-made values and laws ---------------------------------------------------------


def test_mini_masks_by_hand():
    mask = np.zeros((8, 8, 1), bool)
    mask[2:6, 4:6] = True
    mini = im.minimize_mask([[2, 4, 6, 8]], mask, (2, 2))
    assert mini[..., 0].tolist() == [[True, False], [True, False]]
    assert np.array_equal(im.expand_mask([[2, 4, 6, 8]], mini, (8, 8, 3)), mask)


def test_minimize_mask_refuses_a_box_without_area():
    with pytest.raises(Exception, match=r"box 1 is \(3, 3, 3, 5\), which has no area"):
        im.minimize_mask([[0, 0, 2, 2], [3, 3, 3, 5]], np.ones((9, 9, 2), bool), (4, 4))


def test_masks_of_no_instances():
    boxes, none = np.zeros((0, 4), np.int32), np.zeros((20, 30, 0), bool)
    assert im.resize_mask(none, 2.0, NO_PADDING).shape == (40, 60, 0)
    mini = im.minimize_mask(boxes, none, (7, 7))
    assert mini.shape == (7, 7, 0)
    assert im.expand_mask(boxes, mini, (20, 30, 3)).shape == (20, 30, 0)
    assert im.paste_masks(np.zeros((0, 28, 28)), boxes, (20, 30, 3)).shape == (20, 30, 0)


def test_expand_mask_skips_padding():
    expanded = im.expand_mask(np.zeros((1, 4), int), np.ones((7, 7, 1), bool), (9, 9))
    assert not expanded.any()


def test_resize_mask_repeats_pixels():
    mask = np.arange(4).reshape(2, 2, 1)
    expected = np.repeat(np.repeat(mask, 2, axis=0), 2, axis=1)
    assert np.array_equal(im.resize_mask(mask, 2, NO_PADDING), expected)
    assert np.array_equal(im.resize_mask(mask, 1, NO_PADDING), mask)


def test_resize_mask_reaches_the_last_row():
    # SciPy's zoom leaves it empty at this scale, by rounding.
    mask = np.ones((960, 1, 1), bool)
    assert im.resize_mask(mask, 2.7411624104566674, NO_PADDING).all()


@pytest.mark.parametrize(
    ("box", "visible"),
    [
        ((-4, -6, 4, 6), (0, 0, 4, 6)),
        ((6, 7, 14, 19), (6, 7, 10, 12)),
        ((-9, -9, 30, 30), (0, 0, 10, 12)),
        ((10, 0, 20, 5), (0, 0, 0, 0)),
        ((-5, 0, 0, 5), (0, 0, 0, 0)),
        ((4, 4, 4, 9), (0, 0, 0, 0)),
        ((7, 7, 2, 9), (0, 0, 0, 0)),
    ],
)
def test_paste_cuts_off_what_lies_outside(box, visible):
    pasted = im.paste_masks(np.ones((1, 28, 28)), np.array([box]), (10, 12))
    assert extract_bboxes(pasted).tolist() == [list(visible)]
    y1, x1, y2, x2 = visible
    assert pasted.sum() == (y2 - y1) * (x2 - x1)


def test_a_cut_paste_is_part_of_the_whole_one():
    mask = np.random.default_rng(0).random((28, 28))
    whole = im.unmold_mask(mask, (20, 20, 70, 90), (100, 100))
    assert np.array_equal(im.unmold_mask(mask, (-10, -5, 40, 65), (30, 50)), whole[30:60, 25:75])


def test_paste_of_one_pixel_takes_the_middle():
    mask = np.zeros((28, 28))
    mask[13:15, 13:15] = 0.5
    assert im.unmold_mask(mask, (3, 4, 4, 5), (9, 9)).sum() == 1  # 0.5 counts
    mask[13, 13] = 0.49
    assert im.unmold_mask(mask, (3, 4, 4, 5), (9, 9)).sum() == 0


@pytest.mark.parametrize(
    ("masks", "boxes"),
    [
        (np.ones((2, 28, 28)), np.zeros((1, 4), int)),
        (np.ones((28, 28)), np.zeros((1, 4), int)),
        (np.ones((1, 28, 28)), np.ones((1, 4))),
    ],
)
def test_paste_refuses_what_does_not_fit(masks, boxes):
    with pytest.raises(ValueError, match=r"pass \[N, height, width\] and \[N, 4\] integers"):
        im.paste_masks(masks, boxes, (9, 9))


@pytest.mark.parametrize("seed", range(8))
def test_paste_equals_skimage(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 150, 2))
    size = rng.integers(1, 40, 2) if seed % 2 else (28, 28)
    masks = rng.random((40, *size)).astype(np.float32)
    masks[::3] = masks[::3] * 0.2 + 0.42  # near the threshold
    masks[::7] = np.maximum(masks[::7], 0.5)  # nowhere below it
    start = (rng.random((40, 2)) * shape).astype(int)
    stop = start + 1 + (rng.random((40, 2)) * (np.array(shape) - start)).astype(int)
    stop[::5] = start[::5] + 1
    boxes = np.concatenate([start, stop], axis=1)
    pasted = im.paste_masks(masks, boxes, (*shape, 3))
    assert pasted.shape == (*shape, 40)
    assert pasted[..., 0].flags.c_contiguous
    for i, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        expected, values = reference_paste(mask, box, shape)
        differs = pasted[..., i] != expected
        assert np.abs(values[differs] - 0.5).max(initial=0) < 1e-6
        assert np.array_equal(pasted[..., i], im.unmold_mask(mask, box, shape))


# --- Molding and meta -------------------------------------------------------------------------


def test_golden_molding(golden):
    molded = im.mold_image(golden["resize.small_input"], Config())
    assert molded.dtype == np.float64
    np.testing.assert_allclose(molded, golden["mold.out"], atol=1e-9)
    assert np.array_equal(im.unmold_image(molded, Config()), golden["mold.unmold"])
    single = molded.astype(np.float32)
    assert np.array_equal(im.unmold_image(single, Config()), golden["mold.unmold_f32"])


def test_golden_meta(golden):
    meta = im.compose_image_meta(**CASES["meta_args"])
    assert meta.dtype == np.float64
    np.testing.assert_allclose(meta, golden["meta.out"])
    parsed = im.parse_image_meta(meta[None])
    assert {k: str(v.dtype) for k, v in parsed.items()} == CASES["meta_parse_dtypes"]
    for name, value in parsed.items():
        assert np.array_equal(value, golden[f"meta.parse.{name}"])


@given(
    st.integers(0, 2**31 - 1),
    st.tuples(*[st.integers(1, 9000)] * 3),
    st.tuples(*[st.integers(0, 9000)] * 4),
    st.floats(0.01, 100),
    st.lists(st.integers(0, 1), min_size=2, max_size=90),
)
def test_meta_round_trip(image_id, shape, window, scale, classes):
    meta = im.compose_image_meta(image_id, shape, shape[::-1], window, scale, classes)
    assert meta.shape == (12 + len(classes),)
    parsed = im.parse_image_meta(np.stack([meta, meta]))
    assert parsed["image_id"].tolist() == [image_id] * 2
    assert parsed["original_image_shape"][1].tolist() == list(shape)
    assert parsed["image_shape"][1].tolist() == list(shape[::-1])
    assert parsed["window"][0].tolist() == list(window)
    assert parsed["scale"][0] == np.float32(scale)
    assert parsed["active_class_ids"][1].tolist() == classes


def test_meta_of_no_images():
    assert im.parse_image_meta(np.zeros((0, 26)))["window"].shape == (0, 4)


@pytest.mark.parametrize("image_id", ["000123.jpg", None, [7], float("nan")])
def test_meta_refuses_an_id_that_is_no_number(image_id):
    with pytest.raises(ValueError, match=r"image_id is .*; the meta holds numbers only"):
        im.compose_image_meta(image_id, (4, 4, 3), (4, 4, 3), (0, 0, 4, 4), 1, [1, 1])
