"""The package's own rules: importing does nothing, and what needs no TensorFlow loads none.

That imports point one way is import-linter's contract in pyproject.toml.
"""

import json
import subprocess
import sys

from tests.helpers import ROOT

LIGHT = [
    *(
        "config",
        "utils",
        "visualize",
        "presets",
        "core",
        "coco",
        "deepfashion2",
        "importers",
        "data",
        "evaluation",
    ),
    *("inference", "reports", "render", "siblings.head", "commands.main", "training.schedules"),
    *("training.log", "training.preflight", "training.checkpoints", "training.run_folders"),
]
# Each is loaded only when something of it is used.
HEAVY = {"tensorflow", "keras", "imgaug", "cv2", "matplotlib.pyplot", "torch"}
COMMANDS = ["", "train", "inference", "evaluate", "inspect"]

PROBE = """
import contextlib, importlib, io, json, pkgutil, sys
light, commands, heavy = json.loads(sys.argv[1])

def modules(name):
    module = importlib.import_module(name)
    yield name
    for found in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}."):
        yield from modules(found.name)

guilty = {}
def note(what):
    for name in heavy:
        if name in sys.modules and name not in guilty:
            guilty[name] = what

seen = []
for wing in light:
    for name in modules(f"mrcnn.{wing}"):
        seen.append(name)
        note(name)
from mrcnn.commands.main import main
for command in commands:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
    note(f"{command} --help")
print(json.dumps([guilty, seen]))
"""


def test_light_modules_and_help_load_nothing_heavy():
    """In one process: whichever module loads a heavy package first is named."""
    asked = json.dumps([LIGHT, COMMANDS, sorted(HEAVY)])
    done = subprocess.run(
        [sys.executable, "-c", PROBE, asked], cwd=ROOT, capture_output=True, text=True, check=True
    )
    guilty, seen = json.loads(done.stdout)
    assert guilty == {}
    assert len(seen) > 40 and "mrcnn.evaluation.metrics" in seen


def test_line_ceiling():
    """No module grows past what a reader takes in at one sitting."""
    sources = {p: p.read_text().count("\n") for p in (ROOT / "mrcnn").rglob("*.py")}
    assert {p.name: n for p, n in sources.items() if n > 560} == {}
    assert all(
        (ROOT / name).read_text().count("\n") < 30 for name in ("model.py", "convert_to_coco.py")
    )
