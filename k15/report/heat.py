"""Counts in classes over iterations, as shades."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from k15.report.axes import FLOOR, LEFT, WIDTH, Boundary, cursor, drawing, phase_marks, plot_top, words
from k15.report.charts import Figure, Table
from k15.report.markup import Markup, element, join
from k15.report.statistics import spread

RIGHT = WIDTH - 8
MOST_COLUMNS = 80


def heat_map(
    title: str,
    columns: Sequence[tuple[float, Sequence[float]]],
    *,
    row_labels: Sequence[str],
    y_label: str,
    caption: str,
    boundaries: Sequence[Boundary] = (),
) -> Figure | None:
    """Columns of counts over iterations, lowest class at the bottom; None if all counts are zero.

    Args:
        columns: (iteration, count in each class); of many, MOST_COLUMNS are drawn, evenly spread.
        row_labels: names of the classes.
    """
    columns = [(x, counts) for x, counts in columns if sum(counts) > 0]
    if not columns:
        return None
    kept = [columns[i] for i in spread(range(len(columns)), MOST_COLUMNS)]
    width, height = (RIGHT - LEFT) / len(kept), (FLOOR - plot_top(boundaries)) / len(row_labels)
    parts = [words(y_label, 0, 13, class_="unit"), _cells([counts for _, counts in kept], width, height)]
    for j in range(0, len(row_labels), 1 if len(row_labels) <= 6 else 2):
        middle = FLOOR - (j + 0.5) * height + 4.5
        parts.append(words(row_labels[j], LEFT - 7, middle, text_anchor="end", class_="tick"))
    for i in spread(range(len(kept)), 6):
        place = LEFT + (i + 0.5) * width
        anchor = "end" if RIGHT - place < 12 else "middle"
        parts.append(words(f"{kept[i][0]:g}", place, FLOOR + 17, text_anchor=anchor, class_="tick"))
    parts.append(words("iteration", RIGHT, FLOOR + 34, text_anchor="end", class_="unit"))
    xs = [x for x, _ in kept]
    marks = [(LEFT + bisect_left(xs, b.place) * width, b.name) for b in boundaries]
    parts += [phase_marks(marks), cursor()]
    table = Table(
        ("iteration", *row_labels),
        tuple((f"{x:g}", *(f"{count:g}" for count in counts)) for x, counts in kept),
        tuple(LEFT + (i + 0.5) * width for i in range(len(kept))),
    )
    label = f"{title}. Shades show the share of each class at each iteration; the table has the counts."
    return Figure(title, drawing(*parts, label=label, data_chart="heat"), caption, table)


def _cells(columns: Sequence[Sequence[float]], width: float, height: float) -> Markup:
    """One rectangle per class and column, as dark as its share; the darkest is the largest share of all."""
    peak = max(max(counts) / sum(counts) for counts in columns)
    cells = []
    for i, counts in enumerate(columns):
        for j, count in enumerate(counts):
            share = count / sum(counts)
            if share >= 0.002:
                opacity = f"{0.06 + 0.94 * (share / peak) ** 0.4:.2f}"
                x, y = LEFT + i * width, FLOOR - (j + 1) * height
                cells.append(
                    element(
                        "rect", class_="cell", x=x, y=y, width=width, height=height, fill_opacity=opacity
                    )
                )
    return join(cells)
