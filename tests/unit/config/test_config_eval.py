"""Settings of k15 eval: what is typed, and what makes no sense."""

import pytest

from k15.config.base import load_config
from k15.config.eval import EvalConfig
from k15.errors import ConfigError


def load(*flags):
    return load_config(EvalConfig, None, flags)


def test_what_is_typed_on_the_command_line():
    config = load(
        *(
            "--model",
            "DIR",
            "--benchmarks",
            "math500,trial:1+2, my.jsonl",
            "--data",
            "files",
            "--samples",
            "4",
        ),
        *("--max-tokens", "99", "--temperature", "0.6", "--engine", "embedded", "--suffix", ""),
    )
    assert config.benchmarks == ("math500", "trial:1+2", "my.jsonl")
    assert (config.model.path, str(config.data), config.samples, config.max_tokens) == (
        "DIR",
        "files",
        4,
        99,
    )
    assert (config.temperature, config.engine.type, config.suffix) == (0.6, "embedded", "")


def test_defaults_are_the_papers_eight_runs_at_temperature_one():
    config = load("--benchmarks", "aime2024")
    assert (config.samples, config.temperature, config.top_p, config.top_k) == (8, 1.0, 1.0, 0)
    assert config.suffix is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--benchmarks", ""], "at least one"),
        (["--benchmarks", "gsm8k,,aime2024"], "at least one"),
        (["--benchmarks", "gsm8k,gsm8k"], "once"),
        (["--benchmarks", "gsm8k", "--temperature", "0"], "samples must be 1; got 8"),
        (["--benchmarks", "gsm8k", "--samples", "0"], "samples"),
        (["--benchmarks", "gsm8k", "--sample", "8"], "Did you mean samples"),
        ([], "benchmarks"),
    ],
)
def test_what_is_refused(flags, message):
    with pytest.raises(ConfigError) as caught:
        load(*flags)
    assert message in str(caught.value)


def test_greedy_with_one_sample_is_fine():
    assert load("--benchmarks", "gsm8k", "--temperature", "0", "--samples", "1").samples == 1
