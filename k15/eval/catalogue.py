"""The benchmarks that k15 knows by name: what their files are called, where the hub has them, how a row reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from k15.eval.formats import (
    Reader,
    read_choice,
    read_cluewsc,
    read_humaneval,
    read_ifeval,
    read_livecodebench,
    read_math,
)

BOXED = "Reason step by step, and put the final answer in \\boxed{}."
BOXED_LETTER = "Reason step by step, and put the letter of the right option in \\boxed{}."
BOXED_LETTER_CHINESE = "请一步一步思考，并把正确选项的字母放在 \\boxed{} 里。"

ALL_CONFIGS = "*"


@dataclass(frozen=True, slots=True)
class Entry:
    """A built-in benchmark.

    Attributes:
        files: names in the data folder, patterns allowed; the first that matches counts, ".gz" may follow.
        hub: the usual name on the hub.
        split: the split there; the one that carries the answers.
        read: reads a row.
        suffix: added to every question.
        config: configuration on the hub; "*" = all of them, one subject each.
        kind: "rows" loads a data set; "files" loads JSON lines of the repository, whose loading script no
            longer runs.
    """

    files: tuple[str, ...]
    hub: str
    split: str
    read: Reader
    suffix: str = ""
    config: str | None = None
    kind: Literal["rows", "files"] = "rows"


CATALOGUE: Mapping[str, Entry] = MappingProxyType(
    {
        "math500": Entry(
            ("math500.jsonl", "math_500.jsonl", "MATH-500.jsonl", "MATH-500/test.jsonl"),
            "HuggingFaceH4/MATH-500",
            "test",
            read_math,
            BOXED,
        ),
        "aime2024": Entry(
            ("aime2024.jsonl", "aime_2024.jsonl", "aime24.jsonl"),
            "HuggingFaceH4/aime_2024",
            "train",
            read_math,
            BOXED,
        ),
        "gsm8k": Entry(
            ("gsm8k_test.jsonl", "gsm8k/test.jsonl", "gsm8k.jsonl"),
            "openai/gsm8k",
            "test",
            read_math,
            BOXED,
            config="main",
        ),
        "humaneval": Entry(
            ("HumanEval.jsonl", "humaneval.jsonl"), "openai/openai_humaneval", "test", read_humaneval
        ),
        "livecodebench": Entry(
            ("livecodebench/test*.jsonl", "code_generation_lite/test*.jsonl", "livecodebench*.jsonl"),
            "livecodebench/code_generation_lite",
            "test",
            read_livecodebench,
            kind="files",
        ),
        "mmlu": Entry(
            ("mmlu.jsonl", "mmlu_test.jsonl", "mmlu/test/*_test.csv", "mmlu/*_test.csv"),
            "cais/mmlu",
            "test",
            read_choice,
            BOXED_LETTER,
            config="all",
        ),
        "ceval": Entry(
            ("ceval.jsonl", "ceval_val.jsonl", "ceval/val/*_val.csv", "ceval/*_val.csv"),
            "ceval/ceval-exam",
            "val",
            read_choice,
            BOXED_LETTER_CHINESE,
            config=ALL_CONFIGS,
        ),
        "cluewsc": Entry(
            ("cluewsc.jsonl", "cluewsc2020/dev.json", "cluewsc/dev.json", "cluewsc2020_dev.json"),
            "clue/clue",
            "validation",
            read_cluewsc,
            BOXED_LETTER_CHINESE,
            config="cluewsc2020",
        ),
        "ifeval": Entry(
            ("ifeval.jsonl", "input_data.jsonl", "ifeval/input_data.jsonl"),
            "google/IFEval",
            "train",
            read_ifeval,
        ),
    }
)
HUB_NAMES: Mapping[str, str] = MappingProxyType(
    {entry.hub.lower(): name for name, entry in CATALOGUE.items()}
    | {"maxwell-jia/aime_2024": "aime2024"}
)
