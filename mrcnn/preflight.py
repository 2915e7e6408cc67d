"""Checks before the first epoch: what would end a training hours later is found in seconds."""

import math
import os
import resource
import shutil
import time
from pathlib import Path

import numpy as np
from PIL import Image

from mrcnn.sampling import class_presence

SAMPLE = 200  # pictures whose files are looked at


class PreflightError(ValueError):
    """The training can't go well as it is set up; the message lists all findings."""


def check_pictures(dataset, name, seed=0, sample=SAMPLE):
    """What is wrong with the files of a data set, by a sample of its pictures.

    Args:
        dataset: a prepared `Dataset`.
        name: of the data set, for messages.
        seed: of the sample.
        sample: int, pictures to look at: all, if there are no more.

    Returns:
        list of str, one a finding; pictures without a path (drawn ones) are passed over.
    """
    ids = np.random.default_rng(seed).permutation(dataset.num_images)[:sample]
    findings = []
    for image_id in sorted(ids):
        info = dataset.image_info[image_id]
        if not info["path"]:
            continue
        problem = _picture_problem(info)
        if problem:
            findings.append(f"{name}: {info['path']} {problem}")
    if len(findings) > 5:
        more = f"{name}: and {len(findings) - 5} more of the {len(ids)} pictures looked at"
        findings = [*findings[:5], more]
    return findings


def _picture_problem(info):
    try:
        with Image.open(info["path"]) as picture:
            size = picture.size
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"can't be read ({error})"
    wanted = (info.get("width", size[0]), info.get("height", size[1]))
    if size != wanted:
        return (
            f"is {size[0]}x{size[1]} (width x height) but its annotations are for "
            f"{wanted[0]}x{wanted[1]}"
        )
    return ""


def check_classes(dataset, name):
    """Classes that no annotation has, which nothing can be learnt of; [] if that isn't known."""
    if not all("annotations" in info for info in dataset.image_info):
        return []
    present = class_presence(dataset).any(axis=0)[1:]
    if not present.any():
        return [f"{name}: no picture has an object"]
    empty = [n for n, found in zip(dataset.class_names[1:], present, strict=True) if not found]
    return [f"{name}: no example of {', '.join(empty)}"] if empty else []


def check_disk(folder, weight_bytes, keep):
    """What is wrong with the place for checkpoints; [] if it can be written and is large enough.

    Args:
        folder: of the run; made if need be.
        weight_bytes: size of a weights file.
        keep: checkpoints kept: each has the optimizer's state beside it, and two more exist
            for a moment.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return [f"the run folder can't be made: {error}"]
    if not os.access(folder, os.W_OK):
        return [f"the run folder {folder} can't be written to"]
    needed = 2 * weight_bytes * (keep + 2)
    free = shutil.disk_usage(folder).free
    if free < needed:
        return [
            f"checkpoints need {needed / 1e9:.1f} GB but {free / 1e9:.1f} GB are free in {folder}"
        ]
    return []


def try_step(trainer, batch):
    """One real step but for its update: finds what would run out of memory or isn't finite.

    Returns:
        (findings: list of str, facts: dict of first_seconds (with tracing), seconds, peak_gb of
        this process's memory).
    """
    facts, findings = {}, []
    for name in ("first_seconds", "seconds"):
        start = time.perf_counter()
        losses = {k: float(v) for k, v in trainer.try_out(batch).items()}
        facts[name] = time.perf_counter() - start
    facts["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    broken = [name for name, value in losses.items() if not math.isfinite(value)]
    if broken:
        findings.append(f"the first batch gives {losses}: {', '.join(broken)} not finite")
    return findings, facts
