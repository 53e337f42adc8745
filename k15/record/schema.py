"""What a line of each file of a run folder holds.

    config.json            the resolved configuration
    manifest.json          RunManifest
    metrics.jsonl          one flat object an iteration: "iteration", "time" and slash names (docs/metrics.md)
    rollouts/000012.jsonl  one CompletionRow for every completion trained in iteration 12
    events.jsonl           one EventRow for everything out of the ordinary
    checkpoints/           see `record.checkpoint`
    journal/               segments sampled since each checkpoint, see `rollout.journal`
    model/                 the trained model, once all planned iterations are done
    lock.json              who owns the folder, see `record.lock`

Everything is JSON or safetensors; nothing is pickled. NaN and infinity are stored as null.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

SCHEMA = 1

CONFIG, MANIFEST, METRICS, EVENTS = "config.json", "manifest.json", "metrics.jsonl", "events.jsonl"
ROLLOUTS, CHECKPOINTS, LOCK = "rollouts", "checkpoints", "lock.json"


class RunManifest(TypedDict):
    """Where a run comes from, and how far it is.

    Attributes:
        kind: always "k15-run".
        schema: version of these formats.
        created: Unix time of the first start, in seconds.
        command: what was typed.
        seed: the run's seed, or None if its configuration has none.
        versions: of k15, Python and the libraries.
        data_fingerprints: name of a data set -> digest of its contents.
        total: planned iterations.
        done: iterations done when the run last ended in order; 0 before.
        has_checkpoint: True once a first checkpoint was committed.
    """

    kind: str
    schema: int
    created: float
    command: str
    seed: int | None
    versions: dict[str, str]
    data_fingerprints: dict[str, str]
    total: int
    done: int
    has_checkpoint: bool


class SegmentRow(TypedDict):
    """One segment of a completion: first token, tokens, the policy that sampled it, why it stopped."""

    start: int
    num_tokens: int
    policy_version: int
    stop: str | None


class JudgementRow(TypedDict, total=False):
    """How a completion was judged; rows of earlier versions lack these keys.

    `rules` are those of `AnswerRules` that differ from the default. `span` says where the judged answer stands
    in the completion, as [start, end); `audit` what the second grader said, None where it was not asked.
    """

    system: str
    verifier: str
    rules: dict[str, Any] | None
    span: list[int] | None
    audit: str | None


class CompletionRow(JudgementRow):
    """A completion that was trained on, with everything a metric or a reader needs.

    `logprobs` are the engine's, in nats, rounded to four digits. `correct` is 0.0 or 1.0 and has no
    meaning where `outcome` is "fault"; `advantage` is None there. `trained_tokens` carry loss.
    """

    iteration: int
    ordinal: int
    sample_index: int
    prompt_id: str
    family: str
    difficulty: float | None
    question: str
    answer: str
    completion: str
    token_ids: list[int]
    logprobs: list[float]
    segments: list[SegmentRow]
    stop: str
    length: int
    outcome: str
    reason: str
    extracted: str
    correct: float
    reward: float | None
    length_reward: float | None
    advantage: float | None
    trained_tokens: int


class EventRow(TypedDict):
    """Something out of the ordinary. Further keys depend on the kind.

    Kinds written here: resume, fallback, save_failed, retire_failed, record_failed, repaired,
    config_changed, stop_requested, finished. Other rooms add: worker_restarted, nonfinite_step, faults, disputed.
    """

    time: float
    iteration: int | None
    kind: str
    message: str
    signal: NotRequired[str]
