"""How do the rollouts run: trajectories over several iterations, staleness, stop reasons, speed, time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from k15.report.charts import Figure
from k15.report.lanes import LaneGroup, time_lanes, token_bars
from k15.report.material import Material, Section, present
from k15.report.runs import Completion, integer, table
from k15.report.scan import GroupSummary
from k15.report.stacks import Layer, stacked_chart
from k15.report.thoughts import GroupKey, key_of

MOST_GROUPS, MOST_LANES = 4, 34
PHASES = (
    ("rollout", "rollout", "blue"),
    ("grade", "grading", "plum"),
    ("train", "training", "orange"),
    ("eval", "evaluation", "teal"),
    ("save", "saving", "grey"),
)
STOPS = (("end", "ended", "blue"), ("repeat", "looped", "plum"), ("length", "at the cap", "orange"))


def choose_lane_groups(groups: Sequence[GroupSummary]) -> list[GroupSummary]:
    """A few groups of one iteration of the run's second half, those whose trajectories differ most in segments."""
    if not groups:
        return []
    middle = (groups[0].x + groups[-1].x) / 2
    by_iteration: dict[int, list[GroupSummary]] = defaultdict(list)
    for group in groups:
        if group.x >= middle:
            by_iteration[group.x].append(group)
    best = max(by_iteration.values(), key=lambda found: sorted(map(_variety, found))[-MOST_GROUPS:])
    chosen: list[GroupSummary] = []
    for group in sorted(best, key=_variety, reverse=True)[:MOST_GROUPS]:
        lanes = sum(len(other.members) for other in chosen)
        if not chosen or lanes + len(group.members) <= MOST_LANES:
            chosen.append(group)
    return sorted(chosen, key=lambda group: group.ordinal)


def _variety(group: GroupSummary) -> tuple[int, int]:
    return len({m.num_versions for m in group.members}), sum(m.num_versions for m in group.members)


def rollout_section(
    material: Material, chosen: Sequence[GroupSummary], texts: Mapping[GroupKey, tuple[Completion, ...]]
) -> Section:
    """The picture of segments, then staleness, stop reasons, and where the time goes."""
    groups = [
        LaneGroup(g.ordinal, texts[key_of(g)][:MOST_LANES]) for g in chosen if texts.get(key_of(g))
    ]
    phase = (
        material.timeline.stages[chosen[0].stage].name if chosen and material.timeline.boundaries else ""
    )
    settings = table(material.timeline.stages[chosen[0].stage].config, "rollout") if chosen else {}
    figures = present(
        token_bars(groups, integer(settings, "max_staleness"), phase),
        time_lanes(groups, integer(settings, "segment_tokens")),
        *_staleness(material),
        _length_skew(material),
        _stops(material),
        *_speed(material),
        _time(material),
    )
    intro = (
        "A trajectory gains at most one segment of bounded length in each iteration; what is unfinished goes on in "
        "the next, so nobody waits for the longest."
    )
    return Section("rollouts", "Rollouts", "How do the rollouts run?", intro, figures)


def _staleness(material: Material) -> list[Figure | None]:
    return [
        material.chart(
            "Staleness",
            [
                material.plain("rollout/max_staleness", "oldest", "orange"),
                material.smooth("rollout/mean_staleness", "mean", "blue"),
            ],
            "iterations",
            "Age of the trained tokens: iterations between the policy that sampled a token and its training.",
        ),
        material.chart(
            "Stale and masked tokens",
            [
                material.smooth("rollout/stale_token_share", "stale", "blue"),
                material.smooth("rollout/masked_token_share", "no loss", "orange"),
            ],
            "share of tokens",
            "Stale: sampled by an earlier policy. No loss: too old for max_staleness, or left out for another reason.",
            unit="percent",
        ),
    ]


def _length_skew(material: Material) -> Figure | None:
    return material.chart(
        "Length skew",
        [
            material.smooth("train/length_mean", "trained", "blue"),
            material.smooth("rollout/length_synchronous", "synchronous", "orange"),
        ],
        "tokens",
        "Mean length of the completions that were trained on, and what it would be if all of an iteration's were "
        "sampled to their end. Short ones finish first, so the first iterations train on less.",
    )


def _speed(material: Material) -> list[Figure | None]:
    return [
        material.shares(
            "Occupancy",
            [material.smooth("rollout/occupancy", "occupancy", "teal")],
            "busy share of the slots",
            "A slot is busy while it extends a trajectory. Low: the batch waits for its longest members.",
        ),
        material.chart(
            "Unfinished trajectories",
            [
                material.smooth("rollout/unfinished_trajectories", "unfinished", "blue"),
                material.smooth("rollout/num_resumed", "resumed", "orange"),
            ],
            "trajectories",
            "Left in the buffer after the rollout phase, and taken up again from the one before.",
            unit="count",
        ),
        material.chart(
            "Speed",
            [material.smooth("rollout/tokens_per_second", "tokens", "blue")],
            "tokens sampled a second",
            "Tokens that the engine samples in a second of the rollout phase.",
            unit="count",
        ),
    ]


def _stops(material: Material) -> Figure | None:
    layers = []
    for stop, label, colour in STOPS:
        values = {float(t.x): t.stops[stop] / t.stops.total() for t in material.scan.tallies}
        layers.append(
            Layer(label, colour, values or dict(material.timeline.points(f"train/share_{stop}")))
        )
    return stacked_chart(
        "Why completions stopped",
        layers,
        y_label="share of trained completions",
        unit="percent",
        caption="Ended by themselves, looped and were stopped, or reached the cap on tokens.",
        boundaries=material.timeline.boundaries,
    )


def _time(material: Material) -> Figure | None:
    points = material.timeline.points
    layers = [Layer(label, colour, dict(points(f"seconds/{phase}"))) for phase, label, colour in PHASES]
    evaluation = dict(points("seconds/eval"))  # it is part of the rollout phase, and counted in it
    rollout = {x: max(y - evaluation.get(x, 0.0), 0.0) for x, y in layers[0].values.items()}
    layers[0] = Layer(layers[0].label, layers[0].colour, rollout)
    total = sum(y for _, y in points("seconds/total"))
    known = sum(sum(layer.values.values()) for layer in layers)
    caption = "Wall time of each phase."
    if total > 0 and known:
        caption += f" {100 * max(total - known, 0.0) / total:.0f} % of the time is in none of them."
    return stacked_chart(
        "Where the time goes",
        layers,
        y_label="seconds an iteration",
        unit="seconds",
        caption=caption,
        boundaries=material.timeline.boundaries,
    )
