"""`k15 eval` as it is typed: a user's own model and own file, kills and resumes, scores that may not be believed.

K15_BENCHMARKS=DIR scores the reference solutions of MATH-500, GSM8K and AIME 2024 in that folder.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from word_problems import PROBLEMS, write_qwen3, write_rows

from k15.cli import main
from k15.engine.embedded import EmbeddedEngine
from k15.errors import EngineError
from k15.stages import evaluation

OWN = [
    {"question": "A crate holds 24 bottles. How many do 2 crates hold?", "answer": "48", "id": "crate"},
    {"question": "Which is a colour?", "choices": ["red", "run"], "answer": "A", "id": "colour"},
    {"question": "Who runs?", "answer": "Yara", "rules": {"type": "text"}, "id": "who"},
]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A model directory, an own benchmark, and GSM8K's test file in a data folder."""
    folder = tmp_path_factory.mktemp("given")
    write_qwen3(folder / "model")
    write_rows(folder / "mine.jsonl", OWN)
    (folder / "data").mkdir()
    write_rows(folder / "data" / "gsm8k_test.jsonl", PROBLEMS[:6])
    return folder


@pytest.fixture
def k15(given, tmp_path, capfd):
    """Call `k15 eval`; its exit code, what it printed as JSON, standard error, and the folder."""

    def call(*words, run="run", model=given / "model"):
        capfd.readouterr()
        model = [model] if model is not None else []
        more = ["--run", tmp_path / run] if run else []
        code = main([str(word) for word in ("eval", *model, *words, *more)])
        out, err = capfd.readouterr()
        return Called(code, json.loads(out) if out else None, err, tmp_path / (run or "run"))

    return call


class Called:
    def __init__(self, code, scores, err, folder):
        self.code, self.scores, self.err, self.folder = code, scores, err, folder

    @property
    def rows(self):
        return [json.loads(line) for line in (self.folder / "samples.jsonl").read_text().splitlines()]


def sorted_rows(rows):
    return sorted(rows, key=lambda row: (row["benchmark"], row["problem"], row["index"]))


def test_an_own_model_on_an_own_file(k15, given):
    done = k15("--benchmarks", given / "mine.jsonl", "--samples", 4, "--max-tokens", 16)
    assert done.code == 0, done.err
    assert done.scores == json.loads((done.folder / "scores.json").read_text())
    (result,) = done.scores["benchmarks"].values()
    assert result["status"] == done.scores["status"] == "complete"
    assert result["scores"]["num_samples"] == 12
    assert sorted({(row["problem"], row["index"]) for row in done.rows}) == [
        (name, index) for name in ("colour", "crate", "who") for index in range(4)
    ]
    assert all(0 < row["num_tokens"] <= 16 for row in done.rows)
    assert "3 of 3 gold answers equal themselves" in done.err
    assert done.scores["model"]["fingerprint"]
    assert done.scores["benchmarks"][str(given / "mine.jsonl")]["data"]["fingerprint"]
    assert done.scores["command"].startswith("k15 eval ")


def test_the_readmes_words_work_as_they_stand(given, tmp_path, monkeypatch, capfd):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (block,) = [b for b in readme.split("```") if "cat > mine.jsonl" in b]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DIR").symlink_to(given / "model")
    written, command = block.split("\nEND\n")
    assert subprocess.run(["bash", "-c", f"{written}\nEND\n"], timeout=60).returncode == 0
    words = shlex.split(command.replace("1024", "16"))  # this model's context is 192 tokens
    assert words[:2] == ["k15", "eval"]
    assert main(words[1:]) == 0
    results = json.loads(capfd.readouterr().out)["benchmarks"]["mine.jsonl"]
    assert (results["scores"]["num_problems"], results["scores"]["num_samples"]) == (3, 24)
    assert results["refused_golds"] == []
    assert (tmp_path / "runs" / "eval-DIR-mine" / "samples.jsonl").exists()


def test_every_number_can_be_computed_again_without_the_model(k15, given):
    done = k15("--benchmarks", f"gsm8k,trial,{given / 'mine.jsonl'}", "--data", given / "data", "--limit", 5,
               "--samples", 2, "--max-tokens", 24)  # fmt: skip
    assert done.code == 0, done.err
    again = k15("--rescore", done.folder, model=None, run=None)
    assert again.code == 0, again.err
    assert again.scores["benchmarks"] == done.scores["benchmarks"]
    assert again.scores["changed_verdicts"] == []
    # a reply that becomes right is seen: the numbers come from the rows
    rows = done.rows
    rows[0] |= {"reply": rf"\boxed{{{rows[0]['gold']}}}"}
    write_rows(done.folder / "samples.jsonl", rows)
    changed = k15("--rescore", done.folder, model=None, run=None)
    name = rows[0]["benchmark"]
    assert [c["problem"] for c in changed.scores["changed_verdicts"]] == [rows[0]["problem"]]
    before = done.scores["benchmarks"][name]["scores"]["pass@1"]
    assert changed.scores["benchmarks"][name]["scores"]["pass@1"] == pytest.approx(before + 1 / 2 / 5)


def test_the_same_command_goes_on_and_gives_the_same_samples(k15, given):
    words = (
        "--benchmarks",
        f"gsm8k,{given / 'mine.jsonl'}",
        "--data",
        given / "data",
        "--max-tokens",
        12,
    )
    whole = k15(*words, "--samples", 3, run="whole")
    part = k15(*words, "--samples", 3, run="part")
    path = part.folder / "samples.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:7]) + lines[7][:40])  # killed while it wrote the eighth row
    again = k15(*words, "--samples", 3, run="part")
    assert again.code == 0, again.err
    assert sorted_rows(again.rows) == sorted_rows(whole.rows)
    assert again.scores["benchmarks"] == whole.scores["benchmarks"]
    # more samples go on from the old ones; a smaller benchmark set is a part of the old one
    more = k15(*words, "--samples", 5, run="part")
    assert [r for r in sorted_rows(more.rows) if r["index"] < 3] == sorted_rows(whole.rows)
    one = k15(
        "--benchmarks", "gsm8k", "--data", given / "data", "--max-tokens", 12, "--samples", 3, run="part"
    )
    assert one.scores["benchmarks"]["gsm8k"] == whole.scores["benchmarks"]["gsm8k"]
    assert len(one.rows) == len(more.rows)


def test_a_kill_loses_at_most_the_batch_that_was_not_written(given, tmp_path):
    words = ["eval", given / "model", "--benchmarks", "gsm8k", "--data", given / "data", "--max-tokens", "12",
             "--samples", "40", "--run", tmp_path / "run"]  # fmt: skip
    command = [sys.executable, "-m", "k15.cli", *map(str, words)]
    killed = subprocess.run(
        command,
        env=os.environ | {"K15_CRASH": "samples.after_write:100"},
        capture_output=True,
        timeout=120,
    )
    assert killed.returncode == -9
    rows = (tmp_path / "run" / "samples.jsonl").read_text().splitlines()
    assert 64 <= len(rows) < 240
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["benchmarks"]["gsm8k"]["scores"]["num_samples"] == 240


def test_a_stop_writes_what_is_there_and_says_that_it_is_not_all(k15, given, monkeypatch):
    words = (
        "--benchmarks",
        "gsm8k,trial",
        "--limit",
        6,
        "--data",
        given / "data",
        "--max-tokens",
        8,
        "--samples",
        2,
    )
    make_samples = evaluation.to_samples

    def interrupted(*arguments):
        for count, sample in enumerate(make_samples(*arguments), start=1):
            yield sample
            if count == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "to_samples", interrupted)
        stopped = k15(*words)
    assert stopped.code == 75
    assert stopped.scores["status"] == stopped.scores["benchmarks"]["gsm8k"]["status"] == "incomplete"
    assert stopped.scores["benchmarks"]["gsm8k"]["scores"] is None
    assert 5 <= len(stopped.rows) < 12
    done = k15(*words)
    assert (done.code, len(done.rows)) == (0, 24)


def test_another_temperature_is_not_mixed_in(k15, given):
    words = ("--benchmarks", "gsm8k", "--data", given / "data", "--max-tokens", 12, "--samples", 2)
    assert k15(*words).code == 0
    mixed = k15(*words, "--temperature", 0.5)
    assert mixed.code == 2
    assert "temperature was 1.0 and is 0.5" in mixed.err
    fresh = k15(*words, "--temperature", 0.5, "--fresh")
    assert fresh.code == 0
    assert len(fresh.rows) == 12


class Failing(EmbeddedEngine):
    """Stops in the middle of its third completion."""

    def extend(self, work, sampling):
        for count, segment in enumerate(super().extend(work, sampling)):
            if count == 3:
                raise EngineError("the server is gone")
            yield segment


class Forgetful(EmbeddedEngine):
    """Never answers the first request."""

    def extend(self, work, sampling):
        yield from super().extend(list(work)[1:], sampling)


@pytest.mark.parametrize(
    ("broken", "missing", "why"),
    [(Failing, 9, "the server is gone"), (Forgetful, 1, "the engine did not return them")],
)
def test_failed_requests_make_it_invalid_and_the_next_call_repairs_it(
    k15, given, monkeypatch, broken, missing, why
):
    words = (
        "--benchmarks",
        "gsm8k,trial",
        "--limit",
        6,
        "--data",
        given / "data",
        "--max-tokens",
        8,
        "--samples",
        2,
    )
    with monkeypatch.context() as patch:
        patch.setattr(
            evaluation,
            "make_engine",
            lambda settings, policy: broken(policy.model, num_slots=8, num_threads=1),
        )
        done = k15(*words)
    assert done.code == 1
    result = done.scores["benchmarks"]["gsm8k"]
    assert (done.scores["status"], result["status"], result["scores"]) == ("INVALID", "INVALID", None)
    assert result["num_missing"] == missing
    assert why in result["why"][0]
    assert "INVALID" in done.err
    assert len(done.rows) == 2 * (12 - missing)
    rescored = k15("--rescore", done.folder, model=None, run=None)
    assert (rescored.code, rescored.scores["status"]) == (1, "INVALID")
    repaired = k15(*words)
    assert (repaired.code, repaired.scores["status"]) == (0, "complete")
    whole = k15(*words, run="whole")
    assert sorted_rows(repaired.rows) == sorted_rows(whole.rows)


def test_too_many_faults_of_ours_make_it_invalid(k15, given, tmp_path):
    rows = [*OWN, {"question": "What?", "choices": ["so", "So."], "answer": "A", "id": "twice"}]
    path = write_rows(tmp_path / "odd.jsonl", rows)
    words = ("--benchmarks", path, "--samples", 1, "--max-tokens", 8)
    done = k15(*words)
    assert done.code == 1
    assert "3 of 4 gold answers equal themselves" in done.err
    (result,) = done.scores["benchmarks"].values()
    assert "25.0% of the verdicts are our own faults" in result["why"][0]
    assert [gold["problem"] for gold in result["refused_golds"]] == ["twice"]
    allowed = k15(*words, "--max-invalid-share", 0.3)
    (result,) = allowed.scores["benchmarks"].values()
    assert (
        allowed.code,
        result["scores"]["invalid_share"],
        result["scores"]["num_scored_problems"],
    ) == (0, 0.25, 3)


def test_what_does_not_fit_the_model_is_refused_and_not_scored_as_wrong(k15, given):
    done = k15("--benchmarks", "gsm8k", "--data", given / "data", "--max-tokens", 5000)
    assert done.code == 2
    assert "Set --max-tokens" in done.err
    assert not done.folder.exists()


def test_a_dry_run_writes_nothing(k15, given):
    done = k15("--benchmarks", "gsm8k", "--data", given / "data", "--dry-run")
    assert (done.code, done.scores["status"]) == (0, "planned")
    assert not done.folder.exists()


def test_a_run_folder_is_a_model_and_gets_a_card(k15, given, tmp_path):
    run = tmp_path / "sft"
    recipe = tmp_path / "sft.toml"
    recipe.write_text(
        "[data]\npath='x'\n[[stages]]\nrow_tokens=192\nnum_steps=2\n[run]\nsave_every=1\nnum_threads=1\n"
    )
    demonstrations = write_rows(
        tmp_path / "demo.jsonl", [{"prompt": p["question"], "completion": p["answer"]} for p in PROBLEMS]
    )
    words = ["sft", recipe, "--model", given / "model", "--data", demonstrations, "--run", run]
    assert main([str(word) for word in words]) == 0
    card = (run / "model" / "README.md").read_text()
    assert "supervised fine-tuning" in card
    done = k15("--benchmarks", "gsm8k", "--data", given / "data", "--max-tokens", 8, "--card", model=run)
    assert done.code == 0, done.err
    assert done.scores["model"]["loaded_from"] == str(run / "model")
    card = (run / "model" / "README.md").read_text()
    assert "| gsm8k | 0.0% |" in card
    assert "supervised fine-tuning" in card
    (run / "model" / "config.json").rename(run / "hidden")  # as if the run had not come to its end
    done = k15(
        "--benchmarks", "gsm8k", "--data", given / "data", "--max-tokens", 8, model=run, run="unfinished"
    )
    assert done.code == 0, done.err
    assert "checkpoints" in done.scores["model"]["loaded_from"]
    done = k15("--benchmarks", "gsm8k", "--data", given / "data", "--card", model=run, run="unfinished")
    assert done.code == 2
    assert "would change the checkpoint" in done.err


@pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="programs run in bubblewrap, which is not installed"
)
def test_programs_are_run_and_chosen_by_vote(k15, tmp_path, monkeypatch):
    """The replies are written here, the sandbox is real: two of three programs are right, and they are chosen."""
    row = {"question": "Double the number.", "verifier": "code", "id": "double",
           "answer": {"tests": [{"stdin": "21", "expected": "42"}, {"stdin": "0", "expected": "0"}]}}  # fmt: skip
    path = write_rows(
        tmp_path / "code.jsonl", [row, row | {"id": "again", "question": "Twice the number."}]
    )
    replies = ["print(int(input()) + 2)", "print(2 * int(input()))", "x = int(input())\nprint(x + x)"]
    make_samples = evaluation.to_samples

    def written(segments, benchmark, questions, policy):
        for sample in make_samples(segments, benchmark, questions, policy):
            text = "5" if benchmark.endswith("/inputs") else replies[sample.index]
            yield replace(sample, reply=f"```python\n{text}\n```")

    monkeypatch.setattr(evaluation, "to_samples", written)
    words = ("--benchmarks", path, "--samples", 3, "--vote-inputs", 2, "--max-tokens", 4)
    done = k15(*words)
    assert done.code == 0, done.err
    result = done.scores["benchmarks"][str(path)]
    assert result["scores"]["pass@1"] == pytest.approx(2 / 3)
    assert result["vote"]["pass@1"] == 1.0
    assert result["vote"]["chosen"] == {"double": 1, "again": 1}
    assert len(done.rows) == 2 * (3 + 2)
    again = k15("--rescore", done.folder, model=None, run=None)
    assert again.scores["benchmarks"] == done.scores["benchmarks"]
    write_rows(path, [row | {"answer": {"tests": [{"stdin": "21", "expected": "43"}]}}])
    changed = k15("--rescore", done.folder, model=None, run=None)
    assert changed.code == 1
    assert "has changed" in changed.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--benchmarks", "nosuch"), "there is no benchmark 'nosuch'"),
        (("--benchmarks", "gsm8k", "--data", "/nowhere"), "is none"),
        (("--rescore", "/nowhere"), "cannot be read"),
        (("--rescore", "DIR", "--samples", "3"), "--rescore takes its settings"),
        ((), "benchmarks"),
    ],
)
def test_mistakes_are_named(k15, words, message):
    is_rescore = "--rescore" in words
    done = k15(*words, run=None, **({"model": None} if is_rescore else {}))
    assert done.code in (1, 2)
    assert message in done.err


def test_a_model_is_needed(k15):
    done = k15("--benchmarks", "trial", model=None)
    assert done.code == 2
    assert "needs a model" in done.err


def test_reference_solutions_of_an_own_file_are_right(k15, given):
    done = k15("--reference", "--benchmarks", f"gsm8k,countdown,{given / 'mine.jsonl'}", "--data", given / "data",
               model=None)  # fmt: skip
    assert done.code == 0, done.err
    for result in done.scores["benchmarks"].values():
        assert result["scores"]["pass@1"] == 1.0
        assert result["not_right"] == []


@pytest.mark.skipif(
    "K15_BENCHMARKS" not in os.environ, reason="set K15_BENCHMARKS to a folder with the public files"
)
def test_reference_solutions_of_the_public_benchmarks_are_right(k15):
    done = k15("--reference", "--benchmarks", "math500,gsm8k,aime2024", "--data", os.environ["K15_BENCHMARKS"],
               model=None)  # fmt: skip
    assert done.code == 0, done.err
    results = done.scores["benchmarks"]
    assert results["math500"]["not_right"] == results["gsm8k"]["not_right"] == []
    assert all(result["refused_golds"] == [] for result in results.values())
    # one solution never states its answer
    assert {row["problem"]: row["outcome"] for row in results["aime2024"]["not_right"]}.get(
        "60"
    ) == "no_answer"
    assert results["aime2024"]["scores"]["pass@1"] >= 28 / 30
