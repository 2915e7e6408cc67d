"""Mask R-CNN for clothing: train it, use it on a folder of pictures, measure it.

    python model.py train
    python model.py inference --weights weights --input_folder input_folder --output_folder output_folder
    python model.py evaluate --weights weights

`python model.py COMMAND --help` lists a command's options.
"""

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def build_parser():
    """The command line; no TensorFlow is loaded for it."""
    show = _Help
    parser = argparse.ArgumentParser(prog="model.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="train on COCO annotations", formatter_class=show)
    _add_data(train)
    train.add_argument("--model", choices=["resnet101", "resnet50", "compact"], default="resnet101")
    train.add_argument(
        "--weights", default="coco", help="to start from: coco, imagenet, last, none or a file"
    )
    train.add_argument("--name", help="of the run; the model's if not given")
    train.add_argument("--logs", default="logs", help="folder of run folders")
    train.add_argument("--epochs", type=_positive, default=90)
    train.add_argument(
        "--steps_per_epoch", type=_positive, help="one pass over the pictures, at most 1000"
    )
    train.add_argument(
        "--validation_steps", type=_positive, help="one pass over the pictures, at most 50"
    )
    train.add_argument("--batch_size", type=_positive, default=8)
    train.add_argument(
        "--size", type=_positive, help="side of the network's square input; the model's"
    )
    train.add_argument("--lr", type=float, default=0.001, help="learning rate of SGD")
    train.add_argument(
        "--lr_schedule",
        choices=["plateau", "constant", "cosine"],
        default="plateau",
        help="plateau: down to 0.3 of --lr when the validation loss stays flat; cosine: down to 0 "
        "over all epochs",
    )
    train.add_argument("--warmup", type=int, default=0, help="steps of linear growth (cosine)")
    train.add_argument(
        "--layers", default="all", help="heads, 3+, 4+, 5+, all, or a regular expression"
    )
    train.add_argument(
        "--augmentation",
        choices=["none", "flip", "full", "zoom"],
        default="flip",
        help="full: flip, move, scale, turn, colours; zoom: full, with close-ups among them",
    )
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--workers", type=_positive, default=2, help="threads that load pictures")
    train.set_defaults(run=run_train)

    inference = commands.add_parser(
        "inference", help="find garments in pictures or a video", formatter_class=show
    )
    _add_weights(inference)
    _add_inference(inference)
    inference.set_defaults(run=run_inference)

    evaluate = commands.add_parser(
        "evaluate", help="COCO box and mask AP on annotated pictures", formatter_class=show
    )
    _add_weights(evaluate)
    _add_data(evaluate)
    evaluate.add_argument("--split", default="validation")
    evaluate.set_defaults(run=run_evaluate)

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


def _add_data(command):
    command.add_argument(
        "--data",
        type=Path,
        default=Path("data/deepfashion2"),
        help="folder in DeepFashion2's layout",
    )
    command.add_argument(
        "--annotations",
        type=Path,
        help="folder of the COCO files that convert_to_coco.py wrote; --data if not given",
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
    group.add_argument("--max_pixels", type=_positive, help="refuse larger pictures; 179 million")

    group = command.add_argument_group("what is found")
    group.add_argument("--min_score", type=float, help="of a detection, 0 to 1; the model's")
    group.add_argument(
        "--max_detections", type=_positive, help="the best of each picture; the model's"
    )
    group.add_argument("--classes", type=_words, help="keep these only, such as trousers,skirt")
    group.add_argument(
        "--agnostic_nms", action="store_true", help="one class for each garment, the best"
    )
    group.add_argument("--tta", action="store_true", help="look at the mirror image too (slower)")
    group.add_argument(
        "--refine", action="store_true", help="fit masks to edges in the picture (slower)"
    )
    group.add_argument(
        "--exclusive_masks", action="store_true", help="leave no pixel to two garments"
    )

    group = command.add_argument_group("what is written")
    group.add_argument("--output_folder", type=Path, default=Path("output_folder"))
    group.add_argument(
        "--save",
        type=_words,
        default=",".join(DEFAULT),
        help="some of overlay,json,csv,masks,cutouts,html",
    )
    group.add_argument("--overlay_format", choices=FORMATS, default="png")
    group.add_argument("--legend", action="store_true", help="name the classes in a corner")
    group.add_argument("--pad", type=int, default=0, help="pixels around each cut-out")
    group.add_argument(
        "--resume", action="store_true", help="keep complete results of unchanged pictures"
    )
    group.add_argument("--strict", action="store_true", help="stop at the first failure")

    group = command.add_argument_group("how it is computed")
    group.add_argument("--batch_size", type=_positive, help="4 up to --size 640, else 1")
    group.add_argument("--size", type=int, help="of the network's input, times 64; the model's")
    group.add_argument("--device", help="cpu, gpu:0, ...; TensorFlow's choice")


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


def load_split(args, split):
    """The `CocoDataset` of a split, converted before with convert_to_coco.py.

    Raises:
        UsageError: if the pictures or the COCO file are missing.
    """
    from convert_to_coco import missing_data_message
    from mrcnn.dataset import CocoDataset

    pictures = args.data / split / "image"
    if not pictures.is_dir():
        raise UsageError(missing_data_message(args.data))
    annotations = (args.annotations or args.data) / f"{split}_coco.json"
    if not annotations.is_file():
        raise UsageError(
            f"no COCO annotations at {annotations}; make them with\n"
            f"  python convert_to_coco.py --data {args.data}"
            + (f" --output_dir {args.annotations}" if args.annotations else "")
        )
    dataset = CocoDataset()
    dataset.load_coco(annotations, pictures, limit=args.limit)
    dataset.prepare()
    return dataset


def run_train(args):
    """Trains a model; returns the exit status."""
    train_set = load_split(args, "train")
    val_set = load_split(args, "validation")
    import_tensorflow()
    from mrcnn.clothing import CONFIGS
    from mrcnn.model import MaskRCNN

    base, batch = CONFIGS[args.model], args.batch_size
    values = {
        "NAME": args.name or base.NAME,
        "IMAGES_PER_GPU": batch,
        "LEARNING_RATE": args.lr,
        "COMPUTE_DTYPE": args.precision,
        "STEPS_PER_EPOCH": args.steps_per_epoch or min(1000, -(-train_set.num_images // batch)),
        "VALIDATION_STEPS": args.validation_steps or min(50, -(-val_set.num_images // batch)),
    }
    if args.size:
        values.update(IMAGE_MIN_DIM=args.size, IMAGE_MAX_DIM=args.size)
    model = MaskRCNN("training", base.from_dict(values), args.logs)
    _start_from(model, args.weights)
    model.train(
        train_set,
        val_set,
        args.lr,
        args.epochs,
        args.layers,
        augmentation=_augmentation(args.augmentation),
        custom_callbacks=_callbacks(args),
        schedule=_schedule(args, model.config),
        seed=args.seed,
        workers=args.workers,
    )
    print(f"Trained {model.epoch} epochs; weights and log.csv are in {model.log_dir}")
    return 0


def _start_from(model, source):
    """Loads the weights that --weights names into a training model."""
    from mrcnn import sources, weights

    if source == "none":
        return
    if source == "last":
        path = model.find_last()
        model.load_weights(path, by_name=True)
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
    print(f"Starting from {path}, epoch {model.epoch}")
    if model.random_layers:
        print(f"Without weights there, so trained from random: {', '.join(model.random_layers)}")


def _augmentation(kind):
    if kind == "none":
        return None
    import imgaug.augmenters as iaa

    from mrcnn.data import default_augmentation

    if kind == "flip":
        return iaa.Fliplr(0.5)
    return default_augmentation(zoom=0.4 if kind == "zoom" else 0.0)


def _callbacks(args):
    if args.lr_schedule != "plateau":
        return []
    import keras

    return [
        keras.callbacks.ReduceLROnPlateau(
            factor=0.3, patience=5, min_lr=0.3 * args.lr, verbose=1, monitor="val_loss"
        )
    ]


def _schedule(args, config):
    if args.lr_schedule != "cosine":
        return None
    from mrcnn.training import cosine_schedule

    return cosine_schedule(args.lr, args.epochs * config.STEPS_PER_EPOCH, args.warmup)


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
    """Finds garments in pictures or a video; returns the exit status."""
    from mrcnn.inference import run_pictures
    from mrcnn.listing import list_pictures
    from mrcnn.reading import MAX_PIXELS
    from mrcnn.video import load_av, run_video
    from mrcnn.writers import Outputs

    # What can be wrong without TensorFlow is found before its seconds have passed.
    outputs = Outputs(args.save, args.overlay_format, args.legend, args.pad)
    if args.video is not None:
        load_av()
        args.batch_size = args.batch_size or 1  # each frame is shown as soon as it can be
    elif len(list_pictures(args.input_folder, args.recursive).pictures) < 4:
        args.batch_size = args.batch_size or 1  # a batch of four would not get full
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
    )
    config = predictor.model.config
    print(f"Weights: {predictor.weights} ({config.BACKBONE}, {config.NUM_CLASSES - 1} classes)")
    return predictor


def run_evaluate(args):
    """Prints COCO AP of a model on an annotated split; returns the exit status."""
    dataset = load_split(args, args.split)
    from mrcnn.evaluation import coco_scores
    from mrcnn.inference import to_coco_results

    # AP ranks all detections: none may be cut off by the threshold for drawing.
    model = load_detector(args, DETECTION_MIN_CONFIDENCE=0.05)
    from tqdm import tqdm

    results, ids = [], []
    for image_id in tqdm(dataset.image_ids, args.split):
        found = model.detect([dataset.load_image(image_id)])[0]
        ids.append(dataset.image_info[image_id]["id"])
        results += to_coco_results(ids[-1], found)
    annotations = (args.annotations or args.data) / f"{args.split}_coco.json"
    scores = coco_scores(annotations, results, image_ids=ids)
    for kind, name in (("bbox", "box"), ("segm", "mask")):
        values = "  ".join(f"{k} {scores[kind][k]:.3f}" for k in ("AP", "AP50", "AP75"))
        print(f"{name:5}{values}")
    for name, value in scores["segm"]["per_class"].items():
        print(f"  mask AP {name:24}" + ("n/a" if value is None else f"{value:.3f}"))
    return 0


def main(argv=None):
    """Runs one command. Returns 0, or 2 for what the user can put right, 3 if pictures failed, 130
    if Ctrl-C ended it early."""
    args = build_parser().parse_args(argv)
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
    sys.exit(main())
