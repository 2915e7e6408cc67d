"""Mask R-CNN for clothing: train it, use it on a folder of pictures, measure it.

    python model.py train
    python model.py inference --weights weights --input_folder input_folder --output_folder output_folder
    python model.py evaluate --weights weights
    python model.py inspect --split train

`python model.py COMMAND --help` lists a command's options.
"""

import argparse
import math
import os
import sys
import tempfile
from pathlib import Path

from mrcnn.memory import share_heap
from mrcnn.sampling import BALANCES
from mrcnn.schedules import SCHEDULES, Stage, make_schedule, parse_stages

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def build_parser():
    """The command line; no TensorFlow is loaded for it."""
    show = _Help
    parser = argparse.ArgumentParser(prog="model.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="train on COCO annotations", formatter_class=show)
    _add_train(train)
    train.set_defaults(run=run_train)

    inference = commands.add_parser(
        "inference", help="find garments in pictures or a video", formatter_class=show
    )
    _add_weights(inference)
    _add_inference(inference)
    inference.set_defaults(run=run_inference)

    evaluate = commands.add_parser(
        "evaluate",
        help="scores on annotated pictures, and where the model goes wrong",
        formatter_class=show,
    )
    _add_weights(evaluate)
    _add_data(evaluate)
    evaluate.add_argument("--split", default="validation", help="what <split>_coco.json is of")
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
        "--size",
        type=int,
        help="side of the network's input, a multiple of 64; if not given, the model's",
    )
    evaluate.add_argument("--tta", action="store_true", help="look at mirror images too")
    _add_sleeve_refine(evaluate)
    _add_refine(evaluate)
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


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Tells defaults, but not that nothing is given or a switch is off."""

    def _get_help_string(self, action):
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)


def _add_train(train):
    _add_data(train, several=True)
    add = train.add_argument_group("model").add_argument
    add("--model", choices=["resnet101", "resnet50", "compact"], default="resnet101")
    add(
        "--weights",
        help="to start from: coco (if not given), imagenet, none, a file; or last, to go on with the "
        "last run exactly where it stopped",
    )
    add("--resume", type=Path, metavar="RUN", help="go on with the run of this folder")
    add("--size", type=_positive, help="side of the network's square input; the model's")
    add("--name", help="of the run; the model's if not given")
    add("--logs", default="logs", help="folder of run folders")

    add = train.add_argument_group("schedule").add_argument
    add(
        "--epochs",
        type=_positive,
        help="the last epoch, counted from the first ever; 90 if not given",
    )
    add("--steps_per_epoch", type=_positive, help="one pass over the pictures, at most 1000")
    add("--validation_steps", type=_positive, help="one pass over the pictures, at most 50")
    add(
        "--batch_size",
        type=_positive,
        default=8,
        help="pictures of a step, over all --gpus of a process",
    )
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
    add("--warmup", type=_whole, default=0, help="first steps, in which the rate grows to --lr")
    add("--layers", help="heads, 3+, 4+, 5+, all, or a regular expression; all if not given")
    add(
        "--stages",
        help="instead of --layers and --epochs, several after another, each with its last epoch "
        "and a divisor of --lr: heads:40,4+:120,all:160/10",
    )
    add("--ema", type=float, default=0.0, help="keep moving averages of the weights: 0.999, say")
    add(
        "--rois",
        type=_positive,
        help="RoIs of a picture that the heads learn from; the model's if not given",
    )
    add("--edge_loss", type=float, default=0.0, help="weight of the mask edges' agreement")
    add(
        "--label_smoothing",
        type=float,
        default=0.0,
        help="share of the class labels that is spread over all classes, as some are wrong",
    )
    add(
        "--dropout",
        type=float,
        default=0.0,
        help="share of the class and box head's numbers that each step leaves out: 0.5, say",
    )
    add(
        "--early_stopping",
        type=_whole,
        default=0,
        help="epochs without a better one that end the training, or a stage; 0 for never",
    )
    add(
        "--best_by",
        choices=["val_loss", "mask_ap"],
        default="val_loss",
        help="what best.h5 is the best by; mask_ap: on 100 pictures of the validation split",
    )

    add = train.add_argument_group("data").add_argument
    add(
        "--augment",
        default="flip",
        help="none, flip, default (flip, move, scale, turn, colours, occlusion, some close-ups), "
        "zoom (more close-ups), strong (larger changes, for little data), or a Python file that "
        "defines `augmentation` with imgaug",
    )
    add(
        "--balance",
        choices=BALANCES,
        default="none",
        help="repeat_factor: pictures of classes that few pictures have come more often",
    )
    add("--focus", help="classes whose pictures come more often: long_sleeved_shirt:2,trousers:2")
    add(
        "--repeat",
        type=_factor,
        nargs="+",
        help="how often the pictures of each --data folder come in a pass: 2 1",
    )
    add("--paste", type=_share, default=0.0, help="share of pictures that get garments of others")
    add(
        "--recolour",
        type=_share,
        default=0.0,
        help="share of garments that get other colours, within their outlines",
    )
    add(
        "--paste_data",
        type=Path,
        help="folder in DeepFashion2's layout, converted, whose train split they are taken from",
    )
    add(
        "--paste_annotations", type=Path, help="folder of its COCO files; --paste_data if not given"
    )
    add(
        "--preview",
        type=_positive,
        metavar="N",
        help="first draw N augmented pictures: preview.png",
    )
    add(
        "--seed",
        type=_whole,
        default=0,
        help="of weights that start random, the order of pictures, and how they are varied",
    )
    add("--workers", type=_positive, default=2, help="threads that load pictures")

    add = train.add_argument_group("run").add_argument
    add("--gpus", type=_positive, default=1, help="devices of this machine that train in step")
    add("--keep", type=_positive, default=3, help="newest checkpoints that stay, besides the best")
    add("--samples", type=_whole, default=4, help="validation pictures shown in TensorBoard")
    add("--dry_run", action="store_true", help="check data, disk and memory by one step, and stop")


def _add_data(command, file_too="", several=False):
    folder = Path("data/deepfashion2")
    count: dict = {"nargs": "+"} if several else {}
    command.add_argument(
        "--data",
        type=Path,
        default=[folder] if several else folder,
        help="folder in DeepFashion2's layout"
        + ("; of several the training pictures are joined, and the first validates" * several),
        **count,
    )
    command.add_argument(
        "--annotations",
        type=Path,
        help=f"folder of the COCO files that convert_to_coco.py wrote{file_too}; --data if not given",
        **count,
    )
    command.add_argument("--limit", type=_positive, help="use the first pictures only")


def _add_inference(command):
    from mrcnn.writers import DEFAULT, FORMATS

    group = command.add_argument_group("what is processed")
    group.add_argument(
        "--input_folder",
        "--input",
        default="input_folder",
        help="a folder, a picture, a pattern in quotes, or a .txt file of paths",
    )
    group.add_argument("--recursive", action="store_true", help="take sub-folders too")
    group.add_argument("--video", metavar="PATH", help="a video file instead, or 0 for a webcam")
    group.add_argument(
        "--max_pixels",
        type=_positive,
        help="refuse larger pictures; at most, and if not given, 178956970",
    )

    group = command.add_argument_group("what is found")
    group.add_argument(
        "--min_score",
        type=float,
        help="leave out detections below, 0 to 1; if not given, what the model was made for",
    )
    group.add_argument(
        "--max_detections", type=_positive, help="keep the best so many of each picture"
    )
    group.add_argument("--classes", type=_words, help="keep these only, such as trousers,skirt")
    group.add_argument(
        "--agnostic_nms", action="store_true", help="one class for each garment, the best"
    )
    group.add_argument("--tta", action="store_true", help="look at the mirror image too (slower)")
    _add_sleeve_refine(group)
    _add_refine(group)
    group.add_argument(
        "--exclusive_masks", action="store_true", help="leave no pixel to two garments"
    )

    group = command.add_argument_group("what is written")
    group.add_argument(
        "--output_folder", type=Path, default=Path("output_folder"), help="made if need be"
    )
    group.add_argument(
        "--save",
        type=_words,
        default=",".join(DEFAULT),
        help="some of overlay,json,csv,masks,cutouts,html",
    )
    group.add_argument("--overlay_format", choices=FORMATS, default="png", help="of the overlays")
    group.add_argument("--legend", action="store_true", help="name the classes in a corner")
    group.add_argument("--pad", type=int, default=0, help="pixels around each cut-out")
    group.add_argument(
        "--resume", action="store_true", help="keep complete results of unchanged pictures"
    )
    group.add_argument("--strict", action="store_true", help="stop at the first failure")

    group = command.add_argument_group("how it is computed")
    group.add_argument(
        "--batch_size",
        type=_positive,
        help="pictures at once; if not given, 4 up to --size 640, else 1",
    )
    group.add_argument(
        "--size",
        type=int,
        help="side of the network's input, a multiple of 64; if not given, the model's",
    )
    group.add_argument("--device", help="cpu, gpu:0, ...; if not given, TensorFlow chooses")


def _add_refine(command):
    command.add_argument(
        "--refine",
        action=argparse.BooleanOptionalAction,
        help="fit masks to edges in the picture (slower; needs OpenCV); if not given, as the weights "
        "file says",
    )


def _add_sleeve_refine(command):
    command.add_argument(
        "--sleeve_refine",
        action=argparse.BooleanOptionalAction,
        help="let the weights file's sleeve head overrule classes among siblings, such as short "
        "and long sleeves; if not given, as the file says",
    )


def _words(text):
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _add_weights(command):
    command.add_argument(
        "--weights", default="weights", help="a file, a folder (its newest .h5), or coco"
    )


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}; give 1 or more")
    return value


def _factor(text):
    value = float(text)
    if not 1 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"got {value}; give 1 or more")
    return value


def _share(text):
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"got {value}; give 0 to 1")
    return value


def _whole(text):
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"got {value}; give 0 or more")
    return value


class UsageError(Exception):
    """Something that the user can put right; the message says how."""


def hold_weights(fixed):
    """Tells oneDNN whether weights stay as they are in this process, before TensorFlow is imported.

    If they do, it brings them into its own order once, not for each picture, and doesn't fall
    back to kernels that are several times slower for batches of one. It would take weights that
    train for fixed as well, and go on with the first ones.

    Args:
        fixed: bool. A value of TF_ONEDNN_ASSUME_FROZEN_WEIGHTS in the environment stands if
            it is True.
    """
    if fixed:
        os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
    else:
        os.environ["TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"] = "0"


def import_tensorflow():
    """Imports TensorFlow and Keras quietly and lean.

    Quietly: their C++ part writes notes before it reads its log level, which would bury what
    the commands print; they are shown if the import fails. Lean: Keras imports OpenCV (which
    needs libGL), matplotlib and SciPy for helpers that nothing here uses.
    """
    unwanted = [name for name in ("cv2", "matplotlib", "scipy") if name not in sys.modules]
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


def data_folders(args):
    """[(folder of pictures, folder of COCO files)] of --data and --annotations, one each or several.

    Raises:
        UsageError: if they aren't equally many.
    """
    pictures = args.data if isinstance(args.data, list) else [args.data]
    annotations = args.annotations or pictures
    annotations = annotations if isinstance(annotations, list) else [annotations]
    if len(annotations) != len(pictures):
        raise UsageError(
            f"--data has {len(pictures)} folders but --annotations {len(annotations)}; give one "
            "folder of COCO files for each"
        )
    return list(zip(pictures, annotations, strict=True))


def split_files(data, annotations, split):
    """The COCO file of a split, and the folder where its pictures should be.

    Raises:
        UsageError: if there is no such file.
    """
    from convert_to_coco import missing_data_message

    pictures, path = data / split / "image", annotations / f"{split}_coco.json"
    if not path.is_file():
        if not pictures.is_dir():
            raise UsageError(missing_data_message(data))
        raise UsageError(
            f"no COCO annotations at {path}; make them with\n"
            f"  python convert_to_coco.py --data {data}"
            + (f" --output_dir {annotations}" if annotations != data else "")
        )
    return path, pictures


def load_folders(folders, split, limit=None):
    """A split of one or several data folders, converted before with convert_to_coco.py.

    Args:
        folders: as from `data_folders`; their pictures are joined in this order.
        split: "train" or another.
        limit: of each folder only so many pictures, None for all.

    Returns:
        `CocoDataset`, and the number of pictures of each folder.

    Raises:
        UsageError: if the pictures or the COCO file are missing.
    """
    from convert_to_coco import missing_data_message
    from mrcnn.dataset import CocoDataset

    dataset = CocoDataset()
    counts: list[int] = []
    for data, annotations in folders:
        path, pictures = split_files(data, annotations, split)
        if not pictures.is_dir():
            raise UsageError(missing_data_message(data))
        dataset.load_coco(path, pictures, limit=limit)
        counts.append(len(dataset.image_info) - sum(counts))
    dataset.prepare()
    return dataset, counts


def load_split(folders, split, limit=None):
    """As `load_folders`, the data set alone."""
    return load_folders(folders, split, limit)[0]


def run_train(args):
    """Trains a model; returns the exit status."""
    _check_train(args)
    args.weights = args.weights or ("last" if args.resume else "coco")
    stages = [Stage(args.layers or "all", args.epochs or 90)]
    if args.stages:
        stages = parse_stages(args.stages)
    if args.batch_size % args.gpus:
        raise UsageError(f"--batch_size {args.batch_size} is no multiple of --gpus {args.gpus}")
    folders = data_folders(args)
    train_set, counts = load_folders(folders, "train", args.limit)
    val_set = load_split(folders[:1], "validation", args.limit)
    visits = count_visits(args, train_set, counts)
    augmentation = _augmentation(args, visits)
    import_tensorflow()
    import keras

    from mrcnn.backbone import stage_patterns
    from mrcnn.clothing import CONFIGS
    from mrcnn.distribution import count_processes
    from mrcnn.model import MaskRCNN
    from mrcnn.samples import PictureError
    from mrcnn.training import TrainingStopped, WorkerLost

    base, batch = CONFIGS[args.model], args.batch_size
    whole = batch * count_processes()
    values = {
        "NAME": args.name or base.NAME,
        "GPU_COUNT": args.gpus,
        "IMAGES_PER_GPU": batch // args.gpus,
        "LEARNING_RATE": args.lr,
        "COMPUTE_DTYPE": args.precision,
        "STEPS_PER_EPOCH": args.steps_per_epoch or min(1000, math.ceil(visits.sum() / whole)),
        "VALIDATION_STEPS": args.validation_steps or min(50, -(-val_set.num_images // whole)),
        "EDGE_LOSS_WEIGHT": args.edge_loss,
        "LABEL_SMOOTHING": args.label_smoothing,
        "HEAD_DROPOUT": args.dropout,
        "EMA_DECAY": args.ema,
    }
    if args.size:
        values.update(IMAGE_MIN_DIM=args.size, IMAGE_MAX_DIM=args.size)
    if args.rois:
        values["TRAIN_ROIS_PER_IMAGE"] = args.rois
    keras.utils.set_random_seed(args.seed)  # of the layers that no weights file fills
    model = MaskRCNN("training", base.from_dict(values), args.logs)
    _start_from(model, args, train_set.class_names)
    for stage in stages:  # a mistake in a later one shows now, not after days
        model.set_trainable(
            stage_patterns(base.BACKBONE).get(stage.layers, stage.layers), verbose=0
        )
    try:
        for stage in stages[stage_of(model.saved, stages) :]:
            if model.epoch < stage.until:
                _train_stage(args, model, (train_set, val_set), stage, stages, augmentation, visits)
                if args.dry_run:
                    print("Nothing was trained, as asked for.")
                    return 0
    except TrainingStopped as stopped:
        print(stopped, file=sys.stderr)
        return 130
    except (FloatingPointError, WorkerLost) as error:
        print(f"model.py train: {error}", file=sys.stderr)
        return 3
    except PictureError as error:
        print(
            f"model.py train: {error}\nPut it right; the same command with --weights last then goes on "
            "from the last checkpoint",
            file=sys.stderr,
        )
        return 2
    print(f"Trained {model.epoch} epochs; weights and logs are in {model.log_dir}")
    return 0


def _check_train(args):
    """Refuses options that would do nothing beside others."""
    if args.stages and (args.layers or args.epochs):
        raise UsageError(
            "--stages says which layers train until when; leave out --layers, --epochs"
        )
    if args.resume and args.weights not in (None, "last"):
        raise UsageError("--resume goes on with a run's own weights; leave out --weights")
    if args.paste_data and not args.paste:
        raise UsageError("--paste_data needs --paste, the share of pictures that get garments")
    if args.paste_annotations and not args.paste_data:
        raise UsageError("--paste_annotations is for --paste_data; give it too, or leave both out")


def stage_name(stages, i):
    """By which a checkpoint says that it is of stage i; None, the layers, if there is but one."""
    return f"{i}:{stages[i].layers}" if len(stages) > 1 else None


def stage_of(saved, stages):
    """Number of the stage to go on with.

    A run that is in its second stage stays there, even if early stopping ended the first one
    before its last epoch.

    Args:
        saved: checkpoint of the run that goes on, or None.
        stages: list of `Stage`.
    """
    names = [stage_name(stages, i) for i in range(len(stages))]
    name = saved.info["stage"] if saved else None
    return names.index(name) if name in names else 0


def _train_stage(args, model, datasets, stage, stages, augmentation, visits):
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
        augmentation=augmentation,
        schedule=schedule,
        seed=args.seed,
        workers=args.workers,
        accumulate=args.accumulate,
        keep=args.keep,
        early_stopping=args.early_stopping,
        tensorboard=True,
        check=True,
        dry_run=args.dry_run,
        stage=stage_name(stages, stages.index(stage)),
        preview=args.preview or 0,
        **_judged(args, model, datasets[1]),
        loader={"repeat_factors": None if (visits == 1).all() else visits},
        facts={"arguments": {k: str(v) for k, v in vars(args).items() if k != "run"}},
    )


def _start_from(model, args, class_names):
    """Loads the weights that --weights names, or a run's state, into a training model.

    Args:
        class_names: of the training data, background first.
    """
    from mrcnn import sources, weights
    from mrcnn.classes import same_names

    source = args.weights
    if source == "none":
        return
    if source == "last":
        path = _resume(model, args.resume)
        names = weights.inspect(path).class_names
        if names and not same_names(names, class_names):
            raise UsageError(
                f"{path} is of the classes {', '.join(names[1:])}, but the data's are "
                f"{', '.join(class_names[1:])}; start a new run, from it with --weights {path}"
            )
    elif model.config.BACKBONE == "mobilenet_v2" and source == "coco":
        path = sources.MOBILENET_COCO
        report = sources.load_mobilenet_v2(model.keras_model, path)
        model.random_layers = report.missing
    elif source == "imagenet":
        path = model.get_imagenet_weights()
        model.load_weights(path, by_name=True)
    else:
        path = sources.find_weights(source)
        info = weights.inspect(path)
        other = info.num_classes != model.config.NUM_CLASSES
        if info.class_names and not same_names(info.class_names, class_names):
            other = True
            print(
                "The class layers start anew, as the weights are of other classes than the data: "
                f"{', '.join(info.class_names[1:])}"
            )
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


def _augmentation(args, visits):
    """What --augment, --paste and --recolour ask for; `visits`: how often a pass shows each picture."""
    from dataclasses import replace

    from mrcnn.augmentation import make_augmentation
    from mrcnn.policy import Policy

    augmentation = make_augmentation(args.augment)
    changes = {name: getattr(args, name) for name in ("paste", "recolour") if getattr(args, name)}
    if not changes:
        return augmentation
    if not isinstance(augmentation, Policy):
        raise UsageError(
            f"--{next(iter(changes))} goes with --augment flip, default, zoom or strong, not "
            f"{args.augment}"
        )
    if args.paste_data:
        folders = [(args.paste_data, args.paste_annotations or args.paste_data)]
        changes["paste_from"] = load_split(folders, "train")
    elif args.paste and not (visits == 1).all():
        changes["paste_weights"] = visits
    return replace(augmentation, **changes)


def _judged(args, model, dataset):
    """Options of `MaskRCNN.train` that need a detector beside the model in training."""
    by_ap = args.best_by == "mask_ap"
    if by_ap and model.cluster.workers > 1:
        raise UsageError("--best_by mask_ap works in one process only; leave it out here")
    if not (by_ap or args.samples) or not model.cluster.is_chief:
        return {}
    from mrcnn.judge import Judge

    pictures, annotations = data_folders(args)[0]
    path, _ = split_files(pictures, annotations, "validation")
    judge = Judge(model, dataset, path, seed=args.seed)
    options: dict = {"samples": lambda: judge.samples(args.samples)} if args.samples else {}
    if by_ap:
        options |= {"score": judge.mask_ap, "score_name": "mask_ap"}
    return options


def count_visits(args, train_set, counts):
    """How often each picture comes in a pass: float [num_images].

    `counts` are the numbers of pictures of the --data folders.
    """
    import numpy as np

    from mrcnn.sampling import image_weights

    weights = image_weights(train_set, args.balance, focus=args.focus)
    if not args.repeat:
        return weights
    if len(args.repeat) != len(counts):
        raise UsageError(
            f"--repeat has {len(args.repeat)} numbers; give one for each of the {len(counts)} "
            "folders of --data"
        )
    return weights * np.repeat(args.repeat, counts)


def run_inference(args):
    """Finds garments in pictures or a video; returns the exit status."""
    from mrcnn.inference import list_inputs, run_pictures
    from mrcnn.reading import MAX_PIXELS
    from mrcnn.video import load_av, run_video
    from mrcnn.writers import Outputs

    # What can be wrong without TensorFlow is found before its seconds have passed.
    outputs = Outputs(args.save, args.overlay_format, args.legend, args.pad)
    if (args.max_pixels or 0) > MAX_PIXELS:
        raise UsageError(f"--max_pixels {args.max_pixels}: Pillow decodes {MAX_PIXELS:,} at most")
    if args.video is not None:
        _check_video(args)
        load_av()
        args.batch_size = args.batch_size or 1  # each frame is shown as soon as it can be
    elif len(list_inputs(args.input_folder, args.output_folder, args.recursive).pictures) < 4:
        args.batch_size = args.batch_size or 1  # a batch of four would not get full
    share_heap()
    predictor = load_predictor(args)
    if args.video is not None:
        run_video(predictor, args.video, args.output_folder, outputs)
        return 0
    summary = run_pictures(
        predictor,
        args.input_folder,
        args.output_folder,
        outputs,
        recursive=args.recursive,
        resume=args.resume,
        strict=args.strict,
        max_pixels=args.max_pixels or MAX_PIXELS,
    )
    if summary.stopped == "interrupted":
        return 130
    return 3 if summary.failures else 0  # 3: done, but for some pictures


def _check_video(args):
    """Refuses what is for pictures only."""
    from mrcnn.writers import DEFAULT

    given = {
        # A video gives two of the default's kinds; the default itself asks for nothing.
        "--save masks, cutouts, csv or html": args.save != DEFAULT
        and not set(args.save) <= {"overlay", "json"},
        "--input_folder": args.input_folder != "input_folder",
        "--recursive": args.recursive,
        "--max_pixels": args.max_pixels is not None,
        "--overlay_format": args.overlay_format != "png",
        "--pad": args.pad,
        "--resume": args.resume,
        "--strict": args.strict,
    }
    if unfit := [name for name, is_given in given.items() if is_given]:
        raise UsageError(f"--video doesn't go with {', '.join(unfit)}; leave it out")
    if args.video.strip() and not args.video.isdigit() and not Path(args.video).is_file():
        raise UsageError(f"there is no video {args.video!r}; pass a file or a webcam's number")


def load_predictor(args):
    """The `Predictor` that the inference command's options ask for."""
    import_tensorflow()
    from mrcnn.predictor import Predictor

    predictor = Predictor.load(
        args.weights,
        size=args.size,
        precision=args.precision,
        min_score=args.min_score,
        max_detections=args.max_detections,
        device=args.device,
        batch_size=args.batch_size,
        classes=args.classes,
        tta=args.tta,
        agnostic_nms=args.agnostic_nms,
        exclusive_masks=args.exclusive_masks,
        refine=args.refine,
        sleeve_refine=args.sleeve_refine,
    )
    config = predictor.model.config
    print(f"Weights: {predictor.weights} ({config.BACKBONE}, {config.NUM_CLASSES - 1} classes)")
    return predictor


def run_evaluate(args):
    """Scores a model, or a file of results, on an annotated split; returns the exit status."""
    from mrcnn import metrics, report
    from mrcnn.coco_data import outside, read_results, read_truth

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
        data, coco_folder = data_folders(args)[0]
        annotations, pictures = split_files(data, coco_folder, split)
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


def main(argv=None, own_process=False):
    """Runs one command.

    Args:
        argv: list of str; None takes the command line's.
        own_process: whether nothing else will use TensorFlow in this process, see
            `hold_weights`.

    Returns:
        0; 2 for what the user can put right; 3 if pictures failed, a loss wasn't finite or a
        process was lost; 130 if a signal ended it early.
    """
    args = build_parser().parse_args(argv)
    if own_process:
        hold_weights(args.command != "train")
    try:
        return args.run(args)
    except (UsageError, OSError, ValueError, ImportError) as error:
        if os.environ.get("MRCNN_TRACEBACK"):
            raise
        print(f"model.py {args.command}: {error}", file=sys.stderr)
        print("(MRCNN_TRACEBACK=1 shows where it came from)", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"model.py {args.command}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(own_process=True))
