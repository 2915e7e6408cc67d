"""From data sets and options to a training run: loaders, trainer, run folder, preflight."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrcnn.data.loader import BatchLoader
from mrcnn.data.preview import preview
from mrcnn.network.backbone import stage_patterns
from mrcnn.training import loop, preflight
from mrcnn.training.checkpoints import Checkpoints
from mrcnn.training.log import RunLog, write_run
from mrcnn.training.step import Trainer, make_optimizer, set_trainable


@dataclass
class Options:
    """How to train, besides the configuration.

    Attributes:
        augmentation: imgaug augmenter, or None.
        callbacks: Keras callbacks; they get the original's log names.
        no_augmentation_sources: sources of images that aren't augmented.
        schedule: `mrcnn.training.schedules.Schedule`; None leaves the rate to the callbacks.
        seed: of the order of images, their augmentation and the choice of RoIs.
        workers: threads that load images.
        stage: name of this part of the training, by which a run that goes on knows whether the
            optimizer's state belongs to it; None takes the layers.
        accumulate: parts that a batch is worked through in, one after another: the update is
            that of the whole batch at the memory of a part.
        keep: newest checkpoints that stay, besides the best.
        early_stopping: epochs without a better one before this stage ends; 0 for never.
        score, score_name: judge epochs by this function of no arguments, higher is better,
            instead of by the validation loss.
        tensorboard: write its files.
        samples: f() -> [(name, image uint8 [H, W, 3])] to show there after each epoch, or None.
        check: look for what would go wrong before the first epoch.
        dry_run: stop after that.
        preview: so many augmented images are drawn into preview.png in the run folder.
        facts: dict for run.json, such as the command's arguments.
        loader: dict of more arguments of the training `BatchLoader`.
        show_progress: whether to print.
    """

    augmentation: Any = None
    callbacks: tuple = ()
    no_augmentation_sources: Any = None
    schedule: Any = None
    seed: int = 0
    workers: int = 2
    stage: str | None = None
    accumulate: int = 1
    keep: int = 3
    early_stopping: int = 0
    score: Any = None
    score_name: str = "score"
    tensorboard: bool = False
    samples: Any = None
    check: bool = False
    dry_run: bool = False
    preview: int = 0
    facts: dict = field(default_factory=dict)
    loader: dict = field(default_factory=dict)
    show_progress: bool = True


def train(model, train_dataset, val_dataset, learning_rate, epochs, layers, options):
    """What `MaskRCNN.train` does; see there.

    Args:
        model: `MaskRCNN` in training mode.
        options: `Options`.

    Returns:
        rows of the log, a list of dicts.
    """
    config, cluster, chief = model.config, model.cluster, model.cluster.is_chief
    show = options.show_progress and chief
    pattern = stage_patterns(config.BACKBONE).get(layers, layers)
    names = set_trainable(model.keras_model, pattern)
    with cluster.strategy.scope():
        optimizer = make_optimizer(config, learning_rate, replicas=cluster.replicas)
    model.keras_model.compile(optimizer=optimizer)  # so that callbacks find model.optimizer
    trainer = Trainer(
        model.keras_model,
        config,
        optimizer,
        cluster=cluster,
        accumulate=options.accumulate,
        seed=options.seed,
    )
    loader, val_loader = make_loaders(train_dataset, val_dataset, config, cluster, options)
    if options.check or options.dry_run:
        with loop.workers_may_fail(trainer):
            check(model, trainer, loader, (train_dataset, val_dataset), options, show)
    if chief and (options.preview or not options.dry_run):
        model.make_log_dir()
    if options.preview and chief:
        path = Path(model.log_dir) / "preview.png"
        preview(loader, options.preview, path)
        print(f"Augmented images as training sees them: {path}")
    if options.dry_run:
        return []
    plan = make_plan(model, (train_dataset, val_dataset), epochs, layers, options)
    progress = begin(model, trainer, plan)
    if chief:
        facts = {"config": config.to_dict(), "seed": options.seed, "stage": layers}
        facts |= {"learning_rate": learning_rate, "epochs": epochs, "devices": cluster.replicas}
        facts |= {"pictures": {"train": len(train_dataset.image_ids)}}
        if val_dataset is not None:
            facts["pictures"]["validation"] = len(val_dataset.image_ids)
        write_run(model.log_dir, **facts, **options.facts)
        plan.log = RunLog(model.log_dir, progress.epoch, options.tensorboard)
    if show:
        print(f"Training {len(names)} layers ({layers}) from epoch {progress.epoch} to {epochs}")
        print(f"Run folder: {model.log_dir}")
    try:
        return loop.fit(trainer, loader, val_loader, plan, progress)
    finally:
        model.epoch, model.progress = progress.epoch, progress


def make_loaders(train_dataset, val_dataset, config, cluster, options):
    """(training loader, validation loader or None) of this process's share of each batch."""
    common = {
        "batch_size": config.BATCH_SIZE * cluster.workers,
        "seed": options.seed,
        "workers": options.workers,
        "shard": (cluster.index, cluster.workers),
    }
    loader = BatchLoader(
        train_dataset,
        config,
        shuffle=True,
        augmentation=options.augmentation,
        no_augmentation_sources=options.no_augmentation_sources,
        **common,
        **options.loader,
    )
    if val_dataset is None:
        return loader, None
    return loader, BatchLoader(val_dataset, config, shuffle=False, **common)


def make_plan(model, datasets, epochs, layers, options):
    """The `Training` of these options; only the chief has checkpoints.

    Args:
        datasets: (for training, for validation).
    """
    config = model.config
    # An image's number means another one in each data set.
    describe, describe_validation = (
        lambda batch, dataset=dataset: [
            str(dataset.image_info[int(meta[0])]["path"]) for meta in batch[1]
        ]
        for dataset in datasets
    )
    return loop.Training(
        epochs=epochs,
        steps_per_epoch=config.STEPS_PER_EPOCH,
        validation_steps=config.VALIDATION_STEPS,
        schedule=options.schedule,
        checkpoints=(
            Checkpoints(model.log_dir, model.run_name, options.keep)
            if model.cluster.is_chief
            else None
        ),
        save_weights=model.save_weights,
        callbacks=options.callbacks,
        early_stopping=options.early_stopping,
        score=options.score,
        score_name=options.score_name,
        samples=options.samples,
        describe=describe,
        describe_validation=describe_validation,
        show_progress=options.show_progress and model.cluster.is_chief,
        stage=options.stage or layers,
    )


def begin(model, trainer, plan):
    """Where to start: the saved state of a run that goes on, or after the stage before."""
    if model.saved is not None:
        saved, model.saved = model.saved, None
        return loop.resume(trainer, saved, plan)
    before = model.progress or loop.Progress()
    trainer.step = model.epoch * plan.steps_per_epoch
    return loop.Progress(
        model.epoch, best=before.best, best_epoch=before.best_epoch, since=model.epoch
    )


def check(model, trainer, loader, datasets, options, show):
    """Looks for what would go wrong later, and prints what was found.

    Raises:
        PreflightError: listing all that must be put right first.
    """
    findings, notes = [], []
    for name, dataset in zip(("train", "validation"), datasets, strict=True):
        if dataset is not None:
            missing = preflight.check_files(dataset, name)
            findings += missing or preflight.check_pictures(dataset, name, options.seed)
            notes += preflight.check_classes(dataset, name)
    size = sum(v.numpy().nbytes for v in model.keras_model.variables)
    if model.config.EMA_DECAY:
        size *= 2  # the averages, and the weights beside them
    if model.cluster.is_chief:
        findings += preflight.check_disk(model.log_dir, size, options.keep)
    if findings:
        raise preflight.PreflightError("before the first epoch:\n  " + "\n  ".join(findings))
    batches = loader.epoch(0, 1, 0)
    try:
        found, facts = preflight.try_step(trainer, next(iter(batches)))
    finally:
        batches.close()
    if found:
        raise preflight.PreflightError("before the first epoch:\n  " + "\n  ".join(found))
    if show:
        steps = model.config.STEPS_PER_EPOCH
        for note in notes:
            print(f"note: {note}")
        print(
            f"Checked: a step takes about {facts['seconds']:.2f} s, an epoch of {steps} steps about "
            f"{facts['seconds'] * steps / 60:.0f} min; memory {facts['peak_gb']:.1f} GB"
        )
