"""The package as others install it: what it depends on, and a wheel that works in another folder."""

import ast
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(name):
    lines = (ROOT / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_requirements_say_what_pyproject_says():
    assert requirements("requirements.txt") == PROJECT["dependencies"]
    assert requirements("requirements-dev.txt") == PROJECT["optional-dependencies"]["dev"]


def imports(path):
    """Top-level packages that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module]
        yield from (name.split(".")[0] for name in names)


def test_every_import_is_a_dependency():
    imported = {name for path in (ROOT / "mrcnn").rglob("*.py") for name in imports(path)}
    names = {
        "skimage": "scikit-image",
        "PIL": "pillow",
        "imgaug": "pyimgaug",
        "cv2": "pyimgaug",
        "yaml": "pyyaml",
    }
    optional = {"av", "pillow_heif", "IPython"}  # asked for only where something needs them
    declared = {re.match(r"[\w-]+", line)[0] for line in PROJECT["dependencies"]}
    unknown = imported - set(sys.stdlib_module_names) - {"mrcnn"} - optional
    assert {names.get(name, name) for name in unknown} <= declared


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    # The build tool is in requirements-dev.txt, so nothing is fetched.
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_holds_the_package_and_the_compact_weights(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert wheel.stat().st_size < 30e6
    wanted = {"mrcnn/py.typed", "mrcnn/weights/mask_rcnn_compact.h5"}
    wanted |= {p.relative_to(ROOT).as_posix() for p in (ROOT / "mrcnn").rglob("*.[pj][y2]")}
    assert wanted <= set(names)
    assert not [n for n in names if n.startswith(("tests", "docs", "bench", "model.py"))]


@pytest.mark.tf
def test_an_installed_package_finds_garments_from_another_folder(wheel, tmp_path):
    """In an environment that has the dependencies, but no copy of this repository."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    (packages,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(
        "\n".join(p for p in sys.path if p.endswith("site-packages"))
    )
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, text=True)
    folder = tmp_path / "elsewhere"
    (folder / "in").mkdir(parents=True)
    sample = ROOT / "input_folder" / "cassy.jpg"
    (folder / "in" / "a.jpg").write_bytes(sample.read_bytes())

    def run(*command):
        return subprocess.run(
            list(map(str, command)), cwd=folder, check=True, capture_output=True, text=True
        ).stdout

    run(python, "-m", "mrcnn", "inference", "--input_folder", "in", "--output_folder", "out")
    rows = (folder / "out" / "results.csv").read_text()
    assert "vest" in rows and "trousers" in rows
    assert {p.name for p in Path(folder, "out").iterdir()} >= {"a.jpg.png", "index.html"}
    script = tmp_path / "env" / "bin" / "mask-rcnn-clothing"
    version = run(python, "-c", "import mrcnn; print(mrcnn.__version__, mrcnn.__file__)").split()
    assert run(script, "--version").split()[-1] == version[0]
    assert Path(version[1]).is_relative_to(tmp_path)
