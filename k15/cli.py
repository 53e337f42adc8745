"""The command line: `k15 SUBCOMMAND RECIPE.toml [--dotted.key value ...] [--run DIR] [--dry-run]`.

Exit codes: 0 all planned steps done, 1 failed, 2 bad configuration, 75 stopped on request before the
end (call again to go on), 130 interrupted twice. Results that programs read go to standard output,
progress and errors to standard error. Heavy imports stay inside the subcommands: `k15 --help` is quick.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from k15 import __version__
from k15.config.base import StrictModel, config_keys, load_config
from k15.errors import ConfigError, K15Error

_LINES_AHEAD = 64  # of a file that is graded
STOPPED = 75  # EX_TEMPFAIL: not an error, but not all planned steps were done either
# The stages, and what --skip-bad-rows means in each.
_SKIP_SETTINGS = {
    "sft": "data.skip_bad_rows",
    "rl": "prompts.skip_bad_rows",
    "long2short": "prompts.skip_bad_rows",
}

_TAKES_SETTINGS = ("eval", "regrade", "grade", "sandbox")


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
        if rest and options.subcommand not in (*_SKIP_SETTINGS, *_TAKES_SETTINGS):
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
    shorten = _add_stage(commands, "long2short", "a short thinker made of a long one", _long2short)
    shorten.add_argument(
        "--compare",
        action="store_true",
        help="train and measure all variants over several seeds; writes a table and a report",
    )
    _add_eval(commands)
    grade = commands.add_parser(
        "grade",
        allow_abbrev=False,
        help="judge answers: JSON lines in, JSON lines out",
        epilog="grade code takes the sandbox's settings, too, as in --backend crun; see `k15 sandbox --keys`.",
    )
    grade.add_argument("domain", choices=["math", "code"])
    grade.add_argument(
        "--timeout-seconds", type=float, default=2.0, help="math: hard limit for one pair (default: 2)"
    )
    grade.add_argument(
        "--workers",
        type=int,
        default=None,
        help="grading processes (math: 1), or boxes at a time (code: 2)",
    )
    grade.add_argument("--outputs", action="store_true", help="code: say what the programs printed, too")
    grade.add_argument(
        "--audit", action="store_true", help="math: say what the second, independent grader finds, too"
    )
    grade.set_defaults(run_command=_grade)
    _add_sandbox(commands)
    regrade = commands.add_parser(
        "regrade",
        allow_abbrev=False,
        help="judge a run's stored completions again, without its model",
        usage="k15 regrade RUN [--rewards.KEY VALUE ...]",
        epilog="Prints one JSON line for each verdict that changed. Without settings the grader is the run's own.",
    )
    regrade.add_argument("folder", type=Path, metavar="RUN", help="run folder of k15 rl")
    regrade.set_defaults(run_command=_regrade)
    report = commands.add_parser("report", help="a run as one HTML file")
    report.add_argument("run", type=Path, help="run folder")
    report.add_argument(
        "--output", type=Path, default=None, help="file to write (default: RUN/report.html)"
    )
    report.set_defaults(run_command=_report)
    return parser


def _add_stage(
    commands: argparse._SubParsersAction, name: str, help_text: str, run: Callable
) -> argparse.ArgumentParser:
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
    return stage


def _add_sandbox(commands: argparse._SubParsersAction) -> None:
    sandbox = commands.add_parser(
        "sandbox",
        allow_abbrev=False,
        help="run code that nobody trusts",
        epilog="All three take the sandbox's settings, as in --backend crun; `k15 sandbox --keys` lists them.",
    )
    sandbox.add_argument("--keys", action="store_true", help="list all settings with their defaults")
    sandbox.set_defaults(run_command=_sandbox, action=None)
    actions = sandbox.add_subparsers(dest="action", metavar="ACTION")
    run = actions.add_parser(
        "run", allow_abbrev=False, help="one program from standard input: verdict and outputs as JSON"
    )
    run.add_argument("--language", default="python", help="python, cpp, c, javascript, java, bash or go")
    run.add_argument(
        "--time-limit", type=float, default=2.0, metavar="SECONDS", help="CPU time (default: 2)"
    )
    run.add_argument("--memory-mb", type=int, default=256, help="memory (default: 256)")
    run.add_argument(
        "--input", type=Path, default=None, metavar="FILE", help="the program's standard input"
    )
    serve = actions.add_parser("serve", allow_abbrev=False, help="an HTTP service")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    serve.add_argument("--port", type=int, default=8080, help="port, 0 for a free one (default: 8080)")
    serve.add_argument(
        "--token-file", type=Path, default=None, help="file with the token that requests carry"
    )
    serve.add_argument("--max-queued", type=int, default=64, help="requests that may wait (default: 64)")
    doctor = actions.add_parser(
        "doctor", allow_abbrev=False, help="what this host can isolate, with a self-test of attacks"
    )
    doctor.add_argument("--json", action="store_true", help="for programs")


def _add_eval(commands: argparse._SubParsersAction) -> None:
    evaluation = commands.add_parser(
        "eval",
        help="scores of a model on benchmarks",
        allow_abbrev=False,
        usage="k15 eval MODEL --benchmarks NAME,NAME,FILE.jsonl [--data DIR] [--samples N] [--max-tokens N] "
        "[--temperature T] [--limit N] [--engine TYPE] [--dotted.key VALUE ...] [--run DIR]\n"
        "       k15 eval --reference --benchmarks NAME,NAME [--data DIR] [--run DIR]\n"
        "       k15 eval --rescore DIR [--data DIR]",
        epilog="MODEL is a directory with a checkpoint, a run folder, or a hub name. `k15 eval --keys` lists all "
        "settings. Scores go to standard output and to DIR/scores.json, samples to DIR/samples.jsonl.",
    )
    evaluation.add_argument(
        "--run", type=Path, default=None, metavar="DIR", help="folder; an evaluation there goes on"
    )
    evaluation.add_argument(
        "--rescore", type=Path, metavar="DIR", help="judge the stored samples again, without the model"
    )
    evaluation.add_argument(
        "--reference", action="store_true", help="score the benchmarks' own reference solutions"
    )
    evaluation.add_argument(
        "--card", action="store_true", help="write the scores into the model card, MODEL/README.md"
    )
    evaluation.add_argument(
        "--dry-run", action="store_true", help="check settings and data, say what would run"
    )
    evaluation.add_argument(
        "--fresh", action="store_true", help="begin again; the samples there are moved aside"
    )
    evaluation.add_argument("--keys", action="store_true", help="list all settings with their defaults")
    evaluation.set_defaults(run_command=_eval)


def _load(
    schema: type[StrictModel], options: argparse.Namespace, rest: Sequence[str]
) -> StrictModel | None:
    """The stage's config; None if only the list of keys was asked for.

    `rest` is what argparse does not know: the recipe, if there is one, then settings. (As a positional
    argument of argparse the recipe would be the first word without dashes: the value of a setting.)
    """
    if options.keys:
        _print_keys(schema)
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


def _print_keys(schema: type[StrictModel]) -> None:
    for key, default, text in config_keys(schema):
        print(f"--{key} (default: {default})\n      {' '.join(text.split())}")


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


def _long2short(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from k15.config.long2short import Long2ShortConfig

    config = _load(Long2ShortConfig, options, rest)
    if config is None:
        return 0
    _quiet_libraries()
    assert isinstance(config, Long2ShortConfig)
    if options.compare:
        from k15.stages.compare import launch_comparison

        return _finish(launch_comparison(config, _run_folder(options), _launch_options(options)))
    from k15.stages.long2short import launch_long2short

    return _finish(launch_long2short(config, _run_folder(options), _launch_options(options)))


def _eval(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from k15.config.eval import EvalConfig

    if options.keys:
        _print_keys(EvalConfig)
        return 0
    if options.rescore is not None:
        return _rescore(options.rescore, rest)
    model = rest[0] if rest and not rest[0].startswith("-") else None
    flags = [f"--model.path={model}", *rest[1:]] if model is not None else list(rest)
    config = load_config(EvalConfig, None, flags)
    _quiet_libraries()
    from k15.stages.evaluation import EvaluationOptions, default_folder, run_evaluation
    from k15.stages.rescoring import score_references

    launch = EvaluationOptions(options.command, options.fresh, options.dry_run, with_card=options.card)
    run = score_references if options.reference else run_evaluation
    return _print_scores(run(config, options.run or default_folder(config), launch))


def _rescore(folder: Path, rest: Sequence[str]) -> int:
    if rest and (len(rest) != 2 or rest[0] != "--data"):
        raise ConfigError(
            f"--rescore takes its settings from {folder}, apart from --data; got {' '.join(rest)}."
        )
    _quiet_libraries()
    from k15.stages.rescoring import rescore

    return _print_scores(rescore(folder, data=Path(rest[1]) if rest else None))


def _print_scores(content: Mapping[str, Any]) -> int:
    import json

    print(json.dumps(content, indent=2, ensure_ascii=False))
    return {"complete": 0, "planned": 0, "incomplete": STOPPED}.get(content["status"], 1)


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
    if options.domain == "code":
        return _grade_code(options, rest)
    if rest:
        raise ConfigError(f"grade does not know {' '.join(rest)}; see k15 grade --help.")
    import json

    from k15.config.rl import RewardsConfig
    from k15.rewards.lines import grade_math_lines

    limits = [
        f"--timeout_seconds={options.timeout_seconds}",
        f"--num_workers={1 if options.workers is None else options.workers}",
    ]
    config = load_config(RewardsConfig, None, limits)
    ahead = _LINES_AHEAD if _is_a_file(sys.stdin) else 0
    for item in grade_math_lines(sys.stdin, config, with_audit=options.audit, read_ahead=ahead):
        print(json.dumps(item), flush=True)
    return 0


def _grade_code(options: argparse.Namespace, rest: Sequence[str]) -> int:
    import json

    from k15.config.sandbox import SandboxConfig
    from k15.rewards.code import grade_code_lines

    slots = [] if options.workers is None else [f"--num_slots={options.workers}"]
    config = load_config(SandboxConfig, None, [*slots, *rest])
    for item in grade_code_lines(sys.stdin, config, with_outputs=options.outputs):
        print(json.dumps(item), flush=True)
    return 0


def _sandbox(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from k15.config.sandbox import SandboxConfig

    if options.keys:
        _print_keys(SandboxConfig)
        return 0
    if options.action is None:
        raise ConfigError("say what to do: k15 sandbox run, serve or doctor.")
    config = load_config(SandboxConfig, None, rest)
    from k15.sandbox import commands

    action = {"run": commands.run_program, "serve": commands.serve, "doctor": commands.doctor}
    return action[options.action](options, config)


def _is_a_file(stream: TextIO) -> bool:
    """Whether reading ahead can never wait for somebody who writes the next line."""
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):
        return False


def _regrade(options: argparse.Namespace, rest: Sequence[str]) -> int:
    _quiet_libraries()
    import json

    from k15.stages.regrade import regrade

    regraded = regrade(options.folder, rest)
    for change in regraded.changes:
        print(json.dumps(change), flush=True)
    print(f"k15: {regraded.describe()}", file=sys.stderr)
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
