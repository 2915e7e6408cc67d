"""Settings of a Mask R-CNN: subclass `Config`, override what differs, pass an instance.

The names and defaults are matterport's, so that configurations written for it keep working.
Only constructors read a `Config`; layers and functions take the values they need.
"""

import math
import numbers
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np

RESIZE_MODES = ("none", "square", "pad64", "crop")
COMPUTE_DTYPES = ("auto", "float32", "bfloat16", "float16")
BACKBONES = ("resnet50", "resnet101", "mobilenet_v2")
LOSS_NAMES = (
    "rpn_class_loss",
    "rpn_bbox_loss",
    "mrcnn_class_loss",
    "mrcnn_bbox_loss",
    "mrcnn_mask_loss",
)


class Config:
    """Base configuration. Subclass it, set NAME and NUM_CLASSES, and override what differs.

    Sizes are in pixels of the molded image (the resized, padded network input) unless a
    comment says otherwise; boxes are (y1, x1, y2, x2).
    """

    # Prefix of the run folder and of the checkpoints in it.
    NAME: str | None = None

    # --- Batches and schedule -------------------------------------------------------------
    # The batch is GPU_COUNT * IMAGES_PER_GPU. Raise IMAGES_PER_GPU until memory is full. On a
    # CPU GPU_COUNT stays 1.
    GPU_COUNT: int = 1
    IMAGES_PER_GPU: int = 2
    # One checkpoint and one validation after each epoch: make epochs long enough for that.
    STEPS_PER_EPOCH: int = 1000
    VALIDATION_STEPS: int = 50

    # --- Backbone and feature pyramid -----------------------------------------------------
    # "resnet50", "resnet101", "mobilenet_v2", or a callable
    # f(input_image, stage5=True, train_bn=TRAIN_BN) -> [C1, C2, C3, C4, C5].
    BACKBONE: str | Callable[..., Any] = "resnet101"
    # Only with a callable BACKBONE: f(image_shape) -> [5, (height, width)] of P2..P6.
    COMPUTE_BACKBONE_SHAPE: Callable[..., Any] | None = None
    # Strides of P2..P6. Change them only with a backbone of other strides.
    BACKBONE_STRIDES: Sequence[int] = [4, 8, 16, 32, 64]
    # Channels of P2..P6.
    TOP_DOWN_PYRAMID_SIZE: int = 256
    # Width of the two dense layers of the class and box head.
    FPN_CLASSIF_FC_LAYERS_SIZE: int = 1024
    # Channels of the RPN's shared convolution, and of the mask head's convolutions. Lower
    # them (with TOP_DOWN_PYRAMID_SIZE) for compact models; the defaults are the original's.
    RPN_CONV_CHANNELS: int = 512
    MASK_CONV_CHANNELS: int = 256

    # --- Precision ------------------------------------------------------------------------
    # Of convolutions and dense layers. "auto" takes what the device is fast at; boxes, NMS,
    # softmax, losses and weights are always float32.
    COMPUTE_DTYPE: str = "auto"

    # --- Classes --------------------------------------------------------------------------
    # Background included: 1 + the number of classes in the data set.
    NUM_CLASSES: int = 1

    # --- Region proposals -----------------------------------------------------------------
    # Side of the square anchor of each pyramid level. Halve them for small objects or when
    # the input is half as large.
    RPN_ANCHOR_SCALES: Sequence[float] = (32, 64, 128, 256, 512)
    # Width / height.
    RPN_ANCHOR_RATIOS: Sequence[float] = [0.5, 1, 2]
    # 1: anchors at each cell of the feature map; 2: at every other.
    RPN_ANCHOR_STRIDE: int = 1
    # Raise it to keep more proposals of crowded objects.
    RPN_NMS_THRESHOLD: float = 0.7
    RPN_TRAIN_ANCHORS_PER_IMAGE: int = 256
    # Highest scoring anchors kept before NMS, and proposals kept after it.
    PRE_NMS_LIMIT: int = 6000
    POST_NMS_ROIS_TRAINING: int = 2000
    POST_NMS_ROIS_INFERENCE: int = 1000
    # Box deltas (dy, dx, log dh, log dw) are divided by these before training.
    RPN_BBOX_STD_DEV = np.array([0.1, 0.1, 0.2, 0.2])
    BBOX_STD_DEV = np.array([0.1, 0.1, 0.2, 0.2])

    # --- Masks ----------------------------------------------------------------------------
    # Store ground truth masks cropped to their boxes at MINI_MASK_SHAPE: needed for large
    # images, at some loss of detail.
    USE_MINI_MASK: bool = True
    MINI_MASK_SHAPE: Sequence[int] = (56, 56)

    # --- Input images -------------------------------------------------------------------
    # "square": scale to MIN_DIM..MAX_DIM, pad to MAX_DIM x MAX_DIM (inference and training), or
    # to the height and width that MAX_DIM gives: (384, 640);
    # "pad64": pad to multiples of 64 (inference); "crop": random MIN_DIM x MIN_DIM crops
    # (training only); "none": neither scaled nor padded (sides must be multiples of 64).
    IMAGE_RESIZE_MODE: str = "square"
    IMAGE_MIN_DIM: int = 800
    IMAGE_MAX_DIM: int | Sequence[int] = 1024
    # Scale up by at least this factor, whatever IMAGE_MIN_DIM says; 0 for no such floor.
    IMAGE_MIN_SCALE: float = 0
    # With other counts than 3, change MEAN_PIXEL and exclude conv1 when loading weights.
    IMAGE_CHANNEL_COUNT: int = 3
    MEAN_PIXEL = np.array([123.7, 116.8, 103.9])  # RGB

    # --- Heads ----------------------------------------------------------------------------
    # RoIs of an image that train the heads, and the share of them that holds objects. Where
    # the RPN finds too few objects for that ratio, raise RPN_NMS_THRESHOLD.
    TRAIN_ROIS_PER_IMAGE: int = 200
    ROI_POSITIVE_RATIO: float = 0.33
    POOL_SIZE: int = 7
    MASK_POOL_SIZE: int = 14
    # Twice MASK_POOL_SIZE; another size needs another mask head.
    MASK_SHAPE: Sequence[int] = [28, 28]
    MAX_GT_INSTANCES: int = 100
    # False: train the heads on given RoIs ("input_roi") instead of the RPN's proposals.
    USE_RPN_ROIS: bool = True
    # The original lets the gradient of mrcnn_bbox_loss flow back into the RPN through the RoIs
    # that its targets are relative to. True stops that.
    STOP_TARGET_GRADIENT: bool = False

    # --- Detection ------------------------------------------------------------------------
    DETECTION_MAX_INSTANCES: int = 100
    DETECTION_MIN_CONFIDENCE: float = 0.7
    DETECTION_NMS_THRESHOLD: float = 0.3
    # False: a RoI gives a detection of its likeliest class only, as in the original. True: of
    # each class whose score reaches DETECTION_MIN_CONFIDENCE, as in Detectron; below 0.5, AP
    # counts second guesses too.
    DETECTION_PER_CLASS: bool = False
    # Boxes without area (moved out of the image) are dropped before NMS, in training too. True:
    # as NMS on CPUs in TensorFlow 1.15 did, one such proposal is repeated until the output is full,
    # and one such detection ends its class. Only to compare with numbers recorded there.
    NMS_REPEAT_EMPTY_BOXES: bool = False
    # Let the sleeve head of the weights file (scripts/train_sleeves.py) overrule the class of a
    # garment among its siblings, such as short and long sleeves.
    SLEEVE_REFINE: bool = False
    # Fit masks to edges in the image (`mrcnn.inference.refine`), in the commands and the
    # `Predictor`; `MaskRCNN.detect` gives masks as the original does.
    MASK_REFINE: bool = False

    # --- Optimizer ------------------------------------------------------------------------
    # The paper's 0.02 explodes with this loss normalisation.
    LEARNING_RATE: float = 0.001
    LEARNING_MOMENTUM: float = 0.9
    WEIGHT_DECAY: float = 0.0001
    GRADIENT_CLIP_NORM: float = 5.0
    LOSS_WEIGHTS: Mapping[str, float] = dict.fromkeys(LOSS_NAMES, 1.0)
    # Weight of a sixth loss, the agreement of mask edges (arXiv:1809.07069); 0: none. Try 1.
    EDGE_LOSS_WEIGHT: float = 0.0
    # Share of the class head's labels that is spread over all classes, for noisy labels; it
    # raises the class loss in training and validation. Try 0.1.
    LABEL_SMOOTHING: float = 0.0
    # Dropout in the class and box head while training, against overfitting on few images. Try 0.5.
    HEAD_DROPOUT: float = 0.0
    # Validate and save moving averages of the weights: 0.999 or so; 0: none.
    EMA_DECAY: float = 0.0
    # None: batch norm trains normally; False: its statistics are frozen (right for small
    # batches); True: it uses the batch's statistics, at inference too.
    TRAIN_BN: bool | None = False

    def __init__(self) -> None:
        """Derives BATCH_SIZE, IMAGE_SHAPE and IMAGE_META_SIZE from the other values."""
        self.BATCH_SIZE = self.IMAGES_PER_GPU * self.GPU_COUNT
        side = self.IMAGE_MIN_DIM if self.IMAGE_RESIZE_MODE == "crop" else self.IMAGE_MAX_DIM
        self.IMAGE_SHAPE = np.array([*np.broadcast_to(side, 2), self.IMAGE_CHANNEL_COUNT])
        # image id, original shape, molded shape, window, scale, active class ids
        self.IMAGE_META_SIZE = 1 + 3 + 3 + 4 + 1 + self.NUM_CLASSES

    def validate(self) -> None:
        """Checks the values against each other.

        Raises:
            ValueError: listing each field that can't work, its value and what to set instead.
        """
        problems = list(self._problems())
        if problems:
            raise ValueError(
                f"{type(self).__name__} cannot be used:\n" + "\n".join(f"  {p}" for p in problems)
            )

    def _problems(self) -> Iterator[str]:
        if self.NUM_CLASSES < 2:
            yield (
                f"NUM_CLASSES is {self.NUM_CLASSES}; set it to 1 (background) + the number "
                "of classes in the data set"
            )
        if self.NAME is not None and re.search(r"[/\\\0]", str(self.NAME)):
            yield f"NAME is {self.NAME!r}, but files are named by it; leave out / and \\"
        counts = ("GPU_COUNT", "IMAGES_PER_GPU", "STEPS_PER_EPOCH")
        for name in (*counts, "DETECTION_MAX_INSTANCES", "MAX_GT_INSTANCES"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; set it to 1 or more"
        for name in ("EMA_DECAY", "LABEL_SMOOTHING", "HEAD_DROPOUT"):
            if not 0 <= getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; set it to 0 (none) or more, below 1"
        if not 0 <= self.EDGE_LOSS_WEIGHT < math.inf:
            yield f"EDGE_LOSS_WEIGHT is {self.EDGE_LOSS_WEIGHT}; set it to 0 (none) or more"
        if not callable(self.BACKBONE) and self.BACKBONE not in BACKBONES:
            yield f"BACKBONE is {self.BACKBONE!r}; use one of {BACKBONES} or a callable"
        if callable(self.BACKBONE) and not callable(self.COMPUTE_BACKBONE_SHAPE):
            yield (
                "BACKBONE is a callable but COMPUTE_BACKBONE_SHAPE is not; set it to a "
                "function that gives the shapes of P2..P6"
            )
        if self.COMPUTE_DTYPE not in COMPUTE_DTYPES:
            yield f"COMPUTE_DTYPE is {self.COMPUTE_DTYPE!r}; use one of {COMPUTE_DTYPES}"
        if self.IMAGE_RESIZE_MODE not in RESIZE_MODES:
            yield f"IMAGE_RESIZE_MODE is {self.IMAGE_RESIZE_MODE!r}; use one of {RESIZE_MODES}"
        elif self.IMAGE_RESIZE_MODE != "none":
            # Six halvings on the way to P6; odd maps would not add up in the FPN.
            name = "IMAGE_MAX_DIM" if self.IMAGE_RESIZE_MODE == "square" else "IMAGE_MIN_DIM"
            value = getattr(self, name)
            sides = np.broadcast_to(value or 0, 2).tolist()
            side = next((side for side in sides if not side or side % 64), None)
            if side is not None:
                lower = max(64, int(side) // 64 * 64)
                yield (
                    f"{name} is {value}; it must be a multiple of 64, such as {lower} or {lower + 64}"
                )
        if len(self.RPN_ANCHOR_SCALES) != len(self.BACKBONE_STRIDES):
            yield (
                f"RPN_ANCHOR_SCALES has {len(self.RPN_ANCHOR_SCALES)} values; give one for each "
                f"of the {len(self.BACKBONE_STRIDES)} pyramid levels"
            )
        if len(np.atleast_1d(self.MEAN_PIXEL)) not in (1, self.IMAGE_CHANNEL_COUNT):
            yield (
                f"MEAN_PIXEL has {len(np.atleast_1d(self.MEAN_PIXEL))} values but "
                f"IMAGE_CHANNEL_COUNT is {self.IMAGE_CHANNEL_COUNT}; give one for each channel"
            )
        if tuple(self.MASK_SHAPE) != (2 * self.MASK_POOL_SIZE,) * 2:
            yield (
                f"MASK_SHAPE is {list(self.MASK_SHAPE)}; the mask head doubles MASK_POOL_SIZE, so "
                f"set it to {[2 * self.MASK_POOL_SIZE] * 2}"
            )
        if not 0 < self.ROI_POSITIVE_RATIO <= 1:
            yield f"ROI_POSITIVE_RATIO is {self.ROI_POSITIVE_RATIO}; set it between 0 and 1"
        unknown = set(self.LOSS_WEIGHTS) - set(LOSS_NAMES)
        if unknown:
            yield f"LOSS_WEIGHTS has {sorted(unknown)}; the losses are {LOSS_NAMES}"

    def to_dict(self) -> dict[str, Any]:
        """All values by name, as JSON can hold them; callables (an own BACKBONE) are left out."""
        values = {name: getattr(self, name) for name in self._names()}
        return {name: _plain(value) for name, value in values.items() if not callable(value)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """A configuration with the values of a `to_dict`, the class's own where a name is missing.

        Derived values are computed anew.

        Raises:
            ValueError: if a name isn't one of a setting: upper case, without an underscore first.
        """
        for name in values:
            # Anything else could take the place of a method.
            if not name.isupper() or name.startswith("_"):
                raise ValueError(f"{name!r} is no name of a setting; they are in upper case")
        derived = ("BATCH_SIZE", "IMAGE_SHAPE", "IMAGE_META_SIZE")
        own = {name: value for name, value in values.items() if name not in derived}
        for name, value in own.items():
            if isinstance(getattr(cls, name, None), np.ndarray):
                own[name] = np.array(value)
        made: Self = type(cls.__name__, (cls,), own)()
        return made

    def display(self) -> None:
        """Prints all values, sorted by name."""
        print("\nConfigurations:")
        for name in self._names():
            print(f"{name:30} {getattr(self, name)}")
        print()

    def _names(self) -> list[str]:
        names = (n for n in dir(self) if not n.startswith("_"))
        return [n for n in names if n.isupper()]


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays, tuples and dicts -> what JSON knows."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    return value
