import errno
import os
import stat

import pytest

from mrcnn.core.files import (
    begins_with,
    prepare_folder,
    read_regular,
    replacing,
    write_atomically,
)


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


def test_only_regular_files_are_read(tmp_path):
    path = tmp_path / "a file"
    path.write_bytes(b"12345")
    (tmp_path / "link").symlink_to(path)
    assert read_regular(path, 5) == read_regular(tmp_path / "link", 5) == b"12345"
    with pytest.raises(OSError, match="it has 5 bytes, more than the 4 that are read: '.*a file'"):
        read_regular(path, 4)
    with pytest.raises(OSError, match="link"):
        read_regular(tmp_path / "link", 5, links=False)
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "", "/dev/zero"):
        with pytest.raises(OSError, match="it is no regular file"):
            read_regular(tmp_path / name, 5)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "gone", 5)


def test_how_a_file_begins(tmp_path):
    path = tmp_path / "file"
    assert not begins_with(path, b"ab")
    for content, begins in (
        (b"", True),
        (b"a", False),
        (b"ab", True),
        (b"abc", True),
        (b"b", False),
    ):
        path.write_bytes(content)
        assert begins_with(path, b"ab") is begins
    assert not begins_with(tmp_path, b"ab")


def test_a_folder_for_our_files(tmp_path):
    folder = tmp_path / "new" / "folder"
    arguments = folder, ["page", "mark"], "mark", b"ours"
    prepare_folder(*arguments)
    (folder / "other").write_bytes(b"mine")
    prepare_folder(*arguments)
    (folder / "page").write_bytes(b"mine")
    with pytest.raises(ValueError, match="page was not written by a finished run"):
        prepare_folder(*arguments)
    (folder / "mark").write_bytes(b"ours, and more")
    prepare_folder(*arguments)
    (folder / "page").unlink()
    (folder / "page").mkdir()
    with pytest.raises(ValueError, match="page was not written"):
        prepare_folder(*arguments)
    with pytest.raises(ValueError, match="other is a file; choose another folder"):
        prepare_folder(folder / "other", *arguments[1:])
    assert sorted(os.listdir(folder)) == ["mark", "other", "page"]
