"""Trains the sleeve head of a weights file: a second opinion on classes that differ in a detail.

    python scripts/train_sleeves.py --weights weights/mask_rcnn_compact.h5 \
        --data data/street_fashion --annotations coco

The detector stays as it is. It looks at varied training images, the features of what it finds
are kept, and a linear classifier among siblings (mrcnn/siblings/head.py) is fitted to them. The margin
by which it must be surer than the detector comes from a cross-validation over images.
"""

import argparse
import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from mrcnn.commands.arguments import UsageError
from mrcnn.commands.environment import import_tensorflow
from mrcnn.commands.shared import data_folders, load_split, split_files


def build_parser():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--weights", default="weights", help="a file, or a folder (its newest .h5)")
    add("--output", type=Path, help="the file with the head; if not given, --weights' own")
    add(
        "--data",
        type=Path,
        nargs="+",
        default=[Path("data/deepfashion2")],
        help="folders in DeepFashion2's layout, converted, whose train splits are used",
    )
    add("--annotations", type=Path, nargs="+", help="of their COCO files; --data if not given")
    add("--limit", type=int, help="of each folder the first images only")
    add(
        "--augment",
        default="default",
        help="none, flip, default, zoom or strong, as of model.py train",
    )
    add("--passes", type=int, default=2, help="how often each image is varied and looked at")
    add("--decay", type=float, default=0.1, help="weight of the L2 term")
    add("--margin", type=float, help="0 to 1; if not given, chosen by cross-validation")
    add("--batch_size", type=int, default=4, help="images at once")
    add("--precision", choices=["auto", "float32", "bfloat16", "float16"], default="auto")
    add("--seed", type=int, default=0)
    add("--samples", type=Path, help="folder to keep the features in, or to take them from")
    add("--on", action="store_true", help="let the file say that its head is used by default")
    return parser


def load_detector(args, path):
    """`MaskRCNN` that gives weak detections too."""
    from mrcnn.model import MaskRCNN
    from mrcnn.network import layers, pretrained, weights
    from mrcnn.predictor import load_whole

    config = pretrained.config_for(
        weights.inspect(path),
        IMAGES_PER_GPU=args.batch_size,
        GPU_COUNT=1,
        COMPUTE_DTYPE=args.precision,
        DETECTION_MIN_CONFIDENCE=0.05,
        SLEEVE_REFINE=False,
    )
    model = MaskRCNN("inference", config, "logs")
    load_whole(model, path)
    layers.freeze(model.keras_model)
    return model


def collect_all(args, model):
    """`Samples` of all folders."""
    from mrcnn.data.augmentation import make_augmentation
    from mrcnn.data.policy import Policy
    from mrcnn.siblings.training import Samples, collect

    augmentation = make_augmentation(args.augment)
    if augmentation is not None and not isinstance(augmentation, Policy):
        raise UsageError(f"--augment {args.augment}: give none, flip, default or zoom")
    parts, first = [], 0
    for folder in data_folders(args):
        dataset = load_split([folder], "train", args.limit)
        if list(dataset.class_names) != list(model.class_names):
            raise UsageError(
                f"{folder[0]} has the classes {dataset.class_names}, the model "
                f"{list(model.class_names)}; give data of the same classes"
            )
        kept = kept_path(args, model, folder)
        if kept and kept.exists():
            part = Samples.load(kept)
        else:
            part = collect(model, dataset, augmentation, args.passes, args.seed)
            if kept:
                part.save(kept)
        parts.append(replace(part, pictures=part.pictures + first))
        first += dataset.num_images
    return Samples.joined(parts)


def kept_path(args, model, folder):
    """The file in --samples for what is found in a folder by these weights and options, or None."""
    if not args.samples:
        return None
    digest = hashlib.blake2b(digest_size=8)
    for variable in model.keras_model.variables:
        digest.update(np.asarray(variable).tobytes())
    options = [args.limit, args.augment, args.passes, args.seed, args.precision]
    digest.update(json.dumps([[str(path) for path in folder], options]).encode())
    args.samples.mkdir(parents=True, exist_ok=True)
    return args.samples / f"{digest.hexdigest()}.npz"


def check(args):
    """Finds what is wrong with the options before the work, not after it."""
    for name in ("passes", "batch_size", "limit"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} is {value}; give 1 or more")
    if args.margin is not None and not 0 <= args.margin <= 1:
        raise UsageError(f"--margin is {args.margin}; give 0 to 1")
    if not args.decay >= 0:
        raise UsageError(f"--decay is {args.decay}; give 0 or more")
    if args.output and not args.output.parent.is_dir():
        raise UsageError(f"no folder {args.output.parent} to write {args.output.name} to; make it")
    for pictures, annotations in data_folders(args):
        split_files(pictures, annotations, "train")


def train(args):
    """Fits a head and writes it."""
    check(args)
    import_tensorflow()
    from mrcnn.network import pretrained
    from mrcnn.siblings import head as siblings
    from mrcnn.siblings import sleeves, training

    path = pretrained.find_weights(args.weights)
    model = load_detector(args, path)
    samples = collect_all(args, model)
    if not len(samples):
        raise UsageError(
            "nothing was found in the images whose class has siblings; the head would learn nothing"
        )
    table = siblings.sibling_table(model.class_names)
    print(f"{len(samples)} detections of {np.unique(samples.pictures).size} images")
    margin = args.margin
    if margin is None:
        probabilities = training.cross_validate(samples, table, args.decay, args.seed)
        best = samples.best
        margin, rows = training.choose_margin(
            probabilities[best], samples.truth[best], samples.found[best]
        )
        wrong = int(np.sum(samples.truth[best] != samples.found[best]))
        print(f"Cross-validation on the best detections of {best.sum()} garments, {wrong} wrong:")
        for row in rows:
            print("  margin {:.2f}: {} mended, {} spoilt".format(*row))
    kernel, bias = training.fit(samples, table, args.decay)
    head = siblings.SiblingHead(kernel, bias, table, margin)
    output = args.output or path
    sleeves.write_head(head, path, output, refine=args.on)
    print(f"{output}: margin {margin:.2f}; used {'by default' if args.on else 'if asked for'}")


def main(argv=None):
    args = build_parser().parse_args(argv)
    try:
        train(args)
    except (UsageError, OSError, ValueError) as error:
        print(f"train_sleeves.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
