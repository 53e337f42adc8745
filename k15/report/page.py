"""One HTML file: strict content policy, both themes, every figure with its numbers behind it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files

from k15.report.charts import Figure
from k15.report.findings import Finding
from k15.report.markup import Content, Markup, element, join
from k15.report.material import Section
from k15.report.palette import css_rules
from k15.report.settings import show_table


def build_page(title: str, subtitle: str, lead: Sequence[Content], sections: Sequence[Section]) -> str:
    """The whole page.

    Args:
        title: what the page is about; may hold any text.
        subtitle: one line below it.
        lead: what stands before the first section.
        sections: in the order of the page.
    """
    resources = files("k15.report")
    style = css_rules() + (resources / "page.css").read_text(encoding="utf-8")
    script = (resources / "page.js").read_text(encoding="utf-8")
    links = [element("a", section.name, href=f"#{section.anchor}") for section in sections]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=content_policy(script)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", f"{title} · k15 report"),
        element("link", rel="icon", href="data:,"),
        element("style", Markup(style)),
    )
    body = element(
        "body",
        element(
            "header",
            element("p", "k15 report", class_="eyebrow"),
            element("button", "dark or light", id="theme", type="button", hidden=True),
            element("h1", title),
            element("p", subtitle, class_="subtitle"),
        ),
        element("nav", *links, aria_label="Parts of the report"),
        element("main", *lead, *(_show_section(section) for section in sections)),
        element(
            "footer",
            element("p", "Made from the run folder alone. Nothing on this page comes from a network."),
        ),
        element("script", Markup(script)),
    )
    return "<!doctype html>\n" + element("html", head, body, lang="en") + "\n"


def content_policy(script: str) -> str:
    """A policy that lets this page's own script and styles run, and nothing load from anywhere."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _show_section(section: Section) -> Markup:
    figures = [
        show_figure(figure, f"{section.anchor}-{i}") for i, figure in enumerate(section.figures, start=1)
    ]
    grid = element("div", *figures, class_="figures") if figures else None
    empty = None
    if not figures and section.body is None:
        empty = element("p", "Nothing is recorded for this part.", class_="muted")
    return element(
        "section",
        element("h2", section.heading),
        element("p", section.intro, class_="intro") if section.intro else None,
        grid,
        section.body,
        empty,
        id=section.anchor,
    )


def show_figure(figure: Figure, anchor: str) -> Markup:
    """A figure: title, drawing, caption, and its numbers in a table that opens."""
    drawing = figure.drawing
    if figure.is_dense:
        drawing = element(
            "div", drawing, class_="scroll dense", tabindex="0", role="region", aria_label=figure.title
        )
    return element(
        "figure",
        element("h3", figure.title, id=anchor),
        drawing,
        element("p", class_="readout"),
        element("figcaption", figure.caption),
        element(
            "details",
            element("summary", "Numbers"),
            show_table(figure.table, f"Numbers: {figure.title}"),
            class_="numbers",
        ),
        aria_labelledby=anchor,
    )


def show_notices(notices: Sequence[str]) -> Markup | None:
    """What is missing or damaged in the run folder, so that nobody takes a gap for a result."""
    if not notices:
        return None
    shown = [element("li", notice) for notice in notices[:30]]
    if len(notices) > len(shown):
        shown.append(element("li", f"and {len(notices) - len(shown)} more"))
    head = f"{len(notices)} notice{'s' if len(notices) > 1 else ''} about this run folder"
    return element("div", element("h2", head), element("ul", *shown), class_="notices", id="notices")


def show_findings(findings: Sequence[Finding]) -> Markup | None:
    """Remarks, each with a link to the section that shows more."""
    if not findings:
        return None
    shown = []
    for finding in findings:
        sign = element("span", "⚠ watch" if finding.is_warning else "→ note", class_="sign-word")
        link = element("a", "more", href=f"#{finding.anchor}")
        shown.append(element("li", sign, " ", finding.message, " ", link))
    return element("ul", *shown, class_="findings")


def join_lead(parts: Sequence[Content]) -> Markup:
    """Parts of the first screen, in one block."""
    return element("div", join(parts), class_="lead")
