"""Records: which are believed, and what a run does with the others."""

import os

import msgspec
import numpy as np
import orjson
import pytest

from mrcnn.core.classes import DEEPFASHION2
from mrcnn.core.reading import MAX_PIXELS
from mrcnn.inference.names import NOTES
from mrcnn.inference.pipeline import run_images
from mrcnn.inference.records import MOST_BYTES, Record, check_record, describe
from mrcnn.inference.results import Result
from mrcnn.inference.writers import KINDS, Outputs
from tests.helpers.detectors import EMPTY, HalfDetector, load, write_image
from tests.helpers.hostile_records import hostile_records
from tests.helpers.known_inference import tree


def run(folder, **options):
    return run_images(
        HalfDetector(), folder / "in", folder / "out", Outputs(KINDS), progress=False, **options
    )


@pytest.fixture
def finished(tmp_path):
    """The folder of a run over three images; the record of the second is to be changed."""
    for name in ("a.png", "b.png", "c.png"):
        write_image(tmp_path / "in" / name)
    (tmp_path / "precious.txt").write_bytes(b"precious")
    run(tmp_path)
    return tmp_path


def contents(folder):
    return {n: c for n, c in tree(folder).items() if n != f"out/{NOTES}"}


def check_each(folder, hostile, capsys):
    """A run with --resume must end with what the first one wrote, whatever the record says."""
    before, record = contents(folder), folder / "out" / "records" / "b.png.json"
    for what, data in hostile:
        record.write_bytes(data)
        try:
            summary = run(folder, resume=True)
        except BaseException as error:
            raise AssertionError(f"{what}: {data[:300]!r}") from error
        told = capsys.readouterr().err
        assert (summary.resumed, summary.failures) == (2, []), (what, data[:300])
        assert told.count("b.png (") == told.count("\n") == 1, (what, told)
        after = contents(folder)
        assert after.keys() == before.keys(), what
        assert [n for n in before if before[n] != after[n]] == [], (what, data[:300])


def test_records_that_this_program_did_not_write_are_done_again(finished, capsys):
    sound = (finished / "out" / "records" / "b.png.json").read_bytes()
    check_each(finished, hostile_records(sound, 25), capsys)


@pytest.mark.slow
def test_hundreds_of_them(finished, capsys):
    sound = (finished / "out" / "records" / "b.png.json").read_bytes()
    check_each(finished, hostile_records(sound, 400, seed=1), capsys)


def test_the_sound_record_is_believed(finished):
    assert run(finished, resume=True).resumed == 3


def test_garments_of_no_pixels_are_recorded(tmp_path):
    """Boxes without area, and empty masks: what the program writes it also believes."""
    image = np.full((40, 60, 3), 90, np.uint8)
    boxes = [[0, 0, 40, 30], [5, 5, 5, 20], [10, 10, 20, 20], [0, 0, 40, 60]]
    masks = np.ones((4, 28, 28), np.float32)
    masks[2] = 0
    for exclusive in (False, True):
        result = Result(
            image, boxes, np.array([8, 5, 1, 13]), np.array([0.9, 0.8, 1.0, 0.0], np.float32),
            masks, DEEPFASHION2, exclusive=exclusive,
        )  # fmt: skip
        record = Record(1, "", [], ["json"], [], None, 60, 40, describe(result))
        read = msgspec.json.decode(msgspec.json.encode(record), type=Record)
        check_record(read, "a.png", DEEPFASHION2)


@pytest.mark.parametrize("size", [(1, MAX_PIXELS), (2, MAX_PIXELS), (MAX_PIXELS, MAX_PIXELS)])
def test_pixels_are_bounded(size):
    record = Record(1, "", [], ["json"], [], None, *size, [])
    if size[0] == 1:
        check_record(record, "a.png", DEEPFASHION2)
    else:
        with pytest.raises(ValueError, match="is too large"):
            check_record(record, "a.png", DEEPFASHION2)


def make_folder(path, folder):
    path.mkdir()


def make_pipe(path, folder):
    os.mkfifo(path)


def make_link(path, folder):
    os.symlink(folder / "precious.json", path)


@pytest.mark.parametrize("make", [make_folder, make_pipe, make_link])
@pytest.mark.parametrize("resume", [False, True])
def test_what_is_no_file_is_a_failure_of_that_image(finished, make, resume):
    """No link is followed, no pipe is waited for."""
    record = finished / "out" / "records" / "b.png.json"
    os.rename(record, finished / "precious.json")
    precious = (finished / "precious.json").read_bytes()
    make(record, finished)
    summary = run(finished, resume=resume)
    (failure,) = summary.failures
    assert failure[0] == "b.png" and "records/b.png.json" in failure[1]
    assert [i["file_name"] for i in load(finished / "out")[0].imgs.values()] == ["a.png", "c.png"]
    assert (finished / "precious.json").read_bytes() == precious and os.path.lexists(record)


def test_an_absurdly_long_record_is_not_read(finished):
    record = finished / "out" / "records" / "b.png.json"
    with open(record, "ab") as file:
        file.truncate(MOST_BYTES + 1)  # takes no room on the disk
    assert run(finished, resume=True).resumed == 2


def test_records_of_somebody_else_change_nothing(tmp_path, capsys):
    """A folder that comes with records but without notes: nothing in it is believed or removed."""
    write_image(tmp_path / "in" / "a.png")
    write_image(tmp_path / "in" / "b.png")
    write_image(tmp_path / "in" / "bad.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"broken")
    (tmp_path / "precious.txt").write_bytes(b"precious")
    record = {
        "version": 1, "settings": "", "source": [], "save": ["overlay"],
        "files": ["../precious.txt", str(tmp_path / "precious.txt")],
        "thumbnail": None, "width": 60, "height": 40, "instances": [],
    }  # fmt: skip
    out = tmp_path / "out"
    (out / "records").mkdir(parents=True)
    for name in ("a.png", "bad.png"):
        (out / "records" / f"{name}.json").write_bytes(orjson.dumps(record))
    for name in ("bad.png.png", "bad.png.jpg", "cutouts/bad.png.1_vest.png"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(b"theirs")
    before = tree(tmp_path)
    for resume in (False, True, False):
        summary = run(tmp_path, resume=resume)
        assert [name for name, _ in summary.failures] == ["a.png", "bad.png"]
        assert "records/a.png.json in the output folder was not written" in summary.failures[0][1]
        assert [i["file_name"] for i in load(out)[0].imgs.values()] == ["b.png"]
        after = tree(tmp_path)
        assert {n: after.get(n) for n in before} == before


def test_a_record_that_points_elsewhere_removes_nothing_there(finished):
    """In a folder that is ours: the files of its records are not what is removed."""
    out = finished / "out"
    record = orjson.loads((out / "records" / "b.png.json").read_bytes())
    record["files"] = [
        "../precious.txt",
        str(finished / "precious.txt"),
        "a.png.png",
        "../in/c.png",
    ]
    before = tree(finished)
    for content in (None, b"broken now"):
        (out / "records" / "b.png.json").write_bytes(orjson.dumps(record))
        if content:
            (finished / "in" / "b.png").write_bytes(content)
        run(finished)
        after = tree(finished)
        for name in ("precious.txt", "in/c.png", "out/a.png.png"):
            assert after[name] == before[name]
    assert not [n for n in after if "b.png" in n and n.startswith("out")]


def test_images_without_garments_have_records_too(tmp_path):
    write_image(tmp_path / "in" / "a.png", color=EMPTY)
    run(tmp_path)
    assert run(tmp_path, resume=True).resumed == 1
