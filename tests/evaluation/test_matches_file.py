"""matches.npz and metrics.json of another run: read back, or refused with a reason."""

import io
import json
import os
import struct
import tempfile
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrcnn.coco.ground_truth import read_ground_truth, read_results
from mrcnn.evaluation import average_precision, matches_file
from mrcnn.evaluation.comparison import check_same_data, compare, read_earlier_run
from mrcnn.evaluation.matches_file import load_matches, save_matches
from mrcnn.evaluation.metrics import encode
from mrcnn.evaluation.scoring import EvaluationOptions, evaluate
from tests.helpers.coco_cases import accumulated, random_data


def test_matches_survive_their_file(tmp_path):
    matches, found = accumulated(*random_data(2, count=10), "segm")
    path = tmp_path / "matches.npz"
    save_matches(path, np.arange(10), {"segm": matches})
    image_ids, back = load_matches(path)
    assert image_ids.tolist() == list(range(10)) and list(back) == ["segm"]
    again = average_precision.accumulate(back["segm"])
    np.testing.assert_array_equal(again.precision, found.precision)
    check_same_data(image_ids, {"segm": matches}, image_ids, back)


def test_a_long_name_takes_no_room_in_the_others(tmp_path):
    content, results = random_data(2, count=2)
    content["categories"] = [{"id": k, "name": f"class {k}"} for k in range(1, 1000)]
    content["categories"][0]["name"] = "x" * 10**6  # as an array of text: 4 GB
    matches, _ = accumulated(content, results, "bbox")
    save_matches(tmp_path / "matches.npz", np.arange(2), {"bbox": matches})
    assert load_matches(tmp_path / "matches.npz")[1]["bbox"].names == matches.names


def test_other_data_are_refused():
    content, results = random_data(2, count=10)
    matches, _ = accumulated(content, results, "segm")
    ids = np.arange(10)
    with pytest.raises(ValueError, match="10 here, 4 there, 4 in both"):
        check_same_data(ids, {"segm": matches}, ids[:4], {"segm": matches})
    with pytest.raises(ValueError, match="10 here, 1 there, 0 in both"):
        check_same_data(ids, {"segm": matches}, np.array(["a"]), {"segm": matches})
    other = content | {"annotations": content["annotations"][:-1]}
    fewer, _ = accumulated(other, results, "segm")
    with pytest.raises(ValueError, match="different annotations of the same images"):
        check_same_data(ids, {"segm": matches}, ids, {"segm": fewer})


# --- Files of strangers ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored():
    content, results = random_data(3, count=8)
    truth = read_ground_truth(content)
    return evaluate(truth, read_results(truth, results), EvaluationOptions(resamples=3))


@pytest.fixture(scope="module")
def files(scored):
    """The content of its files by name."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "matches.npz"
        save_matches(path, scored.truth.image_ids, scored.matches)
        return {"metrics.json": encode(scored.metrics), path.name: path.read_bytes()}


@pytest.fixture
def run(files, tmp_path):
    """The folder of that run."""
    return write_run(tmp_path, files)


def write_run(folder, files):
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def arrays_of(folder):
    with np.load(folder / "matches.npz") as arrays:
        return dict(arrays)


def refuse(folder, *words):
    with pytest.raises(ValueError) as caught:
        read_earlier_run(folder)
    message = str(caught.value)
    assert str(folder) in message and "pickle" not in message and len(message) < 600
    for word in words:
        assert word in message


def test_the_run_itself_is_read(scored, run):
    compare(scored, read_earlier_run(run))
    rows = scored.metrics.compare.mask
    assert rows["AP"].difference == 0 and rows["AP"].interval == (0, 0)


def test_names_as_an_array_of_text_are_read(scored, run):
    """As version 0.1 wrote them."""
    arrays = arrays_of(run) | {f"{k}.names": np.array(scored.truth.names) for k in scored.matches}
    np.savez_compressed(run / "matches.npz", **arrays)
    compare(scored, read_earlier_run(run))


OBJECTS = np.array([{}, None], object)
CHANGES = {
    "objects": {"segm.rows": OBJECTS},
    "an empty array of objects": {"segm.names": OBJECTS[:0]},
    "numbers as text": {"segm.image": np.array(["1"])},
    "ids that are records": {"image_ids": np.zeros(8, "i4,i4")},
    "floats": {"segm.classes": np.zeros(3)},
    "another length": {"segm.image": np.zeros(1, int)},
    "another rank": {"segm.image": np.zeros((2, 2), int)},
    "no rank": {"segm.image": np.array(1)},
    "too few thresholds": {"segm.codes": np.zeros((0, 16, 9), np.uint8)},
    "other views": {"segm.truth_ignored": np.zeros((3, 1), bool)},
    "views of three": {"bbox.views": np.array([["a", "b", "c"]] * 16)},
    "names that are no JSON": {"bbox.names": np.zeros(9, np.uint8)},
    "names that are no names": {"bbox.names": np.frombuffer(b"[1, null]", np.uint8)},
    "an array too many": {"segm.more": np.zeros(2)},
    "another kind": {"keypoints.rows": np.zeros(2)},
}


@pytest.mark.parametrize("name", CHANGES)
def test_arrays_of_another_kind(run, name):
    np.savez(run / "matches.npz", **(arrays_of(run) | CHANGES[name]))
    refuse(run, "is not a matches.npz of model.py evaluate: ")


@pytest.mark.parametrize("name", ["image_ids", "bbox.rows", "segm.codes", "segm.names"])
def test_an_array_that_is_missing(run, name):
    arrays = arrays_of(run)
    del arrays[name]
    np.savez(run / "matches.npz", **arrays)
    refuse(run, "is not a matches.npz")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("segm.image", -1, "of no image"),
        ("segm.image", 8, "of no image"),
        ("segm.image", 2**62, "of no image"),
        ("bbox.classes", 4, "aren't sorted by class"),
        ("bbox.codes", 3, "neither right nor wrong"),
    ],
)
def test_values_out_of_range(run, name, change, words):
    arrays = arrays_of(run)
    arrays[name].flat[0] = change
    np.savez(run / "matches.npz", **arrays)
    refuse(run, words)


def test_classes_of_unsigned_numbers_must_be_sorted_too(run):
    arrays = arrays_of(run)
    arrays["segm.classes"] = arrays["segm.classes"][::-1].astype(np.uint8)
    np.savez(run / "matches.npz", **arrays)
    refuse(run, "aren't sorted by class")


def test_more_right_detections_than_instances(run):
    """They would be counted beyond a recall of 1."""
    arrays = arrays_of(run)
    arrays["bbox.codes"][:] = 1
    np.savez(run / "matches.npz", **arrays)
    refuse(run, "more right detections than instances")


def test_more_detections_than_are_kept(run):
    arrays = arrays_of(run)
    for name in ("rows", "image", "classes", "scores", "rank", "codes"):
        array = arrays[f"bbox.{name}"]
        arrays[f"bbox.{name}"] = np.zeros((10**5, *array.shape[1:]), array.dtype)
    np.savez_compressed(run / "matches.npz", **arrays)
    refuse(run, "an image has more than 100 detections of a class")


def entry_of(data, name):
    """Where the directory's entry of a file in a zip archive begins."""
    return data.rindex(name.encode()) - 46


def test_a_bomb_is_not_unpacked(run):
    """By the size that the archive declares, and by that of an array's shape."""
    data = bytearray((run / "matches.npz").read_bytes())
    at = entry_of(data, "segm.codes.npy")
    data[at + 24 : at + 28] = struct.pack("<I", 4_000_000_000)
    (run / "matches.npz").write_bytes(data)
    refuse(run, "it unpacks to 4,0", "more than 1,073,741,824")


def pack(path, arrays, headers, way=zipfile.ZIP_DEFLATED):
    """An .npz; `headers`: (type, shape) of arrays that have a header and nothing behind it."""
    with zipfile.ZipFile(path, "w", way) as archive:
        for name, array in arrays.items():
            data = io.BytesIO()
            if name in headers:
                kind, shape = headers[name]
                header = {"descr": kind, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(data, header)
            else:
                np.save(data, array)
            archive.writestr(f"{name}.npy", data.getvalue())


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({f"segm.{n}": ("<i8", (10**9,)) for n in ("rows", "image")}, "doesn't have the bytes"),
        ({"segm.rows": ("<i8", (-1,))}, "is int64 of shape (-1,)"),
        ({"segm.names": ("<U0", (10**12,))}, "is <U0 of shape (1000000000000,)"),
        ({"segm.names": ("|O", (0,))}, "is object of shape (0,)"),
        ({"segm.names": ("not a type", (0,))}, "it is damaged"),
    ],
)
def test_headers_without_their_bytes(run, headers, words):
    pack(run / "matches.npz", arrays_of(run), headers)
    refuse(run, words)


def test_packed_in_another_way(run):
    """The dictionary of LZMA takes what memory the file asks for."""
    pack(run / "matches.npz", arrays_of(run), {}, zipfile.ZIP_LZMA)
    refuse(run, "is packed in another way")


def test_what_is_no_archive(run):
    path = run / "matches.npz"
    whole = path.read_bytes()
    for content in (
        b"",
        b"nothing",
        whole[:-1],
        whole[: len(whole) // 2],
        whole[100:],
        b"\x80\x04N.",
    ):
        path.write_bytes(content)
        refuse(run, "matches.npz is not a matches.npz of model.py evaluate")
    for make in (
        lambda: path.mkdir(),
        lambda: os.mkfifo(path),
        lambda: os.symlink("/dev/zero", path),
    ):
        path.rmdir() if path.is_dir() else path.unlink()
        make()
        refuse(run, "matches.npz")
    path.unlink()
    os.symlink("matches.npz", path)
    refuse(run, "matches.npz")
    path.unlink()
    refuse(run, "matches.npz is missing")


def test_metrics_that_are_no_file(run, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for name, make in {
        "pipe": os.mkfifo,
        "circle": lambda path: os.symlink("circle", path),
        "nothing": lambda path: os.symlink("gone", path),
        "folder": os.mkdir,
    }.items():
        make(other / name)
        with pytest.raises(ValueError, match=f"no metrics at {other / name}"):
            read_earlier_run(other / name)


def test_matches_of_another_run(run):
    arrays = {name: a for name, a in arrays_of(run).items() if not name.startswith("segm")}
    np.savez(run / "matches.npz", **arrays)
    refuse(run, "are of different runs")


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "{}", "NaN", DEEP, f'{{"format": {DEEP}}}', '{"a":' * 10**5, "\ufeff{}",
        '{"format": 2}', '{"format": "1"}', "\x00" * 99,
    ],
)  # fmt: skip
def test_texts_that_are_no_metrics(run, text):
    (run / "metrics.json").write_text(text)
    refuse(run, "metrics.json is not a metrics.json of format 1")


def test_metrics_that_are_not_utf8_or_too_large(run):
    path = run / "metrics.json"
    path.write_bytes(path.read_bytes().replace(b'"notes": []', b'"notes": ["\xff"]'))
    refuse(run, "is not a metrics.json")
    with open(path, "ab") as file:
        file.truncate(10**9)  # a hole
    refuse(run, "has 1,000,000,000 bytes")


@pytest.mark.parametrize(
    "value", ["1e999", "NaN", "Infinity", "1.5", "-0.1", "9" * 400, '"1"', "[]"]
)
@pytest.mark.parametrize("key", ["AP50", "pictures", "seed"])
def test_numbers_that_are_none(run, key, value):
    path = run / "metrics.json"
    lines = path.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if f'"{key}": ' in line)
    lines[at] = f'"{key}": {value},'
    path.write_text("\n".join(lines))
    refuse(run, "is not a metrics.json of format 1")


# --- By chance ------------------------------------------------------------------------------------

hostile = settings(deadline=None, suppress_health_check=list(HealthCheck))
values = st.one_of(
    st.sampled_from([None, True, "", "\u202e", [], {}, 10**30, 2**63, -1, 1e308, 1e-320, 0.5, 1]),
    st.floats(allow_nan=False, allow_infinity=False),
)


def places(tree, path=()):
    """The paths of all values of a tree of dicts and lists."""
    yield path
    for key, value in (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    ):
        yield from places(value, (*path, key))


def changed(tree, path, value):
    """A copy of the tree with another value at a path; without that key for `...`."""
    tree = json.loads(json.dumps(tree))
    part = tree
    for key in path[:-1]:
        part = part[key]
    if value is ... and isinstance(part, dict):
        del part[path[-1]]
    else:
        part[path[-1]] = None if value is ... else value
    return tree


def read_or_refuse(folder, scored):
    """Either a message that names the file, or a comparison that can be written."""
    try:
        compare(scored, read_earlier_run(folder))
    except ValueError as error:
        assert "pickle" not in str(error)
        assert str(folder) in str(error) or "the runs were scored on different" in str(error)
    else:
        again = msgspec.json.decode(encode(scored.metrics))
        for row in again["compare"]["box"].values():
            assert row["difference"] is None or -1 <= row["difference"] <= 1


def change_metrics(data, scored, folder):
    tree = json.loads((folder / "metrics.json").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from([p for p in places(tree) if p]))
        tree = changed(tree, path, data.draw(st.just(...) | values))
    (folder / "metrics.json").write_text(json.dumps(tree))
    read_or_refuse(folder, scored)


dtypes = st.sampled_from(
    ["i8", "u1", "i4", "f8", "f2", "?", "U3", "S2", "O", "c8", "M8[s]", "i4,i4"]
)


def change_matches(data, scored, folder):
    arrays = arrays_of(folder)
    name = data.draw(st.sampled_from(sorted(arrays)))
    way = data.draw(st.sampled_from(["value", "type", "shape", "bytes"]))
    array = arrays[name]
    if way == "value" and array.dtype.kind in "iufb" and array.size:
        at = data.draw(st.integers(0, array.size - 1))
        low, high = (0, 1) if array.dtype.kind == "b" else (0, 255)
        array.flat[at] = data.draw(st.integers(low, high))
    elif way == "type":
        arrays[name] = np.zeros(array.shape, data.draw(dtypes))
    elif way == "shape":
        arrays[name] = np.zeros(data.draw(st.lists(st.integers(0, 20), max_size=4)), array.dtype)
    np.savez(folder / "matches.npz", **arrays)
    if way == "bytes":
        content = bytearray((folder / "matches.npz").read_bytes())
        for _ in range(data.draw(st.integers(1, 5))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        end = data.draw(st.integers(0, 9)) or data.draw(st.integers(0, len(content)))
        (folder / "matches.npz").write_bytes(content[: end if end > 9 else None])
    read_or_refuse(folder, scored)


def test_the_limit_leaves_room_for_a_full_run():
    """32,153 images with ten detections each, in 16 views, of boxes and masks."""
    assert matches_file.MOST_BYTES > 321_530 * (16 * 10 + 5 * 8) * 2


@pytest.mark.parametrize("change", [change_metrics, change_matches])
@settings(hostile, max_examples=40)
@given(data=st.data())
def test_any_change_of_a_file(change, data, scored, files):
    with tempfile.TemporaryDirectory() as folder:
        change(data, scored, write_run(Path(folder), files))


@pytest.mark.slow
@pytest.mark.parametrize("change", [change_metrics, change_matches])
@settings(hostile, max_examples=500)
@given(data=st.data())
def test_any_change_of_a_file_at_length(change, data, scored, files):
    with tempfile.TemporaryDirectory() as folder:
        change(data, scored, write_run(Path(folder), files))
