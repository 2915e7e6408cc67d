"""HDF5 files that are written whole or not at all, on a full disk too."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py

from mrcnn.core.files import PathLike, replacing


class _Sink(io.FileIO):
    """A file that keeps its first error for later and takes whatever comes after it.

    Where libhdf5 meets an error of the disk while it closes a file, it may end the process by a
    segmentation fault, and with it hours of training.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while self.error is None and len(rest):
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            if self.error is None:
                super().truncate(size)
        except OSError as error:
            self.error = error
        return self.tell() if size is None else size


@contextmanager
def writing(path: PathLike, sync: bool = False) -> Iterator[h5py.File]:
    """A new HDF5 file under a temporary name, see `files.replacing`.

    Raises:
        OSError: if it can't be written, after the block.
    """
    with replacing(path, sync) as temporary:
        with _Sink(temporary, "r+") as sink, h5py.File(sink, "w") as file:
            yield file
        if sink.error is not None:
            raise OSError(sink.error.errno, sink.error.strerror, str(path))
