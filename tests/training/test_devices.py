"""Training on several devices, in several processes, and in parts: the same weights each time."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.helpers import ROOT
from tests.helpers.shapes import SmallConfig, shapes

pytestmark = pytest.mark.tf
WORKER = ROOT / "tests" / "helpers" / "distributed_worker.py"
STARTED: list[subprocess.Popen] = []


class Four(SmallConfig):
    IMAGES_PER_GPU = 4
    STEPS_PER_EPOCH = 3


def new_model(folder):
    import keras

    from mrcnn.model import MaskRCNN

    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    return MaskRCNN("training", Four(), str(folder))


def weights_in(model):
    return [v.numpy() for v in model.keras_model.variables]


def train_here(folder, **options):
    model = new_model(folder)
    options = {"seed": 5, "workers": 0, "show_progress": False, **options}
    rows = model.train(shapes(8), shapes(4), 0.01, 1, "all", **options)
    return rows[0], weights_in(model)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """(row of the log, weights) after three steps of four images on one device."""
    return train_here(tmp_path_factory.mktemp("alone"))


def check_equal(weights, expected):
    """To what sums in another order leave of float32: three steps move weights by up to 1e-2."""
    assert len(weights) == len(expected)
    for ours, theirs in zip(weights, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.fixture(autouse=True)
def no_process_is_left():
    """A test that fails must not leave its workers waiting for each other."""
    yield
    for process in STARTED:
        process.kill()
        process.wait()
    STARTED.clear()


def start(folder, devices, images, epochs, task=None, ports=(), job=None):
    environment = dict(os.environ)
    if job is not None:
        environment |= slurm(task, "localhost", "2", 2, job)
    elif task is not None:
        workers = [f"localhost:{port}" for port in ports]
        task = {"type": "worker", "index": task}
        environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
    command = [sys.executable, WORKER, folder, devices, images, epochs]
    process = subprocess.Popen(
        list(map(str, command)),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    STARTED.append(process)
    return process


def slurm(index, hosts, counts, tasks, job):
    """What Slurm's srun tells a task."""
    return {
        "SLURM_PROCID": str(index),
        "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_STEP_NODELIST": hosts,
        "SLURM_STEP_TASKS_PER_NODE": counts,
        "SLURM_JOB_ID": str(job),
        "SLURM_STEP_ID": "0",
    }


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("localhost", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def weights_of(folder, index):
    with np.load(folder / f"weights_{index}.npz") as arrays:
        return [arrays[str(i)] for i in range(len(arrays))]


def test_the_steps_change_the_weights(alone):
    """Else the comparisons below would say nothing."""
    row, weights = alone
    assert row["mrcnn_mask_loss"] > 0 and row["mrcnn_bbox_loss"] > 0
    before = weights_in(new_model("logs"))
    moved = [np.abs(a - b).max() for a, b in zip(weights, before, strict=True)]
    assert sum(m > 1e-4 for m in moved) > 50


def test_a_batch_in_parts_equals_the_whole_batch(alone, tmp_path):
    row, weights = train_here(tmp_path, accumulate=2)
    check_equal(weights, alone[1])
    for name, value in alone[0].items():
        if name not in ("seconds", "data_wait_share"):
            assert row[name] == pytest.approx(value, rel=1e-4), name


@pytest.mark.slow
def test_two_devices_equal_one(alone, tmp_path):
    process = start(tmp_path, devices=2, images=2, epochs=1)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    check_equal(weights_of(tmp_path, 0), alone[1])


@pytest.mark.slow
def test_two_processes_equal_one_and_only_the_chief_writes(alone, tmp_path):
    ports = free_ports(2)
    processes = [start(tmp_path, 1, 2, 1, task, ports) for task in (0, 1)]
    outputs = [p.communicate(timeout=300)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], "\n".join(outputs)
    for index in (0, 1):
        check_equal(weights_of(tmp_path, index), alone[1])
    (run,) = (p for p in tmp_path.iterdir() if p.is_dir())
    assert "Run folder" in outputs[0] and "Run folder" not in outputs[1]
    row = json.loads((run / "log.jsonl").read_text())
    for name in ("loss", "val_loss", "mrcnn_mask_loss"):
        assert row[name] == pytest.approx(alone[0][name], rel=1e-4), name


@pytest.mark.slow
def test_a_lost_process_stops_the_other_and_the_run_goes_on(tmp_path):
    ports = free_ports(2)
    chief, other = (start(tmp_path, 1, 2, 1000, task, ports) for task in (0, 1))
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("*/checkpoints.json")):
        assert chief.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    other.send_signal(signal.SIGKILL)
    output, _ = chief.communicate(timeout=120)
    assert chief.returncode == 3, output
    assert "another process of the cluster is gone" in output and "--weights last" in output
    assert "Graph execution error" not in output.partition("is gone")[2]

    (listing,) = tmp_path.glob("*/checkpoints.json")
    done = json.loads(listing.read_text())[-1]["epoch"]
    ports = free_ports(2)
    processes = [start(tmp_path, 1, 2, done + 1, task, ports) for task in (0, 1)]
    outputs = [p.communicate(timeout=300)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], "\n".join(outputs)
    rows = [json.loads(line) for line in (listing.parent / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, done + 2))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "TF_CONFIG can't be used"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 3}}', "worker"),
    ],
)
def test_a_broken_tf_config_is_refused(monkeypatch, text, words):
    from mrcnn.training.devices import find_cluster

    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=words):
        find_cluster()


def test_more_devices_than_there_are(monkeypatch):
    from mrcnn.training.devices import find_cluster

    with pytest.raises(ValueError, match="GPU_COUNT is 7 but there"):
        find_cluster(7)
    assert find_cluster().replicas == 1


@pytest.mark.slow
def test_two_tasks_of_slurm_equal_one_process(alone, tmp_path):
    """On machines without GPUs too."""
    job = os.getpid()  # the ports follow from it
    processes = [start(tmp_path, 1, 2, 1, task, job=job) for task in (0, 1)]
    outputs = [p.communicate(timeout=300)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], "\n".join(outputs)
    for index in (0, 1):
        check_equal(weights_of(tmp_path, index), alone[1])


def test_tasks_of_slurm_are_numbered_in_the_order_of_its_list(monkeypatch):
    """Not of the alphabet, in which n10 comes before n9."""
    from mrcnn.training.devices import _tasks, count_processes

    for name, value in slurm(3, "gpu[9-10],m,r[01-02]n[1,3]", "2(x2),1,1(x4)", 9, 7).items():
        monkeypatch.setenv(name, value)
    count, index, resolver = _tasks()
    assert (count, index, count_processes()) == (9, 3, 9)
    addresses = resolver.cluster_spec().as_dict()["worker"]
    hosts = [address.split(":")[0] for address in addresses]
    assert hosts == ["gpu9"] * 2 + ["gpu10"] * 2 + ["m", "r01n1", "r01n3", "r02n1", "r02n3"]
    assert len(set(addresses)) == 9
    assert (resolver.task_type, resolver.task_id) == ("worker", 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"SLURM_STEP_NODELIST": None},
        {"SLURM_STEP_NODELIST": "n[a-b]"},
        {"SLURM_STEP_TASKS_PER_NODE": "x"},
        {"SLURM_STEP_TASKS_PER_NODE": "1,1"},
        {"SLURM_STEP_TASKS_PER_NODE": "2"},
        {"SLURM_PROCID": "7"},
    ],
)
def test_broken_variables_of_slurm_are_refused(monkeypatch, changes):
    from mrcnn.training.devices import find_cluster

    for name, value in (slurm(1, "n1", "3", 3, 7) | changes).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="3 tasks.*srun, or set TF_CONFIG"):
        find_cluster()


def test_a_batch_script_of_slurm_is_one_process(monkeypatch):
    """Its variables tell of the tasks that srun could start, but it didn't."""
    from mrcnn.training.devices import find_cluster

    for name, value in {"SLURM_NTASKS": "3", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    assert find_cluster().workers == 1


def test_gpus_of_a_machine_are_shared_by_its_tasks(monkeypatch):
    import tensorflow as tf

    from mrcnn.training.devices import _share_gpus

    seen = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a", "b", "c", "d"])
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda gpus, kind: seen.append(gpus))
    assert _share_gpus(tasks=2, place=1) == 2 and seen == [["c", "d"]]
    assert _share_gpus(tasks=1, place=0) == 4 and _share_gpus(tasks=8, place=5) == 4
    monkeypatch.setenv("SLURM_GPUS_PER_TASK", "4")  # then each sees its own already
    assert _share_gpus(tasks=2, place=1) == 4 and len(seen) == 1
