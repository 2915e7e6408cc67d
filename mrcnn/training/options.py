"""Options of a training: declared once, for the command line, for `MaskRCNN.train`, for the loop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mrcnn.core.options import option, positive, whole
from mrcnn.training.schedules import Schedule


@dataclass(frozen=True)
class TrainingOptions:
    """How to train, besides the configuration; `option` marks what `model.py train` offers too.

    Attributes:
        schedule: None leaves the learning rate to the callbacks.
        augmentation: imgaug augmenter or `mrcnn.data.policy.Policy`.
        no_augmentation_sources: sources of images that aren't augmented.
        repeat_factors: float [num_images], how often a pass shows each image; None: once.
        callbacks: Keras callbacks; they get the original's log names.
        stage_name: of this part of the training, stored in checkpoints: only the same stage
            takes over the optimizer's state. None: the layers.
        score, score_name: judges an epoch, higher is better, instead of the validation loss.
        draw_samples: gives named images uint8 [H, W, 3] for TensorBoard after each epoch.
        check: look for what would fail later before the first epoch.
        facts: more entries for run.json.
    """

    accumulate: int = option(
        1,
        "split each batch into this many parts, one after another: same update, less memory",
        type=positive,
        group="schedule",
    )
    early_stopping: int = option(
        0,
        "end the training, or the stage, after N epochs without improvement; 0: never",
        type=whole,
        group="schedule",
    )
    preview: int = option(
        0, "first write N augmented training images to preview.png", type=whole, group="data"
    )
    seed: int = option(
        0,
        "seed of random weights, image order, augmentation, dropout and the choice of RoIs",
        type=whole,
        group="data",
    )
    workers: int = option(2, "threads that load images", type=positive, group="data")
    keep: int = option(
        3, "latest checkpoints to keep, in addition to the best", type=positive, group="run"
    )
    dry_run: bool = option(
        False, "check data, disk space and memory with one step, then stop", group="run"
    )
    schedule: Schedule | None = None
    augmentation: Any = None
    no_augmentation_sources: Any = None
    repeat_factors: np.ndarray | None = None
    callbacks: tuple[Any, ...] = ()
    stage_name: str | None = None
    score: Callable[[], float] | None = None
    score_name: str = "score"
    draw_samples: Callable[[], list[tuple[str, np.ndarray]]] | None = None
    tensorboard: bool = False
    check: bool = False
    show_progress: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)
