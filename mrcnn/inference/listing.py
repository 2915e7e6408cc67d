"""Which files an input means, and the name that each image's results get.

An input is a folder, an image, a pattern such as "shots/*.jpg", or a text file of paths.
"""

import codecs
import glob
import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path, PurePosixPath

from mrcnn.core.reading import SUFFIXES, is_image, quiet_pillow
from mrcnn.core.text import writable
from mrcnn.inference.names import LOCK, NOTES, RESERVED, TABLES, output_of
from mrcnn.inference.notes import Notes

# Names in the output folder, and in its records/, that a folder of the input can't have there.
_OURS = (*RESERVED, *TABLES, Path(NOTES).name, Path(LOCK).name)
# What may be appended to an image's name: an input folder of that name would be in the way.
_APPENDED = (".png", ".jpg", ".json")
# File systems take 255 bytes; what is appended to a name, and to a temporary file's, fits too.
MAX_NAME = 200
_NEVER = ("thumbs.db", "desktop.ini")

Source = str | os.PathLike[str]


@dataclass(frozen=True)
class InputImage:
    """A file to process.

    Attributes:
        name: its path relative to the input, with "/"; the name in results.json and the tables.
        output: what the names of its output files begin with. It is `name`, except where that
            would be too long, collide, or lie in a folder that the run itself uses.
    """

    path: Path
    name: str
    output: str


@dataclass(frozen=True)
class Listing:
    """What an input holds, each sorted by name.

    Attributes:
        passed_over: (name, reason) of each file that is no image, neither by its ending nor by
            its content, and of each link to a folder.
        failed: (name, reason) of each sub-folder that can't be read.
        left_out: files with an image's ending in the folder that was to be left out.
    """

    images: list[InputImage] = field(default_factory=list)
    passed_over: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)

    def for_case_blind_disk(self) -> "Listing":
        """The same images, with outputs that differ by more than case or Unicode form."""
        names = [(image.name, image.path) for image in self.images]
        return replace(self, images=_with_outputs(names, _folded))


def list_inputs(source: Source, output_folder: Source, recursive: bool = False) -> Listing:
    """The images of an input, checked against where their results go. Makes no folder.

    Args:
        source, recursive: as in `list_images`.
        output_folder: the results in it are no images of the input if it lies within.

    Raises:
        ValueError: if there are no images, results would lie among them or replace one of them,
            or the output folder lies within the input and holds images, but no notes of a run.
    """
    folder = Path(output_folder)
    read_from = source if os.path.isdir(source) else pattern_folder(source)
    if read_from is not None and os.path.isdir(folder) and folder.samefile(read_from):
        raise ValueError(
            f"the images of {os.fspath(source)!r} lie in the output folder; choose another "
            "output folder, or the next run takes the results for images"
        )
    listing = list_images(source, recursive, leave_out=folder)
    _check_left_out(listing, folder, Path(read_from or ""))
    _check_results(listing.images, folder, read_from)
    return listing


def _check_left_out(listing: Listing, folder: Path, base: Path) -> None:
    """Refuses to leave out images that no run wrote; in a folder of results it tells of them."""
    if not listing.left_out:
        return
    notes, top = Notes.read(folder), Path(os.path.realpath(folder))
    if notes.run is None:
        raise ValueError(
            f"the output folder {folder} lies within the input and holds images, such as "
            f"{writable(listing.left_out[0].name)}, but no notes of a run; choose another output folder, or "
            "they would be left out (earlier versions took no notes)"
        )
    why = "lies in the output folder but is no result; passed over"
    for path in listing.left_out:
        if _relative(os.path.realpath(path.parent) / Path(path.name), top) not in notes:
            listing.passed_over.append((_relative(path, base), why))
    listing.passed_over.sort()


def _check_results(images: list[InputImage], folder: Path, read_from: Source | None) -> None:
    """Refuses results that would replace an image of the input, or lie among them."""
    real = cache(os.path.realpath)
    top, kinds = Path(real(folder)), {"masks": "mask image", "cutouts": "cut-out"}
    outputs = {image.output: writable(image.name) for image in images}
    for image in images:
        place = Path(real(image.path.parent), image.path.name)
        if not place.is_relative_to(top):
            continue
        inside = place.relative_to(top)
        of = output_of(inside.as_posix())
        if of in outputs:
            raise ValueError(
                f"the {kinds.get(inside.parts[0], 'overlay')} of {outputs[of]} would replace "
                f"{folder / inside}, which is also an image of the input; choose another output "
                "folder"
            )
    if read_from is None or not (inner := Path(real(Path(read_from)))).is_relative_to(top):
        return
    inside = inner.relative_to(top)
    if inside.parts[0] in RESERVED or any(Path(o).is_relative_to(inside) for o in outputs):
        raise ValueError(
            f"results would lie among the images in {os.fspath(read_from)}; choose another output "
            "folder, or the next run takes them for images"
        )


def list_images(
    source: Source, recursive: bool = False, leave_out: Source | None = None
) -> Listing:
    """Lists the images of an input.

    From folders: files with an image's ending (`reading.SUFFIXES`, in any case) or an image's
    content. A directory or a dangling link with such an ending is listed too and fails later
    with the reason. Hidden files (".name") are left out, links to folders aren't followed.
    Files that are named one by one, by a pattern or a list, are always taken.

    Args:
        source: a folder, a file, a pattern with "*", "?" or "[", or a ".txt" file with one path
            a line, relative to the current folder or else to its own.
        recursive: take a folder's sub-folders too; in patterns "**" then means any depth.
        leave_out: a folder whose files are not taken, but listed as left out.

    Raises:
        ValueError: if there is no such input or it holds no image.
    """
    text, path = os.fspath(source), Path(source)
    if not text:
        raise ValueError("the name of the input is empty; give a folder, an image or a pattern")
    listing = Listing()
    if os.path.isdir(path):
        with quiet_pillow():
            found, base = _of_folder(path, recursive, listing, leave_out), path
    else:
        named = _named(text, path, recursive, listing, leave_out)
        found = [Path(os.path.abspath(p)) for p in named]
        found = list(dict.fromkeys(found))
        base = _common_folder(found)
    if not found and not listing.failed:
        raise ValueError(
            f"found no images in {text!r}; give a folder that holds files with one of the "
            f"endings {', '.join(SUFFIXES)}"
            + (
                ""
                if recursive or not os.path.isdir(path)
                else ", or add --recursive for sub-folders"
            )
        )
    names = sorted((_relative(p, base), p) for p in found)
    images = _with_outputs(names, str)
    return Listing(
        images, sorted(listing.passed_over), sorted(listing.failed), sorted(listing.left_out)
    )


def pattern_folder(source: Source) -> Path | None:
    """The folder that all files of a pattern lie below, None if it is no pattern."""
    text = os.fspath(source)
    if os.path.lexists(text) or not glob.has_magic(text):
        return None
    plain: list[str] = []
    for part in Path(text).parts[:-1]:
        if glob.has_magic(part):
            break
        plain.append(part)
    return Path(*plain)


# --- Which files ------------------------------------------------------------------------------


def _of_folder(
    folder: Path, recursive: bool, listing: Listing, leave_out: Source | None
) -> list[Path]:
    """The files of a folder that are to be processed; notes the others in the listing."""
    found = []

    def unreadable(error: OSError) -> None:
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


def _to_enter(
    root: str, folders: list[str], top: Path, listing: Listing, leave_out: Source | None
) -> list[str]:
    """The sub-folders to go through; notes links, which may lead in circles, in the listing."""
    chosen = []
    for name in sorted(folders):
        path = Path(root, name)
        if name.startswith("."):
            continue
        if _is_same(path, leave_out):
            if not path.is_symlink():
                listing.left_out.extend(_images_below(path))
        elif path.is_symlink():
            why = "a link to a folder, which is not followed; passed over"
            listing.passed_over.append((_relative(path, top), why))
        else:
            chosen.append(name)
    return chosen


def _is_same(path: Path, other: Source | None) -> bool:
    try:
        return other is not None and path.samefile(other)
    except (OSError, ValueError):
        return False


def _images_below(folder: Path) -> Iterator[Path]:
    """Files with an image's ending in a folder and its sub-folders."""
    for root, _, files in os.walk(folder):
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(root, name)


def _is_empty(folder: Source) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def _named(
    text: str, path: Path, recursive: bool, listing: Listing, leave_out: Source | None
) -> list[Path]:
    """The paths that a file name, a pattern or a list of paths stands for."""
    if path.suffix.lower() == ".txt" and os.path.isfile(path):
        return [_beside(line, path.parent) for line in _lines(path) if line.strip()]
    if os.path.lexists(text):
        return [path]
    if glob.has_magic(text):
        return _matches(text, recursive, listing, leave_out)
    raise ValueError(
        f"input {text!r} does not exist; give a folder, an image, a pattern in quotes or a "
        ".txt file of paths"
    )


def _lines(path: Path) -> list[str]:
    """The lines of a text file in UTF-8, or in UTF-16 as Windows' shell writes it."""
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode("utf-16", "replace")
    else:
        text = data.decode("utf-8-sig", "surrogateescape")
    # Not splitlines(): it also splits at characters that names may hold.
    return re.split("\r\n|\r|\n", text)


def _matches(
    pattern: str, recursive: bool, listing: Listing, leave_out: Source | None
) -> list[Path]:
    """Files that match a pattern, and empty folders that are named like images."""
    top = os.path.realpath(pattern_folder(pattern) or "")
    results = None if leave_out is None else os.path.realpath(leave_out)
    excluded = None
    if results is not None and results != top and results.startswith(os.path.join(top, "")):
        excluded = os.path.join(results, "")
    found = []
    for name in glob.glob(pattern, recursive=recursive):
        if os.path.isdir(name) and not (name.lower().endswith(SUFFIXES) and _is_empty(name)):
            continue
        folder = os.path.join(os.path.realpath(os.path.dirname(name)), "")
        if excluded is None or not folder.startswith(excluded):
            found.append(Path(name))
        elif name.lower().endswith(SUFFIXES):
            listing.left_out.append(Path(name))
    return found


def _beside(line: str, folder: Path) -> Path:
    """The path of a line: as it stands or stripped, from the current folder or from the list's."""
    for text in (line, line.strip()):
        path = Path(os.path.expanduser(text))
        for place in (path, folder / path):
            if os.path.lexists(place):
                return place
    return path


def _common_folder(paths: list[Path]) -> Path:
    try:
        return Path(os.path.commonpath([p.parent for p in paths])) if paths else Path()
    except ValueError:  # on Windows, of several drives
        return Path()


def _relative(path: Source, base: Path) -> str:
    path = Path(path)
    relative = Path(os.path.relpath(path, base)) if base != Path() else path
    return relative.as_posix().replace(":", "") if relative.is_absolute() else relative.as_posix()


# --- Names of outputs -------------------------------------------------------------------------


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _with_outputs(names: list[tuple[str, Path]], key: Callable[[str], str]) -> list[InputImage]:
    """Images with output names whose keys differ."""
    folders = _output_folders([name.lstrip("/") for name, _ in names], key)
    taken: set[str] = set()
    images = []
    for name, path in names:
        folder, _, last = name.lstrip("/").rpartition("/")
        plain = output = folders[folder] + shortened(last)
        for attempt in range(2, len(names) + 2):
            if key(output) not in taken:
                break
            output = f"{plain}~{attempt}"
        taken.add(key(output))
        images.append(InputImage(path, name, output))
    return images


def _output_folders(names: list[str], key: Callable[[str], str]) -> dict[str, str]:
    """Folder of the input -> folder of the output with a "/" behind, "" for the top one.

    A folder where the run's own files or those of an image go gets a "~".
    """
    images = {key(name) for name in names}
    folders = {"": ""}
    found = {folder.as_posix() for name in names for folder in PurePosixPath(name).parents}
    for folder in sorted(found - {"."}, key=lambda f: f.count("/")):
        above, _, last = folder.rpartition("/")
        start = len(folder) - len(last)
        dots = [start + i for i, letter in enumerate(last) if letter == "." and i]
        is_result = last.lower().endswith(_APPENDED) and any(
            key(folder[:dot]) in images for dot in dots
        )
        is_ours = not above and last.lower() in _OURS
        folders[folder] = folders[above] + last + ("~/" if is_result or is_ours else "/")
    return folders


def shortened(name: str) -> str:
    """A file name of at most MAX_NAME bytes; the root folder has no name, so "root" is its."""
    if len(os.fsencode(name)) <= MAX_NAME:
        return "root" if name in ("", ".") else name
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    short = os.fsencode(name)[: MAX_NAME - 9].decode("utf-8", "ignore")
    return f"{short}~{digest}"
