"""Whole runs of the command next to files of others, on disks that fail, killed and side by side."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import orjson
import pytest
from PIL import Image

from mrcnn.core.text import from_cell
from mrcnn.inference.folder import OutputFolder
from mrcnn.inference.listing import list_inputs
from mrcnn.inference.names import LOCK, NOTES, TABLES
from mrcnn.inference.pipeline import run_images
from mrcnn.inference.writers import KINDS, Outputs
from tests.helpers import ROOT
from tests.helpers.detectors import HalfDetector, files, load, table, write_image
from tests.helpers.known_inference import ended, run, started, tree

EVERYTHING = ["--save", ",".join(KINDS)]


def command(folder, *more, source="in", out="out", **options):
    return run("--input", folder / source, "--output_folder", folder / out, *more, **options)


def noise(path, size=(120, 90)):
    """An image whose overlay doesn't compress."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)


# --- Output folders within the input, and the reverse -----------------------------------------


def test_an_output_folder_with_somebodys_photos_within_the_input_is_refused(tmp_path, capsys):
    write_image(tmp_path / "in" / "a.jpg")
    write_image(tmp_path / "in" / "sub" / "photo.jpg")
    write_image(tmp_path / "in" / "sub" / "a.jpg.png")
    os.symlink("in", tmp_path / "linked")
    before = tree(tmp_path)
    sub = tmp_path / "in" / "sub"
    for source in ("in", "linked", "in/**/*.*", "./in/../in"):
        for out in ("in/sub", "linked/sub", "in/sub/../sub"):
            assert command(tmp_path, "--recursive", source=source, out=out) == 2, (source, out)
            told = capsys.readouterr().err
            assert "holds images, such as" in told and "choose another output folder" in told
    assert tree(tmp_path) == before
    # Without sub-folders these photos are no input: results go beside them, in nobody's place.
    write_image(tmp_path / "in" / "b.jpg")
    assert command(tmp_path, out="in/sub") == 3
    assert {n: c for n, c in tree(tmp_path).items() if n in before} == before
    assert (sub / "b.jpg.png").is_file() and table(sub / "failures.csv")[1][0] == "a.jpg"
    # Now it is an output folder, but the photos in it are no results: that is said.
    assert command(tmp_path, "--recursive", out="in/sub") == 3
    rows = dict(table(sub / "failures.csv")[1:])
    assert "no result" in rows["sub/photo.jpg"] and "no result" in rows["sub/a.jpg.png"]
    assert {n: c for n, c in tree(tmp_path).items() if n in before} == before


@pytest.mark.parametrize("source", ["in", "in/**/*"])
def test_empty_output_folders_within_the_input_are_fine(tmp_path, source):
    write_image(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "out").mkdir()
    (tmp_path / "in" / "out" / ".gitkeep").touch()
    for _ in range(2):
        assert command(tmp_path, "--recursive", *EVERYTHING, source=source, out="in/out") == 0
    assert [i["file_name"] for i in load(tmp_path / "in" / "out")[0].imgs.values()] == ["a.jpg"]
    assert len(table(tmp_path / "in" / "out" / "failures.csv")) == 1


def test_results_that_would_lie_among_the_images_are_refused(tmp_path, capsys):
    write_image(tmp_path / "out" / "in" / "in" / "a.jpg")
    write_image(tmp_path / "out" / "masks" / "b.jpg")
    before = tree(tmp_path)
    assert command(tmp_path, "--recursive", source="out/in") == 2
    assert command(tmp_path, source="out/masks") == 2
    assert command(tmp_path, source="out/masks/*.jpg") == 2
    assert capsys.readouterr().err.count("would lie among the images") == 3
    assert tree(tmp_path) == before
    # The images may lie within the output folder where no result goes.
    assert command(tmp_path, source="out/in/in") == 0
    assert {n: c for n, c in tree(tmp_path).items() if n in before} == before


def test_no_image_of_a_list_is_replaced_by_any_result(tmp_path, capsys):
    write_image(tmp_path / "out" / "a.jpg")
    for name in ("a.jpg.jpg", "masks/a.jpg.classes.png", "cutouts/a.jpg.1_x.png"):
        write_image(tmp_path / "out" / name)
        (tmp_path / "list.txt").write_text(f"{tmp_path}/out/a.jpg\n{tmp_path}/out/{name}")
        assert command(tmp_path, source="list.txt") == 2
        assert f"would replace {tmp_path / 'out' / name}" in capsys.readouterr().err


# --- Files of others --------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_somebodys_table_is_told_before_any_work(tmp_path, name, capsys):
    write_image(tmp_path / "in" / "a.jpg")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_bytes(b"theirs")
    detector = HalfDetector()
    assert command(tmp_path, detector=detector) == 2 and not detector.batches
    assert f"{name} in the output folder was not written by this program" in capsys.readouterr().err
    assert tree(tmp_path / "out") == {name: b"theirs"}
    # What isn't asked for is in nobody's way.
    if name != "failures.csv":
        assert command(tmp_path, "--save", "overlay") == 0
        assert (tmp_path / "out" / name).read_bytes() == b"theirs"


def test_somebodys_files_fail_their_images_only(tmp_path):
    for name in "abcdef":
        write_image(tmp_path / "in" / f"{name}.jpg")
    out = tmp_path / "out"
    for name in ("a.jpg.png", "masks/b.jpg.instances.png", "cutouts/c.jpg.2_vest.png"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"theirs")
    (tmp_path / "in" / "d.jpg").write_bytes(b"broken")
    for name in ("d.jpg.png", "d.jpg.jpg", "e.jpg.jpg"):
        (out / name).write_bytes(b"theirs")
    before = tree(out)
    for more in ([], ["--resume"], []):
        assert command(tmp_path, *EVERYTHING, *more) == 3
        failures = dict(table(out / "failures.csv")[1:])
        assert failures.keys() == {"a.jpg", "b.jpg", "c.jpg", "d.jpg"}
        assert "cutouts/c.jpg.2_vest.png in the output folder was not" in failures["c.jpg"]
        assert {n: c for n, c in tree(out).items() if n in before} == before
        assert (
            not (out / "c.jpg.png").exists() and not (out / "cutouts/c.jpg.1_trousers.png").exists()
        )
        names = [i["file_name"] for i in load(out)[0].imgs.values()]
        assert names == ["e.jpg", "f.jpg"]


def test_edited_results_are_kept_and_told(tmp_path, capsys):
    for name in "abc":
        write_image(tmp_path / "in" / f"{name}.jpg")
    assert command(tmp_path) == 0
    out = tmp_path / "out"
    for name in ("a.jpg.png", "b.jpg.png", "results.csv"):
        (out / name).write_bytes(b"edited")
    assert command(tmp_path) == 2
    assert "results.csv in the output folder has been changed since" in capsys.readouterr().err
    (tmp_path / "in" / "b.jpg").write_bytes(b"broken")
    write_image(tmp_path / "in" / "a.jpg", size=(30, 20))
    assert command(tmp_path, "--save", "overlay") == 3
    printed = capsys.readouterr().out
    assert "3 files of an earlier run were changed since, so they were kept:" in printed
    assert "\n  a.jpg.png\n  b.jpg.png\n  results.csv\n" in printed
    failures = dict(table(out / "failures.csv")[1:])
    assert "a.jpg.png in the output folder has been changed" in failures["a.jpg"]
    assert {(out / n).read_bytes() for n in ("a.jpg.png", "b.jpg.png", "results.csv")} == {
        b"edited"
    }


def test_files_of_an_earlier_kind_are_removed_once_the_new_ones_are_there(tmp_path):
    write_image(tmp_path / "in" / "a.jpg")
    assert command(tmp_path, *EVERYTHING) == 0
    assert command(tmp_path, "--save", "overlay", "--overlay_format", "jpg") == 0
    assert files(tmp_path / "out") == [
        *("a.jpg.jpg", "failures.csv", "records/a.jpg.json", LOCK, NOTES)
    ]


def test_the_old_run_stays_until_the_new_one_is_complete(tmp_path):
    """A detector that dies in the middle: the tables of the run before are as they were."""
    for name in "abc":
        write_image(tmp_path / "in" / f"{name}.jpg")
    assert command(tmp_path) == 0
    before = tree(tmp_path / "out")

    class Dies(HalfDetector):
        def detect(self, batch):
            raise SystemExit(9)

    with pytest.raises(SystemExit):
        command(tmp_path, detector=Dies(fingerprint="b"))
    after = tree(tmp_path / "out")
    assert {n: c for n, c in after.items() if n != NOTES} == {
        n: c for n, c in before.items() if n != NOTES
    }


def test_names_that_spreadsheets_compute_and_terminals_obey(tmp_path, capsys):
    names = ["=1+1.png", "-2.png", "@x.png", "\tt.png", "\x1b[31mred\x07.png", "\u202egnp.png"]
    for name in names:
        write_image(tmp_path / "in" / name)
        (tmp_path / "in" / f"{name}.jpg").write_bytes(b"broken")
    assert command(tmp_path) == 3
    printed = capsys.readouterr()
    shown = printed.out + printed.err
    assert not set(shown) & set("\x1b\x07\x9b\u202e\t")
    assert "\\x1b[31mred\\x07.png.jpg: cannot be read" in shown
    for name in ("results.csv", "failures.csv"):
        rows = table(tmp_path / "out" / name)[1:]
        assert not [cell for row in rows for cell in row if cell[:1] in ("=", "+", "-", "@", "\t")]
        ending = ".jpg" if name == "failures.csv" else ""
        assert {from_cell(row[0]) for row in rows} == {n + ending for n in names}


# --- Folders that can't be used ---------------------------------------------------------------


@pytest.mark.parametrize("out", ["file", "file/x", "pipe", "dangling", "circle", "x" * 300, ""])
def test_one_message_says_why_a_folder_can_not_be_used(tmp_path, out, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "in" / "a.jpg")
    (tmp_path / "file").write_bytes(b"theirs")
    os.mkfifo("pipe")
    os.symlink("nowhere", "dangling")
    os.symlink("circle", "circle")
    before = sorted(tmp_path.rglob("*"))
    detector = HalfDetector()
    try:
        status = run("--input", "in", "--output_folder", out, detector=detector)
    except SystemExit as end:  # argparse
        status = end.code
    told = capsys.readouterr().err
    assert status == 2 and "Traceback" not in told and "Errno" not in told
    assert "choose another output folder" in told or "give a path" in told
    assert not detector.batches and sorted(tmp_path.rglob("*")) == before


def test_an_empty_input_is_not_the_current_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "a.jpg")
    assert run("--input", "", "--output_folder", "out") == 2
    assert "the name of the input is empty" in capsys.readouterr().err
    assert files(tmp_path) == ["a.jpg"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_folders_of_others_can_not_be_written_to(tmp_path):
    """As another user: without the right to write, or to enter."""
    write_image(tmp_path / "in" / "a.jpg")
    tmp_path.chmod(0o755)
    for mode in (0o555, 0o666, 0o000):
        out = tmp_path / f"{mode:o}"
        out.mkdir()
        out.chmod(mode)
        for folder in (out.name, f"{out.name}/new"):
            status, told = as_nobody(tmp_path, folder)
            assert status == 2 and "Permission denied; choose another" in told, told
            assert told.count("\n") <= 2 and not list(out.iterdir())


def as_nobody(folder, out):
    """(exit status, messages) of a run by a user without rights; out: relative to the folder."""
    child = os.fork()
    if not child:
        os.chdir(folder)  # nobody may not go through the folders above it
        sys.stderr = open("told", "w", buffering=1)  # noqa: SIM115
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        status = 1
        try:
            status = run("--input", "in", "--output_folder", out)
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, (folder / "told").read_text()


# --- Folders that go away ---------------------------------------------------------------------


class Interfering(HalfDetector):
    """`HalfDetector` that does something after so many images are complete."""

    def __init__(self, folder, after, act):
        super().__init__()
        self.folder, self.after, self.act = folder, after, act

    def detect(self, batch):
        if self.act and len(self.batches) >= self.after:
            deadline = time.monotonic() + 20
            while len(list(self.folder.glob("records/*.json"))) < self.after:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            act, self.act = self.act, None
            act()
        return super().detect(batch)


@pytest.mark.parametrize("what", ["", "records"])
def test_a_folder_that_is_deleted_during_the_run_is_told_and_not_made_anew(tmp_path, what, capsys):
    for number in range(8):
        write_image(tmp_path / "in" / f"{number}.jpg")
    out = tmp_path / "out"
    act = lambda: shutil.rmtree(out / what)  # noqa: E731
    assert command(tmp_path, detector=Interfering(out, 3, act)) == 3
    printed = capsys.readouterr()
    assert "was deleted, moved or replaced during the run" in printed.out
    assert "0 of 8 images processed" in printed.out and "Traceback" not in printed.err
    assert all(f"  {number}.jpg: " in printed.out for number in range(8))
    assert not (out / what).exists()


def test_files_that_are_deleted_during_the_run_are_failures(tmp_path):
    for number in range(8):
        write_image(tmp_path / "in" / f"{number}.jpg")
    out = tmp_path / "out"

    def act():
        (out / "0.jpg.png").unlink()
        shutil.rmtree(out / "cutouts")
        (out / "records" / "1.jpg.json").unlink()
        (out / "2.jpg.png").write_bytes(b"cut")

    assert command(tmp_path, *EVERYTHING, detector=Interfering(out, 3, act)) == 3
    failures = dict(table(out / "failures.csv")[1:])
    done = [i["file_name"] for i in load(out)[0].imgs.values()]
    assert {"0.jpg", "1.jpg", "2.jpg"} <= failures.keys()
    assert "0.jpg.png was deleted or changed during the run" in failures["0.jpg"]
    assert sorted([*failures, *done]) == [f"{number}.jpg" for number in range(8)]
    for name in done:
        record = orjson.loads((out / "records" / f"{name}.json").read_bytes())
        assert all((out / file).is_file() for file in record["files"])
    (out / "2.jpg.png").unlink()
    assert command(tmp_path, *EVERYTHING, "--resume") == 0
    assert len(load(out)[0].imgs) == 8


# --- Processes: slow --------------------------------------------------------------------------


def images_of(out):
    return sorted(i["file_name"] for i in load(out)[0].imgs.values())


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_nothing_that_stands_in_the_way(tmp_path):
    """30 runs of changing settings, each killed at random; then one that must find all in order."""
    rng = random.Random(5)
    for number in range(10):
        noise(tmp_path / "in" / f"{'sub/' * (number % 3)}{number}.jpg")
    options = ["--input", tmp_path / "in", "--output_folder", tmp_path / "out", "--recursive"]
    options += EVERYTHING
    (tmp_path / "precious.txt").write_bytes(b"precious")
    killed = 0
    for attempt in range(30):
        more = [["--legend"], ["--overlay_format", "jpg"], ["--resume"], ["--pad", attempt]][
            attempt % 4
        ]
        process = started(*options, *more, log=tmp_path / "log")
        time.sleep(rng.uniform(0.02, 0.5))
        process.kill()
        killed += ended(process) == -signal.SIGKILL
        told = (tmp_path / "log").read_text()
        assert "Traceback" not in told and "not written by this program" not in told, told
    assert killed > 10
    expected = tmp_path / "expected"
    assert run("--output_folder", expected, *options[:2], *options[4:], "--pad", 3) == 0
    assert run(*options, "--pad", 3) == 0
    got = {n: c for n, c in tree(tmp_path / "out").items() if n not in (NOTES, "index.html")}
    assert got == {n: c for n, c in tree(expected).items() if n not in (NOTES, "index.html")}
    assert not list((tmp_path / "out").rglob("*.tmp"))


@pytest.mark.slow
def test_four_processes_in_one_folder(tmp_path):
    """One works, three are refused and told who does; whoever comes first, nothing is missing."""
    for number in range(12):
        noise(tmp_path / "in" / f"{number:02}.jpg")
    options = ["--input", tmp_path / "in", "--output_folder", tmp_path / "out", *EVERYTHING]
    for attempt in range(5):
        logs = [tmp_path / f"log {n}" for n in range(4)]
        processes = [started(*options, "--pad", attempt, log=log) for log in logs]
        statuses = [ended(process) for process in processes]
        assert statuses.count(0) >= 1 and set(statuses) <= {0, 2}, [p.read_text() for p in logs]
        for status, log in zip(statuses, logs, strict=True):
            told = log.read_text()
            assert (status == 2) == ("is in use" in told) and "Traceback" not in told
        out = tmp_path / "out"
        assert images_of(out) == [f"{n:02}.jpg" for n in range(12)]
        assert len(table(out / "failures.csv")) == 1
        for record in out.glob("records/*.json"):
            for file in orjson.loads(record.read_bytes())["files"]:
                Image.open(out / file).load()
        assert not list(out.rglob("*.tmp"))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    call = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(call, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk(tmp_path, small_disk, capsys):
    for number in range(60):
        noise(tmp_path / "in" / f"{number:02}.jpg")
    options = ["--input", tmp_path / "in", "--output_folder", small_disk / "out"]
    options += ["--save", "overlay,json,csv"]
    assert run(*options) in (2, 3)
    printed = capsys.readouterr()
    assert "No space left on device; make room" in printed.out + printed.err
    assert "Traceback" not in printed.err and printed.err.count("Errno") == 0
    out = small_disk / "out"
    assert not list(out.rglob("*.tmp"))
    done = [orjson.loads(p.read_bytes())["files"][0] for p in out.glob("records/*.json")]
    assert 5 < len(done) < 60
    for file in done:
        Image.open(out / file).load()
    listed = sum(f"  {n:02}.jpg: " in printed.out for n in range(60))
    told = table(out / "failures.csv")[1:] if (out / "failures.csv").exists() else []
    assert max(listed, len(told)) + len(done) == 60
    # With room, --resume ends it.
    subprocess.run(["mount", "-o", "remount,size=9m", str(small_disk)], check=True)
    assert run(*options, "--resume") == 0
    assert f"{len(done)} of them before" in capsys.readouterr().out
    assert images_of(out) == [f"{n:02}.jpg" for n in range(60)]
    # A full disk from the beginning takes nothing away.
    before = tree(out)
    (small_disk / "filler").write_bytes(bytes(2**20))
    with pytest.raises(OSError), open(small_disk / "filler", "ab") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
    status = run(*options)
    assert "Traceback" not in capsys.readouterr().err
    # An image whose overlay was renewed, but not its record, has none and counts as failed.
    lost = [name for name in before if name not in tree(out)]
    assert all(name.startswith("records/") and name.endswith(".jpg.json") for name in lost)
    assert status in ((2, 3) if lost else (0, 2, 3))


@pytest.mark.slow
def test_a_read_only_disk(tmp_path, small_disk, capsys):
    write_image(tmp_path / "in" / "a.jpg")
    options = ["--input", tmp_path / "in", "--output_folder"]
    assert run(*options, small_disk / "out") == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    capsys.readouterr()
    detector = HalfDetector()
    for out in ("out", "new", "."):
        assert run(*options, small_disk / out, detector=detector) == 2
        told = capsys.readouterr().err
        assert "Read-only file system; choose another output folder" in told and "Errno" not in told
    assert not detector.batches


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit of file sizes")
def test_a_limit_of_file_sizes(tmp_path):
    """Images whose overlays are too large are failures, the others are done."""
    noise(tmp_path / "in" / "large.jpg", (600, 400))
    write_image(tmp_path / "in" / "small.jpg")
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000));"
    code += "from tests.helpers.known_inference import run; sys.exit(run(*sys.argv[1:]))"
    options = ["--input", tmp_path / "in", "--output_folder", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-c", code, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "large.jpg: large.jpg.png cannot be written to: File too large" in done.stdout
    assert images_of(tmp_path / "out") == ["small.jpg"]


# --- In programs ------------------------------------------------------------------------------


def test_an_open_folder_may_be_passed_in(tmp_path):
    write_image(tmp_path / "in" / "a.jpg")
    listing = list_inputs(tmp_path / "in", tmp_path / "out")
    with OutputFolder(tmp_path / "out") as out:
        for source in (listing, tmp_path / "in"):
            summary = run_images(HalfDetector(), source, out, Outputs(), progress=False)
            assert (summary.processed, summary.failures, summary.kept) == (1, [], [])
