"""Mask R-CNN for clothing: train it, use it on a folder of pictures, measure it.

    python model.py train
    python model.py inference --weights weights --input_folder input_folder --output_folder output_folder
    python model.py evaluate --weights weights
    python model.py inspect --split train

`python model.py COMMAND --help` lists a command's options.
"""

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path

from mrcnn.schedules import SCHEDULES, Stage, make_schedule, parse_stages

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def build_parser():
    """The command line; no TensorFlow is loaded for it."""
    show = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(prog="model.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="train on COCO annotations", formatter_class=show)
    _add_train(train)
    train.set_defaults(run=run_train)

    inference = commands.add_parser(
        "inference", help="find garments in a folder of pictures", formatter_class=show
    )
    _add_weights(inference)
    inference.add_argument("--input_folder", type=Path, default=Path("input_folder"))
    inference.add_argument("--output_folder", type=Path, default=Path("output_folder"))
    inference.add_argument("--min_score", type=float, help="of a detection, 0 to 1; the model's")
    inference.set_defaults(run=run_inference)

    evaluate = commands.add_parser(
        "evaluate",
        help="scores on annotated pictures, and where the model goes wrong",
        formatter_class=show,
    )
    _add_weights(evaluate)
    _add_data(evaluate)
    evaluate.add_argument("--split", default="validation")
    evaluate.add_argument(
        "--results",
        type=Path,
        help="score this COCO results file, of this or any other tool, and run no model",
    )
    evaluate.add_argument(
        "--report",
        type=Path,
        default=Path("output_folder/report"),
        help="folder for report.html, metrics.json, metrics.csv, plots, matches.npz, results.json",
    )
    evaluate.add_argument(
        "--compare", type=Path, help="metrics.json of another run on the same pictures"
    )
    evaluate.add_argument(
        "--min_score",
        type=float,
        help="of detections in the confusion matrix and pictures; that of the best F1 if not given",
    )
    evaluate.add_argument(
        "--resamples",
        type=_whole,
        default=300,
        help="of the pictures, for 95 %% intervals; 0 for none",
    )
    evaluate.add_argument("--seed", type=_whole, default=0, help="of the resamples")
    evaluate.set_defaults(run=run_evaluate)

    inspect = commands.add_parser(
        "inspect", help="count and show what is annotated, as a page", formatter_class=show
    )
    _add_data(inspect, file_too=", or any COCO file")
    inspect.add_argument("--split", help="train if not given, or what --annotations FILE is named")
    inspect.add_argument(
        "--images", type=Path, help="folder of the pictures; searched for if not given"
    )
    inspect.add_argument("--output_folder", type=Path, help="output_folder/inspect_<split>")
    inspect.add_argument("--pictures", type=_positive, default=24, help="on the contact sheet")
    inspect.add_argument("--seed", type=_whole, default=0, help="of their choice")
    inspect.set_defaults(run=run_inspect)

    for command in (train, inference, evaluate):
        command.add_argument(
            "--precision",
            choices=["auto", "float32", "bfloat16", "float16"],
            default="auto",
            help="auto takes what the device is fast at",
        )
    return parser


def _add_train(train):
    _add_data(train)
    add = train.add_argument_group("model").add_argument
    add("--model", choices=["resnet101", "resnet50", "compact"], default="resnet101")
    add(
        "--weights",
        default="coco",
        help="to start from: coco, imagenet, none, a file; or last, to go on with the last run "
        "exactly where it stopped",
    )
    add("--resume", type=Path, metavar="RUN", help="go on with the run of this folder")
    add("--size", type=_positive, help="side of the network's square input; the model's")
    add("--name", help="of the run; the model's if not given")
    add("--logs", default="logs", help="folder of run folders")

    add = train.add_argument_group("schedule").add_argument
    add("--epochs", type=_positive, default=90, help="the last epoch, counted from the first ever")
    add("--steps_per_epoch", type=_positive, help="one pass over the pictures, at most 1000")
    add("--validation_steps", type=_positive, help="one pass over the pictures, at most 50")
    add("--batch_size", type=_positive, default=8, help="pictures of a step, over all --gpus")
    add(
        "--accumulate",
        type=_positive,
        default=1,
        help="work through each batch in so many parts: the same steps with less memory",
    )
    add("--lr", type=float, default=0.001, help="learning rate of SGD")
    add(
        "--lr_schedule",
        choices=SCHEDULES,
        default="plateau",
        help="plateau: down to 0.3 of --lr when the validation loss stays flat; step: to a tenth "
        "after 2/3 and 8/9 of all steps; cosine: down to 0 over all steps",
    )
    add("--warmup", type=int, default=0, help="first steps, in which the rate grows to --lr")
    add("--layers", default="all", help="heads, 3+, 4+, 5+, all, or a regular expression")
    add(
        "--stages",
        help="instead of --layers and --epochs, several after another, each with its last epoch "
        "and a divisor of --lr: heads:40,4+:120,all:160/10",
    )
    add("--ema", type=float, default=0.0, help="keep moving averages of the weights: 0.999, say")
    add("--edge_loss", type=float, default=0.0, help="weight of the mask edges' agreement")
    add("--early_stopping", type=int, default=0, help="epochs without a better one; 0 for never")

    add = train.add_argument_group("data").add_argument
    add(
        "--augmentation",
        choices=["none", "flip", "full", "zoom"],
        default="flip",
        help="full: flip, move, scale, turn, colours; zoom: full, with close-ups among them",
    )
    add("--seed", type=_whole, default=0)
    add("--workers", type=_positive, default=2, help="threads that load pictures")

    add = train.add_argument_group("run").add_argument
    add("--gpus", type=_positive, default=1, help="devices of this machine that train in step")
    add("--keep", type=_positive, default=3, help="newest checkpoints that stay, besides the best")
    add("--dry_run", action="store_true", help="check data, disk and memory by one step, and stop")


def _add_data(command, file_too=""):
    command.add_argument(
        "--data",
        type=Path,
        default=Path("data/deepfashion2"),
        help="folder in DeepFashion2's layout",
    )
    command.add_argument(
        "--annotations",
        type=Path,
        help=f"folder of the COCO files that convert_to_coco.py wrote{file_too}; --data if not given",
    )
    command.add_argument("--limit", type=_positive, help="use the first pictures only")


def _add_weights(command):
    command.add_argument(
        "--weights", default="weights", help="a file, a folder (its newest .h5), or coco"
    )


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}; give 1 or more")
    return value


def _whole(text):
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"got {value}; give 0 or more")
    return value


class UsageError(Exception):
    """Something that the user can put right; the message says how."""


def import_tensorflow():
    """Imports TensorFlow and Keras quietly and lean.

    Quietly: their C++ part writes notes before it reads its log level, which would bury what
    the commands print; they are shown if the import fails. Lean: Keras imports OpenCV (which
    needs libGL) and matplotlib for drawing helpers that nothing here uses.
    """
    unwanted = [name for name in ("cv2", "matplotlib") if name not in sys.modules]
    for name in unwanted:
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it then fails
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            import keras  # noqa: F401 - for its side effect
            import tensorflow

            tensorflow.config.list_physical_devices()
        except BaseException:
            notes.seek(0)
            os.write(kept, notes.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            for name in unwanted:
                del sys.modules[name]


def split_files(args, split):
    """The COCO file of a split, and the folder where its pictures should be.

    Raises:
        UsageError: if there is no such file.
    """
    from convert_to_coco import missing_data_message

    pictures = args.data / split / "image"
    annotations = (args.annotations or args.data) / f"{split}_coco.json"
    if not annotations.is_file():
        if not pictures.is_dir():
            raise UsageError(missing_data_message(args.data))
        raise UsageError(
            f"no COCO annotations at {annotations}; make them with\n"
            f"  python convert_to_coco.py --data {args.data}"
            + (f" --output_dir {args.annotations}" if args.annotations else "")
        )
    return annotations, pictures


def load_split(args, split):
    """The `CocoDataset` of a split, converted before with convert_to_coco.py.

    Raises:
        UsageError: if the pictures or the COCO file are missing.
    """
    from convert_to_coco import missing_data_message
    from mrcnn.dataset import CocoDataset

    annotations, pictures = split_files(args, split)
    if not pictures.is_dir():
        raise UsageError(missing_data_message(args.data))
    dataset = CocoDataset()
    dataset.load_coco(annotations, pictures, limit=args.limit)
    dataset.prepare()
    return dataset


def run_train(args):
    """Trains a model; returns the exit status."""
    stages = parse_stages(args.stages) if args.stages else [Stage(args.layers, args.epochs)]
    if args.batch_size % args.gpus:
        raise UsageError(f"--batch_size {args.batch_size} is no multiple of --gpus {args.gpus}")
    train_set = load_split(args, "train")
    val_set = load_split(args, "validation")
    import_tensorflow()
    from mrcnn.clothing import CONFIGS
    from mrcnn.model import MaskRCNN
    from mrcnn.training import TrainingStopped, WorkerLost

    base, batch = CONFIGS[args.model], args.batch_size
    values = {
        "NAME": args.name or base.NAME,
        "GPU_COUNT": args.gpus,
        "IMAGES_PER_GPU": batch // args.gpus,
        "LEARNING_RATE": args.lr,
        "COMPUTE_DTYPE": args.precision,
        "STEPS_PER_EPOCH": args.steps_per_epoch or min(1000, -(-train_set.num_images // batch)),
        "VALIDATION_STEPS": args.validation_steps or min(50, -(-val_set.num_images // batch)),
        "EDGE_LOSS_WEIGHT": args.edge_loss,
        "EMA_DECAY": args.ema,
    }
    if args.size:
        values.update(IMAGE_MIN_DIM=args.size, IMAGE_MAX_DIM=args.size)
    model = MaskRCNN("training", base.from_dict(values), args.logs)
    _start_from(model, args)
    try:
        for stage in stages:
            if model.epoch < stage.until:
                _train_stage(args, model, (train_set, val_set), stage, stages)
                if args.dry_run:
                    print("Nothing was trained, as asked for.")
                    return 0
    except TrainingStopped as stopped:
        print(stopped, file=sys.stderr)
        return 130
    except (FloatingPointError, WorkerLost) as error:
        print(f"model.py train: {error}", file=sys.stderr)
        return 3
    print(f"Trained {model.epoch} epochs; weights and logs are in {model.log_dir}")
    return 0


def _train_stage(args, model, datasets, stage, stages):
    rate = args.lr / stage.divisor
    schedule = make_schedule(
        args.lr_schedule,
        rate,
        epochs=stages[-1].until,
        steps_per_epoch=model.config.STEPS_PER_EPOCH,
        warmup=args.warmup,
    )
    model.train(
        *datasets,
        rate,
        stage.until,
        stage.layers,
        augmentation=_augmentation(args.augmentation),
        schedule=schedule,
        seed=args.seed,
        workers=args.workers,
        accumulate=args.accumulate,
        keep=args.keep,
        early_stopping=args.early_stopping,
        tensorboard=True,
        check=True,
        dry_run=args.dry_run,
        facts={"arguments": {k: str(v) for k, v in vars(args).items() if k != "run"}},
    )


def _start_from(model, args):
    """Loads the weights that --weights names, or a run's state, into a training model."""
    from mrcnn import sources, weights

    source = args.weights
    if source == "none" and not args.resume:
        return
    if args.resume or source == "last":
        path = _resume(model, args.resume)
    elif model.config.BACKBONE == "mobilenet_v2" and source == "coco":
        path = sources.MOBILENET_COCO
        report = sources.load_mobilenet_v2(model.keras_model, path)
        model.random_layers = report.missing
    elif source == "imagenet":
        path = model.get_imagenet_weights()
        model.load_weights(path, by_name=True)
    else:
        path = sources.find_weights(source)
        other = weights.inspect(path).num_classes != model.config.NUM_CLASSES
        model.load_weights(path, by_name=True, exclude=weights.CLASS_LAYERS if other else None)
        model.set_log_dir()  # a run of its own, even if the file is another run's
    print(f"Starting from {path}, epoch {model.epoch}")
    if model.random_layers:
        print(f"Without weights there, so trained from random: {', '.join(model.random_layers)}")


def _resume(model, folder):
    """Goes on with a run; one of an older version, or matterport's, has nothing but weights."""
    try:
        return model.resume(folder)
    except FileNotFoundError:
        if folder:
            raise
        path = model.find_last()
        model.load_weights(path, by_name=True)
        print("That run has no optimizer's state: its momentum starts anew.")
        return path


def _augmentation(kind):
    if kind == "none":
        return None
    import imgaug.augmenters as iaa

    from mrcnn.data import default_augmentation

    if kind == "flip":
        return iaa.Fliplr(0.5)
    return default_augmentation(zoom=0.4 if kind == "zoom" else 0.0)


def load_detector(args, **overrides):
    """The `MaskRCNN` of a weights file, ready to detect, one picture a batch.

    Raises:
        UsageError: if some layer would be left at random.
    """
    import_tensorflow()
    from mrcnn import sources, weights
    from mrcnn.model import MaskRCNN

    path = sources.find_weights(args.weights)
    info = weights.inspect(path)
    config = sources.config_for(
        info, IMAGES_PER_GPU=1, GPU_COUNT=1, COMPUTE_DTYPE=args.precision, **overrides
    )
    model = MaskRCNN("inference", config, "logs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of random layers: they end the command below
        model.load_weights(path, by_name=True)
    if model.random_layers:
        raise UsageError(
            f"{path} has no weights for these layers, so results would be random: "
            f"{', '.join(model.random_layers)}\nGive a file of the whole model."
        )
    print(f"Weights: {path} ({config.BACKBONE}, {config.NUM_CLASSES - 1} classes)")
    return model


def run_inference(args):
    """Finds garments in a folder of pictures; returns the exit status."""
    from mrcnn.inference import list_images, run_folder

    if not args.input_folder.is_dir():
        raise UsageError(f"no folder {args.input_folder}; make it and put pictures in")
    if not list_images(args.input_folder):
        raise UsageError(f"no picture in {args.input_folder}; put .jpg or .png files in")
    overrides = {} if args.min_score is None else {"DETECTION_MIN_CONFIDENCE": args.min_score}
    model = load_detector(args, **overrides)
    summary = run_folder(model, args.input_folder, args.output_folder, model.class_names)
    return 3 if summary.failures else 0  # 3: done, but for some pictures


def run_evaluate(args):
    """Scores a model, or a file of results, on an annotated split; returns the exit status."""
    from mrcnn import metrics, report
    from mrcnn.coco_data import outside, read_results, read_truth

    if args.results and (args.weights != "weights" or args.precision != "auto"):
        raise UsageError("--results runs no model; leave out --weights and --precision")
    if args.results and not args.results.is_file():
        raise UsageError(f"no results at {args.results}; give a COCO results file")
    # What can be wrong shows before the model runs, which may take hours.
    other = metrics.read_other(args.compare) if args.compare else None
    dataset = None if args.results else load_split(args, args.split)
    truth = read_truth(_annotations(args), limit=args.limit)
    args.report.mkdir(parents=True, exist_ok=True)
    path, notes, failures = args.results, [], []
    if dataset:
        path = args.report / "results.json"
        failures = save_predictions(path, predict(args, dataset))
        notes += [f"{name} failed and counts as found empty: {why}" for name, why in failures]
    detections = read_results(truth, path)
    if detections.left_out:
        notes.append(f"{detections.left_out} results are of pictures beyond --limit")
    if (share := outside(truth, detections)) > 0.05:
        notes.append(
            f"{share:.0%} of the boxes reach out of their pictures; are these results of another "
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
    from mrcnn.sources import find_weights

    return str(find_weights(args.weights))


def _annotations(args):
    path = (args.annotations or args.data) / f"{args.split}_coco.json"
    if not path.is_file():
        raise UsageError(
            f"no COCO annotations at {path}; give the folder of {path.name} by --annotations"
        )
    return path


def predict(args, dataset):
    """Yields (image id of the annotations, COCO results, None), or (file, None, why it failed)."""
    from tqdm import tqdm

    from mrcnn.inference import to_coco_results

    # AP ranks all detections: none may be cut off by the threshold for drawing.
    model = load_detector(args, DETECTION_MIN_CONFIDENCE=0.05)
    _check_classes(model.class_names, dataset)
    for image_id in tqdm(dataset.image_ids, args.split):
        info = dataset.image_info[image_id]
        try:
            image = dataset.load_image(image_id)
        except (OSError, ValueError) as error:
            yield Path(info["path"]).name, None, str(error)
            continue
        yield info["id"], to_coco_results(info["id"], model.detect([image])[0]), None


def _check_classes(names, dataset):
    """Results name classes by number, so model and annotations must number them alike."""
    for entry in dataset.class_info[1:]:
        if entry["id"] >= len(names) or names[entry["id"]] != entry["name"]:
            raise UsageError(
                f"category {entry['id']} is {entry['name']!r} in the annotations, but the model's "
                f"classes are {list(names)}; give weights of a model of the same classes"
            )


def save_predictions(path, predictions):
    """Writes COCO results; returns (file, reason) of each picture that failed."""
    import orjson

    from mrcnn.files import write_atomically

    results, failures = [], []
    for where, rows, why in predictions:
        if why is None:
            results += rows
        else:
            failures.append((where, why))
    write_atomically(path, orjson.dumps(results))
    return failures


def run_inspect(args):
    """Writes counts of the annotations and a page that shows them; returns the exit status."""
    from mrcnn.inspection import inspect_coco, likely_folders, split_name, summary

    if args.annotations and (args.annotations.is_file() or args.annotations.suffix == ".json"):
        if not args.annotations.is_file():
            raise UsageError(f"no file {args.annotations}; give a COCO file or a folder of them")
        annotations, split = args.annotations, args.split or split_name(args.annotations)
        folders = likely_folders(annotations, split, args.data)
    else:
        split = args.split or "train"
        annotations, pictures = split_files(args, split)
        folders = [pictures]
    if args.images:
        if not args.images.is_dir():
            raise UsageError(f"no folder {args.images}; give the folder of the pictures")
        folders = [args.images]
    output_folder = args.output_folder or Path("output_folder") / f"inspect_{split}"
    found = inspect_coco(
        annotations, folders, output_folder, split, args.limit, args.pictures, args.seed
    )
    print(summary(found))
    return 0


def main(argv=None):
    """Runs one command. Returns 0, or 2 for what the user can put right, 3 if pictures failed."""
    args = build_parser().parse_args(argv)
    try:
        return args.run(args)
    except (UsageError, OSError, ValueError) as error:
        if os.environ.get("MRCNN_TRACEBACK"):
            raise
        print(f"model.py {args.command}: {error}", file=sys.stderr)
        print("(MRCNN_TRACEBACK=1 shows where it came from)", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
