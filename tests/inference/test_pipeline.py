"""Many images through a detector whose results are known beforehand."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import orjson
import pytest
from PIL import Image
from pycocotools import mask as mask_utils

from mrcnn.commands.main import main
from mrcnn.core.classes import DEEPFASHION2
from mrcnn.inference import pipeline
from mrcnn.inference.listing import list_inputs
from mrcnn.inference.names import LOCK, NOTES
from mrcnn.inference.pipeline import run_images
from mrcnn.inference.writers import KINDS, Outputs
from tests.helpers import ROOT
from tests.helpers.detectors import BROKEN, EMPTY, HalfDetector, files, load, table, write_image


def run(tmp_path, detector=None, save=None, **options):
    detector = detector or HalfDetector()
    outputs = Outputs(save) if save else None
    source, out = tmp_path / "in", tmp_path / "out"
    summary = run_images(detector, source, out, outputs, progress=False, **options)
    return summary, out, detector


# --- What is written ----------------------------------------------------------------------


def test_files_and_summary(tmp_path):
    write_image(tmp_path / "in" / "b.jpg")
    write_image(tmp_path / "in" / "a.png", size=(30, 50))
    summary, out, _ = run(tmp_path)
    assert files(out) == [
        *("a.png.png", "b.jpg.png", "failures.csv", "images.json", "index.html"),
        *("records/a.png.json", "records/b.jpg.json", LOCK, NOTES, "results.csv", "results.json"),
    ]
    assert (summary.images, summary.processed, summary.instances) == (2, 2, 4)
    assert summary.detections["trousers"] == summary.detections["vest"] == 2
    assert list(summary.detections) == list(DEEPFASHION2[1:])
    api, results, failures = load(out)
    assert failures == [["file", "reason"]]
    assert [(i["id"], i["file_name"]) for i in api.imgs.values()] == [(1, "a.png"), (2, "b.jpg")]
    assert (api.imgs[1]["width"], api.imgs[1]["height"]) == (30, 50)
    assert {c["id"]: c["name"] for c in api.cats.values()} == dict(enumerate(DEEPFASHION2[1:], 1))
    found = [a for a in results.anns.values() if a["image_id"] == 2]
    assert [(a["category_id"], a["bbox"], a["score"]) for a in found] == [
        (8, [0, 0, 30, 40], 0.75),
        (5, [30, 20, 30, 20], 0.5),
    ]
    mask = mask_utils.decode(found[0]["segmentation"])
    assert mask[:, :30].all() and not mask[:, 30:].any()
    # The ids of the data set that the detector was trained on, in the COCO files only.
    detector = HalfDetector()
    detector.category_ids = [0, *range(100, 113)]
    run_images(detector, tmp_path / "in", out, progress=False)
    api, results, _ = load(out)
    assert {c["id"]: c["name"] for c in api.cats.values()}[107] == "trousers"
    assert {a["category_id"] for a in results.anns.values()} == {107, 104}
    with Image.open(out / "b.jpg.png") as overlay:
        assert overlay.size == (60, 40) and overlay.getpixel((0, 39)) == (120, 0, 30)


def test_csv(tmp_path):
    write_image(tmp_path / "in" / 'quo"te, new\nline.png', color=(200, 10, 20))
    _, out, _ = run(tmp_path, save=("csv",))
    rows = table(out / "results.csv")
    assert ",".join(rows[0]) == (
        "file,image_id,class_id,class,score,x,y,width,height,area_pixels,area_percent,color"
    )
    assert rows[1][1:] == [
        "1",
        "8",
        "trousers",
        "0.7500",
        "0",
        "0",
        "30",
        "40",
        "1200",
        "50.000",
        "red",
    ]
    assert rows[2][1:] == [
        "1",
        "5",
        "vest",
        "0.5000",
        "30",
        "20",
        "30",
        "20",
        "600",
        "25.000",
        "red",
    ]
    assert {row[0] for row in rows[1:]} == {'quo"te, new\nline.png'}
    assert "results.json" not in files(out) and "index.html" not in files(out)


def test_masks_and_cutouts(tmp_path):
    write_image(tmp_path / "in" / "a.png")
    source, out = tmp_path / "in", tmp_path / "out"
    outputs = Outputs(("masks", "cutouts"), pad=5)
    run_images(HalfDetector(), source, out, outputs, progress=False)
    with Image.open(out / "masks" / "a.png.classes.png") as image:
        assert image.mode == "P" and image.getpalette()[24:27] == [120, 0, 30]
        classes = np.array(image)
    instances = np.array(Image.open(out / "masks" / "a.png.instances.png"))
    assert (classes[:, :30] == 8).all() and (classes[20:, 30:] == 5).all()
    assert (instances[:, :30] == 1).all() and (instances[20:, 30:] == 2).all()
    assert not classes[:20, 30:].any() and not instances[:20, 30:].any()
    first = np.array(Image.open(out / "cutouts" / "a.png.1_trousers.png"))
    second = np.array(Image.open(out / "cutouts" / "a.png.2_vest.png"))
    assert first.shape == (40, 35, 4) and second.shape == (25, 35, 4)
    assert (second[5:, 5:] == (90, 120, 150, 255)).all() and not second[:5].any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"save": ("overlay", "pdf")}, "can't save .*pdf.*; choose from overlay"),
        ({"save": ()}, "can't save nothing"),
        ({"overlay_format": "gif"}, "use png or jpg"),
        ({"pad": -1}, "give 0 or more"),
    ],
)
def test_outputs_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        Outputs(**values)


def test_jpeg_overlays_and_legend(tmp_path):
    write_image(tmp_path / "in" / "a.png", size=(300, 200))
    source, out = tmp_path / "in", tmp_path / "out"
    for legend in (False, True):
        outputs = Outputs(("overlay",), overlay_format="jpg", legend=legend)
        run_images(HalfDetector(), source, out / str(legend), outputs, progress=False)
    plain, with_legend = (np.array(Image.open(out / n / "a.png.jpg")) for n in ("False", "True"))
    changed = np.argwhere(np.abs(plain.astype(int) - with_legend).max(axis=2) > 60)
    assert len(changed) and changed[:, 0].min() > 150 and changed[:, 1].max() < 120


def test_images_without_garments(tmp_path):
    write_image(tmp_path / "in" / "a.png", color=EMPTY)
    summary, out, _ = run(tmp_path, save=KINDS)
    assert summary.processed == 1 and summary.instances == 0
    assert (out / "results.json").read_bytes() == b"[]"
    assert not np.array(Image.open(out / "a.png.png")).any()
    assert len(load(out)[0].imgs) == 1 and len(table(out / "results.csv")) == 1


# --- Names --------------------------------------------------------------------------------


def test_names_with_spaces_and_unicode(tmp_path):
    names = ["Käse & Brot.jpg", "été 1.PNG", "写真.webp", "sub/'a' #%20?.jpg"]
    for name in names:
        write_image(tmp_path / "in" / name)
    summary, out, _ = run(tmp_path, recursive=True)
    assert summary.processed == 4
    assert sorted(i["file_name"] for i in load(out)[0].imgs.values()) == sorted(names)
    assert all((out / f"{name}.png").exists() for name in names)


def test_names_that_are_not_utf8(tmp_path):
    try:
        write_image(tmp_path / "in" / os.fsdecode(b"b\xff.png"))
        (tmp_path / "in" / os.fsdecode(b"c\xff.png")).touch()
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system takes UTF-8 names only")
    summary, out, _ = run(tmp_path)
    api, _, failures = load(out)
    assert [i["file_name"] for i in api.imgs.values()] == ["b\\udcff.png"]
    assert failures[1][0] == "c\\udcff.png"
    str(summary).encode()
    assert (out / os.fsdecode(b"b\xff.png.png")).exists()
    assert run(tmp_path, resume=True)[0].resumed == 1


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(tmp_path / "in" / "a.jpg", size=(60, 40), exif=exif)
    _, out, detector = run(tmp_path)
    assert detector.batches == [[(60, 40, 3)]]
    api, _, _ = load(out)
    assert (api.imgs[1]["width"], api.imgs[1]["height"]) == (40, 60)


# --- Failures -----------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3])
def test_bad_images_are_listed_and_do_not_stop_the_rest(tmp_path, batch_size, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    write_image(folder / "a.png")
    (folder / "b.jpg").write_bytes(b"not an image")
    write_image(folder / "c.png", color=BROKEN)
    (folder / "d.jpg").touch()
    write_image(folder / "e.png")
    (folder / "notes.txt").touch()
    summary = run_images(HalfDetector(batch_size), folder, out)
    assert [name for name, _ in summary.failures] == ["b.jpg", "c.png", "d.jpg"]
    assert summary.failures[0][1].startswith("cannot be read: it is not an image")
    assert summary.failures[1][1] == "RuntimeError: no such colour"
    assert (summary.processed, summary.instances) == (2, 4)
    api, results, failures = load(out)
    # Ids are positions in the whole list, so that a failure renames no other image.
    assert [(i["id"], i["file_name"]) for i in api.imgs.values()] == [(1, "a.png"), (5, "e.png")]
    assert {a["image_id"] for a in results.anns.values()} == {1, 5}
    passed_over = ("notes.txt", "not an image; passed over")
    assert failures[1:] == [*map(list, summary.failures), list(passed_over)]
    assert summary.passed_over == [passed_over]
    assert not (out / "c.png.png").exists()
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].startswith("2 of 5 images processed, 4 garments found;")
    assert "3 files failed (see failures.csv):\n  b.jpg: " in printed


def test_batches_are_filled_across_bad_images(tmp_path):
    for i in range(7):
        write_image(tmp_path / "in" / f"{i}.png", size=(30 + i, 20))
    (tmp_path / "in" / "2.png").write_bytes(b"")
    _, out, detector = run(tmp_path, HalfDetector(3))
    widths = [[shape[1] for shape in batch] for batch in detector.batches]
    assert widths == [[30, 31, 33], [34, 35, 36]]
    assert [i["width"] for i in load(out)[0].imgs.values()] == [30, 31, 33, 34, 35, 36]


def test_results_that_can_not_be_written_are_a_failure_of_that_image(tmp_path):
    write_image(tmp_path / "in" / "a.png")
    write_image(tmp_path / "in" / "b.png")
    (tmp_path / "out" / "a.png.png").mkdir(parents=True)
    summary, out, _ = run(tmp_path)
    assert [name for name, _ in summary.failures] == ["a.png"]
    assert [i["file_name"] for i in load(out)[0].imgs.values()] == ["b.png"]


def test_names_do_not_break_the_summary(tmp_path):
    write_image(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b\n\x1b[31m\u00e9.png").touch()
    summary, _, _ = run(tmp_path)
    assert "\n  b\\n\\x1b[31m\u00e9.png: cannot be read: the file is empty" in str(summary)
    summary, _, _ = run(tmp_path, strict=True)
    assert "stopped at b\\n\\x1b[31m\u00e9.png, as --strict asks" in str(summary)


def test_strict_stops_at_the_first(tmp_path):
    write_image(tmp_path / "in" / "a.png")
    for name in ("b.jpg", "c.jpg"):
        (tmp_path / "in" / name).touch()
    summary, out, _ = run(tmp_path, strict=True)
    assert summary.stopped.startswith("stopped at b.jpg, as --strict asks: cannot be read")
    assert len(summary.failures) == 1 and len(load(out)[0].imgs) == 1


def test_detector_with_too_few_results_is_reported(tmp_path):
    write_image(tmp_path / "in" / "a.png")
    detector = HalfDetector(2)
    detector.detect = lambda batch: []
    summary, _, _ = run(tmp_path, detector)
    assert summary.failures == [("a.png", "ValueError: detect() got 1 images, gave 0 results")]


def test_large_images_wait_for_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "PIXELS_AT_ONCE", 5000)
    for i in range(6):
        write_image(tmp_path / "in" / f"{i}.png")  # 2400 pixels
    write_image(tmp_path / "in" / "9.png", size=(100, 100))
    summary, _, detector = run(tmp_path, HalfDetector(4))
    assert summary.processed == 7
    pixels = [sum(h * w for h, w, _ in batch) for batch in detector.batches]
    assert sum(pixels) == 6 * 2400 + 10000
    assert all(p <= 5000 or len(b) == 1 for p, b in zip(pixels, detector.batches, strict=True))


def test_too_large_images_fail(tmp_path):
    write_image(tmp_path / "in" / "a.png")
    summary, _, _ = run(tmp_path, max_pixels=2399)
    assert "60 x 40 pixels, more than the 2,399" in summary.failures[0][1]


# --- Folders ------------------------------------------------------------------------------


def test_empty_folder(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match=r"found no images in .*in'"):
        run(tmp_path)
    assert not (tmp_path / "out").exists()


def test_same_folder_is_refused(tmp_path):
    write_image(tmp_path / "a.png")
    with pytest.raises(ValueError, match="choose another output folder"):
        run_images(HalfDetector(), tmp_path, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_pattern_of_the_output_folder_is_refused(tmp_path, monkeypatch):
    write_image(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    for pattern in ("*.png", f"{tmp_path}/*", "./*.png"):
        with pytest.raises(ValueError, match="lie in the output folder; choose another"):
            run_images(HalfDetector(), pattern, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_the_command_refuses_it_before_anything_is_loaded(tmp_path, capsys):
    write_image(tmp_path / "a.png")
    options = ["--input", f"{tmp_path}/*.png", "--output_folder", str(tmp_path)]
    assert main(["inference", "--weights", "none", *options]) == 2
    assert "lie in the output folder" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_no_image_of_the_input_is_replaced(tmp_path):
    write_image(tmp_path / "a.jpg")
    write_image(tmp_path / "a.jpg.png")
    (tmp_path / "list.txt").write_text("a.jpg.png\na.jpg")
    before = files(tmp_path)
    with pytest.raises(ValueError, match="overlay of a.jpg would replace .*a.jpg.png, which is"):
        run_images(HalfDetector(), tmp_path / "list.txt", tmp_path, progress=False)
    assert files(tmp_path) == before
    # One image beside its results is fine: nothing is taken for anything else.
    run_images(HalfDetector(), tmp_path / "a.jpg.png", tmp_path, progress=False)
    assert (tmp_path / "a.jpg.png.png").is_file()


def test_results_within_the_input_are_no_images(tmp_path):
    write_image(tmp_path / "a.png")
    for _ in range(2):
        summary = run_images(
            HalfDetector(), tmp_path, tmp_path / "out", recursive=True, progress=False
        )
        assert summary.images == 1 and not summary.passed_over


def test_a_list_with_impossible_lines(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "list.txt").write_bytes(b"a.png\n/\nno\0name.jpg\n" + b"x" * 5000 + b"\n~nobody_x")
    summary = run_images(HalfDetector(), tmp_path / "list.txt", tmp_path / "out", progress=False)
    assert summary.processed == 1 and len(summary.failures) == 4
    reasons = " ".join(reason for _, reason in summary.failures)
    for part in ("is a directory", "null byte", "too long", "does not exist"):
        assert part in reasons


def test_folders_that_can_not_be_read_are_failures(tmp_path, monkeypatch):
    write_image(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "shut").mkdir()
    scandir = os.scandir

    def shut(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", shut)
    summary, out, _ = run(tmp_path, recursive=True)
    assert summary.processed == 1 and [name for name, _ in summary.failures] == ["shut"]
    assert table(out / "failures.csv")[1][0] == "shut"
    summary, _, detector = run(tmp_path, recursive=True, strict=True)
    assert summary.stopped.startswith("stopped at shut, as --strict asks") and not detector.batches


def test_names_without_background_are_refused(tmp_path):
    write_image(tmp_path / "in" / "a.png")
    detector = HalfDetector()
    detector.class_names = DEEPFASHION2[1:]
    with pytest.raises(ValueError, match="put 'BG' first"):
        run(tmp_path, detector)


# --- Going on -----------------------------------------------------------------------------


def test_second_run_replaces_the_first(tmp_path):
    write_image(tmp_path / "in" / "a.png")
    write_image(tmp_path / "in" / "b.png")
    run(tmp_path, save=("overlay", "cutouts"))
    (tmp_path / "in" / "b.png").write_bytes(b"broken now")
    write_image(tmp_path / "in" / "a.png", color=EMPTY)
    (tmp_path / "out" / ".a.png.png.abcd1234.tmp").touch()  # what kill -9 leaves
    summary, out, _ = run(tmp_path, save=("overlay", "cutouts"))
    assert len(summary.failures) == 1
    assert files(out) == ["a.png.png", "failures.csv", "records/a.png.json", LOCK, NOTES]


def test_files_of_others_stay(tmp_path):
    write_image(tmp_path / "in" / "a.png")
    write_image(tmp_path / "out" / "index.html", format="PNG")  # somebody's page
    _, out, _ = run(tmp_path, save=("overlay",))
    assert (out / "index.html").is_file()


def test_a_broken_file_may_have_any_name(tmp_path):
    write_image(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "[@images@].png").write_bytes(b"broken")
    summary, out, _ = run(tmp_path)
    assert len(summary.failures) == 1 and "a.png" in (out / "index.html").read_text()


def test_resume_takes_what_is_complete_and_unchanged(tmp_path):
    for name in "abcdef":
        write_image(tmp_path / "in" / f"{name}.png")
    run(tmp_path)
    out = tmp_path / "out"
    write_image(tmp_path / "in" / "b.png", size=(61, 40))  # changed
    (out / "c.png.png").unlink()  # overlay lost
    (out / "records" / "d.png.json").write_bytes(b"{")  # damaged
    record = orjson.loads((out / "records" / "e.png.json").read_bytes())
    record["instances"][0]["bbox"] = "wide"  # malformed
    (out / "records" / "e.png.json").write_bytes(orjson.dumps(record))
    os.utime(tmp_path / "in" / "f.png", ns=(1, 1))  # changed as far as one can tell
    before = (out / "results.json").read_bytes()
    (out / "results.json").unlink()
    summary, _, detector = run(tmp_path, resume=True)
    assert (summary.resumed, summary.processed, len(detector.batches)) == (1, 6, 5)
    assert len(orjson.loads(before)) == len(orjson.loads((out / "results.json").read_bytes())) == 12
    assert run(tmp_path, resume=True)[0].resumed == 6
    assert run(tmp_path, HalfDetector(fingerprint="b"), resume=True)[0].resumed == 0
    assert (
        run(tmp_path, HalfDetector(fingerprint="b"), save=("masks",), resume=True)[0].resumed == 0
    )
    summary, _, _ = run(tmp_path, HalfDetector(fingerprint="b"), save=("masks",), resume=True)
    assert summary.resumed == 6
    assert run(tmp_path, HalfDetector(fingerprint="b"))[0].resumed == 0


def test_records_of_older_runs_are_read(tmp_path):
    """The keys and their order as they have always been; --resume goes by them."""
    write_image(tmp_path / "in" / "a.png", color=EMPTY)
    _, out, _ = run(tmp_path)
    path = out / "records" / "a.png.json"
    record = orjson.loads(path.read_bytes())
    assert list(record) == [
        *("version", "settings", "source", "save", "files", "thumbnail", "width", "height"),
        "instances",
    ]
    record["instances"] = [
        {
            "category_id": 8,
            "bbox": [0.0, 0.0, 30.0, 40.0],
            "score": 0.75,
            "segmentation": {"size": [40, 60], "counts": "0`U1`U1"},
            "area": 1200,
            "color": "red",
        }
    ]
    path.write_bytes(orjson.dumps(record))
    summary, _, detector = run(tmp_path, resume=True)
    assert summary.resumed == 1 and detector.batches == []
    assert summary.detections["trousers"] == 1
    assert table(out / "results.csv")[1][8:] == ["40", "1200", "50.000", "red"]


def test_a_listing_is_not_listed_again(tmp_path, monkeypatch):
    write_image(tmp_path / "in" / "a.png")
    write_image(tmp_path / "in" / "A.png")
    found = list_inputs(tmp_path / "in", tmp_path / "out")
    monkeypatch.setattr(pipeline, "list_inputs", None)
    monkeypatch.setattr(pipeline, "_is_case_blind", lambda folder: True)
    summary = run_images(HalfDetector(), found, tmp_path / "out", progress=False)
    assert summary.processed == 2
    assert {"A.png.png", "a.png~2.png"} <= set(files(tmp_path / "out"))


def test_results_of_changed_images_do_not_outlive_a_run_that_stops_before_them(tmp_path):
    for name in "abc":
        write_image(tmp_path / "in" / f"{name}.png")
    run(tmp_path)
    (tmp_path / "in" / "a.png").write_bytes(b"broken now")
    write_image(tmp_path / "in" / "b.png", size=(61, 40))
    # The detector takes four at once, so that the run stops before any result is written.
    summary, out, _ = run(tmp_path, HalfDetector(4), strict=True)
    assert summary.stopped.startswith("stopped at a.png")
    assert [i["file_name"] for i in load(out)[0].imgs.values()] == ["c.png"]
    assert not (out / "b.png.png").exists() and (out / "c.png.png").exists()


SLOW = """
import sys, time
sys.path[:0] = [{root!r}]
from mrcnn.inference.pipeline import run_images
from tests.helpers.detectors import HalfDetector
class Slow(HalfDetector):
    def detect(self, batch):
        time.sleep(0.1)
        return super().detect(batch)
print(run_images(Slow(), {source!r}, {out!r}, resume=True, progress=False).stopped)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_cut_off_loses_no_finished_image(tmp_path, number):
    for i in range(60):
        write_image(tmp_path / "in" / f"{i:02}.png")
    out = tmp_path / "out"
    names = {"source": str(tmp_path / "in"), "out": str(out), "root": str(ROOT)}
    code = SLOW.format(**names)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(list(out.glob("records/*.json"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    printed = process.communicate(timeout=30)[0]
    done = list(out.glob("records/*.json"))
    assert 5 <= len(done) < 60
    for record in done:
        for file in orjson.loads(record.read_bytes())["files"]:
            Image.open(out / file).load()
    if number == signal.SIGINT:
        assert printed.strip() == "interrupted"
        assert len(load(out)[0].imgs) == len(done)
    summary, _, detector = run(tmp_path, resume=True)
    assert summary.resumed == len(done) and len(detector.batches) == 60 - len(done)
    assert len(load(out)[0].imgs) == 60
    assert not list(out.rglob(".*"))


def test_memory_is_given_back_during_long_runs(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(pipeline, "give_back", lambda: calls.append(1))
    for number in range(2 * pipeline.GIVE_BACK_AFTER + 1):
        write_image(tmp_path / "in" / f"{number}.png")
    run_images(HalfDetector(1), tmp_path / "in", tmp_path / "out", progress=False)
    assert len(calls) == 2
