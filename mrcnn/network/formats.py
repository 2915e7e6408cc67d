"""Tells what a file that is no HDF5 file is, and what to do with it, from its first bytes."""

import os
import stat
from pathlib import Path

HDF5 = b"\x89HDF\r\n\x1a\n"

_OTHER_LIBRARY = (
    "convert it to Keras's HDF5 layout, or give another weights file (--weights coco, for one)"
)
_KERAS = (
    "load it in Keras and write its weights with model.save_weights('name.weights.h5'), which is "
    "read if its layers are those of Mask R-CNN"
)
_AGAIN = "fetch the file again"
# What a file begins with, what it is and what to do.
_BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run `git lfs pull`"),
    (b"\x80", "a Python pickle, as PyTorch's .pth files are", _OTHER_LIBRARY),
    (b"\x93NUMPY", "a NumPy array", _OTHER_LIBRARY),
    (b"model_checkpoint_path", "the list of a TensorFlow checkpoint", _KERAS),
    (b"\x1f\x8b", "compressed with gzip", "unpack it first"),
    (b"BZh", "compressed with bzip2", "unpack it first"),
    (b"\xfd7zXZ", "compressed with xz", "unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"{", "JSON text, not weights", _AGAIN),
    (b"<", "a web page or XML, so the download failed", _AGAIN),
)
# What the entries of a ZIP file tell of it; the names of the first ones are in its first bytes.
_ARCHIVES = (
    (b"data.pkl", "a PyTorch file", _OTHER_LIBRARY),
    (b"constants.pkl", "a TorchScript file", _OTHER_LIBRARY),
    (b"metadata.json", "a .keras file", _KERAS),
    (b"config.json", "a .keras file", _KERAS),
    (b".npy", "NumPy's .npz", _OTHER_LIBRARY),
)
# The last bytes of a table file, as of a TensorFlow checkpoint's .index.
_TABLE_END = bytes.fromhex("57fb808b247547db")


def describe(path: Path) -> str | None:
    """What a file or folder is and what to do with it; None for an HDF5 file.

    Raises:
        OSError: if it can't be read.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        return describe_folder(path) or "is a folder; give a file"
    if not stat.S_ISREG(mode):  # a pipe would be waited for
        return "is no regular file (a pipe, socket or device); copy its content to a file first"
    with open(path, "rb") as file:
        head = file.read(1 << 16)
        size = file.seek(0, os.SEEK_END)
        # HDF5 may begin behind a block of the user's own, of 512 bytes or a power of 2 times that.
        starts = [0, *(512 << i for i in range(40) if 512 << i < size)]
        for start in starts:
            file.seek(start)
            if file.read(len(HDF5)) == HDF5:
                return None
        file.seek(max(0, size - len(_TABLE_END)))
        found = _content(path, head, file.read(len(_TABLE_END)))
    if found is None:
        return f"is not an HDF5 file, or its beginning is damaged; {_AGAIN}"
    return "is {}; {}".format(*found)


def _content(path: Path, head: bytes, end: bytes) -> tuple[str, str] | None:
    """What a file is and what to do, from its first and last bytes; None if unknown."""
    if not head.strip(b"\0"):
        return "empty" if not head else "filled with zeros", _AGAIN
    if head.startswith(b"PK\x03\x04"):
        kinds = (found[1:] for found in _ARCHIVES if found[0] in head)
        return next(kinds, ("a ZIP archive", "unpack it first"))
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30:
        return "a .safetensors file", _OTHER_LIBRARY
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model", _OTHER_LIBRARY
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and head[2:3] == b"\x12"):
        return "an ONNX model", _OTHER_LIBRARY
    if head[257:262] == b"ustar":
        return "a tar archive", "unpack it first"
    if end == _TABLE_END or ".data-0" in path.name:
        return "part of a TensorFlow checkpoint", _KERAS
    if path.suffix == ".pb":
        return "a TensorFlow graph", _KERAS
    plain = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    return next((found[1:] for found in _BEGINNINGS if plain.startswith(found[0])), None)


def describe_folder(path: Path) -> str | None:
    """What a folder is and what to do; None if it is one like others."""
    if (path / "saved_model.pb").exists():
        return f"is a TensorFlow SavedModel; {_KERAS}"
    if (path / "checkpoint").exists() or any(path.glob("*.index")):
        return f"is a folder of TensorFlow checkpoints; {_KERAS}"
    return None
