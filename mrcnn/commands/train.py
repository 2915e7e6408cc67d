"""`model.py train`."""

import dataclasses
import functools
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrcnn.commands.arguments import UsageError
from mrcnn.commands.data_sets import DataFoldersOptions
from mrcnn.commands.environment import import_tensorflow
from mrcnn.commands.shared import PrecisionOptions
from mrcnn.commands.starting import run_to_continue, start_from
from mrcnn.commands.training_data import (
    DEFAULT_SHARE,
    TrainingData,
    held_out_share,
    load_paste_data,
    load_training_data,
)
from mrcnn.core.options import factor, fraction, option, positive, share, size, whole
from mrcnn.data.augmentation import make_augmentation
from mrcnn.data.policy import Policy
from mrcnn.data.sampling import BALANCES, image_weights
from mrcnn.training.options import TrainingOptions
from mrcnn.training.schedules import SCHEDULES, Stage, make_schedule, parse_stages

if TYPE_CHECKING:
    from mrcnn.data.dataset import CocoDataset
    from mrcnn.model import MaskRCNN
    from mrcnn.training.checkpoints import Checkpoint

_model = functools.partial(option, group="model")
_schedule = functools.partial(option, group="schedule")
_data = functools.partial(option, group="data")
_run = functools.partial(option, group="run")


@dataclass(frozen=True)
class _CommandOptions(PrecisionOptions, DataFoldersOptions):
    """What the command itself decides; in the help it comes first within each group."""

    model: str = _model("resnet101", "network", choices=["resnet101", "resnet50", "compact"])
    weights: str | None = _model(
        None,
        "initial weights: coco, imagenet, none, or a file; last: continue the last run exactly "
        "where it stopped; if not given, coco",
    )
    resume: Path | None = option(
        None, "continue the run in this folder", metavar="RUN", group="model"
    )
    size: int | tuple[int, int] | None = _model(
        None,
        "side of the network's input in pixels, a multiple of 64, or HEIGHTxWIDTH; if not given, the "
        "model's",
        type=size,
        metavar="SIZE",
    )
    name: str | None = _model(None, "name of the run; if not given, the model's")
    logs: str = _model("logs", "parent folder of run folders")

    epochs: int | None = _schedule(
        None, "last epoch, counted from the very first; if not given, 90", type=positive
    )
    steps_per_epoch: int | None = _schedule(
        None, "if not given, one pass over the images, but at most 1000", type=positive
    )
    validation_steps: int | None = _schedule(
        None, "if not given, one pass over the images, but at most 50", type=positive
    )
    batch_size: int = _schedule(8, "images per step, over all --gpus of a process", type=positive)
    lr: float = _schedule(0.001, "learning rate of SGD")
    lr_schedule: str = _schedule(
        "plateau",
        "plateau: 0.3 of --lr once the validation loss stays flat; step: a tenth after 2/3 and "
        "8/9 of all steps; cosine: falls to 0 over all steps",
        choices=SCHEDULES,
    )
    warmup: int = _schedule(0, "steps at the start in which the rate rises to --lr", type=whole)
    layers: str | None = _schedule(
        None, "heads, 3+, 4+, 5+, all, or a regular expression; if not given, all"
    )
    stages: str | None = _schedule(
        None,
        "several stages instead of --layers and --epochs, each with its last epoch and, after a "
        "slash, a divisor of --lr: heads:40,4+:120,all:160/10",
    )
    ema: float = _schedule(0.0, "decay of a moving average of the weights, such as 0.999; 0: none")
    rois: int | None = _schedule(
        None, "RoIs per image that the heads train on; if not given, the model's", type=positive
    )
    edge_loss: float = _schedule(0.0, "weight of the mask edge loss; 0: none")
    label_smoothing: float = _schedule(0.0, "label smoothing of the class loss, such as 0.1")
    dropout: float = _schedule(0.0, "dropout rate in the class and box head, such as 0.5")
    best_by: str = _schedule(
        "val_loss",
        "metric that selects best.h5; mask_ap: on 100 validation images",
        choices=["val_loss", "mask_ap"],
    )

    val_data: Path | None = option(
        None,
        "data set to validate on; if not given, the validation split of the first --data",
        group="data",
    )
    val_split: float | None = _data(
        None,
        "share of the training images of the first --data to hold out for validation; 0: train "
        f"without validation; if not given, {DEFAULT_SHARE} where there is no validation split",
        type=fraction,
    )
    augment: str = _data(
        "flip",
        "none, flip, default (flip, shift, scale, rotate, colour, occlusion, some close-ups), zoom "
        "(more close-ups), strong (larger changes, for little data), or a Python file that "
        "defines `augmentation` with imgaug",
    )
    balance: str = _data(
        "none", "repeat_factor: show images of rare classes more often", choices=BALANCES
    )
    focus: str | None = _data(
        None, "classes whose images are shown more often: long_sleeved_shirt:2,trousers:2"
    )
    repeat: tuple[float, ...] | None = _data(
        None,
        "how often a pass shows the images of each --data folder: 2 1",
        type=factor,
        nargs="+",
    )
    paste: float = _data(0.0, "share of images that get garments of other images", type=share)
    recolour: float = _data(0.0, "share of garments to recolour", type=share)
    paste_data: Path | None = option(
        None, "data set to paste objects from, as --data", group="data"
    )
    paste_annotations: Path | None = option(None, "its annotations, as --annotations", group="data")

    gpus: int = _run(1, "GPUs of this machine to train on", type=positive)
    samples: int = _run(4, "validation images to draw in TensorBoard", type=whole)


@dataclass(frozen=True)
class TrainOptions(TrainingOptions, _CommandOptions):
    """Options of `model.py train`."""

    tensorboard: bool = True
    check: bool = True

    def __post_init__(self) -> None:
        """Refuses options that would do nothing beside others."""
        if self.stages and (self.layers or self.epochs):
            raise UsageError(
                "--stages says which layers train until when; leave out --layers, --epochs"
            )
        if self.stages:
            parse_stages(self.stages)  # a mistake must show before the data is read
        if self.resume and self.weights not in (None, "last"):
            raise UsageError("--resume continues with the run's own weights; leave out --weights")
        if self.paste_data and not self.paste:
            raise UsageError("--paste_data needs --paste, the share of images that get garments")
        if self.paste_annotations and not self.paste_data:
            raise UsageError(
                "--paste_annotations is for --paste_data; give both, or leave both out"
            )
        if self.val_data and self.val_split is not None:
            raise UsageError("--val_data is validated on; leave out --val_split, or give it alone")
        if self.val_split == 0 and self.best_by == "mask_ap":
            raise UsageError("--best_by mask_ap needs images for validation, --val_split above 0")
        if self.batch_size % self.gpus:
            raise UsageError(
                f"--batch_size {self.batch_size} is not a multiple of --gpus {self.gpus}"
            )

    @property
    def start(self) -> str:
        """What --weights stands for."""
        return self.weights or ("last" if self.resume else "coco")

    @property
    def all_stages(self) -> list[Stage]:
        if self.stages:
            return parse_stages(self.stages)
        return [Stage(self.layers or "all", self.epochs or 90)]

    @property
    def as_text(self) -> dict[str, str]:
        """The options by their names, for run.json."""
        names = [field.name for field in dataclasses.fields(self) if "flags" in field.metadata]
        values = {name: getattr(self, name) for name in names} | {"weights": self.start}
        texts = {
            name: " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            for name, value in values.items()
        }
        return {"command": "train", **texts}


def run_train(options: TrainOptions) -> int:
    """Trains a model; returns the exit status."""
    data = load_training_data(options, held_out_share(run_to_continue(options)))
    options = dataclasses.replace(options, val_split=data.val_split)
    train_set, val_set = data.train, data.validation
    print("\n".join([data.summary, *(f"note: {note}" for note in data.notes)]))
    visits = count_visits(options, train_set, data.counts)
    augmentation = _augmentation(options, visits, train_set)
    import_tensorflow()

    from mrcnn.data.samples import ImageLoadError
    from mrcnn.training.stopping import TrainingStopped, WorkerLost

    model = _make_model(options, visits.sum(), data)
    start_from(model, options, train_set.class_names)
    _check_layers(model, options.all_stages)
    options = dataclasses.replace(
        options,
        repeat_factors=None if (visits == 1).all() else visits,
        facts={"arguments": options.as_text, "validation": data.fact},
        **_validation(options, model, val_set),
    )
    try:
        _train_stages(model, options, train_set, val_set, augmentation)
    except TrainingStopped as stopped:
        print(stopped, file=sys.stderr)
        return 130
    except (FloatingPointError, WorkerLost) as error:
        raise UsageError(str(error), status=3) from error
    except ImageLoadError as error:
        raise UsageError(
            f"{error}\nFix it; the same command with --weights last then continues from the last "
            "checkpoint"
        ) from error
    if options.dry_run:
        print("Nothing was trained, as asked for.")
    else:
        print(f"Trained {model.epoch} epochs; weights and logs are in {model.log_dir}")
    return 0


def _train_stages(
    model: "MaskRCNN",
    options: TrainOptions,
    train_set: "CocoDataset",
    val_set: "CocoDataset | None",
    augmentation: Any,
) -> None:
    stages = options.all_stages
    names = stage_names(stages)
    for number in range(stage_to_continue(model.resumed, stages), len(stages)):
        stage = stages[number]
        if model.epoch >= stage.until:
            continue
        rate = options.lr / stage.divisor
        schedule = make_schedule(
            options.lr_schedule,
            rate,
            epochs=stages[-1].until,
            steps_per_epoch=model.config.STEPS_PER_EPOCH,
            warmup=options.warmup,
        )
        model.train(
            train_set,
            val_set,
            rate,
            stage.until,
            stage.layers,
            augmentation=augmentation,
            options=dataclasses.replace(options, schedule=schedule, stage_name=names[number]),
        )
        if options.dry_run:
            return


def stage_names(stages: list[Stage]) -> list[str | None]:
    """Names by which checkpoints tell the stages apart; None (the layers) if there is but one."""
    if len(stages) == 1:
        return [None]
    return [f"{number}:{stage.layers}" for number, stage in enumerate(stages)]


def stage_to_continue(resumed: "Checkpoint | None", stages: list[Stage]) -> int:
    """Number of the stage that a checkpoint, or None, belongs to.

    A run that is in its second stage stays there, even if early stopping ended the first one
    before its last epoch.
    """
    names = stage_names(stages)
    name = resumed.info["stage"] if resumed else None
    return names.index(name) if name in names else 0


def _make_model(options: TrainOptions, train_visits: float, data: TrainingData) -> "MaskRCNN":
    """The model to train: classes and length of an epoch follow from the data."""
    import keras

    from mrcnn.model import MaskRCNN
    from mrcnn.presets import CONFIGS
    from mrcnn.training.devices import count_processes

    base = CONFIGS[options.model]
    batch = options.batch_size * count_processes()
    val_images = data.validation.num_images if data.validation else 0
    steps, validation_steps = math.ceil(train_visits / batch), math.ceil(val_images / batch)
    values = {
        "NAME": options.name or base.NAME,
        "NUM_CLASSES": data.train.num_classes,
        "GPU_COUNT": options.gpus,
        "IMAGES_PER_GPU": options.batch_size // options.gpus,
        "LEARNING_RATE": options.lr,
        "COMPUTE_DTYPE": options.precision,
        "STEPS_PER_EPOCH": options.steps_per_epoch or min(1000, steps),
        "VALIDATION_STEPS": options.validation_steps or min(50, validation_steps),
        "EDGE_LOSS_WEIGHT": options.edge_loss,
        "LABEL_SMOOTHING": options.label_smoothing,
        "HEAD_DROPOUT": options.dropout,
        "EMA_DECAY": options.ema,
    }
    if options.size:
        values.update(IMAGE_MIN_DIM=int(np.min(options.size)), IMAGE_MAX_DIM=options.size)
    if options.rois:
        values["TRAIN_ROIS_PER_IMAGE"] = options.rois
    keras.utils.set_random_seed(options.seed)  # of the layers that no weights file fills
    return MaskRCNN("training", base.from_dict(values), options.logs)


def _check_layers(model: "MaskRCNN", stages: list[Stage]) -> None:
    """Finds a mistake in the layers of a later stage now, not after days."""
    from mrcnn.network.backbone import stage_patterns

    patterns = stage_patterns(model.config.BACKBONE)
    for stage in stages:
        try:
            model.set_trainable(patterns.get(stage.layers, stage.layers), verbose=0)
        except re.error as error:
            raise UsageError(
                f"the layers {stage.layers!r} are no regular expression ({error}); give heads, 3+, "
                "4+, 5+, all or a regular expression of layer names"
            ) from None


def _augmentation(
    options: TrainOptions, visits: np.ndarray, train_set: "CocoDataset | None" = None
) -> Any:
    """What --augment, --paste and --recolour ask for."""
    augmentation = make_augmentation(options.augment)
    changes: dict[str, Any] = {"paste": options.paste, "recolour": options.recolour}
    changes = {name: value for name, value in changes.items() if value}
    if not changes:
        return augmentation
    if not isinstance(augmentation, Policy):
        raise UsageError(
            f"--{next(iter(changes))} goes with --augment flip, default, zoom or strong, not "
            f"{options.augment}"
        )
    if options.paste_data and train_set:
        changes["paste_from"] = load_paste_data(options, train_set)
    elif options.paste and not (visits == 1).all():
        changes["paste_weights"] = visits
    return dataclasses.replace(augmentation, **changes)


def _validation(
    options: TrainOptions, model: "MaskRCNN", dataset: "CocoDataset | None"
) -> dict[str, Any]:
    """Options that need a detector beside the model in training."""
    by_ap = options.best_by == "mask_ap"
    if by_ap and model.cluster.workers > 1:
        raise UsageError("--best_by mask_ap works in one process only; leave it out here")
    if dataset is None or not (by_ap or options.samples) or not model.cluster.is_chief:
        return {}
    from mrcnn.commands.validation import ValidationDetector

    detector = ValidationDetector(model, dataset, seed=options.seed)
    chosen: dict[str, Any] = {}
    if options.samples:
        chosen["draw_samples"] = lambda: detector.draw_samples(options.samples)
    if by_ap:
        chosen |= {"score": detector.mask_ap, "score_name": "mask_ap"}
    return chosen


def count_visits(options: TrainOptions, train_set: "CocoDataset", counts: list[int]) -> np.ndarray:
    """How often a pass shows each image: float [num_images].

    Args:
        counts: number of images of each --data folder.
    """
    weights = image_weights(train_set, options.balance, focus=options.focus)
    if not options.repeat:
        return weights
    if len(options.repeat) != len(counts):
        raise UsageError(
            f"--repeat has {len(options.repeat)} numbers; give one for each of the {len(counts)} "
            "folders of --data"
        )
    repeated: np.ndarray = weights * np.repeat(options.repeat, counts)
    return repeated
