"""Whether COCO's run lengths are sound: pycocotools reads, and hangs on, any others."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Masks that are looked at together; few enough for the processor's cache.
CHUNK = 1000


def first_broken(rles: Sequence[Mapping[str, Any]]) -> int | None:
    """The first mask whose runs aren't as long as its image has pixels.

    Args:
        rles: dicts of size (height, width) and compressed counts, str or bytes.

    Returns:
        its position, None if all are sound.
    """
    for begin in range(0, len(rles), CHUNK):
        part = rles[begin : begin + CHUNK]
        texts = [_as_bytes(r["counts"]) for r in part]
        pixels = np.array([int(r["size"][0]) * int(r["size"][1]) for r in part], np.int64)
        broken = np.flatnonzero(~_are_sound(texts, pixels))
        if len(broken):
            return begin + int(broken[0])
    return None


def _as_bytes(counts: Any) -> bytes:
    # What is no text has no digit that fits, so it is found broken below.
    text = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    return bytes(text) if isinstance(text, bytes) else b"\xff"


def _are_sound(texts: list[bytes], pixels: np.ndarray) -> np.ndarray:
    """[n] bool: whether the runs of each text are 0 or more and add up to its pixels.

    COCO writes a number as digits of 5 bits from "0" on, lowest first, 32 added to all but the
    last, whose bit 16 is the sign. From the fourth number on it is the difference to the run
    two before.
    """
    sizes = np.array([len(t) for t in texts])
    digits = np.frombuffer(b"".join(texts), np.uint8) - np.uint8(48)  # 208 and more below "0"
    owner = np.repeat(np.arange(len(texts), dtype=np.int32), sizes)
    sound = sizes > 0
    sound[owner[digits >= 64]] = False
    ends = np.cumsum(sizes)[sound] - 1
    sound[owner[ends[digits[ends] & 32 != 0]]] = False
    keep = sound[owner]
    digits, owner = digits[keep], owner[keep]
    if not len(digits):
        return sound
    last = np.flatnonzero(digits & 32 == 0)
    starts = np.r_[0, last[:-1] + 1]
    lengths = last - starts + 1
    # Eight digits hold any run that there can be.
    sound[owner[starts[lengths > 8]]] = False
    values = (digits[starts] & 31).astype(np.int64)
    for place in range(1, min(8, lengths.max())):
        more = np.flatnonzero(lengths > place)
        values[more] += (digits[starts[more] + place] & 31).astype(np.int64) << 5 * place
    values -= np.where(digits[last] & 16, np.int64(1) << 5 * lengths.clip(max=8), 0)
    sound &= _add_up(values, owner[starts], pixels)
    return sound


def _add_up(values: np.ndarray, owner: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """[n] bool: whether each owner's runs, given as COCO's differences, fill its pixels."""
    begins = np.flatnonzero(np.diff(owner, prepend=-1))
    first = np.repeat(begins, np.diff(np.r_[begins, len(owner)]))
    at = np.arange(len(owner)) - first
    runs = values.copy()  # right for a mask's first number, which nothing is added to
    for parity in (0, 1):
        # A chain of differences is a running sum; that of a mask begins at 0 again.
        mine = (at % 2 == parity) & (at > 0)
        total = np.cumsum(np.where(mine, values, 0))
        runs[mine] = (total - total[first])[mine]
    good = np.ones(len(pixels), bool)
    good[owner[runs < 0]] = False
    good &= np.bincount(owner, runs, len(pixels)) == pixels
    return good
