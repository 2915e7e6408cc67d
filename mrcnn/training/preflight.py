"""Checks before the first epoch: what would end a training hours later is found in seconds."""

import math
import os
import resource
import shutil
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mrcnn.data.dataset import Dataset
from mrcnn.data.loader import BatchLoader
from mrcnn.data.sampling import class_presence
from mrcnn.training.options import TrainingOptions

if TYPE_CHECKING:
    from mrcnn.training.loop import TrainedModel
    from mrcnn.training.step import Batch, Trainer

SAMPLE = 200  # images that are read
SECONDS = 10  # and no more are after this time


class PreflightError(ValueError):
    """The training would fail as it is set up; the message lists all findings."""

    def __init__(self, findings: list[str]) -> None:
        super().__init__("\n  ".join(["before the first epoch:", *findings]))


def check_datasets(train_dataset: Dataset, val_dataset: Dataset | None, num_classes: int) -> None:
    """Raises ValueError if the data sets don't fit the model, or each other."""
    for which, dataset in (("train", train_dataset), ("validation", val_dataset)):
        if dataset is None:
            continue
        if not len(dataset.image_ids):
            raise ValueError(f"the {which} data set has no images; add some and call its prepare()")
        if dataset.num_classes != num_classes:
            raise ValueError(
                f"the {which} data set has {dataset.num_classes} classes, background included, "
                f"but NUM_CLASSES is {num_classes}; make them equal"
            )
    names = list(train_dataset.class_names)
    if val_dataset is not None and list(val_dataset.class_names) != names:
        raise ValueError(
            "the class names of the two data sets differ: "
            f"{names} and {list(val_dataset.class_names)}"
        )


def check(
    model: "TrainedModel",
    trainer: "Trainer",
    loader: BatchLoader,
    val_dataset: Dataset | None,
    options: TrainingOptions,
) -> None:
    """Looks for what would fail later, and prints what a step takes.

    Raises:
        PreflightError: listing all that must be fixed first.
    """
    findings, notes = [], []
    for name, dataset in (("train", loader.dataset), ("validation", val_dataset)):
        if dataset is not None:
            findings += check_files(dataset, name) or check_images(dataset, name, options.seed)
            notes += check_classes(dataset, name)
    if model.cluster.is_chief:
        size = sum(v.numpy().nbytes for v in model.keras_model.variables)
        copies = 2 if trainer.averages else 1  # the averages, and the weights beside them
        findings += check_disk(model.log_dir, size * copies, options.keep)
    if findings:
        raise PreflightError(findings)
    with closing(loader.epoch(0, 1, 0)) as batches:
        findings, facts = try_step(trainer, next(batches))
    if findings:
        raise PreflightError(findings)
    if options.show_progress and model.cluster.is_chief:
        steps = model.config.STEPS_PER_EPOCH
        for note in notes:
            print(f"note: {note}")
        print(
            f"Checked: a step takes about {facts['seconds']:.2f} s, an epoch of {steps} steps about "
            f"{facts['seconds'] * steps / 60:.0f} min; memory {facts['peak_gb']:.1f} GB"
        )


def _shortened(findings: list[str], rest: str) -> list[str]:
    """The first five findings, and a last one for how many more there are."""
    more = len(findings) - 5
    return findings if more <= 0 else [*findings[:5], rest.format(more)]


# Each check returns its findings. `name` is the data set's, for messages; images without a path
# (drawn ones) are skipped.


def check_files(dataset: Dataset, name: str) -> list[str]:
    """Image files that don't exist; all are looked for.

    Folders are listed, once each: that is far faster than asking for each file.
    """
    paths = [str(info["path"]) for info in dataset.image_info if info["path"]]
    there = {folder: _listing(folder) for folder in {os.path.dirname(p) for p in paths}}
    missing = [
        path
        for path in paths
        # Asked for itself too: file systems may take names for equal that differ as text.
        if os.path.basename(path) not in there[os.path.dirname(path)] and not os.path.exists(path)
    ]
    findings = [f"{name}: {path} does not exist" for path in missing]
    return _shortened(findings, f"{name}: and {{}} more of {len(paths)} images do not exist")


def _listing(folder: str) -> set[str]:
    """Names in a folder; none where it can't be listed."""
    try:
        return set(os.listdir(folder or "."))
    except OSError:
        return set()


def check_images(dataset: Dataset, name: str, seed: int = 0, sample: int = SAMPLE) -> list[str]:
    """Images of a random sample that training couldn't read; fewer if reading takes long."""
    findings: dict[int, str] = {}
    looked, end = 0, time.monotonic() + SECONDS
    for image_id in np.random.default_rng(seed).permutation(dataset.num_images)[:sample]:
        if not dataset.image_info[image_id]["path"]:
            continue
        looked += 1
        if problem := _image_problem(dataset, image_id):
            findings[image_id] = f"{name}: {problem}"
        if time.monotonic() > end:
            break
    in_order = [findings[image_id] for image_id in sorted(findings)]
    return _shortened(in_order, f"{name}: and {{}} more of the {looked} images read")


def _image_problem(dataset: Dataset, image_id: int) -> str:
    """What is wrong with an image; "" if nothing is."""
    info = dataset.image_info[image_id]
    try:
        height, width = dataset.load_image(image_id).shape[:2]
    except Exception as error:  # whatever it is, training would end of it
        text = str(error) or type(error).__name__
        return text if str(info["path"]) in text else f"{info['path']}: {text}"
    wanted = [info.get("width") or width, info.get("height") or height]
    if [width, height] != wanted:
        return (
            f"{info['path']} is {width}x{height} (width x height) but its annotations are for "
            f"{wanted[0]}x{wanted[1]}"
        )
    return ""


def check_classes(dataset: Dataset, name: str) -> list[str]:
    """Classes without an example; [] if that isn't known."""
    if not all("annotations" in info for info in dataset.image_info):
        return []
    present = np.any(class_presence(dataset), axis=0)[1:]
    if not present.any():
        return [f"{name}: no image has an object"]
    empty = [n for n, found in zip(dataset.class_names[1:], present, strict=True) if not found]
    return [f"{name}: no example of {', '.join(empty)}"] if empty else []


def check_disk(folder: str | Path, weight_bytes: int, keep: int) -> list[str]:
    """Whether the run folder, which need not exist yet, can take the checkpoints.

    Each of the `keep` checkpoints has the optimizer's state beside it. Two more exist for a
    moment, and the best weights. Those that are there already count as free, as new ones take
    their place.
    """
    folder = Path(folder).absolute()
    try:
        place = next(p for p in (folder, *folder.parents) if p.exists())
        with tempfile.TemporaryFile(dir=place) as file:  # root passes all checks of permissions
            file.write(b"1")
        free = shutil.disk_usage(place).free + _checkpoint_bytes(folder)
    except OSError as error:
        return [f"the run folder {folder} can't be written to ({error})"]
    needed = weight_bytes * (2 * (keep + 2) + 1)
    if free < needed:
        return [
            f"checkpoints need {needed / 1e9:.1f} GB but {free / 1e9:.1f} GB are free in {folder}; "
            "make room, or keep fewer (--keep)"
        ]
    return []


def _checkpoint_bytes(folder: Path) -> int:
    """Space that the checkpoints of a run folder take, a file of two names counted once."""
    states = list(folder.glob("*.state.h5"))
    weights = [p.with_name(p.name.replace(".state.h5", ".h5")) for p in states]
    found = [p.stat() for p in (*states, *weights, folder / "best.h5") if p.is_file()]
    return sum({status.st_ino: status.st_size for status in found}.values())


def try_step(trainer: "Trainer", batch: "Batch") -> tuple[list[str], dict[str, float]]:
    """One real step but for its update: does it run out of memory, are its losses finite?

    Returns:
        findings, and facts: first_seconds (with tracing), seconds, peak_gb of this process's
        memory; none if memory ran out.
    """
    import tensorflow as tf

    facts: dict[str, float] = {}
    losses: dict[str, float] = {}
    try:
        for name in ("first_seconds", "seconds"):
            start = time.perf_counter()
            losses = {k: float(v) for k, v in trainer.gradients(batch)[0].items()}
            facts[name] = time.perf_counter() - start
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        return [
            f"a step of {len(batch[0])} images does not fit into memory; work through the batch "
            "in parts (--accumulate), or take a smaller one, smaller images or bfloat16 "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ], {}
    facts["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    broken = [name for name, value in losses.items() if not math.isfinite(value)]
    if broken:
        return [f"the first batch gives {losses}: {', '.join(broken)} not finite"], facts
    return [], facts
