"""Which files an input means, and names that never collide."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mrcnn.inference import listing
from mrcnn.inference.listing import list_images


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(result):
    return [p.name for p in result.images]


def test_a_folder(tmp_path):
    wanted = ["B.JPG", "a.jpeg", "a.png", "c d.bmp", "e.webp", "f.tif", "g.TIFF", "h.avif", "ü.jpg"]
    touch(tmp_path, *wanted, "notes.txt", ".hidden.jpg", "Thumbs.db", "sub/inner.jpg")
    Image.new("L", (2, 2)).save(tmp_path / "plain", "PNG")
    (tmp_path / "folder.jpg").mkdir()
    os.symlink("nowhere", tmp_path / "link.png")
    found = list_images(tmp_path)
    # What only looks like an image is listed too: reading it gives the reason.
    assert names(found) == sorted([*wanted, "plain", "folder.jpg", "link.png"])
    assert found.passed_over == [("notes.txt", "not an image; passed over")]
    assert found.images[0] == listing.InputImage(tmp_path / "B.JPG", "B.JPG", "B.JPG")


def test_sub_folders(tmp_path):
    touch(
        tmp_path, "a.jpg", "sub/a.jpg", "sub/deep/b.png", ".git/c.png", "masks/d.jpg", "x.jpg/e.png"
    )
    assert names(list_images(tmp_path)) == ["a.jpg", "x.jpg"]
    found = list_images(tmp_path, recursive=True)
    assert names(found) == ["a.jpg", "masks/d.jpg", "sub/a.jpg", "sub/deep/b.png", "x.jpg/e.png"]
    outputs = [p.output for p in found.images]
    assert outputs == ["a.jpg", "masks~/d.jpg", "sub/a.jpg", "sub/deep/b.png", "x.jpg/e.png"]


def test_a_file_a_pattern_and_a_list(tmp_path, monkeypatch):
    touch(tmp_path, "one/a.jpg", "two/a.jpg", "two/b [1].jpg", "two/c.txt")
    assert names(list_images(tmp_path / "two" / "b [1].jpg")) == ["b [1].jpg"]
    assert names(list_images(f"{tmp_path}/*/a.jpg")) == ["one/a.jpg", "two/a.jpg"]
    assert names(list_images(f"{tmp_path}/**/*.jpg", recursive=True))[-1] == "two/b [1].jpg"

    # Relative to the current folder first, then to the list's own; a line twice counts once.
    lines = ["one/a.jpg", "", str(tmp_path / "two" / "a.jpg"), "one/a.jpg ", "two/gone.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    expected = ["one/a.jpg", "two/a.jpg", "two/gone.jpg"]
    monkeypatch.chdir(tmp_path)
    assert names(list_images("list.txt")) == expected
    monkeypatch.chdir(tmp_path / "one")
    found = [p.path for p in list_images(tmp_path / "list.txt").images if p.path.exists()]
    assert found == [tmp_path / "one" / "a.jpg", tmp_path / "two" / "a.jpg"]


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match="found no images in .*or add --recursive"):
        list_images(tmp_path)
    with pytest.raises(ValueError, match="'nowhere/x.jpg' does not exist; give a folder"):
        list_images("nowhere/x.jpg")
    with pytest.raises(ValueError, match="found no images"):
        list_images(f"{tmp_path}/*.jpg")
    touch(tmp_path, "empty.txt")
    with pytest.raises(ValueError, match="found no images"):
        list_images(tmp_path / "empty.txt")


def test_names_too_long_for_their_outputs(tmp_path):
    long = ["x" * 240 + ".jpg", "x" * 241 + ".jpg", "é" * 120 + ".jpg"]
    touch(tmp_path, *long)
    outputs = [p.output for p in list_images(tmp_path).images]
    assert len(set(outputs)) == 3
    assert all(len(os.fsencode(o)) <= listing.MAX_NAME for o in outputs)


def test_folders_that_lie_where_results_go(tmp_path):
    """An image's or the run's own files get their names, folders of the input give way."""
    touch(tmp_path, "results.csv/a.jpg", "sub/results.csv/a.jpg", "Cutouts/a.jpg", "b.jpg")
    touch(tmp_path, "b.jpg.png/c.jpg", "b.jpg.json/c.jpg", "b.jpg.classes.png/c.jpg")
    touch(tmp_path, "b.jpg.png~/c.jpg", "sub/b.jpg.png/c.jpg", "b.jpg.txt/c.jpg")
    touch(tmp_path, "run.lock/a.jpg", "written.jsonl/a.jpg")
    found = list_images(tmp_path, recursive=True).images
    changed = {p.name: p.output for p in found if p.name != p.output}
    assert changed == {
        "results.csv/a.jpg": "results.csv~/a.jpg",
        "Cutouts/a.jpg": "Cutouts~/a.jpg",
        "run.lock/a.jpg": "run.lock~/a.jpg",
        "written.jsonl/a.jpg": "written.jsonl~/a.jpg",
        "b.jpg.png/c.jpg": "b.jpg.png~/c.jpg",
        "b.jpg.json/c.jpg": "b.jpg.json~/c.jpg",
        "b.jpg.classes.png/c.jpg": "b.jpg.classes.png~/c.jpg",
        "b.jpg.png~/c.jpg": "b.jpg.png~/c.jpg~2",
    }


def test_folders_that_are_not_gone_through_are_told(tmp_path, monkeypatch):
    touch(tmp_path, "in/a.jpg", "in/album.jpg/b.png", "in/shut/c.png", "other/d.png")
    (tmp_path / "in" / "empty.jpg").mkdir()
    os.symlink("../other", tmp_path / "in" / "link")
    os.symlink("..", tmp_path / "in" / "album.jpg" / "circle.png")
    scandir = os.scandir

    def shut(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", shut)
    found = list_images(tmp_path / "in", recursive=True)
    assert names(found) == ["a.jpg", "album.jpg/b.png", "empty.jpg"]
    why = "a link to a folder, which is not followed; passed over"
    assert found.passed_over == [("album.jpg/circle.png", why), ("link", why)]
    (failure,) = found.failed
    assert failure[0] == "shut" and "cannot be read (Permission denied)" in failure[1]
    with pytest.raises(PermissionError):
        list_images(tmp_path / "in" / "shut", recursive=True)


def test_the_results_of_earlier_runs_are_no_images(tmp_path):
    touch(tmp_path, "a.jpg", "out/a.jpg.png", "out/sub/b.jpg.png", "outer/c.jpg")
    found = list_images(tmp_path, recursive=True, leave_out=tmp_path / "outer" / ".." / "out")
    assert names(found) == ["a.jpg", "outer/c.jpg"]
    pattern = f"{tmp_path}/**/*.*"
    assert len(list_images(pattern, recursive=True).images) == 4
    found = list_images(pattern, recursive=True, leave_out=tmp_path / "out")
    assert names(found) == ["a.jpg", "outer/c.jpg"]
    # An input within the output folder is nobody's result.
    found = list_images(f"{tmp_path}/out/*/*.png", leave_out=tmp_path)
    assert names(found) == ["b.jpg.png"]


def test_lists_of_all_sorts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = ["~nobody_of_this_name.jpg", " spaces .jpg", "a\u2028b.jpg", "\u00e9.jpg"]
    touch(tmp_path, *odd)
    (tmp_path / "unix.txt").write_text("\n".join(odd))
    (tmp_path / "dos.txt").write_bytes("\r\n".join(odd).encode("utf-8-sig"))
    (tmp_path / "wide.txt").write_text("\r\n".join(odd), encoding="utf-16", newline="")
    for name in ("unix.txt", "dos.txt", "wide.txt"):
        assert names(list_images(name)) == sorted(odd), name
    (tmp_path / "bad.txt").write_bytes(b"/\nno\0name.jpg\n" + b"x" * 5000 + b"\n\xff.jpg\n.\n")
    found = list_images("bad.txt").images
    assert len({p.output for p in found}) == 5


def test_patterns_take_empty_folders_that_are_named_like_images(tmp_path):
    touch(tmp_path, "a.jpg", "album.jpg/b.png")
    (tmp_path / "empty.jpg").mkdir()
    (tmp_path / "plain").mkdir()
    assert names(list_images(f"{tmp_path}/*")) == ["a.jpg", "empty.jpg"]


@pytest.mark.parametrize(
    ("pattern", "folder"),
    [("*.jpg", "."), ("x/*.jpg", "x"), ("/a/b/c*/d/*.png", "/a/b"), ("x/**", "x"), ("x", None)],
)
def test_folder_of_a_pattern(pattern, folder):
    assert listing.pattern_folder(pattern) == (None if folder is None else Path(folder))


def test_file_systems_blind_to_case(tmp_path):
    touch(tmp_path, "A.jpg", "a.jpg", "é.jpg", "e\u0301.jpg")
    if len(list(tmp_path.iterdir())) < 4:
        pytest.skip("this file system is blind to case itself")
    same = [p.output for p in list_images(tmp_path).for_case_blind_disk().images]
    assert same == ["A.jpg", "a.jpg~2", "e\u0301.jpg", "é.jpg~2"]
    assert [p.output for p in list_images(tmp_path).images][1] == "a.jpg"


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1)))
def test_outputs_never_collide(texts):
    rows = [(t, Path(t)) for t in dict.fromkeys(texts) if t not in (".", "..")]
    outputs = [p.output for p in listing._with_outputs(rows, listing._folded)]
    assert len({o.casefold() for o in outputs}) == len(outputs) == len(rows)
