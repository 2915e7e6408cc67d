"""Run folders that strangers, other programs or failing disks had their hands in."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

from mrcnn.core.files import write_atomically
from mrcnn.training import run_folders
from mrcnn.training.checkpoints import CheckpointError, Checkpoints
from tests.helpers import ROOT
from tests.helpers.hostile_runs import ARRAYS, INFO, LISTS, STATES, noisy, relist, rewrite

NAME = "Shop"
FIRST, SECOND, THIRD = (f"mask_rcnn_shop_{n:04d}" for n in (1, 2, 3))


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def alarm():
    """A pipe that something waits for must not hold up all tests."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def save(folder, epoch, step=0, **options):
    info = {**INFO, "epoch": epoch, "step": step}
    Checkpoints(folder, NAME, **options).save(
        lambda path: write_atomically(path, f"{epoch}.{step}".encode()), ARRAYS, info, best=True
    )


def restored(folder):
    """(weights file, its content) of what `restore` gives with the schema of a real training."""
    from mrcnn.training.loop import Saved

    found = Checkpoints(folder, NAME, schema=Saved).restore()
    assert found.arrays.keys() == ARRAYS.keys()
    return found.weights.name, found.weights.read_text()


@pytest.fixture
def run(tmp_path):
    """A run folder that was stopped in its third epoch."""
    folder = tmp_path / "run"
    folder.mkdir()
    save(folder, 1)
    save(folder, 2)
    save(folder, 2, 1)
    return folder


# --- States and lists -----------------------------------------------------------------------------


@pytest.mark.tf
@pytest.mark.parametrize("case", STATES)
def test_a_wrong_state_with_a_right_checksum(run, case):
    assert restored(run) == ("interrupted.h5", "2.1")
    rewrite(run, STATES[case])
    with pytest.warns(UserWarning, match=r"interrupted.state.h5 .*; the checkpoint before it is"):
        assert restored(run) == (f"{SECOND}.h5", "2.0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(run, 2, 1)
    assert restored(run) == ("interrupted2.h5", "2.1")


@pytest.mark.tf
def test_noise_in_a_state_file(run):
    """What it is found to be depends on the place; never is it an error, or half a state."""
    content = (run / "interrupted.state.h5").read_bytes()
    found = []
    for seed in range(150):
        (run / "interrupted.state.h5").write_bytes(content)
        rewrite(run, noisy(seed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(restored(run)[1])
    assert set(found) == {"2.0", "2.1"} and found.count("2.0") > 30


@pytest.mark.tf
@pytest.mark.parametrize("case", LISTS)
def test_a_list_that_names_what_no_run_writes(run, case):
    relist(run, LISTS[case])
    before = {p: p.read_bytes() for p in run.parent.rglob("*") if p.is_file()}
    with pytest.warns(UserWarning, match="the checkpoint before it is used"):
        assert restored(run) == (f"{SECOND}.h5", "2.0")
    assert {p: p.read_bytes() for p in run.parent.rglob("*") if p.is_file()} == before


def test_lists_of_older_versions_have_no_layout(run):
    entries = json.loads((run / "checkpoints.json").read_bytes())
    for entry in entries:
        del entry["layout"]
    (run / "checkpoints.json").write_text(json.dumps(entries))
    assert Checkpoints(run, NAME).restore().weights.name == "interrupted.h5"


def test_a_run_of_another_name_goes_on(run):
    """`--resume RUN` needs no --name."""
    assert Checkpoints(run, "other").restore().weights.name == "interrupted.h5"


# --- Files of others ------------------------------------------------------------------------------


def put(path, kind):
    if kind == "a folder":
        path.mkdir()
        (path / "mine.txt").write_text("mine")
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a link":
        (path.parent / "target.txt").write_text("mine")
        path.symlink_to(path.parent / "target.txt")
    elif kind == "a dangling link":
        path.symlink_to(path.parent / "nothing")
    else:
        path.write_text("mine")


def look(path):
    """What is at a path, followed into folders and links."""
    status = os.lstat(path)
    if path.is_dir():
        return status.st_ino, (path / "mine.txt").read_text()
    if path.is_symlink():
        return status.st_ino, os.readlink(path), path.exists() and path.read_text()
    return status.st_ino, path.is_file() and path.read_text()


KINDS = ["a file", "a folder", "a pipe", "a link", "a dangling link"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [f"{THIRD}.h5", f"{THIRD}.state.h5"])
def test_a_file_of_somebody_by_the_name_of_the_next_checkpoint(run, alarm, kind, name):
    if kind == "a file" and "state" in name:
        pytest.skip("nothing tells it from the half that a killed process left")
    put(run / name, kind)
    before = look(run / name)
    with pytest.warns(UserWarning, match=f"{THIRD}.h5 is not of this run; it stays"):
        save(run, 3)
    assert Checkpoints(run, NAME).restore().weights.name == f"{THIRD}.2.h5"
    assert look(run / name) == before and (run / "best.h5").read_text() == "3.0"
    for epoch in (4, 5, 6, 7):
        save(run, epoch, keep=1)
    assert look(run / name) == before
    kept = {n for n in os.listdir(run) if n.startswith("mask_rcnn")}
    assert kept == {name, "mask_rcnn_shop_0007.h5", "mask_rcnn_shop_0007.state.h5"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["interrupted.h5", "interrupted2.h5"])
def test_a_file_of_somebody_by_the_name_of_the_middle_of_an_epoch(tmp_path, alarm, kind, name):
    save(tmp_path, 1)
    put(tmp_path / name, kind)
    before = look(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in (1, 2, 3, 4):
            save(tmp_path, 1, step)
            assert Checkpoints(tmp_path, NAME).restore().weights.read_text() == f"1.{step}"
    assert look(tmp_path / name) == before
    save(tmp_path, 2, keep=1)
    assert look(tmp_path / name) == before
    kept = {n for n in os.listdir(tmp_path) if n.startswith("interrupted")}
    assert kept == {name}


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_best_of_somebody(tmp_path, alarm, kind):
    put(tmp_path / "best.h5", kind)
    before = look(tmp_path / "best.h5")
    for epoch in (1, 2):
        with pytest.warns(UserWarning, match=r"best.h5 is not of this run; it stays"):
            save(tmp_path, epoch)
    assert look(tmp_path / "best.h5") == before
    assert Checkpoints(tmp_path, NAME).restore().weights.read_text() == "2.0"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [".h5", ".state.h5"])
def test_a_file_of_somebody_in_place_of_a_checkpoint(run, alarm, kind, end):
    for old in (f"interrupted{end}", f"{SECOND}{end}"):
        (run / old).unlink()
        put(run / old, kind)
    before = look(run / f"{SECOND}{end}")
    with pytest.warns(UserWarning, match="the checkpoint before it is used"):
        assert Checkpoints(run, NAME).restore().weights.name == f"{FIRST}.h5"
    if kind != "a file":  # which with a state beside it is taken for one of ours
        with pytest.warns(UserWarning, match="is not of this run"):
            save(run, 2)
        assert look(run / f"{SECOND}{end}") == before
        assert Checkpoints(run, NAME).restore().weights.name == f"{SECOND}.2.h5"


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_list_that_is_no_file(tmp_path, alarm, kind):
    put(tmp_path / "checkpoints.json", kind)
    before = look(tmp_path / "checkpoints.json")
    with pytest.raises(CheckpointError, match=r"checkpoints.json can't be read"):
        Checkpoints(tmp_path, NAME).restore()
    with pytest.raises(OSError, match=r"it is no regular file.*those before it"):
        save(tmp_path, 1)
    assert look(tmp_path / "checkpoints.json") == before


# --- Full disks -----------------------------------------------------------------------------------

FULL = """
import os, resource, sys
import numpy as np
from mrcnn.core.files import write_atomically
from mrcnn.training.checkpoints import Checkpoints

folder, room = sys.argv[1], int(sys.argv[2])
def save(epoch):
    arrays = {f"optimizer/{i}": np.full(1000, epoch, np.float32) for i in range(150)}
    weights = lambda path: write_atomically(path, bytes([epoch]) * 500_000)
    Checkpoints(folder, "Shop").save(weights, arrays, {"epoch": epoch, "step": 0}, epoch == 1)
save(1)
if room:
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
try:
    for epoch in range(2, 99):
        save(epoch)
except OSError as error:
    print(error)
    sys.exit(2)
"""


def fill(folder, room=0):
    command = [sys.executable, "-c", FULL, str(folder), str(room)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (2, ""), done
    (line,) = done.stdout.splitlines()
    found = Checkpoints(folder, NAME).restore()
    epoch = found.info["epoch"]
    assert f"the checkpoint after epoch {epoch + 1}, step 0 can't be written" in line
    assert "those before it" in line and "continue from the last one" in line
    assert found.weights.read_bytes() == bytes([epoch]) * 500_000
    assert all((array == epoch).all() for array in found.arrays.values())
    assert (folder / "best.h5").read_bytes() == b"\1" * 500_000
    stems = {name.split(".")[0] for name in os.listdir(folder)}
    kept = [f"mask_rcnn_shop_{n:04d}" for n in range(max(1, epoch - 2), epoch + 1)]
    assert stems == {"best", "checkpoints", *kept}  # nothing half, nothing temporary
    return epoch


@pytest.mark.parametrize("room", [1, 300_000, 499_000])
def test_no_file_may_grow(tmp_path, room):
    """The state, which is larger than the weights, fails at its start, middle, or close."""
    assert fill(tmp_path, room) == 1


def test_a_full_disk(tmp_path):
    """A real one, where this process may mount it."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk needs more rights")
    try:
        assert fill(tmp_path) == 3
        (tmp_path / f"{FIRST}.h5").unlink()
        assert Checkpoints(tmp_path, NAME).restore().info["epoch"] == 3
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# --- Several processes ----------------------------------------------------------------------------

HOLD = """
import sys
from mrcnn.training.run_folders import RunInUse, held
try:
    with held(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.read()
except RunInUse as error:
    print(error)
"""


def hold(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return process, process.stdout.readline()


def end(process):
    process.kill()
    process.communicate()


def test_one_training_a_folder(tmp_path):
    first, line = hold(tmp_path)
    try:
        assert line == "held\n"
        second, line = hold(tmp_path)
        end(second)
        assert f"another training works in {tmp_path} (process {first.pid} on " in line
        assert line.endswith("); wait for its end, or start a new run\n")
        with pytest.raises(run_folders.RunInUse), run_folders.held(tmp_path):
            pass
    finally:
        end(first)  # kill -9: the system lets go
    third, line = hold(tmp_path)
    end(third)
    assert line == "held\n"
    with (
        run_folders.held(tmp_path),
        pytest.raises(run_folders.RunInUse, match=f"process {os.getpid()} on "),
        run_folders.held(tmp_path),
    ):
        pass
    with run_folders.held(tmp_path):
        pass


def test_a_folder_that_can_not_be_locked_is_used_with_a_warning(tmp_path):
    (tmp_path / run_folders.LOCK).mkdir()
    warned = pytest.warns(UserWarning, match=r"can't be locked .* start no second training")
    with warned, run_folders.held(tmp_path):
        pass


@pytest.mark.slow
@pytest.mark.tf
def test_a_training_that_is_killed_at_random_moments_ends_as_one_that_is_not(tmp_path):
    """kill -9 of a real training that saves at least once a second; KILLS=20 for more of them."""
    rng, kills = np.random.default_rng(7), int(os.environ.get("KILLS", 2))
    worker = ROOT / "tests" / "helpers" / "distributed_worker.py"

    def start(folder):
        command = map(str, [sys.executable, worker, folder, 1, 2, 6 * (kills + 1)])
        folder.mkdir(exist_ok=True)
        return subprocess.Popen([*command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def listed(folder):
        return [path.read_bytes() for path in folder.glob("*/checkpoints.json")]

    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert start(straight).wait(timeout=300) == 0
    for _ in range(kills):
        before, process = listed(killed), start(killed)
        while listed(killed) == before:
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 2))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert start(killed).wait(timeout=300) == 0
    with np.load(straight / "weights_0.npz") as one, np.load(killed / "weights_0.npz") as two:
        assert len(one.files) > 50 and one.files == two.files
        assert all(one[name].tobytes() == two[name].tobytes() for name in one.files)
    (folder,) = (p for p in killed.iterdir() if p.is_dir())
    assert len((folder / "log.jsonl").read_text().splitlines()) == 6 * (kills + 1)
    assert not list(folder.glob("*.tmp"))


START = """
import sys, time
from mrcnn.training.run_folders import make_run_folder, run_folder
while time.time() < float(sys.argv[2]):
    pass
print(make_run_folder(run_folder(sys.argv[1], "Shop")).name)
"""


def test_runs_that_start_at_the_same_moment_get_folders_of_their_own(tmp_path):
    moment = time.time() + 1.5
    command = [sys.executable, "-c", START, str(tmp_path), str(moment)]
    started = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    names = [process.communicate(timeout=60)[0].strip() for process in started]
    assert len(set(names)) == 4 and sorted(names) == sorted(os.listdir(tmp_path))
    assert [p.name for p in run_folders.run_folders(tmp_path, NAME)] == sorted(names)[::-1]


def test_the_last_is_so_by_name_and_not_by_clock(tmp_path):
    rng = np.random.default_rng(5)
    times = [f"2026010{day}T{hour:02d}00" for day in (1, 2) for hour in (3, 11)]
    for name in times:
        folder = tmp_path / f"shop{name}"
        folder.mkdir()
        save(folder, 1)
        save(folder, 2)
    for _ in range(5):
        for path in tmp_path.rglob("*"):
            os.utime(path, (moment := int(rng.integers(1, 2**31)), moment))
        last = tmp_path / f"shop{times[-1]}"
        assert run_folders.find_last_run(tmp_path, NAME) == last
        assert run_folders.find_last(tmp_path, NAME) == str(last / f"{SECOND}.h5")
        assert Checkpoints(last, NAME).restore().weights.name == f"{SECOND}.h5"
