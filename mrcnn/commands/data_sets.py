"""Which data a command works on: the options that say so, and what is read of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mrcnn.coco.layouts import (
    DataSet,
    LayoutError,
    NothingFoundError,
    Part,
    Source,
    open_data,
    role_of,
)
from mrcnn.commands.arguments import UsageError
from mrcnn.core.options import option, positive

if TYPE_CHECKING:
    from mrcnn.coco.reader import Category, CocoTable
    from mrcnn.data.dataset import CocoDataset

DATA = Path("data/deepfashion2")
# What training needs of each image.
IMAGE_NEEDS = ("annotations", "categories", "file_name", "width", "height", "unique ids")


class DataPaths(NamedTuple):
    """What was given of a data set: arguments of `layouts.open_data`."""

    data: Path
    annotations: Path | None = None
    images: Path | None = None


@dataclass(frozen=True)
class LimitOptions:
    limit: int | None = option(None, "use only the first N images", group="data", type=positive)


@dataclass(frozen=True)
class DataOptions(LimitOptions):
    data: Path = option(
        DATA, "data set: a folder of any known layout, a COCO file or a data.toml", group="data"
    )
    annotations: Path | None = option(
        None, "a COCO file, or a folder of such; if not given, searched for in --data", group="data"
    )
    images: Path | None = option(
        None, "folder of the images; if not given, searched for", group="data"
    )


@dataclass(frozen=True)
class DataFoldersOptions(LimitOptions):
    data: tuple[Path, ...] = option(
        (DATA,),
        "one or more data sets: folders of any known layout, COCO files or data.toml files; the "
        "training images of all are used, and the validation images of the first",
        group="data",
        nargs="+",
    )
    annotations: tuple[Path, ...] | None = option(
        None,
        "COCO files, or folders of such, one for each --data; if not given, searched for in --data",
        group="data",
        nargs="+",
    )
    images: tuple[Path, ...] | None = option(
        None,
        "folders of the images, one for each --data; if not given, searched for",
        group="data",
        nargs="+",
    )


def data_paths(options: DataOptions | DataFoldersOptions) -> list[DataPaths]:
    """--data, --annotations and --images of each data set.

    Raises:
        UsageError: if they aren't equally many.
    """
    data = _as_list(options.data)
    annotations = _one_each(options, "annotations", len(data))
    images = _one_each(options, "images", len(data))
    return [DataPaths(*row) for row in zip(data, annotations, images, strict=True)]


def _as_list(value: Path | Sequence[Path]) -> list[Path]:
    return [value] if isinstance(value, Path) else list(value)


def _one_each(options: object, name: str, count: int) -> Sequence[Path | None]:
    given = getattr(options, name, None)  # some scripts don't have all of these options
    if not given:
        return [None] * count
    if len(_as_list(given)) != count:
        raise UsageError(
            f"--data has {count} folders but --{name} {len(_as_list(given))}; give one for each"
        )
    return _as_list(given)


def find_data(paths: DataPaths, split: str) -> DataSet:
    """The data set at these paths, of which `split` is needed.

    Raises:
        UsageError: if it can't be made out; the message says what to do.
    """
    try:
        return open_data(*paths)
    except NothingFoundError as error:
        if not paths.data.exists() and paths.data == DATA and not paths.annotations:
            raise UsageError(_missing_data(paths.data)) from None
        raise UsageError(_unconverted(paths, split) or str(error)) from None
    except LayoutError as error:
        raise UsageError(str(error)) from None


def find_part(paths: DataPaths, split: str, share: float = 0.0) -> Part:
    """A split of the data set at these paths; as `find_data`, and see `DataSet.part`."""
    return take_part(paths, find_data(paths, split), split, share)


def take_part(paths: DataPaths, data_set: DataSet, split: str, share: float = 0.0) -> Part:
    """`DataSet.part`, with what to do about DeepFashion2's splits that aren't converted."""
    try:
        return data_set.part(split, share)
    except LayoutError as error:
        is_there = role_of(split) in {source.role for source in data_set.sources}
        advice = "" if is_there else _unconverted(paths, split)
        raise UsageError(advice or str(error)) from None


def _unconverted(paths: DataPaths, split: str) -> str:
    """What to do about a split of DeepFashion2's layout without a COCO file; "" if it is none."""
    data, annotations = paths.data, paths.annotations or paths.data
    if not (data / split / "image").is_dir() or annotations.suffix == ".json":
        return ""
    output = f" --output_dir {annotations}" if annotations != data else ""
    return (
        f"no COCO annotations at {annotations / f'{split}_coco.json'}; give their folder with "
        f"--annotations, or make them with\n  {convert_command()} --data {data}{output}"
    )


@dataclass(frozen=True)
class Split:
    """A part of a data set, read.

    Attributes:
        images: folder of the images; None if they weren't needed and aren't there.
        notes: what a user should know of it.
    """

    part: Part
    table: "CocoTable"
    images: Path | None
    notes: tuple[str, ...] = ()


def read_parts(parts: Sequence[Part], images_needed: bool = True) -> list[Split]:
    """Reads each file once, whatever number of parts it has.

    Raises:
        UsageError: if the images aren't found.
        ValueError: if a file is no COCO file, or lacks what training needs.
    """
    from mrcnn.coco.selection import held_out

    whole: dict[Source, Split] = {}
    splits = []
    for part in parts:
        if part.source not in whole:
            whole[part.source] = _read(part, images_needed)
        split = replace(whole[part.source], part=part)
        if part.share:
            out = set(held_out(split.table, part.share))
            rows = [i for i in range(len(split.table.images)) if (i in out) == part.is_held_out]
            split = replace(split, table=split.table.select(rows))
        splits.append(split)
    return splits


def _read(part: Part, images_needed: bool) -> Split:
    """The whole file of a part."""
    from mrcnn.coco.reader import read_coco
    from mrcnn.coco.selection import (
        check_unique_names,
        choose_classes,
        with_local_names,
        without_placeholder,
    )
    from mrcnn.data.dataset import check_deepfashion2, has_garments

    source = part.source
    notes: tuple[str, ...] = ()
    read = with_local_names(read_coco(source.file))
    if images_needed or part.share:
        read.require(*IMAGE_NEEDS)
    table = without_placeholder(read)
    if left := [entry.name for entry in read.categories if entry not in table.categories]:
        notes = (f"{source.file}: the category {left[0]!r} is no class, but Roboflow's project",)
    check_unique_names(table)
    if has_garments(table.categories):
        check_deepfashion2(table.categories, table.name)
    if source.classes:
        table = choose_classes(table, source.classes)
    images: Path | None = None
    try:
        images = source.image_folder([entry.file_name for entry in table.images])
    except LayoutError as error:
        if images_needed:
            raise UsageError(str(error)) from None
    return Split(part, table, images, notes)


def join_classes(splits: Sequence[Split]) -> list[Split]:
    """The splits with the classes of all, joined by name."""
    from mrcnn.coco.selection import joined_categories

    categories = joined_categories([split.table for split in splits])
    return [with_classes(split, categories) for split in splits]


def with_classes(split: Split, categories: "list[Category]") -> Split:
    """The split with these classes for its own of the same names; notes which it loses."""
    from mrcnn.coco.selection import match_names, with_categories

    ours, theirs = ([entry.name for entry in c] for c in (split.table.categories, categories))
    known = match_names(ours, theirs)
    notes = split.notes
    if left := [name for k, name in enumerate(ours) if k not in known]:
        notes += (f"{split.part.source.file}: left out {', '.join(left)}, which aren't trained",)
    return replace(split, table=with_categories(split.table, categories), notes=notes)


def make_dataset(
    splits: Sequence[Split], limit: int | None = None
) -> tuple["CocoDataset", list[int]]:
    """The images of splits of the same classes, one split after the other.

    Args:
        limit: use only the first so many images of each.

    Returns:
        The data set, and the number of images of each split.
    """
    from mrcnn.data.dataset import DEEPFASHION2_SOURCE, CocoDataset, has_garments

    dataset = CocoDataset()
    counts: list[int] = []
    for split in splits:
        assert split.images
        source = DEEPFASHION2_SOURCE if has_garments(split.table.categories) else "own"
        dataset.load_coco(split.table, split.images, limit=limit, source=source)
        counts.append(len(dataset.image_info) - sum(counts))
    dataset.prepare()
    return dataset, counts


def load_split(paths: Sequence[DataPaths], split: str, limit: int | None = None) -> "CocoDataset":
    """A split of one or several data sets, their classes joined by name."""
    splits = join_classes(read_parts([find_part(p, split) for p in paths]))
    return make_dataset(splits, limit)[0]


def convert_command() -> str:
    """How the converter is called: an installed package has no script beside it."""
    script = Path(__file__).parents[2] / "convert_to_coco.py"
    return "python convert_to_coco.py" if script.is_file() else "python -m mrcnn convert"


def _missing_data(data: Path) -> str:
    from mrcnn.commands.convert import missing_data_message

    return missing_data_message(data)
