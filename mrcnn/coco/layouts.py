"""Which COCO file and which images a split of a data set has, whatever tool laid the data set out.

`open_data` looks into a folder, `DataSet.part` takes a split of what it found. Nothing is read but
names, and whether a file of any name looks like a COCO file.

A split's role is "train", "validation" or "test", however it is spelled: val, valid, val2017. It is
"" for a file that isn't divided into splits.
"""

import itertools
import mmap
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

ROLES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
KNOWN = """\
  train_coco.json, train/image/                            as convert_to_coco.py writes
  annotations/instances_train.json, train/ or images/      COCO, CVAT
  train/_annotations.coco.json beside the images           Roboflow
  result.json or any other COCO file, images/              Label Studio and others
  data.toml, which names files and folders                 see docs/data.md
or give a COCO file itself: --data FILE.json --images FOLDER"""
# Files of COCO's annotations/ that hold no instances.
NO_INSTANCES = ("captions_", "image_info_", "panoptic_", "person_keypoints_", "stuff_")
# More JSON files in a folder are one for each image, of another format.
MOST_FILES = 50
PACKED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
SAMPLE = 20  # images that are looked for to tell which folder is theirs


class LayoutError(ValueError):
    """A data set that can't be made out; the message says what was found and what to do."""


class NothingFoundError(LayoutError):
    """There is no COCO file where a data set was to be."""


def role_of(name: str) -> str:
    """The role of a split or a file that is named `name`; "" if it says none, or several."""
    roles = {ROLES[word] for word in re.findall("[a-z]+", name.lower()) if word in ROLES}
    return roles.pop() if len(roles) == 1 else ""


def split_name(file: Path) -> str:
    """The split that a COCO file is named after: train_coco.json, instances_val2017.json."""
    if file.name.startswith("_annotations.coco"):
        return file.absolute().parent.name
    return file.stem.removesuffix("_coco").removeprefix("instances_")


@dataclass(frozen=True)
class Source:
    """A COCO file and the folders where its images may be.

    Attributes:
        name: of the split, as the data set spells it.
        role: see above.
        folders: likeliest first.
        classes: names of the classes to use; () for all.
    """

    file: Path
    name: str
    role: str
    folders: tuple[Path, ...]
    classes: tuple[str, ...] = ()

    def image_folder(self, names: Sequence[str]) -> Path:
        """The folder of the images.

        Args:
            names: `file_name` of every image.

        Raises:
            LayoutError: if no folder has any of those that are looked for.
        """
        sample = names[:: max(1, len(names) // SAMPLE)][:SAMPLE]
        inner = [path for name in sample if (path := _inner_path(name))]
        folders = [folder for folder in self.folders if folder.is_dir()]
        # By the file's name alone, if no folder has them with the folders that they are written in.
        for wanted in (inner, [PurePosixPath(path.name) for path in inner]):
            found = [sum(_is_there(folder, path) for path in wanted) for folder in folders]
            if any(found) or (folders and not sample):
                return folders[found.index(max(found))]  # the first of equals
        looked = "".join(f"\n  {folder}" for folder in folders or self.folders)
        raise LayoutError(
            f"the images of {self.file}, such as {sample[0] if sample else 'none'}, are in none of "
            f"these folders; give theirs with --images:{looked}"
        )


@dataclass(frozen=True)
class Part:
    """A split of a data set: a COCO file, or a share of its images.

    Attributes:
        share: of the file's images that is held out for validation; 0 for none.
        is_held_out: whether this is that share, or the rest.
    """

    source: Source
    share: float = 0.0
    is_held_out: bool = False


@dataclass(frozen=True)
class DataSet:
    """The COCO files of a data set; at least one.

    Attributes:
        path: as it was given, or the folder within it that holds them.
    """

    path: Path
    sources: tuple[Source, ...]

    def find(self, split: str) -> Source | None:
        """The source of a split, by its own spelling or else by its role.

        Raises:
            LayoutError: if there are several.
        """
        found = [s for s in self.sources if s.name == split]
        found = found or [s for s in self.sources if s.role and s.role == role_of(split)]
        if len(found) > 1:
            raise LayoutError(
                f"{self.path} has {len(found)} files of the split {split}:{_lines(found)}\n"
                "name one as it is spelled there, give it as --annotations FILE.json, or say in a "
                "data.toml which one counts"
            )
        return found[0] if found else None

    @property
    def base(self) -> Source | None:
        """The file to train on: that of the train split, or the only one that isn't a split's."""
        undivided = [source for source in self.sources if not source.role]
        return self.find("train") or (undivided[0] if len(undivided) == 1 else None)

    def part(self, split: str, share: float = 0.0) -> Part:
        """A split, or what takes its place in a data set without a validation split.

        Args:
            share: of the images to hold out for validation: then "validation" is that share of
                the file, and "train" is the rest.

        Raises:
            LayoutError: if there is no such split, or several; or for a share of a data set that
                has images for validation.
        """
        role = role_of(split)
        if share and role in ("train", "validation"):
            if validation := self.find("validation"):
                raise LayoutError(
                    f"{self.path} has images for validation, {validation.file}; leave out --val_split"
                )
            if self.base:
                return Part(self.base, share, role == "validation")
        if found := self.find(split):
            return Part(found)
        # A single file without splits is whatever split is asked for.
        if self.base and not self.base.role and (len(self.sources) == 1 or role == "train"):
            return Part(self.base)
        raise LayoutError(f"{self.path} has no split {split}; it has{_lines(self.sources)}")


def open_data(path: Path, annotations: Path | None = None, images: Path | None = None) -> DataSet:
    """Looks for the COCO files of a data set.

    Args:
        path: a folder in one of the layouts of `KNOWN`, or one that holds such a folder; a COCO
            file; a data.toml.
        annotations: a folder of COCO files, or one such file, instead of those in `path`.
        images: folder of the images; None searches for it.

    Raises:
        LayoutError: if nothing is found, or what is found can't be told apart.
    """
    given = annotations or path
    if not given.exists():
        raise NothingFoundError(f"there is no file or folder {given}")
    if images and not images.is_dir():
        raise LayoutError(f"there is no folder {images}; give the folder of the images")
    home = path if path.is_dir() else given if given.is_dir() else given.absolute().parent
    if given.is_file():
        return DataSet(given, _from_file(given, home, images))
    for place in itertools.chain([given], () if annotations else _below(given)):
        if sources := _from_folder(place, home if annotations else place, images):
            return DataSet(path if annotations else place, sources)
    raise NothingFoundError(_nothing_found(given))


def _from_file(file: Path, home: Path, images: Path | None) -> tuple[Source, ...]:
    if file.suffix.lower() == ".toml":
        return tuple(_from_toml(file, images))
    if file.suffix.lower() in PACKED or zipfile.is_zipfile(file):
        raise LayoutError(f"{file} is packed; unpack it and give the folder")
    if file.suffix.lower() != ".json":
        raise LayoutError(f"{file} is neither a folder, a COCO file (.json) nor a data.toml")
    name = split_name(file)
    near = file.absolute().parent
    return (Source(file, name, "", _image_folders(name, images, near, near.parent, home)),)


def _from_folder(folder: Path, home: Path, images: Path | None) -> tuple[Source, ...]:
    toml = folder / "data.toml"
    if toml.is_file():
        return tuple(_from_toml(toml, images))
    return tuple(_source(file, folder, home, images) for file in _coco_files(folder))


def _source(file: Path, folder: Path, home: Path, images: Path | None) -> Source:
    name, near = split_name(file), file.absolute().parent
    if file.parent != folder and role_of(near.name) and not role_of(name):
        name = near.name  # train/annotations.json
    return Source(file, name, role_of(name), _image_folders(name, images, home, near, near.parent))


def _below(folder: Path) -> Iterator[Path]:
    """The only folder below that holds a data set: archives often have one folder around all.

    Raises:
        LayoutError: if several do.
    """
    found = [child for child in _folders(folder) if _from_folder(child, child, None)]
    if len(found) > 1:
        names = "".join(f"\n  {child}" for child in found)
        raise LayoutError(f"{folder} holds several data sets; give one of them:{names}")
    yield from found


def _folders(folder: Path) -> list[Path]:
    """Folders in a folder, but hidden ones and what archives of macOS carry along."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:  # there is no such folder, or it can't be listed
        return []
    return [folder / name for name in names if not name.startswith((".", "__MACOSX"))]


def _coco_files(folder: Path) -> list[Path]:
    # What convert_to_coco.py wrote counts before what else lies beside it.
    if own := sorted(folder.glob("*_coco.json")):
        return own
    splits = [child for child in _folders(folder) if _is_split(child.name)]
    found: list[Path] = []
    for place in (folder / "annotations", folder, *splits):
        files = sorted(place.glob("*.json"))
        named = [f for f in files if f.name.startswith(("instances_", "_annotations.coco"))]
        if not named and len(files) <= MOST_FILES:
            others = [f for f in files if not f.name.startswith(NO_INSTANCES)]
            named = [f for f in others if looks_like_coco(f)]
        found += named
    return found


def _is_split(folder_name: str) -> bool:
    """Whether a folder is named as a split and no more: train, valid, Val2017."""
    found = re.fullmatch(r"([a-z]+)[-_ ]?\d*", folder_name.lower())
    return bool(found and found.group(1) in ROLES)


def looks_like_coco(file: Path) -> bool:
    """Whether a JSON file is an object with a list of images and one of annotations, by its text."""
    try:
        with open(file, "rb") as opened:
            text = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # ValueError: the file is empty
        return False
    with text:
        is_object = text[:100].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")
        return is_object and all(text.find(key) >= 0 for key in (b'"images"', b'"annotations"'))


def _image_folders(name: str, images: Path | None, *roots: Path) -> tuple[Path, ...]:
    """Where the images of a split may be, likeliest first."""
    if images:
        return (images / name / "image", images / name, images)
    own = (f"{name}/image", name, f"images/{name}", f"{name}/images")
    folders = [root / place for root in roots for place in own]
    # The same split under another spelling: valid/ beside val.json.
    folders += [
        child
        for root in roots
        for child in (*_folders(root), *_folders(root / "images"))
        if role_of(name) and role_of(child.name) == role_of(name)
    ]
    folders += [root / place for root in roots for place in ("images", "image", "data", "")]
    return tuple(dict.fromkeys(folders))


def local_name(name: str) -> str:
    """A `file_name` as the name of a file on this disk.

    Label Studio writes addresses of its server where it didn't copy the images: /data/upload/1/a.jpg.
    """
    if re.match(r"/data/|[A-Za-z][\w+.-]+://", name):
        return re.split(r"[/\\=]", name)[-1]
    return name


def _inner_path(name: str) -> PurePosixPath | None:
    """A `file_name` as a path within a folder; None if it leads out of it."""
    path = PurePosixPath(local_name(name).replace("\\", "/"))
    return None if path.is_absolute() or ".." in path.parts else path


def _is_there(folder: Path, path: PurePosixPath) -> bool:
    try:
        return (folder / path).is_file()
    except OSError:  # no file can have this name
        return False


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    """A split's table in a data.toml; paths are relative to the file's folder."""

    annotations: str
    images: str | None = None


def _from_toml(file: Path, images: Path | None) -> Iterator[Source]:
    try:
        content = msgspec.toml.decode(file.read_bytes(), type=dict[str, _Entry | list[str]])
    except ValueError as error:
        raise LayoutError(f"{file}: {error}; see docs/data.md for what it may hold") from None
    names = content.pop("names", [])
    for split, entry in content.items():
        if isinstance(entry, list) or isinstance(names, _Entry):
            key = split if isinstance(entry, list) else "names"
            raise LayoutError(
                f"{file}: {key} is of the wrong kind; give names = [...] and a table [{split}] "
                "with annotations, and images if they aren't found near them"
            )
        annotations = file.parent / entry.annotations
        if not annotations.is_file():
            raise LayoutError(f"{file}: there is no file {annotations}, the {split} annotations")
        given = images or (file.parent / entry.images if entry.images else None)
        folders = _image_folders(split, given, file.parent, annotations.absolute().parent)
        yield Source(annotations, split, role_of(split), folders, tuple(names))
    if not content:
        raise LayoutError(f"{file} names no split; give a table [train] with annotations")


def _lines(sources: Sequence[Source]) -> str:
    return "".join(f"\n  {source.name}: {source.file}" for source in sources)


def _nothing_found(folder: Path) -> str:
    """What to tell of a folder without any COCO file."""
    children = sorted(folder.iterdir())
    names = [c.name + "/" * c.is_dir() for c in children if not c.name.startswith(".")]
    held = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    hint = ""
    if packed := next((c for c in children if c.suffix.lower() in PACKED), None):
        hint = f"\n{packed} is packed; unpack it first."
    elif any(name in ("data.yaml", "labels/", "Annotations/") for name in names) or (
        sum(name.endswith(".json") for name in names) > MOST_FILES
    ):
        hint = "\nLabels of YOLO, Pascal VOC, LabelMe and VIA must be converted to COCO first."
    return f"{folder} holds no COCO file ({held or 'nothing'}).{hint} Known layouts:\n{KNOWN}"
