"""`model.py evaluate` on results as a user types it, and the page in a real browser."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle_tools

from mrcnn.coco.ground_truth import read_ground_truth, read_results
from mrcnn.coco.reader import ATTRIBUTES
from mrcnn.core.classes import DEEPFASHION2
from mrcnn.evaluation.comparison import EarlierRun, compare
from mrcnn.evaluation.metrics import read_metrics
from mrcnn.evaluation.scoring import EvaluationOptions, evaluate
from mrcnn.reports import report
from tests.helpers import ROOT
from tests.helpers.browser import needs_browser, open_page
from tests.helpers.commands import run_command

HEIGHT, WIDTH, IMAGES = 120, 90, 12
SHIRT, LONG_SHIRT, TROUSERS, SKIRT = 1, 2, 8, 9


def garment(image_id, category_id, top, shift=0):
    """A rectangle of 40 x 40 pixels as annotation and as result."""
    x, y = 20 + shift, top
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x, y, 40, 40],
        "segmentation": [[x, y, x + 40, y, x + 40, y + 40, x, y + 40]],
    }


def make_truth():
    """In each image a shirt above, and below trousers, or a skirt in each third."""
    annotations = []
    for i in range(1, IMAGES + 1):
        lower = SKIRT if i % 3 == 0 else TROUSERS
        for category_id, top in ((SHIRT, 10), (lower, 60)):
            values = {"scale": 1 + i % 2, "occlusion": 1, "zoom_in": 1, "viewpoint": 2}
            row = garment(i, category_id, top) | values
            annotations.append(row | {"id": len(annotations) + 1, "area": 1600, "iscrowd": 0})
    return {
        "images": [
            {"id": i, "file_name": f"<{i}>.png", "height": HEIGHT, "width": WIDTH}
            for i in range(1, IMAGES + 1)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(DEEPFASHION2) if k],
        "annotations": annotations,
    }


def make_results(truth, shift=1):
    """Nearly all right; skirts are detected as trousers; a shirt is missed, another one false."""
    results = []
    for n, row in enumerate(truth["annotations"][1:]):
        category = TROUSERS if row["category_id"] == SKIRT else row["category_id"]
        found = garment(row["image_id"], category, row["bbox"][1], shift)
        results.append(found | {"score": round(0.99 - 0.01 * n, 2)})
    return [*results, garment(4, SHIRT, 70, 25) | {"score": 0.95}]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder; results.json: good ones, worse.json: the same, farther off."""
    folder = tmp_path_factory.mktemp("data") / "a b"
    (folder / "validation" / "image").mkdir(parents=True)
    truth = make_truth()
    (folder / "validation_coco.json").write_text(json.dumps(truth))
    rng = np.random.default_rng(0)
    for image in truth["images"][:-1]:  # one image is missing
        pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "validation" / "image" / image["file_name"])
    (folder / "results.json").write_text(json.dumps(make_results(truth)))
    (folder / "worse.json").write_text(json.dumps(make_results(truth, shift=7)))
    return folder


def run(data, results, *options, status=0):
    """Output of model.py evaluate --results."""
    paths = ["--data", data, "--results", data / results]
    return run_command("evaluate", *paths, *options, status=status)


@pytest.fixture(scope="module")
def printed(data):
    """What the command printed; two reports lie in data / worse and data / report."""
    run(data, "worse.json", "--report", data / "worse", "--resamples", 50)
    compare = ["--compare", data / "worse" / "metrics.json", "--resamples", 50, "--min_score", 0.5]
    return run(data, "results.json", "--report", data / "report", *compare)


@pytest.fixture(scope="module")
def found(printed, data):
    return json.loads((data / "report" / "metrics.json").read_text())


def test_results_are_scored_without_tensorflow(data, tmp_path):
    """In a process of its own, by what it has loaded at its end."""
    code = (
        "import sys; from mrcnn.commands.main import main; status = main(); "
        "print('loaded:', *sys.modules); sys.exit(status)"
    )
    options = ["--data", data, "--results", data / "results.json", "--report", tmp_path]
    command = [sys.executable, "-c", code, "evaluate", *options, "--resamples", 0]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split("loaded:")[1].split()
    assert not {"tensorflow", "keras", "matplotlib.pyplot"} & set(loaded)


def test_tables_on_the_terminal(printed):
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert any(line.startswith("mask AP 0.557 AP50 0.557") for line in lines), printed
    assert "vest 0 n/a n/a n/a n/a" in lines
    assert "viewpoint side or back 0 n/a n/a 0.641 0.635" in lines
    assert "4 33.3 % trousers as skirt: 0, reversed: 4" in lines
    assert "0 0.0 % short_sleeved_shirt as long_sleeved_shirt: 0, reversed: 0" in lines
    assert "missed: 1, false positives: 1" in lines
    assert any(line.startswith("mask AP 0.") and line.endswith("*") for line in lines)


def test_all_files_are_there(data, printed):
    names = {path.name for path in (data / "report").iterdir()}
    plots = {"pr_curves.png", "f1.png", "calibration.png", "confusion.png", "subsets.png"}
    assert names == plots | {
        "metrics.json",
        "metrics.csv",
        "matches.npz",
        "report.html",
        "results.json",
    }
    for name in plots:
        with Image.open(data / "report" / name) as plot:
            assert plot.format == "PNG" and min(plot.size) > 300
    kept = (data / "report" / "results.json").read_bytes()
    assert kept == (data / "results.json").read_bytes()


def test_metrics_by_hand(found):
    assert found["run"]["pictures"] == IMAGES and found["run"]["garments"] == 2 * IMAGES
    shirt = found["mask"]["per_class"]["short_sleeved_shirt"]
    # Right, right, false, nine right, one missed; at IoU 39/41, so right at all thresholds.
    # The precision is 1 up to a recall of 2/12 (17 of COCO's 101), 11/12 up to 11/12 (75 more).
    assert shirt["garments"] == 12 and shirt["AP"] == pytest.approx((17 + 75 * 11 / 12) / 101)
    assert shirt["best_f1"]["recall"] == pytest.approx(11 / 12)
    assert found["mask"]["per_class"]["skirt"]["AP"] == 0
    assert found["mask"]["per_class"]["vest"]["AP"] is None
    assert found["mask"]["per_class"]["vest"]["best_f1"] is None
    subsets = found["mask"]["subsets"]
    assert subsets["occlusion"]["slight"]["AP"] == pytest.approx(found["mask"]["AP"])
    assert subsets["occlusion"]["heavy"]["AP"] is None
    assert subsets["scale"]["small"]["garments"] == 12
    assert found["published"]["mask"]["subsets"]["occlusion"] == [0.72, 0.656, 0.381]
    counts = np.array(found["confusion"]["counts"])
    assert counts[SKIRT - 1, TROUSERS - 1] == 4 and counts[TROUSERS - 1, SKIRT - 1] == 0
    assert counts[-1, SHIRT - 1] == 1 and counts[SHIRT - 1, -1] == 1
    assert found["boundary"]["mask_iou"] == pytest.approx(39 / 41)
    # The image whose shirt is missed is as bad as those with a skirt, or worse.
    assert found["pictures"]["best"][0]["quality"] == pytest.approx(39 / 41)
    low, high = found["mask"]["intervals"]["AP"]
    assert low < found["mask"]["AP"] < high


def test_differences(found):
    rows = found["compare"]["mask"]
    row = rows["AP"]
    assert row["this"] == found["mask"]["AP"] and row["this"] > row["other"]
    assert row["difference"] == pytest.approx(row["this"] - row["other"])
    assert row["interval"][0] > 0 and row["clear"] is True
    same = rows["per_class.skirt"]  # never found by either
    assert same["difference"] == 0 and same["interval"] == [0, 0] and same["clear"] is False
    assert rows["per_class.vest"]["difference"] is None
    assert found["compare"]["run"]["results"].endswith("worse.json")


@pytest.mark.parametrize(("images", "clear"), [(5, False), (6, True)])
def test_a_difference_of_few_images_is_never_clear(images, clear):
    """All agree that the first run is better, but five do so by chance one time in sixteen."""
    box = {"category_id": 1, "bbox": [0, 0, 10, 10]}
    ids = range(1, images + 1)
    read = read_ground_truth(
        {
            "images": [{"id": i, "height": 20, "width": 20} for i in ids],
            "annotations": [box | {"id": i, "image_id": i, "area": 100} for i in ids],
            "categories": [{"id": 1, "name": "skirt"}],
        }
    )
    rows = [box | {"image_id": i, "score": 0.9} for i in ids]
    options = EvaluationOptions(resamples=20)
    good, bad = (evaluate(read, read_results(read, r), options) for r in (rows, []))
    compare(good, EarlierRun(Path("other"), bad.metrics, read.image_ids, bad.matches))
    for key in ("AP", "per_class.skirt"):
        row = good.metrics.compare.box[key]
        assert row.interval == (1, 1) and row.clear is clear


def test_csv(data, found):
    with open(data / "report" / "metrics.csv", newline="") as file:
        rows = {(r["kind"], r["group"], r["name"]): r for r in csv.DictReader(file)}
    assert float(rows["mask", "all", "AP"]["value"]) == found["mask"]["AP"]
    low, high = found["box"]["subsets"]["scale"]["small"]["interval"]
    row = rows["box", "scale", "small"]
    assert (float(row["low"]), float(row["high"])) == (low, high)
    assert rows["mask", "class", "vest"]["value"] == ""
    assert rows["mask", "class", "skirt"]["garments"] == "4"


def test_csv_has_no_formulas(monkeypatch):
    """Class names are other people's text; numbers stay numbers."""
    rows = [(("per_class", "=1+1"), -0.5, (-1.0, 0.0), 3)]
    monkeypatch.setattr(report, "scores", lambda section: rows)
    written = report.as_csv(SimpleNamespace(sections={"box": None})).decode()
    assert written.splitlines()[1:] == ["box,class,'=1+1,-0.5,-1.0,0.0,3"]


NUMBERS = "AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl"
POINT = "threshold precision recall f1"
DIFFERENCE = "this other difference interval clear"
SECTION = {
    "": f"{NUMBERS} intervals operating_point calibration per_class subsets",
    "intervals": "AP AP50 AP75 APs APm APl",
    "operating_point": POINT,
    "calibration": "ece detections bins",
    "calibration.bins.0": "low high count score right",
    "per_class": " ".join(DEEPFASHION2[1:]),
    "per_class.skirt": "AP AP50 AP75 interval AR100 garments best_f1",
    "per_class.skirt.best_f1": POINT,
    "subsets": "scale occlusion zoom_in viewpoint",
    "subsets.occlusion": "slight medium heavy",
    "subsets.occlusion.slight": "AP AP50 AP75 interval garments",
}
RUN = (
    "split annotations weights results notes pictures garments crowds detections left_out "
    "pictures_without_detections resamples seed written"
)
KEYS = {
    "": "format run box mask published confusion boundary pictures compare",
    "run": RUN,
    **{
        f"{kind}.{path}".strip("."): keys
        for kind in ("box", "mask")
        for path, keys in SECTION.items()
    },
    "published": "box mask",
    "published.mask": "AP AP50 AP75 subsets",
    "published.mask.subsets": "scale occlusion zoom_in viewpoint",
    "confusion": "by iou min_score classes counts pairs",
    "confusion.pairs.0": "a b count rate a_as_b b_as_a a_total b_total watched",
    "boundary": "mask_iou boundary_iou pairs per_class",
    "boundary.per_class": " ".join(DEEPFASHION2[1:]),
    "boundary.per_class.trousers": "mask_iou boundary_iou pairs",
    "pictures": "mean_quality worst best",
    "pictures.worst.0": "image_id file_name quality",
    "compare": "path run box mask",
    "compare.run": RUN,
    "compare.mask.AP": DIFFERENCE,
    "compare.mask.subsets:scale:small": DIFFERENCE,
}


@pytest.mark.parametrize("path", KEYS)
def test_keys_of_metrics_json(found, path):
    """Other programs read the file: names and order stay."""
    value = found
    for part in path.split(".") if path else ():
        value = value[int(part)] if isinstance(value, list) else value[part.replace(":", ".")]
    assert list(value) == (KEYS[path].split())


def test_every_key_is_documented():
    text = (ROOT / "docs" / "evaluation.md").read_text()
    keys = {key for keys in KEYS.values() for key in keys.split()} - {*DEEPFASHION2}
    values = {word for words in ATTRIBUTES.values() for word in words}
    assert not {key for key in keys - values if f"`{key}`" not in text}


@needs_browser
def test_the_page_in_a_browser(data, printed):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    with open_page(data / "report" / "report.html") as driver:

        def all_(css):
            return driver.find_elements(By.CSS_SELECTOR, css)

        text = driver.find_element(By.TAG_NAME, "body").text
        assert "Comparison" in text and "unclear" in text and "better" in text
        assert "worse\n" not in text  # nothing is
        assert "<12>.png" in text or "<3>.png" in text  # names are escaped
        assert "drawings are on grey" in text
        broken = "return [...document.images].filter(i => i.src && !i.naturalWidth).length"
        driver.execute_script("for (const i of document.images) i.loading = 'eager'")
        driver.execute_async_script(
            "const done = arguments[0];"
            "Promise.all([...document.images].filter(i => i.src).map(i => i.decode())).then(done)"
        )
        assert driver.execute_script(broken) == 0
        # The classes, sorted by AP from the keyboard: n/a comes last, both ways.
        head = all_(".sortable thead button")[3]
        assert head.text.startswith("mask AP")
        falling = ["short sleeved shirt", "trousers", "skirt"]
        for expected in (falling, falling[::-1]):
            head.send_keys(Keys.ENTER)
            assert [cell.text for cell in all_(".sortable tbody th")][:3] == expected
        # The confusion matrix switches to shares of each row; a cell leads to its examples.
        cell = all_("#matrix tbody tr")[SKIRT - 1].find_elements(By.TAG_NAME, "td")[TROUSERS - 1]
        assert cell.text == "4"
        driver.find_element(By.ID, "unit").send_keys(Keys.SPACE)
        assert cell.text == "100 %"
        target = cell.find_element(By.TAG_NAME, "a").get_attribute("href").split("#")[1]
        assert "4 confused" in driver.find_element(By.ID, target).text
        # An image is enlarged from the keyboard and closed by Escape.
        all_(".zoom")[0].send_keys(Keys.ENTER)
        large = driver.find_element(By.ID, "large")
        assert large.is_displayed() and "annotated" in large.text
        driver.switch_to.active_element.send_keys(Keys.ESCAPE)
        assert not large.is_displayed()


@needs_browser
def test_a_narrow_page_does_not_scroll_sideways(data, printed):
    with open_page(data / "report" / "report.html", width=500) as driver:
        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert driver.execute_script(wide) == 0


@pytest.mark.parametrize("kind", ["nothing found", "boxes", "no truth", "one image", "named ids"])
def test_reports_of_little(kind, tmp_path):
    """Every table and plot copes with what isn't there."""
    truth = make_truth()
    results = [{**r, "area": 0} for r in make_results(truth)]
    if kind == "nothing found":
        results = []
    elif kind == "boxes":
        results = [{k: v for k, v in r.items() if k != "segmentation"} for r in results]
    elif kind == "no truth":
        truth["annotations"], truth["categories"] = [], truth["categories"][:9]
    elif kind == "named ids":
        for row in (*truth["annotations"], *results):
            row["image_id"] = f"p{row['image_id']:02d}"
        for image in truth["images"]:
            image["id"] = f"p{image['id']:02d}"
    limit = 1 if kind == "one image" else None
    read = read_ground_truth(truth, limit=limit)
    found = evaluate(read, read_results(read, results), EvaluationOptions(resamples=3))
    page = report.write_report(tmp_path / "deep" / "report", found)
    assert page.read_text().rstrip().endswith("</html>")
    text = report.as_text(found.metrics)
    values = found.metrics
    if kind == "nothing found":
        assert values.box.AP == values.mask.AP == 0
    if kind == "boxes":
        assert values.mask is None and "mask n/a" in text
        assert values.confusion.by == "box"
    if kind == "no truth":
        assert values.mask.AP is None and "mask AP n/a" in text
        assert values.published is None
    if kind == "one image":
        assert values.run.left_out == 23
    if kind == "named ids":
        assert values.images.worst[0].image_id.startswith("p")
    assert read_metrics(tmp_path / "deep" / "report" / "metrics.json") == values


def test_plots_of_an_earlier_report_go(tmp_path):
    truth = make_truth()
    for annotation in truth["annotations"]:
        del annotation["scale"], annotation["occlusion"]
        del annotation["zoom_in"], annotation["viewpoint"]
    read = read_ground_truth(truth)
    found = evaluate(read, read_results(read, []), EvaluationOptions(resamples=0))
    (tmp_path / "subsets.png").write_bytes(b"old")
    report.write_report(tmp_path, found)
    assert not (tmp_path / "subsets.png").exists() and (tmp_path / "f1.png").exists()


def test_mistakes_are_named(data, tmp_path, printed):
    report_ = ["--report", tmp_path / "report"]
    assert "no results at" in run(data, "none.json", *report_, status=2)
    output = run(data, "results.json", *report_, "--weights", "coco", status=2)
    assert "--results runs no model" in output
    for unfit in (["--size", 512], ["--tta"], ["--refine"]):
        output = run(data, "results.json", *report_, *unfit, status=2)
        assert "--results runs no model" in output
    output = run(
        data, "results.json", "--report", data / "worse", "--compare", data / "worse", status=2
    )
    assert "would replace the run to compare with" in output
    output = run(data, "results.json", *report_, "--split", "train", status=2)
    assert "has no split train; it has" in output and "validation_coco.json" in output
    other = ["--limit", 3, "--compare", data / "worse"]
    output = run(data, "results.json", *report_, *other, status=2)
    assert "3 here, 12 there, 3 in both" in output
    bad = json.loads((data / "results.json").read_text())
    bad[3]["score"] = float("nan")
    (data / "nan.json").write_text(json.dumps(bad))
    assert "result 3 (image_id 3) has the score nan" in run(data, "nan.json", *report_, status=2)
    assert not (tmp_path / "report" / "metrics.json").exists()


def test_corners_instead_of_sizes_are_noticed(data, tmp_path):
    rows = json.loads((data / "results.json").read_text())
    for row in rows:
        x, y, width, height = row["bbox"]
        row["bbox"] = [x, y, x + width, y + height]
        del row["segmentation"]
    (data / "corners.json").write_text(json.dumps(rows))
    output = run(data, "corners.json", "--report", tmp_path, "--resamples", 0)
    assert "of the boxes reach out of their images" in output
    assert "mask n/a" in output


def test_masks_of_another_size_are_another_split(data, tmp_path):
    mask = rle_tools.encode(np.zeros((60, 90), np.uint8, order="F"))
    mask["counts"] = mask["counts"].decode()
    rows = [garment(1, SHIRT, 10) | {"segmentation": mask, "score": 0.5}]
    (data / "size.json").write_text(json.dumps(rows))
    output = run(data, "size.json", "--report", tmp_path, status=2)
    assert "[60, 90]" in output and "[120, 90]" in output and "another split?" in output


def test_the_bench_gives_pycocotools_numbers(tmp_path):
    small = ["--pictures", 30, "--garments", 50, "--folder", tmp_path]
    lines = []
    for scorer in ("ours", "pycocotools"):
        command = [sys.executable, ROOT / "bench" / "evaluate.py", scorer, *small]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
        lines.append(json.loads(done.stdout))
    assert lines[0]["mask_ap"] == pytest.approx(lines[1]["mask_ap"], abs=1e-9)
    assert lines[0]["box_ap"] == pytest.approx(lines[1]["box_ap"], abs=1e-9)
    assert lines[0]["mask_ap"] > 0.1
