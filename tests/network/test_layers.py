"""Convolutions folded with frozen batch norm, the layers on five axes, and dtypes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as KL

from mrcnn.network.layers import (
    BatchNorm,
    Conv2D,
    Conv2DTranspose,
    DepthwiseConv2D,
    Dropout,
    Upsample2x,
    fold_batch_norms,
    freeze,
    policy_for,
    resolve_dtype,
)

pytestmark = pytest.mark.tf

RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((2, 9, 11, 3)).astype(np.float32)


def randomise(model, seed=0):
    """Gives each weight values that a trained model might have."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "variance" in weight.name or "gamma" in weight.name:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        else:
            weight.assign(0.3 * rng.standard_normal(weight.shape))


def conv_bn_model(kind, train_bn=False, dtype="float32", **options):
    """A convolution, its batch norm and a ReLU, with random weights."""
    policy = policy_for(dtype)
    conv = {
        "conv": lambda: Conv2D(5, 3, dtype=policy, padding="same", strides=2, **options),
        "conv without bias": lambda: Conv2D(5, 3, use_bias=False, dtype=policy, **options),
        "depthwise": lambda: DepthwiseConv2D(3, padding="same", dtype=policy, **options),
        "depthwise without bias": lambda: DepthwiseConv2D(
            3, strides=2, use_bias=False, dtype=policy, **options
        ),
        "product": lambda: Conv2D(5, IMAGE.shape[1:3], dtype=policy, **options),
    }[kind]()
    image = keras.Input(IMAGE.shape[1:] if kind == "product" else (None, None, 3), dtype=dtype)
    x = BatchNorm(train_bn=train_bn, name="bn", dtype=policy)(conv(image))
    model = keras.Model(image, KL.Activation("relu", dtype=policy)(x))
    randomise(model)
    return model


def value_and_gradients(model, x):
    """The output, and the gradients of its weighted sum by the names of the weights."""
    with tf.GradientTape() as tape:
        out = tf.cast(model(x), tf.float32)
        weights = np.random.default_rng(1).standard_normal(out.shape)
        loss = tf.reduce_sum(out * tf.constant(weights, tf.float32))
    variables = model.trainable_weights
    gradients = tape.gradient(loss, [v.value for v in variables])
    return out.numpy(), {v.name: g.numpy() for v, g in zip(variables, gradients, strict=True)}


KINDS = ["conv", "conv without bias", "depthwise", "depthwise without bias", "product"]


# --- Folding ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_folded_equals_unfolded_in_values_and_gradients(kind):
    model = conv_bn_model(kind)
    out, gradients = value_and_gradients(model, IMAGE)
    assert fold_batch_norms(model) == 1
    assert model.get_layer("bn").is_folded
    folded_out, folded_gradients = value_and_gradients(model, IMAGE)
    np.testing.assert_allclose(folded_out, out, rtol=1e-5, atol=1e-5)
    bias = set() if "without" in kind else {"bias"}
    assert set(folded_gradients) == {"kernel", "gamma", "beta"} | bias
    for name, gradient in gradients.items():
        # Sums over 60 to 200 pixels.
        scale = np.abs(gradient).max()
        assert scale > 0.1
        np.testing.assert_allclose(folded_gradients[name] / scale, gradient / scale, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_folded_equals_unfolded_in_bfloat16(kind):
    exact, _ = value_and_gradients(conv_bn_model(kind), IMAGE)
    model = conv_bn_model(kind, dtype="bfloat16")
    image = tf.constant(IMAGE, tf.bfloat16)
    assert model(image).dtype == tf.bfloat16
    unfolded, gradients = value_and_gradients(model, image)
    assert fold_batch_norms(model) == 1
    folded, folded_gradients = value_and_gradients(model, image)
    assert model(image).dtype == tf.bfloat16
    # A bfloat16 has 8 bits: 0.4 % of the largest term of sums of 3 to 27.
    for out in (unfolded, folded):
        np.testing.assert_allclose(out, exact, atol=0.02 * np.abs(exact).max())
    for name, gradient in gradients.items():
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(folded_gradients[name] / scale, gradient / scale, atol=0.06)


def test_folding_reads_the_weights_at_each_call():
    model = conv_bn_model("conv")
    fold_batch_norms(model)
    before = model(IMAGE).numpy()
    model.get_layer("bn").moving_mean.assign(np.full(5, -3.0))
    assert (model(IMAGE).numpy() > before).any()


def test_folding_keeps_the_layers_and_their_weights():
    model = conv_bn_model("conv")
    names = [w.path for w in model.weights]
    trainable = [w.path for w in model.trainable_weights]
    fold_batch_norms(model)
    assert [w.path for w in model.weights] == names
    assert [w.path for w in model.trainable_weights] == trainable
    assert len(names) == len(set(names)) == 6


@pytest.mark.parametrize("train_bn", [None, True])
def test_batch_norm_that_trains_is_not_folded(train_bn):
    model = conv_bn_model("conv", train_bn)
    assert fold_batch_norms(model) == 0
    assert not model.get_layer("bn").is_folded


def test_convolution_with_a_second_consumer_is_not_folded():
    image = keras.Input((None, None, 3))
    x = Conv2D(3, 1)(image)
    model = keras.Model(image, KL.Add()([x, BatchNorm(train_bn=False)(x)]))
    assert fold_batch_norms(model) == 0


def test_batch_norm_behind_something_else_is_not_folded():
    image = keras.Input((None, None, 3))
    x = KL.Activation("relu")(Conv2D(3, 1)(image))
    x = BatchNorm(train_bn=False)(BatchNorm(train_bn=False)(x))
    assert fold_batch_norms(keras.Model(image, x)) == 0


def test_batch_norm_behind_an_activated_convolution_keeps_its_values():
    model = conv_bn_model("conv", activation="relu")
    before = model(IMAGE)
    fold_batch_norms(model)
    np.testing.assert_allclose(model(IMAGE), before, rtol=1e-5, atol=1e-5)


# --- Batch norm -------------------------------------------------------------------------------


def batch_norm(train_bn):
    layer = BatchNorm(train_bn=train_bn, momentum=0.5)
    layer.build((None, None, None, 3))
    layer.moving_mean.assign([1.0, 2.0, 3.0])
    layer.moving_variance.assign([4.0, 1.0, 0.25])
    layer.gamma.assign([1.0, 2.0, 3.0])
    layer.beta.assign([0.5, 0.0, -1.0])
    return layer


def normalised(mean, variance):
    return (IMAGE - mean) / np.sqrt(variance + 1e-3) * [1, 2, 3] + [0.5, 0, -1]


BATCH = {"mean": IMAGE.mean((0, 1, 2)), "variance": IMAGE.var((0, 1, 2))}
MOVING = {"mean": np.array([1.0, 2.0, 3.0]), "variance": np.array([4.0, 1.0, 0.25])}


@pytest.mark.parametrize(
    ("train_bn", "training", "statistics", "moves"),
    [
        (None, True, BATCH, True),
        (None, False, MOVING, False),
        (False, True, MOVING, False),
        (False, False, MOVING, False),
        (True, False, BATCH, True),
        (True, True, BATCH, True),
    ],
)
def test_batch_norm_modes(train_bn, training, statistics, moves):
    layer = batch_norm(train_bn)
    out = layer(IMAGE, training=training)
    np.testing.assert_allclose(out, normalised(**statistics), rtol=1e-4, atol=1e-4)
    means = (MOVING["mean"] + BATCH["mean"]) / 2 if moves else MOVING["mean"]
    np.testing.assert_allclose(layer.moving_mean.numpy(), means, rtol=1e-5)
    changed = not np.array_equal(layer.moving_variance.numpy(), MOVING["variance"])
    assert changed == moves


def test_frozen_batch_norm_trains_gamma_and_beta():
    layer = batch_norm(False)
    assert [w.name for w in layer.trainable_weights] == ["gamma", "beta"]


def test_scale_and_shift_are_the_frozen_batch_norm():
    layer = batch_norm(False)
    scale, shift = layer.scale_and_shift()
    np.testing.assert_allclose(IMAGE * scale + shift, layer(IMAGE), rtol=1e-5, atol=1e-5)
    plain = BatchNorm(train_bn=False, center=False, scale=False)
    plain.build((None, 3))
    scale, shift = plain.scale_and_shift()
    np.testing.assert_allclose(scale, np.ones(3) / np.sqrt(1.001), rtol=1e-6)
    np.testing.assert_array_equal(shift, np.zeros(3))


# --- Convolutions -----------------------------------------------------------------------------


def built(layer, shape):
    layer.build(shape)
    randomise(layer)
    return layer


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [1, 3])
def test_convolution_on_five_axes_is_one_on_each_slice(padding, size):
    layer = built(Conv2D(4, size, padding=padding, activation="relu"), (None, None, 9, 11, 3))
    x = np.stack([IMAGE, 2 * IMAGE, -IMAGE], axis=1)
    out = layer(x)
    assert out.shape == layer.compute_output_shape(x.shape)
    for i in range(3):
        np.testing.assert_allclose(out[:, i], layer(x[:, i]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        layer(IMAGE),
        tf.nn.relu(tf.nn.conv2d(IMAGE, layer.kernel.value, 1, padding.upper()) + layer.bias),
        rtol=1e-5,
        atol=1e-5,
    )


def test_convolution_as_large_as_its_input_is_tf_nn_conv2d():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2, 3, 7, 7, 8)).astype(np.float32)
    layer = built(Conv2D(6, 7), x.shape)
    expected = tf.nn.conv2d(x.reshape(6, 7, 7, 8), layer.kernel.value, 1, "VALID") + layer.bias
    out = layer(x)
    assert out.shape == (2, 3, 1, 1, 6)
    # Sums of 392 terms.
    np.testing.assert_allclose(tf.reshape(out, (6, 1, 1, 6)), expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(layer(x[:, 0]), out[:, 0], rtol=1e-5, atol=1e-5)


def test_convolution_of_no_rois():
    empty = np.zeros((2, 0, 7, 7, 3), np.float32)
    assert built(Conv2D(4, 7), empty.shape)(empty).shape == (2, 0, 1, 1, 4)


def test_convolution_in_bfloat16_keeps_float32_weights():
    layer = built(Conv2D(4, 3, dtype="mixed_bfloat16"), IMAGE.shape)
    assert layer(IMAGE).dtype == tf.bfloat16
    assert {w.dtype for w in layer.weights} == {"float32"}


def test_depthwise_convolution_is_one_a_channel():
    layer = built(DepthwiseConv2D(3, padding="same"), IMAGE.shape)
    out = layer(IMAGE)
    for i in range(3):
        kernel = layer.kernel.numpy()[:, :, i : i + 1]
        alone = tf.nn.conv2d(IMAGE[..., i : i + 1], kernel, 1, "SAME") + layer.bias[i]
        np.testing.assert_allclose(out[..., i : i + 1], alone, rtol=1e-5, atol=1e-5)


def test_transposed_convolution_on_five_axes_is_one_on_each_slice():
    x = np.stack([IMAGE, -IMAGE], axis=1)
    layer = built(Conv2DTranspose(4, 2, strides=2, activation="relu"), x.shape)
    out = layer(x)
    assert out.shape == layer.compute_output_shape(x.shape) == (2, 2, 18, 22, 4)
    plain = KL.Conv2DTranspose(4, 2, strides=2, activation="relu")
    plain.build(IMAGE.shape)
    plain.set_weights(layer.get_weights())
    for i in range(2):
        np.testing.assert_allclose(out[:, i], plain(x[:, i]), rtol=1e-5, atol=1e-6)


def test_upsampling_repeats_each_cell():
    x = np.arange(12, dtype=np.float32).reshape(1, 2, 3, 2)
    out = Upsample2x()(x)
    np.testing.assert_array_equal(out, x.repeat(2, axis=1).repeat(2, axis=2))
    assert Upsample2x()(keras.Input((None, 5, 3))).shape == (None, None, 10, 3)


def test_layers_in_a_graph_of_unknown_sizes():
    conv = built(Conv2D(4, 3, padding="same"), (None, None, None, None, 3))
    up = Upsample2x()
    spec = [tf.TensorSpec([None, None, None, None, 3]), tf.TensorSpec([None, None, None, 3])]
    traced = tf.function(lambda x, y: (conv(x), up(y)), input_signature=spec)
    outputs = traced(IMAGE[:, None], IMAGE)
    assert [x.shape for x in outputs] == [(2, 1, 9, 11, 4), (2, 18, 22, 3)]


# --- Dtypes and configurations ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_given_dtypes_are_kept(dtype):
    assert resolve_dtype(dtype) == dtype


def test_automatic_dtype(monkeypatch):
    assert resolve_dtype("auto") in ("float32", "bfloat16", "float16")
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda kind: [])
    flags = {"amx_bf16": "bfloat16", "avx512_bf16": "bfloat16", "avx2": "float32"}
    for flag, dtype in flags.items():
        monkeypatch.setattr("mrcnn.network.layers._cpu_flags", lambda flag=flag: {"sse", flag})
        assert resolve_dtype("auto") == dtype
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda kind: ["gpu"])
    for capability, dtype in (((9, 0), "bfloat16"), ((7, 5), "float16"), ((6, 1), "float32")):
        monkeypatch.setattr(
            "tensorflow.config.experimental.get_device_details",
            lambda gpu, value=capability: {"compute_capability": value},
        )
        assert resolve_dtype("auto") == dtype


def test_policies():
    assert [policy_for(d) for d in ("float32", "bfloat16")] == ["float32", "mixed_bfloat16"]


@pytest.mark.parametrize(
    "layer",
    [
        BatchNorm(train_bn=False, momentum=0.9, name="bn"),
        BatchNorm(train_bn=None, center=False, dtype="mixed_bfloat16"),
        Conv2D(4, 3, strides=2, padding="same", activation="relu", dtype="mixed_bfloat16"),
        DepthwiseConv2D(3, strides=2, use_bias=False),
        Conv2DTranspose(4, 2, strides=2, activation="relu"),
        Upsample2x(name="up", dtype="mixed_bfloat16"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_config_round_trip(layer):
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert (again.name, again.compute_dtype) == (layer.name, layer.compute_dtype)
    assert getattr(again, "train_bn", 0) == getattr(layer, "train_bn", 0)


def test_dropout_leaves_out_a_share_while_training():
    ones = tf.ones((4, 100, 1, 1, 50))
    layer = Dropout(0.75)
    np.testing.assert_array_equal(layer(ones), ones)
    found = layer(ones, training=True).numpy()
    assert set(np.unique(found)) == {0.0, 4.0}  # what stays makes up for what goes
    assert found.mean() == pytest.approx(1.0, abs=0.05)
    np.testing.assert_array_equal(Dropout(0.0)(ones, training=True), ones)
    again = Dropout.from_config(Dropout(0.3, 2, name="d").get_config())
    assert (again.rate, again.stream, again.name) == (0.3, 2, "d")


def test_keyed_dropout_follows_from_the_image_alone():
    def drop(keys, seed=5, stream=1):
        layer = Dropout(0.5, stream)
        with layer.keyed(seed, tf.constant(keys)):
            return layer(tf.ones((len(keys), 20, 30)), training=True).numpy()

    both = drop([7, 8])
    np.testing.assert_array_equal(drop([8])[0], both[1])
    np.testing.assert_array_equal(drop([8, 7]), both[::-1])
    assert not np.array_equal(both[0], both[1])
    assert not np.array_equal(drop([7, 8], seed=6), both)
    assert not np.array_equal(drop([7, 8], stream=2), both)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_frozen_weights_are_of_the_same_network(kind, dtype):
    """They are scaled in place: a copy of the kernels would be half of the model again."""
    model, again = (conv_bn_model(kind, dtype=dtype) for _ in range(2))
    assert fold_batch_norms(model) == 1
    image = tf.cast(IMAGE, dtype)
    expected = model(image).numpy().astype(np.float32)
    layer = next(one for one in model.layers if isinstance(one, (Conv2D, DepthwiseConv2D)))
    before = layer.kernel.numpy()
    assert freeze(model) == 1
    tolerance = {"rtol": 1e-5, "atol": 1e-5 if dtype == "float32" else 0.02}
    np.testing.assert_allclose(model(image).numpy().astype(np.float32), expected, **tolerance)
    assert np.abs(layer.kernel.numpy() - before).max() > 0.01
    np.testing.assert_array_equal(layer._frozen[0], tf.cast(layer.kernel.value, dtype))
    again.set_weights(model.get_weights())
    np.testing.assert_allclose(again(image).numpy().astype(np.float32), expected, **tolerance)


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}])
def test_batch_norm_that_only_shifts(options):
    layer = BatchNorm(train_bn=False, **options)
    layer.build((None, 3))
    randomise(layer)
    shift = tf.constant([1.0, -2.0, 0.5])
    layer.only_shift(shift)
    x = np.random.default_rng(2).standard_normal((4, 3)).astype(np.float32)
    np.testing.assert_allclose(layer(x), x + shift, atol=1e-5)
