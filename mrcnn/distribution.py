"""Which devices train: one, several of this machine, or those of several machines."""

import json
import os
from dataclasses import dataclass
from typing import Any

import tensorflow as tf


@dataclass(frozen=True)
class Cluster:
    """The processes and devices that train in step.

    Attributes:
        strategy: tf.distribute.Strategy; models and optimizers are made in its scope.
        workers: processes.
        index: of this process. The first is the chief, which alone writes files.
    """

    strategy: Any
    workers: int = 1
    index: int = 0

    @property
    def is_chief(self):
        return self.index == 0

    @property
    def replicas(self):
        """Devices of all processes."""
        return self.strategy.num_replicas_in_sync

    @property
    def local_replicas(self):
        """Devices of this process."""
        return self.replicas // self.workers


def find_cluster(gpu_count=1):
    """The cluster that the environment describes.

    With TF_CONFIG, or under Slurm with several tasks, all of them train together
    (`MultiWorkerMirroredStrategy`); make it before any other use of TensorFlow. Otherwise
    this process trains, on `gpu_count` devices.

    Args:
        gpu_count: devices of each process: GPUs, or where there are none logical CPUs.

    Raises:
        ValueError: if there are fewer devices, or TF_CONFIG can't be read.
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


def count_processes():
    """Processes that train together, by the environment; 1 without a word of others."""
    return _tasks()[0]


def _tasks():
    """(processes, index of this one, cluster resolver)."""
    text = os.environ.get("TF_CONFIG")
    if text:
        try:
            content = json.loads(text)
            addresses, task = content["cluster"], content["task"]
            # The chief comes first where there is one; else the first worker is it.
            order = [(kind, i) for kind in ("chief", "worker") for i in _range(addresses, kind)]
            index = order.index((task["type"], int(task["index"])))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"TF_CONFIG can't be used ({error!r}): {text}; give it as "
                '{"cluster": {"worker": ["host1:port", "host2:port"]}, '
                '"task": {"type": "worker", "index": 0}}'
            ) from error
        return len(order), index, tf.distribute.cluster_resolver.TFConfigClusterResolver()
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", os.environ.get("SLURM_NTASKS", 1)))
    if tasks > 1 and "SLURM_PROCID" in os.environ:
        try:
            resolver = tf.distribute.cluster_resolver.SlurmClusterResolver({"worker": tasks})
        except (OSError, KeyError, RuntimeError) as error:
            raise ValueError(
                f"Slurm's variables tell of {tasks} tasks, but where they run can't be found out "
                f"({error!r}); start them by srun where scontrol is, or set TF_CONFIG"
            ) from error
        return tasks, int(os.environ["SLURM_PROCID"]), resolver
    return 1, 0, None


def _range(addresses, kind):
    return range(len(addresses.get(kind, ())))
