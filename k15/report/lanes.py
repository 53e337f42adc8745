"""Partial rollouts as a picture: each trajectory a bar made of segments, one policy version each (Fig. 3b)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from k15.report.axes import WIDTH, drawing, words
from k15.report.charts import Figure, Table
from k15.report.markup import Markup, element, join
from k15.report.palette import AGES
from k15.report.runs import Completion, SegmentSpan
from k15.report.scales import axis_of

LEFT, RIGHT = 88.0, WIDTH - 34
ROW, BAR, GROUP_GAP = 12.0, 9.6, 12.0
TOP = 56.0
MOST_ITERATIONS = 10
STOP_WORDS = {"end": "ended", "repeat": "looped, stopped", "length": "cut at the cap"}
VERDICT_SIGNS = {"right": "✓", "wrong": "✗", "no_answer": "–", "timeout": "◷", "fault": "!"}


@dataclass(frozen=True)
class LaneGroup:
    """The completions of one group, trained together in one iteration."""

    ordinal: int
    completions: tuple[Completion, ...]


def token_bars(groups: Sequence[LaneGroup], max_staleness: int | None, phase: str = "") -> Figure | None:
    """Bars along tokens: how long each completion became, and which policy version wrote which part."""
    completions = [c for group in groups for c in group.completions if c.length > 0]
    if not completions:
        return None
    axis = axis_of([0.0, float(max(c.length for c in completions))], LEFT, RIGHT, count=5)
    x = axis.scale
    parts, y = [_key(completions)], TOP
    for group in groups:
        parts.append(_name(group, y))
        for c in group.completions:
            for s in c.segments:
                is_masked = max_staleness is not None and age_of(c, s) > max_staleness
                parts.append(
                    _bar(x(s.start), x(s.start + s.num_tokens), y, age_of(c, s), s, is_masked=is_masked)
                )
            parts += [_end_mark(x(c.length) + 6, y, c.stop), _verdict(y, c)]
            y += ROW
        y += GROUP_GAP
    for tick in axis.ticks:
        parts.append(words(f"{tick:g}", x(tick), y + 6, text_anchor="middle", class_="tick"))
    parts.append(words("tokens", RIGHT, y + 24, text_anchor="end", class_="unit"))
    where = f"iteration {completions[0].iteration}" + (f" of {phase}" if phase else "")
    caption = (
        f"Completions trained in {where}. Each bar is one trajectory, made of the "
        "segments it gained, one in each iteration; the number is the policy version that wrote it. At the right, the "
        "verdict: ✓ right, ✗ wrong, – no answer."
    )
    if max_staleness is not None:
        caption += " Pale segments are too old for the loss."
    label = f"{len(completions)} trajectories of {len(groups)} groups as bars of segments; the table lists them."
    svg = drawing(*parts, label=label, height=y + 30)
    return Figure("Who wrote which part", svg, caption, _table(groups), is_dense=True)


def time_lanes(groups: Sequence[LaneGroup], segment_tokens: int | None) -> Figure | None:
    """Lanes along iterations: when each trajectory grew, ended, and waited for the rest of its group."""
    completions = [c for group in groups for c in group.completions if c.length > 0]
    versions = {
        s.policy_version for c in completions for s in c.segments if s.policy_version is not None
    }
    if len(versions) < 2:
        return None
    last = max(c.iteration for c in completions)
    first = max(min(versions), last - MOST_ITERATIONS + 1)
    longest = max((s.num_tokens for c in completions for s in c.segments), default=0)
    budget = max(segment_tokens or longest, 1)
    column = (RIGHT - LEFT) / (last - first + 1)
    lanes, y = [], TOP - 14
    for group in groups:
        lanes.append(_name(group, y))
        for c in group.completions:
            lanes.append(_lane(c, y, first, column, budget))
            y += ROW
        y += GROUP_GAP
    parts = [words("iteration", 0, 13, class_="unit"), *_columns(first, last, column, y), *lanes]
    caption = (
        f"The same trajectories in time. In an iteration a trajectory gains at most {budget:,} tokens, a full column; "
        "what is unfinished goes on in the next. Dotted: finished, waiting for the rest of its group, which is trained "
        f"together, here in iteration {last}."
    )
    label = f"The same trajectories along iterations {first} to {last}."
    svg = drawing(*parts, label=label, height=y)
    return Figure("The same trajectories in time", svg, caption, _table(groups), is_dense=True)


def age_of(completion: Completion, segment: SegmentSpan) -> int:
    """Iterations between the policy that wrote the segment and its training."""
    version = segment.policy_version
    return max(completion.iteration - version, 0) if version is not None else 0


def age_colour(age: int) -> str:
    """The class that fills a segment of that age."""
    return f"segment f-{AGES[min(age, len(AGES) - 1)]}"


def _lane(c: Completion, y: float, first: int, column: float, budget: int) -> Markup:
    parts, end = [], LEFT
    for s in c.segments:
        if s.policy_version is None or not first <= s.policy_version <= c.iteration:
            continue
        start = LEFT + (s.policy_version - first) * column + 2
        end = start + min(s.num_tokens / budget, 1.0) * (column - 4)
        parts.append(_bar(start, end, y, age_of(c, s), s))
    parts += [_end_mark(end + 6, y, c.stop), _verdict(y, c)]
    if end + 16 < RIGHT:
        middle = y + BAR / 2
        parts.append(element("line", class_="wait", x1=end + 13, x2=RIGHT - 2, y1=middle, y2=middle))
    return join(parts)


def _columns(first: int, last: int, column: float, bottom: float) -> list[Markup]:
    parts = []
    for i in range(last - first + 2):
        x = LEFT + i * column
        parts.append(element("line", class_="grid", x1=x, x2=x, y1=20, y2=bottom - GROUP_GAP))
        if i <= last - first:
            parts.append(words(f"{first + i}", x + column / 2, 32, text_anchor="middle", class_="tick"))
    return parts


def _bar(
    start: float, end: float, y: float, age: int, segment: SegmentSpan, *, is_masked: bool = False
) -> Markup:
    width = max(end - start - 1.2, 0.8)
    fill = age_colour(age) + " masked" * is_masked
    parts = [element("rect", class_=fill, x=start, y=y, width=width, height=BAR)]
    number = "" if segment.policy_version is None else str(segment.policy_version)
    if number and width > 7.0 * len(number) + 4:
        style = "version" + " on-masked" * is_masked
        parts.append(words(number, start + width / 2, y + 8.3, text_anchor="middle", class_=style))
    return join(parts)


def _end_mark(x: float, y: float, stop: str) -> Markup:
    """A dot where it ended, a triangle where it looped, an upright bar where it was cut."""
    middle = y + BAR / 2
    if stop == "end":
        return element("circle", class_="f-ink", cx=x, cy=middle, r=2.6)
    if stop == "repeat":
        low = middle + 3
        return element("path", class_="f-ink", d=f"M{x - 3.4:.1f},{low:.1f}h6.8l-3.4,-6.4Z")
    if stop == "length":
        return element("rect", class_="f-ink", x=x - 3.5, y=middle - 4, width=2.4, height=8)
    return Markup("")


def _verdict(y: float, completion: Completion) -> Markup:
    sign = VERDICT_SIGNS.get(completion.outcome, "?")
    colour = "f-teal" if completion.is_right else "f-orange"
    return words(sign, WIDTH - 4, y + 9.5, text_anchor="end", class_=f"sign {colour}")


def _name(group: LaneGroup, y: float) -> Markup:
    return words(f"draw {group.ordinal}", 0, y + 10, class_="unit")


def _key(completions: Sequence[Completion]) -> Markup:
    """What the colours and the marks mean: two short rows above the bars."""
    ages = sorted({min(age_of(c, s), len(AGES) - 1) for c in completions for s in c.segments})
    parts, x = [words("age of a segment, in iterations:", 0, 13, class_="key")], 212.0
    for age in ages:
        name = f"{age} or more" if age == len(AGES) - 1 else str(age)
        parts.append(element("rect", class_=age_colour(age), x=x, y=3.5, width=11, height=11))
        parts.append(words(name, x + 16, 13, class_="key"))
        x += 44
    x = 0.0
    for stop, name in STOP_WORDS.items():
        parts += [_end_mark(x + 4, 26, stop), words(name, x + 12, 35, class_="key")]
        x += 30 + 7.4 * len(name)
    return join(parts)


def _table(groups: Sequence[LaneGroup]) -> Table:
    rows = []
    for group in groups:
        for c in group.completions:
            spans = ", ".join(f"{s.num_tokens} by version {s.policy_version}" for s in c.segments)
            rows.append(
                (
                    str(group.ordinal),
                    str(c.sample_index),
                    spans,
                    STOP_WORDS.get(c.stop, c.stop),
                    c.outcome,
                )
            )
    return Table(("draw", "sample", "segments, in tokens", "stopped", "verdict"), tuple(rows))
