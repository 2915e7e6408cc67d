"""Files that appear whole or not at all."""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PathLike = str | os.PathLike[str]


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


def regular_size(path: PathLike) -> int:
    """Bytes of a regular file.

    Raises:
        OSError: if there is none.
        ValueError: for a folder, a pipe or a device, of which reading may never end.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise ValueError(f"{os.fspath(path)!r} is {what}; give a regular file")
    return status.st_size


def begins_with(path: PathLike, start: bytes) -> bool:
    """Whether it is a regular file that begins so, or an empty one."""
    try:
        if not regular_size(path):
            return True
        with open(path, "rb") as file:
            return file.read(len(start)) == start
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
