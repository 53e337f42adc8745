"""Is it healthy: force ratio, entropy, KL, gradient, engine gap, wasted groups, skipped steps."""

from __future__ import annotations

from k15.report.charts import Figure, Guide
from k15.report.material import Material, Section, present

FORCE_GUIDE = (0.3, 0.6)
"""Where the regulariser holds the policy without stopping it; tau is tuned to it."""


def health_section(material: Material) -> Section:
    """The signs that a run is about to go wrong, before the accuracy shows it."""
    skipped = material.timeline.points("update/num_skipped_steps")
    is_clean = not any(y for _, y in skipped)
    figures = present(
        *_policy(material),
        *_update(material),
        None if is_clean else _skipped(material),
        _audit(material),
    )
    intro = "These move before accuracy does."
    if skipped and is_clean:
        intro += " No step was skipped for NaN or infinity."
    intro += _audited(material)
    return Section("health", "Health", "Is it healthy?", intro, figures)


def _policy(material: Material) -> list[Figure | None]:
    return [
        material.chart(
            "Force ratio",
            [material.smooth("update/force_ratio", "force ratio", "blue")],
            "force of the regulariser / force of the reward",
            "The median of tau·|Δ| over the median of |A| in the last step of each iteration. Below the zone tau does "
            "little; far above it the policy hardly moves.",
            guide=Guide(*FORCE_GUIDE, f"guide {FORCE_GUIDE[0]} to {FORCE_GUIDE[1]}"),
        ),
        material.chart(
            "Entropy",
            [material.smooth("update/entropy", "entropy", "teal")],
            "nats per token",
            "It falls as the policy grows sure. A fall to nothing ends exploration: all completions of a group become "
            "alike.",
        ),
        material.chart(
            "Distance from the reference",
            [material.smooth("update/kl", "KL", "plum")],
            "KL, nats per token",
            "How far the steps of one iteration carry the policy from the one that sampled. A steady rise while the "
            "reward is flat is the classic warning.",
        ),
        material.shares(
            "Completions that teach nothing",
            [material.smooth("train/zero_advantage_share", "share", "orange")],
            "share of completions without advantage",
            "All right or all wrong: their group has no advantage, so no gradient. A high share wastes the rollout "
            "phase; the sampler should move on.",
        ),
    ]


def _audited(material: Material) -> str:
    """How many verdicts the second grader was sure of, and disputed."""
    sure, disputed = (
        int(sum(y for _, y in material.timeline.points(f"audit/num_{name}")))
        for name in ("sure", "disputed")
    )
    if not sure:
        return ""
    told = "disputed none" if not disputed else f"disputed {disputed}: events.jsonl names them"
    return f" A second grader was sure of {sure:,} of the verdicts that it was asked about, and {told}."


def _audit(material: Material) -> Figure | None:
    if not any(y for _, y in material.timeline.points("audit/num_disputed")):
        return None
    return material.chart(
        "Disputed verdicts",
        [material.plain("audit/num_disputed", "disputed", "orange", has_markers=True)],
        "verdicts that the second grader disputes",
        "Each one means that a grader or the data has a defect: read the rows of rollouts/ whose audit contradicts "
        "their outcome.",
    )


def _update(material: Material) -> list[Figure | None]:
    gap = [
        material.plain("update/engine_gap_max", "largest", "orange"),
        material.plain("update/engine_gap_mean", "mean", "blue"),
    ]
    return [
        material.chart(
            "Gradient norm",
            [material.smooth("update/grad_norm", "gradient", "blue")],
            "norm before clipping",
            "Spikes are where to look for broken data or a learning rate that is too high.",
        ),
        material.chart(
            "Engine against trainer",
            gap,
            "|difference of log-probabilities|, nats",
            "Both compute the same probabilities in different ways; this is how far they are apart. Steps of the axis "
            "are decades.",
            log=True,
        ),
        material.chart(
            "Loss",
            [material.smooth("update/loss", "loss", "grey")],
            "loss",
            "Its level says little: advantages have mean zero in every group. Watch for jumps.",
            from_zero=False,
        ),
    ]


def _skipped(material: Material) -> Figure | None:
    return material.chart(
        "Skipped steps",
        [material.plain("update/num_skipped_steps", "skipped", "orange")],
        "optimizer steps in an iteration",
        "Steps with NaN or infinity in the gradient, left out and recorded.",
    )
