"""`model.py evaluate`: score a model, or a results file, on annotated images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from tqdm import tqdm

from mrcnn.commands.arguments import UsageError
from mrcnn.commands.data_sets import (
    DataOptions,
    DataPaths,
    Split,
    data_paths,
    find_data,
    make_dataset,
    read_parts,
    take_part,
)
from mrcnn.commands.shared import ModelOptions, load_predictor
from mrcnn.commands.training_data import share_held_out_of
from mrcnn.core.files import write_atomically
from mrcnn.core.options import changed, fraction, option, subset, whole
from mrcnn.core.text import printable

if TYPE_CHECKING:
    from mrcnn.coco.ground_truth import Detections, GroundTruth
    from mrcnn.predictor import Predictor

# AP ranks all detections: the threshold for drawing must not cut any off.
LOWEST_SCORE = 0.05


@dataclass(frozen=True)
class EvaluateOptions(DataOptions, ModelOptions):
    split: str = option(
        "validation", "split to score, as the data set spells it, or train, val, test", group="data"
    )
    val_split: float | None = option(
        None,
        "score the share of the images that `train` holds out with the same option; if not given, "
        "as the run of the weights file did, else all images of data without splits",
        group="data",
        type=fraction,
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
    (paths,) = data_paths(options)
    split = _split_to_score(options, paths)
    # What is wrong with the annotations shows here.
    truth = read_ground_truth(split.table, limit=options.limit)
    report.prepare_report(options.report, options.results)
    results = options.results or options.report / "results.json"
    weights: str | None = None
    notes, failures = list(split.notes), list[tuple[str, str]]()
    if options.results is None:
        predictor = load_predictor(**subset(options, ModelOptions), min_score=LOWEST_SCORE)
        weights = str(predictor.weights)
        split, ids = _match_classes(predictor.class_names, split)
        notes = list(split.notes)
        truth = read_ground_truth(split.table, limit=options.limit)
        failures = _predict(options, predictor, split, ids, results)
    detections = read_results(truth, results)
    notes += [f"{name} failed and counts as found empty: {why}" for name, why in failures]
    notes += _doubts(truth, detections)
    source = Source(options.split, str(split.part.source.file), weights, str(results), notes)
    scored = evaluate(
        truth, detections, EvaluationOptions(**subset(options, EvaluationOptions)), source
    )
    if earlier:
        compare(scored, earlier)
    page = report.write_report(options.report, scored, results, split.images)
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


def _split_to_score(options: EvaluateOptions, paths: DataPaths) -> Split:
    """The images to score and their annotations, with a note of which they are where that is open."""
    data_set = find_data(paths, options.split)
    share, why = options.val_split or 0.0, "as asked"
    if options.val_split is None and options.results is None:
        share = share_held_out_of(data_set, Path(options.weights))
        why = "as in the run of these weights"
    part = take_part(paths, data_set, options.split, share)
    (split,) = read_parts([part], images_needed=options.results is None)
    count, file = len(split.table.images), part.source.file
    if part.share:
        which = "held out" if part.is_held_out else "left to train on"
        note = f"scored: the {count} images of {file} {which} by --val_split {part.share:g}, {why}"
    elif not part.source.role:
        note = f"scored: all {count} images of {file}"
    else:
        return split
    return replace(split, notes=(*split.notes, note))


def _match_classes(names: Sequence[str], split: Split) -> tuple[Split, list[int | None]]:
    """The split with the classes that the model has too, and what `to_coco` takes.

    Args:
        names: of the model, background first.

    Returns:
        The split, with notes of what isn't scored; by class id the data set's category id, None
        for classes that it hasn't.

    Raises:
        UsageError: if they have no class in common.
    """
    from mrcnn.coco.selection import match_names, with_categories

    categories = split.table.categories
    theirs = [entry.name for entry in categories]
    pairs = match_names(names[1:], theirs)
    if not pairs:
        raise UsageError(
            f"the model's classes are {', '.join(names[1:])}, those of {split.part.source.file} "
            f"{', '.join(theirs)}: none in common; give weights of a model of these classes"
        )
    ids: list[int | None] = [None] * len(names)
    for model_class, k in pairs.items():
        ids[model_class + 1] = categories[k].id
    notes = []
    if more := [name for i, name in enumerate(names[1:]) if i not in pairs]:
        notes.append(f"not scored, as the annotations don't have them: {', '.join(more)}")
    if lacking := [name for k, name in enumerate(theirs) if k not in pairs.values()]:
        notes.append(f"not scored, as the model doesn't know them: {', '.join(lacking)}")
        scored = [categories[k] for k in sorted(pairs.values())]
        split = replace(split, table=with_categories(split.table, scored))
    return replace(split, notes=(*split.notes, *notes)), ids


def _predict(
    options: EvaluateOptions,
    predictor: "Predictor",
    split: Split,
    ids: list[int | None],
    path: Path,
) -> list[tuple[str, str]]:
    """Writes COCO results of all images, of classes that have a category id.

    Returns:
        (file, reason) of each image that failed.
    """
    dataset, _ = make_dataset([split], options.limit)
    known = [class_id for class_id, category_id in enumerate(ids) if category_id is not None]
    failures: list[tuple[str, str]] = []
    image_ids: list[Any] = []

    def images() -> Iterator[np.ndarray]:
        for image_id in tqdm(dataset.image_ids, options.split):
            info = dataset.image_info[image_id]
            try:
                image = dataset.load_image(image_id)
            except (OSError, ValueError) as error:
                failures.append((Path(info["path"]).name, str(error)))
            else:
                image_ids.append(info["id"])
                yield image

    rows: list[Any] = []
    for i, result in enumerate(predictor.stream(images())):
        scored = result.select(np.isin(result.class_ids, known))
        rows += scored.to_coco(image_ids[i], ids)
    write_atomically(path, orjson.dumps(rows))
    return failures


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
