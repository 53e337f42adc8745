"""Events in the life of a run, and what it was: resolved settings, versions, fingerprints."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from k15.report.charts import Table
from k15.report.markup import Content, Markup, element, join
from k15.report.material import Section
from k15.report.runs import Row, Stage, number, text

MOST_EVENTS = 200
MOST_LETTERS = 600
EVENT_SIGNS = {
    "resume": "↻",
    "fallback": "⚠",
    "save_failed": "⚠",
    "record_failed": "⚠",
    "repaired": "⚠",
    "config_changed": "⚠",
    "worker_restarted": "↻",
    "nonfinite_step": "⚠",
    "stop_requested": "■",
    "faults": "⚠",
    "engine_gap": "⚠",
    "no_answers": "⚠",
    "finished": "✓",
}


def events_section(stages: Sequence[Stage]) -> Section:
    """What happened out of the ordinary, phase by phase."""
    parts: list[Content] = []
    for stage in stages:
        events = [event for event in stage.reader.events if isinstance(event, Mapping)]
        if len(stages) > 1:
            parts.append(element("h3", stage.name))
        parts.append(
            _show_events(events)
            if events
            else element("p", "Nothing out of the ordinary is recorded.", class_="muted")
        )
    return Section(
        "events",
        "Events",
        "What happened on the way?",
        "Resumes, crashes, fallbacks, restarts.",
        body=join(parts),
    )


def _show_events(events: Sequence[Row]) -> Markup:
    counts = Counter(text(event, "kind") or "unknown" for event in events)
    tally = ", ".join(f"{count} × {kind}" for kind, count in counts.most_common())
    half = MOST_EVENTS // 2
    shown = list(events) if len(events) <= MOST_EVENTS else [*events[:half], *events[-half:]]
    rows = []
    for event in shown:
        kind = text(event, "kind") or "unknown"
        known = ("time", "iteration", "kind", "message")
        more = ", ".join(f"{key}: {flat(value)}" for key, value in event.items() if key not in known)
        message = text(event, "message") + (f" ({more})" if more else "")
        rows.append(
            (
                moment(number(event, "time")),
                text(event, "iteration"),
                f"{EVENT_SIGNS.get(kind, '·')} {kind}",
                clip(message),
            )
        )
    note = (
        f"The first and the last {half} of {len(events):,} events." if len(shown) < len(events) else ""
    )
    table = Table(("time, UTC", "iteration", "kind", "what happened"), tuple(rows), note=note)
    return join([element("p", tally, class_="facts"), show_table(table, "Events", class_="events")])


def settings_section(stages: Sequence[Stage]) -> Section:
    """Settings, versions and fingerprints of every run folder of the page."""
    parts: list[Content] = []
    for stage in stages:
        manifest = list(flatten(stage.reader.manifest))
        config = list(flatten(stage.config))
        if len(stages) > 1:
            parts.append(element("h3", stage.name))
        versions = [*manifest, *_weights(stage)]
        if versions:
            parts.append(show_table(_pairs(versions), f"Where {stage.name} comes from"))
        else:
            parts.append(element("p", "No manifest is recorded.", class_="muted"))
        head = element("summary", f"All {len(config)} settings, resolved")
        body = (
            show_table(_pairs(config), f"Settings of {stage.name}")
            if config
            else element("p", "No settings are recorded.")
        )
        parts.append(element("details", head, body))
    intro = "Everything that a repetition needs."
    return Section("settings", "Settings", "What exactly was run?", intro, body=join(parts))


def _weights(stage: Stage) -> Iterator[tuple[str, str]]:
    for name, row in (("first", stage.rows[0]), ("last", stage.rows[-1])) if stage.rows else ():
        fingerprint = text(row, "weights/fingerprint")
        if fingerprint:
            version = text(row, "weights/version")
            yield (
                f"weights, {name} line of metrics",
                f"{fingerprint} (version {version})" if version else fingerprint,
            )


def flatten(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and values of nested tables, as text."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for i, item in enumerate(value):
                yield from flatten(item, f"{prefix}{key}[{i}].")
        elif key == "created" and not prefix and isinstance(value, (int, float)):
            yield "created, UTC", moment(float(value))
        else:
            yield f"{prefix}{key}", flat(value)


def flat(value: object) -> str:
    """A value of a config as one line of text."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return repr(value)[:MOST_LETTERS]


def moment(seconds: float | None) -> str:
    """A Unix time as date and time in UTC; "" if it is not one."""
    if seconds is None or not math.isfinite(seconds) or not 0 <= seconds < 4e9:
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def clip(words: str) -> str:
    """At most MOST_LETTERS letters."""
    return words if len(words) <= MOST_LETTERS else words[: MOST_LETTERS - 1] + "…"


def _pairs(pairs: Sequence[tuple[str, str]]) -> Table:
    return Table(("key", "value"), tuple((clip(key), clip(value)) for key, value in pairs))


def show_table(table: Table, label: str, class_: str | None = None) -> Markup:
    """A table that scrolls sideways where it does not fit."""
    places = [f"{place:.1f}" for place in table.places] or [None] * len(table.rows)
    head = element("tr", *(element("th", name, scope="col") for name in table.headers))
    body = [
        element("tr", *(element("td", cell) for cell in row), data_x=place)
        for row, place in zip(table.rows, places, strict=True)
    ]
    note = element("p", table.note, class_="muted") if table.note else None
    grid = element("table", element("thead", head), element("tbody", *body), class_=class_)
    return join(
        [note, element("div", grid, class_="scroll", tabindex="0", role="region", aria_label=label)]
    )
