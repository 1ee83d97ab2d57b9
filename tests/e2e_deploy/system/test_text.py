import sys
import unicodedata

import pytest

from e2e_deploy.system.text import clean


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("trained on 2400 scenes", "trained on 2400 scenes"),
        ("Müller, 深度, 😀", "Müller, 深度, 😀"),
        ("two\nlines\r\n\tand a tab ", "two lines and a tab"),
        ("one\u2028two\u2029three\x85four", "one two three four"),
        ("\ud800", "�"),
        ("a\x00b", "a�b"),
        ("\x1b]0;title\x07", "�]0;title�"),
        ("\x9b31m", "�31m"),
        ("file\u202egnp.exe", "file�gnp.exe"),
        ("\u2066a\u200b", "�a�"),
        ("क्\u200dष", "क्\u200dष"),
        ("", ""),
    ],
)
def test_clean(text, shown):
    assert clean(text) == shown


def test_every_character_can_be_encoded_and_printed():
    for start in range(0, sys.maxunicode + 1, 256):
        shown = clean("".join(map(chr, range(start, start + 256))))
        shown.encode()
        assert {unicodedata.category(c) for c in shown}.isdisjoint({"Cc", "Cs", "Zl", "Zp"})


def test_what_is_long_is_cut():
    assert clean("abcdefghij", 10) == "abcdefghij"
    assert clean("abcdefghijk", 10) == "abcdefghi…"
    assert len(clean("x" * 10**7, 100)) == 100
    assert clean(" " * 10**6 + "late", 10) == "…"
