"""Missing and odd data: a page with a notice, never an exception."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_page import Node, every_node, numbers, read_page
from report_runs import Simulation, build_run, build_sft_run, completion_row, write_json, write_lines

from k15.report.html import write_demo_report, write_report


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return build_run(tmp_path / "run", Simulation(num_iterations=6, groups=3, group_size=4))


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def page_of(run: Path) -> Node:
    return read_page(write_report(run, run.parent / "page.html"))


def notices(page: Node) -> str:
    found = page.all("div", id="notices")
    return found[0].text if found else ""


def test_a_whole_run_has_no_notice(run):
    assert notices(page_of(run)) == ""


def test_an_empty_folder_is_a_page(tmp_path):
    (tmp_path / "run").mkdir()
    page = page_of(tmp_path / "run")
    for word in ("metrics.jsonl is missing", "config.json is missing", "no line of metrics"):
        assert word in notices(page)
    assert [s.attributes["id"] for s in page.all("section")] == ["events", "settings"]


@pytest.mark.parametrize("name", ["config.json", "manifest.json", "events.jsonl", "rollouts"])
def test_each_part_may_be_missing(run, name):
    path = run / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = page_of(run)
    assert len(page.all("figure")) > 10
    if name == "rollouts":
        assert "the completions of 6 of 6 iterations are not stored" in notices(page)
    elif name != "events.jsonl":
        assert f"{name} is missing" in notices(page)


def test_no_evaluation_is_said_and_training_takes_its_place(run):
    rows = [{k: v for k, v in row.items() if not k.startswith("eval/")} for row in rows_of(run)]
    write_lines(run / "metrics.jsonl", rows)
    page = page_of(run)
    assert "Training accuracy" in page.one("dl", class_="tiles").text
    assert "No held-out evaluation is recorded" in page.one("ul", class_="findings").text


def test_one_iteration_is_enough(tmp_path):
    page = page_of(build_run(tmp_path / "run", Simulation(num_iterations=1, groups=2)))
    assert len(numbers(page, "Accuracy")) == 2, "one iteration and the last evaluation"
    assert len(page.all("figure")) > 15


def test_no_finished_group_is_no_reason_to_fail(run):
    rows = [
        {"iteration": i, "time": 1.0, "rollout/num_tokens": 10, "train/num_groups": 0} for i in range(3)
    ]
    write_lines(run / "metrics.jsonl", rows)
    shutil.rmtree(run / "rollouts")
    page = page_of(run)
    assert "Nothing is recorded for this part." in page.text


def test_nan_is_left_out_and_counted(run):
    rows = rows_of(run)
    rows[2]["update/kl"] = float("nan")
    rows[3]["update/kl"] = None
    rows[4]["update/entropy"] = float("inf")
    write_lines(run / "metrics.jsonl", rows)
    page = page_of(run)
    assert "update/kl has no finite value in 2 iterations" in notices(page)
    assert "update/entropy has no finite value in 1 iteration," in notices(page)
    assert len(numbers(page, "Distance from the reference")) == 4
    for node in every_node(page):
        for name in ("d", "x", "y", "y1", "height"):
            assert "nan" not in (node.attributes.get(name) or "")
            assert "inf" not in (node.attributes.get(name) or "")


def test_a_torn_last_line_is_said(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 6, "train/acc')
    with (run / "rollouts" / "000005.jsonl").open("a") as file:
        file.write('{"iteration": 5')
    page = page_of(run)
    assert "the last line of metrics.jsonl is torn" in notices(page)
    assert "rollouts/000005.jsonl is torn" in notices(page)
    assert len(numbers(page, "Accuracy")) == 7, "six iterations and the last evaluation"


def test_damaged_lines_and_repeated_iterations_are_passed_over(run):
    text = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text(
        "\n".join([text[0], "not json", *text[1:], text[2], "[1, 2]"]) + "\n"
    )
    page = page_of(run)
    assert "damaged" in notices(page)
    assert len(numbers(page, "Accuracy")) == 7, "six iterations and the last evaluation"


def test_an_empty_rollouts_file_is_an_iteration_without_completions(run):
    (run / "rollouts" / "000002.jsonl").write_text("")
    shown = [row["iteration"] for row in numbers(page_of(run), "Why completions stopped")]
    assert shown == ["0", "1", "3", "4", "5"]


def test_completions_may_have_odd_values(run):
    odd = [
        completion_row(iteration=1, ordinal=i, segments=segments, token_ids=None, length=length, difficulty=difficulty,
                       reward=reward, advantage=reward, completion=None, extracted=7, stop=None, outcome=outcome)
        for i, (segments, length, difficulty, reward, outcome) in enumerate([
            (None, None, None, None, ""), ([], 0, "hard", float("inf"), None),
            ([{"num_tokens": -3}, 7], 5, 1e999, "x", 3),
            ([{"start": 0, "num_tokens": 9, "policy_version": None}], 9, -1, 2, "right"),
            ([{"start": 0, "num_tokens": 9, "policy_version": 400}], 10**400, 2, 2, "wrong"),
        ])
    ]  # fmt: skip
    write_lines(
        run / "rollouts" / "000001.jsonl",
        [*odd, completion_row(ordinal="x"), completion_row(sample_index=None)],
    )
    assert len(page_of(run).all("figure")) > 15


def test_a_supervised_run_alone_is_a_page(tmp_path):
    page = page_of(build_sft_run(tmp_path / "run", num_steps=12))
    assert [s.attributes["id"] for s in page.all("section")] == ["warmup", "events", "settings"]
    assert len(numbers(page, "Loss")) == 12


def test_a_demo_with_an_unfinished_phase_is_a_page(run, tmp_path):
    (tmp_path / "empty").mkdir()
    page = read_page(
        write_demo_report("x", [("RL", run), ("later", tmp_path / "empty")], tmp_path / "d.html")
    )
    assert "later: metrics.jsonl is missing" in notices(page)


def test_a_demo_without_a_stage_is_a_page(tmp_path):
    assert read_page(write_demo_report("nothing", [], tmp_path / "d.html")).one("h1").text == "nothing"


def test_a_long_run_is_read_in_part_and_says_so(run, monkeypatch):
    monkeypatch.setattr("k15.report.scan.scan_rollouts.__defaults__", (30,))
    assert "the completions of 2 of 6 iterations were read" in notices(page_of(run))


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_in_any_place_is_a_page(data, run):
    rows, completions = rows_of(run)[:3], [completion_row(sample_index=i) for i in range(2)]
    for row in (*rows, *completions):
        for key in data.draw(st.lists(st.sampled_from(sorted(row)), max_size=6)):
            if key != "iteration":
                row[key] = data.draw(anything)
    changed = run.parent / "changed"
    shutil.rmtree(changed, ignore_errors=True)
    (changed / "rollouts").mkdir(parents=True)
    write_lines(changed / "metrics.jsonl", rows)
    write_lines(changed / "rollouts" / "000000.jsonl", completions)
    write_lines(
        changed / "events.jsonl",
        [{"kind": "x", **data.draw(st.dictionaries(st.text(max_size=5), anything))}],
    )
    write_json(
        changed / "config.json",
        data.draw(st.dictionaries(st.sampled_from(["rollout", "run", "a"]), anything)),
    )
    write_json(
        changed / "manifest.json",
        data.draw(st.dictionaries(st.sampled_from(["created", "seed", "b"]), anything)),
    )
    assert page_of(changed).one("h1").text == "changed"
