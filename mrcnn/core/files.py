"""Files that appear whole or not at all."""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PathLike = str | os.PathLike[str]
# Opens a pipe without waiting for its other end; bytes as they are on Windows.
_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@contextmanager
def replacing(path: PathLike, sync: bool = False) -> Iterator[Path]:
    """A temporary file beside `path`, whose folder must exist, that takes its name if the block
    succeeds: a reader, or a run that is cut off, never meets half a file.

    Args:
        sync: also wait until it is on the disk, so that this holds when the power fails.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)  # mkstemp makes files that only their owner can read
        if sync:
            flush(name)
        os.replace(name, path)
        if sync:
            flush(path.parent)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def write_atomically(path: PathLike, content: bytes, sync: bool = False) -> None:
    """Writes bytes; see `replacing`."""
    with replacing(path, sync) as temporary:
        temporary.write_bytes(content)


def open_regular(path: PathLike) -> int:
    """A handle of a regular file, to read.

    Raises:
        OSError: if there is none.
        ValueError: for a folder, a pipe or a device, of which reading may never end.
    """
    handle = os.open(path, os.O_RDONLY | _AT_ONCE)
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return handle
    os.close(handle)
    what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
    raise ValueError(f"{os.fspath(path)!r} is {what}; give a regular file")


def read_regular(path: PathLike, most: int) -> bytes:
    """Content of a regular file of at most so many bytes.

    Raises:
        OSError: if there is none.
        ValueError: if it is larger, a folder, a pipe or a device.
    """
    handle = open_regular(path)
    try:
        size = os.fstat(handle).st_size
        if size > most:
            raise ValueError(
                f"{os.fspath(path)!r} has {size:,} bytes, more than the {most:,} that are read"
            )
        return os.read(handle, size)
    finally:
        os.close(handle)


def begins_with(path: PathLike, start: bytes) -> bool:
    """Whether it is a regular file that begins so, or an empty one."""
    try:
        with open(open_regular(path), "rb") as file:
            return file.read(len(start)) in (start, b"")
    except (OSError, ValueError):
        return False


def flush(path: PathLike) -> None:
    """Waits until the content of a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems have nothing to flush in a folder
            raise
    finally:
        os.close(handle)
