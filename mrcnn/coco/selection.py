"""Parts of a COCO file's table: some of its classes, a share of its images."""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
from msgspec import structs

from mrcnn.coco.layouts import local_name
from mrcnn.coco.reader import Category, CocoTable
from mrcnn.core.classes import plain_name


def match_names(ours: Sequence[str], theirs: Sequence[str]) -> dict[int, int]:
    """Positions in `ours` -> positions in `theirs` of the same names.

    Names that differ in case, underscores or outer spaces alone, or in what follows a comma (which
    `Dataset` cuts off), are the same where no other name on either side is.
    """
    pairs: dict[int, int] = {}
    for key in (str, _loose):
        left, right = _unique(ours, key, pairs.keys()), _unique(theirs, key, pairs.values())
        pairs |= {i: right[name] for name, i in left.items() if name in right}
    return pairs


def _unique(
    names: Sequence[str], key: Callable[[str], str], taken: Collection[int]
) -> dict[str, int]:
    """Names as `key` gives them -> positions, but for those of several names and those taken."""
    count = Counter(map(key, names))
    return {
        key(name): i for i, name in enumerate(names) if count[key(name)] == 1 and i not in taken
    }


def _loose(name: str) -> str:
    return plain_name(name.split(",")[0])


def with_categories(table: CocoTable, categories: list[Category]) -> CocoTable:
    """The table with these categories, by id, for its own of the same names.

    Annotations of other categories are left out.
    """
    if table.categories == categories:
        return table
    names = [entry.name for entry in table.categories]
    place = np.full(len(names) + 1, -1)
    for ours, theirs in match_names(names, [entry.name for entry in categories]).items():
        place[ours] = theirs
    chosen = table.take(place[table.classes] >= 0)
    return replace(chosen, categories=categories, classes=place[chosen.classes])


def joined_categories(tables: Sequence[CocoTable]) -> list[Category]:
    """The categories of all tables, by id: joined by name.

    A category keeps its id, unless one of an earlier table has it; it then gets the next free one.
    """
    joined: list[Category] = []
    for table in tables:
        known = match_names(
            [entry.name for entry in table.categories], [entry.name for entry in joined]
        )
        for k, entry in enumerate(table.categories):
            if k not in known:
                used = {other.id for other in joined}
                new = max(used) + 1 if entry.id in used else entry.id
                joined.append(structs.replace(entry, id=new))
    return sorted(joined, key=lambda entry: entry.id)


def choose_classes(table: CocoTable, names: Collection[str]) -> CocoTable:
    """The classes with these names, and their annotations.

    Raises:
        ValueError: for names that the file doesn't have.
    """
    there = [entry.name for entry in table.categories]
    found = match_names(there, list(names))
    if len(found) < len(names):
        lacking = [name for i, name in enumerate(names) if i not in found.values()]
        raise ValueError(f"{table.name} has no categories {lacking}; it has {there}")
    return with_categories(table, [table.categories[k] for k in sorted(found)])


def without_placeholder(table: CocoTable) -> CocoTable:
    """The table without Roboflow's category 0, which names the project and has no annotations.

    Other categories without annotations are classes that this file has no example of.
    """
    groups = [entry.supercategory for entry in table.categories]
    used = set(np.unique(table.classes).tolist())
    kept = [
        k
        for k, entry in enumerate(table.categories)
        if k in used or entry.supercategory != "none" or entry.name not in groups
    ]
    if len(kept) == len(table.categories):
        return table
    place = np.full(len(table.categories) + 1, -1)
    place[kept] = np.arange(len(kept))
    categories = [table.categories[k] for k in kept]
    return replace(table, categories=categories, classes=place[table.classes])


def check_unique_names(table: CocoTable) -> None:
    """Raises ValueError if two categories have the same name: their objects would be mixed up."""
    ids: dict[str, int] = {}
    for entry in table.categories:
        if entry.name in ids:
            raise ValueError(
                f"{table.name}: the categories {ids[entry.name]} and {entry.id} have the same name, "
                f"{entry.name!r}; rename one of them, or give its annotations the other's id"
            )
        ids[entry.name] = entry.id


def held_out(table: CocoTable, share: float) -> list[int]:
    """Positions of the images to hold out for validation: at least one, and never all.

    A number made from its name decides for an image, so the choice is the same for any order of
    the file, and a larger share has all images of a smaller one.

    Args:
        share: of the images, above 0 and below 1.

    Raises:
        ValueError: if there are fewer than two images.
    """
    count = len(table.images)
    if count < 2:
        raise ValueError(
            f"{table.name} has {count} images, of which none can be held out for validation; add "
            "images, or train without with --val_split 0"
        )
    numbers = [hashlib.blake2b(_bytes(e.file_name), digest_size=8).digest() for e in table.images]
    order = sorted(range(count), key=lambda i: (numbers[i], i))
    return sorted(order[: min(max(1, round(share * count)), count - 1)])


def _bytes(name: str) -> bytes:
    # The file alone: folders may be written otherwise when the data are moved.
    return name.replace("\\", "/").rpartition("/")[2].encode("utf-8", "surrogatepass")


def with_local_names(table: CocoTable) -> CocoTable:
    """The table with the names of files for the addresses that Label Studio writes."""
    names = [local_name(entry.file_name) for entry in table.images]
    if all(name == entry.file_name for name, entry in zip(names, table.images, strict=True)):
        return table
    pairs = zip(table.images, names, strict=True)
    return replace(table, images=[structs.replace(entry, file_name=name) for entry, name in pairs])
