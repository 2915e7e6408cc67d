"""Which files YOLO's data.yaml means: images, and their labels in labels/.

Paths in it follow the rules of Ultralytics' package. Without a data.yaml there are Label Studio's
classes.txt, a name on each line, and images/, which may hold a folder for each split.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mrcnn.core.files import read_regular
from mrcnn.core.problems import Place, Problem, Unusable
from mrcnn.core.reading import SUFFIXES
from mrcnn.importers.source import (
    ROLES,
    SourceError,
    class_name,
    find_image,
    read_lines,
    split_folders,
)

LARGEST_YAML = 2**20  # bytes


class DataSet(NamedTuple):
    """What a data.yaml says.

    Attributes:
        root: folder of all images and labels.
        places: role of a split -> folders of its images, or text files that list them.
        names: of the classes, by number.
        keypoints: number of values of keypoints that follow each box.
    """

    root: Path
    places: dict[str, list[Path]]
    names: list[str]
    keypoints: int = 0


def open_data(data: Path, root: Path | None) -> DataSet:
    """The data set of a data.yaml, or of the folder that holds it.

    Args:
        root: folder of the images and labels; None for that of the data.yaml.

    Raises:
        SourceError: if it has no data.yaml, or that can't be used.
    """
    home = data if data.is_dir() else data.parent
    root = root or home
    file = _yaml_file(data)
    if file is None:
        return _label_studio(home, root)
    content = _parsed(file)
    names = _names(file, content.get("names"))
    return DataSet(root, _places(file, content, root), names, _keypoints(content))


def _yaml_file(data: Path) -> Path | None:
    if data.is_file():
        return data
    if (data / "data.yaml").is_file():
        return data / "data.yaml"
    found = sorted(p for p in data.iterdir() if p.suffix.lower() in (".yaml", ".yml"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise SourceError(f"{data} has several YAML files, {names}; give one as --data FILE")
    return found[0] if found else None


def _label_studio(home: Path, root: Path) -> DataSet:
    file, images = home / "classes.txt", root / "images"
    if not file.is_file() or not images.is_dir():
        raise SourceError(f"{home} has no data.yaml; give the folder or the file with --data")
    folders = split_folders(images) or {"train": images}
    return DataSet(root, {n: [f] for n, f in folders.items()}, _names(file, read_lines(file)))


def _parsed(file: Path) -> dict[str, Any]:
    try:
        # To this loader every value is text; to others a class "no" is False, and "1" a number.
        content = yaml.load(read_regular(file, LARGEST_YAML), yaml.BaseLoader)
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:300]
        raise SourceError(f"{file} can't be read: {why}; correct it") from None
    if not isinstance(content, dict):
        raise SourceError(f"{file} has no names and train; give the data.yaml of a data set")
    return content


def _names(file: Path, names: Any) -> list[str]:
    """The classes in the order of their numbers."""
    if isinstance(names, dict):
        numbers = [str(number) for number in range(len(names))]
        if names.keys() != set(numbers):
            raise SourceError(f"{file}: names must be numbered 0 to {len(names) - 1}")
        names = [names[number] for number in numbers]
    if not isinstance(names, list) or not names:
        raise SourceError(f"{file} has no names of classes; give names: [first, second, ...]")
    try:
        checked = [class_name(name) for name in names]
    except Unusable as error:
        raise SourceError(f"{file}: {error}; correct its names") from None
    if len(set(checked)) < len(checked):
        twice = next(name for name in checked if checked.count(name) > 1)
        raise SourceError(f"{file} has two classes {twice!r}; rename one")
    return checked


def _keypoints(content: dict[str, Any]) -> int:
    try:
        count, values = content.get("kpt_shape", (0, 0))
        return int(count) * int(values)
    except (TypeError, ValueError):
        return 0


def _places(file: Path, content: dict[str, Any], root: Path) -> dict[str, list[Path]]:
    places: dict[str, list[Path]] = {}
    inner = content.get("path")
    bases = [root / inner, root] if isinstance(inner, str) else [root]
    for key, value in content.items():
        given = value if isinstance(value, list) else [value]
        if key not in ROLES or given in ([""], ["null"], ["~"]):
            continue
        if not all(isinstance(name, str) for name in given):
            raise SourceError(f"{file}: {key} must be a folder or a list of folders")
        places[ROLES[key]] = [_place(file, root, bases, key, name) for name in given]
    if not places:
        raise SourceError(f"{file} names no folder of images; give train: images/train")
    return places


def _place(file: Path, root: Path, bases: list[Path], key: str, name: str) -> Path:
    """A folder or a text file in `root`; one that isn't in it is refused."""
    for base in bases:
        for text in (
            name,
            name.removeprefix("../"),
        ):  # Roboflow means train/images by ../train/images
            path = Path(os.path.normpath(base / text))
            if path.is_relative_to(root) and os.path.exists(path):
                return path
    raise SourceError(
        f"{file}: {key} is {name!r}, which isn't in {root}; correct the path, or give the folder "
        "that holds images/ and labels/ with --image_dir"
    )


def list_images(places: Iterable[Path], root: Path, problems: list[Problem]) -> list[Path]:
    """The images in folders and those below them, or in the lines of text files."""
    found = {path for place in places for path in _listed(place, root, problems)}
    return sorted(found, key=os.fspath)  # paths themselves are compared slowly


def _listed(place: Path, root: Path, problems: list[Problem]) -> Iterator[Path]:
    if place.is_dir():
        for folder, _, files in os.walk(place):
            wanted = (f for f in files if f.lower().endswith(SUFFIXES) and not f.startswith("."))
            yield from (Path(folder, name) for name in wanted)
        return
    note = Place(problems, place.relative_to(root).as_posix())
    for line in read_lines(place):
        with note.skipping("picture skipped"):
            yield find_image((place.parent, root), line)


def label_file(root: Path, image: Path) -> Path:
    """Where an image's labels are: in its path, the last images/ becomes labels/."""
    *folders, _ = image.relative_to(root).parts
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return root.joinpath(*folders, f"{image.stem}.txt")
