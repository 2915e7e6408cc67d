"""What a training starts from: a run to continue, or weights."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mrcnn.commands.arguments import UsageError
from mrcnn.core.classes import COCO, same_names

if TYPE_CHECKING:
    from mrcnn.commands.train import TrainOptions
    from mrcnn.model import MaskRCNN


def run_to_continue(options: "TrainOptions") -> Path | None:
    """The folder of the run that --weights last or --resume means; None for a new run."""
    from mrcnn.presets import CONFIGS
    from mrcnn.training.run_folders import find_last_run

    if options.start != "last" or options.resume:
        return options.resume
    try:
        return find_last_run(options.logs, options.name or str(CONFIGS[options.model].NAME))
    except FileNotFoundError:  # said later, when the model is there
        return None


def start_from(model: "MaskRCNN", options: "TrainOptions", class_names: list[str]) -> None:
    """Loads the initial weights, or a run's state, into a training model.

    Args:
        class_names: of the training data, background first.
    """
    from mrcnn.network import pretrained, weights

    source = options.start
    if source == "none":
        return
    if source == "last":
        folder = run_to_continue(options)
        for file in sorted(folder.glob("mask_rcnn_*[0-9].h5"))[-1:] if folder else ():
            # Weights of other classes may not even fit. Whether the file is whole shows later.
            with suppress(weights.WeightsError):
                _check_same_classes(file, class_names)
        path = _resume(model, options.resume)
        _check_same_classes(path, class_names)
    elif model.config.BACKBONE == "mobilenet_v2" and source == "coco":
        path = pretrained.shipped(pretrained.MOBILENET_COCO)
        report = pretrained.load_mobilenet_v2(model.keras_model, path)
        model.random_layers = report.missing
    elif source == "imagenet":
        path = model.get_imagenet_weights()
        model.load_weights(path, by_name=True)
    else:
        path = pretrained.find_weights(source)
        info = weights.inspect(path)
        names = info.class_names or (COCO if source == "coco" else None)
        others = info.num_classes != model.config.NUM_CLASSES
        others = others or bool(names and not same_names(names, class_names))
        if others and info.num_classes:
            theirs = _brief(names) if names else f"{info.num_classes - 1} classes"
            print(
                f"The class layers start from random weights: {path} has {theirs}, the data "
                f"{_brief(class_names)}"
            )
        model.load_weights(path, by_name=True, exclude=weights.CLASS_LAYERS if others else None)
        model.set_log_dir()  # a run of its own, even if the file is another run's
    print(f"Starting from {path}, epoch {model.epoch}")
    if model.random_layers:
        print(f"Layers that start from random weights: {', '.join(model.random_layers)}")


def _check_same_classes(path: Path | str, class_names: Sequence[str]) -> None:
    """Raises UsageError if a run's weights are of other classes than the data."""
    from mrcnn.network import weights

    names = weights.inspect(path).class_names
    if names and not same_names(names, class_names):
        raise UsageError(
            f"{path} has the classes {', '.join(names[1:])}, but the data has "
            f"{', '.join(class_names[1:])}; start a new run, from it with --weights {path}"
        )


def _brief(names: Sequence[str]) -> str:
    """Class names, background first, in a few words."""
    first = ", ".join(names[1:6]) + (", ..." if len(names) > 6 else "")
    return f"{len(names) - 1} classes ({first})"


def _resume(model: "MaskRCNN", folder: Path | None) -> Path | str:
    """Continues a run; one of an older version, or matterport's, has nothing but weights."""
    try:
        return model.resume(folder)
    except FileNotFoundError:
        if folder:
            raise
        path = model.find_last()
        model.load_weights(path, by_name=True)
        print("That run has no optimizer state: its momentum starts at zero.")
        return path
