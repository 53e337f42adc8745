"""The long2short table: Student's intervals, the paper's claims at their boundaries, the picture's places."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from k15.report.comparison import (
    Comparison,
    Trade,
    claims_of,
    markdown_table,
    trade_chart,
    trade_of,
    write_comparison,
)


def trade(key: str, accuracy: float, tokens: float, *, a: float = 0.01, b: float = 1.0) -> Trade:
    return Trade(
        key, f"<{key}>", accuracy, accuracy - a, accuracy + a, tokens, tokens - b, tokens + b, 3
    )


PAPER = [  # Fig. 7, MATH500; the short parent is made up
    trade("long", 0.941, 1320),
    trade("short", 0.80, 600),
    trade("merge", 0.892, 856),
    trade("merge+rejection", 0.902, 901),
    trade("dpo", 0.916, 1102),
    trade("rl", 0.946, 1197),
]


def verdicts(trades: list[Trade]) -> list[str]:
    return [claim.holds for claim in claims_of(trades)]


def changed(**changes: Trade) -> list[Trade]:
    return [changes.get(t.key.replace("+", "_"), t) for t in PAPER]


def test_the_interval_is_students_over_seeds() -> None:
    # the sleep data's classic: mean 2, deviation 1, n = 3: 2 +- 4.303 / sqrt(3)
    found = trade_of("x", "x", [0.5, 0.5, 0.5], [1.0, 2.0, 3.0])
    assert (found.tokens, found.tokens_high - found.tokens) == pytest.approx((2.0, 2.4841), abs=1e-3)
    assert (found.accuracy_low, found.accuracy_high) == (0.5, 0.5)
    ten = trade_of("x", "x", [0.5] * 10, [float(i) for i in range(10)])
    assert ten.tokens_high - ten.tokens == pytest.approx(2.262 * 3.02765 / 10**0.5, abs=1e-3)


def test_an_interval_of_a_share_stays_within_its_range() -> None:
    found = trade_of("x", "x", [0.99, 1.0, 0.95], [1.0, 1.0, 1.0])
    assert found.accuracy_high == 1.0
    assert 0 < found.accuracy_low < 0.95


def test_the_papers_own_numbers_fulfil_its_claims() -> None:
    assert verdicts(PAPER) == ["yes"] * 4


def test_a_method_longer_than_the_long_model_breaks_the_first_claim() -> None:
    assert verdicts(changed(dpo=trade("dpo", 0.916, 1320)))[0] == "no"
    assert verdicts(changed(dpo=trade("dpo", 0.916, 1319)))[0] == "within the error"
    assert verdicts(changed(dpo=trade("dpo", 0.916, 1317.9)))[0] == "yes"


@pytest.mark.parametrize(("tokens", "holds"), [(599, "no"), (600, "no"), (601, "yes"), (1321, "no")])
def test_a_merge_must_lie_between_its_parents(tokens: float, holds: str) -> None:
    assert verdicts(changed(merge=trade("merge", 0.892, tokens)))[1] == holds


def test_rl_must_be_the_most_accurate_and_nobody_as_accurate_with_fewer_tokens() -> None:
    assert verdicts(changed(dpo=trade("dpo", 0.96, 1250)))[2] == "within the error"
    assert verdicts(changed(dpo=trade("dpo", 0.97, 1250)))[2] == "no"
    assert verdicts(changed(dpo=trade("dpo", 0.946, 1100)))[2] == "within the error"
    assert verdicts(changed(dpo=trade("dpo", 0.945, 1100)))[2] == "yes"


def test_the_order_of_fig_7() -> None:
    assert verdicts(changed(merge=trade("merge", 0.903, 856)))[3] == "within the error"
    assert verdicts(changed(merge=trade("merge", 0.93, 856)))[3] == "no"


def test_claims_about_missing_variants_are_left_out() -> None:
    assert verdicts([t for t in PAPER if t.key in ("long", "dpo")]) == ["yes"]


def comparison() -> Comparison:
    return Comparison(
        "trial", tuple(PAPER), claims_of(PAPER), num_seeds=3, num_prompts=256, num_samples=512,
        command="k15 long2short x.toml --compare", cpu_minutes=12.34,
    )  # fmt: skip


def test_the_table_has_a_line_for_every_method_and_a_verdict_for_every_claim() -> None:
    text = markdown_table(comparison())
    assert "| <rl> | 94.6% | 93.6% to 95.6% | 1197.0 | 1196.0 to 1198.0 |" in text
    assert text.count("**yes**") == 4
    assert "12.3 CPU minutes" in text


def test_the_points_stand_where_their_numbers_say() -> None:
    svg = str(trade_chart(comparison()).drawing)
    places = [tuple(map(float, p)) for p in re.findall(r'<circle[^>]*?cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert len(places) == len(PAPER)
    by_key = dict(zip([t.key for t in PAPER], places, strict=True))
    assert by_key["short"][0] < by_key["merge"][0] < by_key["rl"][0] < by_key["long"][0]
    assert (
        by_key["rl"][1] < by_key["long"][1] < by_key["merge"][1] < by_key["short"][1]
    )  # y grows downwards
    (x0, x1), (t0, t1) = (by_key["short"][0], by_key["long"][0]), (600, 1320)
    assert by_key["dpo"][0] == pytest.approx(x0 + (1102 - t0) / (t1 - t0) * (x1 - x0), abs=0.2)


def test_the_page_is_one_file_and_escapes_what_it_is_given(tmp_path: Path) -> None:
    text = write_comparison([comparison(), comparison()], tmp_path / "report.html").read_text()
    assert "<rl>" not in text
    assert "&lt;rl&gt;" in text
    assert not re.search(r'(src|href)="(?!#|data:)', text)
    assert text.count("<svg") == 2
