"""Benchmarks by name: from files as they are published, from local copies of the hub, from a user's own file."""

import base64
import csv
import gzip
import json
import pickle
import zlib

import pytest

from k15.errors import ConfigError, DataError
from k15.eval.load import load_benchmark
from k15.eval.problem import fingerprint

MATH = {
    "problem": "What is $1+1$?",
    "solution": r"It is $\boxed{2}$.",
    "answer": "2",
    "subject": "Algebra",
    "level": 2,
    "unique_id": "test/algebra/1.json",
}
GSM8K = {"question": "Two and three?", "answer": "It is 2+3 = <<2+3=5>>5.\n#### 5"}
AIME = {"ID": "2024-I-1", "Problem": "Find it.", "Solution": r"\boxed{025}", "Answer": 25}
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'from typing import List\n\n\ndef twice(x: int) -> int:\n    """Two x."""\n',
    "entry_point": "twice",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
}
MMLU = {"question": "2 + 2?", "choices": ["3", "4", "5", "6"], "answer": 1, "subject": "arithmetic"}
CEVAL = {
    "id": 0,
    "question": "二加二?",
    "A": "三",
    "B": "四",
    "C": "五",
    "D": "六",
    "answer": "B",
    "explanation": "",
}
CLUEWSC = {
    "target": {"span2_index": 5, "span1_index": 0, "span1_text": "小明", "span2_text": "他"},
    "idx": 3,
    "label": "true",
    "text": "小明说,他饿了。",
}
IFEVAL = {
    "key": 1000,
    "prompt": "Write without commas.",
    "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
    "kwargs": [{}, {"relation": "at least", "num_words": 5, "num_sentences": None}],
}


def lcb(name, date, function=None, **fields):
    tests = [{"input": "1", "output": "2", "testtype": "stdin"}]
    packed = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()
    return {
        "question_id": name,
        "question_content": f"Double it, {name}.",
        "contest_date": date,
        "starter_code": "class Solution:\n    def f(self, x):\n" if function else "",
        "difficulty": "easy",
        "public_test_cases": json.dumps(tests),
        "private_test_cases": packed,
        "metadata": json.dumps({"func_name": function} if function else {}),
    } | fields


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def only(name, data, **options):
    (problem,) = load_benchmark(name, data, **options).problems
    return problem


def test_math500(tmp_path):
    write(tmp_path / "math500.jsonl", MATH)
    problem = only("math500", tmp_path)
    assert (problem.question, problem.gold, problem.verifier) == ("What is $1+1$?", "2", "math")
    assert (problem.problem_id, problem.difficulty) == ("test/algebra/1.json", "2")
    assert problem.solution == MATH["solution"]
    assert "\\boxed{}" in load_benchmark("math500", tmp_path).suffix


def test_gsm8k_keeps_the_worked_solution_and_takes_the_number(tmp_path):
    write(tmp_path / "gsm8k_test.jsonl.gz", GSM8K)
    problem = only("gsm8k", tmp_path)
    assert (problem.gold, problem.solution) == ("5", GSM8K["answer"])


def test_a_number_with_separators_is_no_list(tmp_path):
    rows = [
        GSM8K | {"question": f"{gold}?", "answer": f"#### {gold}"}
        for gold in ("2,125", "1,-2", "10,20", "-1,000,000")
    ]
    write(tmp_path / "gsm8k_test.jsonl", *rows)
    golds = [p.gold for p in load_benchmark("gsm8k", tmp_path).problems]
    assert golds == ["2125", "1,-2", "10,20", "-1000000"]


def test_aime_in_both_spellings(tmp_path):
    write(tmp_path / "a" / "aime2024.jsonl", AIME)
    write(tmp_path / "b" / "aime2024.jsonl", {key.lower(): value for key, value in AIME.items()})
    one, other = only("aime2024", tmp_path / "a"), only("aime2024", tmp_path / "b")
    assert one == other
    assert (one.problem_id, one.gold, one.solution) == ("2024-I-1", "25", r"\boxed{025}")


def test_humaneval(tmp_path):
    write(tmp_path / "HumanEval.jsonl.gz", HUMANEVAL)
    problem = only("humaneval", tmp_path)
    assert (problem.problem_id, problem.verifier) == ("HumanEval/0", "code")
    assert HUMANEVAL["prompt"] in problem.question
    assert problem.solution == f"```python\n{HUMANEVAL['prompt']}    return 2 * x\n\n```"


@pytest.mark.parametrize("answer", [1, "1", "B", "b"])
def test_mmlu_row(tmp_path, answer):
    write(tmp_path / "mmlu.jsonl", MMLU | {"answer": answer})
    problem = only("mmlu", tmp_path)
    assert (problem.gold, problem.verifier, problem.difficulty) == ("B", "choice", "arithmetic")
    assert problem.question == "2 + 2?\n\nA. 3\nB. 4\nC. 5\nD. 6"


def test_mmlu_as_its_authors_publish_it(tmp_path):
    folder = tmp_path / "mmlu" / "test"
    folder.mkdir(parents=True)
    for subject in ("anatomy", "virology"):
        with (folder / f"{subject}_test.csv").open("w", newline="") as file:
            csv.writer(file).writerows(
                [["Is it, a?", "no", "yes", "so", "la", "B"], ["And?", "1", "2", "3", "4", "D"]]
            )
    problems = load_benchmark("mmlu", tmp_path).problems
    assert [(p.difficulty, p.gold) for p in problems] == [
        ("anatomy", "B"), ("anatomy", "D"), ("virology", "B"), ("virology", "D"),
    ]  # fmt: skip
    assert problems[0].question.startswith("Is it, a?\n\nA. no")
    assert len({p.problem_id for p in problems}) == 4


def test_ceval_row_and_csv(tmp_path):
    write(tmp_path / "a" / "ceval.jsonl", CEVAL)
    assert only("ceval", tmp_path / "a").gold == "B"
    folder = tmp_path / "b" / "ceval" / "val"
    folder.mkdir(parents=True)
    with (folder / "law_val.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, CEVAL)
        writer.writeheader()
        writer.writerow(CEVAL)
    problem = only("ceval", tmp_path / "b")
    assert (problem.problem_id, problem.gold, problem.difficulty) == ("law/0", "B", "law")


@pytest.mark.parametrize(
    ("label", "gold"), [("true", "A"), ("false", "B"), (0, "A"), (1, "B"), (True, "A")]
)
def test_cluewsc(tmp_path, label, gold):
    write(tmp_path / "cluewsc.jsonl", CLUEWSC | {"label": label})
    problem = only("cluewsc", tmp_path)
    assert problem.gold == gold
    assert "“他”指的是“小明”" in problem.question


def test_ifeval_drops_the_arguments_that_are_not_set(tmp_path):
    write(tmp_path / "ifeval.jsonl", IFEVAL)
    instructions = only("ifeval", tmp_path).details["instructions"]
    assert instructions[1] == {
        "id": "length_constraints:number_words",
        "arguments": {"relation": "at least", "num_words": 5},
    }


def test_livecodebench_by_months_both_included(tmp_path):
    write(
        tmp_path / "livecodebench" / "test.jsonl",
        lcb("a", "2024-07-31T00:00:00"),
        lcb("b", "2024-08-01T00:00:00"),
    )
    write(
        tmp_path / "livecodebench" / "test2.jsonl", lcb("c", "2024-11-30", "f"), lcb("d", "2024-12-01")
    )
    problems = load_benchmark("livecodebench:2408-2411", tmp_path).problems
    assert [p.problem_id for p in problems] == ["b", "c"]
    assert [p.details["kind"] for p in problems] == ["stdin", "call"]
    assert "class Solution" in problems[1].question
    assert len(load_benchmark("livecodebench", tmp_path).problems) == 4
    with pytest.raises(DataError, match="2025-01"):
        load_benchmark("livecodebench:2501-2502", tmp_path)
    with pytest.raises(ConfigError, match="2408-2411"):
        load_benchmark("livecodebench:recent", tmp_path)


def test_own_rows_of_every_kind(tmp_path):
    rows = [
        {"question": "1+1?", "answer": "2", "level": 3},
        {"prompt": "Capital of France?", "answer": "Paris", "rules": {"type": "text"}, "id": "fr"},
        {"question": "Which?", "choices": ["x", "y"], "answer": "B"},
        {
            "question": "Double.",
            "answer": {"tests": [{"stdin": "1", "expected": "2"}]},
            "verifier": "code",
        },
    ]
    path = write(tmp_path / "mine.jsonl", *rows)
    problems = load_benchmark(str(path), None).problems
    assert [p.verifier for p in problems] == ["math", "math", "choice", "code"]
    assert [p.gold for p in problems] == ["2", "Paris", "B", ""]
    assert (problems[0].problem_id, problems[0].difficulty, problems[1].problem_id) == (
        "line 1",
        "3",
        "fr",
    )
    assert problems[1].details == {"rules": {"type": "text"}}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "?"}, 'row 2: field "answer"'),
        ({"question": "?", "answer": "1", "verifier": "judge"}, 'field "verifier"'),
        ({"question": "?", "answer": "1", "rules": {"type": "poem"}}, '"type" is unknown'),
        ({"question": "?", "choices": ["a"], "answer": "A"}, 'field "choices"'),
        ({"question": "?", "choices": ["a", "b"], "answer": "C"}, 'field "answer"'),
        ({"question": "?", "answer": "{}", "verifier": "code"}, "must hold tests"),
        ({"question": "?", "answer": "1", "id": "x"}, "earlier row"),
        ("no object", "must be a JSON object"),
    ],
)
def test_a_bad_row_stops_with_its_place(tmp_path, row, message):
    path = write(tmp_path / "mine.jsonl", {"question": "1+1?", "answer": "2", "id": "x"}, row)
    with pytest.raises(DataError) as caught:
        load_benchmark(str(path), None)
    assert message in str(caught.value)
    assert "mine.jsonl, row 2" in str(caught.value)


def test_generated_families_are_held_out_and_narrowed_by_level():
    benchmark = load_benchmark("trial:1+2", None, limit=20)
    assert {p.difficulty for p in benchmark.problems} == {"1", "2"}
    assert len(benchmark.problems) == 20
    assert len(load_benchmark("countdown", None).problems) == 256
    with pytest.raises(ConfigError, match=r"trial:1\+2"):
        load_benchmark("trial:easy", None)


def test_a_limit_keeps_the_same_problems_whatever_the_order(tmp_path):
    rows = [{"question": f"{n}+1?", "answer": str(n + 1), "id": f"q{n}"} for n in range(50)]
    one = load_benchmark(str(write(tmp_path / "a.jsonl", *rows)), None, limit=10)
    other = load_benchmark(str(write(tmp_path / "b.jsonl", *rows[::-1])), None, limit=10)
    assert len(one.problems) == 10
    assert {p.problem_id for p in one.problems} == {p.problem_id for p in other.problems}
    assert [p.problem_id for p in one.problems] != [f"q{n}" for n in range(10)]


def test_the_fingerprint_sees_what_decides_a_score(tmp_path):
    digests = set()
    for row in (
        {"question": "1?", "answer": "1"},
        {"question": "1?", "answer": "2"},
        {"question": "2?", "answer": "1"},
    ):
        problems = load_benchmark(str(write(tmp_path / "a.jsonl", row)), None).problems
        digests.add(fingerprint(problems))
    assert len(digests) == 3


def test_what_is_missing_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"math500\.jsonl"):
        load_benchmark("math500", tmp_path)
    with pytest.raises(DataError, match="is none"):
        load_benchmark("math500", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="there is no benchmark 'maths'"):
        load_benchmark("maths", tmp_path)
    write(tmp_path / "math500.jsonl", MATH)
    with pytest.raises(ConfigError, match="narrowed"):
        load_benchmark("math500:1", tmp_path)


# -- copies of the hub --------------------------------------------------------------------------------


def hub_copy(folder, name, configs, split):
    """A copy of a data set as it lies on the hub: Parquet files, and a card that names the configurations."""
    datasets = pytest.importorskip("datasets")
    place = folder / name
    lines = ["---", "configs:"]
    for config, rows in configs.items():
        path = place / config / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True)
        datasets.Dataset.from_list(rows).to_parquet(path)
        lines += [
            f"- config_name: {config}",
            "  data_files:",
            f"  - split: {split}",
            f"    path: {config}/{split}-*",
        ]
    (place / "README.md").write_text("\n".join([*lines, "---", ""]))


@pytest.fixture(autouse=True)
def _no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "hub", "config", "split", "row", "gold"),
    [
        ("gsm8k", "openai/gsm8k", "main", "test", GSM8K, "5"),
        ("math500", "HuggingFaceH4/MATH-500", "default", "test", MATH, "2"),
        ("aime2024", "HuggingFaceH4/aime_2024", "default", "train",
         {"id": 1, "problem": "Find.", "solution": r"\boxed{25}", "answer": "025"}, "025"),
        ("humaneval", "openai/openai_humaneval", "openai_humaneval", "test", HUMANEVAL, ""),
        ("mmlu", "cais/mmlu", "all", "test", MMLU, "B"),
        ("cluewsc", "clue/clue", "cluewsc2020", "validation", CLUEWSC | {"label": 1}, "B"),
        ("ifeval", "google/IFEval", "default", "train", IFEVAL, ""),
    ],
)  # fmt: skip
def test_a_copy_of_the_hub_loads_by_both_names(tmp_path, name, hub, config, split, row, gold):
    hub_copy(tmp_path, hub, {config: [row]}, split)
    by_name, by_hub = only(name, tmp_path), only(hub, tmp_path)
    assert by_name == by_hub
    assert by_name.gold == gold


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ceval_comes_in_many_configurations(tmp_path):
    hub_copy(
        tmp_path, "ceval/ceval-exam", {"law": [CEVAL], "physician": [CEVAL | {"answer": "C"}]}, "val"
    )
    problems = load_benchmark("ceval", tmp_path).problems
    assert [(p.problem_id, p.difficulty, p.gold) for p in problems] == [
        ("law/0", "law", "B"), ("physician/0", "physician", "C"),
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_livecodebench_needs_no_loading_script(tmp_path):
    pytest.importorskip("datasets")
    write(tmp_path / "livecodebench/code_generation_lite" / "test.jsonl", lcb("a", "2024-08-01"))
    write(tmp_path / "livecodebench/code_generation_lite" / "test2.jsonl", lcb("b", "2024-09-01", "f"))
    assert [p.problem_id for p in load_benchmark("livecodebench", tmp_path).problems] == ["a", "b"]


def test_without_network_the_hub_says_what_to_do(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")

    def refuse(*args, **kwargs):
        raise ConnectionError("no network\nstack")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(
        DataError, match=r"cannot load openai/gsm8k: ConnectionError: no network\. Without network"
    ):
        load_benchmark("gsm8k", None)


def test_without_datasets_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"k15\[hub\]"):
        load_benchmark("gsm8k", None)
