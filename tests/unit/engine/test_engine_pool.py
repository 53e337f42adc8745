"""The pool: a single engine's tokens, whoever samples them and whatever happens to the workers."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from engine_support import VOCAB, by_key, make_work, tiny_model
from transformers import GPT2Config, GPT2LMHeadModel

from k15.engine.embedded import EmbeddedEngine
from k15.engine.pool import EnginePool, embedded_pool
from k15.errors import EngineError, StaleWeightsError, WorkerDiedError
from k15.types import SamplingParams, StopReason, Work
from k15.weights.fingerprint import snapshot

SAMPLING = SamplingParams(seed=5, max_tokens=60, stop_ids=(0, 1), banned_ids=(2, 95))
NUM_SLOTS = 4


@pytest.fixture(scope="module")
def pool(model, weights) -> Iterator[EnginePool]:
    with embedded_pool(model, num_workers=3, num_slots=NUM_SLOTS, max_restarts=100) as pool:
        pool.load_weights(weights)
        yield pool


@pytest.fixture(scope="module")
def reference(model, weights) -> EmbeddedEngine:
    engine = EmbeddedEngine(model, num_slots=NUM_SLOTS)
    engine.load_weights(weights)
    return engine


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet waited for does not."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def wait_until(condition, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_three_workers_give_the_tokens_of_one_engine(pool, reference) -> None:
    work = make_work(12, 4, seed=1)
    work = [dataclasses.replace(w, token_ids=(7, 8) * w.sample_index) for w in work]
    sampling = dataclasses.replace(SAMPLING, segment_tokens=20)
    expected = by_key(reference.extend(work, sampling))
    assert by_key(pool.extend(work, sampling)) == expected
    assert by_key(pool.extend(work[::-1], sampling)) == expected
    stats = pool.stats
    assert stats.num_tokens == sum(len(s.token_ids) for s in expected.values())
    assert stats.busy_slot_steps == stats.num_tokens
    assert 0.2 < stats.occupancy <= 1
    assert pool.fingerprint == reference.fingerprint


def test_a_killed_worker_is_replaced_and_its_work_done_again(pool, reference) -> None:
    work = make_work(15, 4, seed=2)
    expected = by_key(reference.extend(work, SAMPLING))
    pool.take_notices()
    before = pool.worker_pids
    found = []
    for segment in pool.extend(work, SAMPLING):
        found.append(segment)
        if len(found) in (1, 25):
            os.kill(pool.worker_pids[len(found) % 3], signal.SIGKILL)
    assert by_key(found) == expected
    assert set(pool.worker_pids) != set(before)
    notices = pool.take_notices()
    assert 1 <= len(notices) <= 2  # the second victim may have ended before anyone listened
    assert re.search(
        r"engine worker \d \(process \d+\) was killed by signal 9; .* \d+ trajectories", notices[0]
    )
    assert not any(is_alive(pid) for pid in set(before) - set(pool.worker_pids))


def test_a_worker_that_died_while_idle_is_replaced(pool, reference) -> None:
    work = make_work(3, 2, seed=3)
    os.kill(pool.worker_pids[0], signal.SIGKILL)
    assert by_key(pool.extend(work, SAMPLING)) == by_key(reference.extend(work, SAMPLING))


def test_new_weights_reach_every_worker(pool, weights) -> None:
    other = snapshot(tiny_model(seed=7), version=8)
    single = EmbeddedEngine(tiny_model(seed=7), num_slots=NUM_SLOTS)
    single.load_weights(other)
    work = make_work(9, 2, seed=4)
    try:
        pool.load_weights(other)
        found = by_key(pool.extend(work, SAMPLING))
    finally:
        pool.load_weights(weights)
    assert {(s.policy_version, s.fingerprint) for s in found.values()} == {(8, other.fingerprint)}
    assert found == by_key(single.extend(work, SAMPLING))


def test_weights_that_changed_on_the_way_stop_the_pool_until_it_has_good_ones(pool, weights) -> None:
    tensors = {name: tensor.clone() for name, tensor in weights.tensors.items()}
    tensors["model.norm.weight"][0] += 1e-6
    try:
        with pytest.raises(
            StaleWeightsError, match=r"(?s)hand them over again.*engine worker \d:\nTraceback"
        ):
            pool.load_weights(dataclasses.replace(weights, tensors=tensors))
        assert pool.fingerprint is None
        with pytest.raises(StaleWeightsError, match="none were loaded"):
            pool.extend([], SAMPLING)
    finally:
        pool.load_weights(weights)


def test_an_error_in_a_worker_surfaces_with_its_traceback(pool, reference) -> None:
    work = [*make_work(3, 2), Work(77, 1, (VOCAB + 5,))]
    with pytest.raises(
        EngineError, match=r"(?s)ordinal 77, sample 1.*engine worker \d:\nTraceback.*slots\.py"
    ):
        list(pool.extend(work, SAMPLING))
    good = make_work(3, 2, seed=5)
    assert by_key(pool.extend(good, SAMPLING)) == by_key(reference.extend(good, SAMPLING))


def test_an_abandoned_extend_leaves_nothing_behind(pool, reference) -> None:
    work = make_work(10, 4, seed=6)
    running = pool.extend(work, SAMPLING)
    next(running)
    with pytest.raises(EngineError, match="one extend at a time"):
        next(pool.extend(work, SAMPLING))
    running.close()
    assert by_key(pool.extend(work, SAMPLING)) == by_key(reference.extend(work, SAMPLING))


def test_work_is_drawn_when_it_is_needed_and_groups_stay_together(pool) -> None:
    drawn = []

    def lazy():
        for piece in make_work(60, 4, seed=7):
            drawn.append(piece)
            yield piece

    segments = pool.extend(lazy(), dataclasses.replace(SAMPLING, max_tokens=400, stop_ids=(0,)))
    next(segments)
    assert len(drawn) <= 3 * (NUM_SLOTS + 1 + 4) + 2
    segments.close()
    sampling = dataclasses.replace(SAMPLING, max_tokens=2)
    list(pool.extend(make_work(12, 4, seed=7, longest_prompt=80), sampling))
    total = sum(len(w.prompt_token_ids) - 1 for w in make_work(12, 4, seed=7, longest_prompt=80))
    assert pool.stats.num_prefill_tokens < 0.5 * total


def test_nothing_to_do_and_work_at_its_cap(pool) -> None:
    assert list(pool.extend([], SAMPLING)) == []
    (segment,) = pool.extend([Work(0, 0, (5,), (7,) * 60)], SAMPLING)
    assert (segment.token_ids, segment.stop) == ((), StopReason.LENGTH)


def test_handing_weights_over_leaves_no_descriptor_open(pool, weights) -> None:
    def num_open(pid: int) -> int:
        return len(os.listdir(f"/proc/{pid}/fd"))

    pids = (os.getpid(), *pool.worker_pids)
    pool.load_weights(weights)
    before = [num_open(pid) for pid in pids]
    for _ in range(3):
        pool.load_weights(weights)
    assert [num_open(pid) for pid in pids] == before


def test_any_other_model_runs_in_workers_and_dying_too_often_is_an_error() -> None:
    torch.manual_seed(0)
    shape = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 128}
    model = GPT2LMHeadModel(GPT2Config(**shape, initializer_range=0.3)).eval()
    weights = snapshot(model, 0)
    single = EmbeddedEngine(model, num_slots=2)
    single.load_weights(weights)
    work = make_work(4, 2, longest_prompt=30)
    with embedded_pool(model, num_workers=1, num_slots=2, max_restarts=0) as pool:
        (pid,) = pool.worker_pids
        with pytest.raises(StaleWeightsError):
            pool.extend(work, SAMPLING)
        pool.load_weights(weights)
        assert by_key(pool.extend(work, SAMPLING)) == by_key(single.extend(work, SAMPLING))
        running = pool.extend(work, SAMPLING)
        next(running)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerDiedError, match=r"may die 0 times .*killed by signal 9"):
            list(running)
    assert wait_until(lambda: not is_alive(pid))
    with pytest.raises(EngineError, match="closed"):
        pool.load_weights(weights)
    pool.close()  # twice does no harm


SCRIPT = """
import sys, time

if __name__ == "__main__":
    sys.path[:0] = {paths!r}
    from engine_support import make_work, tiny_model
    from k15.engine.pool import embedded_pool
    from k15.types import SamplingParams
    from k15.weights.fingerprint import snapshot

    model = tiny_model()
    pool = embedded_pool(model, num_workers=2, num_slots=4)
    pool.load_weights(snapshot(model, 0))
    try:
        print(*pool.worker_pids, flush=True)
        for _ in pool.extend(make_work(10**6, 1), SamplingParams(seed=0, max_tokens=100)):
            pass
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        time.sleep(1)  # time for a worker to complain
        sys.exit(3)
"""


@pytest.fixture
def running_script(tmp_path):
    """A process with a busy pool of two workers, and their process ids."""
    script = tmp_path / "script.py"
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[3])]
    script.write_text(SCRIPT.format(paths=paths))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2, process.communicate()[1]
    yield process, pids
    process.kill()
    process.communicate()


def test_workers_do_not_outlive_a_killed_parent(running_script) -> None:
    process, pids = running_script
    assert all(is_alive(pid) for pid in pids)
    process.kill()
    assert process.wait(10) == -signal.SIGKILL
    assert wait_until(lambda: not any(is_alive(pid) for pid in pids), 20)


def test_ctrl_c_reaches_the_parent_alone(running_script) -> None:
    process, pids = running_script
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    out, err = process.communicate(timeout=30)
    assert process.returncode == 3
    assert out.strip() == "interrupted"
    assert "Traceback" not in err, err
    assert wait_until(lambda: not any(is_alive(pid) for pid in pids), 20)
