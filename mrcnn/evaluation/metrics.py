"""All that is known about a model's results on a data set, as one dict: metrics.json.

`docs/evaluation.md` describes the keys. A value that doesn't exist, such as the AP of a class
without instances, is None.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn.coco.ground_truth import Detections, GroundTruth, read_json
from mrcnn.coco.reader import ATTRIBUTES
from mrcnn.core.classes import DEEPFASHION2
from mrcnn.evaluation import bootstrap, diagnosis
from mrcnn.evaluation.average_precision import (
    Accumulated,
    Matches,
    Overlaps,
    accumulate,
    compute_overlaps,
    make_views,
    match,
    mean,
    summary,
)

FORMAT = 1
FILE, MATCHES_FILE = "metrics.json", "matches.npz"
# With fewer, all images agree by chance more often than one time in twenty (2 / 2**5).
LEAST_PICTURES = 6
KIND_NAMES = {"bbox": "box", "segm": "mask"}
# Mask R-CNN on the data set's released part, as its authors publish it.
PUBLISHED = {
    "box": {
        "AP": 0.638,
        "AP50": 0.789,
        "AP75": 0.745,
        "subsets": {
            "scale": (0.604, 0.700, 0.660),
            "occlusion": (0.712, 0.654, 0.372),
            "zoom_in": (0.695, 0.629, 0.466),
            "viewpoint": (0.624, 0.681, 0.641),
        },
    },
    "mask": {
        "AP": 0.640,
        "AP50": 0.797,
        "AP75": 0.754,
        "subsets": {
            "scale": (0.634, 0.703, 0.666),
            "occlusion": (0.720, 0.656, 0.381),
            "zoom_in": (0.701, 0.637, 0.478),
            "viewpoint": (0.664, 0.689, 0.635),
        },
    },
}


@dataclass
class Evaluation:
    """The metrics and what they were made from, for plots, images and comparisons.

    Attributes:
        metrics: the content of metrics.json.
        matches, tables: by kind, "bbox" and, where there are masks, "segm".
        samples: by kind, `bootstrap.headline_samples`; empty without resamples.
        pairs: `diagnosis.Pairs` of the masks (of the boxes where there are no masks).
        quality: [I] float of `diagnosis.picture_quality`.
    """

    truth: GroundTruth
    detections: Detections
    metrics: dict[str, Any]
    matches: dict[str, Matches]
    tables: dict[str, Accumulated]
    samples: dict[str, dict[tuple, np.ndarray]]
    pairs: diagnosis.Pairs
    quality: np.ndarray

    @property
    def kind(self):
        """What the diagnosis goes by: "segm" if there are masks, else "bbox"."""
        return "segm" if "segm" in self.matches else "bbox"


@dataclass
class Options:
    """How to score.

    Attributes:
        min_score: least score of what counts in the confusion matrix and the images; None
            takes the threshold of the best F1 of all classes.
        resamples: of the confidence intervals; 0 for none.
        seed: of the resamples.
        run: what to note about the run, by name.
    """

    min_score: float | None = None
    resamples: int = 300
    seed: int = 0
    run: dict[str, Any] = field(default_factory=dict)


def evaluate(truth, detections, options):
    """Scores results.

    Args:
        truth: `GroundTruth`. detections: `Detections` on it. options: `Options`.

    Returns:
        Evaluation.
    """
    kinds = ["bbox"]
    if truth.has_masks and detections.rles is not None:
        kinds.append("segm")
    views = make_views(truth)
    matches, tables, sections = {}, {}, {}
    samples: dict[str, dict[tuple, np.ndarray]] = {}
    overlaps: Overlaps
    weights = bootstrap.draw_weights(len(truth.image_ids), options.resamples, options.seed)
    for kind in kinds:
        overlaps = compute_overlaps(truth, detections, kind)
        matches[kind] = match(truth, detections, kind, views, overlaps)
        tables[kind] = accumulate(matches[kind])
        samples[kind] = {}
        if options.resamples:
            drawn = bootstrap.ap_samples(matches[kind], weights)
            samples[kind] = bootstrap.headline_samples(matches[kind], drawn)
        sections[KIND_NAMES[kind]] = _section(matches[kind], tables[kind], samples[kind])
    overall = sections[KIND_NAMES[kinds[-1]]]["operating_point"]
    threshold = options.min_score
    if threshold is None:
        threshold = (overall or {}).get("threshold") or 0.0
    pairs = diagnosis.pair_any_class(truth, detections, overlaps, threshold)
    quality = diagnosis.picture_quality(truth, detections, pairs)
    metrics = {
        "format": FORMAT,
        "run": _run(truth, detections, options),
        "box": sections["box"],
        "mask": sections.get("mask"),
        "published": PUBLISHED if is_deepfashion2(truth) else None,
        "confusion": _confusion(truth, pairs, kinds[-1]),
        "boundary": diagnosis.boundary_quality(truth, detections, pairs)
        if kinds[-1] == "segm"
        else None,
        "pictures": _pictures(truth, quality),
        "compare": None,
    }
    return Evaluation(truth, detections, metrics, matches, tables, samples, pairs, quality)


def is_deepfashion2(truth):
    """Whether the categories are DeepFashion2's, so that its published figures belong beside."""
    return truth.names == list(DEEPFASHION2[1:])


def _run(truth, detections, options):
    unknown: dict[str, Any]
    unknown = {"split": None, "annotations": None, "weights": None, "results": None, "notes": []}
    return (
        unknown
        | options.run
        | {
            "pictures": len(truth.image_ids),
            "garments": int((~truth.crowd).sum()),
            "crowds": int(truth.crowd.sum()),
            "detections": len(detections),
            "left_out": detections.left_out,
            "pictures_without_detections": int(
                len(truth.image_ids) - len(np.unique(detections.image))
            ),
            "resamples": options.resamples,
            "seed": options.seed,
        }
    )


def _section(matches, table, samples):
    """The numbers of boxes or of masks."""
    overall, points = diagnosis.operating_points(matches)
    numbers = summary(table)
    section: dict[str, Any] = dict(numbers)
    section["intervals"] = {
        name: bootstrap.interval(samples[name,]) for name in numbers if (name,) in samples
    }
    section["operating_point"] = overall
    section["calibration"] = diagnosis.calibration(matches)
    section["per_class"] = {}
    for k, name in enumerate(matches.names):
        entry = _average(table.precision[:, :, k, 0], samples.get(("per_class", name)))
        entry["AR100"] = mean(table.recall[:, k, 0])
        entry |= {"garments": int(table.instances[k, 0]), "best_f1": points[name]}
        section["per_class"][name] = entry
    section["subsets"] = {}
    for a, (group, value) in enumerate(matches.views):
        if group == "size":
            continue
        entry = _average(table.precision[..., a], samples.get(("subsets", group, value)))
        entry["garments"] = int(table.instances[:, a].sum())
        section["subsets"].setdefault(group, {})[value] = entry
    return section


def _average(precision, samples):
    entry: dict[str, Any] = {
        "AP": mean(precision),
        "AP50": mean(precision[0]),
        "AP75": mean(precision[5]),
    }
    entry["interval"] = None if samples is None else bootstrap.interval(samples)
    return entry


def _confusion(truth, pairs, kind):
    return {
        "by": KIND_NAMES[kind],
        "iou": diagnosis.MATCH_IOU,
        "min_score": pairs.threshold,
        "classes": [*truth.names, "background"],
        "counts": pairs.counts.tolist(),
        "pairs": diagnosis.confused_pairs(pairs.counts, truth.names),
    }


def _pictures(truth, quality, most=8):
    """The worst and the best images, by quality; those without anything in them are no use."""
    known = np.flatnonzero(~np.isnan(quality))
    garments = np.bincount(truth.image, minlength=len(truth.image_ids))[known]
    worst = known[np.lexsort((-garments, quality[known]))]
    best = known[np.lexsort((-garments, -quality[known]))]

    def entries(chosen):
        return [
            {
                "image_id": truth.image_ids[i].item(),
                "file_name": truth.images[i].file_name,
                "quality": float(quality[i]),
            }
            for i in chosen[: min(most, len(known) // 2)]
        ]

    return {
        "mean_quality": mean(quality),
        "worst": entries(worst),
        "best": entries(best),
    }


def flat(section):
    """Every AP and AR of a section as (key, value): ("AP",), ("subsets", "scale", "small")."""
    rows: list[tuple[tuple, Any]]
    rows = [((name,), value) for name, value in section.items() if name[:2] in ("AP", "AR")]
    rows += [(("per_class", name), entry["AP"]) for name, entry in section["per_class"].items()]
    for group, entries in section["subsets"].items():
        rows += [(("subsets", group, value), entry["AP"]) for value, entry in entries.items()]
    return dict(rows)


@dataclass
class Other:
    """An earlier run: its metrics.json and the matches beside it."""

    path: Path
    metrics: dict[str, Any]
    image_ids: np.ndarray
    matches: dict[str, Matches]


def read_other(path):
    """The run whose metrics.json is at `path`, or in the folder `path`.

    Raises:
        ValueError: if it is no metrics.json, or matches.npz isn't beside it.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"no metrics at {path}; give the metrics.json of another run")
    metrics = read_json(path)
    if not isinstance(metrics, dict) or metrics.get("format") != FORMAT:
        raise ValueError(
            f"{path} is no metrics.json of format {FORMAT}; write it again by model.py evaluate "
            "--results with the results.json beside it"
        )
    return Other(path, metrics, *bootstrap.load_matches(path.parent / MATCHES_FILE))


def compare(evaluation, other):
    """Adds the differences to an earlier run, as "compare" of the metrics.

    Args:
        evaluation: `Evaluation`. other: `Other`, of the same images and annotations.

    Raises:
        ValueError: if it was scored on others.
    """
    truth, run = evaluation.truth, evaluation.metrics["run"]
    bootstrap.check_same_data(truth.image_ids, evaluation.matches, other.image_ids, other.matches)
    found: dict[str, Any] = {"path": str(other.path), "run": other.metrics["run"]}
    weights = bootstrap.draw_weights(len(truth.image_ids), run["resamples"], run["seed"])
    for kind, name in KIND_NAMES.items():
        found[name] = None
        if kind not in evaluation.matches or kind not in other.matches:
            continue
        theirs = {}
        if run["resamples"]:
            drawn = bootstrap.ap_samples(other.matches[kind], weights)
            theirs = bootstrap.headline_samples(other.matches[kind], drawn)
        this, that = flat(evaluation.metrics[name]), flat(other.metrics[name])
        found[name] = _differences(
            this, that, evaluation.samples[kind], theirs, _pictures_of(evaluation.matches[kind])
        )
    evaluation.metrics["compare"] = found


def _pictures_of(matches):
    """How many images have something to find, by the keys of `bootstrap.headline_samples`."""
    image, classes = matches.truth_image, matches.truth_classes
    wanted = ~matches.truth_ignored
    counts: dict[tuple, int] = {}
    for view, (group, value) in zip(wanted, matches.views, strict=True):
        names = [("subsets", group, value)] if group != "size" else [(f"AP{value[0]}",)]
        if (group, value) == ("size", "all"):
            names = [("AP",), ("AP50",), ("AP75",)]
        counts |= dict.fromkeys(names, len(np.unique(image[view])))
    for k, name in enumerate(matches.names):
        counts["per_class", name] = len(np.unique(image[wanted[0] & (classes == k)]))
    return counts


def _differences(this, that, mine, theirs, pictures):
    """{"AP": {this, other, difference, interval, clear}, "subsets.scale.small": ...}."""
    rows = {}
    for key, value in this.items():
        other = that.get(key)
        known = value is not None and other is not None
        between = bootstrap.interval(mine[key] - theirs[key]) if known and key in mine else None
        rows[".".join(key)] = {
            "this": value,
            "other": other,
            "difference": value - other if known else None,
            "interval": between,
            # Whether all resamples but the outermost agree on which run is better; those of a
            # garment or two always do.
            "clear": bool(pictures[key] >= LEAST_PICTURES and (between[0] > 0 or between[1] < 0))
            if between
            else None,
        }
    return rows


def subset_rows(metrics):
    """One row for each value of each attribute: what a table of subsets shows.

    Returns:
        list of {attribute, value, garments, box, mask, published_box, published_mask}: box and
        mask are entries of metrics.json, or None.
    """
    rows = []
    for attribute, entries in metrics["box"]["subsets"].items():
        for value, entry in entries.items():
            row = {"attribute": attribute, "value": value, "garments": entry["garments"]}
            for name in ("box", "mask"):
                section, published = metrics[name], metrics["published"]
                row[name] = section and section["subsets"][attribute][value]
                number = ATTRIBUTES[attribute].index(value)
                row[f"published_{name}"] = (
                    published and published[name]["subsets"][attribute][number]
                )
            rows.append(row)
    return rows
