"""The training loop: epochs, validation, checkpoints, logs, and stopping without loss.

What an epoch does depends on the state it starts from, the seed and its number only, so that a
run that goes on from a checkpoint gives the same weights, bit by bit, as one that never
stopped (on one CPU; other devices may add in another order).
"""

import math
import signal
import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from mrcnn.training.step import Trainer, make_optimizer, set_trainable, total_loss

__all__ = ["Trainer", "Training", "fit", "make_optimizer", "set_trainable", "total_loss"]


class TrainingStopped(RuntimeError):
    """The run ended before its last epoch, with all saved; the message says how to go on."""


class WorkerLost(RuntimeError):
    """Another process of the cluster is gone."""


@dataclass
class Progress:
    """Where a training stands: whole epochs done, and how far the next one is.

    Attributes:
        epoch, step: epochs done, and steps done in the next.
        sums: of each loss over those steps.
        seconds, waited: their time, and the part of it spent waiting for data.
        best, best_epoch: the best value so far of what epochs are judged by.
        since: epoch that this stage began after; early stopping counts from there.
    """

    epoch: int = 0
    step: int = 0
    sums: dict = field(default_factory=dict)
    seconds: float = 0.0
    waited: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    since: int = 0

    def begin_epoch(self, epoch):
        self.epoch, self.step, self.sums = epoch, 0, {}
        self.seconds = self.waited = 0.0

    def add(self, losses):
        self.step += 1
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self):
        return {name: total / self.step for name, total in self.sums.items()}


@dataclass
class Training:
    """What `fit` is to do.

    Attributes:
        epochs: the last epoch, counted from the first ever, as in Keras.
        steps_per_epoch, validation_steps: batches of an epoch.
        schedule: `mrcnn.training.schedules.Schedule`; None leaves the rate to the optimizer and the
            callbacks.
        checkpoints: `Checkpoints`, or None to write none.
        save_weights: f(path) that writes a weights file.
        log: `RunLog`, or None.
        callbacks: Keras callbacks; they get the original's log names.
        early_stopping: end this stage after so many epochs of it without a better one; 0 never
            does.
        score: f() -> number to judge an epoch by, higher is better; None takes the validation
            loss (without one the loss), lower is better.
        score_name: its name in the log.
        samples: f() -> [(name, image)] to log after each epoch.
        describe, describe_validation: f(batch) -> names of its images, for messages.
        show_progress: whether to print.
        stage: str, written into checkpoints: the optimizer's state fits this stage only.
    """

    epochs: int
    steps_per_epoch: int
    validation_steps: int = 0
    schedule: Any = None
    checkpoints: Any = None
    save_weights: Any = None
    log: Any = None
    callbacks: tuple = ()
    early_stopping: int = 0
    score: Any = None
    score_name: str = "score"
    samples: Any = None
    describe: Any = None
    describe_validation: Any = None
    show_progress: bool = True
    stage: str = "all"


def fit(trainer, train_loader, val_loader, plan, progress=None):
    """Trains from where `progress` stands to the end of the plan.

    Args:
        trainer: `Trainer`.
        train_loader, val_loader: have epoch(number, steps, start) that yields batches, and
            wait_seconds; val_loader may be None.
        plan: `Training`.
        progress: `Progress`; None starts anew.

    Returns:
        list of dicts, the rows of the log that this call added.

    Raises:
        FloatingPointError: as soon as a loss isn't finite; the last checkpoint stays.
        TrainingStopped: after SIGINT or SIGTERM: the step was finished and all is saved.
        WorkerLost: if another process of the cluster is gone.
    """
    progress = progress or Progress()
    trainer.model.stop_training = False
    numbers = {"epochs": plan.epochs, "steps": plan.steps_per_epoch, "verbose": 0}
    hooks = keras.callbacks.CallbackList(list(plan.callbacks), model=trainer.model, **numbers)
    rows = []
    hooks.on_train_begin()
    with stop_signals() as signals, workers_may_fail(trainer):
        for epoch in range(progress.epoch, plan.epochs):
            if _waited_enough(progress, plan):
                break
            hooks.on_epoch_begin(epoch)
            _train_epoch(trainer, train_loader, plan, progress, hooks, signals)
            logs = progress.means()
            logs.update(_validate(trainer, val_loader, plan, progress, signals))
            row, note = _finish_epoch(trainer, plan, progress, logs)
            rows.append(row)
            if plan.show_progress:
                print(_summary(row) + (f"\n{note}" if note else ""))
            hooks.on_epoch_end(epoch, {**logs, "learning_rate": row["learning_rate"]})
            if signals.agreed(trainer):
                raise _stopped(plan, f"after epoch {epoch + 1}")
            if trainer.model.stop_training:
                break
    hooks.on_train_end()
    return rows


def _waited_enough(progress, plan):
    """Whether early stopping ends the stage. Asked before each epoch, so that a run that goes on
    after it was stopped early stays stopped."""
    waited = progress.epoch - max(progress.best_epoch, progress.since)
    if not plan.early_stopping or progress.step or waited < plan.early_stopping:
        return False
    if plan.show_progress:
        print(f"stopped early: no better epoch than epoch {progress.best_epoch}")
    return True


def _train_epoch(trainer, loader, plan, progress, hooks, signals):
    """The steps of the epoch that `progress` stands in."""
    epoch, steps = progress.epoch, plan.steps_per_epoch
    before = (time.perf_counter(), loader.wait_seconds, progress.seconds, progress.waited)
    bar = tqdm(
        total=steps,
        initial=progress.step,
        desc=f"epoch {epoch + 1}/{plan.epochs}",
        disable=not plan.show_progress,
        dynamic_ncols=True,
    )
    batches = loader.epoch(epoch, steps, progress.step)
    try:
        with bar:
            for batch in batches:
                if plan.schedule is not None:
                    rate = plan.schedule.rate(epoch * steps + progress.step)
                    trainer.optimizer.learning_rate = rate
                hooks.on_train_batch_begin(progress.step)
                where = f"epoch {epoch + 1}, step {progress.step + 1}"
                losses = _finite(trainer.train(batch), where, plan, batch, plan.describe)
                hooks.on_train_batch_end(progress.step, losses)
                progress.add(losses)
                progress.seconds = before[2] + time.perf_counter() - before[0]
                progress.waited = before[3] + loader.wait_seconds - before[1]
                _show(bar, progress, len(batch[0]) * _workers(trainer))
                if signals.agreed(trainer):
                    _save(trainer, plan, progress)
                    raise _stopped(plan, f"in epoch {epoch + 1}, step {progress.step}")
    finally:
        batches.close()


def _show(bar, progress, pictures):
    mean = progress.means()
    losses = {k.removeprefix("mrcnn_").removesuffix("_loss"): v for k, v in mean.items()}
    text = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
    seconds = max(progress.seconds, 1e-9)
    rate = pictures * progress.step / seconds
    bar.set_postfix_str(
        f"{text}, {rate:.1f} pictures/s, {progress.waited / seconds:.0%} waiting", refresh=False
    )
    bar.update()


def _workers(trainer):
    cluster = getattr(trainer, "cluster", None)
    return cluster.workers if cluster else 1


def _validate(trainer, loader, plan, progress, signals):
    """{"val_loss": ..., ...}: means over the same images each time.

    A signal ends it: the epoch's steps are saved, and the validation starts anew later.
    """
    if loader is None or not plan.validation_steps:
        return {}
    sums, stop = Progress(), False
    after = f"the validation after epoch {progress.epoch + 1}"
    with trainer.averaged(), closing(loader.epoch(0, plan.validation_steps, 0)) as batches:
        for batch in batches:
            where = f"{after}, step {sums.step + 1}"
            sums.add(_finite(trainer.validate(batch), where, plan, batch, plan.describe_validation))
            stop = signals.agreed(trainer)
            if stop:
                break
    if stop:
        _save(trainer, plan, progress)
        raise _stopped(plan, f"in {after}")
    return {f"val_{name}": value for name, value in sums.means().items()}


def _finish_epoch(trainer, plan, progress, logs):
    """Judges, saves and logs an epoch. Returns (row of the log, note or None)."""
    monitored = logs.get("val_loss", logs["loss"])
    row = {
        "epoch": progress.epoch + 1,
        **logs,
        "learning_rate": float(trainer.optimizer.learning_rate.numpy()),
        "seconds": progress.seconds,
        "data_wait_share": progress.waited / max(progress.seconds, 1e-9),
    }
    value = -monitored
    if plan.score is not None:
        with trainer.averaged():
            value = row[plan.score_name] = float(plan.score())
    note = plan.schedule.end_epoch(monitored) if plan.schedule is not None else None
    progress.begin_epoch(progress.epoch + 1)
    is_best = progress.best is None or value > progress.best
    if is_best:
        progress.best, progress.best_epoch = value, progress.epoch
    _save(trainer, plan, progress, is_best)
    if plan.log is not None:
        plan.log.write(row)
        if plan.samples is not None:
            with trainer.averaged():
                for name, picture in plan.samples():
                    plan.log.picture(name, picture, row["epoch"])
    return row, note


def _save(trainer, plan, progress, best=False):
    if plan.checkpoints is None:
        return
    _check_weights(trainer, plan)
    info = {**asdict(progress), "stage": plan.stage, "total_steps": trainer.step}
    if plan.schedule is not None:
        info["schedule"] = plan.schedule.state()
    arrays = trainer.state()

    def write(path):
        with trainer.averaged():
            plan.save_weights(path)

    plan.checkpoints.save(write, arrays, info, best)


def resume(trainer, saved, plan):
    """Puts a saved state back into a trainer and a plan's schedule.

    Args:
        trainer: `Trainer` whose model has the weights of the checkpoint.
        saved: `Saved`.
        plan: `Training`.

    Returns:
        `Progress`.
    """
    info = dict(saved.info)
    trainer.step = info.pop("total_steps")
    stage, schedule = info.pop("stage"), info.pop("schedule", None)
    trainer.load_weights(saved.arrays)
    progress = Progress(**info)
    if stage == plan.stage:  # a new stage begins with a new optimizer, as the original's do
        trainer.load_state(saved.arrays)
        if plan.schedule is not None and schedule:
            plan.schedule.restore(schedule)
    else:
        progress.since = progress.epoch
    return progress


def _finite(losses, where, plan, batch, describe):
    """dict of name -> float; raises if one isn't finite."""
    values = {name: float(value) for name, value in losses.items()}
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if broken:
        named = describe(batch) if describe else ()
        pictures = f"\npictures of this step: {', '.join(named)}" if named else ""
        raise FloatingPointError(
            f"{', '.join(broken)} not finite in {where} ({values}); "
            f"lower the learning rate, or look at the images{pictures}{_kept(plan)}"
        )
    return values


def _check_weights(trainer, plan):
    """Raises if weights aren't finite: a step can break them though its own loss was sound, and
    without a validation nothing would show it before good checkpoints made room for them."""
    variables = trainer.model.variables
    broken = [v.path for v in variables if not np.isfinite(v.numpy()).all()]
    if broken:
        raise FloatingPointError(
            f"{len(broken)} weights, such as {broken[0]}, are not finite, so they were not saved; "
            f"lower the learning rate{_kept(plan)}"
        )


def _kept(plan):
    if not plan.checkpoints:
        return ""
    if plan.checkpoints.is_empty:
        return f"\nno checkpoint was written to {plan.checkpoints.folder} before that"
    return f"\nthe checkpoints in {plan.checkpoints.folder} stay"


# --- Stopping ---------------------------------------------------------------------------------


class _Signals:
    """Whether a signal came; `agreed` asks all processes, so that all stop at the same step."""

    def __init__(self):
        self.name = None

    def agreed(self, trainer):
        if _workers(trainer) == 1:
            return self.name is not None
        return trainer.any(self.name is not None)


@contextmanager
def stop_signals():
    """Takes SIGINT and SIGTERM as a wish to stop after the step; a second SIGINT stops at once."""
    signals = _Signals()
    if threading.current_thread() is not threading.main_thread():  # where Python forbids it
        yield signals
        return

    def note(number, _):
        if signals.name and number == signal.SIGINT:
            raise KeyboardInterrupt
        signals.name = signal.Signals(number).name
        # A terminal that is gone, or a print that this one cut in on, must not cost the run.
        with suppress(OSError, RuntimeError, ValueError):
            print(f"\n{signals.name}: finishing this step and saving ...", flush=True)

    before = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stopped(plan, where):
    saved = f"; saved in {plan.checkpoints.folder}" if plan.checkpoints else ""
    return TrainingStopped(
        f"stopped {where}{saved}. Go on with the same command and --weights last"
    )


@contextmanager
def workers_may_fail(trainer):
    """Says plainly what TensorFlow's many errors of a lost process mean."""
    try:
        yield
    except tf.errors.OpError as error:
        lost = (
            tf.errors.UnavailableError,
            tf.errors.AbortedError,
            tf.errors.CancelledError,
            tf.errors.DeadlineExceededError,
            tf.errors.InternalError,
        )
        if _workers(trainer) > 1 and isinstance(error, lost):
            raise WorkerLost(
                "another process of the cluster is gone; start all of them again with --weights "
                f"last to go on from the last checkpoint ({_cause(str(error.message))})"
            ) from error
        raise


def _cause(message):
    """The sentence that says why, out of an error that lists the nodes of the graph first."""
    _, marker, cause = message.partition("Collective ops is aborted by: ")
    return " ".join((cause if marker else message).split())[:200]


def _summary(row):
    text = f"epoch {row['epoch']}: loss {row['loss']:.4f}"
    if "val_loss" in row:
        text += f", val_loss {row['val_loss']:.4f}"
    waited = f"{100 * row['data_wait_share']:.0f} % waiting for data"
    return f"{text}, lr {row['learning_rate']:.2g}, {row['seconds']:.0f} s ({waited})"
