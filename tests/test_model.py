"""`MaskRCNN` as matterport's sample programs use it: own data set, train, detect, inspect."""

import re
from pathlib import Path

import numpy as np
import pytest

from mrcnn import utils
from tests.helpers.shapes import SmallConfig, shapes

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def datasets():
    return shapes(6), shapes(2)


@pytest.fixture(scope="module")
def trained(datasets, tmp_path_factory):
    """A model after one epoch of `heads`."""
    from mrcnn import model as modellib

    logs = tmp_path_factory.mktemp("logs")
    model = modellib.MaskRCNN(mode="training", config=SmallConfig(), model_dir=str(logs))
    model.train(*datasets, learning_rate=0.001, epochs=1, layers="heads")
    return model


def test_run_folder_and_checkpoint(trained):
    folder = Path(trained.log_dir)
    assert re.fullmatch(r"shapes\d{8}T\d{4}", folder.name)
    checkpoint = folder / "mask_rcnn_shapes_0001.h5"
    assert trained.find_last() == str(checkpoint)
    header, row = (folder / "log.csv").read_text().strip().split("\n")
    names = header.split(",")
    assert names[:7] == [
        "epoch",
        "loss",
        "rpn_class_loss",
        "rpn_bbox_loss",
        "mrcnn_class_loss",
        "mrcnn_bbox_loss",
        "mrcnn_mask_loss",
    ]
    assert {"val_loss", "val_mrcnn_mask_loss", "learning_rate", "seconds"} <= set(names)
    assert len(row.split(",")) == len(names)


def test_heads_then_all_goes_on(trained, datasets):
    """Stages as in the original: epochs count from the first stage on."""
    import imgaug.augmenters as iaa
    import keras

    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((epoch, sorted(logs), float(self.model.optimizer.learning_rate)))

    def weights():
        return trained.keras_model.get_layer("own1_conv").get_weights()[0]

    before = weights()
    trained.train(
        *datasets,
        learning_rate=0.002,
        epochs=3,
        layers="all",
        augmentation=iaa.Sequential([iaa.Fliplr(0.5), iaa.Affine(rotate=(-5, 5))]),
        custom_callbacks=[Watch()],
        no_augmentation_sources=["other"],
    )
    assert [epoch for epoch, *_ in seen] == [1, 2]
    assert {"loss", "val_loss", "rpn_class_loss", "val_mrcnn_mask_loss"} <= set(seen[0][1])
    assert seen[0][2] == pytest.approx(0.002)
    assert trained.epoch == 3 and trained.find_last().endswith("mask_rcnn_shapes_0003.h5")
    assert not np.array_equal(before, weights())


class InferenceConfig(SmallConfig):
    GPU_COUNT = 1
    IMAGES_PER_GPU = 1
    DETECTION_MIN_CONFIDENCE = 0.0


@pytest.fixture(scope="module")
def inference(trained):
    from mrcnn import model as modellib

    model = modellib.MaskRCNN("inference", InferenceConfig(), trained.model_dir)
    model.load_weights(model.find_last(), by_name=True)
    # So little training finds nothing yet: let the class head call everything a square.
    model.keras_model.get_layer("mrcnn_class_logits").bias.assign([-9.0, 9.0, 0.0])
    return model


def test_class_names_travel_from_training_to_detection(inference):
    assert inference.class_names == ("BG", "square", "disc")


def test_detect(inference, datasets):
    image = datasets[1].load_image(0)
    results = inference.detect([image], verbose=1)
    assert len(results) == 1
    result = results[0]
    count = len(result["rois"])
    assert count > 0 and result["masks"].shape == (128, 128, count)
    assert set(result["class_ids"]) == {1}  # as the class head says
    assert (np.diff(result["scores"]) <= 0).all()
    # The same image gives the same detections.
    again = inference.detect([image])[0]
    np.testing.assert_array_equal(result["rois"], again["rois"])


def test_detect_needs_the_batch_size(inference):
    image = np.zeros((50, 40, 3), np.uint8)
    with pytest.raises(ValueError, match=r"got 2 images but the batch size is 1; pass 1 or set"):
        inference.detect([image, image])
    with pytest.raises(ValueError, match=r"shape \(50, 40\)"):
        inference.detect([image[..., 0]])


def test_detect_takes_what_becomes_an_image_and_refuses_the_rest(inference, datasets):
    image = datasets[1].load_image(0)
    (plain,) = inference.detect([image])
    assert len(plain["rois"])
    for same in (image.tolist(), image.astype(np.int64), image.astype(np.float32)):
        (found,) = inference.detect([same], verbose=1)
        np.testing.assert_array_equal(found["rois"], plain["rois"])
        assert found["masks"].shape == plain["masks"].shape
    for other in (
        image / 255,
        image.astype(np.uint16) * 257,
        image > 9,
        np.full((9, 9, 3), np.nan),
    ):
        with pytest.raises(ValueError, match=r"got an image of .*; give"):
            inference.detect([other])
    molded, metas, _ = inference.mold_inputs([image])
    molded[0, 5, 5] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        inference.detect_molded(molded, metas)


def test_any_size_and_one_trace(inference):
    traces = inference.traces
    for shape in ((1, 1, 3), (40, 300, 3), (500, 20, 3), (128, 128, 3)):
        result = inference.detect([np.full(shape, 120, np.uint8)])[0]
        assert result["masks"].shape[:2] == shape[:2]
    assert max(traces, 1) == inference.traces


def test_run_graph_and_inspection(inference, datasets, capsys):
    model = inference.keras_model
    image = datasets[0].load_image(1)
    values = inference.run_graph(
        [image],
        [(n, model.get_layer(n).output) for n in ("rpn_class", "ROI", "mrcnn_mask", "fpn_p2")],
    )
    assert values["ROI"].shape == (1, 50, 4) and values["fpn_p2"].shape == (1, 32, 32, 32)
    assert values["mrcnn_mask"].shape == (1, 100, 28, 28, 3)
    assert "rpn_class" in capsys.readouterr().out
    layers = inference.get_trainable_layers()
    assert {"own1_conv", "rpn_conv_shared"} < {layer.name for layer in layers}
    assert inference.find_trainable_layer(layers[0]) is layers[0]
    # The image is as large as the molded one.
    (molded,) = inference.detect_molded(*inference.mold_inputs([image])[:2])
    (plain,) = inference.detect([image])
    np.testing.assert_array_equal(molded["rois"], plain["rois"])
    np.testing.assert_array_equal(molded["masks"], plain["masks"])


def test_ancestors_of_a_tensor(inference):
    model = inference.keras_model
    rois = model.get_layer("ROI").output
    detections = model.get_layer("mrcnn_detection").output
    assert inference.ancestor(detections, "ROI") is rois
    assert inference.ancestor(detections, "mrcnn_cl.*") is model.get_layer("mrcnn_class").output
    assert inference.ancestor(rois, "mrcnn_class") is None  # comes after it
    # Operations of TensorFlow 1 have no counterpart.
    assert inference.ancestor(rois, "ROI/rpn_non_max_suppression:0") is None


def test_matterport_notebook_calls(datasets, inference):
    """The chain of the sample notebooks, on our functions."""
    from mrcnn import model as modellib
    from mrcnn import visualize
    from mrcnn.model import log

    image, meta, class_ids, bbox, mask = modellib.load_image_gt(
        datasets[0], inference.config, 0, use_mini_mask=False
    )
    log("gt_mask", mask)
    parts = modellib.parse_image_meta(meta[None])
    assert parts["image_shape"].tolist() == [[128, 128, 3]]
    result = inference.detect([image])[0]
    assert result["masks"].shape[:2] == mask.shape[:2]
    # What is exactly right has AP 1; with the better score on a wrong class, half of it.
    truth = bbox, class_ids, mask
    scores = np.array([0.9, 0.8])
    assert utils.compute_ap(*truth, bbox, class_ids, scores, mask)[0] == 1
    wrong = np.array([3 - class_ids[0], class_ids[1]])
    ap, precisions, recalls, _ = utils.compute_ap(*truth, bbox, wrong, scores, mask)
    assert ap == 0.25 and precisions[1:-1].tolist() == [0.5, 0.5]
    assert recalls[1:-1].tolist() == [0, 0.5]
    visualize.display_instances(image, bbox, mask, class_ids, datasets[0].class_names)
    generator = modellib.data_generator(datasets[0], SmallConfig(), shuffle=True, batch_size=2)
    inputs, outputs = next(generator)
    assert inputs[0].shape == (2, 128, 128, 3) and outputs == []


def test_training_learns(datasets, tmp_path):
    """A short training on six images: the losses fall."""
    import keras

    from mrcnn import model as modellib

    keras.utils.set_random_seed(0)

    class Quick(SmallConfig):
        STEPS_PER_EPOCH = 15

    model = modellib.MaskRCNN("training", Quick(), str(tmp_path))
    first = model.train(datasets[0], None, 0.05, 1, "all")
    last = model.train(datasets[0], None, 0.05, 4, "all")
    assert len(last) == 3
    assert last[-1]["loss"] < 0.7 * first[0]["loss"]
    assert "val_loss" not in last[0]


@pytest.mark.parametrize(
    ("layers", "inside", "outside"),
    [
        ("heads", "mrcnn_mask", "own5_conv"),
        ("all", "own1_conv", None),
        (r"(rpn\_.*)", "rpn_conv_shared", "fpn_p2"),
        ("own[45].*", "own4_bn", "own3_bn"),
    ],
)
def test_layers(trained, layers, inside, outside):
    from mrcnn.network.backbone import stage_patterns

    trained.set_trainable(stage_patterns(SmallConfig.BACKBONE).get(layers, layers), verbose=0)
    model = trained.keras_model
    rpn = model.get_layer("rpn_model")

    def trainable(name):
        return (rpn if name.startswith("rpn_") else model).get_layer(name).trainable

    assert trainable(inside)
    assert outside is None or not trainable(outside)


def test_two_new_runs_in_a_minute_have_folders_of_their_own(tmp_path):
    from mrcnn.model import MaskRCNN

    model = MaskRCNN("training", SmallConfig(), str(tmp_path))
    planned = model.log_dir
    Path(planned).mkdir()  # another run was faster
    model.make_log_dir()
    assert model.log_dir != planned and Path(model.log_dir).is_dir()
    assert Path(model.checkpoint_path).parent == Path(model.log_dir)
    again = model.log_dir
    model.make_log_dir()  # the next stage of the same run
    assert model.log_dir == again and len(list(tmp_path.iterdir())) == 2


def test_what_cannot_work_is_refused(trained, datasets, tmp_path):
    from mrcnn.model import MaskRCNN

    with pytest.raises(ValueError, match="matches no layer"):
        trained.set_trainable("resnet.*", verbose=0)
    with pytest.raises(ValueError, match="use 'training' or 'inference'"):
        MaskRCNN("predict", SmallConfig(), str(tmp_path))
    with pytest.raises(RuntimeError, match=r"detect\(\) needs mode='inference'"):
        trained.detect([])
    with pytest.raises(ValueError, match="no images"):
        trained.train(utils.Dataset(), None, 0.001, 9, "heads")
    other = utils.Dataset()
    other.add_image("shapes", 0, None)
    other.prepare()
    with pytest.raises(ValueError, match="1 classes, background included, but NUM_CLASSES is 3"):
        trained.train(other, None, 0.001, 9, "heads")
    many = type("Many", (SmallConfig,), {"GPU_COUNT": 2})
    with pytest.raises(ValueError, match="GPU_COUNT is 2"):
        MaskRCNN("training", many(), str(tmp_path))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision(inference, datasets, dtype):
    """The network in half the bits finds nearly the same; boxes and scores stay float32."""
    from mrcnn.model import MaskRCNN

    config = type("Low", (InferenceConfig,), {"COMPUTE_DTYPE": dtype})()
    model = MaskRCNN("inference", config, inference.model_dir)
    model.load_weights(inference.find_last(), by_name=True)
    image = datasets[1].load_image(1)
    names = ["rpn_class", "fpn_p2"]
    values = {}
    for which, net in (("low", model), ("full", inference)):
        outputs = [(n, net.keras_model.get_layer(n).output) for n in names]
        values[which] = net.run_graph([image], outputs)
    assert str(model.keras_model.get_layer("fpn_p2").output.dtype) == dtype
    assert str(model.keras_model.get_layer("rpn_class").output.dtype) == "float32"
    np.testing.assert_allclose(values["low"]["rpn_class"], values["full"]["rpn_class"], atol=0.05)
    assert model.detect([image])[0]["scores"].dtype == np.float32


def test_weights_loaded_by_the_keras_model_count(trained, datasets, tmp_path):
    """Old programs call keras_model.load_weights(); detect() must not call those random."""
    import warnings

    from mrcnn.model import MaskRCNN

    trained.save_weights(tmp_path / "weights.h5")
    model = MaskRCNN("inference", InferenceConfig(), str(tmp_path))
    image = datasets[0].load_image(0)
    with pytest.warns(UserWarning, match="layers hold random weights"):
        model.detect([image])
    model.keras_model.load_weights(tmp_path / "weights.h5", by_name=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.detect([image])
