"""Which devices train: one, several of this machine, or those of several machines."""

import json
import os
import re
from dataclasses import dataclass

import tensorflow as tf


@dataclass(frozen=True)
class Cluster:
    """The processes and devices that train in step.

    Attributes:
        strategy: models and optimizers are made in its scope.
        workers: processes.
        index: of this process. The first is the chief, which alone writes files.
    """

    strategy: tf.distribute.Strategy
    workers: int = 1
    index: int = 0

    @property
    def is_chief(self) -> bool:
        return self.index == 0

    @property
    def replicas(self) -> int:
        """Devices of all processes."""
        return self.strategy.num_replicas_in_sync

    @property
    def local_replicas(self) -> int:
        """Devices of this process."""
        return self.replicas // self.workers


def find_cluster(gpu_count: int = 1) -> Cluster:
    """The cluster that the environment describes.

    With TF_CONFIG, or as one of several tasks that Slurm's srun started, all of them train together
    (`MultiWorkerMirroredStrategy`); make it before any other use of TensorFlow. Otherwise
    this process trains, on `gpu_count` devices.

    Args:
        gpu_count: devices of each process: GPUs, or where there are none logical CPUs.

    Raises:
        ValueError: if there are fewer devices, or TF_CONFIG or Slurm's variables can't be read.
    """
    tasks, index, resolver = _tasks()
    if tasks > 1:
        options = tf.distribute.experimental.CommunicationOptions()
        strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
        cluster = Cluster(strategy, tasks, index)
        if cluster.local_replicas != gpu_count:
            raise ValueError(
                f"GPU_COUNT is {gpu_count} but each process trains on {cluster.local_replicas} "
                f"devices; set GPU_COUNT = {cluster.local_replicas}"
            )
        return cluster
    if gpu_count == 1:
        return Cluster(tf.distribute.get_strategy())
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) < gpu_count:
        raise ValueError(
            f"GPU_COUNT is {gpu_count} but there are {len(devices)} devices "
            f"({', '.join(d.name for d in devices)}); set GPU_COUNT = {len(devices)} and raise "
            "IMAGES_PER_GPU for the same batch"
        )
    return Cluster(tf.distribute.MirroredStrategy([d.name for d in devices[:gpu_count]]))


def count_processes() -> int:
    """Processes that train together, by the environment."""
    return _tasks()[0]


def _tasks() -> tuple[int, int, tf.distribute.cluster_resolver.ClusterResolver | None]:
    """Number of processes, index of this one, and the cluster resolver if there are several."""
    text = os.environ.get("TF_CONFIG")
    if text:
        try:
            content = json.loads(text)
            addresses, task = content["cluster"], content["task"]
            # The chief comes first where there is one; else the first worker is it.
            kinds = ("chief", "worker")
            order = [(kind, i) for kind in kinds for i in range(len(addresses.get(kind, ())))]
            index = order.index((task["type"], int(task["index"])))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"TF_CONFIG can't be used ({error!r}): {text}; give it as "
                '{"cluster": {"worker": ["host1:port", "host2:port"]}, '
                '"task": {"type": "worker", "index": 0}}'
            ) from error
        return len(order), index, tf.distribute.cluster_resolver.TFConfigClusterResolver()
    # Set by srun only: of a batch script, however many tasks were asked for, there is one process.
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return _slurm_tasks()
    return 1, 0, None


def _slurm_tasks() -> tuple[int, int, tf.distribute.cluster_resolver.ClusterResolver]:
    """`_tasks` of a Slurm step.

    Not by TensorFlow's own resolver, which fails without GPUs and takes hosts in alphabetical
    order (n10 before n9), while Slurm numbers tasks in the order of its list.
    """
    try:
        index = int(os.environ["SLURM_PROCID"])
        counts = _slurm_counts(os.environ["SLURM_STEP_TASKS_PER_NODE"])
        hosts = _slurm_hosts(os.environ["SLURM_STEP_NODELIST"])
        # Below the ports that systems give out by themselves, and another one for each step.
        number = int(os.environ["SLURM_JOB_ID"]) + int(os.environ.get("SLURM_STEP_ID", 0))
        first = 12_000 + number * 16 % 16_000
        pairs = list(zip(hosts, counts, strict=True))
        addresses = [f"{host}:{first + i}" for host, count in pairs for i in range(count)]
        if len(addresses) != int(os.environ["SLURM_STEP_NUM_TASKS"]):
            raise ValueError(f"{len(addresses)} tasks on {hosts}")
        own = addresses[index]
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(
            f"Slurm started {os.environ['SLURM_STEP_NUM_TASKS']} tasks, but its variables don't say "
            f"where they run ({error!r}); start them by srun, or set TF_CONFIG"
        ) from error
    local = sum(address.split(":")[0] == own.split(":")[0] for address in addresses)
    gpus = _share_gpus(local, int(own.split(":")[1]) - first)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": addresses}),
        task_type="worker",
        task_id=index,
        num_accelerators={"GPU": gpus},
        rpc_layer="grpc",
    )
    return len(addresses), index, resolver


def _share_gpus(tasks: int, place: int) -> int:
    """Takes the share of one of this machine's tasks where all see all its GPUs; returns its size."""
    gpus = tf.config.list_physical_devices("GPU")
    own = "SLURM_GPUS_PER_TASK" in os.environ or tasks == 1  # Slurm shares them out itself
    if not own and len(gpus) >= tasks:
        each = len(gpus) // tasks
        gpus = gpus[place * each : (place + 1) * each]
        tf.config.set_visible_devices(gpus, "GPU")
    return len(gpus)


def _slurm_hosts(text: str) -> list[str]:
    """'n[08-10,12],m' -> ['n08', 'n09', 'n10', 'n12', 'm']."""
    parts = re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", text)
    return [host for part in parts for host in _slurm_expand(part)]


def _slurm_expand(part: str) -> list[str]:
    """One comma-separated part of a node list; it may have several brackets."""
    found = re.fullmatch(r"([^\[]*)\[([^\]]*)\](.*)", part)
    if not found:
        return [part]
    head, spans, tail = found.groups()
    names = []
    for span in spans.split(","):
        low, _, high = span.partition("-")
        names += [f"{head}{n:0{len(low)}}" for n in range(int(low), int(high or low) + 1)]
    return [name + rest for name in names for rest in _slurm_expand(tail)]


def _slurm_counts(text: str) -> list[int]:
    """'2(x3),1' -> [2, 2, 2, 1]."""
    counts: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not found:
            raise ValueError(f"SLURM_STEP_TASKS_PER_NODE is {text!r}")
        counts += [int(found.group(1))] * int(found.group(2) or 1)
    return counts
