"""What the commands set in the environment before TensorFlow is imported."""

import os
import subprocess
import sys

import pytest

from mrcnn.commands.environment import assume_frozen_weights
from mrcnn.commands.main import main
from tests.helpers import ROOT

NAME = "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"


def test_weights_are_held_where_nothing_trains(monkeypatch):
    """oneDNN would take weights that train for the first ones: a command that trains says no."""
    monkeypatch.setenv(NAME, "0")
    assume_frozen_weights(True)
    assert os.environ[NAME] == "0"  # the user's value stands
    monkeypatch.delenv(NAME)
    assume_frozen_weights(True)
    assert os.environ[NAME] == "1"
    assume_frozen_weights(False)
    assert os.environ[NAME] == "0"


@pytest.mark.parametrize(
    ("command", "own_process", "expected"),
    [
        *(("inference", True, "1"), ("evaluate", True, "1"), ("train", True, "0")),
        *(("inference", False, None), ("train", False, None)),
    ],
)
def test_commands_assume_frozen_weights_in_their_own_process_only(
    command, own_process, expected, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv(NAME, "")  # so that it is restored
    monkeypatch.delenv(NAME)
    missing = {"inference": "--input_folder"}.get(command, "--data")
    assert main([command, missing, str(tmp_path / "missing")], own_process) == 2
    assert "missing" in capsys.readouterr().err
    assert os.environ.get(NAME) == expected


DOOR = """
import os, runpy, sys
sys.path[:0] = [{root!r}]
sys.argv = ["model.py", "inference", "--input_folder", {missing!r}]
try:
    runpy.run_path({path!r}, run_name="__main__")
except SystemExit:
    pass
print(os.environ.get("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"))
"""


def test_the_door_runs_in_its_own_process(tmp_path, monkeypatch):
    monkeypatch.delenv(NAME, raising=False)
    names = {"root": str(ROOT), "path": str(ROOT / "model.py"), "missing": str(tmp_path / "none")}
    code = DOOR.format(**names)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split()[-1:] == ["1"], done.stderr
