"""The package's own rules: imports point down, and importing does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mrcnn"
RANKS = {
    1: ["config", "boxes", "classes", "files", "reading"],
    2: [
        "listing",
        "colors",
        "refine",
        "tables",
        "image",
        "tensor_ops",
        "augmentation",
        "clothing",
        "layers",
        "html",
    ],
    3: [
        "results",
        "records",
        "dataset",
        "targets",
        "backbone",
        "rpn",
        "roi",
        "drawing",
        "evaluation",
        "runs",
    ],
    4: ["samples", "heads", "visualize", "weights", "writers", "gallery"],
    5: ["data", "network", "sources", "inference", "video"],
    6: ["training", "detection"],
    7: ["model"],
    8: ["utils", "parallel_model", "predictor"],
}
RANK = {name: rank for rank, names in RANKS.items() for name in names}
LIGHT = [
    "config",
    "boxes",
    "classes",
    "clothing",
    "image",
    "dataset",
    "drawing",
    "visualize",
    "evaluation",
    "inference",
    "writers",
    "gallery",
    "video",
    "data",
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


@pytest.mark.parametrize("command", [["--help"], ["train", "--help"], ["inference", "--help"]])
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
    assert not HEAVY & set(result.stdout.split())


def test_line_ceiling():
    """No module grows past what a reader takes in at one sitting."""
    long = {p.name: n for p in PACKAGE.glob("*.py") if (n := len(p.read_text().split("\n"))) > 560}
    assert not long
