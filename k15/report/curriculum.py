"""What is it practising: what the sampler believes about its prompts, and what it draws."""

from __future__ import annotations

from k15.report.charts import Figure
from k15.report.heat import heat_map
from k15.report.material import Material, Section, present
from k15.report.palette import level_colours
from k15.report.runs import Row, number
from k15.report.stacks import Layer, stacked_chart


def curriculum_section(material: Material) -> Section:
    """Success rates over time, and draws by difficulty."""
    figures = present(
        _success_rates(material),
        _draws(material),
        material.chart(
            "Mean success rate",
            [material.plain("sampler/mean_success_rate", "s", "blue")],
            "mean of s over all prompts",
            "The sampler's moving estimate of each prompt's success rate, averaged over the prompt set. Prompts that "
            "were never drawn count with their initial value.",
            unit="percent",
        ),
    )
    intro = "The sampler keeps a success rate for every prompt and draws what fails more often than what is solved."
    return Section("curriculum", "Curriculum", "What is it practising?", intro, figures)


def _success_rates(material: Material) -> Figure | None:
    columns: list[tuple[float, list[float]]] = []
    for stage in material.timeline.stages:
        for row in stage.rows:
            counts, place = _counts(row), number(row, "iteration")
            if counts and place is not None:
                columns.append((stage.offset + place, counts))
    size = max((len(counts) for _, counts in columns), default=0)
    return heat_map(
        "Success rates",
        [(x, counts) for x, counts in columns if len(counts) == size],
        row_labels=[f"{i / size:.1f}" for i in range(size)],
        y_label="success rate s, from",
        caption="Darker: more prompts have that rate. Solved prompts gather at the top, hopeless ones at the bottom.",
        boundaries=material.timeline.boundaries,
    )


def _counts(row: Row) -> list[float]:
    """The histogram of a row, or [] if it is missing or broken."""
    value = row.get("sampler/histogram")
    if not isinstance(value, list) or not 0 < len(value) <= 40:
        return []
    counts = [number({"count": item}, "count") for item in value]
    whole = [count for count in counts if count is not None and count >= 0]
    return whole if len(whole) == len(counts) else []


def _draws(material: Material) -> Figure | None:
    tallies = [t for t in material.scan.tallies if t.difficulties]
    levels = sorted({level for t in tallies for level in t.difficulties})
    if not 2 <= len(levels) <= 12:
        return None
    layers = []
    for level, colour in zip(levels, level_colours(len(levels)), strict=True):
        shares = {float(t.x): t.difficulties[level] / t.difficulties.total() for t in tallies}
        layers.append(Layer(f"level {level:g}", colour, shares))
    return stacked_chart(
        "What was drawn",
        layers,
        y_label="share of trained groups",
        unit="percent",
        caption="Trained groups by difficulty. Harder ones should take over as easy ones are solved.",
        boundaries=material.timeline.boundaries,
    )
