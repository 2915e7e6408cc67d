"""The command line: `python model.py COMMAND`, `python -m mrcnn COMMAND`, `mask-rcnn-clothing`."""

import argparse
from collections.abc import Sequence

from mrcnn import __version__
from mrcnn.commands.arguments import Command, Help, add_debug, add_options, from_arguments
from mrcnn.commands.convert import ConvertOptions, run_convert
from mrcnn.commands.environment import assume_frozen_weights
from mrcnn.commands.evaluate import EvaluateOptions, run_evaluate
from mrcnn.commands.inference import InferenceOptions, run_inference
from mrcnn.commands.inspect import InspectOptions, run_inspect
from mrcnn.commands.terminal import run, use_streams
from mrcnn.commands.train import TrainOptions, run_train

COMMANDS = (
    Command(
        "convert",
        ConvertOptions,
        run_convert,
        "convert annotations to COCO JSON: DeepFashion2's or another tool's; or make demo data",
        (
            "--data data/deepfashion2 --splits train validation",
            "--from via --data balloon --class_name balloon",
        ),
    ),
    Command(
        "train",
        TrainOptions,
        run_train,
        "train a model on COCO annotations",
        (
            "--data data/deepfashion2 --model resnet50 --batch_size 8",
            "--data data/demo --model compact --size 256 --weights coco --epochs 5",
        ),
        trains=True,
    ),
    Command(
        "inference",
        InferenceOptions,
        run_inference,
        "detect garments in images or a video",
        (
            "--input_folder photos --output_folder results",
            '--input "photos/*.jpg" --classes trousers,skirt --min_score 0.7 --save overlay,csv',
        ),
    ),
    Command(
        "evaluate",
        EvaluateOptions,
        run_evaluate,
        "score a model on annotated images and show its errors",
        (
            "--weights weights --data data/deepfashion2 --split validation",
            "--results results.json --report report --compare earlier_report/metrics.json",
        ),
    ),
    Command(
        "inspect",
        InspectOptions,
        run_inspect,
        "count annotations and show examples",
        (
            "--data data/deepfashion2 --split train",
            "--annotations instances_val2017.json --images val2017",
        ),
    ),
)


def build_parser(program: str = "model.py") -> argparse.ArgumentParser:
    """The parser of all commands; no TensorFlow is loaded for it."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Mask R-CNN for clothing: train, detect, evaluate.",
        epilog=f"{program} COMMAND --help lists the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"mask-rcnn-clothing {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True)
    for command in COMMANDS:
        one = commands.add_parser(
            command.name,
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            epilog=command.epilog(program),
            formatter_class=Help,
        )
        add_options(one, command.options)
        add_debug(one)
        one.set_defaults(called=command)
    return parser


def main(
    argv: Sequence[str] | None = None, own_process: bool = False, program: str = "model.py"
) -> int:
    """Runs one command.

    Args:
        argv: None takes the command line's.
        own_process: whether nothing else uses TensorFlow in this process, see
            `assume_frozen_weights`.
        program: how it was called, for messages.

    Returns:
        Exit status: 0; 2 for what the user can put right; 3 if images failed, a split has nothing
        usable, a loss wasn't finite, a process was lost, or for a fault of the program; 130 if a
        signal ended it early.
    """
    if own_process:
        use_streams()
    arguments = build_parser(program).parse_args(argv)
    command: Command = arguments.called
    if own_process:
        assume_frozen_weights(not command.trains)

    def call() -> int:
        return command.run(from_arguments(command.options, arguments))

    return run(f"{program} {command.name}", call, arguments.debug)


def cli() -> int:
    """The console script `mask-rcnn-clothing`."""
    return main(own_process=True, program="mask-rcnn-clothing")
