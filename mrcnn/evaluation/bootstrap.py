"""How far average precision would move with other images: the bootstrap over images.

A resample draws as many images as there are, some twice, some not at all, and scores them by
the matches that are known already. Two runs on the same images are given the same resamples,
so that what makes an image hard for both drops out of their difference.

I images, K classes, A views, T IoU thresholds, R resamples.
"""

import numpy as np

from mrcnn.evaluation.average_precision import (
    IGNORED,
    RECALLS,
    THRESHOLDS,
    TRUE_POSITIVE,
    Matches,
)
from mrcnn.evaluation.metrics import Interval, Key

# Elements of the largest array; more resamples are worked off in parts.
CHUNK = 20_000_000
LEVEL = 95  # per cent of the resamples that an interval holds


def draw_weights(images: int, resamples: int, seed: int) -> np.ndarray:
    """[I, R] int32: how often each image is drawn; each column adds up to `images`."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((images, resamples), np.int32)
    for r in range(resamples if images else 0):
        weights[:, r] = np.bincount(rng.integers(0, images, images), minlength=images)
    return weights


def ap_samples(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """[A, K, T, R] float: average precision of every resample, NaN where it has no instances.

    Args:
        weights: [I, R] int32 of `draw_weights`; weights of 1 give the average precision itself.
    """
    classes, views = len(matches.names), len(matches.views)
    samples = np.full((views, classes, len(THRESHOLDS), weights.shape[1]), np.nan)
    bounds = matches.class_bounds
    for k in range(classes):
        part = slice(bounds[k], bounds[k + 1])
        image = matches.image[part]
        step = max(1, CHUNK // max(len(image), 1))
        for begin in range(0, weights.shape[1], step):
            chosen = slice(begin, begin + step)
            drawn = np.ascontiguousarray(weights[:, chosen])
            before = np.cumsum(drawn[image], axis=0, dtype=np.int32)
            for a in range(views):
                mine = (matches.truth_classes == k) & ~matches.truth_ignored[a]
                instances = drawn[matches.truth_image[mine]].sum(axis=0)
                for t in range(len(THRESHOLDS)):
                    codes = matches.codes[part, a, t]
                    values = _average_precision(codes, image, drawn, before, instances)
                    samples[a, k, t, chosen] = values
    return samples


def _average_precision(
    codes: np.ndarray,
    image: np.ndarray,
    drawn: np.ndarray,
    before: np.ndarray,
    instances: np.ndarray,
) -> np.ndarray:
    """[R] AP of one class at one threshold, from its true positives.

    Only they raise the recall, so all others matter by their number alone.

    Args:
        codes, image: [n] of the class's detections, best first.
        drawn: [I, R]. before: [n, R] detections drawn up to each. instances: [R] drawn.
    """
    right, ignored = np.flatnonzero(codes == TRUE_POSITIVE), np.flatnonzero(codes == IGNORED)
    hits = np.cumsum(drawn[image[right]], axis=0)
    counted = before[right]
    if len(ignored):
        dropped = np.vstack([np.zeros_like(drawn[:1]), np.cumsum(drawn[image[ignored]], axis=0)])
        counted = counted - dropped[np.searchsorted(ignored, right)]
    precision = hits / np.maximum(counted, 1)
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    total = np.maximum(instances, 1)
    # How many of the recalls 0, 0.01, ... 1 are reached, to the last bit as COCO compares them.
    reached = 100 * hits // total + (hits > 0)
    reached -= RECALLS[np.maximum(reached - 1, 0)] > hits / total
    gained = np.diff(reached, axis=0, prepend=np.zeros_like(reached[:1]))
    ap = (gained * precision).sum(axis=0) / len(RECALLS)
    return np.where(instances > 0, ap, np.nan)


def interval(values: np.ndarray) -> Interval | None:
    """(low, high) that hold `LEVEL` per cent of the values that are numbers; None without any."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    margin = (100 - LEVEL) / 2
    low, high = np.percentile(values, [margin, 100 - margin])
    return float(low), float(high)


def headline_samples(matches: Matches, samples: np.ndarray) -> dict[Key, np.ndarray]:
    """[R] resamples of every AP that a report shows: ("AP",), ... ("per_class", name), ...

    Args:
        samples: [A, K, T, R] of `ap_samples`.
    """
    found: dict[Key, np.ndarray] = {
        ("AP",): samples[0],
        ("AP50",): samples[0, :, :1],
        ("AP75",): samples[0, :, 5:6],
    }
    for a, (group, value) in enumerate(matches.views):
        if group != "size":
            found["subsets", group, value] = samples[a]
        elif value != "all":
            found[f"AP{value[0]}",] = samples[a]
    means = {key: _mean_of_classes(values) for key, values in found.items()}
    for k, name in enumerate(matches.names):
        means["per_class", name] = samples[0, k].mean(axis=0)
    return means


def _mean_of_classes(values: np.ndarray) -> np.ndarray:
    """[R] mean of [K, T, R] over the thresholds and the classes that a resample has."""
    per_class = values.mean(axis=1)
    known = ~np.isnan(per_class)
    counts = known.sum(axis=0)
    totals = np.where(known, per_class, 0).sum(axis=0)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)
