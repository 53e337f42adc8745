"""The command line: what it refuses and how, what it prints where, what a terminal shows."""

import contextlib
import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import k15
from k15.cli import main
from k15.config.base import config_keys
from k15.config.rl import RLConfig
from k15.config.sft import SFTConfig
from k15.stages import demo
from k15.stages.watch import Watch

SFT = """
batch_tokens = 512
[model.tiny]
num_layers = 1
width = 32
num_heads = 2
mlp_width = 48
max_positions = 256
[data]
tasks = [{ family = "trial", levels = [1], num_train = 30 }]
[[stages]]
row_tokens = 200
num_steps = 4
[run]
num_threads = 1
"""
RL = """
num_iterations = 2
[prompts]
tasks = [{ family = "trial", levels = [1], num_train = 8, num_heldout = 4 }]
[rollout]
group_size = 2
prompts_in_flight = 4
segment_tokens = 16
max_tokens = 16
[engine]
num_slots = 8
[evaluation]
num_prompts = 4
[run]
num_threads = 1
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with sft.toml, rl.toml and sft/, a finished run."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "sft.toml").write_text(SFT)
    (folder / "rl.toml").write_text(RL)
    assert main(["sft", str(folder / "sft.toml"), "--run", str(folder / "sft")]) == 0
    return folder


@pytest.fixture
def k15_command(capfd, monkeypatch, tmp_path):
    """Call the command in an empty folder; exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        capfd.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse
            code = stop.code
        return code, *capfd.readouterr()

    return call


def rl(made, *more):
    return ["rl", made / "rl.toml", "--model", made / "sft" / "model", *more]


def in_a_new_python(*words):
    """Which modules a call of the command imports."""
    code = (
        "import sys, contextlib, os\n"
        "from k15.cli import main\n"
        "with open(os.devnull, 'w') as nothing, contextlib.redirect_stdout(nothing), contextlib.suppress(SystemExit):\n"
        f"    main({list(words)!r})\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


# -- quick answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["--help"], ["rl", "--help"], ["sft", "--keys"], ["rl", "no-such-recipe.toml"]]
)
def test_help_keys_and_wrong_settings_do_not_import_the_heavy_libraries(words):
    modules = in_a_new_python(*words)
    assert "k15.config.base" in modules
    assert not modules & {"torch", "transformers", "numpy", "rich", "sympy", "tokenizers"}


def test_help_names_every_subcommand(k15_command):
    code, out, err = k15_command("--help")
    assert (code, err) == (0, "")
    for name in ("demo", "sft", "rl", "grade", "report"):
        assert re.search(rf"^    {name} ", out, re.MULTILINE)


def test_without_a_subcommand_it_shows_help_and_fails(k15_command):
    code, out, _ = k15_command()
    assert code == 2
    assert "usage: k15" in out


def test_version(k15_command):
    assert k15_command("--version") == (0, f"k15 {k15.__version__}\n", "")


@pytest.mark.parametrize(("name", "schema"), [("sft", SFTConfig), ("rl", RLConfig)])
def test_keys_lists_every_setting_with_default_and_meaning(k15_command, name, schema):
    code, out, err = k15_command(name, "--keys")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[::2]] == [f"--{key}" for key, _, _ in config_keys(schema)]
    assert all(line.startswith("      ") and line.strip() for line in lines[1::2])


# -- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "invalid choice: 'train'"),
        (["rl", "absent.toml"], "cannot read the recipe absent.toml"),
        (
            ["rl", "RECIPE", "--rollout.grup_size", "4"],
            "rollout.grup_size: unknown key. Did you mean rollout.group_size?",
        ),
        (["rl", "RECIPE", "--rollout.group_size", "1"], "rollout.group_size"),
        (["rl", "RECIPE", "--rollout.group_size"], "--rollout.group_size needs a value"),
        (["rl", "RECIPE", "--run", "r", "group_size", "4"], "a setting starts with two dashes"),
        (["rl", "RECIPE"], "RL starts from a trained model"),
        (["rl", "--num_iterations", "3", "RECIPE"], "the recipe comes before the settings"),
        (["rl", "RECIPE", "--key"], "--key needs a value"),
        (
            ["sft", "RECIPE", "--model.tiny.num_heads", "3", "--model.tiny.num_kv_heads", "2"],
            "multiple of num_kv_heads",
        ),
        (["grade", "math", "--workers", "0"], "num_workers: Input should be greater than 0; got 0"),
        (["grade", "math", "--tau", "1"], "grade does not know --tau 1"),
        (["grade", "physics"], "invalid choice: 'physics'"),
        (["demo", "--tau", "1"], "demo does not know --tau 1"),
    ],
)
def test_a_wrong_call_ends_with_2_and_a_message(k15_command, made, tmp_path, words, message):
    recipe = made / ("sft.toml" if words[0] == "sft" else "rl.toml")
    code, out, err = k15_command(*[recipe if word == "RECIPE" else word for word in words])
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_toml_that_is_none(k15_command, tmp_path):
    (tmp_path / "bad.toml").write_text("num_iterations = \n")
    code, _, err = k15_command("rl", "bad.toml")
    assert code == 2
    assert "k15: bad.toml is not valid TOML" in err


def test_a_report_of_nothing_ends_with_1(k15_command):
    code, out, err = k15_command("report", "absent")
    assert (code, out) == (1, "")
    assert err.startswith("k15: ")
    assert "absent" in err


# -- stages ------------------------------------------------------------------------------------------


def test_a_run_prints_nothing_on_standard_output_and_plain_lines_on_standard_error(
    k15_command, made, tmp_path
):
    code, out, err = k15_command(*rl(made, "--run", "run"))
    assert (code, out) == (0, "")
    assert "\x1b" not in err
    lines = err.splitlines()
    assert lines[0].startswith("RL: 0.0")
    assert [line[:14] for line in lines if line.startswith("iteration")] == [
        f"iteration    {n}" for n in range(3)
    ]
    assert lines[-1] == "done: the model is in run/model; k15 report run shows the run"
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_the_run_folder_is_named_after_command_and_recipe(k15_command, made, tmp_path):
    assert k15_command(*rl(made))[0] == 0
    assert k15_command("sft", made / "sft.toml")[0] == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["rl-rl", "sft-sft"]


def test_the_recipe_may_stand_after_run_and_may_be_missing(k15_command, made):
    assert k15_command("sft", "--run", "run", made / "sft.toml", "--dry-run")[0] == 0
    flags = ["--batch_tokens", "64", "--data.tasks", '[{family = "trial", num_train = 10}]']
    code, _, err = k15_command("sft", *flags, "--dry-run")
    assert code == 0, err
    assert "10 examples" in err


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_a_dry_run_writes_nothing_and_says_what_would_run(k15_command, made, tmp_path, stage):
    words = ["sft", made / "sft.toml"] if stage == "sft" else rl(made)
    code, out, err = k15_command(*words, "--dry-run")
    assert (code, out) == (0, "")
    assert re.search(
        r"30 examples .* 4 steps" if stage == "sft" else r"8 prompts .* 2 iterations of 4 groups", err
    )
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_leaves_an_existing_run_alone(k15_command, made, tmp_path):
    assert k15_command(*rl(made, "--run", "run"))[0] == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert k15_command(*rl(made, "--run", "run", "--dry-run", "--fresh"))[0] == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_fresh_moves_the_old_run_aside(k15_command, made, tmp_path):
    for _ in range(2):
        code, _, err = k15_command(*rl(made, "--run", "run", "--fresh"))
        assert code == 0, err
    assert list((tmp_path / "run").glob(".old-*"))


def test_drift_is_refused_unless_allowed(k15_command, made):
    run = rl(made, "--run", "run", "--num_iterations")
    assert k15_command(*run, 1)[0] == 0
    code, _, err = k15_command(*run, 2, "--prompts.seed", 4)
    assert code == 2
    assert "prompts.seed" in err
    assert k15_command(*run, 2, "--rollout.temperature", 0.9)[0] == 0


def test_the_report_is_a_file_whose_path_is_the_result(k15_command, made, tmp_path):
    code, out, err = k15_command("report", made / "sft", "--output", "page.html")
    assert (code, out, err) == (0, "page.html\n", "")
    assert (tmp_path / "page.html").read_text().lstrip().lower().startswith("<!doctype html>")
    assert k15_command("report", made / "sft")[1] == f"{made / 'sft' / 'report.html'}\n"


def test_an_unexpected_error_is_not_hidden(made, monkeypatch):
    def broken(*args):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("k15.stages.launch.load_policy", broken)
    with pytest.raises(ZeroDivisionError):
        main([str(word) for word in rl(made)])


# -- grade -------------------------------------------------------------------------------------------


def test_grade_math_is_a_pipeline():
    rows = [
        {"id": "a", "gold": "1,200", "answer": "1200"},
        {"id": 2, "gold": "3", "reply": "<think>2?</think> It is \\boxed{3}."},
        {"id": None, "gold": "3", "answer": "4"},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows) + "no json\n"
    done = subprocess.run(
        [sys.executable, "-m", "k15.cli", "grade", "math"],
        input=lines,
        capture_output=True,
        text=True,
        check=True,
    )
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(v["id"], v["verdict"], v["correct"]) for v in verdicts] == [
        ("a", "right", True),
        (2, "right", True),
        (None, "wrong", False),
        (None, "fault", None),
    ]
    assert done.stderr == ""


def test_a_reader_that_goes_away_is_no_disaster():
    pairs = '{"gold": "1", "answer": "1"}\n' * 20_000
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m k15.cli grade math | head -1; exit ${{PIPESTATUS[0]}}"],
        input=pairs,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout)["correct"] is True


# -- demo --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("is_complete", "code"), [(True, 0), (False, 75)])
def test_demo_runs_all_of_it_or_says_that_it_stopped(k15_command, monkeypatch, is_complete, code):
    calls = []

    def run_demo(folder, **kwargs):
        calls.append((folder, kwargs))
        return is_complete

    monkeypatch.setattr("k15.stages.demo.run_demo", run_demo)
    assert k15_command("demo", "--seed", 3)[0] == code
    assert calls == [(Path("runs/demo"), {"seed": 3, "fresh": False})]


def test_a_demo_that_was_stopped_names_the_command_that_goes_on(monkeypatch, tmp_path):
    """With its seed, or the settings would not be those of the run; without --fresh, or nothing would go on."""

    seen = []

    def launch(config, folder, options):
        seen.append((config.run.seed, options.command))
        return False

    monkeypatch.setattr(demo, "launch_sft", launch)
    assert not demo.run_demo(tmp_path / "demo", seed=5, fresh=True)
    assert seen == [(5, ("k15", "demo", "--run", str(tmp_path / "demo"), "--seed", "5"))]


# -- terminals ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def terminal(monkeypatch):
    """Standard error is a terminal of 120 columns; what it shows is in the list that comes back."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    ours, theirs = pty.openpty()
    shown = []

    def read():
        with contextlib.suppress(OSError):  # the other side was closed
            while data := os.read(ours, 65536):
                shown.append(data.decode(errors="replace"))

    reader = threading.Thread(target=read)
    reader.start()
    with io.TextIOWrapper(os.fdopen(theirs, "wb", buffering=0), write_through=True) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        yield shown
        monkeypatch.undo()
    reader.join(timeout=10)
    os.close(ours)


def test_a_terminal_shows_bars_for_stage_and_phases(made, tmp_path, monkeypatch):
    words = [str(word) for word in rl(made, "--run", tmp_path / "run")]
    with terminal(monkeypatch) as shown:
        assert main(words) == 0
    text = "".join(shown)
    assert "\x1b[" in text
    for word in ("iterations", "rollout", "train", "evaluate", "2/2", "━"):
        assert word in text, word
    assert "iteration    1 | train" in text, "the lines stay, beside the bars"


def test_the_bar_of_a_resumed_run_begins_where_it_stopped(made, tmp_path, monkeypatch):
    words = [str(word) for word in rl(made, "--run", tmp_path / "run")]
    assert main([*words, "--num_iterations", "1"]) == 0
    with terminal(monkeypatch) as shown:
        assert main(words) == 0
    assert "2/2" in "".join(shown)


def test_a_phase_shows_how_many_came_and_how_fast(monkeypatch):
    with terminal(monkeypatch) as shown:
        watch = Watch("iterations", 3)
        with watch.showing():
            for _ in watch.follow(range(40), "rollout", 50, unit="segments"):
                watch._progress.refresh()
    text = "".join(shown)
    assert "39/50" in text
    assert re.search(r"rollout.* \d+ segments/s", text)


@pytest.mark.parametrize("setting", ["1", "yes"])
def test_no_color_gives_plain_lines_on_a_terminal_too(made, tmp_path, monkeypatch, setting):
    words = [str(word) for word in rl(made, "--run", tmp_path / "run")]
    with terminal(monkeypatch) as shown:
        monkeypatch.setenv("NO_COLOR", setting)
        assert main(words) == 0
    text = "".join(shown)
    assert "\x1b" not in text
    assert "━" not in text
    assert "iteration    1 | train" in text


def test_model_text_and_brackets_are_shown_as_they_are(monkeypatch):
    with terminal(monkeypatch) as shown:
        watch = Watch("steps", 1)
        with watch.showing():
            watch.line("[red]no markup[/red] :smile: runs/[a]")
    assert "[red]no markup[/red] :smile: runs/[a]" in "".join(shown)
