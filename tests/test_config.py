import json

import numpy as np
import pytest

from mrcnn.config import Config
from mrcnn.presets import CONFIGS, CompactConfig


class TwoClasses(Config):
    NAME = "two"
    NUM_CLASSES = 2


def test_defaults_of_the_original():
    config = TwoClasses()
    assert config.BACKBONE == "resnet101" and config.BACKBONE_STRIDES == [4, 8, 16, 32, 64]
    assert config.RPN_ANCHOR_SCALES == (32, 64, 128, 256, 512)
    assert (config.LEARNING_RATE, config.LEARNING_MOMENTUM) == (0.001, 0.9)
    assert (config.WEIGHT_DECAY, config.GRADIENT_CLIP_NORM) == (0.0001, 5.0)
    assert config.MEAN_PIXEL.tolist() == [123.7, 116.8, 103.9]
    assert config.TRAIN_BN is False


def test_derived_values():
    class Other(TwoClasses):
        GPU_COUNT = 2
        IMAGES_PER_GPU = 3
        IMAGE_MAX_DIM = 256

    config = Other()
    assert config.BATCH_SIZE == 6
    assert config.IMAGE_SHAPE.tolist() == [256, 256, 3]
    assert config.IMAGE_META_SIZE == 14

    class Crop(TwoClasses):
        IMAGE_RESIZE_MODE = "crop"
        IMAGE_MIN_DIM = 128

    assert Crop().IMAGE_SHAPE.tolist() == [128, 128, 3]


def test_dict_round_trip_through_json():
    values = json.loads(json.dumps(CompactConfig().to_dict()))
    again = Config.from_dict(values)
    assert again.to_dict() == CompactConfig().to_dict()
    assert isinstance(again.MEAN_PIXEL, np.ndarray) and again.BACKBONE == "mobilenet_v2"


def test_derived_values_follow_the_overrides():
    config = Config.from_dict({**CompactConfig().to_dict(), "IMAGES_PER_GPU": 3})
    assert config.BATCH_SIZE == 3


@pytest.mark.parametrize("name", ["validate", "__init__", "_names", "to_dict", "_RPN", "Name", ""])
def test_what_is_no_setting_takes_no_place_of_a_method(name):
    with pytest.raises(ValueError, match="is no name of a setting"):
        Config.from_dict({name: 5})
    assert Config.from_dict({"MY_OWN": 5}).MY_OWN == 5


def test_a_callable_backbone_is_left_out_of_the_dict():
    class Own(TwoClasses):
        @staticmethod
        def BACKBONE(image, stage5, train_bn):
            return []

        @staticmethod
        def COMPUTE_BACKBONE_SHAPE(shape):
            return []

    assert "BACKBONE" not in Own().to_dict()
    Own().validate()


def test_display_prints_each_value(capsys):
    TwoClasses().display()
    printed = capsys.readouterr().out
    assert "NUM_CLASSES" in printed and "BATCH_SIZE" in printed


@pytest.mark.parametrize("name", CONFIGS)
def test_ready_made_configurations_are_valid(name):
    CONFIGS[name]().validate()
    assert CONFIGS[name].NUM_CLASSES == 14


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"NUM_CLASSES": 1}, "NUM_CLASSES is 1; set it to 1 .background."),
        ({"IMAGE_MAX_DIM": 500}, "IMAGE_MAX_DIM is 500; .* 448 or 512"),
        ({"IMAGE_MAX_DIM": (448, 500)}, r"IMAGE_MAX_DIM is \(448, 500\); .* 448 or 512"),
        ({"IMAGE_RESIZE_MODE": "pad64", "IMAGE_MIN_DIM": 100}, "IMAGE_MIN_DIM is 100"),
        ({"IMAGE_RESIZE_MODE": "stretch"}, "IMAGE_RESIZE_MODE is 'stretch'"),
        ({"BACKBONE": "vgg"}, "BACKBONE is 'vgg'"),
        ({"COMPUTE_DTYPE": "int8"}, "COMPUTE_DTYPE is 'int8'"),
        ({"RPN_ANCHOR_SCALES": (32, 64)}, "RPN_ANCHOR_SCALES has 2 values"),
        ({"MEAN_PIXEL": np.zeros(2)}, "MEAN_PIXEL has 2 values"),
        ({"MASK_SHAPE": [56, 56]}, "MASK_SHAPE is .*28, 28"),
        ({"GPU_COUNT": 0}, "GPU_COUNT is 0"),
        ({"STEPS_PER_EPOCH": 0}, "STEPS_PER_EPOCH is 0"),
        ({"NAME": "a/b"}, "NAME is 'a/b'.*leave out /"),
        ({"EMA_DECAY": 1.0}, "EMA_DECAY is 1.0"),
        ({"EMA_DECAY": float("nan")}, "EMA_DECAY is nan"),
        ({"EDGE_LOSS_WEIGHT": -1}, "EDGE_LOSS_WEIGHT is -1"),
        ({"LABEL_SMOOTHING": 1}, "LABEL_SMOOTHING is 1"),
        ({"HEAD_DROPOUT": 1}, "HEAD_DROPOUT is 1"),
        ({"ROI_POSITIVE_RATIO": 0.0}, "ROI_POSITIVE_RATIO is 0.0"),
        ({"LOSS_WEIGHTS": {"class": 1.0}}, "LOSS_WEIGHTS has .'class'."),
    ],
)
def test_what_cannot_work_is_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        type("Bad", (TwoClasses,), changes)().validate()


def test_all_findings_are_in_one_message():
    bad = type("Bad", (TwoClasses,), {"BACKBONE": "vgg", "GPU_COUNT": 0})()
    with pytest.raises(ValueError, match="BACKBONE") as error:
        bad.validate()
    assert "GPU_COUNT" in str(error.value)


def test_an_input_that_is_not_square():
    config = Config.from_dict({"NUM_CLASSES": 2, "IMAGE_MAX_DIM": (384, 640)})
    config.validate()
    assert config.IMAGE_SHAPE.tolist() == [384, 640, 3]
    again = Config.from_dict(config.to_dict())
    assert again.IMAGE_SHAPE.tolist() == [384, 640, 3] and again.IMAGE_MAX_DIM == [384, 640]
