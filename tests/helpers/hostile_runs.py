"""Run folders whose newest checkpoint is wrong though its checksums are right.

`STATES` are changes of a state file, `LISTS` of the newest entry of the list, by name.
"""

import hashlib
import json
import random

import h5py
import numpy as np

INFO = {
    "epoch": 2,
    "step": 1,
    "sums": {"loss": 1.5},
    "seconds": 3.25,
    "waited": 0.5,
    "best": -1.25,
    "best_epoch": 1,
    "since": 0,
    "stage": "all",
    "total_steps": 5,
    "schedule": {"share": 0.3, "best": 1.5, "waited": 2},
}
ARRAYS = {"optimizer/0": np.array(5, np.int64), "optimizer/1": np.arange(6.0).reshape(2, 3)}


def rewrite(folder, change):
    """Changes the newest state file by `change(open file, path)`, and its checksum."""
    listing = folder / "checkpoints.json"
    entries = json.loads(listing.read_bytes())
    path = folder / entries[-1]["state"]
    with h5py.File(path, "r+") as file:
        replaced = change(file, path)
    if isinstance(replaced, bytes):
        path.write_bytes(replaced)
    entries[-1]["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    listing.write_text(json.dumps(entries))


def relist(folder, change):
    """Changes the newest entry of the list by `change(entry, folder)`."""
    listing = folder / "checkpoints.json"
    entries = json.loads(listing.read_bytes())
    change(entries[-1], folder)
    listing.write_text(json.dumps(entries))


def _info(value):
    def change(file, path):
        file.attrs["info"] = value if isinstance(value, (str, bytes)) else json.dumps(value)

    return change


def _attribute(value):
    def change(file, path):
        del file.attrs["info"]
        if value is not None:
            file.attrs["info"] = value

    return change


def _array(name, value):
    def change(file, path):
        del file[name]
        if value is not None:
            value(file, path) if callable(value) else file.create_dataset(name, data=value)

    return change


def _external(file, path):
    shape = (2, 3)
    file.create_dataset("optimizer/1", shape, "f8", external=[("/etc/passwd", 0, 48)])


def _virtual(file, path):
    layout = h5py.VirtualLayout((2, 3), "f8")
    layout[:] = h5py.VirtualSource(str(path.with_name("other.h5")), "x", (2, 3))
    file.create_virtual_dataset("optimizer/1", layout)


def _link(file, path):
    with h5py.File(path.with_name("other.h5"), "w") as other:
        other["x"] = np.zeros((2, 3))
    file["optimizer/1"] = h5py.ExternalLink("other.h5", "x")


def _unstored(file, path):
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    space = h5py.h5s.create_simple((1 << 40,))
    h5py.h5d.create(file["optimizer"].id, b"1", h5py.h5t.IEEE_F64LE, space, settings)


def _packed(file, path):
    file.create_dataset("optimizer/1", data=np.zeros((2, 3)), compression="gzip")


def _null(file, path):
    file["optimizer/1"] = h5py.Empty("f8")


def _group(file, path):
    file.create_group("optimizer/1")


def _deep():
    return "[" * 100_000 + "]" * 100_000


STATES = {
    "info: a list": _info([INFO]),
    "info: a text": _info('"epoch"'),
    "info: a number": _info("7"),
    "info: null": _info("null"),
    "info: empty": _info(""),
    "info: half": _info(json.dumps(INFO)[:40]),
    "info: deep": _info(_deep()),
    "info: a dict in a list": _info({**INFO, "sums": [1]}),
    "info: missing": _attribute(None),
    "info: an array": _attribute(np.zeros(3)),
    "info: bytes": _attribute(np.bytes_(b"\xff\xfe")),
    "info: of another epoch": _info({**INFO, "epoch": 1}),
    "info: of another step": _info({**INFO, "step": 0}),
    "info: no sums of steps": _info({**INFO, "sums": {}}),
    "schedule: half": _info({**INFO, "schedule": {"share": 0.3}}),
    "schedule: texts": _info({**INFO, "schedule": {"share": "x", "best": None, "waited": 0}}),
    "schedule: above 1": _info({**INFO, "schedule": {"share": 9, "best": None, "waited": 0}}),
    "schedule: a list": _info({**INFO, "schedule": [1]}),
    **{
        f"{name}: missing": _info({k: v for k, v in INFO.items() if k != name})
        for name in INFO
        if name != "schedule"
    },
    **{
        f"{name}: {value!r:.20}": _info({**INFO, name: value})
        for name in ("epoch", "step", "best_epoch", "since", "total_steps")
        for value in ("2", 1.5, -1, None, True, [2], {}, 10**30)
    },
    **{
        f"{name}: {value!r:.20}": _info({**INFO, name: value})
        for name, values in {
            "sums": (None, 3, [], {"loss": "x"}, {"loss": None}, {"loss": [1]}),
            "seconds": ("1", None, []),
            "waited": ("1", None, {}),
            "best": ("1", [], {}),
            "stage": (None, 3, ["all"]),
        }.items()
        for value in values
    },
    "array: missing": _array("optimizer/1", None),
    "array: the first is missing": _array("optimizer/0", None),
    "array: transposed": _array("optimizer/1", np.zeros((3, 2))),
    "array: shorter": _array("optimizer/1", np.zeros((2, 2))),
    "array: a number": _array("optimizer/1", 3.0),
    "array: of integers": _array("optimizer/1", np.zeros((2, 3), np.int32)),
    "array: float32": _array("optimizer/1", np.zeros((2, 3), np.float32)),
    "array: texts": _array("optimizer/1", np.array([b"a", b"b"])),
    "array: variable texts": _array("optimizer/1", ["a", "b"]),
    "array: complex": _array("optimizer/1", np.zeros((2, 3), complex)),
    "array: compound": _array("optimizer/1", np.zeros(2, [("a", "f8"), ("b", "i4")])),
    "array: external": _array("optimizer/1", _external),
    "array: virtual": _array("optimizer/1", _virtual),
    "array: a link": _array("optimizer/1", _link),
    "array: not stored": _array("optimizer/1", _unstored),
    "array: packed": _array("optimizer/1", _packed),
    "array: null": _array("optimizer/1", _null),
    "array: a group": _array("optimizer/1", _group),
    "array: one more": lambda file, path: file.create_dataset("optimizer/2", data=1.0) and None,
    "array: renamed": lambda file, path: file.move("optimizer/1", "optimizer/x"),
    "file: empty": lambda file, path: b"",
    "file: a text": lambda file, path: b"no HDF5",
    "file: a head": lambda file, path: path.read_bytes()[:100],
}


def noisy(seed):
    """A change that puts noise into a state file, somewhere."""
    rng = random.Random(seed)

    def change(file, path):
        content = bytearray(path.read_bytes())
        for _ in range(rng.choice((1, 4, 40))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        return bytes(content)

    return change


def _named(weights=None, state=None, **values):
    def change(entry, folder):
        entry.update(values)
        for part, name in (("weights", weights), ("state", state)):
            if name is not None:
                name = name.format(folder=folder)
                path = folder / name
                if not path.exists() and "\0" not in name:
                    path.write_bytes((folder / entry[part]).read_bytes())
                entry["sha256"][name] = entry["sha256"][entry[part]]
                entry[part] = name

    return change


def _linked(part):
    def change(entry, folder):
        path = folder / entry[part]
        path.rename(folder.parent / path.name)
        path.symlink_to(folder.parent / path.name)

    return change


LISTS = {
    "above the folder": _named("../interrupted.h5", "../interrupted.state.h5"),
    "the state above the folder": _named(state="../interrupted.state.h5"),
    "absolute": _named("{folder}/interrupted.h5", "{folder}/interrupted.state.h5"),
    "below the folder": _named("./interrupted.h5", "./interrupted.state.h5"),
    "another name": _named("mine.h5", "mine.state.h5"),
    "another end": _named("interrupted.bin", "interrupted.state.bin"),
    "the best": _named("best.h5", "best.state.h5"),
    "a state of another": _named(state="interrupted2.state.h5"),
    "weights as the state": _named(state="interrupted.h5"),
    "a line break": _named("interrupted.h5\n"),
    "NUL": _named("interrupted.h5\0"),
    "empty names": lambda entry, folder: entry.update(weights="", state=""),
    "weights that are a link": _linked("weights"),
    "a state that is a link": _linked("state"),
    "no checksums": lambda entry, folder: entry.update(sha256={}),
    "another epoch": lambda entry, folder: entry.update(epoch=7),
    "another step": lambda entry, folder: entry.update(step=7),
    "a whole epoch": lambda entry, folder: entry.update(step=0),
}
