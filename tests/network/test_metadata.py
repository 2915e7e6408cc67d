"""What a weights file says of its model, checked."""

from pathlib import Path

import pytest

from mrcnn.config import Config
from mrcnn.network.metadata import _DERIVED, FileInfo, StoredConfig, stored_config
from mrcnn.network.weights_file import WeightsError
from mrcnn.presets import CONFIGS

SHAPES = {
    "Conv1/Conv1/kernel:0": (3, 3, 3, 32),
    "block_16_project/block_16_project/kernel:0": (1, 1, 960, 320),
    "fpn_c5p5/fpn_c5p5/kernel:0": (1, 1, 320, 128),
    "rpn_model/rpn_conv_shared/kernel:0": (3, 3, 128, 128),
    "rpn_model/rpn_class_raw/kernel:0": (1, 1, 128, 6),
    "mrcnn_class_conv1/mrcnn_class_conv1/kernel:0": (7, 7, 128, 1024),
    "mrcnn_class_logits/mrcnn_class_logits/kernel:0": (1024, 14),
    "mrcnn_mask_conv1/mrcnn_mask_conv1/kernel:0": (3, 3, 128, 128),
}


def info(config=None, names=None, shapes=None):
    return FileInfo(Path("w.h5"), names, config, SHAPES if shapes is None else shapes)


def test_every_setting_has_its_type_and_bounds():
    assert set(StoredConfig.__annotations__) | set(_DERIVED) == {
        *Config().to_dict(),
        "BACKBONE",
        "COMPUTE_BACKBONE_SHAPE",
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_what_our_configurations_write_is_read(name, recwarn):
    config = CONFIGS[name]()
    # Sizes of the layers are tried below.
    stored = stored_config(info(config.to_dict(), shapes={}))
    assert Config.from_dict(stored).to_dict() == Config.from_dict(config.to_dict()).to_dict()
    assert not recwarn


def test_infinity_and_whole_floats_are_read():
    """JSON has no infinity; programs write 512.0 for 512."""
    values = CONFIGS["compact"]().to_dict()
    values |= {"GRADIENT_CLIP_NORM": None, "IMAGE_MAX_DIM": 512.0, "IMAGE_MIN_DIM": None}
    stored = stored_config(info(values))
    assert "GRADIENT_CLIP_NORM" not in stored and stored["IMAGE_MAX_DIM"] == 512
    assert stored["IMAGE_MIN_DIM"] is None


def test_files_without_a_configuration_get_what_their_layers_say():
    assert stored_config(info()) == {
        "NAME": "mask_rcnn",
        "NUM_CLASSES": 14,
        "BACKBONE": "mobilenet_v2",
        "TOP_DOWN_PYRAMID_SIZE": 128,
        "FPN_CLASSIF_FC_LAYERS_SIZE": 1024,
        "RPN_CONV_CHANNELS": 128,
        "MASK_CONV_CHANNELS": 128,
        "POOL_SIZE": 7,
        "IMAGE_CHANNEL_COUNT": 3,
    }
    with pytest.raises(WeightsError, match="no whole Mask R-CNN .*class head: no, backbone: None"):
        stored_config(info(shapes={"dense/kernel:0": (2, 2)}))


def test_unknown_settings_are_named_and_ignored():
    odd = {"MY_OWN": 1, "validate": 2, "__init__": 3, "\x1b[2J": 4, "x" * 999: 5, "a": 6, "b": 7}
    with pytest.warns(UserWarning) as caught:
        stored = stored_config(info(CONFIGS["compact"]().to_dict() | odd))
    assert not set(odd) & set(stored)
    (text,) = [str(warning.message) for warning in caught]
    assert 'w.h5: unknown settings are ignored: "MY_OWN", "validate"' in text
    assert text.endswith("and 2 more") and text.isprintable() and len(text) < 250


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"IMAGE_MAX_DIM": 10**6}, "IMAGE_MAX_DIM is 1000000; Expected `int` <= 4096"),
        ({"NUM_CLASSES": "14"}, 'NUM_CLASSES is "14"; Expected `int`, got `str`'),
        ({"IMAGE_MAX_DIM": 500}, "IMAGE_MAX_DIM is 500; it must be a multiple of 64"),
        ({"NUM_CLASSES": 81}, "NUM_CLASSES is 81, but the layers have 14"),
        ({"BACKBONE": "resnet50"}, 'BACKBONE is "resnet50", but the layers have mobilenet_v2'),
        ({"FPN_CLASSIF_FC_LAYERS_SIZE": 512}, "SIZE is 512, but the layers have 1024"),
        ({"RPN_ANCHOR_RATIOS": [1, 2]}, "RPN_ANCHOR_RATIOS has 2 values, .* are for 3"),
        ({"NAME": "x" * 9999}, "NAME is .{60}\\.\\.\\.; Expected `str` of length <= 200"),
        (
            {"DETECTION_MAX_INSTANCES": 9999},
            "DETECTION_MAX_INSTANCES is 9999; set it to 2674 or less",
        ),
    ],
)
def test_what_can_not_be_is_refused(changes, text):
    with pytest.raises(WeightsError, match="(?s)in w.h5 can't be used: .*" + text):
        stored_config(info(CONFIGS["compact"]().to_dict() | changes))


def test_a_model_of_gigabytes_is_refused():
    shapes = SHAPES | {"mrcnn_class_conv2/mrcnn_class_conv2/kernel:0": (1, 1, 16384, 16384)}
    with pytest.raises(WeightsError, match="the model has 27.* weights; files may have 134217728"):
        stored_config(info(shapes=shapes))
    # Nor one that is only claimed, by a file without that head.
    shapes = {n: s for n, s in SHAPES.items() if not n.startswith("mrcnn_class_conv")}
    values = CONFIGS["compact"]().to_dict() | {"FPN_CLASSIF_FC_LAYERS_SIZE": 16384}
    with pytest.raises(WeightsError, match="the model has .* weights; files may have"):
        stored_config(info(values, shapes=shapes))


def test_a_backbone_of_somebodys_own():
    values = CONFIGS["compact"]().to_dict()
    del values["BACKBONE"]
    shapes = {n: s for n, s in SHAPES.items() if not n.startswith("block")}
    with pytest.raises(WeightsError, match="had one of its own; build it with its own Config"):
        stored_config(info(values, shapes=shapes))


def test_class_names_must_be_as_many_as_the_classes():
    with pytest.raises(WeightsError, match="class names in w.h5 can't be used: got 2 .* for 14"):
        stored_config(info(names=("BG", "hat")))
