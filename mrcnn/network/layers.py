"""Convolutions and batch norm that run as one when the batch norm is frozen.

Frozen batch norm is an affine map, so `conv(x, w * scale) + (bias * scale + shift)` equals a
convolution followed by batch norm, with the gradients to w, gamma and beta intact, and saves a
pass over the activations. In the graph, and in files, the two stay separate layers with their
own names and weights: the convolution reads its batch norm's numbers, and the batch norm then
hands its input on.
"""

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

EPSILON = 1e-3  # of batch norm, as Keras 2 had it when the original's weights were trained


def resolve_dtype(compute_dtype):
    """The dtype that convolutions and dense layers compute in.

    Args:
        compute_dtype: "auto", "float32", "bfloat16" or "float16"
            (`Config.COMPUTE_DTYPE`). "auto" gives bfloat16 on CPUs with AMX or AVX512-BF16 and
            on NVIDIA GPUs from compute capability 8.0 on, float16 on those of 7.x, else float32.

    Returns:
        "float32", "bfloat16" or "float16".
    """
    if compute_dtype != "auto":
        return compute_dtype
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        major = details.get("compute_capability", (0, 0))[0]
        return "bfloat16" if major >= 8 else "float16" if major == 7 else "float32"
    return "bfloat16" if _cpu_flags() & {"amx_bf16", "avx512_bf16"} else "float32"


def _cpu_flags():
    info = Path("/proc/cpuinfo")  # elsewhere than on Linux no such CPU is known to gain
    if not info.exists():
        return set()
    lines = (line for line in info.read_text().splitlines() if line.startswith("flags"))
    return set(next(lines, "").split())


def policy_for(dtype):
    """Keras dtype policy name that computes in `dtype` and keeps weights in float32."""
    return dtype if dtype == "float32" else f"mixed_{dtype}"


class BatchNorm(keras.layers.BatchNormalization):
    """Batch norm with matterport's three modes.

    Args:
        train_bn: None: trains normally, by the call's `training`; False: the moving
            statistics are used and stay as they are, while gamma and beta train; True: the
            batch's statistics are used, at inference too.
    """

    def __init__(self, train_bn=None, epsilon=EPSILON, **kwargs):
        super().__init__(epsilon=epsilon, **kwargs)
        self.train_bn = train_bn
        self.is_folded = False

    def add_weight(self, *args, **kwargs):
        return super().add_weight(*args, **{**kwargs, "autocast": False})

    def scale_and_shift(self):
        """The frozen affine map as (scale, shift), each [channels] float32."""
        scale = tf.math.rsqrt(tf.convert_to_tensor(self.moving_variance.value) + self.epsilon)
        if self.scale:
            scale *= tf.convert_to_tensor(self.gamma.value)
        shift = -tf.convert_to_tensor(self.moving_mean.value) * scale
        if self.center:
            shift += tf.convert_to_tensor(self.beta.value)
        return scale, shift

    def only_shift(self, shift):
        """Changes the weights so that the frozen map adds `shift`, [channels] float32."""
        self.moving_mean.assign(tf.zeros_like(shift))
        if self.scale:
            self.gamma.assign(tf.sqrt(self.moving_variance.value + self.epsilon))
        else:
            self.moving_variance.assign(tf.ones_like(shift) - self.epsilon)
        if self.center:
            self.beta.assign(shift)
        else:
            self.moving_mean.assign(-shift)

    def call(self, inputs, training=None, mask=None):
        if self.is_folded:
            return inputs
        mode = training if self.train_bn is None else self.train_bn
        return super().call(inputs, training=mode, mask=mask)

    def get_config(self):
        return {**super().get_config(), "train_bn": self.train_bn}


class KeyedRandom:
    """A layer's random numbers, which may be tied to the images of a batch."""

    seed: int | None = None
    _keys: Any = None

    @contextmanager
    def keyed(self, seed, keys):
        """Within it, each image's numbers follow from the seed and its key alone.

        Then they depend neither on earlier calls nor on the other images of the batch.

        Args:
            seed: int.
            keys: [B] int32 tensor.
        """
        self._keys = (int(seed), keys)
        try:
            yield
        finally:
            self._keys = None

    def uniform(self, shape, low=0.0):
        """Numbers in low..1: float32 of a shape [B, ...]."""
        if self._keys is None:
            return tf.random.uniform(shape, low, 1.0, seed=self.seed)
        seed, keys = self._keys
        rows = [
            tf.random.stateless_uniform(shape[1:], tf.stack([seed, key]), low, 1.0)
            for key in tf.unstack(keys)
        ]
        return tf.stack(rows)


class Dropout(KeyedRandom, keras.layers.Layer):
    """Zeroes a share of the numbers while training and scales the others up by as much.

    Unlike Keras' it keeps no state, so that a run that goes on drops what it would have.

    Args:
        rate: the share, 0 up to 1.
        stream: int, another one for each such layer, as their numbers come from one seed.
    """

    def __init__(self, rate, stream=0, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.stream = float(rate), int(stream)

    def keyed(self, seed, keys):
        return super().keyed(int(seed) + self.stream, keys)

    def call(self, inputs, training=False):
        if not training:
            return inputs
        kept = self.uniform(tf.shape(inputs)) >= self.rate
        return tf.where(kept, inputs / (1.0 - self.rate), tf.zeros_like(inputs))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "stream": self.stream}


class _Foldable(keras.layers.Layer):
    """What `Conv2D` and `DepthwiseConv2D` share: an optional batch norm behind them.

    Autocasting is off: the kernel is scaled in float32 before it is cast.
    """

    _affine: Any = None  # the batch norm's scale_and_shift, once folded
    _frozen: Any = None  # the tensors of _weights, once frozen

    def add_weight(self, *args, **kwargs):
        return super().add_weight(*args, **{**kwargs, "autocast": False})

    def fold(self, batch_norm):
        """From now on computes `batch_norm(self(x))`, and batch_norm hands its input on.

        Args:
            batch_norm: a `BatchNorm` with train_bn=False that takes this layer's output
                and is its only consumer.
        """
        # A bound method, not the layer: Keras would take the layer's weights for ours.
        self._affine = batch_norm.scale_and_shift
        batch_norm.is_folded = True

    def _weights(self):
        if self._frozen is not None:
            return self._frozen
        kernel = tf.convert_to_tensor(self.kernel.value)
        bias = None if self.bias is None else tf.convert_to_tensor(self.bias.value)
        if self._affine is not None:
            scale, shift = self._affine()
            kernel *= tf.reshape(scale, self._scale_shape())
            bias = shift if bias is None else bias * scale + shift
        dtype = self.compute_dtype
        return tf.cast(kernel, dtype), None if bias is None else tf.cast(bias, dtype)

    def freeze(self):
        """Scales and casts the weights once, instead of at each call.

        The kernel itself is scaled, as a copy would take as much memory again, and a folded
        batch norm is left with the shift. Later changes of the weights go unnoticed.
        """
        if self._affine is not None:
            scale, shift = self._affine()
            self.kernel.assign(self.kernel.value * tf.reshape(scale, self._scale_shape()))
            if self.bias is not None:
                shift += self.bias.value * scale
                self.bias.assign(tf.zeros_like(shift))
            self._affine.__self__.only_shift(shift)
            frozen = self.kernel.value, shift
        else:
            frozen = self.kernel.value, None if self.bias is None else self.bias.value
        cast = [
            None if v is None else tf.cast(tf.convert_to_tensor(v), self.compute_dtype)
            for v in frozen
        ]
        # Out of Keras' sight, which would track the tensors as state.
        object.__setattr__(self, "_frozen", tuple(cast))

    def _finish(self, x, bias):
        x = x if bias is None else tf.nn.bias_add(x, bias)
        return self.activation(x)


class Conv2D(_Foldable, keras.layers.Conv2D):
    """Convolution over the last three axes; leading axes [B, ...] or [B, N, ...].

    With five axes it is the original's TimeDistributed(Conv2D), in one call.
    """

    def __init__(self, filters, kernel_size, **kwargs):
        super().__init__(filters, kernel_size, **{**kwargs, "autocast": False})

    def call(self, inputs):
        x = tf.cast(inputs, self.compute_dtype)
        shape = tf.shape(x)
        if x.shape.rank == 5:
            x = tf.reshape(x, tf.concat([[-1], shape[2:]], axis=0))
            x = tf.ensure_shape(x, [None, *inputs.shape[2:]])
        kernel, bias = self._weights()
        padding = self.padding.upper()
        if padding == "VALID" and tuple(x.shape[1:3]) == tuple(self.kernel_size):
            # One output cell: a matrix product, which is what the class head's 7x7 is.
            x = tf.reshape(x, [-1, self.kernel.shape[0] * self.kernel.shape[1] * x.shape[-1]])
            x = tf.matmul(x, tf.reshape(kernel, [x.shape[-1], self.filters]))[:, None, None, :]
        else:
            x = tf.nn.conv2d(x, kernel, self.strides, padding, dilations=self.dilation_rate)
        x = self._finish(x, bias)
        if inputs.shape.rank == 5:
            out = tf.concat([shape[:2], tf.shape(x)[1:]], axis=0)
            x = tf.ensure_shape(tf.reshape(x, out), self.compute_output_shape(inputs.shape))
        return x

    def compute_output_shape(self, input_shape):
        lead, last = tuple(input_shape[:-3]), tuple(input_shape[-3:])
        return (*lead, *super().compute_output_shape((None, *last))[1:])

    def get_config(self):
        return {k: v for k, v in super().get_config().items() if k != "autocast"}

    def _scale_shape(self):
        return [1, 1, 1, -1]


class DepthwiseConv2D(_Foldable, keras.layers.DepthwiseConv2D):
    """Depthwise convolution [B, H, W, C] -> [B, H', W', C]."""

    def __init__(self, kernel_size, **kwargs):
        super().__init__(kernel_size, **{**kwargs, "autocast": False})

    def call(self, inputs):
        x = tf.cast(inputs, self.compute_dtype)
        kernel, bias = self._weights()
        strides = (1, *self.strides, 1)
        x = tf.nn.depthwise_conv2d(x, kernel, strides, self.padding.upper())
        return self._finish(x, bias)

    def get_config(self):
        return {k: v for k, v in super().get_config().items() if k != "autocast"}

    def _scale_shape(self):
        return [1, 1, -1, self.depth_multiplier]


class Conv2DTranspose(keras.layers.Conv2DTranspose):
    """Transposed convolution over the last three axes of [B, N, H, W, C]."""

    def call(self, inputs):
        shape = tf.shape(inputs)
        x = tf.reshape(inputs, tf.concat([[-1], shape[2:]], axis=0))
        x = super().call(tf.ensure_shape(x, [None, *inputs.shape[2:]]))
        x = tf.reshape(x, tf.concat([shape[:2], tf.shape(x)[1:]], axis=0))
        return tf.ensure_shape(x, self.compute_output_shape(inputs.shape))

    def build(self, input_shape):
        super().build((None, *input_shape[-3:]))

    def compute_output_shape(self, input_shape):
        lead, last = tuple(input_shape[:-3]), tuple(input_shape[-3:])
        return (*lead, *super().compute_output_shape((None, *last))[1:])


class Upsample2x(keras.layers.Layer):
    """Nearest-neighbour upsampling by two: [B, H, W, C] -> [B, 2H, 2W, C]."""

    def call(self, inputs):
        batch, height, width, channels = tf.unstack(tf.shape(inputs))
        x = inputs[:, :, None, :, None, :]
        x = tf.broadcast_to(x, [batch, height, 2, width, 2, channels])
        x = tf.reshape(x, [batch, 2 * height, 2 * width, channels])
        return tf.ensure_shape(x, self.compute_output_shape(inputs.shape))

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return (batch, height and 2 * height, width and 2 * width, channels)


def fold_batch_norms(model):
    """Folds each frozen batch norm of a functional model into the convolution before it.

    Args:
        model: keras.Model; nested models are left as they are.

    Returns:
        the number of batch norms folded.
    """
    count = 0
    outputs = {id(tensor) for tensor in model.outputs}
    for layer in model.layers:
        if not isinstance(layer, BatchNorm) or layer.train_bn is not False:
            continue
        producer = layer.input._keras_history.operation
        if (
            isinstance(producer, _Foldable)
            and producer.activation is keras.activations.linear
            and len(producer._outbound_nodes) == 1
            and id(layer.input) not in outputs
        ):
            producer.fold(layer)
            count += 1
    return count


def freeze(model):
    """Fixes the weights of all convolutions for faster detection; see `Conv2D.freeze`.

    The weights change to others of the same network, so saving them does no harm.

    Args:
        model: keras.Model, nested models included; not one that is trained or loaded again.

    Returns:
        the number of layers frozen.
    """
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, _Foldable)]
    for layer in layers:
        layer.freeze()
    return len(layers)
