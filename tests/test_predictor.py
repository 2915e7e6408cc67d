"""The predictor: settings that work or are refused, and results equal to `MaskRCNN.detect`."""

import sys

import numpy as np
import pytest
from PIL import Image

from mrcnn.core.classes import DEEPFASHION2

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def predictor(small_weights):
    from mrcnn.predictor import Predictor

    return Predictor.load(small_weights, min_score=0.0, batch_size=2, precision="float32")


@pytest.fixture(scope="module")
def images(golden_images):
    return [golden_images["grace_hopper"], golden_images["coffee"], golden_images["chelsea"]]


@pytest.fixture(scope="module")
def model(small_weights, predictor):
    """The predictor's model as it is without freezing."""
    from mrcnn.model import MaskRCNN

    model = MaskRCNN("inference", predictor.model.config, "logs")
    model.load_weights(small_weights, by_name=True)
    return model


def test_equal_to_detect(model, predictor, images):
    """Batches, frozen weights and the trimmed mask head change nothing."""
    results = predictor(images)
    assert len(results) == 3 and any(len(r) for r in results)
    for image, result in zip(images, results, strict=True):
        expected = model.detect([image])[0]
        assert result.image is image and result.size == image.shape[:2]
        np.testing.assert_array_equal(result.boxes, expected["rois"])
        np.testing.assert_array_equal(result.class_ids, expected["class_ids"])
        np.testing.assert_allclose(result.scores, expected["scores"], atol=1e-4)
        assert set(result.names) <= {"trousers", "skirt"}
        # Masks differ at box edges only, see `image.stretch_mask`.
        assert (result.masks != expected["masks"]).mean() < 0.02


def test_paths_and_arrays(predictor, images, tmp_path):
    Image.fromarray(images[2]).save(tmp_path / "a.png")
    one, two = predictor([str(tmp_path / "a.png"), images[2]])
    np.testing.assert_array_equal(one.boxes, two.boxes)
    np.testing.assert_array_equal(one.masks, two.masks)
    assert predictor([]) == [] and predictor.model.traces == 1
    with pytest.raises(ValueError, match="give a list of images"):
        predictor(images[0])
    with pytest.raises(ValueError, match=r"got an image of float64 \(4, 4, 3\)"):
        predictor([np.zeros((4, 4, 3))])


def test_images_of_floats_are_those_of_detect(predictor, model, images):
    floats = images[2].astype(np.float32) + np.float32(0.25)
    result, expected = predictor([floats])[0], model.detect([floats])[0]
    assert len(result) and result.image.dtype == np.uint8
    np.testing.assert_array_equal(result.image, images[2])
    np.testing.assert_array_equal(result.boxes, expected["rois"])
    np.testing.assert_allclose(result.scores, expected["scores"], atol=1e-4)


def test_garments_without_a_pixel_are_left_out(predictor, images):
    from mrcnn.predictor import Predictor

    def found(masks, **settings):
        chosen = Predictor(predictor.model, batch_size=2, min_score=0.0, **settings)
        prepared = chosen.prepare(np.full((128, 128, 3), 100, np.uint8))
        rows = np.zeros((60, 6), np.float32)
        scores = [0.9, 0.8, 0.7]
        rows[:3, :4] = [[0, 0, 0.5, 1], [0, 0, 1, 0.5], [0, 0, 0.4, 0.4]]
        rows[:3, 4], rows[:3, 5] = [8, 9, 8], scores
        result = chosen.to_result(prepared, [(rows, np.array(masks, np.float32))])
        assert (result.areas > 0).all()
        return [scores.index(round(float(s), 1)) for s in result.scores]

    full, none = np.ones((28, 28)), np.full((28, 28), 0.49)
    for refine in (False, True):
        assert found([full, full, full], refine=refine) == [0, 1, 2]
        assert found([full, none, full], refine=refine) == [0, 2]
        # What others hide has no pixel where each belongs to one garment.
        assert found([full, none, full], refine=refine, exclusive_masks=True) == [0]
        assert found([full, full, none], refine=refine, exclusive_masks=True) == [0, 1]
    assert found([none, full, full], max_detections=1) == [1]
    assert found([none] * 3) == []


def most_shared(result):
    """The highest IoU of two masks of a result."""
    masks = result.masks.reshape(-1, len(result)).astype(float)
    shared = masks.T @ masks
    areas = np.diag(shared)
    iou = shared / (areas[:, None] + areas - shared)
    return (iou - np.eye(len(result))).max()


def test_settings(predictor, images):
    from mrcnn.predictor import Predictor

    def with_settings(**settings):
        return Predictor(predictor.model, batch_size=2, min_score=0.0, **settings)

    plain = predictor(images[:1])[0]
    assert {"trousers", "skirt"} == set(plain.names) and len(plain) > 3
    skirts = with_settings(classes=["skirt"])(images[:1])[0]
    assert len(skirts) and set(skirts.names) == {"skirt"}
    best = with_settings(max_detections=2)(images[:1])[0]
    np.testing.assert_array_equal(best.boxes, plain.boxes[:2])
    best = with_settings(max_detections=1, classes=["skirt"])(images[:1])[0]
    np.testing.assert_array_equal(best.boxes, skirts.boxes[:1])
    exclusive = with_settings(exclusive_masks=True)(images[:1])[0]
    assert (plain.masks.sum(axis=2) > 1).any() and (exclusive.masks.sum(axis=2) <= 1).all()
    agnostic = with_settings(agnostic_nms=True)(images[:1])[0]
    assert most_shared(agnostic) < 0.5 <= most_shared(plain)
    lowest = float(plain.scores[1])
    high = Predictor(predictor.model, batch_size=2, min_score=lowest)(images[:1])[0]
    assert len(high) == (plain.scores >= plain.scores[1]).sum()


def test_masks_are_refined_as_the_model_says_unless_told_otherwise(predictor, images, monkeypatch):
    from mrcnn.predictor import Predictor

    def refined(**settings):
        return Predictor(predictor.model, batch_size=2, **settings)(images[:1])[0].refined

    assert not refined() and refined(refine=True)
    monkeypatch.setattr(predictor.model.config, "MASK_REFINE", True)
    assert refined() and not refined(refine=False)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.warns(UserWarning, match="masks stay coarser .* pip install opencv"):
        assert not refined()
    with pytest.raises(ImportError, match="pip install opencv"):
        refined(refine=True)


def test_a_mirrored_image_gives_mirrored_results_with_tta(predictor, images):
    from mrcnn.predictor import Predictor

    both = Predictor(predictor.model, batch_size=2, min_score=0.0, tta=True)
    plain, mirrored = both([images[2], np.ascontiguousarray(images[2][:, ::-1])])
    width = images[2].shape[1]
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
        ({"size": 100}, "size is 100; give a multiple of 64 up to 8192, such as 128"),
        ({"size": 64 * 1000}, "size is 64000; give a multiple of 64 up to 8192, such as 8192"),
        ({"size": 0}, "give a multiple of 64 up to 8192, such as 64"),
        ({"min_score": 1.5}, "min_score is 1.5; give a number from 0 to 1"),
        ({"device": "gpu:9"}, "there is no device 'gpu:9'; this machine has cpu:0"),
        ({"device": "toaster"}, "there is no device 'toaster'"),
    ],
)
def test_load_refuses_what_can_not_be(small_weights, settings, message):
    from mrcnn.predictor import Predictor

    with pytest.raises(ValueError, match=message):
        Predictor.load(small_weights, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": ["hat"]}, "unknown classes: hat; this model knows short_sleeved_shirt"),
        ({"classes": []}, "unknown classes: none given"),
        ({"classes": ["BG"]}, "unknown classes: BG"),
        ({"min_score": -0.1}, "min_score is -0.1; give a number from 0 to 1"),
        ({"max_detections": -1}, "max_detections is -1; give 1 or more"),
        ({"max_detections": 0}, "max_detections is 0; give 1 or more"),
        ({"batch_size": 0}, "batch_size is 0; give 1 or more"),
        ({"device": "toaster"}, "there is no device 'toaster'"),
    ],
)
def test_what_can_not_be_is_refused(predictor, settings, message):
    from mrcnn.predictor import Predictor

    with pytest.raises(ValueError, match=message):
        Predictor(predictor.model, **settings)


def test_size_device_and_fingerprint(small_weights, predictor, images):
    from mrcnn.predictor import Predictor, _sizes

    other = Predictor.load(
        small_weights, size=64, max_detections=10**9, device="cpu", precision="float32"
    )
    config = other.model.config
    assert (config.IMAGE_MIN_DIM, config.IMAGE_MAX_DIM) == (64, 64)
    # No more than there are proposals: memory is taken for each.
    assert config.DETECTION_MAX_INSTANCES == config.POST_NMS_ROIS_INFERENCE > 10
    assert other.class_names == DEEPFASHION2
    assert other.batch_size == 4 and other.weights == small_weights
    assert other.prepare(images[0]).views[0][0].shape == (64, 64, 3)
    wide = _sizes(config, (64, 192))
    assert wide == {"IMAGE_MIN_DIM": 64, "IMAGE_MAX_DIM": (64, 192)}
    assert _sizes(type(config).from_dict({**config.to_dict(), **wide}), 128) == _sizes(config, 128)
    with pytest.raises(
        ValueError, match=r"size is \(64, 100\); give a multiple of 64 up to 8192, such as 128"
    ):
        _sizes(config, (64, 100))
    again = Predictor(predictor.model, batch_size=4, min_score=0.0)
    assert again.fingerprint == predictor.fingerprint != other.fingerprint
    assert Predictor(predictor.model, min_score=0.0, tta=True).fingerprint != again.fingerprint


def test_one_image_at_a_time_where_weights_are_held(predictor, monkeypatch):
    import tensorflow as tf

    from mrcnn.predictor import Predictor

    monkeypatch.delenv("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", raising=False)
    assert Predictor(predictor.model).batch_size == 4
    monkeypatch.setenv("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    assert Predictor(predictor.model).batch_size == (4 if on_gpu else 1)
    assert Predictor(predictor.model, batch_size=3).batch_size == 3


def test_freezing_equals_not_freezing(model, images):
    """Weights scaled and cast once give what scaling them at each call gives."""
    from mrcnn.network import layers

    molded, metas, _ = model.mold_inputs(images[:1])
    before = model._run(molded, metas)
    assert layers.freeze(model.keras_model) > 60
    model._detections = type(model._detections)(model.keras_model)
    for one, two in zip(before, model._run(molded, metas), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)


def test_images_of_several_shapes_share_a_batch():
    from mrcnn.model import MaskRCNN
    from mrcnn.predictor import Predictor
    from tests.helpers.shapes import SmallConfig

    class PaddedConfig(SmallConfig):
        IMAGE_RESIZE_MODE = "pad64"
        IMAGE_MIN_DIM = IMAGE_MAX_DIM = 64
        DETECTION_MIN_CONFIDENCE = 0

    model = MaskRCNN("inference", PaddedConfig(), "logs")
    model.random_layers = []
    wide, tall = np.full((60, 120, 3), 90, np.uint8), np.full((120, 60, 3), 90, np.uint8)
    results = Predictor(model, batch_size=4)([wide, tall, wide])
    assert [r.size for r in results] == [(60, 120), (120, 60), (60, 120)]
    assert len(results[0])
    np.testing.assert_array_equal(results[0].boxes, results[2].boxes)
    assert model.traces == 2


def test_models_of_other_channels_are_refused():
    """A Predictor reads files as RGB."""
    from types import SimpleNamespace

    from mrcnn.predictor import Predictor
    from tests.helpers.shapes import SmallConfig

    config = SmallConfig.from_dict({"IMAGE_CHANNEL_COUNT": 1, "MEAN_PIXEL": [127.5]})
    with pytest.raises(ValueError, match="takes images of 1 channels.*MaskRCNN.detect"):
        Predictor(SimpleNamespace(config=config))
