"""A run beside an earlier one: differences of all APs, with bootstrap intervals."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrcnn.core.text import writable
from mrcnn.evaluation import bootstrap
from mrcnn.evaluation.average_precision import Matches
from mrcnn.evaluation.matches_file import MATCHES_FILE, load_matches
from mrcnn.evaluation.metrics import (
    FILE,
    KIND_NAMES,
    Comparison,
    Difference,
    Key,
    Metrics,
    Section,
    read_metrics,
    scores,
)
from mrcnn.evaluation.scoring import EvaluationResult

_TRUTH = ("truth_image", "truth_classes", "truth_ignored")
# With fewer, all images agree by chance more often than one time in twenty (2 / 2**5).
MIN_IMAGES = 6


@dataclass(frozen=True)
class EarlierRun:
    """The metrics.json of an earlier run, and the matches beside it."""

    path: Path
    metrics: Metrics
    image_ids: np.ndarray
    matches: dict[str, Matches]


def read_earlier_run(path: str | Path) -> EarlierRun:
    """The run whose metrics.json is at `path`, or in the folder `path`.

    Raises:
        ValueError: if it is no metrics.json, or matches.npz of the same run isn't beside it.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"no metrics at {path}; give the metrics.json of another run")
    metrics = read_metrics(path)
    image_ids, matches = load_matches(path.parent / MATCHES_FILE)
    if [KIND_NAMES[kind] for kind in matches] != list(metrics.sections):
        raise ValueError(
            f"{path} and the {MATCHES_FILE} beside it are of different runs; give a folder as "
            "model.py evaluate wrote it"
        )
    return EarlierRun(path, metrics, image_ids, matches)


def compare(evaluation: EvaluationResult, earlier: EarlierRun) -> None:
    """Adds the differences to an earlier run to the metrics.

    Raises:
        ValueError: if it was scored on other images or annotations.
    """
    truth, metrics, run = evaluation.truth, evaluation.metrics, evaluation.metrics.run
    check_same_data(truth.image_ids, evaluation.matches, earlier.image_ids, earlier.matches)
    weights = bootstrap.draw_weights(len(truth.image_ids), run.resamples, run.seed)
    found = {}
    for kind in evaluation.matches.keys() & earlier.matches.keys():
        matches, name = earlier.matches[kind], KIND_NAMES[kind]
        intervals = {}
        if run.resamples:
            theirs = bootstrap.headline_samples(matches, bootstrap.ap_samples(matches, weights))
            for key, mine in evaluation.samples[kind].items():
                intervals[key] = bootstrap.interval(mine - theirs[key])
        found[name] = _differences(
            metrics.sections[name],
            earlier.metrics.sections[name],
            intervals,
            _image_counts(evaluation.matches[kind]),
        )
    metrics.compare = Comparison(path=writable(str(earlier.path)), run=earlier.metrics.run, **found)


def check_same_data(
    image_ids: np.ndarray,
    matches: dict[str, Matches],
    other_ids: np.ndarray,
    other: dict[str, Matches],
) -> None:
    """Raises ValueError unless both runs were scored on the same images and instances."""
    if not np.array_equal(image_ids, other_ids):
        common = len(np.intersect1d(image_ids, other_ids))
        raise ValueError(
            f"the runs were scored on different images: {len(image_ids)} here, {len(other_ids)} "
            f"there, {common} in both; score both with the same --split and --limit"
        )
    for kind in matches.keys() & other.keys():
        a, b = matches[kind], other[kind]
        same = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in _TRUTH)
        if not same or a.names != b.names or a.views != b.views:
            raise ValueError(
                "the runs were scored on different annotations of the same images; convert the "
                "data once, and score both with these annotations"
            )


def _image_counts(matches: Matches) -> dict[Key, int]:
    """How many images have instances that count, by the keys of `bootstrap.headline_samples`."""
    image, classes = matches.truth_image, matches.truth_classes
    counted = ~matches.truth_ignored
    counts: dict[Key, int] = {}
    for view, (group, value) in zip(counted, matches.views, strict=True):
        keys: list[Key] = [("subsets", group, value) if group != "size" else (f"AP{value[0]}",)]
        if (group, value) == ("size", "all"):
            keys = [("AP",), ("AP50",), ("AP75",)]
        counts |= dict.fromkeys(keys, len(np.unique(image[view])))
    for k, name in enumerate(matches.names):
        counts["per_class", name] = len(np.unique(image[counted[0] & (classes == k)]))
    return counts


def _differences(
    this: Section,
    other: Section,
    intervals: dict[Key, tuple[float, float] | None],
    images: dict[Key, int],
) -> dict[str, Difference]:
    earlier = {score.key: score.value for score in scores(other)}
    found = {}
    for key, value, _, _ in scores(this):
        before = earlier.get(key)
        known = value is not None and before is not None
        interval = intervals.get(key) if known else None
        found[".".join(key)] = Difference(
            this=value,
            other=before,
            difference=value - before if value is not None and before is not None else None,
            interval=interval,
            # The resamples of one or two images always agree.
            clear=images[key] >= MIN_IMAGES and (interval[0] > 0 or interval[1] < 0)
            if interval
            else None,
        )
    return found
