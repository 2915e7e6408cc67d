"""The output folder: whose files are replaced, who may work in it, and what it says if it can't."""

import errno
import hashlib
import os
import stat

import msgspec
import pytest

from mrcnn.inference.folder import OutputError, OutputFolder, OutputLost
from mrcnn.inference.names import LOCK, NOTES
from mrcnn.inference.notes import FORMAT, PROGRAM, Note, Notes, Run
from tests.helpers.detectors import files


def write(folder, **contents):
    """Writes files as a run does."""
    with OutputFolder(folder) as out:
        for name, content in contents.items():
            out.write(name, content)


def test_what_is_ours_is_replaced_and_removed(tmp_path):
    with OutputFolder(tmp_path) as out:
        out.write("sub/a.png", b"first")
        assert out.has("sub/a.png") and not out.has("sub")
        out.write("sub/a.png", b"second")
        with out.replacing("results.json") as temporary:
            temporary.write_bytes(b"[]")
    assert (tmp_path / "sub" / "a.png").read_bytes() == b"second"
    with OutputFolder(tmp_path) as out:
        assert out.has("results.json")
        out.write("sub/a.png", b"third")
        for name in ("sub/a.png", "results.json", "never written"):
            out.remove(name)
        assert out.kept == set() and not out.has("sub/a.png")
    assert files(tmp_path) == [LOCK, NOTES]


def in_the_way(folder):
    """Somebody's things at the names that a run wants."""
    (folder / "outside").mkdir()
    (folder / "outside" / "d.png").write_bytes(b"outside")
    out = folder / "out"
    (out / "c.png").mkdir(parents=True)
    (out / "a.png").write_bytes(b"theirs")
    (out / "empty.png").touch()
    os.symlink("../outside/d.png", out / "link.png")
    os.symlink("nowhere", out / "dangling.png")
    os.symlink("../outside", out / "linked")
    os.mkfifo(out / "pipe.png")
    (out / "file").write_bytes(b"no folder")
    return out


@pytest.mark.parametrize(
    "name",
    [
        *("a.png", "empty.png", "c.png", "link.png", "dangling.png", "pipe.png"),
        *("linked/d.png", "linked/new.png", "file/new.png", "../outside/d.png", "../new.png"),
    ],
)
def test_what_is_not_ours_stays(tmp_path, name):
    out = in_the_way(tmp_path)
    before = [(p, stat.S_IFMT(os.lstat(p).st_mode)) for p in sorted(tmp_path.rglob("*"))]
    with OutputFolder(out) as opened:
        with pytest.raises(OutputError, match="move (it|that) away or choose another output"):
            opened.write(name, b"ours")
        with pytest.raises(OutputError), opened.replacing(name) as temporary:
            temporary.write_bytes(b"ours")
        opened.remove(name)
    after = [(p, stat.S_IFMT(os.lstat(p).st_mode)) for p in sorted(tmp_path.rglob("*"))]
    assert [row for row in after if "records" not in row[0].parts] == before
    assert (tmp_path / "outside" / "d.png").read_bytes() == b"outside"
    assert (out / "a.png").read_bytes() == b"theirs" and not (out / "empty.png").stat().st_size


def test_absolute_names_are_refused(tmp_path):
    (tmp_path / "victim").write_bytes(b"theirs")
    with OutputFolder(tmp_path / "out") as out:
        with pytest.raises(OutputError):
            out.write(str(tmp_path / "victim"), b"ours")
        with pytest.raises(OutputError):
            out.write(str(tmp_path / "new"), b"ours")
    assert (tmp_path / "victim").read_bytes() == b"theirs" and not (tmp_path / "new").exists()


def test_a_file_that_was_edited_is_kept_and_told(tmp_path):
    write(tmp_path, **{"a.png": b"ours", "b.png": b"ours"})
    (tmp_path / "a.png").write_bytes(b"edit")  # of the same length
    (tmp_path / "b.png").write_bytes(b"edited")
    with OutputFolder(tmp_path) as out:
        for name in ("a.png", "b.png"):
            with pytest.raises(OutputError, match=f"{name} .* has been changed since"):
                out.write(name, b"new")
            out.remove(name)
        assert out.kept == {"a.png", "b.png"}
    assert (tmp_path / "a.png").read_bytes() == b"edit"
    assert (tmp_path / "b.png").read_bytes() == b"edited"


def test_a_file_of_the_same_content_is_in_nobodys_way(tmp_path):
    (tmp_path / "a.png").write_bytes(b"same")
    before = (tmp_path / "a.png").stat()
    write(tmp_path, **{"a.png": b"same"})
    assert (tmp_path / "a.png").stat() == before


def test_what_a_power_cut_emptied_is_replaced(tmp_path):
    write(tmp_path, **{"a.png": b"ours"})
    (tmp_path / "a.png").write_bytes(b"")
    write(tmp_path, **{"a.png": b"new"})
    assert (tmp_path / "a.png").read_bytes() == b"new"


def test_records_that_were_damaged_are_replaced_but_not_somebody_elses(tmp_path):
    write(tmp_path, **{"records/a.json": b"{}"})
    (tmp_path / "records" / "a.json").write_bytes(b"damaged")
    (tmp_path / "records" / "b.json").write_bytes(b"theirs")
    write(tmp_path, **{"records/a.json": b"{1}"})
    with pytest.raises(OutputError, match="records/b.json in the output folder was not written"):
        write(tmp_path, **{"records/b.json": b"{}"})
    assert (tmp_path / "records" / "b.json").read_bytes() == b"theirs"


def test_a_run_that_is_cut_off_between_note_and_name_owns_both_states(tmp_path, monkeypatch):
    write(tmp_path, **{"a.png": b"old"})

    class Killed(BaseException):
        pass

    def replace(*names):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", replace)
        write(tmp_path, **{"a.png": b"new"})
    write(tmp_path, **{"a.png": b"newer"})
    assert (tmp_path / "a.png").read_bytes() == b"newer"


# --- Notes ----------------------------------------------------------------------------------


def test_notes_can_be_read_back_whatever_the_names(tmp_path):
    names = ["a\nb.png", "käse.png", os.fsdecode(b"not \xff utf-8.png"), '"', "%41.png", "x/y.png"]
    with OutputFolder(tmp_path) as out:
        for name in names:
            out.write(name, name.encode("utf-8", "surrogateescape"))
    notes = Notes.read(tmp_path)
    assert list(notes) == names
    content = b"not \xff utf-8.png"
    assert notes.states(names[2]) == [(len(content), hashlib.sha256(content).hexdigest())]


def test_outdated_notes_are_left_out_in_the_end(tmp_path):
    for number in range(9):
        write(tmp_path, **{"a.png": b"%d" % number})
    assert (tmp_path / NOTES).read_bytes().count(b"\n") <= 6
    write(tmp_path, **{"a.png": b"last"})
    assert (tmp_path / "a.png").read_bytes() == b"last"


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-7],
        lambda data: data + b"\nnonsense\n\xff\xfe\n" + b"[" * 5000,
        lambda data: data + b'\n{"type":"file","file":"b.png","size":"many","sha256":3}',
        lambda data: data + b'\n{"type":"file","file":"../b.png\\u0000","size":-1,"sha256":""}',
    ],
)
def test_damaged_notes_make_nobodys_file_ours(tmp_path, damage):
    write(tmp_path, **{"a.png": b"ours"})
    notes = tmp_path / NOTES
    notes.write_bytes(damage(notes.read_bytes()))
    (tmp_path / "b.png").write_bytes(b"theirs")
    with OutputFolder(tmp_path) as out:
        with pytest.raises(OutputError):
            out.write("b.png", b"ours")
        out.write("c.png", b"ours")
    assert Notes.read(tmp_path).states("c.png")
    assert (tmp_path / "b.png").read_bytes() == b"theirs"


@pytest.mark.parametrize("name", [NOTES, LOCK])
@pytest.mark.parametrize("content", [b"theirs", b'{"type":"run","program":"other","format":1}'])
def test_somebody_elses_file_at_the_name_of_ours_stays(tmp_path, name, content):
    (tmp_path / "records").mkdir()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OutputError, match=f"{name} in the output folder was not written by this"):
        write(tmp_path)
    assert (tmp_path / name).read_bytes() == content


def test_hostile_notes_touch_nothing_outside(tmp_path):
    """Notes that claim files elsewhere, with their true sizes and hashes."""
    victims = [tmp_path / "precious.txt", tmp_path / ".x.png.abcdefgh.tmp"]
    out = tmp_path / "out"
    (out / "records").mkdir(parents=True)
    lines = [Run(PROGRAM, FORMAT, 1, "host", "now")]
    for victim in victims:
        victim.write_bytes(b"precious")
        digest = hashlib.sha256(b"precious").hexdigest()
        lines += [Note(name, 8, digest) for name in (str(victim), f"../{victim.name}")]
    (out / NOTES).write_bytes(b"\n".join(map(msgspec.json.encode, lines)))
    with OutputFolder(out) as opened:
        for name in list(opened.notes):
            opened.remove(name)
            with pytest.raises(OutputError):
                opened.write(name, b"ours")
    assert [v.read_bytes() for v in victims] == [b"precious"] * 2


# --- Leftovers ------------------------------------------------------------------------------


def test_leftovers_of_killed_runs_are_removed_in_our_folders_only(tmp_path):
    write(
        tmp_path, **{"sub/deep/a.png": b"", "masks/m/a.classes.png": b"", "cutouts/x.1_v.png": b""}
    )
    (tmp_path / "records" / "old").mkdir()
    (tmp_path / "theirs").mkdir()
    os.symlink("theirs", tmp_path / "linked")
    leftovers = [
        *(".results.json.abcd_123.tmp", "sub/deep/.b.png.k3j9x2ab.tmp", "masks/m/.a.png.abcd1234.tmp"),
        *("cutouts/.q.png.abcd1234.tmp", "records/old/.a.jpg.json.abcd1234.tmp"),
        *("records/.written.jsonl.abcd1234.tmp", ".clip.mp4.mp4.abcd1234.tmp"),
    ]  # fmt: skip
    others = [
        *("theirs/.b.png.abcd1234.tmp", "a.tmp", ".a.tmp", ".notes.abcd1234.tmp", ".b.png.ABCD1234.tmp"),
        *("sub/.b.png.abcd1234.txt", "b.png.abcd1234.tmp"),
    ]  # fmt: skip
    for name in leftovers + others:
        (tmp_path / name).touch()
    (tmp_path / ".folder.png.abcd1234.tmp").mkdir()
    os.symlink("a.tmp", tmp_path / ".link.png.abcd1234.tmp")
    write(tmp_path)
    assert [n for n in leftovers if (tmp_path / n).exists()] == []
    assert [n for n in others if not (tmp_path / n).exists()] == []
    assert (tmp_path / ".folder.png.abcd1234.tmp").is_dir()
    assert (tmp_path / ".link.png.abcd1234.tmp").is_symlink()


def test_nothing_is_cleaned_in_a_folder_of_somebody_else(tmp_path):
    (tmp_path / ".b.png.abcd1234.tmp").touch()
    with OutputFolder(tmp_path):
        assert (tmp_path / ".b.png.abcd1234.tmp").exists()


def test_a_run_that_writes_nothing_leaves_nothing(tmp_path):
    (tmp_path / "there").mkdir()
    for place in ("there", "new/deep"):
        with pytest.raises(RuntimeError), OutputFolder(tmp_path / place):
            raise RuntimeError("no weights")
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


# --- Locks ----------------------------------------------------------------------------------


def test_a_second_run_is_refused_and_told_who_works_there(tmp_path):
    with OutputFolder(tmp_path) as out:
        out.write("a.png", b"ours")
        with pytest.raises(OutputError, match=f"is in use by process {os.getpid()} on .+ since 2"):
            write(tmp_path)
    write(tmp_path, **{"a.png": b"new"})


def test_the_lock_of_a_process_that_was_killed_holds_nobody_back(tmp_path):
    child = os.fork()
    if not child:
        OutputFolder(tmp_path).__enter__()
        os.kill(os.getpid(), 9)
    assert os.waitpid(child, 0)[1] == 9
    assert (tmp_path / LOCK).exists()
    write(tmp_path, **{"a.png": b"ours"})


def test_a_file_system_that_takes_no_locks_is_told(tmp_path, monkeypatch):
    import fcntl

    def flock(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OutputError, match="can't write to the output folder .*No locks available"):
        write(tmp_path)


# --- Folders that can't be written to -------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("file", "file is no folder; choose another"),
        ("file/below", "file is no folder"),
        ("pipe", "pipe is no folder"),
        ("dangling", "dangling is a link to nothing"),
        ("circle/x", "circle is a link to nothing|Too many levels"),
        ("x" * 300, "File name too long"),
        ("nul\0", "null byte|null character"),
        ("records is a file", "records is no folder"),
        ("records is a link", "records/ in it is a link"),
    ],
)
def test_places_that_are_no_folders(tmp_path, name, why):
    (tmp_path / "file").write_bytes(b"theirs")
    os.mkfifo(tmp_path / "pipe")
    os.symlink("nowhere", tmp_path / "dangling")
    os.symlink("circle", tmp_path / "circle")
    for folder in ("records is a file", "records is a link"):
        (tmp_path / folder).mkdir()
    (tmp_path / "records is a file" / "records").touch()
    os.symlink("..", tmp_path / "records is a link" / "records")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=f"can't write to the output folder .*({why})"):
        write(tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_name_is_not_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="is empty"):
        write("")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["", "records", NOTES])
def test_a_folder_that_goes_away_is_not_made_anew(tmp_path, what):
    with OutputFolder(tmp_path / "out") as out:
        out.write("a.png", b"ours")
        os.rename(tmp_path / "out" / what, tmp_path / "moved")
        left = files(tmp_path)
        for name in ("a.png", "b.png", "sub/c.png"):
            with pytest.raises(OutputLost, match="was deleted, moved or replaced during the run"):
                out.write(name, b"ours")
            out.remove(name)
        assert files(tmp_path) == left
    assert files(tmp_path) == left


def test_a_folder_that_another_took_the_place_of_is_left_alone(tmp_path):
    with OutputFolder(tmp_path / "out") as out:
        out.write("a.png", b"ours")
        os.rename(tmp_path / "out", tmp_path / "moved")
        write(tmp_path / "out", **{"a.png": b"another run's"})
        with pytest.raises(OutputLost):
            out.write("a.png", b"new")
        out.remove("a.png")
    assert (tmp_path / "out" / "a.png").read_bytes() == b"another run's"


@pytest.mark.parametrize(
    ("number", "ends"),
    [("ENOSPC", True), ("EDQUOT", True), ("EROFS", True), ("EFBIG", False), ("EIO", False)],
)
def test_what_concerns_the_whole_disk_ends_the_run(tmp_path, monkeypatch, number, ends):
    def fail(*_):
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))

    with OutputFolder(tmp_path) as out:
        out.write("a.png", b"old")
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fail)
            with pytest.raises(OutputError, match="a.png cannot be written to: ") as raised:
                out.write("a.png", b"new")
            with pytest.raises(OutputError), out.replacing("results.json") as temporary:
                temporary.write_bytes(b"[]")
        assert isinstance(raised.value, OutputLost) == ends
        out.write("a.png", b"newer")  # what was there is still ours
    assert files(tmp_path) == ["a.png", LOCK, NOTES]
