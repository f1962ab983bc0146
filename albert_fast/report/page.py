"""A page: one HTML file with everything in it, which asks no network for anything and runs no script."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from albert_fast import files
from albert_fast.report.markup import Markup, joined, tag
from albert_fast.report.style import style_sheet

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Section:
    """A part of a page: its heading, sentences below it, and figures or tables."""

    title: str
    sentences: tuple[str, ...] = ()
    parts: tuple[Markup, ...] = ()


def page(
    title: str, sections: Sequence[Section], *, facts: Sequence[tuple[str, str]] = (), findings: Sequence[str] = ()
) -> str:
    """The text of an HTML file.

    Args:
        title: of the page.
        sections: those with neither sentences nor parts are left out.
        facts: names and values, under which the figures hold.
        findings: what the figures say, a sentence each.
    """
    shown = [section for section in sections if section.sentences or section.parts]
    links = [tag("a", section.title, href=f"#part{index}") for index, section in enumerate(shown, 1)]
    pairs = [piece for name, value in facts for piece in (tag("dt", name), tag("dd", value))]
    body = [
        tag("h1", title),
        tag("ul", *(tag("li", sentence) for sentence in findings)) if findings else Markup(),
        tag("dl", *pairs, class_="facts") if pairs else Markup(),
        tag("nav", *links, aria_label="parts of this page") if len(links) > 1 else Markup(),
        *(_section(section, index) for index, section in enumerate(shown, 1)),
    ]
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(f"\n{style_sheet()}\n")),
    ]
    document = tag("html", tag("head", joined(head, "\n")), "\n", tag("body", joined(body, "\n")), lang="en")
    return f"<!doctype html>\n{document}\n"


def write(path: str | os.PathLike[str], html: str) -> None:
    """Write a page, whole or not at all."""
    with files.replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _section(section: Section, index: int) -> Markup:
    return tag(
        "section",
        tag("h2", section.title, id=f"part{index}"),
        *(tag("p", sentence) for sentence in section.sentences),
        tag("div", *section.parts, class_="charts") if section.parts else Markup(),
    )
