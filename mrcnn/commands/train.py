"""`model.py train`."""

import math
import sys
from pathlib import Path

from mrcnn.commands.environment import import_tensorflow
from mrcnn.commands.shared import (
    UsageError,
    add_data,
    data_folders,
    factor,
    load_folders,
    load_split,
    positive,
    share,
    split_files,
    whole,
)
from mrcnn.data.sampling import BALANCES
from mrcnn.training.schedules import SCHEDULES, Stage, make_schedule, parse_stages


def _add_train(train):
    add_data(train, several=True)
    add = train.add_argument_group("model").add_argument
    add("--model", choices=["resnet101", "resnet50", "compact"], default="resnet101")
    add(
        "--weights",
        help="to start from: coco (if not given), imagenet, none, a file; or last, to go on with the "
        "last run exactly where it stopped",
    )
    add("--resume", type=Path, metavar="RUN", help="go on with the run of this folder")
    add("--size", type=positive, help="side of the network's square input; the model's")
    add("--name", help="of the run; the model's if not given")
    add("--logs", default="logs", help="folder of run folders")

    add = train.add_argument_group("schedule").add_argument
    add(
        "--epochs",
        type=positive,
        help="the last epoch, counted from the first ever; 90 if not given",
    )
    add("--steps_per_epoch", type=positive, help="one pass over the images, at most 1000")
    add("--validation_steps", type=positive, help="one pass over the images, at most 50")
    add(
        "--batch_size",
        type=positive,
        default=8,
        help="images of a step, over all --gpus of a process",
    )
    add(
        "--accumulate",
        type=positive,
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
    add("--warmup", type=whole, default=0, help="first steps, in which the rate grows to --lr")
    add("--layers", help="heads, 3+, 4+, 5+, all, or a regular expression; all if not given")
    add(
        "--stages",
        help="instead of --layers and --epochs, several after another, each with its last epoch "
        "and a divisor of --lr: heads:40,4+:120,all:160/10",
    )
    add("--ema", type=float, default=0.0, help="keep moving averages of the weights: 0.999, say")
    add(
        "--rois",
        type=positive,
        help="RoIs of an image that the heads learn from; the model's if not given",
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
        type=whole,
        default=0,
        help="epochs without a better one that end the training, or a stage; 0 for never",
    )
    add(
        "--best_by",
        choices=["val_loss", "mask_ap"],
        default="val_loss",
        help="what best.h5 is the best by; mask_ap: on 100 images of the validation split",
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
        help="repeat_factor: images of classes that few images have come more often",
    )
    add("--focus", help="classes whose images come more often: long_sleeved_shirt:2,trousers:2")
    add(
        "--repeat",
        type=factor,
        nargs="+",
        help="how often the images of each --data folder come in a pass: 2 1",
    )
    add("--paste", type=share, default=0.0, help="share of images that get garments of others")
    add(
        "--recolour",
        type=share,
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
        type=positive,
        metavar="N",
        help="first draw N augmented images: preview.png",
    )
    add(
        "--seed",
        type=whole,
        default=0,
        help="of weights that start random, the order of images, and how they are varied",
    )
    add("--workers", type=positive, default=2, help="threads that load images")

    add = train.add_argument_group("run").add_argument
    add("--gpus", type=positive, default=1, help="devices of this machine that train in step")
    add("--keep", type=positive, default=3, help="newest checkpoints that stay, besides the best")
    add("--samples", type=whole, default=4, help="validation images shown in TensorBoard")
    add("--dry_run", action="store_true", help="check data, disk and memory by one step, and stop")


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

    from mrcnn.data.samples import ImageLoadError
    from mrcnn.model import MaskRCNN
    from mrcnn.network.backbone import stage_patterns
    from mrcnn.presets import CONFIGS
    from mrcnn.training.devices import count_processes
    from mrcnn.training.loop import TrainingStopped, WorkerLost

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
    except ImageLoadError as error:
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
        raise UsageError("--paste_data needs --paste, the share of images that get garments")
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
    from mrcnn.core.classes import same_names
    from mrcnn.network import pretrained, weights

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
        path = pretrained.MOBILENET_COCO
        report = pretrained.load_mobilenet_v2(model.keras_model, path)
        model.random_layers = report.missing
    elif source == "imagenet":
        path = model.get_imagenet_weights()
        model.load_weights(path, by_name=True)
    else:
        path = pretrained.find_weights(source)
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
    """What --augment, --paste and --recolour ask for; `visits`: how often a pass shows each image."""
    from dataclasses import replace

    from mrcnn.data.augmentation import make_augmentation
    from mrcnn.data.policy import Policy

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
    from mrcnn.commands.judge import Judge

    pictures, annotations = data_folders(args)[0]
    path, _ = split_files(pictures, annotations, "validation")
    judge = Judge(model, dataset, path, seed=args.seed)
    options: dict = {"samples": lambda: judge.samples(args.samples)} if args.samples else {}
    if by_ap:
        options |= {"score": judge.mask_ap, "score_name": "mask_ap"}
    return options


def count_visits(args, train_set, counts):
    """How often each image comes in a pass: float [num_images].

    `counts` are the numbers of images of the --data folders.
    """
    import numpy as np

    from mrcnn.data.sampling import image_weights

    weights = image_weights(train_set, args.balance, focus=args.focus)
    if not args.repeat:
        return weights
    if len(args.repeat) != len(counts):
        raise UsageError(
            f"--repeat has {len(args.repeat)} numbers; give one for each of the {len(counts)} "
            "folders of --data"
        )
    return weights * np.repeat(args.repeat, counts)
