"""A run that is killed, stopped or damaged ends with the unbroken run's weights (REL-01, 02, 03, 07, 13, 22, 26)."""

import json
import os
import random
import signal
from pathlib import Path

import pytest

from k15.testing.lives import Lives
from k15.testing.tiny import NUM_ITERATIONS, outcome, rl_arguments, sft_arguments, trained_ordinals


@pytest.fixture(scope="module")
def lives():
    preload = ["k15.stages.launch", "transformers.models.qwen3.modeling_qwen3"]
    with Lives("k15.cli:main", preload) as server:
        yield server


@pytest.fixture(scope="module")
def base(lives, tmp_path_factory):
    """A trained tiny model, the recipe, the unbroken run, and the crash points it passes, in order."""
    folder = tmp_path_factory.mktemp("resume")
    log = folder / "sft.log"
    assert lives.run(sft_arguments(folder, folder / "sft"), log=str(log)) == 0, log.read_text()
    return folder


def rl(base: Path, run: Path, *more) -> list:
    return [*rl_arguments(base, run, base / "sft" / "model"), *more]


@pytest.fixture(scope="module")
def unbroken(lives, base):
    points = base / "points"
    assert (
        lives.run(rl(base, base / "unbroken"), count_file=str(points), log=str(base / "unbroken.log"))
        == 0
    )
    return points.read_text().split()


def test_the_unbroken_run_trains_every_prompt_ordinal_at_most_once(base, unbroken):
    seen = trained_ordinals(base / "unbroken")
    assert len(seen) == len(set(seen)) > NUM_ITERATIONS
    assert len(outcome(base / "unbroken")["metrics"]) == NUM_ITERATIONS + 1


def test_the_unbroken_run_does_something_in_every_iteration(base, unbroken):
    """Otherwise all tests below would pass on a run that never changes."""
    assert (
        len(set(outcome(base / "unbroken")["fingerprints"])) >= NUM_ITERATIONS - 1
    )  # one may finish no group
    rows = [
        json.loads(line)
        for path in (base / "unbroken" / "rollouts").iterdir()
        for line in path.read_text().splitlines()
    ]
    assert max(len(row["segments"]) for row in rows) > 2
    assert "end" in {row["stop"] for row in rows}
    assert any(row["advantage"] != 0 for row in rows)


def test_the_same_seed_gives_the_same_run_with_three_engine_workers(lives, base, unbroken, tmp_path):
    log = str(tmp_path / "log")
    assert lives.run(rl(base, tmp_path / "run", "--engine.num_workers", "3"), log=log) == 0, Path(
        log
    ).read_text()
    assert outcome(tmp_path / "run") == outcome(base / "unbroken")


def test_another_seed_gives_another_run(lives, base, unbroken, tmp_path):
    assert lives.run(rl(base, tmp_path / "run", "--run.seed", "1")) == 0
    assert outcome(tmp_path / "run")["model"] != outcome(base / "unbroken")["model"]


@pytest.mark.parametrize("chunk", range(4))
def test_sigkill_at_random_events_changes_nothing(lives, base, unbroken, tmp_path, chunk):
    """REL-01: 20 kill points here, drawn over all events of the run; `studies/kills.py` does more."""
    rng = random.Random(chunk)
    expected = outcome(base / "unbroken")
    for number in sorted(rng.sample(range(1, len(unbroken) + 1), 5)):
        run, log = tmp_path / f"run{number}", str(tmp_path / f"log{number}")
        assert lives.run(rl(base, run), crash=f"*:{number}", log=log) == -signal.SIGKILL, number
        assert lives.run(rl(base, run), log=log) == 0, Path(log).read_text()
        assert outcome(run) == expected, (number, unbroken[number - 1])


def test_sigkill_at_every_named_point_changes_nothing(lives, base, unbroken, tmp_path):
    """REL-02: each name fires, at its middle occurrence."""
    expected = outcome(base / "unbroken")
    names = sorted(set(unbroken))
    assert len(names) >= 20
    for name in names:
        run, log = tmp_path / name, str(tmp_path / f"{name}.log")
        count = (unbroken.count(name) + 1) // 2
        assert lives.run(rl(base, run), crash=f"{name}:{count}", log=log) == -signal.SIGKILL, name
        assert lives.run(rl(base, run), log=log) == 0, Path(log).read_text()
        assert outcome(run) == expected, name


def test_a_run_that_dies_again_and_again_still_arrives(lives, base, unbroken, tmp_path):
    expected, run, log = outcome(base / "unbroken"), tmp_path / "run", str(tmp_path / "log")
    statuses = []
    while not statuses or statuses[-1] != 0:
        statuses.append(lives.run(rl(base, run), crash=f"*:{len(unbroken) // 3}", log=log))
        assert len(statuses) < 12, Path(log).read_text()
    assert statuses[:2] == [-signal.SIGKILL] * 2
    assert outcome(run) == expected


def test_segments_of_a_killed_rollout_phase_are_not_sampled_again(lives, base, unbroken, tmp_path):
    """REL-13: the journal's segments are taken over; nothing is lost, nothing regenerated."""
    appended = [i for i, name in enumerate(unbroken, 1) if name.startswith("journal.")]
    run, log = tmp_path / "run", str(tmp_path / "log")
    assert (
        lives.run(rl(base, run), crash=f"*:{appended[len(appended) // 2]}", log=log) == -signal.SIGKILL
    )
    assert lives.run(rl(base, run), log=log) == 0
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(m.get("rollout/num_recovered", 0) for m in metrics) > 0
    assert outcome(run) == outcome(base / "unbroken")


def test_a_kill_with_fifty_unfinished_trajectories_loses_none(lives, base, tmp_path):
    """REL-13: lengths and versions of all that is trained are the unbroken run's."""
    many = ["--rollout.prompts_in_flight", "16", "--rollout.group_size", "4", "--num_iterations", "5"]
    many += ["--rollout.segment_tokens", "16"]
    points = tmp_path / "points"
    assert lives.run(rl(base, tmp_path / "unbroken", *many), count_file=str(points)) == 0
    metrics = [
        json.loads(line) for line in (tmp_path / "unbroken" / "metrics.jsonl").read_text().splitlines()
    ]
    assert metrics[0]["rollout/unfinished_trajectories"] >= 50
    appends = [
        i for i, name in enumerate(points.read_text().split(), 1) if name == "journal.after_append"
    ]
    run = tmp_path / "run"
    killed_at = appends[len(appends) // 2 + 5]
    assert lives.run(rl(base, run, *many), crash=f"*:{killed_at}") == -signal.SIGKILL
    assert lives.run(rl(base, run, *many)) == 0
    assert outcome(run) == outcome(tmp_path / "unbroken")


def test_a_damaged_checkpoint_is_passed_over_with_the_same_end(lives, base, unbroken, tmp_path):
    """REL-07 for the whole loop: one flipped bit in the newest checkpoint's weights."""
    run, log = tmp_path / "run", str(tmp_path / "log")
    last_save = max(i for i, name in enumerate(unbroken, 1) if name == "checkpoint.before_mkdir")
    assert lives.run(rl(base, run), crash=f"*:{last_save}", log=log) == -signal.SIGKILL
    newest = max(
        (run / "checkpoints").glob("iteration_" + "[0-9]" * 6)
    )  # not iteration_000005.tmp-1f2e3d45
    weights = newest / "policy" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    assert lives.run(rl(base, run), log=log) == 0, Path(log).read_text()
    kinds = [json.loads(line)["kind"] for line in (run / "events.jsonl").read_text().splitlines()]
    assert "fallback" in kinds
    assert outcome(run) == outcome(base / "unbroken")


def test_never_from_scratch_when_all_checkpoints_are_damaged(lives, base, unbroken, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    last_save = max(i for i, name in enumerate(unbroken, 1) if name == "checkpoint.before_mkdir")
    assert lives.run(rl(base, run), crash=f"*:{last_save}") == -signal.SIGKILL
    for weights in (run / "checkpoints").glob("iteration_*/policy/model.safetensors"):
        weights.write_bytes(b"damaged")
    assert lives.run(rl(base, run), log=str(log)) == 1
    assert "--fresh" in log.read_text()
    assert lives.run(rl(base, run, "--fresh"), log=str(log)) == 0
    assert outcome(run) == outcome(base / "unbroken")


def test_raising_the_number_of_iterations_goes_on(lives, base, unbroken, tmp_path):
    """REL-26: 0 means all planned iterations are done; planning more continues the same run."""
    run, log = tmp_path / "run", str(tmp_path / "log")
    assert lives.run(rl(base, run, "--num_iterations", "3"), log=log) == 0
    assert lives.run(rl(base, run), log=log) == 0, Path(log).read_text()
    assert outcome(run)["model"] == outcome(base / "unbroken")["model"]


def test_a_changed_prompt_set_refuses_to_resume(lives, base, unbroken, tmp_path):
    """REL-25."""
    run, log = tmp_path / "run", tmp_path / "log"
    assert lives.run(rl(base, run, "--num_iterations", "2"), log=str(log)) == 0
    assert lives.run(rl(base, run, "--prompts.seed", "5"), log=str(log)) == 2
    assert "prompts.seed" in log.read_text()


def test_sft_killed_at_every_event_ends_with_the_same_weights(lives, base, tmp_path):
    """REL-03 for supervised fine-tuning: the optimizer's moments are part of the state."""
    points = tmp_path / "points"
    sft = ["sft", base / "sft.toml", "--run"]
    assert lives.run([*sft, tmp_path / "unbroken"], count_file=str(points)) == 0
    count = len(points.read_text().split())
    weights = (base / "sft" / "model" / "model.safetensors").read_bytes()
    assert (tmp_path / "unbroken" / "model" / "model.safetensors").read_bytes() == weights
    for number in range(2, count + 1, max(1, count // 12)):
        run = tmp_path / f"run{number}"
        assert lives.run([*sft, run], crash=f"*:{number}") == -signal.SIGKILL
        assert lives.run([*sft, run]) == 0
        assert (run / "model" / "model.safetensors").read_bytes() == weights, number


def test_stopping_in_every_iteration_gives_the_same_run(lives, base, unbroken, tmp_path):
    """REL-03 and REL-22: SIGTERM in every iteration, while training or while sampling; 75 says there is more to do."""
    run, log = tmp_path / "run", str(tmp_path / "log")
    codes = []
    while not codes or codes[-1] != 0:
        point = "trainer.reset_optimizer:1" if len(codes) % 2 else "journal.after_append:4"
        codes.append(lives.run(rl(base, run), crash=point, signal_name="SIGTERM", log=log))
        assert codes[-1] in (0, 75), Path(log).read_text()
        assert len(codes) < 40
    assert codes.count(75) >= NUM_ITERATIONS - 1
    assert outcome(run) == outcome(base / "unbroken")


def test_lives_really_die(lives, base, tmp_path):
    """REL-29, the witness of all tests above: a crash point that does not exist kills nobody."""
    run = tmp_path / "run"
    assert lives.run(rl(base, run, "--num_iterations", "1"), crash="no.such.point:1") == 0
    assert os.path.isdir(run / "model")
