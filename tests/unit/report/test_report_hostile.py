"""Whatever a model, a data set or a config says, the page holds no markup but ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_page import every_node, read_page
from report_runs import Simulation, build_run, completion_row, write_json, write_lines

from k15.report.html import PhaseSummary, write_demo_report, write_report

ELEMENTS = (
    "root html head meta title link style body header p button h1 h2 h3 nav a main div dl dt dd ul li section article "
    "figure svg g line text path rect circle figcaption details summary table caption thead tbody tr th td pre code b "
    "mark span footer script"
)
ATTRIBUTES = (
    "class id href charset http-equiv content name rel lang type hidden role tabindex scope open aria-label "
    "aria-labelledby data-x data-chart viewbox x y x1 x2 y1 y2 cx cy r d width height fill fill-opacity text-anchor "
    "stroke-dasharray"
)
PAYLOADS = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</textarea></title></style></pre><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    '" onfocus="alert(1)" autofocus="',
    "]]><script>alert(1)</script>",
    "<!--<script>",
    "--><script>alert(1)</script><!--",
    "<?php echo 1 ?><!DOCTYPE x>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    '<a href="javascript:alert(1)">x</a>',
    "<base href=//evil.example><meta http-equiv=refresh content='0;url=//evil.example'>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    '$\\href{x"><animate onbegin=alert(1) attributeName=x dur=1s>}{z}$',
    "{{7*7}} ${7*7} #{7*7} &lt;script&gt; &#60;b&#62;",
    "@import url(//evil.example); } body { background: url(//evil.example) }",
    "\u202eevil\u202c \u2066x\u2069 a\x00b \x1b]52;c;ZXZpbA==\x07 \ud800 \udfff \ufeff\u200b",
    "a" * 20_000,
    "<think>" * 300 + "</think>" * 300,
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_hostile_text_stays_text_wherever_it_stands(payload: str, tmp_path: Path):
    run = build_run(tmp_path / "run", Simulation(num_iterations=3, groups=2, group_size=3))
    completions = [
        completion_row(
            iteration=1, ordinal=90 + i // 3, sample_index=i % 3, prompt_id=payload, family=payload, question=payload,
            answer=payload, completion=f"<think>{payload}</think>{payload}", extracted=payload, reason=payload,
            outcome=["right", "wrong", payload][i % 3], stop=["end", "repeat", payload][i % 3],
            correct=float(i % 3 == 0),
        )
        for i in range(9)
    ]  # fmt: skip
    write_lines(run / "rollouts" / "000001.jsonl", completions)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows[1][f"train/accuracy_level/{payload}"] = 0.5
    rows[1][f"eval/length_level/{payload}"] = 0.5
    rows[2]["weights/fingerprint"] = rows[2]["update/kl"] = payload
    write_lines(run / "metrics.jsonl", rows)
    write_lines(
        run / "events.jsonl",
        [{"time": payload, "kind": payload, "message": payload, payload: payload, "iteration": payload}],
    )
    write_json(run / "config.json", {payload: payload, "rollout": {payload: [payload, {payload: 1}]}})
    write_json(
        run / "manifest.json",
        {payload: payload, "created": payload, "seed": payload, "versions": {"k15": payload}},
    )
    demo = [PhaseSummary(payload, 0.5)]
    file = write_demo_report(payload, [(payload, run), (payload, run)], tmp_path / "page.html", demo)

    page = read_page(file)
    nodes = every_node(page)
    assert {node.tag for node in nodes} <= set(ELEMENTS.split())
    assert {name for node in nodes for name in node.attributes} <= set(ATTRIBUTES.split())
    assert sum(node.tag == "script" for node in nodes) == 1
    assert sum(node.tag == "style" for node in nodes) == 1
    hrefs = [node.attributes["href"] or "" for node in nodes if "href" in node.attributes]
    assert all(href.startswith("#") or href == "data:," for href in hrefs)
    text = file.read_text(encoding="utf-8")
    assert not any(ord(c) < 32 and c not in "\n\t" for c in text)
    assert not set(text) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200b\ufeff")
    assert "<pre" in text, "the groups are shown"


def test_invisible_characters_are_shown_by_name(tmp_path: Path):
    run = build_run(tmp_path / "run", Simulation(num_iterations=2, groups=1))
    hidden = "be\u202etter\x00 \ud83d"
    write_lines(
        run / "rollouts" / "000001.jsonl", [completion_row(iteration=1, ordinal=5, completion=hidden)]
    )
    thoughts = [pre.text for pre in read_page(write_report(run)).all("pre", class_="thought")]
    assert "be⟨U+202E⟩tter⟨U+0000⟩ ⟨U+D83D⟩" in thoughts


def test_a_folder_with_a_hostile_name_is_a_title(tmp_path: Path):
    run = build_run(tmp_path / "<img src=x onerror=alert(1)>", Simulation(num_iterations=2, groups=1))
    page = read_page(write_report(run))
    assert page.one("h1").text == "<img src=x onerror=alert(1)>"
    assert not page.all("img")
