"""`k15 long2short --compare`: every way from one long thinker to a short one, over several seeds, in one table."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import k15
from k15.algo.derive import derived_seed
from k15.config.long2short import Long2ShortConfig
from k15.errors import ConfigError
from k15.record.durable import make_directory, replace_file
from k15.report.comparison import (
    Comparison,
    Trade,
    claims_of,
    markdown_table,
    trade_of,
    write_comparison,
)
from k15.stages.balance import Measured, measure, with_model, with_seed
from k15.stages.launch import FINAL_MODEL, LaunchOptions, launch_rl
from k15.stages.long2short import (
    SAMPLES,
    merge_models,
    merge_record,
    start_of,
    start_over,
    train_on_preferences,
    train_on_shortest,
)
from k15.stages.samples import draw_samples
from k15.stages.watch import Watch

LONG, SHORT = "long", "short"
_NAMES = {
    LONG: "long (the start)",
    SHORT: "short parent",
    "merge": "merge",
    "rejection": "shortest rejection sampling",
    "merge+rejection": "merge + rejection sampling",
    "dpo": "DPO",
    "rl": "long2short RL",
}


class _StoppedError(Exception):
    """A phase was stopped on request; what is done is saved."""


def launch_comparison(config: Long2ShortConfig, run_folder: Path, options: LaunchOptions) -> bool:
    """Train and measure every variant with every seed, new or resumed; whether all of it is done.

    Writes `comparison.json`, `comparison.md` and `report.html` into the run folder. Merging has nothing
    random: it is done once, and measured with every seed.
    """
    _check(config)
    watch = Watch("long2short", 1, quiet=options.is_quiet)
    if options.fresh and not options.dry_run:
        start_over(run_folder)
        options = replace(options, fresh=False)
    started = time.process_time()
    start = start_of(config, run_folder, options, watch)
    config = with_model(config, start)
    try:
        results = _Comparison(config, run_folder, options, watch).results()
    except _StoppedError:
        watch.line(f"stopped before the end; everything is saved in {run_folder}. Call again to go on")
        return False
    if options.dry_run:
        return True
    cpu = _cpu_seconds(run_folder, time.process_time() - started)
    _write(config, results, run_folder, options, cpu, watch)
    return True


class _Comparison:
    """The trainings and measurements of a comparison; each is done once and kept on disk."""

    def __init__(
        self, config: Long2ShortConfig, run_folder: Path, options: LaunchOptions, watch: Watch
    ) -> None:
        self._config, self._folder = config, run_folder
        self._options, self._watch = options, watch

    def results(self) -> dict[str, list[Measured]]:
        """The measurements of every variant, one a seed."""
        results: dict[str, list[Measured]] = {}
        models = self._parents()
        for seed in self._config.comparison.seeds:
            for variant in self._config.comparison.variants:
                models[variant] = self._trained(variant, seed)
            for variant, path in models.items():
                results.setdefault(variant, []).append(self._measured(variant, path, seed))
        return results

    def _parents(self) -> dict[str, str]:
        assert self._config.model.path is not None, "a comparison starts from a checkpoint"
        models = {LONG: self._config.model.path}
        if self._config.merge.short is not None:
            models[SHORT] = self._config.merge.short
        return models

    def _trained(self, variant: str, seed: int) -> str:
        """The model of a variant, trained if it is not there yet."""
        config = with_seed(self._config, seed)
        base, folder = self._folder / f"seed-{seed}", self._folder / f"seed-{seed}" / variant
        self._watch.line(f"\n{_NAMES[variant]}, seed {seed}")
        if variant == "merge":
            return self._merged()
        if variant == "rl":
            phase = config.rl_config()  # measured below, with the others, and not while it runs
            quiet = phase.evaluation.model_copy(update={"every": 0})
            phase = phase.model_copy(update={"evaluation": quiet})
            self._require(launch_rl(phase, folder, self._options))
            return str(folder / FINAL_MODEL)
        origin = "merge" if variant == "merge+rejection" else LONG
        if origin == "merge" and self._options.dry_run:
            return ""  # there is no merged model yet
        if origin == "merge":
            config = with_model(config, self._merged())
        source = base / f"{origin}-{SAMPLES}"
        samples = draw_samples(config, source, self._options)
        if samples is None:
            raise _StoppedError
        if self._options.dry_run:
            return ""
        train = train_on_preferences if variant == "dpo" else train_on_shortest
        self._require(train(config, samples, source, folder, self._options, self._watch))
        return str(folder / FINAL_MODEL)

    def _merged(self) -> str:
        folder = self._folder / "merge"
        record = folder / "merge.json"
        if not record.is_file() or json.loads(record.read_text()) != merge_record(self._config):
            merge_models(self._config, folder, self._options, self._watch)
        return str(folder / FINAL_MODEL)

    def _require(self, is_done: bool) -> None:
        if not is_done:
            raise _StoppedError

    def _measured(self, variant: str, path: str, seed: int) -> Measured:
        """Accuracy and tokens on held-out prompts; kept, because the model does not change any more."""
        kept = self._folder / "measured" / f"{variant}-{seed}.json"
        settings = self._config.evaluation
        asked = {
            "num_prompts": settings.num_prompts,
            "num_samples": settings.num_samples,
            "temperature": settings.temperature,
        }
        key = {"path": path, "max_tokens": self._config.samples.max_tokens, **asked}
        if kept.is_file():
            found = json.loads(kept.read_text(encoding="utf-8"))
            if found.pop("settings") == key:
                return Measured(**found)
        if self._options.dry_run:
            return Measured(path, 0.0, 0.0, 0)
        sampling_seed = derived_seed(seed, "long2short comparison")
        measured = measure(self._config, path, use_heldout=True, seed=sampling_seed, **asked)
        self._watch.line(
            f"measured {_NAMES[variant]}, seed {seed}: {measured.accuracy:.1%} right, {measured.tokens:.1f} tokens"
        )
        make_directory(kept.parent)
        text = json.dumps({**asdict(measured), "settings": key}, indent=2) + "\n"
        replace_file(kept, text.encode(), point="comparison")
        return measured


def _check(config: Long2ShortConfig) -> None:
    variants = config.comparison.variants
    if config.prompts is None:
        raise ConfigError("a comparison asks prompts: set prompts.path to a file, or prompts.tasks.")
    if any("merge" in variant for variant in variants) and config.merge.short is None:
        raise ConfigError(
            f"merging needs a second model; got variants {', '.join(variants)} without merge.short. Set it to the "
            "short-CoT checkpoint, or leave the merges out of comparison.variants."
        )
    reduced, cap = config.rl.rollout.max_tokens, config.samples.max_tokens
    if "rl" in variants and reduced >= cap:
        raise ConfigError(
            f"long2short RL cuts the cap: rl.rollout.max_tokens must be below samples.max_tokens; got {reduced} "
            f"and {cap}. Lower the first."
        )


def _write(
    config: Long2ShortConfig,
    results: Mapping[str, Sequence[Measured]],
    run_folder: Path,
    options: LaunchOptions,
    cpu_seconds: float,
    watch: Watch,
) -> None:
    trades = [
        trade_of(name, _NAMES[name], [m.accuracy for m in found], [m.tokens for m in found])
        for name, found in results.items()
    ]
    settings = config.evaluation
    assert config.prompts is not None, "checked before"
    families = ", ".join(task.family for task in config.prompts.tasks) or str(config.prompts.path)
    comparison = Comparison(
        families,
        tuple(trades),
        claims_of(trades),
        num_seeds=len(config.comparison.seeds),
        num_samples=min(m.num_samples for found in results.values() for m in found),
        num_prompts=settings.num_prompts,
        command=shlex.join(options.command),
        cpu_minutes=cpu_seconds / 60,
    )
    row = {
        "command": comparison.command,
        "k15": k15.__version__,
        "prompts": families,
        "start": config.model.path,
        "seeds": list(config.comparison.seeds),
        "num_prompts": comparison.num_prompts,
        "num_samples": comparison.num_samples,
        "cpu_minutes": round(comparison.cpu_minutes, 1),
        "variants": [_variant_row(trade, results[trade.key]) for trade in trades],
        "claims": [asdict(claim) for claim in comparison.claims],
        "config": config.model_dump(mode="json"),
    }
    text = json.dumps(row, indent=2) + "\n"
    replace_file(run_folder / "comparison.json", text.encode(), point="comparison")
    table = markdown_table(comparison)
    replace_file(run_folder / "comparison.md", table.encode(), point="comparison")
    report = write_comparison([comparison], run_folder / "report.html")
    watch.line(f"\n{table}\n{report} has the picture (Fig. 7)")


def _variant_row(trade: Trade, found: Sequence[Measured]) -> dict[str, Any]:
    return {**asdict(trade), "measured": [asdict(m) for m in found]}


def _cpu_seconds(run_folder: Path, seconds: float) -> float:
    """CPU time of this process, added to that of earlier ones that worked on the same comparison."""
    path = run_folder / "cpu_seconds.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else 0.0
    make_directory(run_folder)
    replace_file(path, json.dumps(before + seconds).encode(), point="comparison")
    return before + seconds
