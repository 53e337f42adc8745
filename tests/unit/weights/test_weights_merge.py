"""Merging checkpoints on disk: every tensor, any sharding, memory for one shard, mismatches by name (row 45)."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from k15.algo.merge import average, slerp, ties
from k15.config.parts import ModelConfig, TinyModelConfig
from k15.errors import ModelError
from k15.models.load import load_policy, make_policy
from k15.models.tiny import build_tiny_model
from k15.models.tokenizer import build_tokenizer
from k15.weights.merge import merge_checkpoints
from k15.weights.save import save_policy

TOKENIZER = build_tokenizer(["what is the sum"])
SHAPE = TinyModelConfig(num_layers=2, width=32, num_heads=2, mlp_width=48, max_positions=128)
MEAN = partial(average, weight=0.5)


def parent(directory: Path, seed: int, *, shape: TinyModelConfig = SHAPE, tokenizer=TOKENIZER) -> Path:
    policy = make_policy(build_tiny_model(shape, tokenizer, seed=seed), tokenizer)
    save_policy(policy, directory)
    return directory


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    return {k: v for f in sorted(directory.glob("*.safetensors")) for k, v in load_file(f).items()}


def reshard(directory: Path, count: int) -> None:
    """Deal a checkpoint's tensors out to several files, with the index that transformers writes."""
    whole = tensors(directory)
    (directory / "model.safetensors").unlink()
    weight_map = {}
    for number in range(count):
        name = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        part = {key: whole[key] for key in sorted(whole)[number::count]}
        save_file(part, directory / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(("long_shards", "short_shards"), [(1, 1), (3, 1), (1, 4), (3, 5)])
def test_every_tensor_is_the_average_whatever_the_sharding(tmp_path, long_shards, short_shards):
    long, short = parent(tmp_path / "long", 0), parent(tmp_path / "short", 1)
    before = [tensors(long), tensors(short)]
    for directory, count in ((long, long_shards), (short, short_shards)):
        if count > 1:
            reshard(directory, count)
    merge_checkpoints([long, short], tmp_path / "merged", MEAN)
    merged = tensors(tmp_path / "merged")
    assert merged.keys() == before[0].keys()
    for name, tensor in merged.items():
        assert torch.allclose(tensor, (before[0][name] + before[1][name]) / 2, rtol=0, atol=1e-7), name
    names = sorted(f.name for f in long.glob("*.safetensors"))
    assert sorted(f.name for f in (tmp_path / "merged").glob("*.safetensors")) == names


@pytest.mark.parametrize("shards", [1, 3])
def test_a_merged_model_loads_and_keeps_tokenizer_and_metadata(tmp_path, shards):
    long, short = parent(tmp_path / "long", 0), parent(tmp_path / "short", 1)
    if shards > 1:
        reshard(long, shards)
    (long / "README.md").write_text("the card of the long model")
    merge_checkpoints([long, short], tmp_path / "merged", MEAN)
    assert not (tmp_path / "merged" / "README.md").exists()
    policy = load_policy(ModelConfig(path=str(tmp_path / "merged")))
    assert (
        policy.tokenizer.chat_template
        == load_policy(ModelConfig(path=str(long))).tokenizer.chat_template
    )
    with safe_open(next((tmp_path / "merged").glob("*.safetensors")), framework="pt") as shard:
        assert shard.metadata() == {"format": "pt"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_dtype_of_the_long_model_is_kept(tmp_path, dtype):
    for name in ("long", "short"):
        parent(tmp_path / name, len(name))
    path = tmp_path / "long" / "model.safetensors"
    save_file({k: v.to(dtype) for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    before = [tensors(tmp_path / name) for name in ("long", "short")]
    merge_checkpoints([tmp_path / "long", tmp_path / "short"], tmp_path / "merged", MEAN)
    for name, tensor in tensors(tmp_path / "merged").items():
        assert tensor.dtype == dtype
        exact = (before[0][name].double() + before[1][name].double()) / 2
        assert torch.allclose(tensor.double(), exact, rtol=2.0**-8, atol=1e-6), name


@pytest.mark.parametrize("formula", [partial(slerp, weight=0.5), partial(average, weight=0.2)])
def test_other_kinds_reach_every_tensor(tmp_path, formula):
    long, short = parent(tmp_path / "long", 0), parent(tmp_path / "short", 1)
    merge_checkpoints([long, short], tmp_path / "merged", formula)
    a, b = tensors(long), tensors(short)
    for name, tensor in tensors(tmp_path / "merged").items():
        assert torch.equal(tensor, formula(a[name], b[name])), name


def test_ties_reads_the_base_as_third_parent(tmp_path):
    parents = [parent(tmp_path / name, seed) for seed, name in enumerate(("long", "short", "base"))]
    formula = partial(ties, weight=0.5, density=0.3)
    merge_checkpoints(parents, tmp_path / "merged", formula)
    each = [tensors(path) for path in parents]
    for name, tensor in tensors(tmp_path / "merged").items():
        assert torch.equal(tensor, formula(*(own[name] for own in each))), name


def test_a_shape_mismatch_is_refused_with_the_names_and_writes_nothing(tmp_path):
    long = parent(tmp_path / "long", 0)
    short = parent(tmp_path / "short", 1, shape=SHAPE.model_copy(update={"mlp_width": 64}))
    with pytest.raises(ModelError) as caught:
        merge_checkpoints([long, short], tmp_path / "merged", MEAN)
    message = str(caught.value)
    assert "model.layers.0.mlp.down_proj.weight: [32, 48] and [32, 64]" in message
    assert "6 differ" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long", "short"]


def test_a_key_mismatch_is_refused_with_the_names_of_both_sides(tmp_path):
    long, short = parent(tmp_path / "long", 0), parent(tmp_path / "short", 1)
    path = short / "model.safetensors"
    changed = load_file(path)
    changed["model.extra.weight"] = changed.pop("model.norm.weight")
    save_file(changed, path, metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"model\.norm\.weight only in .*long; model\.extra\.weight only in .*short"
    ):
        merge_checkpoints([long, short], tmp_path / "merged", MEAN)


def test_other_heads_in_equal_shapes_are_refused(tmp_path):
    long, short = parent(tmp_path / "long", 0), parent(tmp_path / "short", 1)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"num_attention_heads": 4}))
    with pytest.raises(ModelError, match="num_attention_heads 2 and 4"):
        merge_checkpoints([long, short], tmp_path / "merged", MEAN)


def test_other_tokens_in_equal_shapes_are_refused(tmp_path):
    long = parent(tmp_path / "long", 0)
    other = parent(tmp_path / "short", 1, tokenizer=build_tokenizer(["who was her kin"]))
    with pytest.raises(ModelError, match=r"differ in \d+ tokens, such as"):
        merge_checkpoints([long, other], tmp_path / "merged", MEAN)


def test_whole_numbers_are_kept_when_equal_and_refused_when_not(tmp_path):
    for name, value in (("long", 3), ("short", 3), ("odd", 4)):
        path = parent(tmp_path / name, len(name)) / "model.safetensors"
        save_file(load_file(path) | {"counter": torch.tensor([value])}, path, metadata={"format": "pt"})
    merge_checkpoints([tmp_path / "long", tmp_path / "short"], tmp_path / "merged", MEAN)
    assert tensors(tmp_path / "merged")["counter"].tolist() == [3]
    with pytest.raises(ModelError, match="counter"):
        merge_checkpoints([tmp_path / "long", tmp_path / "odd"], tmp_path / "merged", MEAN)
    assert tensors(tmp_path / "merged")["counter"].tolist() == [3]  # the refusal left what was there


@pytest.mark.parametrize("harm", ["no weights", "torn weights", "damaged index"])
def test_a_damaged_parent_is_named(tmp_path, harm):
    long, short = parent(tmp_path / "long", 0), parent(tmp_path / "short", 1)
    path = short / "model.safetensors"
    if harm == "torn weights":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        path.unlink()
    if harm == "damaged index":
        (short / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ModelError, match=str(short)):
        merge_checkpoints([long, short], tmp_path / "merged", MEAN)


MEMORY = """
import resource, sys
from functools import partial
from pathlib import Path
import torch
from safetensors.torch import load_file
from k15.algo.merge import average
from k15.weights.merge import merge_checkpoints

torch.set_num_threads(1)
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
limit = used + int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
merge_checkpoints([Path(sys.argv[1]), Path(sys.argv[2])], Path(sys.argv[3]), partial(average, weight=0.5))
try:
    whole = [load_file(file) for name in sys.argv[1:3] for file in Path(name).glob("*.safetensors")]
except (RuntimeError, MemoryError):
    print("two models do not fit")
"""


def _large_parent(directory: Path, seed: int, *, num_shards: int, shard_bytes: int) -> None:
    directory.mkdir()
    generator = torch.Generator().manual_seed(seed)
    weight_map = {}
    for number in range(num_shards):
        name = f"model-{number + 1:05d}-of-{num_shards:05d}.safetensors"
        part = {f"{number}.{i}": torch.randn(shard_bytes // 32, generator=generator) for i in range(8)}
        save_file(part, directory / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_holds_one_shard_and_not_a_model(tmp_path):
    shard = 8 << 20
    for seed, name in enumerate(("long", "short")):
        _large_parent(tmp_path / name, seed, num_shards=12, shard_bytes=shard)  # 96 MiB each

    # a merged shard, the files of both parents that are open, and what torch itself takes
    words = [str(tmp_path / name) for name in ("long", "short", "merged")] + [str(5 * shard)]
    done = subprocess.run([sys.executable, "-c", MEMORY, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "two models do not fit\n"  # the limit does bind
    assert len(tensors(tmp_path / "merged")) == 96
