"""ResNet, MobileNetV2 and the feature pyramid: layer names, shapes and values."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn.config import Config
from mrcnn.network.backbone import (
    MOBILENET_TAPS,
    build_backbone,
    conv_block,
    fpn_graph,
    identity_block,
    mobilenet_v2_graph,
    resnet_graph,
    stage_patterns,
)
from mrcnn.network.layers import BatchNorm, DepthwiseConv2D, fold_batch_norms

pytestmark = pytest.mark.tf

HEIGHT, WIDTH = 128, 192
CHANNELS = {
    "resnet50": (64, 256, 512, 1024, 2048),
    "mobilenet_v2": (32, 144, 192, 576, 1280),
}


def trunk_and_pyramid(build):
    """A model from an image to [C1..C5, P2..P6]."""
    image = keras.Input((None, None, 3))
    trunk = build(image)
    return keras.Model(image, [*trunk, *fpn_graph(trunk[1:], 16)])


@pytest.fixture(scope="module")
def models():
    keras.utils.set_random_seed(0)
    return {
        "resnet50": trunk_and_pyramid(
            lambda image: resnet_graph(image, "resnet50", True, train_bn=False)
        ),
        "mobilenet_v2": trunk_and_pyramid(mobilenet_v2_graph),
    }


@pytest.fixture(scope="module")
def outputs(models):
    """Each model's maps of an image of 128x192."""
    image = np.random.default_rng(0).uniform(-127, 127, (1, HEIGHT, WIDTH, 3))
    image = tf.constant(image, tf.float32)
    return {name: model(image) for name, model in models.items()}


def matching(models, backbone, group):
    """Names of the layers with weights that `train(layers=group)` trains."""
    pattern = stage_patterns(backbone)[group]
    layers = (layer for layer in models[backbone].layers if layer.weights)
    return {layer.name for layer in layers if re.fullmatch(pattern, layer.name)}


# --- Shapes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", CHANNELS)
def test_map_shapes(outputs, backbone):
    shapes = [tuple(out.shape) for out in outputs[backbone]]
    for level, channels in enumerate(CHANNELS[backbone], start=1):
        # The original counts ResNet's max-pooled map, at stride 4, as C1.
        stride = 4 if (backbone, level) == ("resnet50", 1) else 2**level
        assert shapes[level - 1] == (1, HEIGHT // stride, WIDTH // stride, channels)
    strides = [HEIGHT // shape[1] for shape in shapes[5:]]
    assert strides == [4, 8, 16, 32, 64]
    assert shapes[5:] == [(1, HEIGHT // stride, WIDTH // stride, 16) for stride in strides]


def test_p6_is_p5_subsampled(outputs):
    *_, p5, p6 = outputs["resnet50"]
    np.testing.assert_array_equal(p6, p5[:, ::2, ::2])


def test_resnet_without_its_last_stage():
    image = keras.Input((64, 64, 3))
    *maps, c5 = resnet_graph(image, "resnet50")
    assert c5 is None
    assert maps[-1].shape == (None, 4, 4, 1024)


def test_other_resnets_are_refused():
    with pytest.raises(ValueError, match=r"resnet34.*resnet50"):
        resnet_graph(keras.Input((64, 64, 3)), "resnet34")


# --- Names ------------------------------------------------------------------------------------


def test_resnet_names_and_strides(models):
    model = models["resnet50"]
    stages = {2: "abc", 3: "abcd", 4: "abcdef", 5: "abc"}
    expected = {"conv1", "bn_conv1"}
    for stage, blocks in stages.items():
        for block in blocks:
            branches = ("2a", "2b", "2c", "1") if block == "a" else ("2a", "2b", "2c")
            expected |= {f"{p}{stage}{block}_branch{b}" for p in ("res", "bn") for b in branches}
    names = {layer.name for layer in model.layers if layer.weights}
    assert {n for n in names if not n.startswith("fpn_")} == expected
    # Version 1: the stride sits in the first 1x1.
    strided = {layer.name for layer in model.layers if getattr(layer, "strides", 1) == (2, 2)}
    blocks = {f"res{stage}a_branch{branch}" for stage in (3, 4, 5) for branch in ("2a", "1")}
    assert {n for n in strided if re.match(r"conv|res", n)} == {"conv1"} | blocks


def test_resnet101_has_22_more_blocks_in_stage_4():
    image = keras.Input((None, None, 3))
    model = keras.Model(image, resnet_graph(image, "resnet101", train_bn=False)[-2])
    blocks = {n.name[4] for n in model.layers if re.fullmatch(r"res4._branch2c", n.name)}
    assert "".join(sorted(blocks)) == "abcdefghijklmnopqrstuvw"


def test_pyramid_names(models):
    names = {layer.name for layer in models["resnet50"].layers if layer.name.startswith("fpn_")}
    convolutions = {f"fpn_c{i}p{i}" for i in (2, 3, 4, 5)} | {f"fpn_p{i}" for i in (2, 3, 4, 5, 6)}
    sums = {f"fpn_p{i}add" for i in (2, 3, 4)} | {f"fpn_p{i}upsampled" for i in (3, 4, 5)}
    assert names == convolutions | sums


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_batch_norm_and_dtype_reach_every_layer(dtype):
    image = keras.Input((64, 64, 3), dtype=dtype)
    for build in (resnet_graph, mobilenet_v2_graph):
        options = {"train_bn": True, "dtype": dtype}
        extra = {"architecture": "resnet50", "stage5": True} if build is resnet_graph else {}
        model = keras.Model(image, build(image, **extra, **options))
        norms = [
            layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)
        ]
        assert len(norms) in (52, 53)
        assert all(isinstance(n, BatchNorm) and n.train_bn is True for n in norms)
        assert {out.dtype for out in model.outputs} == {dtype}
        assert {layer.compute_dtype for layer in model.layers[1:]} == {dtype}


# --- Stages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [3, 4, 5])
def test_resnet_stages(models, stage):
    names = matching(models, "resnet50", f"{stage}+")
    every = {layer.name for layer in models["resnet50"].layers if layer.weights}
    pattern = rf"(res|bn)[{stage}-5].*|fpn_.*"
    assert names == {name for name in every if re.match(pattern, name)}
    assert f"res{stage}a_branch2a" in names and f"bn{stage - 1}c_branch2c" not in names
    assert not names & {"conv1", "bn_conv1", f"res{stage - 1}a_branch2a"}


@pytest.mark.parametrize(
    ("stage", "first", "below"),
    [
        (3, "block_3_depthwise", "block_3_expand_BN"),
        (4, "block_6_depthwise", "block_6_expand_BN"),
        (5, "block_13_depthwise", "block_13_expand_BN"),
    ],
)
def test_mobilenet_stages(models, stage, first, below):
    names = matching(models, "mobilenet_v2", f"{stage}+")
    # keras.applications builds the layers in the order in which they run.
    order = [layer.name for layer in models["mobilenet_v2"].layers if layer.weights]
    trunk = [name for name in order if not name.startswith("fpn_")]
    assert trunk[trunk.index(first) - 1] == below
    assert names == set(trunk[trunk.index(first) :]) | {n for n in order if n.startswith("fpn_")}


@pytest.mark.parametrize("backbone", CHANNELS)
def test_heads_and_all(models, backbone):
    every = {layer.name for layer in models[backbone].layers if layer.weights}
    assert matching(models, backbone, "all") == every
    heads = matching(models, backbone, "heads")
    assert heads == {f"fpn_c{i}p{i}" for i in (2, 3, 4, 5)} | {f"fpn_p{i}" for i in (2, 3, 4, 5)}
    pattern = stage_patterns(backbone)["heads"]
    for name in ("rpn_model", "mrcnn_class_conv1", "mrcnn_mask_bn4", "mrcnn_bbox_fc"):
        assert re.fullmatch(pattern, name)
        assert all(re.fullmatch(p, name) for p in stage_patterns(backbone).values())


# --- Values -----------------------------------------------------------------------------------


def test_mobilenet_is_keras_applications_own():
    source = keras.applications.MobileNetV2(
        input_shape=(HEIGHT, WIDTH, 3), include_top=False, weights=None
    )
    rng = np.random.default_rng(1)
    image = keras.Input((None, None, 3))
    ours = keras.Model(image, mobilenet_v2_graph(image))
    for layer in source.layers:
        for weight in layer.weights:
            if "variance" in weight.name or "gamma" in weight.name:
                weight.assign(rng.uniform(0.5, 1.5, weight.shape))
            else:
                # Kernels keep the size of the activations: 9 inputs a channel when depthwise.
                inputs = 9 if "depthwise" in layer.name else np.prod(weight.shape[:-1])
                scale = (1 / inputs) ** 0.5 if weight.name == "kernel" else 0.1
                weight.assign(scale * rng.standard_normal(weight.shape))
        if layer.weights:
            ours.get_layer(layer.name).set_weights(layer.get_weights())
    image = tf.constant(rng.uniform(-127.5, 127.5, (1, HEIGHT, WIDTH, 3)), tf.float32)
    taps = keras.Model(source.input, [source.get_layer(name).output for name in MOBILENET_TAPS])
    expected = taps((image + 127.5) / 127.5 - 1)
    plain = ours(image)
    assert fold_batch_norms(ours) == 52
    folded = ours(image)
    for one, two, reference in zip(plain, folded, expected, strict=True):
        assert np.std(reference) > 0.1
        np.testing.assert_allclose(one, reference, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(two, reference, rtol=1e-5, atol=1e-5)


def reference_resnet50(model, x):
    """C1..C5 by TensorFlow's own functions, with the weights of a model that wasn't trained."""

    def conv_bn(x, name, stride=1, padding="VALID"):
        kernel, bias = (w.value for w in model.get_layer(name).weights)
        x = tf.nn.conv2d(x, kernel, stride, padding) + bias
        return x / np.sqrt(1.001)  # mean 0, variance 1, epsilon 1e-3

    x = tf.nn.relu(conv_bn(tf.pad(x, [[0, 0], [3, 3], [3, 3], [0, 0]]), "conv1", 2))
    maps = [tf.nn.max_pool2d(x, 3, 2, "SAME")]
    x = maps[0]
    for stage, blocks in ((2, "abc"), (3, "abcd"), (4, "abcdef"), (5, "abc")):
        for block in blocks:
            name, stride = f"res{stage}{block}_branch", 2 if stage > 2 and block == "a" else 1
            y = tf.nn.relu(conv_bn(x, f"{name}2a", stride))
            y = tf.nn.relu(conv_bn(y, f"{name}2b", padding="SAME"))
            shortcut = conv_bn(x, f"{name}1", stride) if block == "a" else x
            x = tf.nn.relu(conv_bn(y, f"{name}2c") + shortcut)
        maps.append(x)
    return maps


def test_resnet_is_the_papers(models):
    image = np.random.default_rng(2).uniform(-127, 127, (1, 64, 64, 3)).astype(np.float32)
    expected = reference_resnet50(models["resnet50"], image)
    for ours, reference in zip(models["resnet50"](image)[:5], expected, strict=True):
        scale = np.abs(reference).max()
        np.testing.assert_allclose(ours / scale, reference / scale, atol=1e-5)


def test_mobilenet_has_our_layers(models):
    layers = models["mobilenet_v2"].layers
    depthwise = [layer for layer in layers if isinstance(layer, keras.layers.DepthwiseConv2D)]
    assert len(depthwise) == 17
    assert all(isinstance(layer, DepthwiseConv2D) for layer in depthwise)
    bounds = [layer.max_value for layer in layers if isinstance(layer, keras.layers.ReLU)]
    assert bounds == [6.0] * 35


def test_pyramid_adds_what_is_above():
    c_maps = [keras.Input((side, side, 1)) for side in (16, 8, 4, 2)]
    model = keras.Model(c_maps, fpn_graph(c_maps, 1))
    centre = np.zeros((3, 3, 1, 1))
    centre[1, 1] = 1
    for level in (2, 3, 4, 5):
        model.get_layer(f"fpn_c{level}p{level}").set_weights([np.ones((1, 1, 1, 1)), np.zeros(1)])
        model.get_layer(f"fpn_p{level}").set_weights([centre, np.zeros(1)])
    maps = [tf.fill((1, 16 // 2**i, 16 // 2**i, 1), 10.0**i) for i in range(4)]
    for out, value in zip(model(maps), (1111, 1110, 1100, 1000, 1000), strict=True):
        np.testing.assert_allclose(out, np.full(out.shape, value), rtol=1e-6)


# --- By configuration -------------------------------------------------------------------------


def test_build_backbone_takes_a_callable():
    def own(image, stage5, train_bn):
        return [image, stage5, train_bn]

    config = Config()
    config.BACKBONE, config.TRAIN_BN = own, None
    assert build_backbone("image", config, "float32") == ["image", True, None]
    assert stage_patterns(own) == stage_patterns("resnet101")


def test_build_backbone_takes_a_name():
    config = Config()
    config.BACKBONE, config.TRAIN_BN = "mobilenet_v2", False
    maps = build_backbone(keras.Input((64, 64, 3)), config, "bfloat16")
    assert [m.shape[-1] for m in maps] == list(CHANNELS["mobilenet_v2"])
    assert {m.dtype for m in maps} == {"bfloat16"}


@pytest.mark.parametrize("use_bias", [True, False])
def test_blocks_for_backbones_of_ones_own(models, use_bias):
    """matterport's pieces, with its names: two of them are the start of a ResNet's stage 2."""
    image = keras.Input((None, None, 64))
    options = {"train_bn": False, "use_bias": use_bias}
    x = conv_block(image, 3, [64, 64, 256], 2, "a", strides=(1, 1), **options)
    y = identity_block(x, 3, [64, 64, 256], stage=2, block="b", **options)
    model = keras.Model(image, [x, y])
    resnet = models["resnet50"]
    for layer in model.layers:
        if layer.weights:
            own = resnet.get_layer(layer.name).get_weights()
            layer.set_weights(own if use_bias or "bn" in layer.name else own[:1])
    values = tf.constant(np.random.default_rng(1).normal(size=(1, 8, 12, 64)), tf.float32)
    stage = keras.Model(
        resnet.get_layer("res2a_branch2a").input,
        [resnet.get_layer(f"res2{block}_out").output for block in "ab"],
    )
    for ours, theirs in zip(model(values), stage(values), strict=True):
        assert ours.shape == (1, 8, 12, 256)
        # The biases of a fresh ResNet are 0.
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    smaller = conv_block(image, 5, [8, 8, 16], 3, "a")
    assert keras.Model(image, smaller)(values).shape == (1, 4, 6, 16)
