"""Checkpoints that are cut short, damaged, or killed in the making: a whole one is always found."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from mrcnn.core.files import write_atomically
from mrcnn.training.checkpoints import CheckpointError, Checkpoints
from tests.helpers import ROOT

NAME = "Shop"


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch):
    """Many saves, each of several flushes, would take long; processes of their own do flush."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def save(folder, epoch, step=0, *, note="", best=False, keep=3):
    """A checkpoint whose weights, arrays and info all say which one it is."""
    word = f"{epoch}.{step}{note}"
    Checkpoints(folder, NAME, keep).save(
        lambda path: write_atomically(path, word.encode()),
        {"optimizer/0": np.frombuffer(word.encode(), np.uint8)},
        {"epoch": epoch, "step": step, "word": word},
        best,
    )


def restored(folder):
    """Which checkpoint `restore` gives, None for none; its parts must belong together."""
    saved = Checkpoints(folder, NAME).restore()
    if saved is None:
        return None
    word = saved.info["word"]
    assert saved.weights.read_text() == word
    assert saved.arrays["optimizer/0"].tobytes().decode() == word
    return word


def quietly_restored(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return restored(folder)


def weights(epoch):
    return f"mask_rcnn_shop_{epoch:04d}.h5"


def files_of(*stems):
    return {f"{stem}{end}" for stem in stems for end in (".h5", ".state.h5")}


def names(folder):
    return {p.name for p in folder.iterdir()}


def listed(folder):
    return [(e["epoch"], e["step"]) for e in json.loads((folder / "checkpoints.json").read_bytes())]


# --- What is kept -------------------------------------------------------------------------------


def test_no_list_no_checkpoint(tmp_path):
    assert Checkpoints(tmp_path, NAME).restore() is None
    (tmp_path / weights(3)).write_bytes(b"of an older program, without a list")
    assert Checkpoints(tmp_path, NAME).restore() is None


def test_all_comes_back_bit_by_bit(tmp_path):
    arrays = {
        "optimizer/0": np.array(7, np.int64),
        "optimizer/1": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
        "weights/0": np.zeros((0, 4), np.float32),
        "flag": np.array(True),
    }
    info = {"epoch": 2, "step": 0, "best": 0.1 + 0.2, "nothing": None, "sums": {"loss": 1e-300}}
    Checkpoints(tmp_path, NAME).save(lambda path: path.write_bytes(b"w"), arrays, info)
    saved = Checkpoints(str(tmp_path), NAME).restore()
    assert saved.info == info and saved.weights == tmp_path / weights(2)
    assert saved.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert saved.arrays[name].dtype == array.dtype and saved.arrays[name].shape == array.shape
        np.testing.assert_array_equal(saved.arrays[name], array)


def test_no_arrays_at_all(tmp_path):
    Checkpoints(tmp_path, NAME).save(lambda p: p.write_bytes(b""), {}, {"epoch": 1, "step": 0})
    assert Checkpoints(tmp_path, NAME).restore().arrays == {}


@pytest.mark.parametrize("keep", [1, 3])
def test_the_newest_and_the_best_are_kept(tmp_path, keep):
    for epoch in range(1, 7):
        save(tmp_path, epoch, best=epoch in (1, 2), keep=keep)
        kept = range(max(1, epoch - keep + 1), epoch + 1)
        assert listed(tmp_path) == [(e, 0) for e in kept]
        stems = [f"mask_rcnn_shop_{e:04d}" for e in kept]
        assert names(tmp_path) == files_of(*stems) | {"best.h5", "checkpoints.json"}
        assert restored(tmp_path) == f"{epoch}.0"
        assert (tmp_path / "best.h5").read_text() == ("1.0" if epoch == 1 else "2.0")


def test_the_best_takes_no_room_of_its_own(tmp_path):
    save(tmp_path, 1, best=True)
    assert (tmp_path / "best.h5").samefile(tmp_path / weights(1))
    save(tmp_path, 2, best=True)
    assert (tmp_path / "best.h5").samefile(tmp_path / weights(2))


def test_the_best_is_a_copy_where_files_have_one_name(tmp_path, monkeypatch):
    def link(*_):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", link)
    save(tmp_path, 1, best=True)
    save(tmp_path, 2, best=True, keep=1)
    assert (tmp_path / "best.h5").read_text() == "2.0"
    assert (tmp_path / "best.h5").stat().st_nlink == 1
    expected = files_of("mask_rcnn_shop_0002") | {"best.h5", "checkpoints.json"}
    assert names(tmp_path) == expected


def test_the_best_stays_when_its_epoch_is_done_again(tmp_path):
    """It shares a file with that epoch's weights, which must be replaced and not changed."""
    save(tmp_path, 1)
    save(tmp_path, 2, note=" first", best=True)
    (tmp_path / "mask_rcnn_shop_0002.state.h5").unlink()
    with pytest.warns(UserWarning, match="0002.state.h5 is missing"):
        assert restored(tmp_path) == "1.0"
    save(tmp_path, 2, note=" again")
    assert (tmp_path / "best.h5").read_text() == "2.0 first"
    assert restored(tmp_path) == "2.0 again"


def test_the_middle_of_an_epoch_is_kept_until_its_end(tmp_path):
    save(tmp_path, 0, 4)
    assert names(tmp_path) == files_of("interrupted") | {"checkpoints.json"}
    save(tmp_path, 0, 7)  # not over the one that the list names
    assert names(tmp_path) == files_of("interrupted2") | {"checkpoints.json"}
    save(tmp_path, 0, 9)
    assert names(tmp_path) == files_of("interrupted") | {"checkpoints.json"}
    assert restored(tmp_path) == "0.9" and listed(tmp_path) == [(0, 9)]
    save(tmp_path, 1, keep=1)
    assert names(tmp_path) == files_of("mask_rcnn_shop_0001") | {"checkpoints.json"}
    save(tmp_path, 1, 2, keep=1)
    assert listed(tmp_path) == [(1, 0), (1, 2)] and restored(tmp_path) == "1.2"
    save(tmp_path, 2, keep=1)
    assert names(tmp_path) == files_of("mask_rcnn_shop_0002") | {"checkpoints.json"}
    assert restored(tmp_path) == "2.0" and listed(tmp_path) == [(2, 0)]


def test_files_of_others_stay(tmp_path):
    others = {
        weights(40),  # weights alone: matterport's, or of an older program
        weights(1).replace(".h5", "_copy.h5"),
        weights(1).replace(".h5", ".backup.h5"),
        weights(1).replace(".h5", ".state.h5.old"),
        "mask_rcnn_shop_2_0001.h5",
        "mask_rcnn_shop_2_0001.state.h5",
        "mask_rcnn_other_0001.h5",
        "mask_rcnn_other_0001.state.h5",
        "interrupted_once.h5",
        "interrupted3.state.h5",
        "mask_rcnn_shop_best.h5",
        ".mask_rcnn_other_0001.h5.abc.tmp",
        ".mine.tmp",
        "notes.txt",
    }
    for name in others:
        (tmp_path / name).write_text("mine")
    for epoch in range(1, 4):
        save(tmp_path, epoch, keep=1)
        save(tmp_path, epoch, 1, keep=1)
    save(tmp_path, 4, keep=1)
    expected = others | files_of("mask_rcnn_shop_0004") | {"checkpoints.json"}
    assert names(tmp_path) == expected
    assert all((tmp_path / name).read_text() == "mine" for name in others)


def test_halves_that_a_killed_process_left_are_removed(tmp_path):
    for name in (weights(9), "interrupted2.state.h5", "best.h5", "checkpoints.json"):
        (tmp_path / f".{name}.k3_x.tmp").write_text("half")
    for name in files_of("mask_rcnn_shop_0009", "interrupted2"):
        (tmp_path / name).write_text("never on the list")
    save(tmp_path, 1)
    assert names(tmp_path) == files_of("mask_rcnn_shop_0001") | {"checkpoints.json"}


def test_a_run_that_goes_on_from_an_older_epoch_voids_the_later_ones(tmp_path):
    for epoch in (1, 2, 3, 4):
        save(tmp_path, epoch, keep=9)
    save(tmp_path, 2, 5, note=" again", keep=9)
    assert restored(tmp_path) == "2.5 again"
    save(tmp_path, 3, note=" again", keep=9)
    assert listed(tmp_path) == [(1, 0), (2, 0), (3, 0)] and restored(tmp_path) == "3.0 again"
    stems = [f"mask_rcnn_shop_{e:04d}" for e in (1, 2, 3)]
    assert names(tmp_path) == files_of(*stems) | {"checkpoints.json"}


def test_keep_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep=0; keep 1 checkpoint or more"):
        Checkpoints(tmp_path, NAME, keep=0)


# --- Damage -------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def turn_into_a_folder(path):
    path.unlink()
    path.mkdir()


DAMAGE = [
    (cut, "is not what was written"),
    (flip, "is not what was written"),
    (empty, "is not what was written"),
    (Path.unlink, "is missing"),
    (turn_into_a_folder, "can't be read"),
]


@pytest.mark.parametrize("part", [".h5", ".state.h5"])
@pytest.mark.parametrize(("damage", "words"), DAMAGE)
def test_the_checkpoint_before_a_damaged_one_is_used(tmp_path, damage, words, part):
    for epoch in (1, 2, 3):
        save(tmp_path, epoch)
    damage(tmp_path / f"mask_rcnn_shop_0003{part}")
    with pytest.warns(UserWarning, match=rf"0003{part} {words}.*; the checkpoint before it is"):
        assert restored(tmp_path) == "2.0"
    damage(tmp_path / f"mask_rcnn_shop_0002{part}")
    with pytest.warns(UserWarning) as seen:
        assert restored(tmp_path) == "1.0"
    assert len(seen) == 2
    damage(tmp_path / f"mask_rcnn_shop_0001{part}")
    with pytest.raises(CheckpointError, match=r"whole \(.*0003.*0002.*0001.*--weights FILE"):
        Checkpoints(tmp_path, NAME).restore()


def test_a_damaged_middle_falls_back_to_the_epoch_before(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 1, 8)
    flip(tmp_path / "interrupted.h5")
    with pytest.warns(UserWarning, match="interrupted.h5 is not what was written"):
        assert restored(tmp_path) == "1.0"
    save(tmp_path, 1, 3)
    assert restored(tmp_path) == "1.3"


def test_an_older_damaged_one_does_no_harm(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)
    cut(tmp_path / weights(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert restored(tmp_path) == "2.0"
        save(tmp_path, 3)
        assert restored(tmp_path) == "3.0"


@pytest.mark.parametrize(
    "content",
    [b"", b"[", b"null", b"{}", b"[1]", b'[{"epoch": 1}]', b"\xff\xfe\x00", b"\x00" * 300],
)
def test_a_broken_list_is_an_error_that_helps(tmp_path, content):
    save(tmp_path, 1)
    listing = tmp_path / "checkpoints.json"
    listing.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoints.json can't be read .*--weights FILE"):
        Checkpoints(tmp_path, NAME).restore()
    assert listing.read_bytes() == content and (tmp_path / weights(1)).read_text() == "1.0"
    # A run in progress doesn't end of it.
    with pytest.warns(UserWarning, match="checkpoints.json can't be read; it starts anew"):
        save(tmp_path, 2)
    assert restored(tmp_path) == "2.0" and listed(tmp_path) == [(2, 0)]


def test_a_list_without_checksums_is_not_believed(tmp_path):
    save(tmp_path, 1)
    listing = tmp_path / "checkpoints.json"
    entries = json.loads(listing.read_bytes())
    entries[0]["sha256"] = {}
    listing.write_text(json.dumps(entries))
    with pytest.raises(CheckpointError, match="is not what was written"):
        Checkpoints(tmp_path, NAME).restore()
    listing.write_text("[]")
    with pytest.raises(CheckpointError, match="none is listed"):
        Checkpoints(tmp_path, NAME).restore()


def test_a_save_that_fails_leaves_the_one_before(tmp_path):
    save(tmp_path, 1, best=True)

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoints = Checkpoints(tmp_path, NAME)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(full, {}, {"epoch": 2, "step": 0}, best=True)
    with pytest.raises(TypeError):
        checkpoints.save(Path.touch, {}, {"epoch": 2, "step": 0, "best": {1, 2}}, best=True)
    with pytest.raises(KeyError):
        checkpoints.save(Path.touch, {}, {"epoch": 2}, best=True)
    assert restored(tmp_path) == "1.0" and (tmp_path / "best.h5").read_text() == "1.0"
    save(tmp_path, 3, keep=1)
    assert names(tmp_path) == files_of("mask_rcnn_shop_0003") | {"best.h5", "checkpoints.json"}


# --- Death --------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


class Mortal:
    """Counts calls that change a folder, and lets none but the first `lives` of them through.

    What the code does after such an end, as a dead process can't, changes nothing either.
    """

    CALLS = ((os, "replace"), (os, "link"), (os, "unlink"), (os, "fsync"), (tempfile, "mkstemp"))

    def __init__(self, monkeypatch, lives):
        self.monkeypatch, self.lives, self.calls = monkeypatch, lives, 0

    def __enter__(self):
        self.patch = self.monkeypatch.context()
        patch = self.patch.__enter__()
        for module, name in self.CALLS:
            patch.setattr(module, name, self.guard(getattr(module, name), name == "fsync"))
        return self

    def guard(self, call, skip):
        def guarded(*args, **kwargs):
            self.calls += 1
            if self.calls > self.lives:
                raise Killed
            return None if skip else call(*args, **kwargs)

        return guarded

    def __exit__(self, kind, *_):
        self.patch.__exit__(None, None, None)
        return kind is Killed


def each_end(monkeypatch, folder, work, check):
    """Runs `work` on copies of a folder, killed before each of its calls in turn."""
    lives = 0
    while True:
        copy = folder.with_name(f"{folder.name}_{lives}")
        shutil.copytree(folder, copy)
        with Mortal(monkeypatch, lives) as mortal:
            work(copy)
        check(copy)
        shutil.rmtree(copy)
        if mortal.calls <= lives:
            return lives
        lives += 1


# epoch, step, best: two stops in the first epoch, one in the second, and so on
STORY = [(0, 2, 0), (0, 5, 0), (1, 0, 1), (1, 3, 0), (2, 0, 1), (3, 0, 0)]


@pytest.mark.parametrize("keep", [1, 2])
def test_death_at_any_call_costs_no_more_than_that_save(tmp_path, monkeypatch, keep):
    folder, before, best = tmp_path / "run", None, ""
    folder.mkdir()
    for epoch, step, is_best in STORY:

        def work(copy, values=(epoch, step), is_best=is_best):
            save(copy, *values, best=is_best, keep=keep)

        after = f"{epoch}.{step}"
        ends = []

        def check(copy, work=work, possible=(before, after), best=best, ends=ends):
            ends.append(restored(copy))
            assert ends[-1] in possible
            kept = copy / "best.h5"
            assert not best or kept.read_text() in (best, possible[1])
            work(copy)  # the process that goes on does the same again
            assert restored(copy) == possible[1]
            assert not [p for p in names(copy) if p.endswith(".tmp")]
            stems = {p.split(".")[0] for p in names(copy)} - {"best", "checkpoints"}
            assert len(stems) == len(listed(copy)) <= keep + 1

        assert each_end(monkeypatch, folder, work, check) > 10
        assert ends[0] == before and ends[-1] == after and {*ends} == {before, after}
        work(folder)
        before, best = after, after if is_best else best


@pytest.mark.parametrize(("epoch", "step"), [(3, 0), (2, 6)])
def test_death_while_a_damaged_epoch_is_done_again(tmp_path, monkeypatch, epoch, step):
    folder = tmp_path / "run"
    folder.mkdir()
    save(folder, 1)
    save(folder, 2, best=True)
    save(folder, epoch, step, best=not step)
    flip(folder / ("interrupted.h5" if step else weights(epoch)))
    assert quietly_restored(folder) == "2.0"
    ends = []

    def work(copy):
        save(copy, epoch, step, note=" again", best=not step)

    def check(copy):
        ends.append(quietly_restored(copy))
        work(copy)
        assert restored(copy) == f"{epoch}.{step} again"

    each_end(monkeypatch, folder, work, check)
    assert {*ends} == {"2.0", f"{epoch}.{step} again"}


def test_what_the_list_names_is_on_the_disk_before_it(tmp_path, monkeypatch):
    """Power may fail: then names are worth nothing without their content."""
    flushed, events = set(), []
    real = os.replace

    def fsync(handle):
        status = os.fstat(handle)
        flushed.add(status.st_ino)
        events.append("flush")

    def replace(source, target):
        events.append(Path(target).name)
        real(source, target)
        if Path(target).name == "checkpoints.json":
            found = [p for p in tmp_path.iterdir() if not p.name.startswith(".")]
            assert {p.stat().st_ino for p in found} <= flushed

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    save(tmp_path, 1, best=True)
    assert events[-3:] == ["flush", "checkpoints.json", "flush"]
    unlink = os.unlink
    monkeypatch.setattr(os, "unlink", lambda path: (events.append("removed"), unlink(path)))
    save(tmp_path, 2, keep=1)
    assert events[-5:] == ["flush", "checkpoints.json", "flush", "removed", "removed"]


# Counts its saves; every third ends an epoch, and every second epoch is the best.
SAVER = """
import sys
from pathlib import Path
import numpy as np
from mrcnn.training.checkpoints import Checkpoints
from mrcnn.core.files import write_atomically

checkpoints = Checkpoints(sys.argv[1], "Shop", keep=2)
saved = checkpoints.restore()
n = saved.info["n"] if saved else 0
while True:
    n += 1
    content = n.to_bytes(4, "big") * 30_000
    checkpoints.save(
        lambda path: write_atomically(path, content),
        {"a/0": np.frombuffer(content, np.uint8)},
        {"epoch": n // 3, "step": n % 3, "n": n},
        n % 6 == 0,
    )
    print(n, flush=True)
"""


def test_kill_minus_nine_at_random_moments(tmp_path):
    rng, done = random.Random(3), 0
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SAVER, str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            lines = [process.stdout.readline() for _ in range(2)]
            time.sleep(rng.uniform(0, 0.15))
        finally:
            process.send_signal(signal.SIGKILL)
            # Not communicate(), which would pass over what readline() has taken in.
            lines += process.stdout.read().splitlines()
            errors = process.stderr.read()
            process.wait()
            process.stdout.close()
            process.stderr.close()
        assert process.returncode == -signal.SIGKILL and not errors, errors
        assert int(lines[0]) == done + 1  # it went on where the one before had ended
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            saved = Checkpoints(tmp_path, NAME).restore()
        n = saved.info["n"]
        assert int(lines[-1]) <= n <= int(lines[-1]) + 1
        expected = n.to_bytes(4, "big") * 30_000
        assert saved.weights.read_bytes() == saved.arrays["a/0"].tobytes() == expected
        done = n
    best = tmp_path / "best.h5"
    assert int.from_bytes(best.read_bytes()[:4], "big") in (done // 6 * 6, done // 6 * 6 + 6)
