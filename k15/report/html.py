"""A run folder as one HTML file that opens anywhere: `write_report`, and `write_demo_report` for several runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from k15.errors import RunFolderError
from k15.report.curriculum import curriculum_section
from k15.report.examples import Pick, choose_examples
from k15.report.findings import find_problems
from k15.report.headline import PhaseSummary, headline_tiles, show_phases, show_tiles
from k15.report.health import health_section
from k15.report.learning import learning_section
from k15.report.lengths import length_section
from k15.report.markup import Content, join
from k15.report.material import Material, Section
from k15.report.page import build_page, join_lead, show_findings, show_notices
from k15.report.partial import choose_lane_groups, rollout_section
from k15.report.runs import Stage, open_stage, text
from k15.report.scan import scan_rollouts
from k15.report.settings import events_section, moment, settings_section
from k15.report.thoughts import key_of, read_groups, show_pick
from k15.report.timeline import Timeline, build_timeline
from k15.report.warmup import warmup_section

__all__ = ["PhaseSummary", "write_demo_report", "write_report"]


def write_report(run_dir: Path, output: Path | None = None) -> Path:
    """Write the report of one run folder and return its path.

    The page needs no network and no other file. What is missing or damaged in the folder becomes a notice
    on the page.

    Args:
        run_dir: a run folder, or a copy of one.
        output: the file to write; None writes report.html into the run folder.

    Raises:
        RunFolderError: there is no such folder.
    """
    name = run_dir.resolve().name
    return _write(name, [(name, run_dir)], output or run_dir / "report.html", ())


def write_demo_report(
    title: str,
    stages: Sequence[tuple[str, Path]],
    output: Path,
    summary_rows: Sequence[PhaseSummary] = (),
) -> Path:
    """Write one report of several run folders that follow each other, and return its path.

    RL stages share one axis of iterations, with a mark where each begins; supervised stages have their own.

    Args:
        title: the heading of the page.
        stages: (name, run folder) in the order in which they ran.
        output: the file to write.
        summary_rows: one row per phase for the table at the top: accuracy and tokens on held-out problems.

    Raises:
        RunFolderError: there is no such folder.
    """
    return _write(title, stages, output, summary_rows)


def _write(
    title: str, named: Sequence[tuple[str, Path]], output: Path, summary_rows: Sequence[PhaseSummary]
) -> Path:
    for _, path in named:
        if not path.is_dir():
            raise RunFolderError(
                f"A report is made from a run folder; {path} is not a folder. Give the folder of a run."
            )
    timeline, stages = build_timeline([open_stage(name, path) for name, path in named])
    page = _build(title, timeline, stages, summary_rows)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.tmp-{os.getpid()}")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    return output


def _build(
    title: str, timeline: Timeline, stages: Sequence[Stage], summary_rows: Sequence[PhaseSummary]
) -> str:
    """The page: one pass over the rollouts, a second look at the few texts it shows, then the sections."""
    scan = scan_rollouts(timeline.stages)
    material = Material(tuple(stages), timeline, scan)
    picks = choose_examples(scan.groups)
    lanes = choose_lane_groups(scan.groups)
    wanted = {key_of(group) for pick in picks for group in pick.groups} | {
        key_of(group) for group in lanes
    }
    texts = read_groups(timeline.stages, wanted)
    findings = find_problems(material) if timeline.stages else []

    sections: list[Section | None] = [warmup_section([stage for stage in stages if stage.kind == "sft"])]
    if timeline.stages:
        sections += [
            learning_section(material),
            length_section(material),
            health_section(material),
            curriculum_section(material),
            rollout_section(material, lanes, texts),
            _examples_section(picks, [show_pick(pick, texts, timeline.stages) for pick in picks]),
        ]
    sections += [events_section(stages), settings_section(stages)]
    notices = _notices(material)  # last: reading is what finds damage
    lead: list[Content] = [
        show_phases(summary_rows),
        show_tiles(headline_tiles(material, findings, len(notices))) if timeline.stages else None,
        show_findings(findings),
        show_notices(notices),
    ]
    return build_page(
        title, _subtitle(stages), [join_lead(lead)], [s for s in sections if s is not None]
    )


def _examples_section(picks: Sequence[Pick], shown: Sequence[Content]) -> Section:
    intro = (
        "Groups chosen because they teach something, each with the reason. Every text is what the model wrote; the "
        "judged answer is marked in it."
    )
    body = join(shown) if picks else None
    return Section("examples", "Show me", "Show me", intro, body=body)


def _notices(material: Material) -> list[str]:
    """Everything that is missing, damaged or left out, once each."""
    several = len(material.stages) > 1
    found: list[str] = list(material.scan.notices)
    for stage in material.stages:
        prefix = f"{stage.name}: " if several else ""
        found += [prefix + notice for notice in (*stage.notices, *map(str, stage.reader.notices))]
    broken = material.timeline.not_finite()
    found += [
        f"{key} has no finite value in {count} iteration{'s' * (count > 1)}, left out of its curve."
        for key, count in sorted(broken.items())
    ]
    return list(dict.fromkeys(found))


def _subtitle(stages: Sequence[Stage]) -> str:
    """What ran, when, with which version."""
    first = stages[0] if stages else None
    if first is None:
        return ""
    manifest = first.reader.manifest
    created = manifest.get("created")
    when = moment(float(created)) if isinstance(created, (int, float)) else text(manifest, "created")
    parts = [stage.name for stage in stages] if len(stages) > 1 else []
    versions = manifest.get("versions")
    version = text(versions, "k15") if isinstance(versions, dict) else text(manifest, "k15_version")
    if when:
        parts.append(f"started {when} UTC")
    if version:
        parts.append(f"k15 {version}")
    if text(manifest, "seed"):
        parts.append(f"seed {text(manifest, 'seed')}")
    return " · ".join(parts)
