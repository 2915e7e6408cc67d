"""The whole detector against numbers recorded from the original (recording A)."""

import hashlib

import numpy as np
import pytest

pytestmark = pytest.mark.tf

TENSORS = {
    "C2": "res2c_out",
    "C3": "res3d_out",
    "C4": "res4f_out",
    "C5": "res5c_out",
    "P2": "fpn_p2",
    "P3": "fpn_p3",
    "P4": "fpn_p4",
    "P5": "fpn_p5",
    "P6": "fpn_p6",
    "rpn_class": "rpn_class",
    "rpn_bbox": "rpn_bbox",
    "roi_align_classifier": "roi_align_classifier",
    "roi_align_mask": "roi_align_mask",
    "proposals": "ROI",
    "mrcnn_class_logits": "mrcnn_class_logits",
    "mrcnn_class": "mrcnn_class",
    "mrcnn_bbox": "mrcnn_bbox",
    "detections": "mrcnn_detection",
    "mrcnn_mask": "mrcnn_mask",
}


@pytest.fixture(scope="module")
def golden(golden_dir):
    return dict(np.load(golden_dir / "infer_A.npz"))


@pytest.fixture(scope="module")
def image(golden_images):
    return golden_images["grace_hopper"]


@pytest.fixture(scope="module")
def tensors(detector, golden):
    model = detector.keras_model
    outputs = [(name, model.get_layer(layer).output) for name, layer in TENSORS.items()]
    return detector.run_graph(golden["molded_f32"], outputs, golden["image_metas"])


def sorted_rows(rows):
    """Rows in an order that doesn't hang on the last digits of scores."""
    return rows[np.lexsort(np.round(rows[:, :4].T, 3))]


def pairs_up(ours, theirs, limits):
    """Whether each row of one set has a partner in the other, column by column within limits."""
    gap = np.abs(ours[:, None] - theirs[None]) <= limits
    close = gap.all(axis=-1)
    return close.any(axis=0).all() and close.any(axis=1).all() and len(ours) == len(theirs)


def test_molded_input(detector, image, golden):
    molded, metas, windows = detector.mold_inputs([image])
    at = golden["molded.idx"]
    # One grey level: scikit-image's interpolation changed since the recording.
    np.testing.assert_allclose(molded.ravel()[at], golden["molded.val"], atol=1.0001)
    np.testing.assert_array_equal(windows, golden["windows"])
    np.testing.assert_allclose(metas[0, 1:12], golden["image_metas"][0, 1:12], rtol=1e-6)


def test_anchors_are_equal_to_the_bit(detector, golden):
    anchors = detector.get_anchors((256, 256, 3))
    np.testing.assert_array_equal(anchors, golden["anchors_full"])
    digest = hashlib.sha256(np.ascontiguousarray(anchors[None])).hexdigest()
    assert digest == str(golden["anchors.sha256_f32"])


@pytest.mark.parametrize(
    "name", ["C2", "C3", "C4", "C5", "P2", "P3", "P4", "P5", "P6", "rpn_class", "rpn_bbox"]
)
def test_maps_and_rpn(tensors, golden, name):
    ours = tensors[name]
    assert ours.shape == tuple(golden[f"{name}.shape"])
    limit = 1e-4 * golden[f"{name}.absmax"]
    np.testing.assert_allclose(
        ours.ravel()[golden[f"{name}.idx"]], golden[f"{name}.val"], atol=limit
    )
    assert np.mean(ours, dtype=np.float64) == pytest.approx(golden[f"{name}.mean"], abs=limit)
    assert np.std(ours, dtype=np.float64) == pytest.approx(golden[f"{name}.std"], abs=limit)


def test_proposals_are_the_same_set(tensors, golden):
    # Normalised; 0.01 pixel of 256.
    assert pairs_up(tensors["proposals"][0], golden["proposals"][0], 0.01 / 256)


def test_heads_on_the_recorded_proposals(detector, golden):
    """The heads alone: near-equal proposals may swap ranks, so they get the recorded ones."""
    import keras

    model = detector.keras_model
    rois = model.get_layer("ROI").output
    maps = [model.get_layer(f"fpn_p{i}").output for i in (2, 3, 4, 5)]
    meta = model.get_layer("input_image_meta").output
    heads = keras.Model(
        [rois, meta, *maps],
        [model.get_layer(n).output for n in ("mrcnn_class_logits", "mrcnn_class", "mrcnn_bbox")],
    )
    names = [f"fpn_p{i}" for i in (2, 3, 4, 5)]
    values = detector.run_graph(
        golden["molded_f32"], [(n, model.get_layer(n).output) for n in names], golden["image_metas"]
    )
    inputs = [golden["proposals"], golden["image_metas"].astype(np.float32)]
    outputs = heads([*inputs, *(values[n] for n in names)])
    for name, ours in zip(
        ("mrcnn_class_logits", "mrcnn_class", "mrcnn_bbox"), outputs, strict=True
    ):
        limit = 1e-4 * np.abs(golden[name]).max()
        np.testing.assert_allclose(ours.numpy(), golden[name], atol=limit)


def test_detections_are_the_same_set(tensors, golden):
    ours, theirs = tensors["detections"][0], golden["detections"][0]
    ours, theirs = (rows[rows[:, 5] > 0] for rows in (ours, theirs))
    assert len(theirs) == 41
    pixel = 0.01 / 256
    assert pairs_up(ours, theirs, [pixel, pixel, pixel, pixel, 0, 1e-4])


def test_detect(detector, image, golden):
    """From image to masks, on an input that differs by single grey levels."""
    result = detector.detect([image])[0]
    assert result["rois"].dtype == np.int32 and result["class_ids"].dtype == np.int32
    assert result["scores"].dtype == np.float32 and result["masks"].dtype == bool
    assert result["masks"].shape == (*image.shape[:2], len(result["rois"]))
    ours = np.column_stack([result["rois"], result["class_ids"]])
    theirs = np.column_stack([golden["detect0.rois"], golden["detect0.class_ids"]])
    # Random weights magnify those grey levels, so a detection near a threshold may come or go.
    close = (np.abs(ours[:, None] - theirs[None]) <= [2, 2, 2, 2, 0]).all(axis=-1)
    assert close.any(axis=1).mean() >= 0.9 and close.any(axis=0).mean() >= 0.9


def test_masks_of_the_recorded_input(detector, image, golden):
    result = unmolded(detector, image, golden)
    count = np.prod(golden["detect0.masks_shape"])
    theirs = np.unpackbits(golden["detect0.masks_packed"])[:count].astype(bool)
    theirs = theirs.reshape(golden["detect0.masks_shape"])
    for i, roi in enumerate(golden["detect0.rois"]):
        same = np.abs(result["rois"] - roi).max(axis=1) + 100 * (
            result["class_ids"] != golden["detect0.class_ids"][i]
        )
        j = int(same.argmin())
        assert same[j] <= 1
        union = (theirs[..., i] | result["masks"][..., j]).sum()
        shared = (theirs[..., i] & result["masks"][..., j]).sum()
        if (result["rois"][j] == roi).all():
            assert shared >= 0.999 * union


def unmolded(detector, image, golden):
    from mrcnn.network.detection import unmold

    detections, masks = detector._run(golden["molded_f32"], golden["image_metas"])
    return unmold(detections[0], masks[0], image.shape, (256, 256, 3), golden["windows"][0])


def test_detect_molded_and_unmold_detections_agree(detector, image, golden, tensors):
    boxes, ids, scores, masks = detector.unmold_detections(
        tensors["detections"][0],
        tensors["mrcnn_mask"][0],
        image.shape,
        (256, 256, 3),
        golden["windows"][0],
    )
    result = unmolded(detector, image, golden)
    np.testing.assert_array_equal(boxes, result["rois"])
    np.testing.assert_array_equal(ids, result["class_ids"])
    np.testing.assert_allclose(scores, result["scores"], atol=1e-6)
    np.testing.assert_array_equal(masks, result["masks"])
