"""`model.py evaluate`."""

from pathlib import Path

from mrcnn.commands.environment import import_tensorflow
from mrcnn.commands.shared import UsageError, data_folders, load_split


def run_evaluate(args):
    """Scores a model, or a file of results, on an annotated split; returns the exit status."""
    from mrcnn.coco.ground_truth import outside, read_ground_truth, read_results
    from mrcnn.evaluation import metrics
    from mrcnn.reports import report

    model_options = [args.weights != "weights", args.precision != "auto", args.size, args.tta]
    model_options += [args.refine is not None, args.sleeve_refine is not None]
    if args.results and any(model_options):
        raise UsageError(
            "--results runs no model; leave out --weights, --precision, --size, --tta, --refine, "
            "--sleeve_refine"
        )
    if args.results and not args.results.is_file():
        raise UsageError(f"no results at {args.results}; give a COCO results file")
    # What can be wrong shows before the model runs, which may take hours.
    other = metrics.read_other(args.compare) if args.compare else None
    if other and args.report.is_dir() and other.path.parent.samefile(args.report):
        raise UsageError(
            f"--report {args.report} would replace the run to compare with; give another folder"
        )
    dataset = None if args.results else load_split(data_folders(args), args.split, args.limit)
    truth = read_ground_truth(
        dataset.tables[0] if dataset else _annotations(args), limit=args.limit
    )
    args.report.mkdir(parents=True, exist_ok=True)
    path, notes, failures = args.results, [], []
    if dataset:
        path = args.report / "results.json"
        failures = save_predictions(path, predict(args, dataset))
        notes += [f"{name} failed and counts as found empty: {why}" for name, why in failures]
    detections = read_results(truth, path)
    if detections.left_out:
        notes.append(f"{detections.left_out} results are of images beyond --limit")
    if (share := outside(truth, detections)) > 0.05:
        notes.append(
            f"{share:.0%} of the boxes reach out of their images; are these results of another "
            "split, or boxes as corners?"
        )
    run = {"split": args.split, "annotations": str(_annotations(args)), "notes": notes}
    run |= {"weights": None if args.results else _weights_path(args), "results": str(path)}
    options = metrics.Options(args.min_score, args.resamples, args.seed, run)
    found = metrics.evaluate(truth, detections, options)
    if other:
        metrics.compare(found, other)
    pictures = args.data / args.split / "image"
    page = report.write_report(args.report, found, path, pictures if pictures.is_dir() else None)
    print("\n".join([report.as_text(found.metrics), "", *notes, f"Report: {page}"]))
    return 3 if failures else 0


def _weights_path(args):
    from mrcnn.network.pretrained import find_weights

    return str(find_weights(args.weights))


def _annotations(args):
    path = (args.annotations or args.data) / f"{args.split}_coco.json"
    if not path.is_file():
        raise UsageError(
            f"no COCO annotations at {path}; give the folder of {path.name} by --annotations"
        )
    return path


def predict(args, dataset):
    """Yields (image id of the annotations, COCO results, None), or (file, None, why it failed).

    The predictor is that of the inference command.
    """
    from tqdm import tqdm

    import_tensorflow()
    from mrcnn.predictor import Predictor

    # AP ranks all detections: none may be cut off by the threshold for drawing.
    predictor = Predictor.load(
        args.weights,
        size=args.size,
        precision=args.precision,
        min_score=0.05,
        tta=args.tta,
        refine=args.refine,
        sleeve_refine=args.sleeve_refine,
    )
    print(f"Weights: {predictor.weights}")
    _check_classes(predictor.class_names, dataset)
    waiting: list = []
    for image_id in tqdm(dataset.image_ids, args.split):
        info = dataset.image_info[image_id]
        try:
            waiting.append((info["id"], dataset.load_image(image_id)))
        except (OSError, ValueError) as error:
            yield Path(info["path"]).name, None, str(error)
        if len(waiting) == predictor.batch_size:
            yield from _predictions(predictor, waiting)
            waiting = []
    if waiting:
        yield from _predictions(predictor, waiting)


def _predictions(predictor, pictures):
    ids, images = zip(*pictures, strict=True)
    for image_id, result in zip(ids, predictor(images), strict=True):
        yield image_id, result.to_coco(image_id), None


def _check_classes(names, dataset):
    """Results name classes by number, so model and annotations must number them alike."""
    for entry in dataset.class_info[1:]:
        if entry["id"] >= len(names) or names[entry["id"]] != entry["name"]:
            raise UsageError(
                f"category {entry['id']} is {entry['name']!r} in the annotations, but the model's "
                f"classes are {list(names)}; give weights of a model of the same classes"
            )


def save_predictions(path, predictions):
    """Writes COCO results; returns (file, reason) of each image that failed."""
    import orjson

    from mrcnn.core.files import write_atomically

    results, failures = [], []
    for where, rows, why in predictions:
        if why is None:
            results += rows
        else:
            failures.append((where, why))
    write_atomically(path, orjson.dumps(results))
    return failures
