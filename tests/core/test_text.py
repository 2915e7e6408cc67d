"""File names of all sorts, as they are printed and as they stand in tables."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcnn.core.text import csv_lines, cut, from_cell, printable, writable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("été 写真 👗.jpg", "été 写真 👗.jpg"),
        ("no-break\u00a0wide\u3000space", "no-break\u00a0wide\u3000space"),
        ("\x1b[31mred\x1b]0;title\x07\x9b2J", "\\x1b[31mred\\x1b]0;title\\x07\\x9b2J"),
        ("a\nb\r\tc\x7f\x00", "a\\nb\\r\\tc\\x7f\\x00"),
        ("\u202egnp.jpg\u2066\u200b\u2028", "\\u202egnp.jpg\\u2066\\u200b\\u2028"),
        ("b\udcff", "b\\udcff"),
        ("", ""),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown


def test_what_is_printable_may_keep_its_lines():
    assert printable(ValueError("one\ntwo\r\x1b"), lines=True) == "one\ntwo\\r\\x1b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [("", ""), ("abcde", "abcde"), ("abcdef", "abcd\u2026"), ("\x1b[31m", "\\x1b\u2026")],
)
def test_cut(text, shown):
    assert cut(text, 5) == shown


@given(st.text(st.characters()), st.integers(1, 9))
def test_cut_text_is_printable_and_short(text, most):
    shown = cut(text, most)
    assert len(shown) <= most and printable(shown) == shown


@given(st.text(st.characters()))
def test_printable_text_commands_nothing(text):
    shown = printable(text)
    shown.encode()
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in shown)
    assert printable(shown) == shown


def cells(*row):
    (line,) = csv.reader(io.StringIO(csv_lines([row]).decode(), newline=""))
    return line


FORMULAS = [
    *("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "\u00a0=1", "\u3000@x"),
    *("\uff1d1", "\uff0b1", "\uff0d1", "\uff20x", "'=1", "' =1", "''+1", "\tx", " \r"),
]  # fmt: skip
PLAIN = ["", "a=1", "'", "'quoted'", "a, b", 'q"', "1-1", "é", " leads", "a\nb"]


def test_cells_that_begin_like_a_formula_get_an_apostrophe():
    assert cells(*FORMULAS) == ["'" + text for text in FORMULAS]
    assert cells(*PLAIN) == PLAIN
    assert [from_cell(cell) for cell in cells(*FORMULAS, *PLAIN)] == FORMULAS + PLAIN


def test_numbers_stay_numbers():
    assert csv_lines([(-3, -0.5, None, "-3")]) == b"-3,-0.5,,'-3\r\n"
    assert csv_lines([]) == b""


def test_text_that_is_not_utf8():
    assert cells("b\udcff", "=\udcff") == ["b\\udcff", "'=\\udcff"]
    assert writable("é\udcff") == "é\\udcff"


@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1))
def test_every_cell_can_be_read_back(texts):
    assert [from_cell(cell) for cell in cells(*texts)] == texts
