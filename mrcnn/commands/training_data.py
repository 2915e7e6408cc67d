"""What `train` trains and validates on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mrcnn.coco.layouts import DataSet, Part
from mrcnn.commands.arguments import UsageError
from mrcnn.commands.data_sets import (
    DataPaths,
    Split,
    data_paths,
    find_data,
    find_part,
    join_classes,
    make_dataset,
    read_parts,
    take_part,
    with_classes,
)

if TYPE_CHECKING:
    from mrcnn.commands.train import TrainOptions
    from mrcnn.data.dataset import CocoDataset

DEFAULT_SHARE = 0.1


@dataclass(frozen=True)
class TrainingData:
    """The data of a training.

    Attributes:
        validation: None to train without.
        counts: number of images of each --data.
        val_split: share of the first one's images that is held out, 0 for none; None if it has
            images for validation.
        fact: what run.json says of the validation images: `evaluate` and `--weights last` take
            the same.
        notes: what a user should know.
        summary: the files, and how much of them is used, in a line.
    """

    train: "CocoDataset"
    validation: "CocoDataset | None"
    counts: list[int]
    val_split: float | None
    fact: dict[str, Any] | None
    notes: list[str]
    summary: str


def load_training_data(options: "TrainOptions", earlier: float | None) -> TrainingData:
    """Reads the data of a training.

    Args:
        earlier: share that the run to continue holds out, see `held_out_share`.

    Raises:
        UsageError: if images or annotations are missing, or the run holds out another share.
    """
    paths = data_paths(options)
    sets = [find_data(p, "train") for p in paths]
    share = _share(options, paths[0], sets[0], earlier)
    parts = [
        take_part(p, s, "train", share or 0 if s is sets[0] else 0)
        for p, s in zip(paths, sets, strict=True)
    ]
    val_part = _validation_part(options, paths[0], sets[0], share)
    read = read_parts([*parts, val_part] if val_part else parts)
    splits = join_classes(read[: len(parts)])
    if not splits[0].table.categories:
        raise UsageError(f"{parts[0].source.file} has no categories; add those of its annotations")
    train, counts = make_dataset(splits, options.limit)
    validation = with_classes(read[-1], splits[0].table.categories) if val_part else None
    val_set = make_dataset([validation], options.limit)[0] if validation else None
    why = "as asked" if options.val_split else "as there is no validation split"
    why = why if earlier is None else "as in the run to continue"
    found = [
        note for split in (*splits, *([validation] if validation else [])) for note in split.notes
    ]
    return TrainingData(
        train,
        val_set,
        counts,
        val_split=share,
        fact=_fact(val_part),
        notes=[
            *dict.fromkeys(found),
            *_class_notes(read[: len(parts)], train.class_names[1:]),
            *_validation_notes(splits[0], validation, why),
        ],
        summary=_summary(splits, counts, train.class_names[1:])
        + (f"; {val_set.num_images} for validation" if val_set else ""),
    )


def _summary(splits: Sequence[Split], counts: Sequence[int], classes: Sequence[str]) -> str:
    images = (f"{n} images of {s.part.source.file}" for n, s in zip(counts, splits, strict=True))
    names = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
    return f"Data: {len(classes)} classes ({names}); {', '.join(images)}"


def _share(
    options: "TrainOptions", paths: DataPaths, data_set: DataSet, earlier: float | None
) -> float | None:
    """`TrainingData.val_split`."""
    given = options.val_split
    if given is not None and earlier is not None and given != earlier:
        raise UsageError(
            f"the run to continue has --val_split {earlier}, not {given}; leave the option out, or "
            "start a new run"
        )
    given = earlier if given is None else given
    if given is not None or options.val_data:
        return given
    if data_set.find("validation"):
        return None
    if (paths.data / "validation" / "image").is_dir():
        take_part(paths, data_set, "validation")  # it isn't converted yet, and this says so
    return DEFAULT_SHARE


def _validation_part(
    options: "TrainOptions", paths: DataPaths, data_set: DataSet, share: float | None
) -> Part | None:
    if options.val_data:
        images = paths.images if options.val_data.is_file() else None
        return find_part(DataPaths(options.val_data, None, images), "validation")
    return None if share == 0 else take_part(paths, data_set, "validation", share or 0)


def _class_notes(read: Sequence[Split], classes: Sequence[str]) -> list[str]:
    """What was done to join the classes of several data sets."""
    lists = [[entry.name for entry in split.table.categories] for split in read]
    if all(names == lists[0] for names in lists):
        return []
    held = "; ".join(
        f"{s.part.source.file}: {', '.join(n)}" for s, n in zip(read, lists, strict=True)
    )
    return [f"the data sets have other classes, joined by name to {', '.join(classes)} ({held})"]


def _validation_notes(train: Split, validation: Split | None, why: str) -> list[str]:
    if validation is None:
        return ["training without validation (--val_split 0)"]
    if not (share := validation.part.share):
        return []
    held, rest = len(validation.table.images), len(train.table.images)
    return [
        f"held out for validation: {held} of the {held + rest} images of "
        f"{train.part.source.file} (--val_split {share:g}), {why}"
    ]


# --- What run.json says -----------------------------------------------------------------------


class _Validation(msgspec.Struct):
    file: str
    share: float


class _Run(msgspec.Struct):
    validation: _Validation | msgspec.UnsetType | None = msgspec.UNSET


def _fact(part: Part | None) -> dict[str, Any] | None:
    if part is None:
        return None
    return {"file": str(part.source.file.resolve()), "share": part.share}


def _earlier_run(folder: Path | None) -> _Run:
    """What a run folder's run.json says of the validation; nothing if there is none."""
    try:
        return msgspec.json.decode((folder or Path()).joinpath("run.json").read_bytes(), type=_Run)
    except (OSError, ValueError):
        return _Run()


def held_out_share(run: Path | None) -> float | None:
    """The share of images that the run in a folder holds out for validation.

    Returns:
        0 if it has no validation; None if it has images for that, or nothing is known.
    """
    validation = _earlier_run(run).validation if run else msgspec.UNSET
    if validation is None:
        return 0.0
    return validation.share or None if isinstance(validation, _Validation) else None


def share_held_out_of(data_set: DataSet, weights: Path) -> float:
    """The share of a data set's images that the run of a weights file held out; 0 for none.

    Args:
        weights: a file in a run folder, or that folder.
    """
    validation = _earlier_run(weights if weights.is_dir() else weights.parent).validation
    if not isinstance(validation, _Validation) or data_set.find("validation"):
        return 0.0
    file = data_set.base.file if data_set.base else None
    return validation.share if file and Path(validation.file) == file.resolve() else 0.0


def load_paste_data(options: "TrainOptions", train_set: "CocoDataset") -> "CocoDataset":
    """The training images of --paste_data, their classes those of the training data."""
    assert options.paste_data
    (split,) = read_parts(
        [find_part(DataPaths(options.paste_data, options.paste_annotations), "train")]
    )
    return make_dataset([with_classes(split, train_set.tables[0].categories)])[0]
