"""The report's colours, light and dark: told apart by colour-blind readers, and legible as text.

Every text colour has a contrast of at least 4.5 to its page, every line at least 3 (a test measures both).
Nothing is told by colour alone: lines carry labels, verdicts a sign and a word, segments a number.
"""

from __future__ import annotations

LIGHT: dict[str, str] = {
    "page": "#fcfbf8",
    "raised": "#f3f1eb",
    "ink": "#1f2328",
    "muted": "#5b626b",
    "rule": "#d9d6ce",
    "grid": "#e7e4dc",
    "blue": "#0a5ea8",
    "orange": "#b04a00",
    "teal": "#00705c",
    "plum": "#8b3a80",
    "grey": "#646b75",
    "level1": "#2b6ea3",
    "level2": "#1f6f8b",
    "level3": "#4f5f2e",
    "level4": "#8a5a00",
    "level5": "#a33d2a",
    "age0": "#0a5ea8",
    "age1": "#22789f",
    "age2": "#87660f",
    "age3": "#a8521c",
    "age4": "#6e2b57",
    "mark": "#ffe7a3",
}
DARK: dict[str, str] = {
    "page": "#14171b",
    "raised": "#1d2126",
    "ink": "#e6e4df",
    "muted": "#a2a9b3",
    "rule": "#343a42",
    "grid": "#272c33",
    "blue": "#6db3f2",
    "orange": "#f2a25c",
    "teal": "#52c9ae",
    "plum": "#dd9bd0",
    "grey": "#9aa2ad",
    "level1": "#8cc4f0",
    "level2": "#5fc4d6",
    "level3": "#b4c878",
    "level4": "#e9b55a",
    "level5": "#f08c78",
    "age0": "#6db3f2",
    "age1": "#5fb7b0",
    "age2": "#e2bd6b",
    "age3": "#e08a4f",
    "age4": "#c77bb0",
    "mark": "#5c4a10",
}
TEXT_COLOURS = (
    "ink", "muted", "blue", "orange", "teal", "plum", "grey", "level1", "level2", "level3", "level4", "level5",
)  # fmt: skip
GRAPHIC_COLOURS = (*TEXT_COLOURS, "age0", "age1", "age2", "age3", "age4")
LEVELS = ("level1", "level2", "level3", "level4", "level5")
"""Colours of an ordered scale, easy to hard."""
AGES = ("age0", "age1", "age2", "age3", "age4")
"""Colours of segments by age in iterations; the last one stands for everything older."""


def level_colours(count: int) -> list[str]:
    """Colours for `count` ordered classes, spread over the scale."""
    if count <= 1:
        return [LEVELS[0]] * count
    return [LEVELS[round(i * (len(LEVELS) - 1) / (count - 1))] for i in range(count)]


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours as #rrggbb, 1 to 21 (WCAG 2)."""
    light, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def css_rules() -> str:
    """Custom properties for both themes, and the classes `s-NAME` (stroke) and `f-NAME` (fill)."""
    light = ";".join(f"--{name}:{value}" for name, value in LIGHT.items())
    dark = ";".join(f"--{name}:{value}" for name, value in DARK.items())
    classes = "".join(f".s-{n}{{stroke:var(--{n})}}.f-{n}{{fill:var(--{n})}}" for n in GRAPHIC_COLOURS)
    return (
        f":root{{color-scheme:light;{light}}}"
        f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}"
        f":root[data-theme=dark]{{color-scheme:dark;{dark}}}"
        f"@media print{{:root:root{{color-scheme:light;{light}}}}}{classes}"
    )
