"""The trunk: ResNet-50/101 or MobileNetV2, and the feature pyramid on top of it.

All maps are [B, height, width, channels]. C1..C5 are the trunk's maps at strides 2, 4, 8, 16
and 32; P2..P6 the pyramid's at strides 4, 8, 16, 32 and 64. Layer names are matterport's (for
MobileNetV2, those of keras.applications), so that weights files go from one to the other.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import KerasTensor
from keras import layers as KL

from mrcnn.config import Config
from mrcnn.network.layers import BatchNorm, Conv2D, ConvBn, DepthwiseConv2D, Upsample2x, policy_for

# Where MobileNetV2's graph is tapped for C1..C5.
MOBILENET_TAPS = (
    "Conv1_relu",
    "block_3_expand_relu",
    "block_6_expand_relu",
    "block_13_expand_relu",
    "out_relu",
)
RESNET_BLOCKS = {"resnet50": 5, "resnet101": 22}  # of stage 4, after its first

# Layer names that belong to a stage and all above it, for `MaskRCNN.train(layers=...)`.
HEADS = r"(mrcnn\_.*)|(rpn\_.*)|(fpn\_.*)"
_RESNET_STAGES = {n: "|".join(rf"(res{i}.*)|(bn{i}.*)" for i in range(n, 6)) for n in (3, 4, 5)}
_MOBILENET_STAGES = {
    3: r"(block_([4-9]|1[0-6])\_.*)|(block_3_(depthwise|project).*)|(Conv_1.*)",
    4: r"(block_([7-9]|1[0-6])\_.*)|(block_6_(depthwise|project).*)|(Conv_1.*)",
    5: r"(block_1[4-6]\_.*)|(block_13_(depthwise|project).*)|(Conv_1.*)",
}


def stage_patterns(backbone: str | Callable[..., Any]) -> dict[str, str]:
    """matterport's short names for groups of layers -> regular expressions of layer names.

    backbone is as `Config.BACKBONE`; the groups are "heads", "3+", "4+", "5+" and "all".
    """
    stages = _MOBILENET_STAGES if backbone == "mobilenet_v2" else _RESNET_STAGES
    groups = {f"{n}+": f"{stages[n]}|{HEADS}" for n in (3, 4, 5)}
    return {"heads": HEADS, **groups, "all": ".*"}


def resnet_graph(
    input_image: KerasTensor,
    architecture: str,
    stage5: bool = False,
    train_bn: bool | None = True,
    dtype: str = "float32",
) -> list[KerasTensor]:
    """ResNet-50 or -101, version 1: the stride sits in the first 1x1 of a stage.

    Source: He et al., Deep Residual Learning (arXiv:1512.03385), table 1.

    Args:
        input_image: [B, H, W, C], mean subtracted; H and W multiples of 64.
        architecture: "resnet50" or "resnet101".
        stage5: whether to build C5.
        train_bn: as of `layers.BatchNorm`.
        dtype: "float32", "bfloat16" or "float16", of the activations.

    Returns:
        [C1, C2, C3, C4, C5], with 64, 256, 512, 1024 and 2048 channels; C5 None without stage5.
    """
    if architecture not in RESNET_BLOCKS:
        raise ValueError(f"got architecture {architecture!r}; use 'resnet50' or 'resnet101'")
    conv_bn = ConvBn(train_bn, dtype)
    x = KL.ZeroPadding2D((3, 3), dtype=conv_bn.policy)(input_image)
    x = conv_bn(x, 64, 7, ("conv1", "bn_conv1"), strides=2)
    maps = [KL.MaxPooling2D(3, strides=2, padding="same", dtype=conv_bn.policy)(x)]
    x = maps[0]
    stages = [(2, 64, 2), (3, 128, 3), (4, 256, RESNET_BLOCKS[architecture]), (5, 512, 2)]
    for stage, width, repeats in stages[: 4 if stage5 else 3]:
        filters = (width, width, 4 * width)
        x = _residual_block(conv_bn, x, filters, stage, "a", strides=1 if stage == 2 else 2)
        for i in range(repeats):
            x = _residual_block(conv_bn, x, filters, stage, chr(ord("b") + i))
        maps.append(x)
    return maps if stage5 else [*maps, None]


def _residual_block(
    conv_bn: ConvBn,
    x: KerasTensor,
    filters: Sequence[int],
    stage: int,
    block: str,
    strides: Any = None,
    size: int = 3,
) -> KerasTensor:
    """Bottleneck 1x1, size x size, 1x1; strides=None keeps the input as the shortcut."""
    name = f"{stage}{block}_branch"

    def names(branch: str) -> tuple[str, str]:
        return f"res{name}{branch}", f"bn{name}{branch}"

    y = conv_bn(x, filters[0], 1, names("2a"), strides=strides or 1)
    y = conv_bn(y, filters[1], size, names("2b"), padding="same")
    y = conv_bn(y, filters[2], 1, names("2c"), relu=False)
    if strides:
        x = conv_bn(x, filters[2], 1, names("1"), relu=False, strides=strides)
    y = KL.Add(dtype=conv_bn.policy)([y, x])
    return KL.Activation("relu", name=f"res{stage}{block}_out", dtype=conv_bn.policy)(y)


def identity_block(
    input_tensor: KerasTensor,
    kernel_size: int,
    filters: Sequence[int],
    stage: int,
    block: str,
    use_bias: bool = True,
    train_bn: bool | None = True,
    dtype: str = "float32",
) -> KerasTensor:
    """A residual block whose shortcut is its input, for backbones of one's own.

    kernel_size is the middle one of the three convolutions. stage and block make the layers'
    names: 4, "b" gives res4b_branch2a, ...
    """
    conv_bn = ConvBn(train_bn, dtype, use_bias)
    return _residual_block(conv_bn, input_tensor, filters, stage, block, None, kernel_size)


def conv_block(
    input_tensor: KerasTensor,
    kernel_size: int,
    filters: Sequence[int],
    stage: int,
    block: str,
    strides: Any = (2, 2),
    use_bias: bool = True,
    train_bn: bool | None = True,
    dtype: str = "float32",
) -> KerasTensor:
    """As `identity_block`, with a convolution as shortcut: input and output may differ in size.

    The strides are those of the first convolution and of the shortcut.
    """
    conv_bn = ConvBn(train_bn, dtype, use_bias)
    return _residual_block(conv_bn, input_tensor, filters, stage, block, strides, kernel_size)


def mobilenet_v2_graph(
    input_image: KerasTensor, train_bn: bool | None = False, dtype: str = "float32"
) -> list[KerasTensor]:
    """MobileNetV2 (arXiv:1801.04381), alpha 1, on images of which 127.5 was subtracted.

    The graph and its layer names are keras.applications' own; its convolutions and batch norms
    are exchanged for those of `mrcnn.network.layers`, which have the same weights. Arguments as
    of `resnet_graph`.

    Returns:
        [C1, C2, C3, C4, C5], with 32, 144, 192, 576 and 1280 channels.
    """
    policy = policy_for(dtype)
    swaps: dict[Any, Any] = {
        KL.Conv2D: Conv2D,
        KL.DepthwiseConv2D: DepthwiseConv2D,
        KL.BatchNormalization: BatchNorm,
    }

    def swap(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = {**layer.get_config(), "dtype": policy}
        kind = swaps.get(type(layer), type(layer))
        if kind is BatchNorm:
            config["train_bn"] = train_bn
        if kind is DepthwiseConv2D:
            config["padding"] = "same"
        return kind.from_config(config)

    source = keras_mobilenet_v2()
    first, *others = source.layers
    made = {id(first.output): KL.Rescaling(1 / 127.5, dtype=policy)(input_image)}
    for layer in others:
        if isinstance(layer, KL.ZeroPadding2D):
            # A row below and a column on the right, which is what "same" adds to maps of even
            # sides at stride 2: this saves a copy of the largest maps.
            made[id(layer.output)] = made[id(layer.input)]
            continue
        inputs = [made[id(tensor)] for tensor in keras.tree.flatten(layer.input)]
        made[id(layer.output)] = swap(layer)(inputs if len(inputs) > 1 else inputs[0])
    return [made[id(source.get_layer(name).output)] for name in MOBILENET_TAPS]


def keras_mobilenet_v2() -> keras.Model:
    """MobileNetV2 of keras.applications, without its top and with random weights."""
    return keras.applications.MobileNetV2(
        input_shape=(None, None, 3), include_top=False, weights=None
    )


def build_backbone(input_image: KerasTensor, config: Config, dtype: str) -> list[KerasTensor]:
    """C1..C5 of the backbone that `Config.BACKBONE` names, for an image [B, H, W, C]."""
    if callable(config.BACKBONE):
        return config.BACKBONE(input_image, stage5=True, train_bn=config.TRAIN_BN)
    if config.BACKBONE == "mobilenet_v2":
        return mobilenet_v2_graph(input_image, config.TRAIN_BN, dtype)
    return resnet_graph(input_image, config.BACKBONE, True, config.TRAIN_BN, dtype)


def fpn_graph(
    c_maps: Sequence[KerasTensor], channels: int, dtype: str = "float32"
) -> list[KerasTensor]:
    """Feature pyramid [P2, P3, P4, P5, P6] of [C2, C3, C4, C5], all of `channels` channels.

    Top-down sums of 1x1 laterals, each smoothed by a 3x3; P6 is P5 subsampled. Source: Lin et
    al., Feature Pyramid Networks (arXiv:1612.03144), section 3, and footnote 2 of section 4.1.
    """
    policy = policy_for(dtype)
    top_down, merged = None, {}
    for level in (5, 4, 3, 2):
        lateral = Conv2D(channels, 1, name=f"fpn_c{level}p{level}", dtype=policy)
        lateral = lateral(c_maps[level - 2])
        if top_down is None:
            top_down = lateral
        else:
            above = Upsample2x(name=f"fpn_p{level + 1}upsampled", dtype=policy)(top_down)
            top_down = KL.Add(name=f"fpn_p{level}add", dtype=policy)([above, lateral])
        merged[level] = top_down
    maps = []
    for level in (2, 3, 4, 5):
        smooth = Conv2D(channels, 3, padding="same", name=f"fpn_p{level}", dtype=policy)
        maps.append(smooth(merged[level]))
    maps.append(KL.MaxPooling2D(1, strides=2, name="fpn_p6", dtype=policy)(maps[-1]))
    return maps
