"""What a weights file says of its model: class names, configuration and shapes, checked.

A file may come from anyone, so nothing that it says is believed: names and values are those of
`StoredConfig`, of their types and within bounds, and the sizes are those of the arrays in the file.
"""

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, get_type_hints

import msgspec
from msgspec import Meta

from mrcnn.config import Config
from mrcnn.core.classes import check_ids, check_names
from mrcnn.core.files import PathLike
from mrcnn.network.weights_file import WeightsError, open_weights

Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
CategoryId = Annotated[int, Meta(ge=-(2**53), le=2**53)]
# Sides of images and of parts of them, pixels; channels; shares.
Side = Annotated[int, Meta(ge=1, le=4096)]
Small = Annotated[int, Meta(ge=1, le=64)]
Channels = Annotated[int, Meta(ge=1, le=4096)]
Share = Annotated[float, Meta(ge=0, le=1)]
# What only training uses: any number.
Number = Annotated[float, Meta(ge=-1e12, le=1e12)]
Deviations = Annotated[
    list[Annotated[float, Meta(ge=1e-6, le=1e6)]], Meta(min_length=4, max_length=4)
]
Pair = Annotated[list[Side], Meta(min_length=2, max_length=2)]


class StoredConfig(TypedDict, total=False):
    """The settings of `Config` as a weights file may give them: types and bounds.

    Bounds are far beyond what models use, and low enough for a file not to ask for gigabytes. A
    program that wants more builds its model with a `Config` of its own.
    """

    NAME: Name | None
    GPU_COUNT: Number
    IMAGES_PER_GPU: Number
    STEPS_PER_EPOCH: Number
    VALIDATION_STEPS: Number
    BACKBONE: Literal["resnet50", "resnet101", "mobilenet_v2"]
    COMPUTE_BACKBONE_SHAPE: None
    # Those of the backbones above.
    BACKBONE_STRIDES: Annotated[list[Literal[4, 8, 16, 32, 64]], Meta(min_length=5, max_length=5)]
    TOP_DOWN_PYRAMID_SIZE: Channels
    FPN_CLASSIF_FC_LAYERS_SIZE: Annotated[int, Meta(ge=1, le=16384)]
    RPN_CONV_CHANNELS: Channels
    MASK_CONV_CHANNELS: Channels
    COMPUTE_DTYPE: Literal["auto", "float32", "bfloat16", "float16"]
    NUM_CLASSES: Annotated[int, Meta(ge=2, le=10_000)]
    RPN_ANCHOR_SCALES: Annotated[
        list[Annotated[float, Meta(ge=0.1, le=1e5)]], Meta(min_length=5, max_length=5)
    ]
    RPN_ANCHOR_RATIOS: Annotated[
        list[Annotated[float, Meta(ge=0.01, le=100)]], Meta(min_length=1, max_length=20)
    ]
    RPN_ANCHOR_STRIDE: Annotated[int, Meta(ge=1, le=8)]
    RPN_NMS_THRESHOLD: Share
    RPN_TRAIN_ANCHORS_PER_IMAGE: Number
    PRE_NMS_LIMIT: Annotated[int, Meta(ge=1, le=20_000)]
    POST_NMS_ROIS_TRAINING: Number
    # Memory grows with their square.
    POST_NMS_ROIS_INFERENCE: Annotated[int, Meta(ge=1, le=4000)]
    RPN_BBOX_STD_DEV: Deviations
    BBOX_STD_DEV: Deviations
    USE_MINI_MASK: bool
    MINI_MASK_SHAPE: Pair
    IMAGE_RESIZE_MODE: Literal["none", "square", "pad64", "crop"]
    IMAGE_MIN_DIM: Side | None
    IMAGE_MAX_DIM: Side | Pair
    IMAGE_MIN_SCALE: Annotated[float, Meta(ge=0, le=4)] | None
    IMAGE_CHANNEL_COUNT: Small
    MEAN_PIXEL: Number | Annotated[list[Number], Meta(min_length=1, max_length=64)]
    TRAIN_ROIS_PER_IMAGE: Number
    ROI_POSITIVE_RATIO: Number
    POOL_SIZE: Small
    MASK_POOL_SIZE: Small
    MASK_SHAPE: Pair
    MAX_GT_INSTANCES: Number
    USE_RPN_ROIS: bool
    STOP_TARGET_GRADIENT: bool
    DETECTION_MAX_INSTANCES: Annotated[int, Meta(ge=1, le=10_000)]
    DETECTION_MIN_CONFIDENCE: Share
    DETECTION_NMS_THRESHOLD: Share
    DETECTION_PER_CLASS: bool
    SLEEVE_REFINE: bool
    MASK_REFINE: bool
    NMS_REPEAT_EMPTY_BOXES: bool
    LEARNING_RATE: Number
    LEARNING_MOMENTUM: Number
    WEIGHT_DECAY: Number
    GRADIENT_CLIP_NORM: Number
    LOSS_WEIGHTS: dict[str, Number]
    EDGE_LOSS_WEIGHT: Number
    LABEL_SMOOTHING: Number
    HEAD_DROPOUT: Number
    EMA_DECAY: Number
    TRAIN_BN: bool | None


_TYPES = get_type_hints(StoredConfig, include_extras=True)
# Computed from the others.
_DERIVED = ("BATCH_SIZE", "IMAGE_SHAPE", "IMAGE_META_SIZE")
# Numbers in a model that is built as a file says, and bytes of one array in it: 0.5 and 1 GB.
_MOST_WEIGHTS, _MOST_BYTES = 1 << 27, 1 << 30


@dataclass(frozen=True)
class FileInfo:
    """What a weights file says about its model."""

    path: Path
    # Background first; None where the file carries no names.
    class_names: tuple[str, ...] | None
    # As of `Config.to_dict`, but unchecked, see `stored_config`; None where the file carries none.
    config: dict[str, Any] | None
    # Shapes of all weights, by their path in the file such as "conv1/conv1/kernel:0".
    shapes: dict[str, tuple[int, ...]]
    # The data set's ids by class id; None where the file carries none.
    category_ids: tuple[int, ...] | None = None

    @property
    def num_classes(self) -> int | None:
        """Classes of the model, background included; None if the file has no class head."""
        return self._side("mrcnn_class_logits", -1)

    @property
    def backbone(self) -> str | None:
        """ "resnet50", "resnet101", "mobilenet_v2", or None if the layers are unknown."""
        layers = {n.split("/")[0] for n in self.shapes}
        if "res4w_branch2a" in layers:
            return "resnet101"
        if "res4f_branch2a" in layers:
            return "resnet50"
        return "mobilenet_v2" if "block_16_project" in layers else None

    @property
    def sizes(self) -> dict[str, Any]:
        """Settings that follow from the layers, by name."""
        first = "Conv1" if self.backbone == "mobilenet_v2" else "conv1"
        found = {
            "NUM_CLASSES": self.num_classes,
            "BACKBONE": self.backbone,
            "TOP_DOWN_PYRAMID_SIZE": self._side("fpn_c5p5", -1),
            "FPN_CLASSIF_FC_LAYERS_SIZE": self._side("mrcnn_class_conv1", -1),
            "RPN_CONV_CHANNELS": self._side("rpn_model/rpn_conv_shared", -1),
            "MASK_CONV_CHANNELS": self._side("mrcnn_mask_conv1", -1),
            "POOL_SIZE": self._side("mrcnn_class_conv1", 0),
            "IMAGE_CHANNEL_COUNT": self._side(first, -2),
        }
        return {name: value for name, value in found.items() if value}

    @property
    def anchor_ratios(self) -> int | None:
        """How many anchors the RPN has at each place; None if the file has no RPN."""
        channels = self._side("rpn_model/rpn_class_raw", -1)
        return channels and channels // 2

    def check_names(self, num_classes: int) -> None:
        """Raises a WeightsError if names and ids can't be those of so many classes."""
        try:
            if self.class_names:
                check_names(self.class_names, num_classes)
            if self.category_ids is not None:
                check_ids(self.category_ids, num_classes)
        except ValueError as error:
            raise WeightsError(
                f"the class names in {self.path} can't be used: {error}; take another file"
            ) from None

    def _side(self, layer: str, axis: int) -> int | None:
        """One side of a layer's first weight, its kernel."""
        shape = next((s for n, s in self.shapes.items() if n.startswith(f"{layer}/")), ())
        return shape[axis] if len(shape) > 1 else None


def inspect(path: PathLike) -> FileInfo:
    """Reads names, configuration and shapes of a weights file, not the weights.

    Raises:
        FileNotFoundError, WeightsError: as `open_weights`, and if the names can't be used.
    """
    with open_weights(path) as file:
        names, config, ids = (
            _from_json(file.path, key, file.text(key), kind)
            for key, kind in (
                ("class_names", list[str]),
                ("config", dict[str, Any]),
                ("category_ids", list[CategoryId]),
            )
        )
        shapes = {
            f"{layer}/{weight}": dataset.shape
            for layer, part in file.layers.items()
            for weight, dataset in part.datasets.items()
        }
        info = FileInfo(
            file.path,
            tuple(names) if names else None,
            config,
            shapes,
            None if ids is None else tuple(ids),
        )
    info.check_names(len(info.class_names or info.category_ids or ()))
    return info


def _from_json(path: Path, name: str, text: str | None, kind: Any) -> Any:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=kind)
    except (ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path} is damaged or no file of weights: its attribute {name} is not JSON as "
            f"expected ({str(error)[:200]}); take another file"
        ) from None


def stored_config(info: FileInfo) -> dict[str, Any]:
    """The settings that a weights file's model was built with.

    Files of this package carry them. For others those that follow from the layers are given.

    Raises:
        WeightsError: if the file isn't one of a whole Mask R-CNN of a known backbone, or its
            configuration has values that can't be, or that don't fit its layers.
    """
    if not info.config and not (info.num_classes and info.backbone):
        raise WeightsError(
            f"the file {info.path} holds no whole Mask R-CNN of a known backbone (class head: "
            f"{'yes' if info.num_classes else 'no'}, backbone: {info.backbone})"
        )
    values = {"NAME": "mask_rcnn"} if not info.config else _checked(info.path, info.config)
    if problems := list(_contradictions(values, info)):
        raise WeightsError(_unusable(info.path, "; ".join(problems)))
    values |= info.sizes
    config = Config.from_dict(values)
    info.check_names(config.NUM_CLASSES)
    try:
        config.validate()
    except ValueError as error:
        raise WeightsError(_unusable(info.path, str(error))) from None
    if problems := list(_too_large(config, info)):
        raise WeightsError(_unusable(info.path, "; ".join(problems)))
    return values


def _unusable(path: Path, why: str) -> str:
    return (
        f"the configuration in {path} can't be used: {why}\nTake another file, or build a MaskRCNN "
        "with a Config of your own and load the file into it."
    )


def _checked(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of known names; a warning names the others."""
    unknown = [name for name in config if name not in _TYPES and name not in _DERIVED]
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        shown = ", ".join(_shown(name) for name in unknown[:5])
        warnings.warn(f"{path}: unknown settings are ignored: {shown}{more}", stacklevel=4)
    # null: infinity, which JSON lacks, or nothing; but for these it is a value.
    nullable = ("TRAIN_BN", "IMAGE_MIN_DIM")
    known = {n: v for n, v in config.items() if n in _TYPES and (v is not None or n in nullable)}
    for name, value in known.items():
        try:
            whole = isinstance(value, float) and value.is_integer()
            msgspec.convert(int(value) if whole else value, _TYPES[name])
        except (ValueError, RecursionError) as error:
            raise WeightsError(_unusable(path, f"{name} is {_shown(value)}; {error}")) from None
    return known


def _contradictions(values: Mapping[str, Any], info: FileInfo) -> Iterator[str]:
    """What settings say of the layers that the layers don't."""
    if "BACKBONE" not in values and not info.backbone:
        yield "it names no backbone, so the model had one of its own; build it with its own Config"
    for name, size in info.sizes.items():
        if values.get(name, size) != size:
            yield f"{name} is {_shown(values[name])}, but the layers have {size}"
    ratios = len(values.get("RPN_ANCHOR_RATIOS", Config.RPN_ANCHOR_RATIOS))
    if (info.anchor_ratios or ratios) != ratios:
        yield f"RPN_ANCHOR_RATIOS has {ratios} values, but the layers are for {info.anchor_ratios}"


def _too_large(config: Config, info: FileInfo) -> Iterator[str]:
    """What would take gigabytes, though each setting is within its bounds."""
    pooled = config.POOL_SIZE**2 * config.TOP_DOWN_PYRAMID_SIZE
    dense, maps = config.FPN_CLASSIF_FC_LAYERS_SIZE, 9 * config.TOP_DOWN_PYRAMID_SIZE
    # About, for files that lack a head.
    heads = (
        dense * (pooled + dense + 5 * config.NUM_CLASSES)
        + maps * config.RPN_CONV_CHANNELS
        + config.MASK_CONV_CHANNELS * (maps + 27 * config.MASK_CONV_CHANNELS)
    )
    weights = max(heads, sum(map(math.prod, info.shapes.values())))
    if weights > _MOST_WEIGHTS:
        yield f"the model has {weights} weights; files may have {_MOST_WEIGHTS}"
    masks = 4 * config.MASK_POOL_SIZE**2 * max(config.MASK_CONV_CHANNELS, config.NUM_CLASSES)
    for name, each in (("POST_NMS_ROIS_INFERENCE", pooled), ("DETECTION_MAX_INSTANCES", masks)):
        if 4 * each * getattr(config, name) > _MOST_BYTES:
            yield f"{name} is {getattr(config, name)}; set it to {_MOST_BYTES // (4 * each)} or less"


def _shown(value: Any) -> str:
    """A value for a message: printable and short."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
