"""Which images an epoch visits, how often, and in which order."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from mrcnn.core.classes import plain_name
from mrcnn.data.dataset import Dataset

BALANCES = ("none", "repeat_factor")
# LVIS took 0.001 for its 1,203 classes; with the 13 of clothing none is that rare.
REPEAT_THRESHOLD = 0.1

Focus = Mapping[str, float] | str | None


def image_weights(
    dataset: Dataset,
    balance: str = "none",
    threshold: float = REPEAT_THRESHOLD,
    focus: Focus = None,
) -> np.ndarray:
    """How often each image should be visited in an epoch.

    With "repeat_factor" a class c that a share f(c) of the images has gets
    r(c) = max(1, sqrt(threshold / f(c))), and an image the largest r of its classes (Gupta et
    al., arXiv:1908.03195). `focus` multiplies images with the classes named, by the largest of
    their factors. Crowds don't count.

    Args:
        dataset: prepared; class ids come from `load_class_ids`.
        balance: "none" or "repeat_factor".
        threshold: > 0, the share of images below which a class is repeated.
        focus: class name -> factor >= 1, or text for `parse_focus`.

    Returns:
        float64 [num_images], each >= 1.

    Raises:
        ValueError: for an unknown balance or class, or a number out of range.
    """
    if balance not in BALANCES:
        raise ValueError(f"balance is {balance!r}; use one of {', '.join(BALANCES)}")
    if not threshold > 0:
        raise ValueError(f"the threshold of repeat factors is {threshold}; pass a number > 0")
    factors = _focus_factors(dataset, focus)
    weights = np.ones(dataset.num_images)
    if balance == "none" and not (factors != 1).any():
        return weights
    present = class_presence(dataset)
    if balance == "repeat_factor":
        share = present.mean(axis=0)
        repeats = np.sqrt(threshold / np.where(share > 0, share, np.inf)).clip(1)
        weights = np.where(present, repeats, 1.0).max(axis=1)
    return weights * np.where(present, factors, 1.0).max(axis=1)


def class_presence(dataset: Dataset) -> np.ndarray:
    """bool [num_images, num_classes]: whether an image has an object, no crowd, of a class."""
    present = np.zeros((dataset.num_images, dataset.num_classes), bool)
    for i, image_id in enumerate(dataset.image_ids):
        class_ids = np.asarray(dataset.load_class_ids(image_id))
        present[i, class_ids[class_ids > 0]] = True
    return present


def parse_focus(text: str) -> dict[str, float]:
    """ "trousers:2,short_sleeved_shirt:1.5" -> {"trousers": 2.0, "short_sleeved_shirt": 1.5}.

    Raises:
        ValueError: if the text isn't of this form, or names a class twice.
    """
    factors: dict[str, float] = {}
    for item in text.split(","):
        name, _, number = item.strip().rpartition(":")
        try:
            factor = float(number)
        except ValueError:
            factor = math.nan
        if not name or math.isnan(factor) or name in factors:
            raise ValueError(
                f"focus is {text!r}, where {item!r} is not a new class:factor; write it like "
                "long_sleeved_shirt:2,trousers:1.5"
            )
        factors[name] = factor
    return factors


def _focus_factors(dataset: Dataset, focus: Focus) -> np.ndarray:
    """float [num_classes]: 1 for classes without a focus."""
    focus = parse_focus(focus) if isinstance(focus, str) else focus or {}
    if not isinstance(focus, Mapping):
        raise ValueError(f"focus is {focus!r}; pass a dict of class name -> factor, or text")
    ids = {plain_name(name): i for i, name in enumerate(dataset.class_names) if i}
    factors = np.ones(dataset.num_classes)
    for name, factor in focus.items():
        if plain_name(name) not in ids:
            names = ", ".join(dataset.class_names[1:])
            raise ValueError(f"focus names the class {name!r}; the data set has {names}")
        if not 1 <= factor < math.inf:
            raise ValueError(f"focus gives {name} the factor {factor}; pass 1 or more")
        factors[ids[plain_name(name)]] = factor
    return factors


def epoch_order(
    image_ids: np.ndarray,
    count: int,
    rng: np.random.Generator,
    *,
    shuffle: bool,
    repeat_factors: np.ndarray | None = None,
) -> np.ndarray:
    """The images of an epoch.

    Args:
        image_ids: int [N].
        count: how many to give: one pass over the images after another, the last cut.
        shuffle: False keeps the order of `image_ids` in each pass.
        repeat_factors: float [N], >= 1; an image of 2.3 comes twice in a pass, and in 30 % of
            the passes three times. None for once each.

    Returns:
        int [count].
    """
    passes, total = [image_ids[:0]], 0
    while total < count:
        visits = image_ids
        if repeat_factors is not None:
            whole = np.floor(repeat_factors).astype(int)
            extra = rng.random(len(image_ids)) < repeat_factors - whole
            visits = np.repeat(image_ids, whole + extra)
        passes.append(rng.permutation(visits) if shuffle else visits)
        total += len(visits)
    return np.concatenate(passes)[:count]


def checked_factors(repeat_factors: ArrayLike | None, num_images: int) -> np.ndarray | None:
    """Repeat factors as float [num_images], or None; ValueError if they don't fit."""
    if repeat_factors is None:
        return None
    factors = np.asarray(repeat_factors, np.float64)
    if factors.shape != (num_images,) or not (np.isfinite(factors) & (factors >= 1)).all():
        raise ValueError(
            f"repeat_factors are of shape {factors.shape} for {num_images} images, or below 1; "
            "pass what image_weights() gives"
        )
    return factors
