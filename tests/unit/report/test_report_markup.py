"""Text never becomes markup, invisible characters become visible, and colours can be read."""

from __future__ import annotations

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k15.report import palette
from k15.report.markup import Markup, element, escape, join, visible


@given(st.text(st.characters(), max_size=40))
def test_any_text_survives_as_text(text):
    escaped = escape(text)
    assert "<" not in escaped
    assert '"' not in escaped
    assert "'" not in escaped
    escaped.encode()
    assert html.unescape(escaped) == visible(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x00b", "a⟨U+0000⟩b"),
        ("\u202eabc", "⟨U+202E⟩abc"),
        ("\u2066x\u2069", "⟨U+2066⟩x⟨U+2069⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("\x1b[31m", "⟨U+001B⟩[31m"),
        ("a\u200bb\ufeff", "a⟨U+200B⟩b⟨U+FEFF⟩"),
        ("\U000e0041", "⟨U+E0041⟩"),
        ("tab\tline\r\nend", "tab\tline\nend"),
        ("Ωmega, 中文, é, 🙂", "Ωmega, 中文, é, 🙂"),
    ],
)
def test_characters_that_deceive_are_written_out(text, shown):
    assert visible(text) == shown


def test_only_markup_stays_markup():
    safe = element("b", "x<y")
    assert safe == "<b>x&lt;y</b>"
    assert element("p", safe, "<i>") == "<p><b>x&lt;y</b>&lt;i&gt;</p>"
    assert escape(safe + "<i>") == "&lt;b&gt;x&amp;lt;y&lt;/b&gt;&lt;i&gt;", "joined text is text again"
    assert isinstance(join([safe, "<i>"]), Markup)


def test_attributes_are_quoted_and_spelled():
    made = element("path", class_='a"b', stroke_width=1.25, aria_hidden=True, d=None, hidden=False)
    assert made == '<path class="a&quot;b" stroke-width="1.2" aria-hidden/>'
    assert element("br") == "<br>"


@pytest.mark.parametrize("theme", [palette.LIGHT, palette.DARK], ids=["light", "dark"])
class TestColours:
    def test_text_has_a_contrast_of_at_least_4_5(self, theme):
        for name in palette.TEXT_COLOURS:
            for ground in ("page", "raised"):
                assert palette.contrast(theme[name], theme[ground]) >= 4.5, (name, ground)
        assert palette.contrast(theme["ink"], theme["mark"]) >= 4.5

    def test_lines_have_a_contrast_of_at_least_3_and_numbers_in_bars_4_5(self, theme):
        for name in palette.GRAPHIC_COLOURS:
            assert palette.contrast(theme[name], theme["page"]) >= 3, name
        for name in palette.AGES:
            assert palette.contrast(theme["page"], theme[name]) >= 4.5, name

    def test_a_red_green_blind_reader_can_tell_right_from_wrong(self, theme):
        seen = [_as_deuteranope(theme[name]) for name in ("teal", "orange", "blue", "plum")]
        for i, first in enumerate(seen):
            for second in seen[i + 1 :]:
                assert sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) ** 0.5 > 0.12


def test_contrast_is_that_of_the_standard():
    assert palette.contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert palette.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def _as_deuteranope(colour: str) -> tuple[float, ...]:
    """sRGB as a deuteranope sees it (Machado, Oliveira and Fernandes 2009, severity 1), in linear light."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    matrix = (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    )
    simulated = [sum(m * c for m, c in zip(row, linear, strict=True)) for row in matrix]
    return tuple(max(value, 0.0) ** (1 / 2.2) for value in simulated)
