"""Which files an input means, and the name that each picture's results get.

An input is a folder, a picture, a pattern such as "shots/*.jpg", or a text file of paths.
"""

import glob
import hashlib
import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mrcnn.reading import SUFFIXES, is_picture

# Folders of the output that aren't the input's; see `inference.run_pictures`.
RESERVED = ("records", "masks", "cutouts")
# File systems take 255 bytes; what is appended to a name, and to a temporary file's, fits too.
MAX_NAME = 200
_NEVER = ("thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Picture:
    """A file to process.

    Attributes:
        path: where it lies.
        name: its path relative to the input, with "/"; what results.json and the tables say.
        output: the name that its output files begin with: `name`, but for names that would be
            too long, collide or lie in a folder that the output uses itself.
    """

    path: Path
    name: str
    output: str


@dataclass
class Listing:
    """What an input holds.

    Attributes:
        pictures: list of `Picture`, sorted by name.
        passed_over: (name, reason) of each file that is no picture, neither by its ending nor
            by its content.
    """

    pictures: list[Picture] = field(default_factory=list)
    passed_over: list[tuple[str, str]] = field(default_factory=list)


def list_pictures(source, recursive=False, same_case=False):
    """Lists the pictures of an input.

    From folders: files with a picture's ending (`reading.SUFFIXES`, in any case) or a
    picture's content; also what only has such an ending, a directory or a link into the void,
    so that it is reported later. Hidden files (".name") are left out. Files that are named one
    by one, by a pattern or a list, are always taken.

    Args:
        source: str or PathLike: a folder, a file, a pattern with "*", "?" or "[", or a ".txt"
            file with one path a line, relative to the current folder or else to its own.
        recursive: take a folder's sub-folders too; in patterns "**" then means any depth.
        same_case: two names that differ in case or in Unicode form only get different outputs,
            for file systems that don't tell them apart.

    Returns:
        `Listing`.

    Raises:
        ValueError: if there is no such input or it holds no picture.
    """
    text, path = os.fspath(source), Path(source)
    passed_over: list[tuple[str, str]] = []
    if path.is_dir():
        found, base = _of_folder(path, recursive, passed_over), path
    else:
        found = [Path(os.path.abspath(p)) for p in _named(text, path, recursive)]
        found = list(dict.fromkeys(found))
        base = _common_folder(found)
    if not found:
        raise ValueError(
            f"found no pictures in {text!r}; give a folder that holds files with one of the "
            f"endings {', '.join(SUFFIXES)}"
            + ("" if recursive or not path.is_dir() else ", or add --recursive for sub-folders")
        )
    names = sorted((_relative(p, base), p) for p in found)
    return Listing(_with_outputs(names, same_case), sorted(passed_over))


def _of_folder(folder, recursive, passed_over):
    """The files of a folder that are to be processed; notes the others."""
    found = []
    for root, folders, files in os.walk(folder):
        named = [n for n in folders if n.lower().endswith(SUFFIXES)]
        for name in files + ([] if recursive else named):
            path = Path(root, name)
            if name.startswith(".") or name.lower() in _NEVER:
                continue
            if path.suffix.lower() in SUFFIXES or (path.is_file() and is_picture(path)):
                found.append(path)
            else:
                passed_over.append((_relative(path, folder), "not a picture; passed over"))
        folders[:] = sorted(n for n in folders if recursive and not n.startswith("."))
    return found


def _named(text, path, recursive):
    """The paths that a file name, a pattern or a list of paths stands for."""
    if path.suffix.lower() == ".txt" and path.is_file():
        lines = path.read_bytes().decode("utf-8-sig", "surrogateescape").splitlines()
        return [_beside(line.strip(), path.parent) for line in lines if line.strip()]
    if os.path.lexists(text):
        return [path]
    if glob.has_magic(text):
        return [Path(p) for p in glob.glob(text, recursive=recursive) if not os.path.isdir(p)]
    raise ValueError(
        f"input {text!r} does not exist; give a folder, a picture, a pattern in quotes or a "
        ".txt file of paths"
    )


def _beside(line, folder):
    path = Path(line).expanduser()
    return path if os.path.lexists(path) or not os.path.lexists(folder / path) else folder / path


def _common_folder(paths):
    try:
        return Path(os.path.commonpath([p.parent for p in paths])) if paths else Path()
    except ValueError:  # on Windows, of several drives
        return Path()


def _relative(path, base):
    relative = Path(os.path.relpath(path, base)) if base != Path() else path
    return relative.as_posix().replace(":", "") if relative.is_absolute() else relative.as_posix()


def _with_outputs(names, same_case):
    """Pictures with output names that no other has."""
    taken, pictures = set(), []
    for name, path in names:
        output = _safe(name.lstrip("/"))
        for attempt in range(2, len(names) + 2):
            key = unicodedata.normalize("NFC", output).casefold() if same_case else output
            if key not in taken:
                break
            output = f"{_safe(name)}~{attempt}"
        taken.add(key)
        pictures.append(Picture(path, name, output))
    return pictures


def _safe(name):
    parts = list(PurePosixPath(name).parts)
    if len(parts) > 1 and parts[0].lower() in RESERVED:
        parts[0] += "~"
    if len(os.fsencode(parts[-1])) > MAX_NAME:
        digest = hashlib.sha256(os.fsencode(parts[-1])).hexdigest()[:8]
        short = os.fsencode(parts[-1])[: MAX_NAME - 9].decode("utf-8", "ignore")
        parts[-1] = f"{short}~{digest}"
    return "/".join(parts)
