"""Real input: word problems in GSM8K's format and any local checkpoint, every stage to its end, every mistake named.

The tests type what a user types, in this process: `main([...])` is the k15 command. K15_GSM8K=FILE runs the
loop on GSM8K's own training file, too.
"""

import errno
import json
import math
import os
import resource
import shlex
import signal
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from word_problems import PROBLEMS, own_tokenizer, write_llama, write_qwen3, write_rows

from k15.cli import main
from k15.models.tokenizer import build_tokenizer
from k15.record.lock import RunLock
from k15.record.run import Run
from k15.record.schema import LOCK
from k15.stages import launch
from k15.stages import rl as rl_stage
from k15.stages.watch import Watch
from k15.testing.lives import Lives

GSM8K = Path(__file__).parents[2] / "recipes" / "gsm8k.toml"
SMALL = shlex.split("""
    --num_iterations 2 --prompts.num_heldout 4 --prompts.suffix= --rollout.group_size 2
    --rollout.prompts_in_flight 6 --rollout.max_tokens 24 --rollout.segment_tokens 16
    --evaluation.num_prompts 4 --engine.num_slots 8 --run.num_threads 1 --trainer.row_tokens 128
    --trainer.learning_rate 1e-3 --rewards.num_workers 1
""")
SFT = """
batch_tokens = 512
[data]
path = "unused"
[[stages]]
row_tokens = 192
num_steps = 6
learning_rate = 1e-2
[run]
save_every = 3
num_threads = 1
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with checkpoints qwen3/ and llama/, problems.jsonl and sft.toml."""
    folder = tmp_path_factory.mktemp("given")
    write_qwen3(folder / "qwen3")
    write_llama(folder / "llama")
    write_rows(folder / "problems.jsonl", PROBLEMS)
    (folder / "sft.toml").write_text(SFT)
    return folder


@pytest.fixture
def rl(given, tmp_path, capfd):
    """Call `k15 rl recipes/gsm8k.toml`; its exit code, what it printed on standard error, and the run folder."""

    def call(*more, model=None, prompts=None, run="run"):
        folder = tmp_path / run
        words = [
            "rl",
            GSM8K,
            "--model",
            model or given / "qwen3",
            "--prompts",
            prompts or given / "problems.jsonl",
        ]
        capfd.readouterr()
        code = main([str(word) for word in (*words, "--run", folder, *SMALL, *more)])
        out, err = capfd.readouterr()
        assert out == "", "standard output belongs to results"
        return Called(code, err, folder)

    return call


@pytest.fixture
def sft(given, tmp_path, capfd):
    """Call `k15 sft` with a file."""

    def call(data, *more, model="qwen3", run="sft"):
        folder = tmp_path / run
        words = ["sft", given / "sft.toml", "--model", given / model, "--data", data, "--run", folder]
        code = main([str(word) for word in (*words, *more)])
        out, err = capfd.readouterr()
        assert out == ""
        return Called(code, err, folder)

    return call


class Called:
    """What a call came to."""

    def __init__(self, code, err, folder):
        self.code, self.err, self.folder = code, err, folder

    def lines(self, name):
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()]

    @property
    def kinds(self):
        return [event["kind"] for event in self.lines("events.jsonl")]

    @property
    def model(self):
        return (self.folder / "model" / "model.safetensors").read_bytes()

    @property
    def rows(self):
        files = sorted((self.folder / "rollouts").glob("*.jsonl"))
        return [json.loads(line) for path in files for line in path.read_text().splitlines()]


# -- every stage to its end --------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["qwen3", "llama"])
def test_rl_of_a_random_checkpoint_runs_to_the_end(rl, given, model):
    done = rl(model=given / model)
    assert done.code == 0, done.err
    assert [m["iteration"] for m in done.lines("metrics.jsonl")] == [0, 1, 2]
    assert [m["eval/num_samples"] for m in done.lines("metrics.jsonl") if "eval/accuracy" in m] == [4, 4]
    answers = {row["question"]: row["answer"].rpartition("#### ")[2] for row in PROBLEMS}
    assert done.rows
    assert all(row["answer"] == answers[row["question"]] for row in done.rows)
    assert "finished" in done.kinds
    loaded = AutoModelForCausalLM.from_pretrained(done.folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(done.folder / "model")
    assert tokenizer.decode(tokenizer.encode("Mira's hens")) == "Mira's hens"
    assert loaded(torch.tensor([[5, 9]])).logits.shape[-1] == loaded.config.vocab_size


def test_prompts_are_asked_by_the_models_own_template(rl, given, tmp_path):
    tokenizer = own_tokenizer()
    model = write_qwen3(tmp_path / "model")
    template = (
        "{% for m in messages %}{{ '<|user|>SOLVE: ' + m['content'] }}{% endfor %}{{ '<|assistant|>' }}"
    )
    (model / "chat_template.jinja").write_text(template)
    done = rl("--num_iterations", 1, "--prompts.suffix", "In a box.", model=model)
    assert done.code == 0, done.err
    groups = done.folder.glob("checkpoints/*/buffer/groups.jsonl")
    prompts = [json.loads(line)["prompt"] for path in groups for line in path.read_text().splitlines()]
    assert prompts
    for prompt in prompts:
        question = prompt["question"]
        assert question.endswith("\nIn a box.")
        assert tokenizer.decode(prompt["token_ids"]) == f"<|user|>SOLVE: {question}<|assistant|>"


def completions_file(path):
    return write_rows(
        path, [{"prompt": p["question"], "completion": boxed(p["answer"])} for p in PROBLEMS]
    )


def boxed(answer):
    return "The answer is \\boxed{" + answer.rpartition("#### ")[2] + "}."


def messages_file(path):
    return write_rows(
        path,
        [
            {
                "messages": [
                    {"role": "user", "content": p["question"]},
                    {"role": "assistant", "content": boxed(p["answer"])},
                ]
            }
            for p in PROBLEMS
        ],
    )


def test_sft_from_a_file_of_completions_or_of_messages(sft, tmp_path):
    first = sft(completions_file(tmp_path / "completions.jsonl"))
    second = sft(messages_file(tmp_path / "messages.jsonl"), run="second")
    assert (first.code, second.code) == (0, 0), first.err + second.err
    losses = [m["loss"] for m in first.lines("metrics.jsonl")]
    assert losses[-1] < losses[0] - 0.5
    assert first.model == second.model, "the same conversations, however they are written down"


def test_sft_of_gsm8k_rows_as_they_are(sft, given):
    done = sft(given / "problems.jsonl", model="llama")
    assert done.code == 0, done.err
    assert "20 examples (0 rows skipped)" in done.err


def test_a_model_that_learned_to_box_its_answer_is_judged_and_trained(sft, rl, tmp_path):
    """SFT, then RL on its model: verdicts of both kinds, groups with a gradient, thoughts that end."""
    learned = sft(
        completions_file(tmp_path / "rows.jsonl"),
        "--stages",
        "[{row_tokens = 192, num_steps = 40, learning_rate = 2e-2}]",
    )
    assert learned.code == 0, learned.err
    done = rl("--num_iterations", 3, "--rollout.group_size", 6, model=learned.folder / "model")
    assert done.code == 0, done.err
    outcomes = Counter(row["outcome"] for row in done.rows)
    assert outcomes["wrong"] > 10, outcomes
    assert {row["stop"] for row in done.rows} >= {"end"}
    assert all(row["extracted"] for row in done.rows if row["outcome"] == "wrong")
    for row in done.rows:
        is_right = row["extracted"].strip() == row["answer"].replace(",", "")
        assert (row["outcome"] == "right") == is_right


@pytest.mark.skipif(
    "K15_GSM8K" not in os.environ, reason="K15_GSM8K does not name GSM8K's training file"
)
def test_gsm8ks_own_training_file(rl, tmp_path):
    path = Path(os.environ["K15_GSM8K"])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    tokenizer = build_tokenizer(row[name] for row in rows for name in ("question", "answer"))
    model = write_qwen3(tmp_path / "model", tokenizer, max_positions=640)
    done = rl("--prompts.num_heldout", 200, "--prompts.suffix", "Box it.", model=model, prompts=path)
    assert done.code == 0, done.err
    assert f"{len(rows) - 200} prompts (0 rows skipped), 200 held out" in done.err


# -- malformed rows ----------------------------------------------------------------------------------

MALFORMED = [
    ('{"question": "How many?", ', "is not valid JSON"),
    ({"question": "How many?"}, 'field "answer" is missing'),
    ({"question": "", "answer": "#### 3"}, 'field "question" must not be empty'),
    (
        {"question": "How many?", "answer": "He has three.\n#### "},
        'field "answer" must have the gold answer',
    ),
    ({"question": "Why <|end|>?", "answer": "#### 3"}, "holds the model's control token <|end|>"),
    (
        {"question": "eggs " * 80, "answer": "#### 3"},
        "makes a prompt longer than 64 tokens (prompts.max_prompt_tokens)",
    ),
]


@pytest.mark.parametrize(("row", "message"), MALFORMED, ids=[message[:24] for _, message in MALFORMED])
def test_a_malformed_row_is_named_and_nothing_is_started(rl, tmp_path, row, message):
    prompts = write_rows(tmp_path / "rows.jsonl", [*PROBLEMS[:7], row, *PROBLEMS[7:]])
    failed = rl("--prompts.max_prompt_tokens", 64, prompts=prompts)
    assert failed.code == 2
    [line] = failed.err.splitlines()
    assert line.startswith(f"k15: {prompts}, line 8: ")
    assert message in line
    assert "prompts.skip_bad_rows" in line
    assert not failed.folder.exists()


@pytest.mark.parametrize(
    "flags", [["--skip-bad-rows"], ["--prompts.skip_bad_rows", "true"], ["--prompts.skip_bad_rows"]]
)
def test_malformed_rows_are_skipped_on_request_and_counted(rl, tmp_path, flags):
    bad = [row for row, _ in MALFORMED]
    prompts = write_rows(tmp_path / "rows.jsonl", [bad[0], *PROBLEMS[:9], *bad[1:], *PROBLEMS[9:]])
    done = rl("--prompts.max_prompt_tokens", 64, "--dry-run", *flags, prompts=prompts)
    assert done.code == 0, done.err
    assert f"16 prompts ({len(bad)} rows skipped), 4 held out" in done.err
    assert not done.folder.exists()


def test_malformed_rows_of_an_sft_file(sft, tmp_path):
    good = [{"prompt": p["question"], "completion": p["answer"]} for p in PROBLEMS]
    data = write_rows(tmp_path / "rows.jsonl", [*good[:4], {"prompt": "How many?"}, *good[4:], "{"])
    failed = sft(data)
    assert failed.code == 2
    assert f'{data}, line 5: field "completion" is missing' in failed.err
    assert "data.skip_bad_rows" in failed.err
    done = sft(data, "--skip-bad-rows", "--dry-run")
    assert done.code == 0
    assert "20 examples (2 rows skipped)" in done.err
    assert not done.folder.exists()


def test_a_file_that_is_not_there(rl, sft, tmp_path):
    assert (failed := rl(prompts=tmp_path / "absent.jsonl")).code == 2
    assert "prompts.path must be a file" in failed.err
    assert (failed := sft(tmp_path / "absent.jsonl")).code == 2
    assert "data.path must be a file" in failed.err


# -- checkpoints that do not fit ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "needs config.json"),
        ("model.safetensors", "needs weights"),
        ("tokenizer.json", "needs a tokenizer"),
    ],
)
def test_a_missing_model_file_is_named(rl, tmp_path, name, message):
    model = write_qwen3(tmp_path / "model")
    (model / name).unlink()
    failed = rl(model=model)
    assert failed.code == 2
    [line] = failed.err.splitlines()
    assert message in line
    assert str(model) in line


def test_a_model_folder_that_is_not_there(rl, tmp_path):
    failed = rl(model=tmp_path / "absent")
    assert failed.code == 2
    assert "does not exist" in failed.err


def test_a_tokenizer_larger_than_the_embedding(rl, tmp_path):
    model = write_qwen3(tmp_path / "model")
    letters = "abcdefghijklmnopqrstuvwxyz"
    build_tokenizer([" ".join(a + b for a in letters for b in letters)]).save_pretrained(model)
    failed = rl(model=model)
    assert failed.code == 2
    assert "needs a row of the embedding" in failed.err


def test_prompt_and_completion_must_fit_the_models_positions(rl):
    failed = rl("--rollout.max_tokens", 180)
    assert failed.code == 2
    longest = int(failed.err.partition(" has ")[2].split()[0])
    assert f"Lower rollout.max_tokens to {192 - longest} or less" in failed.err
    assert not failed.folder.exists()
    assert rl("--rollout.max_tokens", 192 - longest, "--dry-run").code == 0
    assert rl("--rollout.max_tokens", 193 - longest, "--dry-run").code == 2


def test_a_prompt_longer_than_the_model(rl, tmp_path):
    prompts = write_rows(
        tmp_path / "rows.jsonl", [*PROBLEMS, {"question": "eggs " * 200, "answer": "#### 3"}]
    )
    failed = rl(prompts=prompts)
    assert failed.code == 2
    assert "192 positions" in failed.err
    assert "Lower prompts.max_prompt_tokens and set prompts.skip_bad_rows" in failed.err
    assert (
        rl("--prompts.max_prompt_tokens", 100, "--skip-bad-rows", "--dry-run", prompts=prompts).code == 0
    )


# -- what happens on the way -------------------------------------------------------------------------


def test_groups_that_never_finish_are_kept_and_recorded(rl):
    done = rl("--rollout.segment_tokens", 4, "--evaluation.every", 0)
    assert done.code == 0, done.err
    metrics = done.lines("metrics.jsonl")
    assert [m["rollout/unfinished_trajectories"] for m in metrics] == [12, 12]
    assert done.rows == []
    assert metrics[0]["weights/fingerprint"] == metrics[1]["weights/fingerprint"]
    more = rl("--rollout.segment_tokens", 4, "--evaluation.every", 0, "--num_iterations", 6)
    assert more.code == 0, more.err
    assert {row["length"] for row in more.rows} == {24}, (
        "the planned iterations were raised, and they finish"
    )
    assert {s["policy_version"] for row in more.rows for s in row["segments"]} == {0, 1, 2, 3, 4, 5}


def poison(monkeypatch, after):
    """From the call number `after` on, the loss is NaN."""
    calls = []
    original = rl_stage.make_loss

    def make_loss(config):
        loss = original(config)

        def poisoned(*args, **kwargs):
            calls.append(1)
            terms = loss(*args, **kwargs)
            return replace(terms, loss=terms.loss * math.nan) if len(calls) > after else terms

        return poisoned

    monkeypatch.setattr(rl_stage, "make_loss", make_loss)


FULL = ("--rollout.segment_tokens", 24)  # every group finishes in its iteration
THREE = (*FULL, "--num_iterations", 3, "--run.save_every", 1)


@pytest.fixture(scope="module")
def unbroken(given, tmp_path_factory):
    """The model of a run of `THREE` that nothing happened to."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    words = ["rl", GSM8K, "--model", given / "qwen3", "--prompts", given / "problems.jsonl"]
    assert main([str(word) for word in (*words, "--run", folder, *SMALL, *THREE)]) == 0
    return Called(0, "", folder).model


def test_nan_stops_the_run_and_the_checkpoint_stays_good(rl, monkeypatch, unbroken):
    settings = (*THREE, "--trainer.max_nonfinite_steps", 1)
    poison(monkeypatch, after=4)  # two steps an iteration: the first two iterations are sound
    failed = rl(*settings)
    assert failed.code == 1
    assert "the last checkpoint is untouched" in failed.err
    assert not (failed.folder / "model").exists()
    monkeypatch.undo()
    resumed = rl(*settings)
    assert resumed.code == 0, resumed.err
    assert "going on from iteration_000002" in resumed.err
    assert resumed.model == unbroken


def test_a_single_nan_is_skipped_and_told(rl, monkeypatch):
    poison(monkeypatch, after=3)
    done = rl(*FULL, "--num_iterations", 2)
    assert done.code == 0, done.err
    assert done.kinds.count("nonfinite_step") == 1
    assert "warning: a step with NaN" in done.err
    assert done.lines("metrics.jsonl")[1]["update/num_skipped_steps"] == 1


@contextmanager
def file_size_limit(num_bytes):
    """Writes past this size fail, as on a full disk; small files still fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def full_disk(monkeypatch, owner, name, applies=lambda *args: True):
    """While `owner.name` runs, the disk takes no file of more than 16 KB."""
    original = getattr(owner, name)

    def limited(*args, **kwargs):
        if not applies(*args):
            return original(*args, **kwargs)
        with file_size_limit(16_384):
            return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, limited)


def test_a_disk_that_is_full_for_a_while_costs_a_checkpoint_and_nothing_else(rl, monkeypatch, unbroken):
    full_disk(monkeypatch, Run, "save", lambda run, iteration, parts: iteration == 1)
    done = rl(*THREE)
    assert done.code == 0, done.err
    [event] = [e for e in done.lines("events.jsonl") if e["kind"] == "save_failed"]
    assert (event["iteration"], event["errno"]) == (1, errno.EFBIG)
    assert [m["save/failed"] for m in done.lines("metrics.jsonl")] == [0, 1, 0, 0]
    assert done.model == unbroken


def test_a_disk_that_is_full_at_the_last_checkpoint_is_an_error_that_says_how_to_go_on(rl, monkeypatch):
    full_disk(monkeypatch, Run, "save", lambda run, iteration, parts: iteration == 3)
    failed = rl(*THREE)
    assert failed.code == 1
    assert "the disk refused the last checkpoint" in failed.err
    assert "Free some space and call again" in failed.err
    monkeypatch.undo()
    resumed = rl(*THREE)
    assert resumed.code == 0, resumed.err
    assert "going on from iteration_000002" in resumed.err


def test_a_disk_that_is_full_when_the_model_is_written(rl, monkeypatch):
    full_disk(monkeypatch, launch, "save_policy")
    failed = rl(*THREE)
    assert failed.code == 1
    assert "the trained model could not be written" in failed.err
    assert "Traceback" not in failed.err
    monkeypatch.undo()
    assert (again := rl(*THREE)).code == 0
    assert load_file(again.folder / "model" / "model.safetensors")


# -- a second process, and stops -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def lives():
    with Lives(
        "k15.cli:main", ["k15.stages.launch", "transformers.models.qwen3.modeling_qwen3"]
    ) as server:
        yield server


def test_a_second_process_is_refused_at_once(lives, given, tmp_path):
    log = tmp_path / "log"
    call = [
        "rl",
        GSM8K,
        "--model",
        given / "qwen3",
        "--prompts",
        given / "problems.jsonl",
        "--run",
        tmp_path / "run",
    ]
    (tmp_path / "run").mkdir()
    lock = RunLock.acquire(tmp_path / "run" / LOCK)
    try:
        started = time.monotonic()
        assert lives.run([*call, *SMALL], log=str(log)) == 1
        assert time.monotonic() - started < 9, "less than the patience for owners on other machines"
    finally:
        lock.release()
    assert f"process {os.getpid()}" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert lives.run([*call, *SMALL], log=str(log)) == 0


@pytest.fixture
def at_point(monkeypatch):
    """Send this process signals when the crash point of that name is passed for the n-th time."""

    def arrange(name, signals, count=1):
        passed = Counter()

        def crashpoint(point):
            passed[point] += 1
            if point == name and passed[point] == count:
                for number in signals:
                    os.kill(os.getpid(), number)

        for module in ("k15.train.trainer", "k15.rollout.journal"):
            monkeypatch.setattr(f"{module}.crashpoint", crashpoint)

    return arrange


@pytest.mark.parametrize(
    ("number", "point"),
    [
        (signal.SIGTERM, "trainer.reset_optimizer"),
        (signal.SIGINT, "journal.after_append"),
        (signal.SIGUSR1, "trainer.reset_optimizer"),
    ],
)
def test_a_stop_signal_ends_with_75_and_says_how_to_go_on(
    rl, at_point, monkeypatch, unbroken, number, point
):
    at_point(point, [number])
    stopped = rl(*THREE)
    assert stopped.code == 75
    assert "stopping after this iteration" in stopped.err
    assert f"stopped on request ({number.name})" in stopped.err
    again = stopped.err.splitlines()[-1]
    assert again.startswith("stopped before the end; everything is saved in")
    assert "To go on: k15 rl" in again
    assert not (stopped.folder / "model").exists()
    monkeypatch.undo()
    resumed = rl(*THREE)
    assert resumed.code == 0, resumed.err
    assert resumed.model == unbroken


def test_the_command_to_go_on_is_the_one_that_was_typed_without_fresh(
    rl, given, at_point, monkeypatch, capfd
):
    at_point("trainer.reset_optimizer", [signal.SIGTERM])
    stopped = rl(*FULL, "--fresh")
    words = shlex.split(stopped.err.splitlines()[-1].partition("To go on: ")[2])
    assert words[:2] == ["k15", "rl"]
    assert "--fresh" not in words
    monkeypatch.undo()
    assert main(words[1:]) == 0
    assert "resuming at iteration 1" in capfd.readouterr().err


def test_a_stop_in_the_last_iteration_still_ends_with_a_model(rl, at_point):
    at_point("trainer.reset_optimizer", [signal.SIGTERM], count=2)
    done = rl(*FULL)
    assert done.code == 0, done.err
    assert done.model
    assert "eval/accuracy" in done.lines("metrics.jsonl")[-1]


def test_ctrl_c_twice_ends_at_once_with_130(rl, at_point, monkeypatch, unbroken):
    at_point("trainer.reset_optimizer", [signal.SIGINT, signal.SIGINT], count=2)
    stopped = rl(*THREE)
    assert stopped.code == 130
    assert "nothing that was saved is lost" in stopped.err
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = rl(*THREE)
    assert resumed.code == 0, resumed.err
    assert resumed.model == unbroken


def test_sft_stops_with_75_and_goes_on(sft, given, monkeypatch):
    unbroken = sft(given / "problems.jsonl", run="unbroken")
    steps = []
    original = Watch.advance

    def advance(self, count=1):
        steps.append(count)
        if sum(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, count)

    monkeypatch.setattr(Watch, "advance", advance)
    stopped = sft(given / "problems.jsonl")
    assert stopped.code == 75
    monkeypatch.undo()
    resumed = sft(given / "problems.jsonl")
    assert resumed.code == 0, resumed.err
    assert resumed.model == unbroken.model


def test_a_run_that_is_complete_says_so_and_does_nothing(rl):
    first = rl()
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*.safetensors")}
    again = rl()
    assert again.code == 0
    assert "is complete: all 2 iterations are done. Nothing to do." in again.err
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*.safetensors")} == before
