"""Which groups the page shows in full, and why: the ones that teach, not the first ones.

Every rule looks at the short summaries of all groups and ranks those that fit it; the best one that no other
rule took is shown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from k15.report.scan import GroupSummary, Member


@dataclass(frozen=True)
class Pick:
    """Groups shown together under one title, with the reason, and the sample that each opens on."""

    title: str
    why: str
    groups: tuple[GroupSummary, ...]
    focus: tuple[int, ...]


Rule = Callable[[Sequence[GroupSummary]], Iterator[Pick]]


def choose_examples(groups: Sequence[GroupSummary], most: int = 13) -> list[Pick]:
    """At most `most` picks, no group twice, in the order of the rules.

    The rule with the fewest candidates chooses first, so that a rare sight is not taken by a common one.
    """
    candidates = [list(rule([group for group in groups if group.members])) for rule in RULES]
    chosen: dict[int, Pick] = {}
    taken: set[tuple[int, int]] = set()
    for i in sorted(range(len(RULES)), key=lambda i: len(candidates[i])):
        for pick in candidates[i]:
            keys = {(group.stage, group.ordinal) for group in pick.groups}
            if not keys & taken:
                taken |= keys
                chosen[i] = pick
                break
    return [chosen[i] for i in sorted(chosen)][:most]


def _first_right(groups: Sequence[GroupSummary]) -> Iterator[Pick]:
    """The prompt with most wrong completions before its first right one."""
    wrong: dict[str, int] = defaultdict(int)
    visits: dict[str, int] = defaultdict(int)
    solved: set[str] = set()
    found: list[tuple[int, int, GroupSummary]] = []
    for group in groups:
        if group.prompt_id in solved:
            continue
        if group.num_right:
            solved.add(group.prompt_id)
            before = wrong[group.prompt_id] + len(group.members) - group.num_right
            if before >= 3:
                found.append((before, visits[group.prompt_id], group))
        else:
            wrong[group.prompt_id] += len(group.members)
            visits[group.prompt_id] += 1
    for before, earlier, group in sorted(found, key=lambda item: -item[0])[:5]:
        if earlier > 1:
            tries = f"{earlier} earlier draws of this prompt gave no right answer"
        elif earlier:
            tries = "An earlier draw of this prompt gave no right answer"
        else:
            tries = "The rest of its group is wrong"
        why = f"{tries}: {before} wrong completions stand against the first right one, so its advantage is large."
        yield Pick("Right at last", why, (group,), _first(group, lambda m: m.is_right))


def _thinking_paid(groups: Sequence[GroupSummary]) -> Iterator[Pick]:
    """Groups whose right completions are far longer than their wrong ones."""
    ranked = []
    for group in groups:
        wrong = [m.length for m in group.members if m.outcome == "wrong" and m.stop == "end"]
        if len(group.right_lengths) >= 2 and len(wrong) >= 2:
            ranked.append((median(group.right_lengths) / max(median(wrong), 1.0), group, median(wrong)))
    for ratio, group, wrong_length in sorted(ranked, key=lambda item: -item[0])[:5]:
        if ratio >= 1.3:
            longest = max((m for m in group.members if m.is_right), key=lambda m: m.length)
            why = (
                f"The right completions of this group have a median of {median(group.right_lengths):.0f} tokens, the "
                f"wrong ones of {wrong_length:.0f}. Where longer search pays, the reward alone makes thoughts longer."
            )
            yield Pick("Longer thinking paid", why, (group,), (longest.sample_index,))


def _shortened(groups: Sequence[GroupSummary]) -> Iterator[Pick]:
    """One prompt drawn early and late, right both times, with a much shorter right completion later."""
    visits: dict[tuple[str, float | None], list[GroupSummary]] = defaultdict(list)
    for group in groups:
        if group.right_lengths:
            visits[group.prompt_id, group.difficulty].append(group)
    ranked = []
    for seen in visits.values():
        early, late = seen[0], seen[-1]
        if late.x > early.x:
            ranked.append(
                (median(late.right_lengths) / max(median(early.right_lengths), 1.0), early, late)
            )
    for ratio, early, late in sorted(ranked, key=lambda item: item[0])[:5]:
        if ratio <= 0.8:
            pair = (_near_median(early), _near_median(late))
            before, after = median(early.right_lengths), median(late.right_lengths)
            why = (
                f"The same prompt in iteration {early.x} and in iteration {late.x}: right both times, with "
                f"a median of {before:.0f} tokens at first and {after:.0f} later."
            )
            yield Pick("The same problem, in fewer words", why, (early, late), pair)


def _length_reward(groups: Sequence[GroupSummary]) -> Iterator[Pick]:
    """Groups whose shortest right completion has an advantage over the longest right one."""
    ranked = []
    for group in groups:
        right = [
            (m.length, m.advantage, m) for m in group.members if m.is_right and m.advantage is not None
        ]
        if len(right) >= 2:
            short, long = min(right, key=lambda m: m[0]), max(right, key=lambda m: m[0])
            ranked.append((short[1] - long[1], group, short[2], long[2]))
    for gap, group, short, long in sorted(ranked, key=lambda item: -item[0])[:5]:
        if gap > 1e-6 and short.length < long.length:
            why = (
                f"Both are right, but the one with {short.length} tokens is rewarded above the one with {long.length}: "
                "the length reward ranks completions inside their group, not against a fixed target."
            )
            yield Pick(
                "The length reward at work", why, (group,), (short.sample_index, long.sample_index)
            )


def _hardest_solved(groups: Sequence[GroupSummary]) -> Iterator[Pick]:
    """Groups of the highest difficulty with a right completion, the least solved first, late ones first."""
    ranked = [
        (group.difficulty, group.num_right / len(group.members), group)
        for group in groups
        if group.num_right and group.difficulty is not None
    ]
    for difficulty, _, group in sorted(ranked, key=lambda item: (-item[0], item[1], -item[2].x))[:5]:
        why = (
            f"Difficulty {difficulty:g} is the highest that was solved; {group.num_right} of {len(group.members)} "
            "completions got there."
        )
        yield Pick("The hardest one solved", why, (group,), _first(group, lambda m: m.is_right))


def _longest(groups: Sequence[GroupSummary]) -> Iterator[Pick]:
    """Groups with the longest right completions."""
    solved = [group for group in groups if group.right_lengths]
    for group in sorted(solved, key=lambda g: -max(g.right_lengths))[:5]:
        member = max((m for m in group.members if m.is_right), key=lambda m: m.length)
        why = f"{member.length:,} tokens and right: one of the longest thoughts that ended in the right answer."
        yield Pick("A long thought that paid off", why, (group,), (member.sample_index,))


def _most_versions(groups: Sequence[GroupSummary]) -> Iterator[Pick]:
    """Groups with a completion that most policies wrote; right ones and late ones first."""

    def rank(group: GroupSummary) -> tuple[int, bool, int]:
        member = _longest_chain(group)
        return member.num_versions, member.is_right, group.x

    for group in sorted(groups, key=rank, reverse=True)[:5]:
        member = _longest_chain(group)
        if member.num_versions >= 2:
            count = member.num_versions
            why = f"One completion grew over {count} iterations: {count} policies wrote it, one after the other."
            yield Pick("One thought, several policies", why, (group,), (member.sample_index,))


def _longest_chain(group: GroupSummary) -> Member:
    return max(group.members, key=lambda m: (m.num_versions, m.is_right))


def _late_first(
    title: str, why: str, fits: Callable[[Member], bool], groups: Sequence[GroupSummary]
) -> Iterator[Pick]:
    """Late groups with a member that fits, those with a right sibling first: the contrast teaches."""
    found = [group for group in groups if any(fits(m) for m in group.members)]
    for group in sorted(found, key=lambda g: (g.num_right == 0, -g.x))[:5]:
        yield Pick(title, why, (group,), _first(group, fits))


def _repeated(groups: Sequence[GroupSummary]) -> Iterator[Pick]:
    why = "The text began to loop, so generation was stopped early: the rest of the budget went to other trajectories."
    return _late_first("Stopped for repetition", why, lambda m: m.stop == "repeat", groups)


def _truncated(groups: Sequence[GroupSummary]) -> Iterator[Pick]:
    why = "It reached the cap on tokens before an answer. It stays in its group and counts as wrong."
    return _late_first("Cut at the cap", why, lambda m: m.stop == "length", groups)


def _no_answer(groups: Sequence[GroupSummary]) -> Iterator[Pick]:
    why = "It ended by itself, but no answer could be read from it. Worth a look: is the text at fault, or the grader?"
    return _late_first(
        "No answer found",
        why,
        lambda m: m.outcome in ("no_answer", "timeout") and m.stop == "end",
        groups,
    )


def _all_wrong(groups: Sequence[GroupSummary]) -> Iterator[Pick]:
    """Late groups without a right completion; among equals the easiest, which should have worked."""
    wrong = [g for g in groups if not g.num_right and any(m.outcome == "wrong" for m in g.members)]
    for group in sorted(wrong, key=lambda g: (-g.x, g.difficulty or 0.0))[:5]:
        why = (
            "Not one completion is right, so all rewards are equal and the group teaches nothing (unless lengths are "
            "rewarded too). Prioritized sampling will draw it again."
        )
        yield Pick("All wrong", why, (group,), _first(group, lambda m: m.outcome == "wrong"))


def _fault(groups: Sequence[GroupSummary]) -> Iterator[Pick]:
    why = "The grader failed on this one. That is our mistake, not the model's: it is left out of mean and loss."
    return _late_first("A fault of ours", why, lambda m: m.outcome == "fault", groups)


def _typical(groups: Sequence[GroupSummary]) -> Iterator[Pick]:
    """The group of the last iteration whose mean length is in the middle: neither best nor worst."""
    if not groups:
        return
    last = [group for group in groups if group.x == groups[-1].x]
    last.sort(key=lambda g: sum(m.length for m in g.members) / len(g.members))
    middle = len(last) // 2
    for group in last[middle:] + last[:middle]:
        why = "Of the last iteration, the group whose length is in the middle. Not chosen for being good or bad."
        yield Pick("A typical group at the end", why, (group,), (_near_median(group),))


def _first(group: GroupSummary, fits: Callable[[Member], bool]) -> tuple[int, ...]:
    return next(((m.sample_index,) for m in group.members if fits(m)), ())


def _near_median(group: GroupSummary) -> int:
    """The right member whose length is nearest to the middle one; of all members if none is right."""
    members = [m for m in group.members if m.is_right] or list(group.members)
    middle = median(m.length for m in members)
    return min(members, key=lambda m: abs(m.length - middle)).sample_index


RULES: tuple[Rule, ...] = (
    _first_right,
    _thinking_paid,
    _shortened,
    _length_reward,
    _hardest_solved,
    _longest,
    _most_versions,
    _repeated,
    _truncated,
    _no_answer,
    _all_wrong,
    _fault,
    _typical,
)
