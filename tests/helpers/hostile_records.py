"""Records of an image that the program can't have written, made from a sound one.

The sound one has two garments or more, all kinds of output, and sides that differ.
"""

import base64
import copy
import json
import math
import random

WRONG = [None, True, -1, 1.5, 10**30, "", "x", [], {}, [[]], [None], {"a": 1}]
FILES = [
    *("../precious.txt", "%2e%2e/precious.txt", "/etc/passwd", "..", "", "a%00b", "precious.txt"),
    *("file:///etc/passwd", "http://example.org/x.png", "records/a.png.json", "results.json"),
    *("a.png.png", "masks/../../precious.txt", "b.png.png ", "B.png.png", "\ud83d"),
]
THUMBNAILS = [
    *("", "javascript:alert(1)", "x.jpg", "data:,", "data:image/jpeg;base64,", "https://x.org/x.jpg"),
    "data:text/html;base64," + base64.b64encode(b"<script>alert(1)</script>").decode(),
    "data:image/svg+xml;base64," + base64.b64encode(b"<svg onload='alert(1)'/>").decode(),
    'data:image/jpeg;base64,/9j/"><script>alert(1)</script>',
    *("data:image/jpeg;base64,/9j/====", "data:image/jpeg;base64,/9j/AAAA\n", None),
]  # fmt: skip
COUNTS = [
    *("", "0", "!!!", "0`U1", "\u00e9", "0" * 5000, "o" * 40, "\x00", "PPPPPPPPPPPPPP1", "~~~~"),
    *("0`S1", "`" * 12 + "1", 5, None, [0, -1], ["a"], {}),
]


def _numbers(low, high):
    """Values on the wrong side of the bounds, and what is no number."""
    return [low - 1, high + 1, -(10**20), 10**20, 1e300, -1e300, "7", None, [], True and "true"]


LITERALS = [math.nan, math.inf, -math.inf]  # which JSON has no words for, but `json` writes


def _of_keys(record, rng):
    key = rng.choice(list(record))
    if rng.random() < 0.3:
        del record[key]
        return f"no {key}"
    value = rng.choice(WRONG + LITERALS)
    if key in ("settings",) and isinstance(value, str):
        value = None
    if key == "source" and value == []:
        value = [1, 2, 3]
    record[key] = value
    return f"{key} is {value!r:.20}"


def _of_sizes(record, rng):
    key = rng.choice(["width", "height"])
    values = [record[key] + 1, record[key] - 1, 0, 2**31, 2**63, 20_000]
    record[key] = rng.choice([*_numbers(1, 178_956_970), *values, *LITERALS])
    return f"{key} is {record[key]!r:.20}"


def _swap(record, rng):
    record["width"], record["height"] = record["height"], record["width"]
    return "sides swapped"


def _of_files(record, rng):
    files = record["files"]
    place = rng.randrange(len(files))
    what = rng.randrange(5)
    if what == 0:
        del files[place]
    elif what == 1:
        files.append(files[place])
    elif what == 2:
        files.insert(place, rng.choice(FILES))
    elif what == 3:
        files[place] = rng.choice(FILES)
    else:
        files.reverse()
    return f"files {what}: {files!r:.60}"


def _of_save(record, rng):
    changes = [
        ["overlay", "pdf"],
        [],
        ["overlay"],
        ["json"],
        [*record["save"], "overlay"],
        ["x" * 99],
    ]
    record["save"] = rng.choice(changes)
    return f"save is {record['save']!r:.40}"


def _of_thumbnail(record, rng):
    record["thumbnail"] = rng.choice(THUMBNAILS)
    return f"thumbnail is {record['thumbnail']!r:.40}"


def _of_version(record, rng):
    record["version"] = rng.choice([0, 2, -1, 10**20, "1", None, 1.5, []])
    return f"version is {record['version']!r:.20}"


def _of_instances(record, rng):
    instances = record["instances"]
    what = rng.randrange(4)
    if what == 0:
        del instances[rng.randrange(len(instances))]
    elif what == 1:
        instances.append(copy.deepcopy(instances[0]))
    elif what == 2:
        instances[0] = rng.choice([*WRONG, *LITERALS])
    else:
        instances *= 300
    return f"instances {what}"


def _of_instance(record, rng):
    found = rng.choice(record["instances"])
    key = rng.choice(list(found))
    if key == "bbox":
        box, place = found["bbox"], rng.randrange(4)
        wrong = [-1, 1e9, -1e300, 1e300, None, "1", [], *LITERALS]
        box[place] = rng.choice(wrong)
        if rng.random() < 0.2:
            found["bbox"] = rng.choice([box[:3], [*found["bbox"], 1], [], [0, 0, 0, 0], None])
    elif key == "score":
        found["score"] = rng.choice([*_numbers(0, 1), 1.0001, -1e-9, *LITERALS])
    elif key == "category_id":
        found["category_id"] = rng.choice([*_numbers(1, 13), 0, 14, 255, 2**31, *LITERALS])
    elif key == "area":
        found["area"] = rng.choice([*_numbers(0, 2**31), found["area"] + 1, found["area"] - 1, -5])
    elif key == "color":
        found["color"] = rng.choice(
            ["plaid", "=1+1", "RED", "red\n", 5, None, ["red"], "<b>red</b>"]
        )
    else:
        mask = found["segmentation"]
        what = rng.randrange(4)
        if what == 0:
            mask["counts"] = rng.choice(COUNTS)
        elif what == 1:
            mask["counts"] = mask["counts"][: rng.randrange(len(mask["counts"]))]
        elif what == 2:
            mask["size"] = rng.choice(
                [mask["size"][::-1], [0, 0], [-1, -1], [2**31, 2**31], [10**20, 1], [1], [], "ab"]
            )
        else:
            found["segmentation"] = rng.choice(
                [None, [], [[0, 0, 9, 0, 9, 9]], "x", {}, {"size": [1, 1]}]
            )
    return f"{key} is {found.get(key)!r:.60}"


def _without(record, rng):
    found = rng.choice(record["instances"])
    key = rng.choice(list(found))
    del found[key]
    return f"instance without {key}"


def _raw(sound, rng):
    """(label, bytes) of damage that leaves no JSON of this form."""
    cut = rng.randrange(len(sound))
    nested = b"[" * rng.choice([100, 5000, 200_000])
    return rng.choice(
        [
            ("cut", sound[:cut]),
            ("empty", b""),
            ("zeros", bytes(len(sound))),
            ("more behind", sound + b"{}"),
            ("twice", sound * 2),
            ("utf-16", sound.decode().encode("utf-16")),
            ("not utf-8", sound[:1] + b'"\xff\xfe":1,' + sound[1:]),
            ("nested", nested),
            ("nested in an unknown key", sound[:1] + b'"x":' + nested + b"," + sound[1:]),
            ("nested objects", b'{"a":' * 50_000),
            ("a later key", sound[:-1] + b',"height":-5}'),
            ("null", rng.choice([b"null", b"1", b'"text"', b"[]", b"{}", b"true"])),
            ("bytes", rng.randbytes(200)),
            ("half overwritten", sound[: cut // 2] + b"\0" * 64 + sound[cut // 2 + 64 :]),
            (
                "no number",
                sound.replace(b'"score":0.75', rng.choice([b'"score":1e999', b'"score":01'])),
            ),
            ("an image", b"\x89PNG\r\n\x1a\n" + sound),
        ]
    )


_CHANGES = [
    *(_of_keys, _of_sizes, _swap, _of_files, _of_files, _of_save, _of_thumbnail, _of_version),
    *(_of_instances, _of_instance, _of_instance, _of_instance, _of_instance, _without),
]


def hostile_records(sound, count, seed=0):
    """Yields (what was done, bytes) of so many different records.

    Args:
        sound: bytes of the record to start from.
    """
    rng = random.Random(seed)
    seen = {bytes(sound)}
    as_it_is = json.loads(sound)
    while len(seen) <= count:
        if rng.random() < 0.25:
            label, data = _raw(sound, rng)
        else:
            record = copy.deepcopy(as_it_is)
            label = rng.choice(_CHANGES)(record, rng)
            if record == as_it_is:
                continue
            data = json.dumps(record, separators=(",", ":")).encode()
        if data not in seen:
            seen.add(data)
            yield label, data
