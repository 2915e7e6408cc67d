"""Which files an input means, and the name that each image's results get.

An input is a folder, an image, a pattern such as "shots/*.jpg", or a text file of paths.
"""

import codecs
import glob
import hashlib
import os
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mrcnn.core.reading import SUFFIXES, is_image, quiet_pillow

# Folders and files of the output that aren't the input's; see `inference.run_pictures`.
RESERVED = ("records", "masks", "cutouts")
TABLES = ("results.json", "images.json", "results.csv", "failures.csv", "index.html")
# What may be appended to an image's name: an input's folder called so would lie in the way.
_APPENDED = (".png", ".jpg", ".json")
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
        images: list of `Picture`, sorted by name.
        passed_over: (name, reason) of each file that is no image, neither by its ending nor
            by its content, and of each link to a folder.
        failed: (name, reason) of each sub-folder that can't be read.
    """

    pictures: list[Picture] = field(default_factory=list)
    passed_over: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)


def list_pictures(source, recursive=False, same_case=False, leave_out=None):
    """Lists the images of an input.

    From folders: files with an image's ending (`reading.SUFFIXES`, in any case) or a
    image's content; also what only has such an ending, a directory or a link into the void,
    so that it is reported later. Hidden files (".name") are left out, links to folders aren't
    followed. Files that are named one by one, by a pattern or a list, are always taken.

    Args:
        source: str or PathLike: a folder, a file, a pattern with "*", "?" or "[", or a ".txt"
            file with one path a line, relative to the current folder or else to its own.
        recursive: take a folder's sub-folders too; in patterns "**" then means any depth.
        same_case: two names that differ in case or in Unicode form only get different outputs,
            for file systems that don't tell them apart.
        leave_out: a folder whose files are not taken if it lies within the input, that of the
            results: they would be images of the next run.

    Returns:
        `Listing`.

    Raises:
        ValueError: if there is no such input or it holds no image.
    """
    text, path = os.fspath(source), Path(source)
    listing = Listing()
    if path.is_dir():
        with quiet_pillow():
            found, base = _of_folder(path, recursive, listing, _real(leave_out)), path
    else:
        found = [Path(os.path.abspath(p)) for p in _named(text, path, recursive, leave_out)]
        found = list(dict.fromkeys(found))
        base = _common_folder(found)
    if not found and not listing.failed:
        raise ValueError(
            f"found no images in {text!r}; give a folder that holds files with one of the "
            f"endings {', '.join(SUFFIXES)}"
            + ("" if recursive or not path.is_dir() else ", or add --recursive for sub-folders")
        )
    names = sorted((_relative(p, base), p) for p in found)
    listing.pictures = _with_outputs(names, same_case)
    for rows in (listing.passed_over, listing.failed):
        rows.sort()
    return listing


def pattern_folder(source):
    """The folder that all files of a pattern lie below, None if it is no pattern."""
    text = os.fspath(source)
    if os.path.lexists(text) or not glob.has_magic(text):
        return None
    plain = []
    for part in Path(text).parts[:-1]:
        if glob.has_magic(part):
            break
        plain.append(part)
    return Path(*plain)


def _real(path):
    return None if path is None else os.path.realpath(path)


def _of_folder(folder, recursive, listing, leave_out):
    """The files of a folder that are to be processed; notes the others in the listing."""
    found = []

    def unreadable(error):
        if Path(error.filename) == folder:
            raise error
        why = f"is a folder that cannot be read ({error.strerror}); change its permissions"
        listing.failed.append((_relative(error.filename, folder), why))

    for root, folders, files in os.walk(folder, onerror=unreadable):
        taken = [n for n in folders if n.lower().endswith(SUFFIXES)]
        if recursive:  # an empty one is no album, but nor is it passed over in silence
            paths = (Path(root, n) for n in taken)
            taken = [p.name for p in paths if not p.is_symlink() and _is_empty(p)]
        for name in files + taken:
            path = Path(root, name)
            if name.startswith(".") or name.lower() in _NEVER:
                continue
            if path.suffix.lower() in SUFFIXES or (path.is_file() and is_image(path)):
                found.append(path)
            else:
                listing.passed_over.append((_relative(path, folder), "not an image; passed over"))
        folders[:] = _to_enter(root, folders, folder, listing, leave_out) if recursive else []
    return found


def _to_enter(root, folders, top, listing, leave_out):
    """Which of the sub-folders are gone through; links, which may lead in circles, are told."""
    chosen = []
    for name in sorted(folders):
        path = Path(root, name)
        if name.startswith(".") or os.path.realpath(path) == leave_out:
            continue
        if path.is_symlink():
            why = "a link to a folder, which is not followed; passed over"
            listing.passed_over.append((_relative(path, top), why))
        else:
            chosen.append(name)
    return chosen


def _is_empty(folder):
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def _named(text, path, recursive, leave_out):
    """The paths that a file name, a pattern or a list of paths stands for."""
    if path.suffix.lower() == ".txt" and path.is_file():
        return [_beside(line, path.parent) for line in _lines(path) if line.strip()]
    if os.path.lexists(text):
        return [path]
    if glob.has_magic(text):
        return _matches(text, recursive, leave_out)
    raise ValueError(
        f"input {text!r} does not exist; give a folder, an image, a pattern in quotes or a "
        ".txt file of paths"
    )


def _lines(path):
    """The lines of a text file in UTF-8, or in UTF-16 as Windows' shell writes it."""
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode("utf-16", "replace")
    else:
        text = data.decode("utf-8-sig", "surrogateescape")
    # Not splitlines(): names may hold what else it takes for the end of a line.
    return re.split("\r\n|\r|\n", text)


def _matches(pattern, recursive, leave_out):
    """Files that a pattern fits, and folders that are named like images but empty."""
    top, results = _real(pattern_folder(pattern)), _real(leave_out)
    within = results is not None and results != top and results.startswith(os.path.join(top, ""))
    found = []
    for name in glob.glob(pattern, recursive=recursive):
        if os.path.isdir(name) and not (name.lower().endswith(SUFFIXES) and _is_empty(name)):
            continue
        folder = os.path.join(os.path.realpath(os.path.dirname(name)), "")
        if not (within and folder.startswith(os.path.join(results, ""))):
            found.append(Path(name))
    return found


def _beside(line, folder):
    """The path of a line: as it stands or without spaces around it, and from here or from there."""
    for text in (line, line.strip()):
        path = Path(os.path.expanduser(text))
        for place in (path, folder / path):
            if os.path.lexists(place):
                return place
    return path


def _common_folder(paths):
    try:
        return Path(os.path.commonpath([p.parent for p in paths])) if paths else Path()
    except ValueError:  # on Windows, of several drives
        return Path()


def _relative(path, base):
    path = Path(path)
    relative = Path(os.path.relpath(path, base)) if base != Path() else path
    return relative.as_posix().replace(":", "") if relative.is_absolute() else relative.as_posix()


def _with_outputs(names, same_case):
    """Images with output names that no other has."""

    def key(text):
        return unicodedata.normalize("NFC", text).casefold() if same_case else text

    folders = _output_folders([name.lstrip("/") for name, _ in names], key)
    taken: set[str] = set()
    pictures = []
    for name, path in names:
        folder, _, last = name.lstrip("/").rpartition("/")
        plain = output = folders[folder] + _shortened(last)
        for attempt in range(2, len(names) + 2):
            if key(output) not in taken:
                break
            output = f"{plain}~{attempt}"
        taken.add(key(output))
        pictures.append(Picture(path, name, output))
    return pictures


def _output_folders(names, key):
    """Folder of the input -> folder of the output with a "/" behind, "" for the top one.

    What would lie where the run's own files or those of an image go gets a "~".
    """
    pictures = {key(name) for name in names}
    folders = {"": ""}
    found = {folder.as_posix() for name in names for folder in PurePosixPath(name).parents}
    for folder in sorted(found - {"."}, key=lambda f: f.count("/")):
        above, _, last = folder.rpartition("/")
        start = len(folder) - len(last)
        dots = [start + i for i, letter in enumerate(last) if letter == "." and i]
        is_result = last.lower().endswith(_APPENDED) and any(
            key(folder[:dot]) in pictures for dot in dots
        )
        is_ours = not above and last.lower() in (*RESERVED, *TABLES)
        folders[folder] = folders[above] + last + ("~/" if is_result or is_ours else "/")
    return folders


def _shortened(name):
    """A file name of at most MAX_NAME bytes; the root folder, of all things, has none."""
    if len(os.fsencode(name)) <= MAX_NAME:
        return "root" if name in ("", ".") else name
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    short = os.fsencode(name)[: MAX_NAME - 9].decode("utf-8", "ignore")
    return f"{short}~{digest}"
