"""Which files an input means, and names that never collide."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mrcnn import listing
from mrcnn.listing import list_pictures


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(result):
    return [p.name for p in result.pictures]


def test_a_folder(tmp_path):
    wanted = ["B.JPG", "a.jpeg", "a.png", "c d.bmp", "e.webp", "f.tif", "g.TIFF", "h.avif", "ü.jpg"]
    touch(tmp_path, *wanted, "notes.txt", ".hidden.jpg", "Thumbs.db", "sub/inner.jpg")
    Image.new("L", (2, 2)).save(tmp_path / "plain", "PNG")
    (tmp_path / "folder.jpg").mkdir()
    os.symlink("nowhere", tmp_path / "link.png")
    found = list_pictures(tmp_path)
    # What only looks like a picture is listed too: reading it gives the reason.
    assert names(found) == sorted([*wanted, "plain", "folder.jpg", "link.png"])
    assert found.passed_over == [("notes.txt", "not a picture; passed over")]
    assert found.pictures[0] == listing.Picture(tmp_path / "B.JPG", "B.JPG", "B.JPG")


def test_sub_folders(tmp_path):
    touch(
        tmp_path, "a.jpg", "sub/a.jpg", "sub/deep/b.png", ".git/c.png", "masks/d.jpg", "x.jpg/e.png"
    )
    assert names(list_pictures(tmp_path)) == ["a.jpg", "x.jpg"]
    found = list_pictures(tmp_path, recursive=True)
    assert names(found) == ["a.jpg", "masks/d.jpg", "sub/a.jpg", "sub/deep/b.png", "x.jpg/e.png"]
    outputs = [p.output for p in found.pictures]
    assert outputs == ["a.jpg", "masks~/d.jpg", "sub/a.jpg", "sub/deep/b.png", "x.jpg/e.png"]


def test_a_file_a_pattern_and_a_list(tmp_path, monkeypatch):
    touch(tmp_path, "one/a.jpg", "two/a.jpg", "two/b [1].jpg", "two/c.txt")
    assert names(list_pictures(tmp_path / "two" / "b [1].jpg")) == ["b [1].jpg"]
    assert names(list_pictures(f"{tmp_path}/*/a.jpg")) == ["one/a.jpg", "two/a.jpg"]
    assert names(list_pictures(f"{tmp_path}/**/*.jpg", recursive=True))[-1] == "two/b [1].jpg"

    # Relative to the current folder first, then to the list's own; a line twice counts once.
    lines = ["one/a.jpg", "", str(tmp_path / "two" / "a.jpg"), "one/a.jpg ", "two/gone.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    expected = ["one/a.jpg", "two/a.jpg", "two/gone.jpg"]
    monkeypatch.chdir(tmp_path)
    assert names(list_pictures("list.txt")) == expected
    monkeypatch.chdir(tmp_path / "one")
    found = [p.path for p in list_pictures(tmp_path / "list.txt").pictures if p.path.exists()]
    assert found == [tmp_path / "one" / "a.jpg", tmp_path / "two" / "a.jpg"]


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match="found no pictures in .*or add --recursive"):
        list_pictures(tmp_path)
    with pytest.raises(ValueError, match="'nowhere/x.jpg' does not exist; give a folder"):
        list_pictures("nowhere/x.jpg")
    with pytest.raises(ValueError, match="found no pictures"):
        list_pictures(f"{tmp_path}/*.jpg")
    touch(tmp_path, "empty.txt")
    with pytest.raises(ValueError, match="found no pictures"):
        list_pictures(tmp_path / "empty.txt")


def test_names_too_long_for_their_outputs(tmp_path):
    long = ["x" * 240 + ".jpg", "x" * 241 + ".jpg", "é" * 120 + ".jpg"]
    touch(tmp_path, *long)
    outputs = [p.output for p in list_pictures(tmp_path).pictures]
    assert len(set(outputs)) == 3
    assert all(len(os.fsencode(o)) <= listing.MAX_NAME for o in outputs)


def test_file_systems_blind_to_case(tmp_path):
    touch(tmp_path, "A.jpg", "a.jpg", "é.jpg", "e\u0301.jpg")
    if len(list(tmp_path.iterdir())) < 4:
        pytest.skip("this file system is blind to case itself")
    same = [p.output for p in list_pictures(tmp_path, same_case=True).pictures]
    assert same == ["A.jpg", "a.jpg~2", "e\u0301.jpg", "é.jpg~2"]
    assert [p.output for p in list_pictures(tmp_path).pictures][1] == "a.jpg"


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1)))
def test_outputs_never_collide(texts):
    rows = [(t, Path(t)) for t in dict.fromkeys(texts) if t not in (".", "..")]
    outputs = [p.output for p in listing._with_outputs(rows, same_case=True)]
    assert len({o.casefold() for o in outputs}) == len(outputs) == len(rows)
