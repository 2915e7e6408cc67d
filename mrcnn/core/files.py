"""Files that appear whole or not at all."""

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PathLike = str | os.PathLike[str]


@contextmanager
def replacing(
    path: PathLike, sync: bool = False, finished: Callable[[Path], None] | None = None
) -> Iterator[Path]:
    """A temporary file beside `path`, whose folder must exist, that takes its name if the block
    succeeds: a reader, or a run that is cut off, never meets half a file.

    Args:
        sync: also wait until it is on the disk, so that this holds when the power fails.
        finished: called with the temporary file once it is complete; if it raises, `path` stays
            as it is.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)  # mkstemp makes files that only their owner can read
        if sync:
            flush(name)
        if finished:
            finished(Path(name))
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


def read_regular(path: PathLike, most: int) -> bytes:
    """The content of a regular file; no link is followed and no pipe is waited for.

    Args:
        most: bytes.

    Raises:
        OSError: if it is another kind of file, longer, or can't be read.
    """
    # Neither flag exists on Windows.
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(path, "rb", opener=lambda name, mode: os.open(name, mode | flags)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", os.fspath(path))
        return file.read(most)


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
