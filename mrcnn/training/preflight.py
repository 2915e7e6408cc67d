"""Checks before the first epoch: what would end a training hours later is found in seconds."""

import math
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from mrcnn.data.sampling import class_presence

SAMPLE = 200  # images that are read
SECONDS = 10  # and no more are after this time


class PreflightError(ValueError):
    """The training can't go well as it is set up; the message lists all findings."""


def check_files(dataset, name):
    """Which images of a data set aren't there, all of them looked for.

    Folders are listed, once each: that is far faster than asking for each file.

    Args:
        dataset: a prepared `Dataset`.
        name: of the data set, for messages.

    Returns:
        list of str, one a finding; images without a path (drawn ones) are passed over.
    """
    paths = [str(info["path"]) for info in dataset.image_info if info["path"]]
    there = {folder: _listing(folder) for folder in {os.path.dirname(p) for p in paths}}
    missing = [
        path
        for path in paths
        # Asked for itself too: file systems may take names for equal that differ as text.
        if os.path.basename(path) not in there[os.path.dirname(path)] and not os.path.exists(path)
    ]
    found = [f"{name}: {path} does not exist" for path in missing[:5]]
    if len(missing) > 5:
        found.append(f"{name}: and {len(missing) - 5} more of {len(paths)} images do not exist")
    return found


def _listing(folder):
    """Names in a folder; none where it can't be listed."""
    try:
        return set(os.listdir(folder or "."))
    except OSError:
        return set()


def check_pictures(dataset, name, seed=0, sample=SAMPLE):
    """What is wrong with the images of a data set, by reading a sample of them as training does.

    Args:
        dataset: a prepared `Dataset`.
        name: of the data set, for messages.
        seed: of the sample.
        sample: int, images to read: all, if there are no more; fewer if they take long.

    Returns:
        list of str, one a finding; images without a path (drawn ones) are passed over.
    """
    findings, looked, end = {}, 0, time.monotonic() + SECONDS
    for image_id in np.random.default_rng(seed).permutation(dataset.num_images)[:sample]:
        if not dataset.image_info[image_id]["path"]:
            continue
        problem = _picture_problem(dataset, image_id)
        looked += 1
        if problem:
            findings[image_id] = f"{name}: {problem}"
        if time.monotonic() > end:
            break
    found = [findings[image_id] for image_id in sorted(findings)]
    if len(found) > 5:
        found = [*found[:5], f"{name}: and {len(found) - 5} more of the {looked} images read"]
    return found


def _picture_problem(dataset, image_id):
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


def check_classes(dataset, name):
    """Classes that no annotation has, which nothing can be learnt of; [] if that isn't known."""
    if not all("annotations" in info for info in dataset.image_info):
        return []
    present = class_presence(dataset).any(axis=0)[1:]
    if not present.any():
        return [f"{name}: no image has an object"]
    empty = [n for n, found in zip(dataset.class_names[1:], present, strict=True) if not found]
    return [f"{name}: no example of {', '.join(empty)}"] if empty else []


def check_disk(folder, weight_bytes, keep):
    """What is wrong with the place for checkpoints; [] if it can be written and is large enough.

    Args:
        folder: of the run; need not exist yet, and isn't made.
        weight_bytes: size of a weights file.
        keep: checkpoints kept: each has the optimizer's state beside it. Two more exist for a
            moment, and the best weights. Those that the folder has already count as free, as
            new ones take their place.
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


def _checkpoint_bytes(folder):
    """Space that the checkpoints of a run folder take, a file of two names counted once."""
    states = list(folder.glob("*.state.h5"))
    weights = [p.with_name(p.name.replace(".state.h5", ".h5")) for p in states]
    found = [p.stat() for p in (*states, *weights, folder / "best.h5") if p.is_file()]
    return sum({status.st_ino: status.st_size for status in found}.values())


def try_step(trainer, batch):
    """One real step but for its update: finds what would run out of memory or isn't finite.

    Args:
        trainer: `Trainer`.
        batch: list of arrays as `BatchLoader` yields them.

    Returns:
        (findings: list of str, facts: dict of first_seconds (with tracing), seconds, peak_gb of
        this process's memory). Out of the device's memory there are no facts.
    """
    import tensorflow as tf

    facts = {}
    try:
        for name in ("first_seconds", "seconds"):
            start = time.perf_counter()
            losses = {k: float(v) for k, v in trainer.try_out(batch).items()}
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
