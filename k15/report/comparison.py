"""The long2short comparison: intervals over seeds, the paper's claims, Fig. 7's picture, one HTML page."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from k15.report.axes import FLOOR, LEFT, TOP, WIDTH, Frame, drawing, end_labels, text_room, words
from k15.report.charts import Figure, Table
from k15.report.markup import Markup, element, join
from k15.report.material import Section
from k15.report.page import build_page, join_lead
from k15.report.scales import axis_of, format_value
from k15.report.settings import show_table

# Student's t, two-sided 95 %, by degrees of freedom; from 30 on the normal distribution's.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045,
)  # fmt: skip
_COLOURS = {
    "long": "ink",
    "short": "grey",
    "merge": "teal",
    "rejection": "plum",
    "merge+rejection": "level3",
    "dpo": "blue",
    "rl": "orange",
}
_PARENTS = ("long", "short")

Holds = Literal["yes", "no", "within the error"]


@dataclass(frozen=True)
class Trade:
    """A variant's accuracy and mean tokens, each with the 95 % interval of its mean over seeds.

    Attributes:
        key: "long", "short", or the variant.
        name: for people.
        num_seeds: trainings (of a merge: measurements) behind each mean.
    """

    key: str
    name: str
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    tokens: float
    tokens_low: float
    tokens_high: float
    num_seeds: int


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, whether it holds here, and the numbers behind the verdict."""

    text: str
    holds: Holds
    detail: str


@dataclass(frozen=True)
class Comparison:
    """Everything one comparison found.

    Attributes:
        prompts: the families, or the prompt file.
        num_prompts, num_samples: held-out prompts, and graded completions a seed.
        cpu_minutes: of trainings and measurements, without the parents' training.
    """

    prompts: str
    trades: tuple[Trade, ...]
    claims: tuple[Claim, ...]
    num_seeds: int
    num_prompts: int
    num_samples: int
    command: str
    cpu_minutes: float


def trade_of(key: str, name: str, accuracies: Sequence[float], tokens: Sequence[float]) -> Trade:
    """The means over seeds with Student's 95 % intervals; an interval of a share stays within [0, 1]."""
    accuracy, a = _mean_and_half(accuracies)
    length, b = _mean_and_half(tokens)
    low, high = max(0.0, accuracy - a), min(1.0, accuracy + a)
    return Trade(key, name, accuracy, low, high, length, length - b, length + b, len(accuracies))


def _mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, math.inf
    variance = math.fsum((v - mean) ** 2 for v in values) / (count - 1)
    t = _T[count - 2] if count - 2 < len(_T) else 1.96
    return mean, t * math.sqrt(variance / count)


def claims_of(trades: Sequence[Trade]) -> tuple[Claim, ...]:
    """The paper's claims (section 4, Fig. 7) that these variants can show, each with its verdict.

    "within the error" means that the means would say no (or yes, for lengths) but the intervals overlap.
    """
    by_key = {trade.key: trade for trade in trades}
    found = [_shorter(by_key), _between(by_key), _best_for_its_tokens(by_key), _order(by_key)]
    return tuple(claim for claim in found if claim is not None)


def _shorter(trades: Mapping[str, Trade]) -> Claim | None:
    methods = [t for key, t in trades.items() if key not in _PARENTS]
    if "long" not in trades or not methods:
        return None
    long = trades["long"]
    longer = [t for t in methods if t.tokens >= long.tokens]
    unsure = [t for t in methods if t not in longer and t.tokens_high >= long.tokens_low]
    holds: Holds = "no" if longer else "within the error" if unsure else "yes"
    detail = f"long {long.tokens:.1f} tokens; " + ", ".join(f"{t.name} {t.tokens:.1f}" for t in methods)
    return Claim("Every method is shorter than the long model.", holds, detail)


def _between(trades: Mapping[str, Trade]) -> Claim | None:
    if not {"long", "short", "merge"} <= trades.keys():
        return None
    low, middle, high = (trades[key].tokens for key in ("short", "merge", "long"))
    detail = f"short {low:.1f}, merge {middle:.1f}, long {high:.1f} tokens"
    return Claim(
        "The merged model lies between its parents in length.",
        "yes" if low < middle < high else "no",
        detail,
    )


def _best_for_its_tokens(trades: Mapping[str, Trade]) -> Claim | None:
    """RL is the most accurate short model, and nobody is as accurate with fewer tokens."""
    others = [t for key, t in trades.items() if key not in (*_PARENTS, "rl")]
    if "rl" not in trades or not others:
        return None
    rl = trades["rl"]
    better = [
        t
        for t in others
        if t.accuracy > rl.accuracy or (t.accuracy >= rl.accuracy and t.tokens <= rl.tokens)
    ]
    surely = [t for t in better if t.accuracy_low > rl.accuracy_high]
    holds: Holds = "no" if surely else "within the error" if better else "yes"
    detail = f"RL {rl.accuracy:.1%} with {rl.tokens:.1f} tokens"
    if better:
        detail += "; " + ", ".join(f"{t.name} {t.accuracy:.1%} with {t.tokens:.1f}" for t in better)
    return Claim("Long2short RL has the best accuracy for its tokens.", holds, detail)


def _order(trades: Mapping[str, Trade]) -> Claim | None:
    order = [trades[key] for key in ("rl", "dpo", "merge+rejection", "merge") if key in trades]
    if len(order) < 4:
        return None
    pairs = list(pairwise(order))
    wrong = [(a, b) for a, b in pairs if a.accuracy <= b.accuracy]
    surely = [(a, b) for a, b in wrong if b.accuracy_low > a.accuracy_high]
    holds: Holds = "no" if surely else "within the error" if wrong else "yes"
    detail = ", ".join(f"{t.name} {t.accuracy:.1%}" for t in order)
    return Claim(
        "Accuracy falls from RL over DPO and merge + rejection sampling to the merge.", holds, detail
    )


def markdown_table(comparison: Comparison) -> str:
    """The comparison as a markdown table, with the claims below it."""
    lines = [
        "| method | accuracy | 95 % | tokens | 95 % |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {t.name} | {t.accuracy:.1%} | {t.accuracy_low:.1%} to {t.accuracy_high:.1%} | {t.tokens:.1f} | "
            f"{t.tokens_low:.1f} to {t.tokens_high:.1f} |"
            for t in comparison.trades
        ),
        "",
        f"{_basis(comparison)}",
        "",
        *(f"- {claim.text} **{claim.holds}**: {claim.detail}" for claim in comparison.claims),
    ]
    return "\n".join(lines) + "\n"


def _basis(comparison: Comparison) -> str:
    return (
        f"{comparison.prompts}; {comparison.num_seeds} seeds, {comparison.num_samples} completions of "
        f"{comparison.num_prompts} held-out prompts each; intervals are Student's, of the mean over seeds; "
        f"{comparison.cpu_minutes:.1f} CPU minutes."
    )


def trade_chart(comparison: Comparison) -> Figure:
    """Fig. 7: accuracy against tokens, one point a method, with both intervals."""
    trades = comparison.trades
    right = WIDTH - text_room([f"0 {t.key}" for t in trades]) - 12
    y = axis_of(
        [v for t in trades for v in (t.accuracy_low, t.accuracy_high)], FLOOR, TOP, from_zero=False
    )
    x = axis_of(
        [v for t in trades for v in (t.tokens_low, t.tokens_high)], LEFT, right, from_zero=False, count=5
    )
    frame = Frame(x.scale, y, x.ticks, "percent", "held-out accuracy", "tokens in a completion, mean")
    parts = [
        frame.grid(),
        *(_draw(number, trade, frame) for number, trade in enumerate(trades, start=1)),
    ]
    named = [(f"{i} {t.key}", _COLOURS.get(t.key, "grey")) for i, t in enumerate(trades, start=1)]
    parts.append(end_labels(named, [y.scale(trade.accuracy) for trade in trades], frame))
    label = "Accuracy against tokens. " + "; ".join(
        f"{t.name}: {t.accuracy:.1%} with {t.tokens:.0f} tokens" for t in trades
    )
    caption = (
        "Further up is more often right, further left is shorter. Each point has the number of its name; the bars "
        f"are 95 % intervals of the mean over {comparison.num_seeds} seeds."
    )
    return Figure(
        f"Accuracy against tokens: {comparison.prompts}",
        drawing(*parts, label=label),
        caption,
        _table(trades),
    )


def _table(trades: Sequence[Trade]) -> Table:
    rows = tuple(
        (
            trade.name,
            format_value(trade.accuracy, "percent"),
            f"{100 * trade.accuracy_low:.1f} to {100 * trade.accuracy_high:.1f} %",
            f"{trade.tokens:.1f}",
            f"{trade.tokens_low:.1f} to {trade.tokens_high:.1f}",
        )
        for trade in trades
    )
    return Table(("method", "accuracy", "95 %", "tokens", "95 %"), rows)


def _draw(number: int, trade: Trade, frame: Frame) -> Markup:
    colour = _COLOURS.get(trade.key, "grey")
    x, y = frame.place(trade.tokens, trade.accuracy)
    left, low = frame.place(trade.tokens_low, trade.accuracy_low)
    right, high = frame.place(trade.tokens_high, trade.accuracy_high)
    bars = (
        element("line", class_=f"s-{colour}", x1=left, x2=right, y1=y, y2=y, stroke_opacity="0.55"),
        element("line", class_=f"s-{colour}", x1=x, x2=x, y1=low, y2=high, stroke_opacity="0.55"),
    )
    dot = element("circle", class_=f"f-{colour}", cx=x, cy=y, r=5.0 if trade.key in _PARENTS else 4.2)
    return join([*bars, dot, words(str(number), x + 6, y - 6, class_=f"label halo f-{colour}")])


def write_comparison(comparisons: Sequence[Comparison], output: Path) -> Path:
    """Write one self-contained page of one or several comparisons, and return its path."""
    sections = [
        Section(
            f"comparison-{number}",
            comparison.prompts,
            f"From long to short: {comparison.prompts}",
            f"{_basis(comparison)} Made by: {comparison.command}",
            figures=(trade_chart(comparison),),
            body=join(
                [show_table(_table(comparison.trades), "All methods"), _claims_list(comparison.claims)]
            ),
        )
        for number, comparison in enumerate(comparisons, start=1)
    ]
    lead = [
        join_lead([element("p", "Section 2.4 and Fig. 7 of the paper, measured on held-out prompts.")])
    ]
    page = build_page("Long2short", "a short thinker made of a long one", lead, sections)
    partial = output.with_name(f".{output.name}.tmp-{os.getpid()}")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    return output


def _claims_list(claims: Sequence[Claim]) -> Markup:
    items = [
        element(
            "li",
            element("b", claim.holds),
            f": {claim.text} ",
            element("span", claim.detail, class_="muted"),
        )
        for claim in claims
    ]
    return element("div", element("h3", "Does the paper's picture hold here?"), element("ul", *items))
