"""`model.py evaluate`: score a model, or a results file, on annotated images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from tqdm import tqdm

from mrcnn.commands.arguments import UsageError
from mrcnn.commands.shared import (
    DataOptions,
    ModelOptions,
    data_folders,
    load_predictor,
    load_split,
    split_files,
)
from mrcnn.core.files import write_atomically
from mrcnn.core.options import changed, option, subset, whole
from mrcnn.core.text import printable

if TYPE_CHECKING:
    from mrcnn.coco.ground_truth import Detections, GroundTruth
    from mrcnn.data.dataset import CocoDataset

# AP ranks all detections: the threshold for drawing must not cut any off.
LOWEST_SCORE = 0.05


@dataclass(frozen=True)
class EvaluateOptions(DataOptions, ModelOptions):
    split: str = option(
        "validation", "split to score, annotated in <split>_coco.json", group="data"
    )
    results: Path | None = option(
        None,
        "score this COCO results file, of any tool, instead of running a model",
        group="data",
    )
    report: Path = option(
        Path("output_folder/report"),
        "folder for report.html, metrics.json, metrics.csv, plots, matches.npz, results.json",
    )
    compare: Path | None = option(None, "metrics.json of another run on the same images")
    min_score: float | None = option(
        None,
        "lowest score of a detection in the confusion matrix and the drawn images; if not given, "
        "the score with the best F1",
    )
    resamples: int = option(
        300,
        "number of bootstrap resamples for the 95 %% intervals; 0: none",
        type=whole,
    )
    seed: int = option(0, "seed of the bootstrap resamples", type=whole)


def run_evaluate(options: EvaluateOptions) -> int:
    """Scores a model, or a file of results, on an annotated split; returns the exit status."""
    from mrcnn.coco.ground_truth import read_ground_truth, read_results
    from mrcnn.evaluation.comparison import compare, read_earlier_run
    from mrcnn.evaluation.metrics import Source
    from mrcnn.evaluation.scoring import EvaluationOptions, evaluate
    from mrcnn.reports import report

    # Mistakes are found before the model runs, which may take hours.
    _check_results(options)
    if options.min_score is not None and not 0 <= options.min_score <= 1:
        raise UsageError(f"--min_score is {options.min_score}; give a number from 0 to 1")
    earlier = read_earlier_run(options.compare) if options.compare else None
    if earlier and options.report.is_dir() and earlier.path.parent.samefile(options.report):
        raise UsageError(
            f"--report {options.report} would replace the run to compare with; give another folder"
        )
    (folder,) = data_folders(options)
    annotations, images = split_files(*folder, options.split, images_needed=not options.results)
    dataset = None if options.results else load_split([folder], options.split, options.limit)
    # The data set has read the file; without one it is read here.
    truth = read_ground_truth(dataset.tables[0] if dataset else annotations, limit=options.limit)
    report.prepare_report(options.report, options.results)
    results = options.results or options.report / "results.json"
    weights: str | None = None
    failures: list[tuple[str, str]] = []
    if dataset:
        weights, failures = _predict(options, dataset, results)
    detections = read_results(truth, results)
    notes = [f"{name} failed and counts as found empty: {why}" for name, why in failures]
    notes += _doubts(truth, detections)
    source = Source(options.split, str(annotations), weights, str(results), notes)
    scored = evaluate(
        truth, detections, EvaluationOptions(**subset(options, EvaluationOptions)), source
    )
    if earlier:
        compare(scored, earlier)
    page = report.write_report(options.report, scored, results, images if images.is_dir() else None)
    lines = [*(printable(note) for note in notes), f"Report: {printable(page)}"]
    print("\n".join([report.as_text(scored.metrics), "", *lines]))
    return 3 if failures else 0


def _check_results(options: EvaluateOptions) -> None:
    """Refuses a missing --results file, and options for a model beside it."""
    if options.results is None:
        return
    if given := changed(options, ModelOptions):
        raise UsageError(f"--results runs no model; leave out --{', --'.join(given)}")
    if not options.results.is_file():
        raise UsageError(f"no results at {options.results}; give a COCO results file")


def _predict(
    options: EvaluateOptions, dataset: "CocoDataset", path: Path
) -> tuple[str, list[tuple[str, str]]]:
    """Writes COCO results of all images.

    Returns:
        The weights file that was used, and (file, reason) of each image that failed.
    """
    predictor = load_predictor(**subset(options, ModelOptions), min_score=LOWEST_SCORE)
    _check_classes(predictor.class_names, dataset)
    failures: list[tuple[str, str]] = []
    ids: list[Any] = []

    def images() -> Iterator[np.ndarray]:
        for image_id in tqdm(dataset.image_ids, options.split):
            info = dataset.image_info[image_id]
            try:
                image = dataset.load_image(image_id)
            except (OSError, ValueError) as error:
                failures.append((Path(info["path"]).name, str(error)))
            else:
                ids.append(info["id"])
                yield image

    rows: list[Any] = []
    for i, result in enumerate(predictor.stream(images())):
        rows += result.to_coco(ids[i])
    write_atomically(path, orjson.dumps(rows))
    return str(predictor.weights), failures


def _check_classes(names: Sequence[str], dataset: "CocoDataset") -> None:
    """Results name classes by number, so model and annotations must number them alike."""
    for entry in dataset.class_info[1:]:
        if entry["id"] >= len(names) or names[entry["id"]] != entry["name"]:
            raise UsageError(
                f"category {entry['id']} is {entry['name']!r} in the annotations, but the model's "
                f"classes are {list(names)}; give weights of a model of the same classes"
            )


def _doubts(truth: "GroundTruth", detections: "Detections") -> list[str]:
    """Notes on results that may not belong to these annotations."""
    from mrcnn.coco.ground_truth import outside

    notes = []
    if detections.left_out:
        notes.append(f"{detections.left_out} results are of images beyond --limit")
    if (share := outside(truth, detections)) > 0.05:
        notes.append(
            f"{share:.0%} of the boxes reach out of their images; are these results of another "
            "split, or boxes as corners?"
        )
    return notes
