"""Ending a training without loss: signals, and processes of a cluster that are gone."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import tensorflow as tf

from mrcnn.training.devices import Cluster


class TrainingStopped(RuntimeError):
    """The run ended before its last epoch, with all saved; the message says how to go on."""


class WorkerLost(RuntimeError):
    """Another process of the cluster is gone."""


class StopSignals:
    """The name of the signal that asks this process to stop, once one came."""

    def __init__(self) -> None:
        self.name: str | None = None

    def note(self, number: int, frame: Any) -> None:
        """A signal handler; a second SIGINT stops at once."""
        if self.name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        # A terminal that is gone, or a print that this one cut in on, must not cost the run.
        with suppress(OSError, RuntimeError, ValueError):
            print(f"\n{self.name}: finishing this step and saving ...", flush=True)


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Within it, SIGINT and SIGTERM are only noted; the loop stops after the step."""
    signals = StopSignals()
    if threading.current_thread() is not threading.main_thread():  # where Python forbids it
        yield signals
        return
    before = {n: signal.signal(n, signals.note) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def workers_may_fail(cluster: Cluster) -> Iterator[None]:
    """Turns TensorFlow's many errors of a lost process into `WorkerLost`."""
    errors = tf.errors
    try:
        yield
    except (
        errors.UnavailableError,
        errors.AbortedError,
        errors.CancelledError,
        errors.DeadlineExceededError,
        errors.InternalError,
    ) as error:
        if cluster.workers == 1:
            raise
        raise WorkerLost(
            "another process of the cluster is gone; start all of them again with --weights last "
            f"to go on from the last checkpoint ({_cause(str(error.message))})"
        ) from error


def _cause(message: str) -> str:
    """The sentence that says why, out of an error that lists the nodes of the graph first."""
    _, marker, cause = message.partition("Collective ops is aborted by: ")
    return " ".join((cause if marker else message).split())[:200]
