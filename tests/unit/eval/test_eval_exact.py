"""The exact-match normaliser: what it makes equal, and what it must not."""

import pytest

from k15.eval.exact import normalise


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The Nile.", "nile"),
        (r"\text{New  York}", "new york"),
        ("ＡＢＣ", "abc"),
        ("“Paris”", "paris"),
        ("an apple!", "Apple"),
        ("−3", "-3"),
        ("(-3)", "-3"),
        ("$5", "5"),
        (" 12 ", "12"),
    ],
)
def test_equal(one, other):
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("-3", "3"),
        (".5", "5"),
        ("50%", "50"),
        ("1.5", "15"),
        ("New York", "NewYork"),
        ("the", ""),
        ("a b", "b a"),
    ],
)
def test_different(one, other):
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize("text", ["", "...", "$$", "_"])
def test_nothing_is_left_of_punctuation(text):
    assert normalise(text) == ""


def test_normalising_twice_changes_nothing():
    for text in ("The  Nile.", "-3", ".5", "50%", "((a", "a)_", r"\text{\textbf{x}}"):
        once = normalise(text)
        assert normalise(once) == once
