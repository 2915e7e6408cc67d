"""What the documentation says about the code: its modules, its options, its own links."""

import ast
import itertools
import re
import tomllib

import grimp
import pytest

from mrcnn.commands import convert, main
from tests.helpers import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
PAGES += [ROOT / "weights" / "README.md", ROOT / "test_examples" / "README.md"]
# History tells of commands as they were.
CURRENT = [page for page in PAGES if page.parent.name != "history"]
COMMANDS = ["train", "inference", "evaluate", "inspect"]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
# How often a walk may turn back up at most.
WALKS = {
    "Image to overlay": 10,
    "Annotation to gradient": 12,
    "Results to report": 15,
    "Own weights file to detections": 4,
}


def anchors(page):
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if re.match("[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_architecture_lists_every_module():
    text = ARCHITECTURE.read_text("utf-8")
    listed = re.findall(r"^\| `([\w/]+\.py)` \|", text, re.MULTILINE)
    package = ROOT / "mrcnn"
    modules = {
        str(path.relative_to(package))
        for path in package.glob("**/*.py")
        if path.name != "__init__.py"
    }
    assert len(listed) == len(set(listed))
    assert set(listed) == modules


def test_architecture_lists_the_layers_of_the_contract():
    rows = re.findall(r"^\| (`[^/\n]+?`) \|", ARCHITECTURE.read_text("utf-8"), re.MULTILINE)
    listed = [re.findall(r"`(\w+)`", row) for row in rows if ".py" not in row]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (contract,) = project["tool"]["importlinter"]["contracts"]
    assert listed == [layer.split(" | ") for layer in contract["layers"]]


def floors():
    """Module -> 0 if it imports nothing of the package, else 1 above the highest that it imports."""
    graph = grimp.build_graph("mrcnn", exclude_type_checking_imports=True, cache_dir=None)
    found = {}
    left = set(graph.modules)
    while left:
        imports = {m: graph.find_modules_directly_imported_by(m) for m in left}
        ready = {m for m in left if not imports[m] & left}
        assert ready, f"these import each other: {sorted(left)}"
        found |= {m: max((found[i] + 1 for i in imports[m]), default=0) for m in ready}
        left -= ready
    return found


def defined_in(module):
    """Functions, classes and "Class.method" of a module, read without importing it."""
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    definitions = ast.FunctionDef | ast.ClassDef
    names = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, definitions):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{n.name}" for n in node.body if isinstance(n, definitions)}
    return names


def walk(title):
    """(module, function) of each step of a walk, and the number of turns written under it."""
    text = ARCHITECTURE.read_text("utf-8").split(f"### {title}\n")[1].split("\n### ")[0]
    steps = re.findall(r"^\d+\. `([a-z_0-9.]+)\.([\w.]+)`", text, re.MULTILINE)
    assert len(steps) == len(re.findall(r"^\d", text, re.MULTILINE))
    (turns,) = re.findall(r"^Turns back up: (\d+)\.$", text, re.MULTILINE)
    return [(f"mrcnn.{module}", name) for module, name in steps], int(turns)


@pytest.mark.parametrize("title", WALKS)
def test_walks(title):
    steps, turns = walk(title)
    assert len(steps) == len(set(steps)) > 10
    for module, name in steps:
        assert name in defined_in(module), f"{module} has no {name}"
    floor = floors()
    heights = [floor[module] for module, _ in steps]
    assert sum(after > before for before, after in itertools.pairwise(heights)) == turns
    assert turns <= WALKS[title]


def known_options(capsys):
    """Every option of the commands, the benchmarks and the scripts."""
    for call, arguments in [(convert.main, ["--help"])] + [
        (main.main, [command, "--help"]) for command in COMMANDS
    ]:
        with pytest.raises(SystemExit):
            call(arguments)
    text = capsys.readouterr().out
    text += "".join(
        p.read_text("utf-8") for folder in ("bench", "scripts") for p in (ROOT / folder).glob("*.*")
    )
    return set(re.findall(r"--[a-z]\w*(?:-\w+)*", text)) | {"--version", "--help"}


def test_documented_options_exist(capsys):
    known = known_options(capsys)
    for page in CURRENT:
        named = set(re.findall(r"(?<![\w-])--[a-z]\w*(?:-\w+)*", page.read_text("utf-8")))
        assert named <= known, page.name


def names_of(module):
    """The names at the top level of a module, read without importing it; None if there is none."""
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.is_file():
        return None
    names = {found.stem for found in path.parent.iterdir()} if path.stem == "__init__" else set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom | ast.Import):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
    return names


@pytest.mark.parametrize("page", CURRENT, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_in_examples(page):
    for module, wanted in re.findall(
        r"^    from (mrcnn[\w.]*) import (.+)$", page.read_text("utf-8"), re.MULTILINE
    ):
        known = names_of(module)
        assert known is not None, module
        assert {name.split()[0] for name in wanted.split(",")} <= known, module
