"""What the documentation says about the code: its modules, its options, its own links."""

import ast
import re

import pytest

from mrcnn.commands import convert, main
from tests.helpers import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
PAGES += [ROOT / "weights" / "README.md", ROOT / "test_examples" / "README.md"]
# History tells of commands as they were.
CURRENT = [page for page in PAGES if page.parent.name != "history"]
COMMANDS = ["train", "inference", "evaluate", "inspect"]


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
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    listed = re.findall(r"^\| `([\w/]+\.py)` \|", text, re.MULTILINE)
    package = ROOT / "mrcnn"
    modules = {
        str(path.relative_to(package))
        for path in package.glob("**/*.py")
        if path.name != "__init__.py"
    }
    assert len(listed) == len(set(listed))
    assert set(listed) == modules


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
