"""Chosen groups in full: the prompt, every completion with its verdict, reward, segments and text."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from k15.report.examples import Pick
from k15.report.lanes import STOP_WORDS, VERDICT_SIGNS, age_colour, age_of
from k15.report.markup import Markup, element, join
from k15.report.runs import Completion, Stage
from k15.report.scales import with_minus
from k15.report.scan import GroupSummary

HEAD_CHARS, TAIL_CHARS = 5000, 2500
"""Of a longer text the middle is left out; the rollouts file has all of it."""
QUESTION_CHARS = 3000
VERDICT_WORDS = {
    "right": "right",
    "wrong": "wrong",
    "no_answer": "no answer",
    "timeout": "timeout",
    "fault": "our fault",
}

_TAGS = re.compile(r"</?think>|<\|[a-z0-9_]{1,40}\|>")
GroupKey = tuple[int, int, int]
"""(stage, iteration, ordinal)"""


def key_of(group: GroupSummary) -> GroupKey:
    return (group.stage, group.iteration, group.ordinal)


def read_groups(
    stages: Sequence[Stage], wanted: set[GroupKey]
) -> dict[GroupKey, tuple[Completion, ...]]:
    """The completions of the wanted groups, read again from their files, one iteration at a time."""
    found: dict[GroupKey, dict[int, Completion]] = defaultdict(dict)
    for stage, iteration in sorted({(stage, iteration) for stage, iteration, _ in wanted}):
        for completion in stages[stage].completions(iteration):
            key = (stage, iteration, completion.ordinal)
            if key in wanted:
                found[key][completion.sample_index] = completion
    return {key: tuple(members[i] for i in sorted(members)) for key, members in found.items()}


def show_pick(
    pick: Pick, texts: dict[GroupKey, tuple[Completion, ...]], stages: Sequence[Stage]
) -> Markup:
    """One pick as an article: title, reason, and its groups with all their completions."""
    groups = []
    for i, group in enumerate(pick.groups):
        stage = stages[group.stage]
        focus = pick.focus[i : i + 1] if len(pick.groups) > 1 else pick.focus
        weight = stage.metric(group.iteration, "length_weight") or 0.0
        phase = stage.name if len(stages) > 1 else ""
        groups.append(_show_group(group, texts.get(key_of(group), ()), focus, phase, weight))
    shown = next((texts[key_of(group)][0] for group in pick.groups if texts.get(key_of(group))), None)
    return element(
        "article",
        element("h3", pick.title),
        element("p", pick.why, class_="why"),
        _show_prompt(shown) if shown is not None else None,
        element("div", *groups, class_="pair" if len(groups) > 1 else "single"),
        class_="pick",
    )


def _show_group(
    group: GroupSummary,
    completions: Sequence[Completion],
    focus: Sequence[int],
    phase: str,
    weight: float,
) -> Markup:
    """The completions of a group: those in focus open, the others behind a line with their verdicts."""
    if not completions:
        return element(
            "p", f"The completions of draw {group.ordinal} could not be read again.", class_="muted"
        )
    opened = [c for c in completions if c.sample_index in focus] or list(completions[:1])
    others = [c for c in completions if c not in opened]
    shown = [show_completion(c, length_weight=weight, is_open=True) for c in opened]
    parts = [
        element("p", " · ".join(_facts(group, completions[0], phase)), class_="facts"),
        element("div", *shown, class_="completions"),
    ]
    if others:
        signs = element(
            "span", "".join(VERDICT_SIGNS.get(c.outcome, "?") for c in others), class_="signs"
        )
        head = element("summary", f"the other {len(others)} of its group: ", signs)
        hidden = [show_completion(c, length_weight=weight, is_open=False) for c in others]
        rest = element("div", *hidden, class_="completions")
        parts.append(element("details", head, rest, class_="others"))
    return element("div", *parts, class_="group")


def _facts(group: GroupSummary, first: Completion, phase: str) -> list[str]:
    """Where a group stands in the run, on the page's axis of iterations."""
    place = f"iteration {group.x}"
    if phase:
        place += (
            f" ({phase}, its iteration {group.iteration})"
            if group.x != group.iteration
            else f" ({phase})"
        )
    facts = [place, first.family] if first.family else [place]
    if first.difficulty is not None:
        facts.append(f"difficulty {first.difficulty:g}")
    return [*facts, f"draw {group.ordinal}", f"{group.num_right} of {len(group.members)} right"]


def _show_prompt(completion: Completion) -> Markup:
    return element(
        "div",
        element("p", element("b", "Prompt"), class_="head"),
        element("pre", _shorten(completion.question, QUESTION_CHARS), class_="question"),
        element(
            "p",
            element("b", "Answer "),
            element("code", _shorten(completion.answer, 300)),
            class_="gold",
        ),
        class_="prompt",
    )


def show_completion(completion: Completion, *, length_weight: float = 0.0, is_open: bool) -> Markup:
    """One completion: a summary line, the strip of its segments, its text, and what the verifier said."""
    c = completion
    tone = "right" if c.is_right else "fault" if c.is_fault else "wrong"
    facts = [f"{c.length:,} tokens", STOP_WORDS.get(c.stop, c.stop or "stop unknown")]
    if c.reward is not None:
        facts.append(f"reward {c.reward:.2f}")
    if c.length_reward and length_weight:
        facts.append(f"of it length {signed(length_weight * c.length_reward)}")
    if c.advantage is not None and not c.is_fault:
        facts.append(f"advantage {signed(c.advantage)}")
    versions = sorted({s.policy_version for s in c.segments if s.policy_version is not None})
    if len(versions) > 1:
        facts.append(f"by policies {versions[0]} to {versions[-1]}")
    if c.trained_tokens is not None and c.trained_tokens < c.length:
        facts.append(f"{c.trained_tokens:,} tokens in the loss")
    verdict = f"{VERDICT_SIGNS.get(c.outcome, '?')} {VERDICT_WORDS.get(c.outcome, c.outcome)}"
    summary = element(
        "summary", element("span", verdict, class_=f"verdict {tone}"), " ", " · ".join(facts)
    )
    judged = [element("b", "Judged answer "), element("code", _shorten(c.extracted, 300) or "none")]
    if c.reason:
        judged += [" ", element("span", _shorten(c.reason, 300), class_="muted")]
    body = [
        _strip(c),
        element("pre", annotate(c), class_="thought", tabindex="0"),
        element("p", *judged, class_="judged"),
    ]
    return element("details", summary, *body, class_=f"completion {tone}", open=is_open)


def signed(number: float) -> str:
    """A reward with its sign."""
    return f"+{number:.2f}" if number >= 0 else with_minus(f"{number:.2f}")


def _strip(c: Completion) -> Markup | None:
    """The segments as a strip of widths in tokens, with their policy versions; only if there are several."""
    if len(c.segments) < 2 or not c.length:
        return None
    parts, x = [], 0.0
    for s in c.segments:
        width = 480.0 * s.num_tokens / c.length
        drawn = max(width - 1.5, 0.8)
        parts.append(element("rect", class_=age_colour(age_of(c, s)), x=x, y=0, width=drawn, height=13))
        label = f"version {s.policy_version}"
        if width > 7.5 * len(label):
            parts.append(
                element("text", label, x=x + width / 2, y=10, text_anchor="middle", class_="version")
            )
        x += width
    words = "Segments: " + ", ".join(
        f"{s.num_tokens} tokens by version {s.policy_version}" for s in c.segments
    )
    return element("svg", *parts, viewBox="0 0 480 13", role="img", aria_label=words, class_="strip")


def annotate(c: Completion) -> Markup:
    """The text with its tags dimmed, the judged answer marked, and a chip where a policy version begins."""
    notes: list[tuple[int, int, str]] = [(m.start(), m.end(), "tag") for m in _TAGS.finditer(c.text)]
    answer = _find_answer(c)
    if answer is not None and all(answer[1] <= a or answer[0] >= b for a, b, _ in notes):
        notes.append((*answer, "answer"))
    chips = _version_starts(c)
    cuts = sorted({0, len(c.text), *(p for a, b, _ in notes for p in (a, b)), *(at for at, _ in chips)})
    styles = {start: style for start, _, style in notes}
    ends = {start: end for start, end, _ in notes}
    chip_at = dict(chips)
    gap = (HEAD_CHARS, len(c.text) - TAIL_CHARS) if len(c.text) > HEAD_CHARS + TAIL_CHARS else None
    parts: list[Markup | str] = []
    style, style_end = "", 0
    for start, end in pairwise(cuts):
        if start in chip_at:
            parts.append(element("span", f"version {chip_at[start]}", class_="chip"))
        if start in styles:
            style, style_end = styles[start], ends[start]
        current = style if start < style_end else ""
        for piece, is_gap in _outside(c.text, start, end, gap):
            if is_gap:
                parts.append(element("span", piece, class_="gap"))
            elif current == "answer":
                parts.append(element("mark", piece))
            else:
                parts.append(element("span", piece, class_="tag") if current else piece)
    return join(parts)


def _outside(text: str, start: int, end: int, gap: tuple[int, int] | None) -> list[tuple[str, bool]]:
    """The pieces of text[start:end] that lie outside the gap; a note stands where the gap begins."""
    if gap is None or end <= gap[0] or start >= gap[1]:
        return [(text[start:end], False)]
    pieces: list[tuple[str, bool]] = []
    if start <= gap[0]:
        if start < gap[0]:
            pieces.append((text[start : gap[0]], False))
        pieces.append(
            (f"\n… {gap[1] - gap[0]:,} characters left out here; the rollouts file has them …\n", True)
        )
    if end > gap[1]:
        pieces.append((text[gap[1] : end], False))
    return pieces


def _find_answer(c: Completion) -> tuple[int, int] | None:
    """Where the judged answer stands last, after the thought if possible; never inside a longer word."""
    if not c.extracted or len(c.extracted) > 200:
        return None
    pattern = re.compile(rf"(?<!\w){re.escape(c.extracted)}(?!\w)")
    after = c.text.rfind("</think>")
    matches = list(pattern.finditer(c.text, after)) if after >= 0 else []
    matches = matches or list(pattern.finditer(c.text))
    return matches[-1].span() if matches else None


def _version_starts(c: Completion) -> list[tuple[int, int]]:
    """(character, policy version) where each segment begins, if the record says how long they are as text."""
    if len(c.segments) < 2 or any(s.num_chars is None or s.policy_version is None for s in c.segments):
        return []
    starts, at = [], 0
    for s in c.segments:
        if at < len(c.text):
            starts.append((at, s.policy_version or 0))
        at += s.num_chars or 0
    return starts


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}… ({len(text):,} characters)"
