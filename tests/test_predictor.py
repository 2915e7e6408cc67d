"""The predictor: settings that work or are refused, and results equal to `MaskRCNN.detect`."""

import sys

import numpy as np
import pytest
from PIL import Image

from mrcnn.core.classes import DEEPFASHION2

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def weights_file(small_weights):
    return small_weights


@pytest.fixture(scope="module")
def predictor(weights_file):
    from mrcnn.predictor import Predictor

    return Predictor.load(weights_file, min_score=0.0, batch_size=2, precision="float32")


@pytest.fixture(scope="module")
def pictures(golden_images):
    return [golden_images["grace_hopper"], golden_images["coffee"], golden_images["chelsea"]]


def test_equal_to_detect(weights_file, predictor, pictures):
    """Batches, frozen weights and the trimmed mask head change nothing."""
    from mrcnn.model import MaskRCNN

    model = MaskRCNN("inference", predictor.model.config, "logs")
    model.load_weights(weights_file, by_name=True)
    results = predictor(pictures)
    assert len(results) == 3 and any(len(r) for r in results)
    for picture, result in zip(pictures, results, strict=True):
        expected = model.detect([picture])[0]
        assert result.image is picture and result.size == picture.shape[:2]
        np.testing.assert_array_equal(result.boxes, expected["rois"])
        np.testing.assert_array_equal(result.class_ids, expected["class_ids"])
        np.testing.assert_allclose(result.scores, expected["scores"], atol=1e-4)
        assert set(result.names) <= {"trousers", "skirt"}
        # Masks differ at box edges only, see `image.stretch_mask`.
        assert (result.masks != expected["masks"]).mean() < 0.02


def test_paths_and_arrays(predictor, pictures, tmp_path):
    Image.fromarray(pictures[2]).save(tmp_path / "a.png")
    one, two = predictor([str(tmp_path / "a.png"), pictures[2]])
    np.testing.assert_array_equal(one.boxes, two.boxes)
    np.testing.assert_array_equal(one.masks, two.masks)
    assert predictor([]) == [] and predictor.model.traces == 1
    with pytest.raises(ValueError, match="give a list of images"):
        predictor(pictures[0])
    with pytest.raises(ValueError, match=r"got an image of float64 \(4, 4, 3\)"):
        predictor([np.zeros((4, 4, 3))])


def most_shared(result):
    """The highest IoU of two masks of a result."""
    masks = result.masks.reshape(-1, len(result)).astype(float)
    shared = masks.T @ masks
    areas = np.diag(shared)
    iou = shared / (areas[:, None] + areas - shared)
    return (iou - np.eye(len(result))).max()


def test_settings(predictor, pictures):
    from mrcnn.predictor import Predictor

    def settled(**settings):
        return Predictor(predictor.model, batch_size=2, min_score=0.0, **settings)

    plain = predictor(pictures[:1])[0]
    assert {"trousers", "skirt"} == set(plain.names) and len(plain) > 3
    skirts = settled(classes=["skirt"])(pictures[:1])[0]
    assert len(skirts) and set(skirts.names) == {"skirt"}
    best = settled(max_detections=2)(pictures[:1])[0]
    np.testing.assert_array_equal(best.boxes, plain.boxes[:2])
    best = settled(max_detections=1, classes=["skirt"])(pictures[:1])[0]
    np.testing.assert_array_equal(best.boxes, skirts.boxes[:1])
    exclusive = settled(exclusive_masks=True)(pictures[:1])[0]
    assert (plain.masks.sum(axis=2) > 1).any() and (exclusive.masks.sum(axis=2) <= 1).all()
    agnostic = settled(agnostic_nms=True)(pictures[:1])[0]
    assert most_shared(agnostic) < 0.5 <= most_shared(plain)
    high = Predictor(predictor.model, min_score=float(plain.scores[1]))(pictures[:1])[0]
    assert len(high) == (plain.scores >= plain.scores[1]).sum()


def test_masks_are_refined_as_the_model_says_unless_told_otherwise(
    predictor, pictures, monkeypatch
):
    from mrcnn.predictor import Predictor

    def refined(**settings):
        result = Predictor(predictor.model, min_score=0.0, **settings)(pictures[:1])[0]
        return result.refined

    assert not refined() and refined(refine=True)
    monkeypatch.setattr(predictor.model.config, "MASK_REFINE", True)
    assert refined() and not refined(refine=False)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.warns(UserWarning, match="masks stay coarser .* pip install opencv"):
        assert not refined()
    with pytest.raises(ImportError, match="pip install opencv"):
        refined(refine=True)


def test_a_mirrored_picture_gives_mirrored_results_with_tta(predictor, pictures):
    from mrcnn.predictor import Predictor

    both = Predictor(predictor.model, batch_size=1, min_score=0.0, tta=True)
    plain, mirrored = both([pictures[2], np.ascontiguousarray(pictures[2][:, ::-1])])
    width = pictures[2].shape[1]
    boxes = mirrored.boxes[:, [0, 3, 2, 1]] * [1, -1, 1, -1] + [0, width, 0, width]
    np.testing.assert_allclose(sorted(plain.scores), sorted(mirrored.scores), atol=1e-5)
    close = np.abs(plain.boxes[:, None] - boxes[None]).max(axis=2) <= 1
    assert len(plain) and close.any(axis=1).all()


def test_merge_views_by_hand():
    from mrcnn.predictor import merge_views

    def view(boxes, ids, scores, value):
        masks = np.full((len(boxes), 2, 2), value, np.float32)
        masks[:, :, 0] = 0
        arrays = np.array(boxes, np.int32).reshape(-1, 4), np.array(ids), np.array(scores, float)
        return (*arrays, masks)

    plain = view([[0, 0, 10, 10], [20, 20, 30, 30]], [1, 2], [0.8, 0.6], 1.0)
    # In an image of 100 pixels the first is the mirror image of (0, 2, 10, 12).
    other = view([[0, 88, 10, 98], [20, 70, 30, 80]], [1, 3], [0.8, 0.4], 1.0)
    boxes, ids, scores, masks = merge_views(plain, other, 100)
    assert boxes.tolist() == [[0, 1, 10, 11], [20, 20, 30, 30], [20, 20, 30, 30]]
    assert ids.tolist() == [1, 2, 3] and scores.tolist() == pytest.approx([0.8, 0.3, 0.2])
    assert masks[0].tolist() == [[0.5, 0.5]] * 2 and masks[2].tolist() == [[1, 0]] * 2
    nothing = view([], [], [], 0)
    assert len(merge_views(nothing, nothing, 100)[0]) == 0
    assert merge_views(nothing, other, 100)[0].tolist() == [[0, 2, 10, 12], [20, 20, 30, 30]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 100}, "size is 100; give a multiple of 64, such as 128"),
        ({"size": 0}, "give a multiple of 64, such as 64"),
        ({"classes": ["hat"]}, "unknown classes: hat; this model knows short_sleeved_shirt"),
        ({"classes": []}, "unknown classes: none given"),
        ({"classes": ["BG"]}, "unknown classes: BG"),
        ({"min_score": 1.5}, "min_score is 1.5; give a number from 0 to 1"),
        ({"max_detections": -1}, "max_detections is -1; give 1 or more"),
        ({"max_detections": 0}, "max_detections is 0; give 1 or more"),
        ({"batch_size": 0}, "batch_size is 0; give 1 or more"),
        ({"device": "gpu:9"}, "there is no device 'gpu:9'; this machine has cpu:0"),
        ({"device": "toaster"}, "there is no device 'toaster'"),
    ],
)
def test_what_can_not_be_is_refused(weights_file, settings, message):
    from mrcnn.predictor import Predictor

    with pytest.raises(ValueError, match=message):
        Predictor.load(weights_file, **settings)


def test_size_device_and_fingerprint(weights_file, predictor, pictures):
    from mrcnn.predictor import Predictor

    other = Predictor.load(
        weights_file, size=64, max_detections=70, device="cpu", precision="float32"
    )
    config = other.model.config
    assert (config.IMAGE_MIN_DIM, config.IMAGE_MAX_DIM) == (64, 64)
    assert config.DETECTION_MAX_INSTANCES == 70 and other.class_names == DEEPFASHION2
    assert other.batch_size == 4 and other.weights == weights_file
    assert other.prepare(pictures[0]).views[0][0].shape == (64, 64, 3)
    again = Predictor(predictor.model, batch_size=4, min_score=0.0)
    assert again.fingerprint == predictor.fingerprint != other.fingerprint
    assert Predictor(predictor.model, min_score=0.0, tta=True).fingerprint != again.fingerprint


def test_one_picture_at_a_time_where_weights_are_held(predictor, monkeypatch):
    import tensorflow as tf

    from mrcnn.predictor import Predictor

    monkeypatch.delenv("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", raising=False)
    assert Predictor(predictor.model).batch_size == 4
    monkeypatch.setenv("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    assert Predictor(predictor.model).batch_size == (4 if on_gpu else 1)
    assert Predictor(predictor.model, batch_size=3).batch_size == 3


def test_freezing_equals_not_freezing(weights_file, pictures):
    """Weights scaled and cast once give what scaling them at each call gives."""
    from mrcnn.model import MaskRCNN
    from mrcnn.network import layers, pretrained, weights

    config = pretrained.config_for(weights.inspect(weights_file), IMAGES_PER_GPU=1)
    model = MaskRCNN("inference", config, "logs")
    model.load_weights(weights_file, by_name=True)
    molded, metas, _ = model.mold_inputs(pictures[:1])
    before = model._run(molded, metas)
    assert layers.freeze(model.keras_model) > 60
    model._detections = type(model._detections)(model.keras_model)
    for one, two in zip(before, model._run(molded, metas), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)


def test_pictures_of_several_shapes_share_a_batch(weights_file):
    from mrcnn.model import MaskRCNN
    from mrcnn.network import pretrained, weights
    from mrcnn.predictor import Predictor

    config = pretrained.config_for(
        weights.inspect(weights_file), IMAGE_RESIZE_MODE="pad64", COMPUTE_DTYPE="float32"
    )
    config = type(config).from_dict({**config.to_dict(), "IMAGE_MIN_DIM": 64, "IMAGE_MAX_DIM": 64})
    model = MaskRCNN("inference", config, "logs")
    model.load_weights(weights_file, by_name=True)
    wide, tall = np.full((60, 120, 3), 90, np.uint8), np.full((120, 60, 3), 90, np.uint8)
    results = Predictor(model, batch_size=4, min_score=0.0)([wide, tall, wide])
    assert [r.size for r in results] == [(60, 120), (120, 60), (60, 120)]
    np.testing.assert_array_equal(results[0].boxes, results[2].boxes)
    assert model.traces == 2
