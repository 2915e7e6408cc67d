"""matches.npz: what a later comparison needs of a run, written and read.

A comparison reads the file of a stranger, so nothing of it is unpacked before its names, types,
shapes and sizes are known to be those that `save_matches` writes. It never holds Python objects.
"""

import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mrcnn.core.files import open_regular, write_atomically
from mrcnn.evaluation.average_precision import (
    IGNORED,
    MAX_DETECTIONS,
    THRESHOLDS,
    TRUE_POSITIVE,
    Matches,
)
from mrcnn.evaluation.metrics import KIND_NAMES

MATCHES_FILE = "matches.npz"
MOST_BYTES = 2**30  # unpacked
# Of arrays that become lists of text, which take more, and of the ids.
_MOST = {"A2": 2**16, "B": 2**24, "I": 2**28}
# Kinds of numbers and shape; letters as in `Matches`, B: bytes of the names as JSON, or K names.
_ARRAYS = {
    "rows": ("iu", "N"),
    "image": ("iu", "N"),
    "classes": ("iu", "N"),
    "scores": ("f", "N"),
    "rank": ("iu", "N"),
    "codes": ("u", "NAT"),
    "truth_image": ("iu", "G"),
    "truth_classes": ("iu", "G"),
    "truth_ignored": ("b", "AG"),
    "views": ("U", "A2"),
    "names": ("uU", "B"),
}
_IDS = "image_ids"


class _OtherContentError(ValueError):
    """Something that `save_matches` doesn't write."""


def save_matches(path: Path, image_ids: np.ndarray, matches: dict[str, Matches]) -> None:
    """Writes ids of the images, and matches by kind, as .npz."""
    arrays: dict[str, Any] = {_IDS: image_ids}
    for kind, found in matches.items():
        arrays |= {f"{kind}.{name}": getattr(found, name) for name in _ARRAYS}
        arrays[f"{kind}.views"] = np.array(found.views)
        # One long name would make all of them as long in an array of text.
        arrays[f"{kind}.names"] = np.frombuffer(msgspec.json.encode(found.names), np.uint8)
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    write_atomically(path, data.getvalue())


def load_matches(path: Path) -> tuple[np.ndarray, dict[str, Matches]]:
    """The image ids and the matches by kind that `save_matches` wrote.

    Raises:
        ValueError: if there is no such file, or it holds something else.
    """
    if not path.exists():
        raise ValueError(
            f"{path} is missing; it holds the matches of each image, which the intervals of the "
            "differences need. Give the metrics.json in the folder where model.py evaluate wrote it"
        )
    try:
        with open(open_regular(path), "rb") as file, zipfile.ZipFile(file) as archive:
            return _read(archive)
    except _OtherContentError as error:
        why = str(error)
    except OSError as error:
        why = error.strerror or str(error)
    except Exception as error:  # Damaged archives make zipfile, zlib and NumPy raise all sorts.
        why = f"it is damaged, cut short or no archive ({type(error).__name__})"
    raise ValueError(f"{path} is not a matches.npz of model.py evaluate: {why}")


def _read(archive: zipfile.ZipFile) -> tuple[np.ndarray, dict[str, Matches]]:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    kinds = [kind for kind in KIND_NAMES if f"{kind}.rows" in members]
    wanted = [_IDS, *(f"{kind}.{name}" for kind in kinds for name in _ARRAYS)]
    if not kinds or members.keys() != set(wanted) or len(archive.infolist()) != len(wanted):
        odd = sorted(set(wanted) ^ members.keys())[:3] or ["no matches, or an array twice"]
        raise _OtherContentError(f"it has, or lacks, {', '.join(map(repr, odd))}")
    size = sum(info.file_size for info in members.values())
    if size > MOST_BYTES:
        raise _OtherContentError(f"it unpacks to {size:,} bytes, more than {MOST_BYTES:,}")
    ids = _array(archive, members[_IDS], "iuU", "I", {})
    return ids, {kind: _matches(archive, members, kind, len(ids)) for kind in kinds}


def _matches(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], kind: str, images: int
) -> Matches:
    sizes = {"2": 2, "T": len(THRESHOLDS)}
    values: dict[str, Any] = {
        name: _array(archive, members[f"{kind}.{name}"], types, shape, sizes)
        for name, (types, shape) in _ARRAYS.items()
    }
    names = values["names"]
    if names.dtype.kind == "U":  # of version 0.1
        values["names"] = names.tolist()
    else:
        values["names"] = msgspec.json.decode(names.tobytes(), type=list[str])
    values["views"] = [(group, value) for group, value in values["views"].tolist()]
    matches = Matches(images=images, **values)
    for problem in _problems(matches):
        raise _OtherContentError(f"{kind}: {problem}")
    return matches


def _array(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    types: str,
    letters: str,
    sizes: dict[str, int],
) -> np.ndarray:
    """An array of the archive, after a look at its header.

    Args:
        types: the kinds of `numpy.dtype` that it may have.
        letters: its axes.
        sizes: length of each axis that is known; takes those that become known.
    """
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _OtherContentError(f"{member.filename!r} is packed in another way")
    with archive.open(member) as file:
        np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)  # type: ignore[no-untyped-call]
        rest = member.file_size - file.tell()
    count = math.prod(shape)
    fits = len(shape) == len(letters) and min(shape) >= 0
    fits = fits and all(sizes.setdefault(a, n) == n for a, n in zip(letters, shape, strict=True))
    # An empty list has become an array of floats.
    sound = not dtype.hasobject and dtype.itemsize and (dtype.kind in types or not count)
    if not fits or not sound or rest > _MOST.get(letters, MOST_BYTES):
        raise _OtherContentError(f"{member.filename!r} is {dtype} of shape {shape}")
    if count * dtype.itemsize != rest:
        raise _OtherContentError(f"{member.filename!r} doesn't have the bytes of its shape")
    with archive.open(member) as file:
        array: np.ndarray = np.lib.format.read_array(file)  # type: ignore[no-untyped-call]
    return array


def _problems(matches: Matches) -> Iterator[str]:
    """What would make a later step read beyond an array, or count wrongly."""
    detections = len(matches.image)
    if not detections:
        return
    if matches.image.min() < 0 or matches.image.max() >= matches.images:
        yield "a detection is of no image"
    classes = matches.classes
    if classes[0] < 0 or classes[-1] >= len(matches.names) or (classes[1:] < classes[:-1]).any():
        yield "detections aren't sorted by class"
    if matches.codes.max(initial=0) > IGNORED:
        yield "a detection is neither right nor wrong"
    truth, found = _places(matches)
    if np.bincount(found).max() > MAX_DETECTIONS:
        yield f"an image has more than {MAX_DETECTIONS} detections of a class"
    elif _has_surplus(matches, truth, found):
        yield "an image has more right detections than instances"


def _places(matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """[G] and [N] int: a number for the class and image of each instance and detection."""
    classes = len(matches.names)
    truth = matches.truth_image.astype(np.int64) * classes + matches.truth_classes
    found = matches.image.astype(np.int64) * classes + matches.classes
    _, place = np.unique(np.concatenate([truth, found]), return_inverse=True)
    return place[: len(truth)], place[len(truth) :]


def _has_surplus(matches: Matches, truth: np.ndarray, found: np.ndarray) -> bool:
    """Whether somewhere more detections are right than instances count."""
    bins = max(found.max(), truth.max(initial=0)) + 1
    for view, ignored in enumerate(matches.truth_ignored):
        instances = np.bincount(truth[~ignored], minlength=bins)
        for codes in matches.codes[:, view].T:
            right = np.bincount(found[codes == TRUE_POSITIVE], minlength=bins)
            if (right > instances).any():
                return True
    return False
