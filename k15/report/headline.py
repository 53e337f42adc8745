"""The first screen: how far, how good, how long, what to look at; and one row per phase of a demo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from k15.report.findings import Finding
from k15.report.markup import Markup, element
from k15.report.material import Material
from k15.report.runs import Stage, integer, number, text
from k15.report.scales import format_value, with_minus
from k15.report.statistics import Point


@dataclass(frozen=True)
class PhaseSummary:
    """One row of the headline table: held-out accuracy and tokens of a phase, with 95 % intervals.

    Shares lie in [0, 1]; an end of an interval may be None if it is not known.
    """

    name: str
    accuracy: float | None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    tokens: float | None = None
    tokens_low: float | None = None
    tokens_high: float | None = None
    num_samples: int | None = None


@dataclass(frozen=True)
class Tile:
    """A number with its name and a remark."""

    label: str
    value: str
    note: str = ""


def headline_tiles(material: Material, findings: Sequence[Finding], num_notices: int) -> list[Tile]:
    """The numbers somebody wants first."""
    tiles = [*_accuracy_tiles(material), *_progress_tiles(material.timeline.stages)]
    faults = sum(y for _, y in material.timeline.points("train/num_faults"))
    total = sum(y for _, y in material.timeline.points("train/num_completions"))
    if total:
        tiles.append(Tile("Our faults", f"{faults:,.0f}", f"of {total:,.0f} graded completions"))
    watch = sum(finding.is_warning for finding in findings)
    notices = f"{num_notices} notice{'s' * (num_notices != 1)} about the files"
    return [*tiles, Tile("Warnings", str(watch), notices)]


def _accuracy_tiles(material: Material) -> list[Tile]:
    accuracy, tokens = (
        material.timeline.points("eval/accuracy"),
        material.timeline.points("eval/length_mean"),
    )
    kind = "Held-out"
    if not accuracy:
        kind = "Training"
        accuracy = list(material.smooth("train/accuracy", "", "blue").points)
        tokens = list(material.smooth("train/length_mean", "", "blue").points)
    tiles = []
    if accuracy:
        note = (
            _interval_note(material, accuracy)
            if kind == "Held-out"
            else "ends of the running mean; no evaluation recorded"
        )
        tiles.append(Tile(f"{kind} accuracy", _arrow(accuracy, "percent"), note))
    if tokens:
        change = (
            with_minus(f"{100 * (tokens[-1][1] / tokens[0][1] - 1):+.0f} %")
            if tokens[0][1] > 0 and len(tokens) > 1
            else ""
        )
        tiles.append(
            Tile(
                f"{kind} tokens",
                _arrow(tokens, "count"),
                f"in a completion, mean; {change}".rstrip("; "),
            )
        )
    return tiles


def _arrow(points: Sequence[Point], unit: str) -> str:
    def show(value: float) -> str:
        return format_value(value, "percent") if unit == "percent" else f"{value:,.0f}"

    return show(points[-1][1]) if len(points) == 1 else f"{show(points[0][1])} → {show(points[-1][1])}"


def _interval_note(material: Material, accuracy: Sequence[Point]) -> str:
    low, high = (dict(material.timeline.points(f"eval/accuracy_{end}")) for end in ("low", "high"))
    spans = [
        f"{100 * low[x]:.0f} to {100 * high[x]:.0f} %"
        for x in dict.fromkeys((accuracy[0][0], accuracy[-1][0]))
        if x in low and x in high
    ]
    samples = material.timeline.points("eval/num_samples")
    parts = [f"95 %: {', then '.join(spans)}"] if spans else []
    if samples:
        parts.append(f"{samples[-1][1]:,.0f} samples")
    return "; ".join(parts)


def _progress_tiles(stages: Sequence[Stage]) -> list[Tile]:
    rows = sum(stage.num_iterations_done for stage in stages)
    planned = [integer(stage.config, "num_iterations") for stage in stages]
    tiles = []
    if rows:
        known = [count for count in planned if count is not None]
        of = f"of {sum(known):,}" if known and len(known) == len(planned) else ""
        tiles.append(Tile("Iterations", f"{rows:,}", f"{of} {_state(stages[-1])}".strip()))
    seconds = sum(number(row, "seconds/total") or 0.0 for stage in stages for row in stage.rows)
    tokens = sum(number(row, "rollout/num_tokens") or 0.0 for stage in stages for row in stage.rows)
    if seconds:
        tiles.append(
            Tile(
                "Time in iterations",
                duration(seconds),
                f"{tokens:,.0f} tokens sampled" if tokens else "",
            )
        )
    return tiles


def _state(stage: Stage) -> str:
    kinds = [text(event, "kind") for event in stage.reader.events]
    if "finished" in kinds:
        return "planned, finished"
    if "stop_requested" in kinds[-2:]:
        return "planned, stopped on request"
    return "planned, not finished"


def duration(seconds: float) -> str:
    """Seconds as people say them: 48 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def show_tiles(tiles: Sequence[Tile]) -> Markup:
    """The tiles as a description list."""
    items = [
        element(
            "div",
            element("dt", tile.label),
            element("dd", tile.value, class_="number"),
            element("dd", tile.note, class_="note") if tile.note else None,
        )
        for tile in tiles
    ]
    return element("dl", *items, class_="tiles")


def show_phases(rows: Sequence[PhaseSummary]) -> Markup | None:
    """The headline table of a demo: accuracy and tokens of each phase, with the change to the phase before."""
    if not rows:
        return None
    names = ("phase", "held-out accuracy", "tokens in a completion")
    head = element("tr", *(element("th", name, scope="col") for name in names))
    body = []
    for i, row in enumerate(rows):
        accuracy = "" if row.accuracy is None else format_value(row.accuracy, "percent")
        tokens = "" if row.tokens is None else f"{row.tokens:,.0f}"
        certain = _span(row.accuracy_low, row.accuracy_high, 100.0, " %")
        lengths = _span(row.tokens_low, row.tokens_high, 1.0, "")
        cells = [
            element("td", element("b", accuracy), _change(rows, i, "accuracy"), certain),
            element("td", element("b", tokens), _change(rows, i, "tokens"), lengths),
        ]
        body.append(element("tr", element("th", row.name, scope="row"), *cells))
    samples = next((row.num_samples for row in rows if row.num_samples), None)
    caption = "The policy after each phase, on held-out problems; below each mean its 95 % interval"
    caption += f", from {samples:,} samples." if samples else "."
    table = element(
        "table", element("caption", caption), element("thead", head), element("tbody", *body)
    )
    return element(
        "div",
        table,
        class_="scroll phases",
        tabindex="0",
        role="region",
        aria_label="Results of the phases",
    )


def _change(rows: Sequence[PhaseSummary], i: int, what: str) -> Markup | None:
    if i == 0:
        return None
    before, now = rows[i - 1], rows[i]
    if what == "accuracy" and before.accuracy is not None and now.accuracy is not None:
        words = f"{100 * (now.accuracy - before.accuracy):+.1f} points"
    elif what == "tokens" and before.tokens and now.tokens is not None:
        words = f"{100 * (now.tokens / before.tokens - 1):+.0f} %"
    else:
        return None
    return element("span", with_minus(words), class_="change")


def _span(low: float | None, high: float | None, factor: float, unit: str) -> Markup | None:
    if low is None or high is None:
        return None
    return element("span", f"{factor * low:,.0f} to {factor * high:,.0f}{unit}", class_="span")
