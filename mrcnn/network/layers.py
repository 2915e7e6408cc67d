"""Layers that all parts of the network are made of; convolutions that absorb a frozen batch norm.

Frozen batch norm is an affine map, so `conv(x, w * scale) + (bias * scale + shift)` equals a
convolution followed by batch norm, with the gradients to w, gamma and beta intact, and saves a
pass over the activations. In the graph, and in files, the two stay separate layers with their
own names and weights: the convolution reads the numbers of its batch norm, and the batch norm
passes its input through.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

EPSILON = 1e-3  # of batch norm, as Keras 2 had it when the original's weights were trained

Shape = tuple[int | None, ...]


def resolve_dtype(compute_dtype: str) -> str:
    """The dtype that convolutions and dense layers compute in, given `Config.COMPUTE_DTYPE`.

    "auto" becomes bfloat16 on CPUs with AMX or AVX512-BF16 and on NVIDIA GPUs of compute
    capability 8.0 or higher, float16 on those of 7.x, else float32.
    """
    if compute_dtype != "auto":
        return compute_dtype
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        major = details.get("compute_capability", (0, 0))[0]
        return "bfloat16" if major >= 8 else "float16" if major == 7 else "float32"
    return "bfloat16" if _cpu_flags() & {"amx_bf16", "avx512_bf16"} else "float32"


def _cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")  # only on Linux; elsewhere no CPU is known to gain
    if not info.exists():
        return set()
    lines = (line for line in info.read_text().splitlines() if line.startswith("flags"))
    return set(next(lines, "").split())


def policy_for(dtype: str) -> str:
    """Keras dtype policy name that computes in `dtype` and keeps weights in float32."""
    return dtype if dtype == "float32" else f"mixed_{dtype}"


class Layer(keras.layers.Layer):
    """A layer that computes in float32 by default and saves the attributes named in `fields`."""

    fields: tuple[str, ...] = ()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **{name: getattr(self, name) for name in self.fields}}


class _Float32Weights(keras.layers.Layer):
    """Reads its weights in float32, whatever it computes in: they are scaled before they are cast."""

    def add_weight(self, *args: Any, **kwargs: Any) -> keras.Variable:
        return super().add_weight(*args, **{**kwargs, "autocast": False})


class BatchNorm(_Float32Weights, keras.layers.BatchNormalization):
    """Batch norm with matterport's three modes.

    Args:
        train_bn: None: trains normally, by the call's `training`; False: the moving
            statistics are used and stay as they are, while gamma and beta train; True: the
            batch's statistics are used, at inference too.
    """

    def __init__(
        self, train_bn: bool | None = None, epsilon: float = EPSILON, **kwargs: Any
    ) -> None:
        super().__init__(epsilon=epsilon, **kwargs)
        self.train_bn = train_bn
        self.is_folded = False

    def scale_and_shift(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The frozen affine map as (scale, shift), each [channels] float32."""
        scale = tf.math.rsqrt(tf.convert_to_tensor(self.moving_variance.value) + self.epsilon)
        if self.scale:
            scale *= tf.convert_to_tensor(self.gamma.value)
        shift = -tf.convert_to_tensor(self.moving_mean.value) * scale
        if self.center:
            shift += tf.convert_to_tensor(self.beta.value)
        return scale, shift

    def only_shift(self, shift: tf.Tensor) -> None:
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

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: Any = None) -> tf.Tensor:
        if self.is_folded:
            return inputs
        mode = training if self.train_bn is None else self.train_bn
        return super().call(inputs, training=mode, mask=mask)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "train_bn": self.train_bn}


class KeyedRandom:
    """A layer's random numbers, which may be tied to the images of a batch."""

    seed: int | None = None
    _keys: Any = None

    @contextmanager
    def keyed(self, seed: int, keys: tf.Tensor) -> Iterator[None]:
        """Within it, an image's numbers follow from the seed and its key alone (keys: [B] int32).

        They then depend neither on earlier calls nor on the other images of the batch.
        """
        self._keys = (int(seed), keys)
        try:
            yield
        finally:
            self._keys = None

    def uniform(self, shape: tf.Tensor, low: float = 0.0) -> tf.Tensor:
        """Numbers in low..1: float32 of a shape [B, ...]."""
        if self._keys is None:
            return tf.random.uniform(shape, low, 1.0, seed=self.seed)
        seed, keys = self._keys
        rows = [
            tf.random.stateless_uniform(shape[1:], tf.stack([seed, key]), low, 1.0)
            for key in tf.unstack(keys)
        ]
        return tf.stack(rows)


class Dropout(KeyedRandom, Layer):
    """Zeroes a share of the numbers while training and scales the others up by as much.

    Unlike Keras' it keeps no state, so that a resumed run drops what it would have dropped.

    Args:
        rate: the share, 0 up to 1.
        stream: a number of its own for each such layer, as their numbers come from one seed.
    """

    fields = ("rate", "stream")

    def __init__(self, rate: float, stream: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate, self.stream = float(rate), int(stream)

    def keyed(self, seed: int, keys: tf.Tensor) -> Any:
        return super().keyed(int(seed) + self.stream, keys)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training:
            return inputs
        kept = self.uniform(tf.shape(inputs)) >= self.rate
        return tf.where(kept, inputs / (1.0 - self.rate), tf.zeros_like(inputs))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


class _OnRois(keras.layers.Layer):
    """A convolution that also takes [B, N, H, W, C]: the original's TimeDistributed, in one call."""

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        lead, last = tuple(input_shape[:-3]), tuple(input_shape[-3:])
        return (*lead, *super().compute_output_shape((None, *last))[1:])

    def _on_images(self, call: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
        """`call`, which takes [images, H, W, C], on x of four or five axes."""
        if x.shape.rank != 5:
            return call(x)
        shape = tf.shape(x)
        images = tf.reshape(x, tf.concat([[-1], shape[2:]], axis=0))
        out = call(tf.ensure_shape(images, [None, *x.shape[2:]]))
        out = tf.reshape(out, tf.concat([shape[:2], tf.shape(out)[1:]], axis=0))
        return tf.ensure_shape(out, self.compute_output_shape(x.shape))


class _Foldable(_Float32Weights):
    """What `Conv2D` and `DepthwiseConv2D` share: they can absorb the batch norm behind them."""

    _affine: Any = None  # the batch norm's scale_and_shift, once folded
    _frozen: Any = None  # what `_weights` gives, once frozen

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Without autocasting: the kernel is scaled in float32 before it is cast.
        super().__init__(*args, **{**kwargs, "autocast": False})

    def get_config(self) -> dict[str, Any]:
        return {k: v for k, v in super().get_config().items() if k != "autocast"}

    def fold(self, batch_norm: BatchNorm) -> None:
        """From now on computes `batch_norm(self(x))`, and batch_norm passes its input through.

        batch_norm must have train_bn=False and be the only consumer of this layer's output.
        """
        # A bound method, not the layer: Keras would take the layer's weights for ours.
        self._affine = batch_norm.scale_and_shift
        batch_norm.is_folded = True

    def _weights(self) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Kernel and bias, scaled by the folded batch norm and in the compute dtype."""
        return self._cast(*self._scaled()) if self._frozen is None else self._frozen

    def _scaled(self) -> tuple[tf.Tensor, tf.Tensor | None]:
        kernel = tf.convert_to_tensor(self.kernel.value)
        bias = None if self.bias is None else tf.convert_to_tensor(self.bias.value)
        if self._affine is not None:
            scale, shift = self._affine()
            kernel *= tf.reshape(scale, self._scale_shape())
            bias = shift if bias is None else bias * scale + shift
        return kernel, bias

    def _cast(
        self, kernel: tf.Tensor, bias: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        dtype = self.compute_dtype
        return tf.cast(kernel, dtype), None if bias is None else tf.cast(bias, dtype)

    def freeze(self) -> None:
        """Scales and casts the weights once, instead of at each call.

        The kernel itself is scaled, as a copy would take as much memory again, and a folded
        batch norm is left with the shift. Later changes of the weights go unnoticed.
        """
        kernel, bias = self._scaled()
        if self._affine is not None:
            self.kernel.assign(kernel)
            if self.bias is not None:
                self.bias.assign(tf.zeros_like(bias))
            self._affine.__self__.only_shift(bias)
            kernel = tf.convert_to_tensor(self.kernel.value)  # the scaled one, not a second copy
        # Hidden from Keras, which would track the tensors as state.
        object.__setattr__(self, "_frozen", self._cast(kernel, bias))

    def _finish(self, x: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
        x = x if bias is None else tf.nn.bias_add(x, bias)
        return self.activation(x)


class Conv2D(_Foldable, _OnRois, keras.layers.Conv2D):
    """Convolution over the last three axes of [B, H, W, C] or [B, N, H, W, C]."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self._on_images(self._convolve, tf.cast(inputs, self.compute_dtype))

    def _convolve(self, x: tf.Tensor) -> tf.Tensor:
        kernel, bias = self._weights()
        padding = self.padding.upper()
        if padding == "VALID" and tuple(x.shape[1:3]) == tuple(self.kernel_size):
            # One output cell: a matrix product, which is what the class head's 7x7 is.
            x = tf.reshape(x, [-1, self.kernel.shape[0] * self.kernel.shape[1] * x.shape[-1]])
            x = tf.matmul(x, tf.reshape(kernel, [x.shape[-1], self.filters]))[:, None, None, :]
        else:
            x = tf.nn.conv2d(x, kernel, self.strides, padding, dilations=self.dilation_rate)
        return self._finish(x, bias)

    def _scale_shape(self) -> list[int]:
        return [1, 1, 1, -1]


class DepthwiseConv2D(_Foldable, keras.layers.DepthwiseConv2D):
    """Depthwise convolution [B, H, W, C] -> [B, H', W', C]."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        x = tf.cast(inputs, self.compute_dtype)
        kernel, bias = self._weights()
        strides = (1, *self.strides, 1)
        x = tf.nn.depthwise_conv2d(x, kernel, strides, self.padding.upper())
        return self._finish(x, bias)

    def _scale_shape(self) -> list[int]:
        return [1, 1, -1, self.depth_multiplier]


class Conv2DTranspose(_OnRois, keras.layers.Conv2DTranspose):
    """Transposed convolution over the last three axes of [B, N, H, W, C]."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self._on_images(super().call, inputs)

    def build(self, input_shape: Shape) -> None:
        super().build((None, *input_shape[-3:]))


class Upsample2x(keras.layers.Layer):
    """Nearest-neighbour upsampling by two: [B, H, W, C] -> [B, 2H, 2W, C]."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        batch, height, width, channels = tf.unstack(tf.shape(inputs))
        x = inputs[:, :, None, :, None, :]
        x = tf.broadcast_to(x, [batch, height, 2, width, 2, channels])
        x = tf.reshape(x, [batch, 2 * height, 2 * width, channels])
        return tf.ensure_shape(x, self.compute_output_shape(inputs.shape))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        return (batch, height and 2 * height, width and 2 * width, channels)


class ConvBn:
    """Draws convolutions with their batch norms, all with one setting of batch norm and dtype."""

    def __init__(self, train_bn: bool | None, dtype: str, use_bias: bool = True) -> None:
        self.train_bn, self.policy, self.use_bias = train_bn, policy_for(dtype), use_bias

    def __call__(
        self,
        x: keras.KerasTensor,
        filters: int,
        size: int,
        names: tuple[str, str],
        relu: bool = True,
        **options: Any,
    ) -> keras.KerasTensor:
        """names: of convolution and batch norm; options: of the convolution."""
        conv, bn = names
        options = {"use_bias": self.use_bias, "dtype": self.policy, **options}
        x = Conv2D(filters, size, name=conv, **options)(x)
        x = BatchNorm(train_bn=self.train_bn, name=bn, dtype=self.policy)(x)
        return keras.layers.Activation("relu", dtype=self.policy)(x) if relu else x


def fold_batch_norms(model: keras.Model) -> int:
    """Folds each frozen batch norm of a functional model into the convolution before it.

    Nested models are left as they are. Returns the number of batch norms folded.
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


def freeze(model: keras.Model) -> int:
    """Fixes the weights of all convolutions for faster detection; see `Conv2D.freeze`.

    Nested models are included. The weights change to others of the same network, so saving them
    does no harm, but the model must not be trained or loaded again. Returns the number of layers.
    """
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, _Foldable)]
    for layer in layers:
        layer.freeze()
    return len(layers)
