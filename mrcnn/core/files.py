"""Files that appear whole or not at all."""

import errno
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
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


def open_regular(path: PathLike, links: bool = True) -> int:
    """A handle of a regular file, to read.

    Args:
        links: follow a link.

    Raises:
        OSError: if there is none, or it is a folder, a pipe or a device, of which reading may
            never end.
    """
    follow = 0 if links else getattr(os, "O_NOFOLLOW", 0)
    handle = os.open(path, os.O_RDONLY | _AT_ONCE | follow)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))


def read_regular(path: PathLike, most: int, links: bool = True) -> bytes:
    """Content of a regular file of at most so many bytes; OSError as of `open_regular`."""
    handle = open_regular(path, links)
    try:
        size = os.fstat(handle).st_size
        if size > most:
            why = f"it has {size:,} bytes, more than the {most:,} that are read"
            raise OSError(errno.EFBIG, why, os.fspath(path))
        return os.read(handle, size)
    finally:
        os.close(handle)


def begins_with(path: PathLike, start: bytes) -> bool:
    """Whether it is a regular file that begins so, or an empty one."""
    try:
        with open(open_regular(path), "rb") as file:
            return file.read(len(start)) in (start, b"")
    except OSError:
        return False


def prepare_folder(folder: Path, names: Iterable[str], mark: str, start: bytes) -> None:
    """Makes a folder to write into, unless files of somebody else would be replaced in it.

    Args:
        names: of all files that are to be written.
        mark, start: the file that a finished run of ours leaves, and how it begins. Where it is
            there, files of these names are ours.

    Raises:
        ValueError: if a file of such a name is there and not ours.
        OSError: if nothing can be written into the folder.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose another folder")
    taken = [folder / name for name in names if os.path.lexists(folder / name)]
    ours = begins_with(folder / mark, start)
    others = [path for path in taken if not ours or path.is_dir()]
    if others:
        raise ValueError(
            f"{others[0]} was not written by a finished run of this command, so it is left alone; "
            "move it away, or choose another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


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
