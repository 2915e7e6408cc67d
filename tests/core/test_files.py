import errno
import os
import stat

import pytest

from mrcnn.core.files import replacing, write_atomically


def test_the_file_appears_with_its_content(tmp_path):
    path = tmp_path / "results.json"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    write_atomically(path, b"old")
    with pytest.raises(RuntimeError, match="disk full"), replacing(path) as temporary:
        temporary.write_bytes(b"ne")
        raise RuntimeError("disk full")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "no" / "file", b"")


def test_sync_flushes_the_content_before_the_name(tmp_path, monkeypatch):
    events = []
    real = os.fsync, os.replace

    def fsync(handle):
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        real[0](handle)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda *names: (events.append("name"), real[1](*names)))
    write_atomically(tmp_path / "a", b"new", sync=True)
    assert events == ["file", "name", "folder"]
    write_atomically(tmp_path / "a", b"newer")
    assert events[3:] == ["name"] and (tmp_path / "a").read_bytes() == b"newer"


def test_a_folder_that_cannot_be_flushed_is_none_of_our_business(tmp_path, monkeypatch):
    def fsync(handle, number=errno.EINVAL):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(tmp_path / "a", b"new", sync=True)
    assert (tmp_path / "a").read_bytes() == b"new"
    monkeypatch.setattr(os, "fsync", lambda handle: fsync(handle, errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        write_atomically(tmp_path / "a", b"newer", sync=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
