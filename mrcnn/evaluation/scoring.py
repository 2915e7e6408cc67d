"""Detections scored against ground truth: all metrics, and what they were computed from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec import structs

from mrcnn.coco.ground_truth import Detections, GroundTruth
from mrcnn.core.classes import DEEPFASHION2
from mrcnn.evaluation import bootstrap, diagnosis
from mrcnn.evaluation.average_precision import (
    RECALLS,
    THRESHOLDS,
    Matches,
    PrecisionRecall,
    accumulate,
    compute_overlaps,
    make_views,
    match_detections,
    mean,
    summary,
)
from mrcnn.evaluation.metrics import (
    KIND_NAMES,
    PUBLISHED,
    ClassEntry,
    Confusion,
    Key,
    Metrics,
    RatedImage,
    RatedImages,
    Run,
    Section,
    Source,
    SubsetEntry,
)

MOST_BYTES = 1_500_000_000
MOST_RATED = 8  # images listed as worst, and as best


@dataclass(frozen=True)
class EvaluationOptions:
    """How to score.

    Attributes:
        min_score: least score of the detections in the confusion matrix and the image lists;
            None takes the threshold of the best F1 of all classes.
        resamples: number of bootstrap resamples for the intervals; 0 for none.
        seed: of the resamples.
    """

    min_score: float | None = None
    resamples: int = 300
    seed: int = 0


@dataclass
class EvaluationResult:
    """The metrics and what they were computed from, for plots, images and comparisons.

    Attributes:
        matches, tables: by kind, "bbox" and, where there are masks, "segm".
        samples: by kind, `bootstrap.headline_samples`; empty without resamples.
        pairs: of masks, or of boxes where there are no masks.
        quality: [I] float of `diagnosis.image_quality`.
    """

    truth: GroundTruth
    detections: Detections
    metrics: Metrics
    matches: dict[str, Matches]
    tables: dict[str, PrecisionRecall]
    samples: dict[str, dict[Key, np.ndarray]]
    pairs: diagnosis.Pairs
    quality: np.ndarray

    @property
    def kind(self) -> str:
        """What the diagnosis goes by: "segm" if there are masks, else "bbox"."""
        return "segm" if "segm" in self.matches else "bbox"


def require_room(truth: GroundTruth, options: EvaluationOptions) -> None:
    """Raises ValueError if the tables of all classes would take more than `MOST_BYTES`."""
    classes, views = len(truth.category_ids), 4 + 3 * len(truth.attributes)
    cells = classes * views * len(THRESHOLDS) * (options.resamples + 2 * len(RECALLS))
    size = 8 * cells + 40 * classes**2
    if size > MOST_BYTES:
        raise ValueError(
            f"{truth.name}: scores of {classes:,} classes with {options.resamples} resamples take "
            f"{size / 1e9:.1f} GB; lower --resamples, or leave classes out"
        )


def evaluate(
    truth: GroundTruth,
    detections: Detections,
    options: EvaluationOptions,
    source: Source | None = None,
) -> EvaluationResult:
    """Scores detections by boxes and, where both sides have masks, by masks."""
    require_room(truth, options)
    kinds = ["bbox", "segm"] if truth.has_masks and detections.rles is not None else ["bbox"]
    views = make_views(truth)
    matches, tables, sections = {}, {}, {}
    samples: dict[str, dict[Key, np.ndarray]] = {}
    weights = bootstrap.draw_weights(len(truth.image_ids), options.resamples, options.seed)
    for kind in kinds:
        overlaps = compute_overlaps(truth, detections, kind)
        matches[kind] = match_detections(truth, detections, kind, views, overlaps)
        tables[kind] = accumulate(matches[kind])
        samples[kind] = {}
        if options.resamples:
            drawn = bootstrap.ap_samples(matches[kind], weights)
            samples[kind] = bootstrap.headline_samples(matches[kind], drawn)
        sections[KIND_NAMES[kind]] = _section(matches[kind], tables[kind], samples[kind])
    threshold = options.min_score
    if threshold is None:
        best = sections[KIND_NAMES[kinds[-1]]].operating_point
        threshold = (best.threshold if best else None) or 0.0
    pairs = diagnosis.pair_any_class(truth, detections, overlaps, threshold)
    quality = diagnosis.image_quality(truth, detections, pairs)
    has_masks = "segm" in kinds
    metrics = Metrics(
        format=1,
        run=_run(truth, detections, options, source or Source()),
        box=sections["box"],
        mask=sections.get("mask"),
        # The published scores belong beside those of the same classes only.
        published=PUBLISHED if truth.names == list(DEEPFASHION2[1:]) else None,
        confusion=Confusion(
            by=KIND_NAMES[kinds[-1]],
            iou=diagnosis.MATCH_IOU,
            min_score=pairs.threshold,
            classes=[*truth.names, "background"],
            counts=pairs.counts.tolist(),
            pairs=diagnosis.confused_pairs(pairs.counts, truth.names),
        ),
        boundary=diagnosis.boundary_quality(truth, detections, pairs) if has_masks else None,
        images=_rated_images(truth, quality),
    )
    return EvaluationResult(truth, detections, metrics, matches, tables, samples, pairs, quality)


def _run(
    truth: GroundTruth, detections: Detections, options: EvaluationOptions, source: Source
) -> Run:
    images = len(truth.image_ids)
    return Run(
        **structs.asdict(source),
        images=images,
        garments=int((~truth.crowd).sum()),
        crowds=int(truth.crowd.sum()),
        detections=len(detections),
        left_out=detections.left_out,
        images_without_detections=images - len(np.unique(detections.image)),
        resamples=options.resamples,
        seed=options.seed,
    )


def _section(matches: Matches, tables: PrecisionRecall, samples: dict[Key, np.ndarray]) -> Section:
    """The metrics of boxes, or of masks."""
    overall, points = diagnosis.operating_points(matches)
    numbers = structs.asdict(summary(tables))
    per_class = {
        name: ClassEntry(
            **_average_precision(tables.precision[:, :, k, 0], samples.get(("per_class", name))),
            AR100=mean(tables.recall[:, k, 0]),
            garments=int(tables.instances[k, 0]),
            best_f1=points[name],
        )
        for k, name in enumerate(matches.names)
    }
    subsets: dict[str, dict[str, SubsetEntry]] = {}
    for a, (group, value) in enumerate(matches.views):
        if group != "size":
            drawn = samples.get(("subsets", group, value))
            subsets.setdefault(group, {})[value] = SubsetEntry(
                **_average_precision(tables.precision[..., a], drawn),
                garments=int(tables.instances[:, a].sum()),
            )
    intervals = {name: bootstrap.interval(samples[name,]) for name in numbers if (name,) in samples}
    return Section(
        **numbers,
        intervals=intervals,
        operating_point=overall,
        calibration=diagnosis.calibration(matches),
        per_class=per_class,
        subsets=subsets,
    )


def _average_precision(precision: np.ndarray, samples: np.ndarray | None) -> dict[str, Any]:
    """The fields of `AveragePrecision`."""
    return {
        "AP": mean(precision),
        "AP50": mean(precision[0]),
        "AP75": mean(precision[5]),
        "interval": None if samples is None else bootstrap.interval(samples),
    }


def _rated_images(truth: GroundTruth, quality: np.ndarray) -> RatedImages:
    """The worst and the best images; those with neither instances nor detections are left out."""
    known = np.flatnonzero(~np.isnan(quality))
    garments = np.bincount(truth.image, minlength=len(truth.image_ids))[known]

    def rated(order: np.ndarray) -> list[RatedImage]:
        return [
            RatedImage(truth.image_ids[i].item(), truth.images[i].file_name, float(quality[i]))
            for i in known[order][: min(MOST_RATED, len(known) // 2)].tolist()
        ]

    return RatedImages(
        mean_quality=mean(quality),
        worst=rated(np.lexsort((-garments, quality[known]))),
        best=rated(np.lexsort((-garments, -quality[known]))),
    )
