"""The command line: `k15 SUBCOMMAND RECIPE.toml [--dotted.key value ...] [--run DIR] [--dry-run]`.

Exit codes: 0 all planned steps done, 1 failed, 2 bad configuration, 75 stopped on request before the
end (call again to go on), 130 interrupted twice. Results that programs read go to standard output,
progress and errors to standard error. Heavy imports stay inside the subcommands: `k15 --help` is quick.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from k15 import __version__
from k15.config.base import StrictModel, config_keys, load_config
from k15.errors import ConfigError, K15Error

STOPPED = 75  # EX_TEMPFAIL: not an error, but not all planned steps were done either
# The stages, and what --skip-bad-rows means in each.
_SKIP_SETTINGS = {"sft": "data.skip_bad_rows", "rl": "prompts.skip_bad_rows"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit code."""
    parser = _parser()
    words = list(sys.argv[1:] if argv is None else argv)
    options, rest = parser.parse_known_args(words)
    if options.subcommand is None:
        parser.print_help()
        return 2
    options.command = ("k15", *words)
    try:
        if rest and options.subcommand not in _SKIP_SETTINGS:
            raise ConfigError(
                f"{options.subcommand} does not know {' '.join(rest)}; see k15 {options.subcommand} --help."
            )
        return options.run_command(options, rest)
    except K15Error as error:
        print(f"k15: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("k15: interrupted; nothing that was saved is lost, call again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="k15", description="Teach language models to reason, as Kimi k1.5 was."
    )
    parser.add_argument("--version", action="version", version=f"k15 {__version__}")
    commands = parser.add_subparsers(dest="subcommand", metavar="SUBCOMMAND")
    demo = commands.add_parser(
        "demo", help="the whole recipe on a laptop CPU: warm-up, RL, length penalty, report"
    )
    demo.add_argument(
        "--run", type=Path, default=Path("runs/demo"), help="folder of the demo (default: runs/demo)"
    )
    demo.add_argument("--fresh", action="store_true", help="start again instead of going on")
    demo.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    demo.set_defaults(run_command=_demo)
    _add_stage(commands, "sft", "supervised fine-tuning: the long-CoT warm-up", _sft)
    _add_stage(commands, "rl", "reinforcement learning with partial rollouts", _rl)
    grade = commands.add_parser("grade", help="judge answers: JSON lines in, JSON lines out")
    grade.add_argument("domain", choices=["math"])
    grade.add_argument(
        "--timeout-seconds", type=float, default=2.0, help="hard limit for one pair (default: 2)"
    )
    grade.add_argument("--workers", type=int, default=1, help="grading processes (default: 1)")
    grade.set_defaults(run_command=_grade)
    report = commands.add_parser("report", help="a run as one HTML file")
    report.add_argument("run", type=Path, help="run folder")
    report.add_argument(
        "--output", type=Path, default=None, help="file to write (default: RUN/report.html)"
    )
    report.set_defaults(run_command=_report)
    return parser


def _add_stage(commands: argparse._SubParsersAction, name: str, help_text: str, run: Callable) -> None:
    stage = commands.add_parser(
        name,
        help=help_text,
        allow_abbrev=False,
        usage=f"k15 {name} [RECIPE.toml] [--dotted.key VALUE ...] [--run DIR] [--dry-run] [...]",
        epilog=f"RECIPE.toml is a file with the settings; each can also be given as --dotted.key VALUE. "
        f"`k15 {name} --keys` lists them.",
    )
    stage.add_argument(
        "--run", type=Path, default=None, metavar="DIR", help="run folder; an existing one is resumed"
    )
    stage.add_argument(
        "--dry-run", action="store_true", help="check the settings and the data, say what would run"
    )
    stage.add_argument(
        "--fresh", action="store_true", help="start again; an existing run folder is moved aside"
    )
    stage.add_argument(
        "--allow-drift", action="store_true", help="resume although settings that matter changed"
    )
    stage.add_argument(
        "--skip-bad-rows",
        action="store_true",
        help=f"leave malformed rows of the data out and count them (--{_SKIP_SETTINGS[name]} true)",
    )
    stage.add_argument("--keys", action="store_true", help="list all settings with their defaults")
    stage.set_defaults(run_command=run)


def _load(
    schema: type[StrictModel], options: argparse.Namespace, rest: Sequence[str]
) -> StrictModel | None:
    """The stage's config; None if only the list of keys was asked for.

    `rest` is what argparse does not know: the recipe, if there is one, then settings. (As a positional
    argument of argparse the recipe would be the first word without dashes: the value of a setting.)
    """
    if options.keys:
        for key, default, text in config_keys(schema):
            print(f"--{key} (default: {default})\n      {' '.join(text.split())}")
        return None
    has_recipe = bool(rest) and not rest[0].startswith("-")
    options.recipe = Path(rest[0]) if has_recipe else None
    flags = list(rest[1:] if has_recipe else rest)
    if misplaced := next(
        (word for word in flags if word.endswith(".toml") and Path(word).is_file()), None
    ):
        raise ConfigError(
            f"the recipe comes before the settings; got {misplaced} after {rest[0]}. "
            f"Write k15 {options.subcommand} {misplaced} --dotted.key VALUE ..."
        )
    if options.skip_bad_rows:
        flags += [f"--{_SKIP_SETTINGS[options.subcommand]}", "true"]
    return load_config(schema, options.recipe, flags)


def _run_folder(options: argparse.Namespace) -> Path:
    stem = options.recipe.stem if options.recipe else "run"
    return options.run or Path("runs") / f"{options.subcommand}-{stem}"


def _sft(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from k15.config.sft import SFTConfig

    config = _load(SFTConfig, options, rest)
    if config is None:
        return 0
    _quiet_libraries()
    from k15.stages.launch import launch_sft

    assert isinstance(config, SFTConfig)
    return _finish(launch_sft(config, _run_folder(options), _launch_options(options)))


def _rl(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from k15.config.rl import RLConfig

    config = _load(RLConfig, options, rest)
    if config is None:
        return 0
    _quiet_libraries()
    from k15.stages.launch import launch_rl

    assert isinstance(config, RLConfig)
    return _finish(launch_rl(config, _run_folder(options), _launch_options(options)))


def _launch_options(options: argparse.Namespace):
    from k15.stages.launch import LaunchOptions

    return LaunchOptions(
        # what to call again to go on: not with --fresh, which would start from scratch
        command=tuple(word for word in options.command if word != "--fresh"),
        fresh=options.fresh,
        allow_drift=options.allow_drift,
        dry_run=options.dry_run,
    )


def _finish(is_complete: bool) -> int:
    return 0 if is_complete else STOPPED


def _demo(options: argparse.Namespace, rest: Sequence[str]) -> int:
    _quiet_libraries()
    from k15.stages.demo import run_demo

    return _finish(run_demo(options.run, seed=options.seed, fresh=options.fresh))


def _grade(options: argparse.Namespace, rest: Sequence[str]) -> int:
    import json

    from k15.config.rl import RewardsConfig
    from k15.rewards.lines import grade_math_lines

    limits = [f"--timeout_seconds={options.timeout_seconds}", f"--num_workers={options.workers}"]
    config = load_config(RewardsConfig, None, limits)
    for item in grade_math_lines(sys.stdin, config):
        print(json.dumps(item), flush=True)
    return 0


def _report(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from k15.report.html import write_report

    print(write_report(options.run, options.output))
    return 0


def _quiet_libraries() -> None:
    """Before torch and transformers are imported: no advice on standard error, no thread pools of
    tokenizers, and threads that wait without burning a core that somebody else could use."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


if __name__ == "__main__":
    sys.exit(main())
