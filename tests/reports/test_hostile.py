"""Reports of data with hostile names, and report folders that hold somebody's files."""

import csv
import json
import os
import subprocess
import sys
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mrcnn.coco.ground_truth import read_ground_truth, read_results
from mrcnn.core.text import from_cell, printable
from mrcnn.evaluation import metrics, scoring
from mrcnn.evaluation.scoring import EvaluationOptions, evaluate
from mrcnn.reports import plots, report
from mrcnn.reports.plots import draw_plots
from tests.helpers import ROOT
from tests.helpers.browser import needs_browser, open_page
from tests.helpers.commands import run_command

NAMES = {
    "formula": "$x$ \\frac{",
    "empty formula": "$$",
    "half a formula": "\\sqrt[ $ ^_{",
    "long": "x" * 100_000,
    "wide": "👗" * 100_000,
    "escapes": "\x1b[31mred\x1b]0;title\x07\x9b2J",
    "controls": "a\x00b\nc\r\td\x7f",
    "turned": "\u202etrihs\u2066",
    "emoji": "👗👩‍👧 写真",
    "marks": "z" + "\u0336" * 500,
    "HTML": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "quotes": "\"'><svg onload=alert(1)>",
    "a template": "{{ run.split }}{% raw %}",
    "a cell": "=HYPERLINK(\"http://x\")",
    "hidden": "_nolegend_",
    "blank": " ",
    "nothing": "",
    "dots": "per_class.AP",
}  # fmt: skip


def content(*names):
    """One image with a garment of each class, found twice: right, and as the class before it."""
    boxes = [[4 * (k % 20), 4 * (k // 20), 3, 3] for k in range(len(names))]
    annotations = [
        {"id": k, "image_id": 1, "category_id": k, "bbox": box, "area": 9, "iscrowd": 0}
        for k, box in enumerate(boxes)
    ]
    truth = {
        "images": [{"id": 1, "file_name": "a.png", "width": 90, "height": 90}],
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(names)],
    }
    results = [
        {
            "image_id": 1,
            "category_id": (k + turn) % len(names),
            "bbox": box,
            "score": 0.9 + turn / 2,
        }
        for k, box in enumerate(boxes)
        for turn in (0, -1)
    ]
    return truth, results


def write_data(folder, *names):
    truth, results = content(*names)
    (folder / "validation" / "image").mkdir(parents=True)
    Image.new("RGB", (90, 90)).save(folder / "validation" / "image" / "a.png")
    (folder / "validation_coco.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def run(folder, *options, status=0):
    arguments = ["--data", folder, "--results", folder / "results.json", "--resamples", 0]
    return run_command("evaluate", *arguments, *options, status=status)


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A report on classes of all these names, what was printed, and the warnings."""
    data = write_data(tmp_path_factory.mktemp("named"), *NAMES.values())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        printed = run(data, "--report", data / "report")
    return data / "report", printed, [str(w.message) for w in caught]


def test_what_is_printed_of_any_name(named):
    folder, printed, caught = named
    assert printable(printed, lines=True) == printed
    assert max(map(len, printed.splitlines())) < 300 + len(str(folder))
    assert "x" * 39 + "\u2026 " in printed and "x" * 40 not in printed
    assert caught == []


def test_the_page_of_any_name(named):
    page = (named[0] / "report.html").read_text()
    assert len(page) < 2_000_000
    assert "<script>alert" not in page and "<svg" not in page and "<img src=x" not in page
    assert not set(page) & {"\x00", "\x1b", "\u202e", "\ud800"}
    assert "$x$ \\frac{" in page


def test_the_tables_of_any_name(named):
    found = metrics.read_metrics(named[0] / "metrics.json")
    assert list(found.box.per_class) == list(NAMES.values())
    csv.field_size_limit(10**6)
    with open(named[0] / "metrics.csv", newline="", encoding="utf-8") as file:
        cells = [row[2] for row in csv.reader(file) if row[1] == "class"]
    assert [from_cell(cell) for cell in cells] == list(NAMES.values())
    assert not any(cell.startswith("=") for cell in cells)


def test_the_plots_of_any_name(named):
    for plot in ("pr_curves", "confusion"):
        with Image.open(named[0] / f"{plot}.png") as image:
            assert image.width < 2500 and image.height < 2500


def test_names_in_a_plot_are_no_formulas(monkeypatch):
    """Nor are those left out of the legend that begin with an underscore."""
    monkeypatch.setattr(plots, "_png", lambda figure: figure)
    figure = draw_plots(score("_x", "$x$", "$\\frac{"))["pr_curves"]
    texts = figure.axes[0].get_legend().get_texts()
    assert [text.get_text() for text in texts] == [
        " _x (1.00)", " $x$ (1.00)", " $\\frac{ (1.00)"
    ]  # fmt: skip
    assert not any(text.get_parse_math() for text in texts)


def score(*names):
    truth, results = content(*names)
    read = read_ground_truth(truth)
    return evaluate(read, read_results(read, results), EvaluationOptions(resamples=0))


def test_inspection_of_any_name(tmp_path):
    names = list(NAMES.values())
    data = write_data(tmp_path, *names)
    printed = run_command(
        "inspect", "--data", data, "--split", "validation", "--output_folder", tmp_path / "page"
    )
    assert printable(printed, lines=True) == printed
    page = (tmp_path / "page" / "index.html").read_text()
    assert len(page) < 2_000_000 and "<svg onload" not in page and "\x1b" not in page


@needs_browser
def test_a_browser_shows_any_name(named):
    with open_page(named[0] / "report.html") as driver:
        rows = driver.execute_script(
            "return [...document.querySelectorAll('#classes tbody th')].map(e => e.textContent)"
        )
        cells = driver.execute_script("return document.querySelectorAll('#matrix tbody tr').length")
    assert len(rows) == len(NAMES) and max(map(len, rows)) <= 80
    assert cells == len(NAMES) + 1


hostile = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(hostile, max_examples=40)
@given(names=st.lists(st.text(st.characters(codec="utf-8"), max_size=30), max_size=4, unique=True))
def test_texts_by_chance(names):
    scored = score(*names, "shirt ")
    assert printable(text := report.as_text(scored.metrics), lines=True) == text
    assert report.as_csv(scored.metrics).count(b"class,") >= len(names)


def test_many_classes(tmp_path, monkeypatch):
    """Plots and the matrix show the most frequent ones, all other tables all."""
    monkeypatch.setattr(metrics, "MOST_SHOWN", 20)
    truth, results = content(*(f"class {k}" for k in range(50)))
    truth["annotations"] += [{**a, "id": 999 - a["id"]} for a in truth["annotations"][40:45]]
    read = read_ground_truth(truth)
    scored = evaluate(read, read_results(read, results), EvaluationOptions(resamples=0))
    assert metrics.shown_classes(scored.metrics) == [*range(15), *range(40, 45)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        page = report.write_report(tmp_path, scored).read_text()
    assert "The 20 classes with the most garments; all 50 are in" in page
    assert page.count('<th scope="row">class ') == 20
    assert page.count('<th scope="row" class="name">class ') == 50 + len(
        scored.metrics.confusion.pairs
    )


@pytest.mark.parametrize("scores", [(1e308, -1e308), (1e308, 1e308), (5e-324, 0), (-7, -8)])
def test_scores_of_any_size(tmp_path, scores):
    truth, results = content("a", "b")
    for row, value in zip(results, 2 * scores, strict=True):
        row["score"] = value
    read = read_ground_truth(truth)
    scored = evaluate(read, read_results(read, results), EvaluationOptions(resamples=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report.write_report(tmp_path, scored)
    assert max(map(len, report.as_text(scored.metrics).splitlines())) < 200


def test_more_classes_than_memory_holds():
    truth, results = content(*(f"class {k}" for k in range(20_000)))
    read = read_ground_truth(truth)
    with pytest.raises(ValueError, match="20,000 classes with 300 resamples take .* GB; lower"):
        evaluate(read, read_results(read, results), EvaluationOptions())
    with pytest.raises(ValueError, match="or leave classes out"):
        scoring.require_room(read, EvaluationOptions(resamples=0))


# --- Folders --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), "shirt", "vest")


@pytest.mark.parametrize(
    "name", ["report.html", "metrics.json", "metrics.csv", "f1.png", "matches.npz", "results.json"]
)
@pytest.mark.parametrize("content", [b"mine", b'{\n  "format": 1}', None])
def test_files_of_others_are_left_alone(data, tmp_path, name, content):
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    printed = run(data, "--report", tmp_path, status=2)
    assert f"{path} was not written by a finished run" in printed and "Traceback" not in printed
    assert os.listdir(tmp_path) == [name]
    assert content is None or path.read_bytes() == content


def test_other_files_do_not_matter(data, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "index.html").write_text("mine")
    for _ in range(2):  # the second time files of ours are replaced
        run(data, "--report", tmp_path)
    assert (tmp_path / "notes.txt").read_text() == (tmp_path / "index.html").read_text() == "mine"


def test_results_may_lie_in_the_folder_of_their_report(data, tmp_path):
    content = (data / "results.json").read_bytes()
    (tmp_path / "results.json").write_bytes(content)
    arguments = ["--data", data, "--results", tmp_path / "results.json", "--report", tmp_path]
    run_command("evaluate", *arguments, "--resamples", 0)
    assert (tmp_path / "results.json").read_bytes() == content


def test_a_folder_that_is_a_file(data, tmp_path):
    (tmp_path / "taken").write_text("mine")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "below"):
        printed = run(data, "--report", folder, status=2)
        assert "taken" in printed and "Traceback" not in printed
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_that_is_read_only(data, tmp_path):
    tmp_path.chmod(0o500)
    printed = run(data, "--report", tmp_path, status=2)
    tmp_path.chmod(0o700)
    assert str(tmp_path) in printed and os.listdir(tmp_path) == []


def test_a_full_disk(data, tmp_path):
    """A limit on file sizes makes the writes fail as a full disk does."""
    code = (
        "import resource, signal, sys; from mrcnn.commands.main import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    options = ["--data", data, "--results", data / "results.json", "--report", tmp_path]
    command = [sys.executable, "-c", code, "evaluate", *options, "--resamples", 0]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "File too large" in done.stderr
    assert not (tmp_path / "metrics.json").exists() and not list(tmp_path.glob(".*"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_folder_where_nothing_can_be_written(data):
    printed = run(data, "--report", "/proc/self", status=2)
    assert "/proc/self" in printed and "Traceback" not in printed


def test_pages_of_others_are_left_alone_by_inspect(data, tmp_path):
    (tmp_path / "index.html").write_text("mine")
    options = ["--data", data, "--split", "validation", "--output_folder", tmp_path]
    printed = run_command("inspect", *options, status=2)
    assert "index.html was not written by a finished run" in printed
    assert (tmp_path / "index.html").read_text() == "mine"
    (tmp_path / "index.html").unlink()
    for _ in range(2):
        run_command("inspect", *options)
