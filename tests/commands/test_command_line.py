"""The command line itself: names, defaults, help and messages of every command. No TensorFlow."""

import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import mrcnn
from mrcnn.commands import main as command_line
from mrcnn.commands.arguments import Help, UsageError, add_options, from_arguments
from mrcnn.commands.data_sets import DataPaths, data_paths, find_part
from mrcnn.commands.evaluate import EvaluateOptions
from mrcnn.commands.inference import ImageOptions, InferenceOptions
from mrcnn.commands.inspect import InspectOptions
from mrcnn.commands.main import COMMANDS, build_parser, cli, main
from mrcnn.commands.train import TrainOptions
from mrcnn.core.options import changed, factor, option, positive, share, subset, whole, words
from mrcnn.inference.writers import Outputs
from tests.helpers import ROOT

NAMES = ["convert", "train", "inference", "evaluate", "inspect"]


def help_of(capsys, *command, program="model.py"):
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"], program=program)
    assert stopped.value.code == 0
    return capsys.readouterr().out


# --- Help -----------------------------------------------------------------------------------------


def test_the_commands_are_listed(capsys):
    assert [command.name for command in COMMANDS] == NAMES
    printed = help_of(capsys)
    for command in COMMANDS:
        assert re.search(rf"^    {command.name} +{command.summary[:30]}", printed, re.M)


@pytest.mark.parametrize("name", NAMES)
def test_every_help_is_readable(name, capsys):
    printed = help_of(capsys, name)
    assert "PosixPath" not in printed and "%(" not in printed and "None" not in printed
    text = " ".join(printed.split())
    assert "--data PATH" in text or "--data DIR" in text or name == "inference"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("program", "call"),
    [
        ("model.py", "python model.py"),
        ("python -m mrcnn", "python -m mrcnn"),
        ("mask-rcnn-clothing", "mask-rcnn-clothing"),
    ],
)
def test_every_help_ends_with_two_examples_that_parse(name, program, call, capsys):
    lines = help_of(capsys, name, program=program).split("examples:\n")[1].splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"  {call} {name} ")
        arguments = build_parser().parse_args(shlex.split(line.removeprefix(f"  {call}")))
        assert arguments.command == name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train", "(default: data/deepfashion2)"),
        (
            "evaluate",
            "number of bootstrap resamples for the 95 % intervals; 0: none (default: 300)",
        ),
        ("evaluate", "seed of the bootstrap resamples (default: 0)"),
        ("inference", "if not given, 1 on a CPU, and on a GPU 4 for input sizes up to 640, else 1"),
        ("inference", "overlay,json,csv,masks,cutouts,html (default: overlay,json,csv,html)"),
        ("inference", "--input_folder PATH, --input PATH"),
    ],
)
def test_help_says(name, text, capsys):
    assert text in " ".join(help_of(capsys, name).split())


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"mask-rcnn-clothing {mrcnn.__version__}\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+", mrcnn.__version__)


# --- What a command gets --------------------------------------------------------------------------


def parsed(*arguments):
    """The options object that a command would get."""
    arguments = build_parser().parse_args(list(arguments))
    return from_arguments(arguments.called.options, arguments)


def test_defaults():
    model = {"weights": "weights", "precision": "auto", "size": None, "tta": False}
    model |= {"refine": None, "sleeve_refine": None}
    data = {"data": Path("data/deepfashion2"), "annotations": None, "images": None}
    data |= {"limit": None}
    assert dataclasses.asdict(parsed("inference")) == model | {
        "input_folder": "input_folder",
        "recursive": False,
        "video": None,
        "max_pixels": None,
        "device": None,
        "batch_size": None,
        "min_score": None,
        "max_detections": None,
        "classes": None,
        "agnostic_nms": False,
        "exclusive_masks": False,
        "output_folder": Path("output_folder"),
        "save": ("overlay", "json", "csv", "html"),
        "overlay_format": "png",
        "legend": False,
        "pad": 0,
        "resume": False,
        "strict": False,
    }
    assert dataclasses.asdict(parsed("evaluate")) == model | data | {
        "split": "validation",
        "val_split": None,
        "results": None,
        "report": Path("output_folder/report"),
        "compare": None,
        "min_score": None,
        "resamples": 300,
        "seed": 0,
    }
    assert dataclasses.asdict(parsed("inspect")) == data | {
        "split": None,
        "output_folder": None,
        "pictures": 24,
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("name", "options"),
    [("inference", InferenceOptions), ("evaluate", EvaluateOptions), ("inspect", InspectOptions)],
)
def test_a_program_gets_the_same_defaults_as_a_command(name, options):
    assert parsed(name) == options()


def test_options_are_read():
    options = parsed(
        *("inference", "--input", "in", "--classes", "trousers, skirt", "--no-refine", "--tta"),
        *("--sleeve_refine", "--save", "csv", "--output_folder", "out", "--min_score", "0.25"),
    )
    assert options == InferenceOptions(
        input_folder="in",
        classes=("trousers", "skirt"),
        refine=False,
        tta=True,
        sleeve_refine=True,
        save=("csv",),
        output_folder=Path("out"),
        min_score=0.25,
    )


@dataclasses.dataclass(frozen=True)
class Sample:
    """Every form of annotation that `add_options` knows."""

    needed: str = option(help="a text")
    switch: bool = option(False, "a switch")
    either: bool | None = option(None, "with a --no- form")
    number: int = option(3, "a number", "--count", type=positive)
    score: float | None = option(None, "a score", type=share, group="more")
    path: Path = option(Path("a/b"), "a path", group="more")
    paths: tuple[Path, ...] | None = option(None, "paths", nargs="+")
    folders: tuple[Path, ...] = option((Path("a"), Path("b")), "at 95 %%", nargs="+")
    names: tuple[str, ...] = option(("x", "y"), "names", type=words)
    kind: str = option("one", "a kind", choices=("one", "two"))
    not_an_option: int = 7


def sample_parser():
    import argparse

    parser = argparse.ArgumentParser(formatter_class=Help)
    add_options(parser, Sample)
    return parser


def read(*arguments):
    return from_arguments(Sample, sample_parser().parse_args(list(arguments)))


def test_a_dataclass_makes_a_command_line():
    assert read("--needed", "a") == Sample("a")
    given = read(
        *("--needed", "a", "--switch", "--no-either", "--count", "5", "--score", "0.5"),
        *("--path", "c", "--paths", "d", "e", "--folders", "f", "--names", "z", "--kind", "two"),
    )
    assert given == Sample(
        needed="a",
        switch=True,
        either=False,
        number=5,
        score=0.5,
        path=Path("c"),
        paths=(Path("d"), Path("e")),
        folders=(Path("f"),),
        names=("z",),
        kind="two",
    )
    hash(given)  # of tuples, not lists
    text = " ".join(sample_parser().format_help().split())
    assert "more: --score X a score --path PATH a path (default: a/b)" in text
    assert "at 95 % (default: a b)" in text and "names (default: x,y)" in text
    assert "--switch a switch --either, --no-either with a --no- form --number N, --count N" in text


@pytest.mark.parametrize("arguments", [[], ["--needed", "a", "--kind", "three"]])
def test_a_dataclass_refuses(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        read(*arguments)
    assert stopped.value.code == 2


def test_subset_and_changed():
    options = InferenceOptions(video="0", pad=3, save=("overlay",), recursive=True)
    assert subset(options, Outputs) == {
        "save": ("overlay",),
        "overlay_format": "png",
        "legend": False,
        "pad": 3,
    }
    assert changed(options, ImageOptions) == ["recursive", "pad"]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (positive, {"1": 1, "12": 12}, ["0", "-1", "x", "1.5"]),
        (whole, {"0": 0, "7": 7}, ["-1", ""]),
        (factor, {"1": 1.0, "2.5": 2.5}, ["0.99", "inf", "nan"]),
        (share, {"0": 0.0, "1": 1.0, "0.5": 0.5}, ["-0.1", "1.1", "nan"]),
    ],
)
def test_numbers_are_checked(kind, good, bad):
    import argparse

    for text, value in good.items():
        assert kind(text) == value and type(kind(text)) is type(value)
    for text in bad:
        with pytest.raises((argparse.ArgumentTypeError, ValueError)):
            kind(text)


def test_words():
    assert words("a, b,,c ") == ("a", "b", "c") and words("") == ()


# --- Messages and statuses ------------------------------------------------------------------------


@pytest.fixture
def fails(monkeypatch):
    """Sets what the inspect command raises."""

    def set_(error):
        def run(options):
            raise error

        changed = [
            dataclasses.replace(command, run=run) if command.name == "inspect" else command
            for command in COMMANDS
        ]
        monkeypatch.setattr(command_line, "COMMANDS", changed)

    return set_


@pytest.mark.parametrize("program", ["model.py", "mask-rcnn-clothing"])
def test_errors_name_the_program_as_it_was_called(program, fails, capsys):
    fails(ValueError("no number"))
    assert main(["inspect"], program=program) == 2
    assert capsys.readouterr().err == f"{program} inspect: no number\n"


@pytest.mark.parametrize("name", NAMES)
def test_every_command_takes_debug(name, capsys):
    assert "--debug print the traceback" in " ".join(help_of(capsys, name).split())


def test_debug_shows_where_an_error_came_from(fails, capsys):
    fails(KeyError("a bug"))
    assert main(["inspect", "--debug"]) == 3
    assert "Traceback" in capsys.readouterr().err
    assert main(["inspect"]) == 3
    assert "Traceback" not in capsys.readouterr().err


def test_the_console_script(monkeypatch, capsys):
    monkeypatch.setenv("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
    monkeypatch.setattr(sys, "argv", ["mask-rcnn-clothing", "inspect", "--data", "nowhere"])
    assert cli() == 2
    assert capsys.readouterr().err.startswith("mask-rcnn-clothing inspect: there is no file")


def test_the_module_form(tmp_path):
    """From another folder, as where the package is installed; all commands are there."""
    command = [sys.executable, "-m", "mrcnn"]
    done = subprocess.run(
        [*command, "inspect", "--data", "nowhere"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.startswith("python -m mrcnn inspect: there is no")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--input_folder", "nowhere"], "input 'nowhere' does not exist"),
        (["--save", "pdf"], "can't save ['pdf']; choose from overlay, json"),
        (["--pad", "-3"], "pad is -3; give 0 or more pixels"),
    ],
)
def test_inference_finds_mistakes_before_it_loads_a_model(options, text, tmp_path, capsys):
    command = ["inference", "--output_folder", str(tmp_path / "out"), *options]
    assert main(command) == 2
    assert text in capsys.readouterr().err and not (tmp_path / "out").exists()


# --- Data folders ---------------------------------------------------------------------------------


def test_what_is_given_of_each_data_set():
    a, b, c = Path("a"), Path("b"), Path("c")
    assert data_paths(EvaluateOptions(data=a)) == [(a, None, None)]
    assert data_paths(EvaluateOptions(data=a, annotations=b, images=c)) == [(a, b, c)]
    several = TrainOptions(data=(a, b), images=(c, c))
    assert data_paths(several) == [(a, None, c), (b, None, c)]


def test_train_without_options_says_what_the_data_is(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train"]) == 2
    assert "https://github.com/switchablenorms/DeepFashion2" in capsys.readouterr().err
    assert main(["train", "--data", "none"]) == 2
    assert "there is no file or folder none" in capsys.readouterr().err


def test_a_missing_split_says_what_to_do(tmp_path):
    with pytest.raises(UsageError, match="holds no COCO file .nothing.. Known layouts:"):
        find_part(DataPaths(tmp_path), "train")
    (tmp_path / "train" / "image").mkdir(parents=True)
    with pytest.raises(UsageError, match="no COCO annotations at .*train_coco.json"):
        find_part(DataPaths(tmp_path), "train")
    converter = r"python convert_to_coco.py --data \S+ --output_dir \S+coco$"
    with pytest.raises(UsageError, match=converter):
        find_part(DataPaths(tmp_path, tmp_path / "coco"), "train")
    path = tmp_path / "train_coco.json"
    path.write_text("{}")
    assert find_part(DataPaths(tmp_path), "train").source.file == path
    (tmp_path / "validation" / "image").mkdir(parents=True)
    with pytest.raises(UsageError, match="no COCO annotations at .*validation_coco.json"):
        find_part(DataPaths(tmp_path), "validation")


@pytest.mark.parametrize("score", ["nan", "-1", "2"])
def test_evaluate_refuses_impossible_scores(score, capsys):
    assert main(["evaluate", "--min_score", score]) == 2
    assert "give a number from 0 to 1" in capsys.readouterr().err
