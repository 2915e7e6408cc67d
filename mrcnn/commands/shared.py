"""Options of the model that several commands share."""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mrcnn.commands.environment import import_tensorflow
from mrcnn.core.options import option, size

if TYPE_CHECKING:
    from mrcnn.predictor import Predictor

_model = functools.partial(option, group="model")


@dataclass(frozen=True)
class PrecisionOptions:
    precision: str = _model(
        "auto",
        "number format of the computation; auto: the fastest that the device supports well",
        choices=["auto", "float32", "bfloat16", "float16"],
    )


@dataclass(frozen=True)
class ModelOptions(PrecisionOptions):
    """Which model runs, and how: keywords of `Predictor.load`, where `weights` is `path`."""

    weights: str = _model(
        "weights",
        "a weights file, a folder (its newest .h5 file), or coco (matterport's COCO weights, "
        "downloaded once)",
    )
    size: int | tuple[int, int] | None = _model(
        None,
        "side of the network's input in pixels, a multiple of 64, or HEIGHTxWIDTH; if not given, as "
        "in the weights file",
        type=size,
        metavar="SIZE",
    )
    tta: bool = _model(False, "also run on the mirrored image and average (takes twice as long)")
    refine: bool | None = _model(
        None,
        "fit masks to edges in the image (slower, needs OpenCV); if not given, as the weights file "
        "says",
    )
    sleeve_refine: bool | None = _model(
        None,
        "let the sleeve classifier of the weights file correct similar classes, such as short and "
        "long sleeves; if not given, as the weights file says",
    )


def load_predictor(weights: str, **settings: Any) -> "Predictor":
    """The predictor of a weights file; `settings` are keywords of `Predictor.load`."""
    import_tensorflow()
    from mrcnn.predictor import Predictor

    predictor = Predictor.load(weights, **settings)
    config = predictor.model.config
    print(f"Weights: {predictor.weights} ({config.BACKBONE}, {config.NUM_CLASSES - 1} classes)")
    return predictor
