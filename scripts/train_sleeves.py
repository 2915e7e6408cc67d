"""Trains the sleeve head of a weights file: a second opinion on classes that differ in a detail.

    python scripts/train_sleeves.py --weights weights/mask_rcnn_compact.h5 \
        --data data/street_fashion --annotations coco

The detector is not changed. It runs on augmented training images, and a linear classifier among
siblings (mrcnn/siblings/head.py) is fitted to the features of its detections. The margin by which
the classifier must be surer than the detector comes from a cross-validation over images.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from mrcnn.commands.arguments import UsageError
from mrcnn.commands.data_sets import DataPaths, data_paths, find_part, load_split
from mrcnn.commands.environment import import_tensorflow

if TYPE_CHECKING:
    from mrcnn.model import MaskRCNN
    from mrcnn.siblings.training import Samples


def build_parser() -> argparse.ArgumentParser:
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
    add("--annotations", type=Path, nargs="+", help="folders of their COCO files; default: --data")
    add("--limit", type=int, help="use only the first images of each folder")
    add("--augment", default="default", help="none, flip, default, zoom or strong, as in training")
    add("--passes", type=int, default=2, help="how often each image is augmented and detected in")
    add("--decay", type=float, default=0.1, help="weight of the L2 term")
    add("--margin", type=float, help="0 to 1; if not given, chosen by cross-validation")
    add("--batch_size", type=int, default=4, help="images at once")
    add("--precision", choices=["auto", "float32", "bfloat16", "float16"], default="auto")
    add("--seed", type=int, default=0)
    add("--samples", type=Path, help="folder where features are kept and reused")
    add("--on", action="store_true", help="use the file's head by default")
    return parser


def load_detector(args: argparse.Namespace, path: Path) -> "MaskRCNN":
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


def collect_all(args: argparse.Namespace, model: "MaskRCNN") -> "Samples":
    """`Samples` of all folders."""
    from mrcnn.data.augmentation import make_augmentation
    from mrcnn.data.policy import Policy
    from mrcnn.siblings.training import Samples, collect

    augmentation = make_augmentation(args.augment)
    if augmentation is not None and not isinstance(augmentation, Policy):
        raise UsageError(f"--augment {args.augment}: give none, flip, default, zoom or strong")
    parts, first = [], 0
    for folder in data_paths(args):
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
        parts.append(replace(part, images=part.images + first))
        first += dataset.num_images
    return Samples.joined(parts)


def kept_path(args: argparse.Namespace, model: "MaskRCNN", folder: DataPaths) -> Path | None:
    """The file in --samples for a folder's samples with these weights and options, or None."""
    from mrcnn.siblings.training import Samples

    if not args.samples:
        return None
    digest = hashlib.blake2b(digest_size=8)
    for variable in model.keras_model.variables:
        digest.update(np.asarray(variable).tobytes())
    options = [args.limit, args.augment, args.passes, args.seed, args.precision]
    options += [field.name for field in fields(Samples)]
    digest.update(json.dumps([[str(path) for path in folder], options]).encode())
    args.samples.mkdir(parents=True, exist_ok=True)
    return args.samples / f"{digest.hexdigest()}.npz"


def check(args: argparse.Namespace) -> None:
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
    for paths in data_paths(args):
        find_part(paths, "train")


def train(args: argparse.Namespace) -> None:
    """Fits a head and writes it."""
    check(args)
    import_tensorflow()
    from mrcnn.network import pretrained
    from mrcnn.siblings import sleeves, training
    from mrcnn.siblings.head import SiblingHead, sibling_table

    path = pretrained.find_weights(args.weights)
    model = load_detector(args, path)
    samples = collect_all(args, model)
    if not len(samples):
        raise UsageError(
            "no detection is of a garment of a sibling class, so the head would learn nothing; give "
            "other images"
        )
    table = sibling_table(model.class_names)
    print(f"{len(samples)} detections of {np.unique(samples.images).size} images")
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
            print("  margin {:.2f}: {} corrected, {} made wrong".format(*row))
    kernel, bias = training.fit(samples, table, args.decay)
    head = SiblingHead(kernel, bias, table, margin)
    output = args.output or path
    sleeves.write_head(head, path, output, refine=args.on)
    print(
        f"{output}: margin {margin:.2f}; used {'by default' if args.on else 'with --sleeve_refine'}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        train(args)
    except (UsageError, OSError, ValueError) as error:
        print(f"train_sleeves.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
