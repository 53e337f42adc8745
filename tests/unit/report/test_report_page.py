"""What is on the page, and that its numbers are those of the files."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
from report_page import Node, every_node, figure, numbers, read_page
from report_runs import Simulation, build_run, build_sft_run, completion_row

from k15.config.rl import RLConfig
from k15.errors import RunFolderError
from k15.record.run import Run
from k15.report.html import PhaseSummary, write_demo_report, write_report

ANCHORS = ["learning", "length", "health", "curriculum", "rollouts", "examples", "events", "settings"]


def rows_of(run_folder: Path) -> list[dict]:
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]


def completions_of(run_folder: Path) -> list[dict]:
    files = sorted((run_folder / "rollouts").iterdir())
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def tile(page: Node, label: str) -> list[str]:
    found = [div for div in page.one("dl", class_="tiles").all("div") if div.all("dt")[0].text == label]
    assert len(found) == 1
    return [dd.text for dd in found[0].all("dd")]


def test_sections_come_in_the_order_of_the_questions(page):
    assert [s.attributes["id"] for s in page.all("section")] == ANCHORS
    assert [a.attributes["href"] for a in page.one("nav").all("a")] == [f"#{a}" for a in ANCHORS]


def test_headline_numbers_are_those_of_the_files(page, run_folder):
    rows, completions = rows_of(run_folder), completions_of(run_folder)
    evaluated = [row for row in rows if "eval/accuracy" in row]
    first, last = (100 * evaluated[i]["eval/accuracy"] for i in (0, -1))
    assert tile(page, "Held-out accuracy")[0] == f"{first:.1f} % → {last:.1f} %"
    first, last = (evaluated[i]["eval/length_mean"] for i in (0, -1))
    assert tile(page, "Held-out tokens")[0] == f"{first:,.0f} → {last:,.0f}"
    assert tile(page, "Iterations") == ["36", "of 36 planned, finished"]
    faults = sum(c["outcome"] == "fault" for c in completions)
    assert tile(page, "Our faults") == [f"{faults}", f"of {len(completions):,} graded completions"]
    tokens = sum(c["length"] for c in completions)
    assert tile(page, "Time in iterations")[1] == f"{tokens:,} tokens sampled"


def test_the_numbers_behind_the_curves_are_the_measured_ones(page, run_folder):
    rows, table = rows_of(run_folder), numbers(page, "Accuracy")
    assert len(table) == len(rows)
    for row, shown in zip(rows, table, strict=True):
        assert shown["iteration"] == str(row["iteration"])
        trained = row.get("train/accuracy")
        assert shown["train"] == ("" if trained is None else f"{100 * trained:.1f} %")
        if "eval/accuracy" in row:
            low, high = 100 * row["eval/accuracy_low"], 100 * row["eval/accuracy_high"]
            assert (
                shown["held-out"] == f"{100 * row['eval/accuracy']:.1f} % ({low:.1f} % to {high:.1f} %)"
            )
        else:
            assert shown["held-out"] == ""


def test_stop_reasons_and_draws_are_counted_from_the_completions(page, run_folder):
    completions = [c for c in completions_of(run_folder) if c["iteration"] == 20]
    stops = [c["stop"] for c in completions]
    shown = next(row for row in numbers(page, "Why completions stopped") if row["iteration"] == "20")
    assert shown["ended"] == f"{100 * stops.count('end') / len(stops):.1f} %"
    levels = [c["difficulty"] for c in completions if c["sample_index"] == 0]
    shown = next(row for row in numbers(page, "What was drawn") if row["iteration"] == "20")
    assert shown["level 2"] == f"{100 * levels.count(2) / len(levels):.1f} %"


def test_evaluation_is_not_counted_twice_in_the_time(page, run_folder):
    row = next(row for row in rows_of(run_folder) if row["iteration"] == 10)
    shown = next(cells for cells in numbers(page, "Where the time goes") if cells["iteration"] == "10")
    assert row["seconds/eval"] > 1
    assert shown["rollout"] == f"{row['seconds/rollout'] - row['seconds/eval']:.3g}"
    assert shown["evaluation"] == f"{row['seconds/eval']:.3g}"


def test_length_histograms_count_every_completion_of_their_stretch(page, run_folder):
    table = numbers(page, "How lengths are spread")
    last = [c for c in completions_of(run_folder) if c["iteration"] >= 30 and c["outcome"] != "fault"]
    shown = [row for row in table if row["part of the run"] == "end: iterations 30 to 35"]
    assert sum(int(row["right"]) for row in shown) == sum(c["outcome"] == "right" for c in last)
    assert sum(int(row["wrong"]) for row in shown) == sum(c["outcome"] != "right" for c in last)


def test_segments_of_the_picture_are_those_of_the_record(page, run_folder):
    by_sample = {(str(c["ordinal"]), str(c["sample_index"])): c for c in completions_of(run_folder)}
    table = numbers(page, "Who wrote which part")
    assert len(table) >= 8
    for row in table:
        record = by_sample[row["draw"], row["sample"]]
        spans = [f"{s['num_tokens']} by version {s['policy_version']}" for s in record["segments"]]
        assert row["segments, in tokens"] == ", ".join(spans)
        assert row["verdict"] == record["outcome"]


def test_every_figure_has_words_and_numbers(page):
    figures = page.all("figure")
    assert len(figures) >= 20
    for each in figures:
        title = each.all("h3")[0]
        assert each.attributes["aria-labelledby"] == title.attributes["id"]
        assert each.one("figcaption").text.strip()
        svg = each.one("svg")
        assert svg.attributes["role"] == "img"
        assert len(svg.attributes["aria-label"]) > len(title.text) + 10
        assert each.one("table").one("tbody").all("tr"), title.text


def test_names_of_anchors_are_unique_and_every_link_has_its_target(page):
    ids = [node.attributes["id"] for node in every_node(page) if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    assert {a.attributes["href"][1:] for a in page.all("a")} <= set(ids)


def test_drawings_stay_inside_their_frame(page):
    for svg in page.all("svg"):
        _, _, width, height = map(float, svg.attributes["viewbox"].split())
        for node in every_node(svg):
            for key in ("x", "x1", "x2", "cx"):
                assert -1 <= float(node.attributes.get(key, 0)) <= width + 1, svg.attributes[
                    "aria-label"
                ]
            for key in ("y", "y1", "y2", "cy"):
                assert -1 <= float(node.attributes.get(key, 0)) <= height + 1, svg.attributes[
                    "aria-label"
                ]
            if node.tag == "rect":
                assert float(node.attributes["width"]) >= 0
                assert float(node.attributes["height"]) >= 0
            for number in re.findall(r"-?[\d.]+", node.attributes.get("d", "")):
                assert -10 <= float(number) <= 600


def test_the_policy_lets_only_our_own_script_run_and_nothing_load(page):
    script = page.one("script").text
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = page.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert set(rules) == {"default-src", "style-src", "script-src", "img-src", "base-uri", "form-action"}
    style = page.one("style").text
    for text in (script, style):
        assert "http:" not in text
        assert "https:" not in text
        assert "@import" not in text
        assert "url(" not in text
    assert {link.attributes["href"] for link in page.all("link")} == {"data:,"}


def test_the_report_is_the_same_for_the_same_folder(run_folder, tmp_path):
    first = write_report(run_folder, tmp_path / "a.html").read_bytes()
    second = write_report(run_folder, tmp_path / "b.html").read_bytes()
    assert first == second
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_report_goes_into_the_run_folder_unless_told_otherwise(tmp_path):
    run = build_run(tmp_path / "run", Simulation(num_iterations=2, groups=2))
    assert write_report(run) == run / "report.html"
    assert write_report(run, tmp_path / "deep" / "page.html").exists()


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(RunFolderError, match="not a folder"):
        write_report(tmp_path / "nothing")


@pytest.fixture(scope="module")
def demo(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Node:
    base = tmp_path_factory.mktemp("demo")
    shorter = Simulation(
        seed=4, num_iterations=12, groups=6, skill=0.8, length_weight=0.5, wordy_gain=-0.05
    )
    stages = [
        ("warm-up", build_sft_run(base / "sft")),
        ("RL", run_folder),
        ("RL, shorter", build_run(base / "rl-short", shorter)),
    ]
    rows = [
        PhaseSummary("warm-up", 0.31, 0.26, 0.37, 120.0, 115.0, 125.0, 256),
        PhaseSummary("RL", 0.80, 0.75, 0.85, 180.0, 172.0, 188.0, 256),
        PhaseSummary("RL, shorter", 0.82, None, None, 120.0),
    ]
    return read_page(write_demo_report("Demo", stages, base / "demo.html", rows))


def test_the_demo_table_has_one_row_a_phase_with_its_change(demo):
    table = demo.one("div", class_="scroll phases").one("table")
    rows = [[cell.text for cell in row.children] for row in table.one("tbody").all("tr")]
    assert rows == [
        ["warm-up", "31.0 %26 to 37 %", "120115 to 125"],
        ["RL", "80.0 %+49.0 points75 to 85 %", "180+50 %172 to 188"],
        ["RL, shorter", "82.0 %+2.0 points", "120−33 %"],
    ]


def test_phases_of_a_demo_share_one_axis_with_a_mark_between(demo):
    table = numbers(demo, "Accuracy")
    assert [row["iteration"] for row in table] == [str(i) for i in range(36 + 1 + 12 + 1)]
    svg = figure(demo, "Accuracy").one("svg")
    assert [t.text for t in svg.all("text", class_="phase-name")] == ["RL", "RL, shorter"]
    assert len(svg.all("line", class_="phase")) == 1
    curve = svg.all("path", class_="curve s-blue")[0].attributes["d"]
    assert curve.count("M") == 2, "the curve is lifted between phases"


def test_supervised_stages_have_their_own_curves(demo):
    assert demo.all("section")[0].attributes["id"] == "warmup"
    losses = [f for f in demo.all("figure") if f.all("h3")[0].text == "Loss"]
    assert len(losses) == 2, "one of the warm-up, one of RL"
    assert [cell.text for cell in losses[0].one("thead").all("th")] == ["step", "loss"]
    assert len(losses[0].one("tbody").all("tr")) == 120


def test_iterations_in_words_are_those_of_the_axis(demo):
    spread = numbers(demo, "How lengths are spread")
    assert {row["part of the run"] for row in spread} == {
        "start: iterations 0 to 5",
        "RL, end: iterations 30 to 35",
        "RL, shorter, end: iterations 47 to 48",
    }


def test_the_length_reward_switched_on_in_a_run_is_a_phase_of_it(tmp_path):
    sim = Simulation(num_iterations=30, groups=4, length_weight=0.5, penalty_from=15, eval_every=3)
    page = read_page(write_report(build_run(tmp_path / "run", sim)))
    svg = figure(page, "Accuracy").one("svg")
    names = [t.text for t in svg.all("text", class_="phase-name")]
    assert names == ["no length reward", "length reward"]
    held_out = svg.all("path", class_="curve s-orange")[0].attributes["d"]
    assert held_out.count("M") == 1, "the same policy goes on, so the curve is not lifted"
    assert {row["part of the run"] for row in numbers(page, "How lengths are spread")} == {
        "start: iterations 0 to 1",
        "no length reward, end: iterations 13 to 14",
        "length reward, end: iterations 28 to 29",
    }
    phases = [row["phase"] for row in numbers(page, "Accuracy against length")]
    assert phases == ["no length reward"] * 5 + ["length reward"] * 6
    assert tile(page, "Iterations") == ["30", "of 30 planned, finished"]


def test_what_a_run_writes_is_read_without_a_notice(tmp_path):
    task = {"family": "trial"}
    config = RLConfig.model_validate(
        {"num_iterations": 2, "model": {"path": "m"}, "prompts": {"tasks": [task]}}
    )
    with Run.open(
        tmp_path / "run", config, command="k15 rl", total=2, notify=lambda message: None
    ) as run:
        run.restore({})
        for iteration in range(2):
            rows = [
                completion_row(iteration=iteration, ordinal=iteration, sample_index=i, reason="<b>")
                for i in range(4)
            ]
            run.record(iteration, {"eval/accuracy": 0.5, "update/kl": float("nan")}, rows)
        run.save(2, {})
        run.finish(done=2)
    page = read_page(write_report(tmp_path / "run"))
    assert page.one("div", id="notices").text.count("update/kl has no finite value in 2 iterations") == 1
    assert len(page.one("div", id="notices").all("li")) == 1
    assert tile(page, "Iterations") == ["2", "of 2 planned, finished"]
    assert [row["train"] for row in numbers(page, "Accuracy")] == ["100.0 %", "100.0 %"]
    assert "rollout.group_size" in page.one("section", id="settings").text


def test_two_hundred_iterations_stay_below_five_megabytes(tmp_path):
    run = build_run(tmp_path / "run", Simulation(num_iterations=200, groups=3, group_size=4))
    assert write_report(run).stat().st_size < 5_000_000
