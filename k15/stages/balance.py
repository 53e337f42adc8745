"""Which checkpoint has the best balance of accuracy and tokens (section 2.4), and how that is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from k15.algo.derive import derived_seed
from k15.config.long2short import Long2ShortConfig
from k15.errors import ConfigError
from k15.eval.heldout import Evaluation, evaluate
from k15.models.load import load_policy
from k15.prompts.load import load_prompts
from k15.record import schema
from k15.record.checkpoint import checkpoint_name, iterations_of
from k15.rewards.grader import Grader
from k15.stages.engines import make_engine
from k15.stages.samples import params_of
from k15.stages.watch import Watch
from k15.types import Prompt
from k15.weights.fingerprint import snapshot


@dataclass(frozen=True)
class Measured:
    """Accuracy and length of a model on some prompts.

    Attributes:
        name: of the model: where it was loaded from.
        accuracy: share of right completions, our faults left out.
        tokens: mean tokens of a completion.
        num_samples: completions.
        fingerprint: of the weights.
    """

    name: str
    accuracy: float
    tokens: float
    num_samples: int
    fingerprint: str = ""


def measure(
    config: Long2ShortConfig,
    path: str,
    *,
    use_heldout: bool,
    num_prompts: int,
    num_samples: int,
    temperature: float,
    seed: int,
) -> Measured:
    """Sample some prompts with the model in `path`, under the long model's cap, and judge.

    Args:
        use_heldout: held-out prompts, or those of training.
        num_prompts: taken in order.
        seed: of the sampling.

    Raises:
        ConfigError: there is no prompt to measure on.
    """
    assert config.prompts is not None, "checked when the config was made"
    policy = load_policy(config.model.model_copy(update={"path": path}))
    prompts = load_prompts(config.prompts, policy.tokenizer)
    chosen: Sequence[Prompt] = (prompts.heldout if use_heldout else prompts.train)[:num_prompts]
    if not chosen:
        raise ConfigError(
            "measuring needs held-out prompts; this prompt set has none. Set prompts.num_heldout, or "
            "prompts.heldout_path."
        )
    params = params_of(config.samples.model_copy(update={"temperature": temperature}), policy, seed)
    engine = make_engine(config.engine, policy)
    weights = snapshot(policy.model, 0)
    try:
        with Grader(config.rewards, policy.tokenizer) as grader:
            grader.check(chosen)
            engine.load_weights(weights)
            found = evaluate(engine, chosen, grader, params, num_samples=num_samples)
    finally:
        engine.close()
    return summary(path, found, weights.fingerprint)


def summary(name: str, found: Evaluation, fingerprint: str = "") -> Measured:
    """Accuracy and mean tokens of an evaluation; completions whose verdict was our fault are left out."""
    pairs = [
        (verdict.correct, trajectory.length)
        for group, row in zip(found.groups, found.verdicts, strict=True)
        for trajectory, verdict in zip(group.trajectories, row, strict=True)
        if verdict.is_valid
    ]
    if not pairs:
        return Measured(name, 0.0, 0.0, 0, fingerprint)
    accuracy, tokens = fmean(right for right, _ in pairs), fmean(length for _, length in pairs)
    return Measured(name, accuracy, tokens, len(pairs), fingerprint)


def best_balance(measured: Sequence[Measured], *, tolerance: float) -> Measured:
    """Of the models whose accuracy is at most `tolerance` below the best one's, the one with the fewest tokens.

    Of equals the first. The same measurements always give the same model.
    """
    best = max(m.accuracy for m in measured)
    # the sum of two shares such as 0.9 and 0.02 is not exact: a rounding error must not decide
    eligible = [m for m in measured if m.accuracy >= best - tolerance - 1e-9]
    return min(eligible, key=lambda m: m.tokens)


def select_checkpoint(config: Long2ShortConfig, watch: Watch) -> str:
    """The directory of the checkpoint that long2short starts from; the rule and the table are printed.

    Raises:
        ConfigError: a candidate is neither a checkpoint directory nor a run folder with checkpoints.
    """
    selection = config.selection
    measured = []
    for directory in candidates_of(config):
        found = measure(
            config,
            directory,
            use_heldout=False,
            num_prompts=selection.num_prompts,
            num_samples=selection.num_samples,
            temperature=1.0,
            seed=derived_seed(config.run.seed, "long2short selection"),
        )
        measured.append(found)
        watch.line(f"candidate {found.name}: {found.accuracy:.1%} right, {found.tokens:.1f} tokens")
    chosen = best_balance(measured, tolerance=selection.tolerance)
    watch.line(
        f"chosen: {chosen.name} (fewest tokens of those at most {selection.tolerance:.1%} below the best "
        f"accuracy, on {selection.num_prompts} training prompts x {selection.num_samples})"
    )
    return chosen.name


def candidates_of(config: Long2ShortConfig) -> list[str]:
    """The directories of all candidates; without any, the model itself.

    Raises:
        ConfigError: a candidate is neither a checkpoint directory nor a run folder with checkpoints.
    """
    if not config.selection.candidates:
        assert config.model.path is not None, "checked when the config was made"
        return [config.model.path]
    names = config.selection.candidates
    return [str(path) for name in names for path in checkpoints_of(Path(name))]


def checkpoints_of(path: Path) -> list[Path]:
    """The models behind a candidate: itself, or every kept checkpoint of a run folder, oldest first."""
    if (path / "config.json").is_file() and not (path / schema.MANIFEST).is_file():
        return [path]
    kept = path / schema.CHECKPOINTS
    found = [kept / checkpoint_name(i) / "policy" for i in sorted(iterations_of(kept))]
    found = [directory for directory in found if directory.is_dir()]
    if not found:
        raise ConfigError(
            f"a candidate must be a checkpoint directory or a run folder with checkpoints; got {path}. Correct "
            "selection.candidates."
        )
    return found


def with_model(config: Long2ShortConfig, path: str) -> Long2ShortConfig:
    """The same settings for another long model."""
    return config.model_copy(update={"model": config.model.model_copy(update={"path": path})})


def with_seed(config: Long2ShortConfig, seed: int) -> Long2ShortConfig:
    """The same settings with another seed."""
    return config.model_copy(update={"run": config.run.model_copy(update={"seed": seed})})
