"""The training loop: epochs, validation, checkpoints, logs, and stopping without loss.

What an epoch does depends on the state it starts from, the seed and its number only, so that a
run that goes on from a checkpoint gives the same weights, bit by bit, as one that never
stopped (on one CPU; other devices may add in another order).
"""

import functools
import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import keras
import msgspec
import numpy as np
from tqdm import tqdm

from mrcnn.config import Config
from mrcnn.data.dataset import Dataset
from mrcnn.data.loader import BatchLoader
from mrcnn.data.preview import preview
from mrcnn.network.backbone import stage_patterns
from mrcnn.training import preflight, run_folders
from mrcnn.training.checkpoints import Checkpoint, Checkpoints, Count
from mrcnn.training.devices import Cluster
from mrcnn.training.log import Row, RunLog, write_run
from mrcnn.training.options import TrainingOptions
from mrcnn.training.schedules import PlateauState
from mrcnn.training.step import Batch, Trainer, make_optimizer, set_trainable
from mrcnn.training.stopping import StopSignals, TrainingStopped, stop_signals, workers_may_fail


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
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    waited: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    since: int = 0

    def begin_epoch(self, epoch: int) -> None:
        self.epoch, self.step, self.sums = epoch, 0, {}
        self.seconds = self.waited = 0.0

    def add(self, losses: Mapping[str, float]) -> None:
        self.step += 1
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        return {name: total / self.step for name, total in self.sums.items()}


class Saved(msgspec.Struct):
    """The info of a checkpoint: the fields of a `Progress`, and the rest of a loop's state."""

    epoch: Count
    step: Count
    sums: dict[str, float]
    seconds: float
    waited: float
    best: float | None
    best_epoch: Count
    since: Count
    stage: str
    total_steps: Count
    schedule: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.step and "loss" not in self.sums:
            raise ValueError("it lacks the sums of the losses of its steps")
        if self.schedule and self.schedule.keys() & set(PlateauState.__struct_fields__):
            msgspec.convert(self.schedule, PlateauState)


def newest_checkpoint(folder: Path, name: str, is_chief: bool) -> Checkpoint | None:
    """The newest whole checkpoint of a run to go on with, see `Checkpoints.restore`.

    Raises:
        RunInUse: if another training works in the folder.
    """
    checkpoints = Checkpoints(folder, name, schema=Saved)
    if is_chief and not checkpoints.is_empty:
        with run_folders.held(folder):
            pass  # `train` holds it; here it shows early whether that can be
    return checkpoints.restore()


class TrainedModel(Protocol):
    """What the loop needs of `MaskRCNN`, which lives above it."""

    config: Config
    cluster: Cluster
    keras_model: Any
    epoch: int
    resumed: Checkpoint | None
    progress: Progress | None
    log_dir: str

    @property
    def run_name(self) -> str: ...
    def make_log_dir(self) -> None: ...
    def save_weights(self, filepath: Path) -> None: ...


def train(
    model: TrainedModel,
    train_dataset: Dataset,
    val_dataset: Dataset | None,
    learning_rate: float,
    epochs: int,
    layers: str,
    options: TrainingOptions,
) -> list[Row]:
    """What `MaskRCNN.train` does; see there."""
    config, cluster = model.config, model.cluster
    names = set_trainable(model.keras_model, stage_patterns(config.BACKBONE).get(layers, layers))
    trainer = _make_trainer(model, learning_rate, options)
    loader, val_loader = _make_loaders(train_dataset, val_dataset, config, cluster, options)
    if options.check or options.dry_run:
        with workers_may_fail(cluster):
            preflight.check(model, trainer, loader, val_dataset, options)
    if cluster.is_chief and (options.preview or not options.dry_run):
        model.make_log_dir()
    if cluster.is_chief and options.preview:
        path = Path(model.log_dir) / "preview.png"
        preview(loader, options.preview, path)
        print(f"Augmented images as training sees them: {path}")
    if options.dry_run:
        return []
    loop = Loop(
        trainer,
        loader,
        val_loader,
        options,
        epochs=epochs,
        steps_per_epoch=config.STEPS_PER_EPOCH,
        validation_steps=config.VALIDATION_STEPS,
        stage=options.stage_name or layers,
        save_weights=model.save_weights,
    )
    loop.begin(model)
    with run_folders.held(model.log_dir) if cluster.is_chief else nullcontext():
        if cluster.is_chief:
            loop.checkpoints = Checkpoints(model.log_dir, model.run_name, options.keep)
            loop.log = RunLog(model.log_dir, loop.progress.epoch, options.tensorboard)
            sets = {"train": train_dataset, "validation": val_dataset}
            write_run(
                model.log_dir,
                config=config.to_dict(),
                seed=options.seed,
                stage=layers,
                learning_rate=learning_rate,
                epochs=epochs,
                devices=cluster.replicas,
                pictures={name: len(s.image_ids) for name, s in sets.items() if s is not None},
                **options.facts,
            )
        if loop.verbose:
            epoch = loop.progress.epoch
            print(f"Training {len(names)} layers ({layers}) from epoch {epoch} to {epochs}")
            print(f"Run folder: {model.log_dir}")
        try:
            return loop.run()
        finally:
            model.epoch, model.progress = loop.progress.epoch, loop.progress


def _make_trainer(model: TrainedModel, learning_rate: float, options: TrainingOptions) -> Trainer:
    with model.cluster.strategy.scope():
        replicas = model.cluster.replicas
        optimizer = make_optimizer(model.config, learning_rate, replicas=replicas)
    model.keras_model.compile(optimizer=optimizer)  # so that callbacks find model.optimizer
    return Trainer(
        model.keras_model,
        model.config,
        optimizer,
        cluster=model.cluster,
        accumulate=options.accumulate,
        seed=options.seed,
    )


def _make_loaders(
    train_dataset: Dataset,
    val_dataset: Dataset | None,
    config: Config,
    cluster: Cluster,
    options: TrainingOptions,
) -> tuple[BatchLoader, BatchLoader | None]:
    """Loaders of this process's share of each batch, for training and validation."""
    make = functools.partial(
        BatchLoader,
        config=config,
        batch_size=config.BATCH_SIZE * cluster.workers,
        seed=options.seed,
        workers=options.workers,
        shard=(cluster.index, cluster.workers),
    )
    loader = make(
        train_dataset,
        shuffle=True,
        augmentation=options.augmentation,
        no_augmentation_sources=options.no_augmentation_sources,
        repeat_factors=options.repeat_factors,
    )
    return loader, make(val_dataset, shuffle=False) if val_dataset is not None else None


@dataclass
class Loop:
    """Epochs from where `progress` stands to the last one.

    Attributes:
        epochs: the last epoch, counted from the first ever, as in Keras.
        stage: written into checkpoints: the optimizer's state fits this stage only.
        checkpoints, log: None in all processes but the chief.
    """

    trainer: Trainer
    train_loader: BatchLoader
    val_loader: BatchLoader | None
    options: TrainingOptions
    epochs: int
    steps_per_epoch: int
    validation_steps: int
    stage: str
    save_weights: Callable[[Path], None]
    checkpoints: Checkpoints | None = None
    log: RunLog | None = None
    progress: Progress = field(default_factory=Progress)
    signals: StopSignals = field(default_factory=StopSignals)

    @property
    def verbose(self) -> bool:
        return self.options.show_progress and self.trainer.cluster.is_chief

    def begin(self, model: TrainedModel) -> None:
        """Starts from a checkpoint if a run goes on, else after the stage before."""
        if model.resumed is not None:
            self.restore(model.resumed)
            model.resumed = None
            return
        before = model.progress or Progress()
        self.trainer.step = model.epoch * self.steps_per_epoch
        self.progress = Progress(
            model.epoch, best=before.best, best_epoch=before.best_epoch, since=model.epoch
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restores all of a checkpoint but its weights file, which the model has loaded."""
        saved = msgspec.convert(checkpoint.info, Saved)
        self.trainer.step = saved.total_steps
        self.trainer.load_weights(checkpoint.arrays)
        self.progress = Progress(**{f.name: getattr(saved, f.name) for f in fields(Progress)})
        if (
            saved.stage != self.stage
        ):  # a new stage begins with a new optimizer, as the original's do
            self.progress.since = self.progress.epoch
            return
        self.trainer.load_state(checkpoint.arrays)
        if self.options.schedule is not None and saved.schedule:
            self.options.schedule.restore(saved.schedule)

    def run(self) -> list[Row]:
        """Trains; returns the rows that were added to the log. Errors: see `MaskRCNN.train`."""
        model, rows = self.trainer.model, []
        model.stop_training = False
        numbers = {"epochs": self.epochs, "steps": self.steps_per_epoch, "verbose": 0}
        hooks = keras.callbacks.CallbackList(list(self.options.callbacks), model=model, **numbers)
        hooks.on_train_begin()
        with stop_signals() as self.signals, workers_may_fail(self.trainer.cluster):
            for epoch in range(self.progress.epoch, self.epochs):
                if self._stops_early():
                    break
                hooks.on_epoch_begin(epoch)
                self._train_epoch(hooks)
                losses = {**self.progress.means(), **self._validate()}
                row = self._end_epoch(losses)
                rows.append(row)
                hooks.on_epoch_end(epoch, {**losses, "learning_rate": row["learning_rate"]})
                if self._must_stop():
                    raise self._stopped(f"after epoch {epoch + 1}")
                if model.stop_training:
                    break
        hooks.on_train_end()
        return rows

    def _stops_early(self) -> bool:
        """Asked before each epoch, so that a run that goes on after it was stopped early stays
        stopped."""
        progress, patience = self.progress, self.options.early_stopping
        waited = progress.epoch - max(progress.best_epoch, progress.since)
        if not patience or progress.step or waited < patience:
            return False
        if self.verbose:
            print(f"stopped early: no better epoch than epoch {progress.best_epoch}")
        return True

    def _train_epoch(self, hooks: Any) -> None:
        """The steps of the epoch that `progress` stands in."""
        progress, loader, steps = self.progress, self.train_loader, self.steps_per_epoch
        epoch, schedule = progress.epoch, self.options.schedule
        started = time.perf_counter() - progress.seconds
        waited = loader.wait_seconds - progress.waited
        bar = tqdm(
            total=steps,
            initial=progress.step,
            desc=f"epoch {epoch + 1}/{self.epochs}",
            disable=not self.verbose,
            dynamic_ncols=True,
        )
        with bar, closing(loader.epoch(epoch, steps, progress.step)) as batches:
            for batch in batches:
                if schedule is not None:
                    rate = schedule.rate(epoch * steps + progress.step)
                    self.trainer.optimizer.learning_rate = rate
                hooks.on_train_batch_begin(progress.step)
                where = f"epoch {epoch + 1}, step {progress.step + 1}"
                losses = self._finite_losses(self.trainer.train(batch), where, loader, batch)
                hooks.on_train_batch_end(progress.step, losses)
                progress.add(losses)
                progress.seconds = time.perf_counter() - started
                progress.waited = loader.wait_seconds - waited
                _update_bar(bar, progress, len(batch[0]) * self.trainer.cluster.workers)
                if self._must_stop():
                    self._save()
                    raise self._stopped(f"in epoch {epoch + 1}, step {progress.step}")

    def _validate(self) -> dict[str, float]:
        """{"val_loss": ..., ...}: means over the same images each time.

        A signal ends it: the epoch's steps are saved, and the validation starts anew later.
        """
        loader, steps = self.val_loader, self.validation_steps
        if loader is None or not steps:
            return {}
        sums, stop = Progress(), False
        after = f"the validation after epoch {self.progress.epoch + 1}"
        with self.trainer.averaged(), closing(loader.epoch(0, steps, 0)) as batches:
            for batch in batches:
                where = f"{after}, step {sums.step + 1}"
                sums.add(self._finite_losses(self.trainer.validate(batch), where, loader, batch))
                stop = self._must_stop()
                if stop:
                    break
        if stop:
            self._save()
            raise self._stopped(f"in {after}")
        return {f"val_{name}": value for name, value in sums.means().items()}

    def _end_epoch(self, losses: dict[str, float]) -> Row:
        """Judges, saves and logs an epoch."""
        progress, options, trainer = self.progress, self.options, self.trainer
        monitored = losses.get("val_loss", losses["loss"])
        row: Row = {
            "epoch": progress.epoch + 1,
            **losses,
            "learning_rate": float(trainer.optimizer.learning_rate.numpy()),
            "seconds": progress.seconds,
            "data_wait_share": progress.waited / max(progress.seconds, 1e-9),
        }
        value = -monitored
        if options.score is not None:
            with trainer.averaged():
                value = row[options.score_name] = float(options.score())
        note = options.schedule.end_epoch(monitored) if options.schedule is not None else None
        progress.begin_epoch(progress.epoch + 1)
        is_best = progress.best is None or value > progress.best
        if is_best:
            progress.best, progress.best_epoch = value, progress.epoch
        self._save(is_best)
        if self.log is not None:
            self.log.write(row)
            if options.draw_samples is not None:
                with trainer.averaged():
                    for name, image in options.draw_samples():
                        self.log.add_image(name, image, progress.epoch)
        if self.verbose:
            print(_summary(row) + (f"\n{note}" if note else ""))
        return row

    def _save(self, best: bool = False) -> None:
        if self.checkpoints is None:
            return
        self._check_weights()
        info = {**asdict(self.progress), "stage": self.stage, "total_steps": self.trainer.step}
        if self.options.schedule is not None:
            info["schedule"] = self.options.schedule.state()

        def write(path: Path) -> None:
            with self.trainer.averaged():
                self.save_weights(path)

        self.checkpoints.save(write, self.trainer.state(), info, best)

    def _finite_losses(
        self, losses: Mapping[str, Any], where: str, loader: BatchLoader, batch: Batch
    ) -> dict[str, float]:
        """The losses as floats.

        Raises:
            FloatingPointError: if one isn't finite, naming the images of the batch.
        """
        values = {name: float(value) for name, value in losses.items()}
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            infos = loader.dataset.image_info
            paths = ", ".join(str(infos[int(meta[0])]["path"]) for meta in batch[1])
            raise FloatingPointError(
                f"{', '.join(broken)} not finite in {where} ({values}); lower the learning rate, "
                f"or look at the images\nimages of this step: {paths}{self._what_is_saved()}"
            )
        return values

    def _check_weights(self) -> None:
        """Raises if weights aren't finite: a step can break them though its own loss was sound,
        and without validation nothing would show it before good checkpoints made room for them."""
        variables = self.trainer.model.variables
        broken = [v.path for v in variables if not np.isfinite(v.numpy()).all()]
        if broken:
            raise FloatingPointError(
                f"{len(broken)} weights, such as {broken[0]}, are not finite, so they were not "
                f"saved; lower the learning rate{self._what_is_saved()}"
            )

    def _what_is_saved(self) -> str:
        """The end of an error message."""
        if self.checkpoints is None:
            return ""
        if self.checkpoints.is_empty:
            return f"\nno checkpoint was written to {self.checkpoints.folder} before that"
        return f"\nthe checkpoints in {self.checkpoints.folder} stay"

    def _must_stop(self) -> bool:
        """Whether a signal came to any process, so that all stop at the same step."""
        return self.trainer.in_any_process(self.signals.name is not None)

    def _stopped(self, where: str) -> TrainingStopped:
        saved = f"; saved in {self.checkpoints.folder}" if self.checkpoints else ""
        return TrainingStopped(
            f"stopped {where}{saved}. Go on with the same command and --weights last"
        )


def _update_bar(bar: Any, progress: Progress, images: int) -> None:
    """Shows the mean losses, the speed, and the share of time spent waiting for data."""
    losses = {
        name.removeprefix("mrcnn_").removesuffix("_loss"): mean
        for name, mean in progress.means().items()
    }
    text = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
    seconds = max(progress.seconds, 1e-9)
    rate = images * progress.step / seconds
    bar.set_postfix_str(
        f"{text}, {rate:.1f} images/s, {progress.waited / seconds:.0%} waiting", refresh=False
    )
    bar.update()


def _summary(row: Row) -> str:
    text = f"epoch {row['epoch']}: loss {row['loss']:.4f}"
    if "val_loss" in row:
        text += f", val_loss {row['val_loss']:.4f}"
    waited = f"{100 * row['data_wait_share']:.0f} % waiting for data"
    return f"{text}, lr {row['learning_rate']:.2g}, {row['seconds']:.0f} s ({waited})"
