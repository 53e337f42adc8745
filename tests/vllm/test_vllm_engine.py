"""vLLM keeps the promises of `Engine`: tokens, log-probabilities, weights, deaths."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from vllm_support import NUM_SLOTS, SHAPE, VOCAB, by_key, largest_gap, make_pool, make_work, qwen3

from k15.engine.embedded import EmbeddedEngine
from k15.errors import EngineError, StaleWeightsError
from k15.types import RepetitionRule, SamplingParams, StopReason, Work
from k15.weights.fingerprint import snapshot

SAMPLING = SamplingParams(seed=7, max_tokens=120, temperature=0.9, stop_ids=(2,), banned_ids=(0, 1))
FP32_TOLERANCE = 1e-4  # nats; measured 1e-5
BF16_TOLERANCE = 0.1  # nats; measured 0.04, as much as between bf16 and fp32 of the model itself


def same_share(first, second) -> float:
    """Share of the trajectories whose tokens and stops are equal."""
    one, other = by_key(first), by_key(second)
    assert one.keys() == other.keys()
    same = [(a.token_ids, a.stop) == (other[k].token_ids, other[k].stop) for k, a in one.items()]
    return sum(same) / len(same)


def test_greedy_tokens_are_the_embedded_engines(engine, reference):
    work, sampling = make_work(8, 1), replace(SAMPLING, temperature=0.0)
    found, expected = (by_key(e.extend(work, sampling)) for e in (engine, reference))
    assert {k: s.token_ids for k, s in found.items()} == {k: s.token_ids for k, s in expected.items()}
    assert {k: s.stop for k, s in found.items()} == {k: s.stop for k, s in expected.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 1.3, "top_k": 20, "top_p": 0.9},
        {"segment_tokens": 25},
        {"repetition": RepetitionRule(8, 2, 6), "temperature": 0.3},
    ],
    ids=["plain", "cut", "segments", "loops"],
)
def test_sampled_tokens_are_the_embedded_engines_too(engine, reference, model, changes):
    """The number that decides a token is derived from its place, and the logits agree to 1e-5: all but a
    few of a thousand tokens are the same."""
    work, sampling = make_work(8, 4), replace(SAMPLING, **changes)
    found, expected = (list(e.extend(work, sampling)) for e in (engine, reference))
    assert same_share(found, expected) >= 0.9
    assert largest_gap(model, work, found, sampling.temperature) < FP32_TOLERANCE
    if sampling.repetition:
        assert any(s.stop is StopReason.REPEAT for s in found)


def test_the_same_call_gives_the_same_tokens_again(engine):
    work = make_work(8, 4)
    assert same_share(engine.extend(work, SAMPLING), engine.extend(work[::-1], SAMPLING)) >= 0.9
    other = replace(SAMPLING, seed=8)
    assert same_share(engine.extend(work, SAMPLING), engine.extend(work, other)) < 0.5


def test_banned_ids_are_never_sampled(engine, model):
    work = make_work(8, 4)
    free = Counter(t for s in engine.extend(work, SAMPLING) for t in s.token_ids)
    likely = tuple(token for token, _ in free.most_common(20) if token != 2)
    sampling = replace(SAMPLING, banned_ids=likely)
    segments = list(engine.extend(work, sampling))
    assert sum(len(s.token_ids) for s in segments) > 500
    assert not {t for s in segments for t in s.token_ids} & set(likely)
    # The log-probability is over the whole vocabulary, before bans.
    assert largest_gap(model, work, segments, sampling.temperature) < FP32_TOLERANCE


def test_segments_join_to_the_completion_that_was_not_interrupted(engine):
    work = make_work(6, 4)
    whole = by_key(engine.extend(work, SAMPLING))
    sampling = replace(SAMPLING, segment_tokens=30)
    open_work, joined = {(w.ordinal, w.sample_index): w for w in work}, {}
    while open_work:
        for segment in list(engine.extend(list(open_work.values()), sampling)):
            key = (segment.ordinal, segment.sample_index)
            assert len(segment.token_ids) <= 30
            joined[key] = (*joined.get(key, ()), *segment.token_ids)
            open_work[key] = replace(open_work[key], token_ids=joined[key])
            if segment.stop is not None:
                del open_work[key]
    same = [joined[key] == segment.token_ids for key, segment in whole.items()]
    assert sum(same) / len(same) >= 0.9


def test_work_is_drawn_lazily_and_segments_come_as_they_finish(engine):
    drawn = []

    def lazily():
        for piece in make_work(30, 4):
            drawn.append(piece)
            yield piece

    segments = engine.extend(lazily(), replace(SAMPLING, segment_tokens=20))
    next(segments)
    assert len(drawn) < 3 * NUM_SLOTS
    segments.close()  # what is unfinished is dropped, and the next call is undisturbed
    assert len(list(engine.extend(make_work(2, 2), SAMPLING))) == 4


def test_after_an_update_the_log_probabilities_are_the_new_policys(engine, model):
    """Long prompts and resumed completions: had keys and values of the old policy been kept, it would show."""
    work = make_work(4, 4, longest=200)
    first = by_key(engine.extend(work, replace(SAMPLING, segment_tokens=40)))
    resumed = [replace(w, token_ids=first[w.ordinal, w.sample_index].token_ids) for w in work]
    resumed = [w for w in resumed if first[w.ordinal, w.sample_index].stop is None]
    trained = qwen3()
    with torch.no_grad():
        for tensor in trained.parameters():
            tensor += 0.02 * torch.randn_like(tensor)
    update = snapshot(trained, version=2)

    engine.load_weights(update)
    segments = list(engine.extend(resumed, SAMPLING))

    assert {(s.policy_version, s.fingerprint) for s in segments} == {(2, update.fingerprint)}
    assert largest_gap(trained, resumed, segments, SAMPLING.temperature) < FP32_TOLERANCE
    assert largest_gap(model, resumed, segments, SAMPLING.temperature) > 0.1


def test_prefixes_are_read_once_by_one_policy_and_again_by_the_next(engine, weights):
    work = make_work(1, NUM_SLOTS, longest=3) and [
        Work(0, k, tuple(range(3, 103))) for k in range(NUM_SLOTS)
    ]
    once = replace(SAMPLING, max_tokens=1)
    list(engine.extend(work, once))
    cold = engine.stats.num_prefill_tokens
    list(engine.extend(work, once))
    warm = engine.stats.num_prefill_tokens
    engine.load_weights(weights)
    list(engine.extend(work, once))
    assert warm == NUM_SLOTS * (100 - 3 * 32)  # blocks of 32 tokens are shared
    assert cold == engine.stats.num_prefill_tokens > warm


def test_other_bytes_than_promised_are_not_sampled_from(engine, weights):
    with pytest.raises(StaleWeightsError, match="1f1f"):
        engine.load_weights(replace(weights, fingerprint="1f" * 16))
    with pytest.raises(StaleWeightsError):
        engine.extend([], SAMPLING)


def test_tensors_of_another_model_are_refused(engine, weights):
    tensors = dict(weights.tensors)
    tensors["model.layers.9.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"]
    with pytest.raises(EngineError):
        engine.load_weights(replace(weights, tensors=tensors))


def test_work_that_the_model_cannot_run_is_an_error_and_the_engine_lives_on(engine):
    with pytest.raises(EngineError, match="in the model's vocabulary"):
        list(engine.extend([Work(0, 0, (VOCAB,))], SAMPLING))
    assert len(list(engine.extend(make_work(1, 2), SAMPLING))) == 2


def test_a_killed_engine_is_started_again_and_nothing_is_lost(engine):
    work = make_work(8, 4)
    expected = list(engine.extend(work, SAMPLING))
    segments = engine.extend(work, SAMPLING)
    found = [next(segments)]
    (before,) = engine.worker_pids
    os.kill(before, signal.SIGKILL)
    found += segments
    assert same_share(found, expected) >= 0.9
    (notice,) = engine.take_notices()
    assert "killed by signal 9" in notice
    assert "reissued" in notice
    assert engine.worker_pids != (before,)


MILD = {**SHAPE, "initializer_range": 0.1}  # rounding errors grow with the logits
OTHERS = {
    "llama, bf16, own head": lambda: LlamaForCausalLM(LlamaConfig(**MILD)).to(torch.bfloat16),
    "qwen2, biases": lambda: Qwen2ForCausalLM(
        Qwen2Config(**{**MILD, "hidden_size": 128}, tie_word_embeddings=True)
    ),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_other_models_are_proven_and_sampled_from_as_well(make):
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("bias"):
                tensor.normal_(std=0.5)
    is_exact = model.dtype == torch.float32
    work, weights = make_work(6, 2), snapshot(model, version=1)
    with make_pool(model) as pool:
        pool.load_weights(weights)
        segments = list(pool.extend(work, SAMPLING))
        assert pool.fingerprint == weights.fingerprint
    gap = largest_gap(model, work, segments, SAMPLING.temperature)
    assert gap < (FP32_TOLERANCE if is_exact else BF16_TOLERANCE)
    if is_exact:
        embedded = EmbeddedEngine(model, num_slots=4)
        embedded.load_weights(weights)
        assert same_share(segments, embedded.extend(work, SAMPLING)) >= 0.9


FAULTY_UPDATE = """
import k15.engine.vllm as ours
from k15.errors import StaleWeightsError

def forgetful(self):  # what vLLM's own weight transfer does: the packed copy of the tied head stays
    ours.finalize_layerwise_reload(self.model, self.model_config)

ours.HandOver.finish_weight_update = forgetful
from vllm_support import qwen3
from k15.weights.fingerprint import snapshot
engine = ours.start(PLAN)
try:
    engine.load_weights(snapshot(qwen3(), version=1))
except StaleWeightsError as error:
    print("caught", error)
"""


def test_a_copy_that_an_update_does_not_reach_is_found(tmp_path):
    """A head that is tied to the embedding is kept twice on a CPU, once packed. One is old: not a token comes."""
    program = tmp_path / "faulty.py"
    program.write_text(
        "import dataclasses, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from k15.engine.vllm_plan import plan_vllm, prepare_process\n"
        "from vllm_support import qwen3\n"
        "PLAN = plan_vllm(qwen3(), num_slots=4, num_threads=1, max_positions=512, memory_share=0.1, is_eager=None)\n"
        "prepare_process(1)\n" + FAULTY_UPDATE
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=300)
    assert "caught An engine samples only from the weights it was handed" in done.stdout, done.stderr


def test_the_engine_ends_with_the_process_that_made_it(tmp_path):
    program = tmp_path / "parent.py"
    program.write_text(
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from vllm_support import make_pool, qwen3\n"
        "from k15.weights.fingerprint import snapshot\n"
        "if __name__ == '__main__':\n"
        "    pool = make_pool(qwen3())\n"
        "    pool.load_weights(snapshot(qwen3(), version=1))\n"
        "    print(*pool.worker_pids, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    end = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.2)
    assert not Path(f"/proc/{pid}").exists()
