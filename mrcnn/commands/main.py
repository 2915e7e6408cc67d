"""Mask R-CNN for clothing: train it, use it on a folder of images, measure it.

    python model.py train
    python model.py inference --weights weights --input_folder input_folder --output_folder output_folder
    python model.py evaluate --weights weights
    python model.py inspect --split train

`python model.py COMMAND --help` lists a command's options.
"""

import argparse
import os
import sys
from pathlib import Path

from mrcnn.commands.environment import hold_weights
from mrcnn.commands.evaluate import run_evaluate
from mrcnn.commands.inference import _add_inference, run_inference
from mrcnn.commands.inspect import run_inspect
from mrcnn.commands.shared import (
    Help,
    UsageError,
    add_data,
    add_refine,
    add_sleeve_refine,
    add_weights,
    positive,
    whole,
)
from mrcnn.commands.train import _add_train, run_train

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def build_parser():
    """The command line; no TensorFlow is loaded for it."""
    show = Help
    parser = argparse.ArgumentParser(prog="model.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="train on COCO annotations", formatter_class=show)
    _add_train(train)
    train.set_defaults(run=run_train)

    inference = commands.add_parser(
        "inference", help="find garments in images or a video", formatter_class=show
    )
    add_weights(inference)
    _add_inference(inference)
    inference.set_defaults(run=run_inference)

    evaluate = commands.add_parser(
        "evaluate",
        help="scores on annotated images, and where the model goes wrong",
        formatter_class=show,
    )
    add_weights(evaluate)
    add_data(evaluate)
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
    add_sleeve_refine(evaluate)
    add_refine(evaluate)
    evaluate.add_argument(
        "--compare", type=Path, help="metrics.json of another run on the same images"
    )
    evaluate.add_argument(
        "--min_score",
        type=float,
        help="of detections in the confusion matrix and images; that of the best F1 if not given",
    )
    evaluate.add_argument(
        "--resamples",
        type=whole,
        default=300,
        help="of the images, for 95 %% intervals; 0 for none",
    )
    evaluate.add_argument("--seed", type=whole, default=0, help="of the resamples")
    evaluate.set_defaults(run=run_evaluate)

    inspect = commands.add_parser(
        "inspect", help="count and show what is annotated, as a page", formatter_class=show
    )
    add_data(inspect, file_too=", or any COCO file")
    inspect.add_argument("--split", help="train if not given, or what --annotations FILE is named")
    inspect.add_argument(
        "--images", type=Path, help="folder of the images; searched for if not given"
    )
    inspect.add_argument("--output_folder", type=Path, help="output_folder/inspect_<split>")
    inspect.add_argument("--pictures", type=positive, default=24, help="on the contact sheet")
    inspect.add_argument("--seed", type=whole, default=0, help="of their choice")
    inspect.set_defaults(run=run_inspect)

    for command in (train, inference, evaluate):
        command.add_argument(
            "--precision",
            choices=["auto", "float32", "bfloat16", "float16"],
            default="auto",
            help="auto takes what the device is fast at",
        )
    return parser


def main(argv=None, own_process=False):
    """Runs one command.

    Args:
        argv: list of str; None takes the command line's.
        own_process: whether nothing else will use TensorFlow in this process, see
            `hold_weights`.

    Returns:
        0; 2 for what the user can put right; 3 if images failed, a loss wasn't finite or a
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
