"""The whole run on over 300 files that were made to break it, and the gallery of what came out."""

import re
from collections import Counter

import orjson
import pytest
from PIL import Image

from mrcnn.core.text import writable
from mrcnn.inference.names import TABLES, on_disk
from mrcnn.inference.pipeline import run_images
from mrcnn.inference.writers import KINDS, Outputs
from tests.helpers.browser import needs_browser, open_page
from tests.helpers.detectors import HalfDetector, files, load, table
from tests.helpers.hostile_files import DAMAGED, Hostile


class NarrowDetector(HalfDetector):
    """`HalfDetector` that finds nothing in half of a single column."""

    def to_result(self, image, color):
        result = super().to_result(image, color)
        sides = result.boxes[:, 2:] - result.boxes[:, :2]
        return result.select(sides.min(axis=1, initial=1) > 0)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """What the folder holds, the output folder and the summary of the run."""
    folder = tmp_path_factory.mktemp("hostile")
    made = Hostile(folder / "in")
    return made, folder / "out", run(folder)


def run(folder, **options):
    return run_images(
        NarrowDetector(4), folder / "in", folder / "out", Outputs(KINDS), recursive=True,
        progress=False, **options,
    )  # fmt: skip


def test_sound_images_have_results_and_the_others_a_reason(hostile):
    made, out, summary = hostile
    assert made.count > 300 and summary.stopped == ""
    api, results, failures = load(out)
    sizes = {i["file_name"]: (i["width"], i["height"]) for i in api.imgs.values()}
    read = made.sound | {n: sizes[n] for n in made.either if n in sizes}
    assert sizes == {writable(name): size for name, size in read.items()}
    failed = dict(summary.failures)
    broken = made.broken | {n: DAMAGED for n in made.either if n not in sizes}
    assert failed.keys() == broken.keys()
    wrong = {n: failed[n] for n, reason in broken.items() if not re.search(reason, failed[n])}
    assert not wrong
    assert {name for name, _ in summary.passed_over} == made.passed_over
    assert sorted(map(tuple, failures[1:])) == sorted(summary.failures + summary.passed_over)
    assert results.anns and {a["image_id"] for a in results.anns.values()} <= api.imgs.keys()
    assert {row[0] for row in table(out / "results.csv")[1:]} <= sizes.keys()


def test_no_file_is_written_for_two_images(hostile):
    _, out, summary = hostile
    records = [orjson.loads(p.read_bytes()) for p in out.glob("records/**/*.json") if p.is_file()]
    assert len(records) == summary.processed
    written = Counter(on_disk(name) for record in records for name in record["files"])
    assert max(written.values()) == 1
    others = {name for name in files(out) if not name.startswith("records/")}
    assert others == {*written, *TABLES}


def test_overlays_have_their_images_size(hostile):
    _, out, _ = hostile
    for path in out.glob("records/**/*.json"):
        record = orjson.loads(path.read_bytes())
        overlay = on_disk(record["files"][0])
        with Image.open(out / overlay) as image:
            assert image.size == (record["width"], record["height"]), overlay


def test_results_are_not_made_twice(hostile):
    _, out, before = hostile
    summary = run(out.parent, resume=True)
    assert summary.resumed == before.processed
    assert summary.failures == before.failures


@needs_browser
def test_the_gallery_names_and_links_them_right(hostile):
    made, out, summary = hostile
    # What Chromium can't show, by its ending.
    foreign = re.compile(r"\.(tiff?|jp2|ppm|ico)$")
    with open_page(out / "index.html") as driver:
        assert driver.execute_script("return cards.length") == summary.processed
        names = driver.execute_script(
            "return [...document.querySelectorAll('.card .name')].map(n => n.textContent)"
        )
        assert set(made.sound) - set(names) <= {n for n in made.sound if writable(n) != n}
        driver.set_script_timeout(120)
        broken = driver.execute_async_script(
            """
            const [foreign, done] = arguments, broken = [];
            const works = (url, size) => new Promise(settle => {
              const image = new Image();
              image.onload = () => settle(!size || image.naturalWidth === size[0]);
              image.onerror = () => settle(false);
              image.src = url;
            });
            (async () => {
              for (const {name, original, overlay, size} of images) {
                if (Math.max(...size) > 10000) continue;
                if (!await works(overlay, size)) broken.push("overlay of " + name);
                if (!new RegExp(foreign).test(name) && !name.startsWith("damaged/")
                    && !await works(original)) broken.push(name);
              }
              done(broken);
            })();
            """,
            foreign.pattern,
        )
        assert broken == []
        shown = driver.find_element("id", "failures").text
        assert f"Without results: {len(summary.failures) + len(summary.passed_over)}" in shown
        assert all(reason in shown for _, reason in summary.failures[:20])
        assert not driver.find_elements("css selector", "img[src=x]")
