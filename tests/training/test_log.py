"""What a run folder tells: rows of epochs as JSON lines, CSV, curves, TensorBoard; and run.json."""

import csv
import errno
import io
import json
import subprocess
import sys
from datetime import datetime

import numpy as np
import pytest
from PIL import Image

from mrcnn.training import log as run_log
from mrcnn.training.log import RunLog, plot_curves, read_rows, write_run
from tests.helpers import ROOT


def row(epoch, **values):
    return {"epoch": epoch, "loss": 4.0 / epoch, "learning_rate": 0.001, **values}


def epochs(folder):
    return [json.loads(line)["epoch"] for line in (folder / "log.jsonl").read_text().splitlines()]


def table(folder):
    return list(csv.DictReader(io.StringIO((folder / "log.csv").read_text())))


def check_png(data):
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        image.load()
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[0] > 300 and pixels.shape[1] > 500
    return pixels


def test_an_epoch_is_one_row_in_each_file(tmp_path):
    log = RunLog(tmp_path)
    assert log.rows == [] and list(tmp_path.iterdir()) == []
    log.write(row(1, val_loss=1 / 3, seconds=12.5))
    log.write(row(2, val_loss=0.25, seconds=12.25))
    assert (
        read_rows(tmp_path)
        == log.rows
        == [
            {"epoch": 1, "loss": 4.0, "learning_rate": 0.001, "val_loss": 1 / 3, "seconds": 12.5},
            {"epoch": 2, "loss": 2.0, "learning_rate": 0.001, "val_loss": 0.25, "seconds": 12.25},
        ]
    )
    assert (tmp_path / "log.csv").read_text().split() == [
        "epoch,loss,learning_rate,val_loss,seconds",
        "1,4,0.001,0.333333,12.5",
        "2,2,0.001,0.25,12.25",
    ]
    check_png((tmp_path / "curves.png").read_bytes())
    assert {p.name for p in tmp_path.iterdir()} == {"log.jsonl", "log.csv", "curves.png"}


def test_a_full_disk_costs_the_log_and_not_the_training(tmp_path, monkeypatch):
    from mrcnn.training import log as module

    def full(path, content, sync=False):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    log = RunLog(tmp_path)
    log.write(row(1))
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomically", full)
        words = r"the log in .* can't be written \(.*No space left.*log.jsonl'\); the training goes"
        with pytest.warns(UserWarning, match=words):
            log.write(row(2))
        with pytest.warns(UserWarning, match=r"No space left.*run.json"):
            write_run(tmp_path, seed=1)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before
    log.write(row(3))  # once there is room, nothing is missing
    assert epochs(tmp_path) == [1, 2, 3]


@pytest.mark.tf
def test_tensorboard_on_a_full_disk(tmp_path, monkeypatch):
    import tensorflow as tf

    log = RunLog(tmp_path, tensorboard=True)

    def full():
        raise tf.errors.ResourceExhaustedError(None, None, "events...; No space left on device")

    monkeypatch.setattr(log._writer, "flush", full)
    with pytest.warns(UserWarning, match="No space left on device.*the training goes on"):
        log.write(row(1))
    with pytest.warns(UserWarning, match="the training goes on"):
        log.add_image("a", np.zeros((4, 4, 3), np.uint8), 1)
    assert epochs(tmp_path) == [1]
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match="the training goes on"):
        RunLog(tmp_path / "file", tensorboard=True).write(row(1))


def test_a_row_or_a_run_of_other_types_is_no_error(tmp_path):
    log = RunLog(tmp_path)
    log.write({**row(1), "loss": "high", "learning_rate": "low", "note": None})
    log.write(row(2))
    assert len(RunLog(tmp_path, done=9).rows) == 2
    (tmp_path / "log.jsonl").write_text('{"epoch": 1}\n{"epoch": 2, "loss": [1]}\n{"epoch": 3}\n')
    assert [r["epoch"] for r in RunLog(tmp_path, done=9).rows] == [1]
    (tmp_path / "run.json").write_text('{"resumed": 5}')
    with pytest.warns(UserWarning, match="it is run.broken.json now"):
        write_run(tmp_path, seed=1)


def test_rows_of_epochs_that_are_done_again_are_cut(tmp_path):
    log = RunLog(tmp_path)
    for epoch in range(1, 6):
        log.write(row(epoch, note="first"))
    log = RunLog(str(tmp_path), done=3)
    assert epochs(tmp_path) == [1, 2, 3, 4, 5]  # nothing is lost before there is a new row
    log.write(row(4, note="again"))
    assert epochs(tmp_path) == [1, 2, 3, 4]
    assert [r["note"] for r in table(tmp_path)] == ["first", "first", "first", "again"]
    RunLog(tmp_path).write(row(1))  # a run that starts anew
    assert epochs(tmp_path) == [1]


@pytest.mark.parametrize(
    "end", [b'{"epoch": 3, "lo', b'{"epoch":', b"3", b"null", b"{}", b"\x00\x00\x00", b"\xff", b""]
)
def test_a_line_that_was_cut_off_ends_the_rows(tmp_path, end):
    lines = b'{"epoch": 1, "loss": 4.0}\n{"epoch": 2, "loss": 2.0}\n'
    (tmp_path / "log.jsonl").write_bytes(lines + end)
    assert read_rows(tmp_path) == [{"epoch": 1, "loss": 4.0}, {"epoch": 2, "loss": 2.0}]
    log = RunLog(tmp_path, done=2)
    assert log.rows == read_rows(tmp_path) and (tmp_path / "log.jsonl").read_bytes() == lines + end


def test_a_run_goes_on_after_a_line_that_was_cut_off(tmp_path):
    RunLog(tmp_path).write(row(1))
    with open(tmp_path / "log.jsonl", "ab") as file:
        file.write(b'{"epoch": 2, "lo')
    RunLog(tmp_path, done=1).write(row(2))
    assert epochs(tmp_path) == [1, 2]


def test_no_log_no_rows(tmp_path):
    assert read_rows(tmp_path) == read_rows(tmp_path / "none") == []
    (tmp_path / "log.jsonl").touch()
    assert read_rows(str(tmp_path)) == []


def test_columns_may_come_and_go(tmp_path):
    log = RunLog(tmp_path)
    log.write(row(1))
    log.write(row(2, val_loss=0.5))
    log.write({"epoch": 3, "mask_ap": 0.75, "loss": 1.0})
    assert table(tmp_path) == [
        {"epoch": "1", "loss": "4", "learning_rate": "0.001", "val_loss": "", "mask_ap": ""},
        {"epoch": "2", "loss": "2", "learning_rate": "0.001", "val_loss": "0.5", "mask_ap": ""},
        {"epoch": "3", "loss": "1", "learning_rate": "", "val_loss": "", "mask_ap": "0.75"},
    ]
    assert read_rows(tmp_path)[2] == {"epoch": 3, "mask_ap": 0.75, "loss": 1.0}


def test_a_number_that_is_not_finite_is_null(tmp_path):
    RunLog(tmp_path).write(row(1, val_loss=float("nan"), mask_ap=float("nan")))
    assert read_rows(tmp_path)[0]["val_loss"] is None
    log = RunLog(tmp_path, done=1)
    log.write(row(2, val_loss=0.5))
    assert [r["val_loss"] for r in table(tmp_path)] == ["", "0.5"]
    check_png((tmp_path / "curves.png").read_bytes())


# --- Curves -------------------------------------------------------------------------------------


def colours(rows):
    """Colours of the image that are no shade of grey."""
    pixels = check_png(plot_curves(rows)).reshape(-1, 3).astype(int)
    vivid = pixels[np.ptp(pixels, axis=1) > 60]
    return {tuple(colour) for colour in np.unique(vivid, axis=0)}


BLUE, ORANGE = (31, 119, 180), (255, 127, 14)  # matplotlib's first two


def test_curves_of_one_epoch_and_of_many():
    assert BLUE in colours([row(1)]) and ORANGE not in colours([row(1)])
    many = [row(e, mrcnn_mask_loss=3.0 / e) for e in range(1, 40)]
    assert BLUE in colours(many) and not np.array_equal(
        check_png(plot_curves(many)), check_png(plot_curves(many[:1]))
    )


def amount(rows):
    """Pixels of the colour of the whole loss."""
    return (check_png(plot_curves(rows)) == BLUE).all(axis=-1).sum()


def test_validation_has_the_colour_of_its_loss():
    rows = [row(e, loss=2.0, val_loss=1.0) for e in range(1, 6)]
    alone = [row(e, loss=2.0) for e in range(1, 6)]
    assert ORANGE not in colours(rows) and amount(rows) > 1.4 * amount(alone)


def test_curves_show_losses_that_end_or_begin_later():
    without = [row(e, loss=2.0) for e in range(1, 9)]
    ends = [row(e, loss=2.0, val_loss=1.0) for e in range(1, 8)] + without[7:]
    begins = without[:1] + [row(e, loss=2.0, val_loss=1.0) for e in range(2, 9)]
    assert min(amount(ends), amount(begins)) > 1.3 * amount(without)


def test_curves_of_nothing():
    assert colours([]) == set() == colours([{"epoch": 1, "loss": None, "learning_rate": 0.1}])


def test_curves_need_no_display():
    """matplotlib.pyplot would look for one, and stay in memory."""
    code = (
        "import sys\nfrom mrcnn.training.log import plot_curves\n"
        "plot_curves([{'epoch': 1, 'loss': 2.0}])\nassert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# --- run.json -----------------------------------------------------------------------------------


def read_run(folder):
    return json.loads((folder / "run.json").read_text())


def test_run_json_tells_what_was_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["model.py", "train", "--epochs", "3"])
    write_run(tmp_path, config={"NAME": "shop", "SCALES": (8, 16)}, seed=7)
    run = read_run(tmp_path)
    assert list(run)[:3] == ["time", "config", "seed"]
    assert run["config"] == {"NAME": "shop", "SCALES": [8, 16]} and run["seed"] == 7
    assert run["command"] == ["model.py", "train", "--epochs", "3"]
    assert datetime.fromisoformat(run["time"]).tzinfo is not None
    assert run["python"] == ".".join(map(str, sys.version_info[:3]))
    assert run["versions"]["numpy"] == np.__version__ and all(run["versions"].values())
    assert {"commit", "platform"} <= run.keys() and "resumed" not in run


def test_run_json_keeps_the_first_start_and_adds_the_others(tmp_path):
    write_run(tmp_path, seed=1, epochs=2)
    first = read_run(tmp_path)
    write_run(tmp_path, seed=2, epochs=4)
    write_run(tmp_path, seed=3, epochs=6)
    run = read_run(tmp_path)
    assert list(run) == [*first, "resumed"]
    assert {name: run[name] for name in first} == first
    assert [entry["seed"] for entry in run["resumed"]] == [2, 3]
    assert all("versions" in entry and "time" in entry for entry in run["resumed"])


@pytest.mark.parametrize("content", [b"", b'{"seed": 1', b"[]", b"\xff"])
def test_a_broken_run_json_is_put_aside(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.warns(UserWarning, match="run.json can't be read; it is run.broken.json now"):
        write_run(tmp_path, seed=2)
    assert read_run(tmp_path)["seed"] == 2
    assert (tmp_path / "run.broken.json").read_bytes() == content


def test_a_package_that_is_not_installed_has_no_version():
    assert run_log._version("no-such-package-at-all") is None
    assert run_log._version("numpy") == np.__version__


def git(folder, *command):
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    result = subprocess.run(
        ["git", *identity, *command], cwd=folder, check=True, capture_output=True, text=True
    )
    return result.stdout.strip()


def test_commit_of_a_checkout_and_none_outside(tmp_path, monkeypatch):
    source = tmp_path / "checkout" / "mrcnn" / "run_log.py"
    source.parent.mkdir(parents=True)
    source.write_text("a = 1\n")
    monkeypatch.setattr(run_log, "__file__", str(source))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert run_log._commit() is None  # no repository
    git(source.parent.parent, "init", "-q")
    git(source.parent.parent, "commit", "-q", "--allow-empty", "-m", "of another project")
    assert run_log._commit() is None  # installed into it, say, but no part of it
    git(source.parent.parent, "add", ".")
    git(source.parent.parent, "commit", "-q", "-m", "ours")
    commit = git(source.parent.parent, "rev-parse", "HEAD")
    assert len(commit) == 40 and run_log._commit() == commit
    source.write_text("a = 2\n")
    assert run_log._commit() == f"{commit}+"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_log._commit() is None  # no git


# --- TensorBoard --------------------------------------------------------------------------------


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"tensors": 0})
    found.Reload()
    return found


def scalars(folder):
    """{name: [(epoch, value)]} as TensorBoard reads them."""
    from tensorboard.util.tensor_util import make_ndarray

    found = events(folder)
    return {
        tag: [(e.step, make_ndarray(e.tensor_proto).item()) for e in found.Tensors(tag)]
        for tag in found.Tags()["tensors"]
    }


@pytest.mark.tf
def test_tensorboard_reads_the_rows(tmp_path):
    log = RunLog(tmp_path, tensorboard=True)
    log.write({"epoch": 1, "loss": 2.5, "val_loss": 3.25, "pictures": 8, "stage": "heads"})
    # At once, not when the run ends.
    assert scalars(tmp_path)["val_loss"] == [(1, 3.25)]
    log.write({"epoch": 2, "loss": 1.5, "val_loss": 2.75, "pictures": 8, "stage": "heads"})
    again = RunLog(tmp_path, done=2, tensorboard=True)  # a run that goes on adds a file
    again.write({"epoch": 3, "loss": 0.5})
    assert scalars(tmp_path) == {
        "loss": [(1, 2.5), (2, 1.5), (3, 0.5)],
        "val_loss": [(1, 3.25), (2, 2.75)],
        "pictures": [(1, 8.0), (2, 8.0)],
    }


@pytest.mark.tf
def test_tensorboard_shows_images(tmp_path):
    image = np.zeros((4, 6, 3), np.uint8)
    image[1:3, 2:5] = (10, 200, 30)
    RunLog(tmp_path, tensorboard=True).add_image("sample 0", image, 7)
    (event,) = events(tmp_path).Tensors("sample 0")
    width, height, data = event.tensor_proto.string_val
    assert event.step == 7 and (int(width), int(height)) == (6, 4)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(np.asarray(image), image)


def test_without_tensorboard_there_are_no_such_files(tmp_path):
    log = RunLog(tmp_path)
    log.add_image("sample", np.zeros((2, 2, 3), np.uint8), 1)
    log.write(row(1))
    assert not (tmp_path / "tensorboard").exists()
