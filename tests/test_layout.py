"""The package's own rules: imports point down, and importing does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mrcnn"
RANKS = {
    rank: names.split()
    for rank, names in {
        0: "run_lengths memory",
        1: "config boxes classes files schedules shapes policy coco_data reading",
        2: "image tensor_ops augmentation clothing layers html deepfashion2 coco_json coco_eval siblings "
        "demo_garments demo_drawing distribution run_log listing colors refine tables",
        3: "dataset targets scenes sampling backbone rpn roi drawing evaluation runs conversion "
        "coco_statistics demo bootstrap diagnosis results records",
        4: "samples heads visualize weights inspection checkpoints preflight metrics writers "
        "gallery",
        5: "loader network sources sleeves trainer eval_plots eval_pictures inference video",
        6: "data preview training report detection",
        7: "runner sleeve_training",
        8: "model",
        9: "utils parallel_model predictor",
        10: "judge",
    }.items()
}
RANK = {name: rank for rank, names in RANKS.items() for name in names}
LIGHT = [
    "config",
    "boxes",
    "classes",
    "clothing",
    "demo",
    "image",
    "dataset",
    "drawing",
    "visualize",
    "evaluation",
    "coco_data",
    "coco_eval",
    "bootstrap",
    "diagnosis",
    "metrics",
    "eval_plots",
    "eval_pictures",
    "report",
    "inference",
    "writers",
    "gallery",
    "video",
    "data",
    "loader",
    "preview",
    "sampling",
    "html",
    "deepfashion2",
    "conversion",
    "coco_statistics",
    "inspection",
    "coco_json",
    "schedules",
    "run_log",
    "preflight",
    "checkpoints",
    "siblings",
]
HEAVY = {"tensorflow", "keras", "imgaug", "cv2", "matplotlib.pyplot", "torch"}


def imports(path):
    """Modules of the package that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mrcnn":
            names = [a.name for a in node.names] if node.module == "mrcnn" else []
            yield from names or [node.module.split(".")[1]]
            assert not any(a.name == "*" for a in node.names), path
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("mrcnn."))


def test_every_module_has_a_rank():
    modules = {p.stem for p in PACKAGE.glob("*.py")} - {"__init__"}
    assert modules == set(RANK)


@pytest.mark.parametrize("name", sorted(RANK))
def test_imports_point_down(name):
    for other in imports(PACKAGE / f"{name}.py"):
        assert RANK[other] < RANK[name], f"{name} (rank {RANK[name]}) imports {other}"


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_import_nothing_heavy(name):
    code = f"import sys, mrcnn.{name}; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(result.stdout.split())


@pytest.mark.parametrize(
    "command", [["--help"], ["train", "--help"], ["inference", "--help"], ["evaluate", "--help"]]
)
def test_help_needs_no_tensorflow(command):
    code = (
        "import sys, model\n"
        f"sys.argv = ['model.py', *{command}]\n"
        "try:\n    model.main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print(*sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = result.stdout.splitlines()[-1]  # above it stands the help, which may name any package
    assert not HEAVY & set(loaded.split())


def test_line_ceiling():
    """No module grows past what a reader takes in at one sitting."""
    long = {p.name: n for p in PACKAGE.glob("*.py") if (n := len(p.read_text().split("\n"))) > 560}
    assert not long
