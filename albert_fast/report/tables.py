"""Tables of numbers, and the figure that puts one under every picture, so that nothing is told by colour alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from albert_fast.report.markup import Markup, escaped, number, tag

Cell = str | float | int | None


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Markup:
    """A table whose first column names its rows; numbers stand to the right, and what is wide scrolls by itself.

    Args:
        caption: what the table shows; read out first.
        columns: names of all columns, the first one's too.
        rows: as many cells as there are columns; None is written as a dash.
    Raises:
        ValueError: a row has more or fewer cells.
    """
    lines = [list(row) for row in rows]
    wrong = [str(row[0]) for row in lines if len(row) != len(columns)]
    if wrong:
        raise ValueError(f"{len(columns)} columns, but another number of cells in the rows {', '.join(wrong)}")
    right = [index for index in range(1, len(columns)) if any(not isinstance(row[index], str | None) for row in lines)]
    head = [tag("th", name, scope="col", class_="n" if i in right else None) for i, name in enumerate(columns)]
    body = [
        tag(
            "tr",
            tag("th", _breakable(_text(row[0])), scope="row"),
            *(_cell(row[i], i in right) for i in range(1, len(columns))),
        )
        for row in lines
    ]
    content = tag("table", tag("caption", caption), tag("thead", tag("tr", *head)), tag("tbody", *body))
    return tag("div", content, class_="scroll", tabindex="0", role="region", aria_label=caption)


def figure(title: str, picture: Markup, numbers: Markup, *, legend: Iterable[Markup] = (), note: str = "") -> Markup:
    """A picture with its title above, and its legend, a note and its numbers below."""
    entries = list(legend)
    return tag(
        "figure",
        tag("figcaption", title),
        picture,
        tag("ul", *entries, class_="legend") if entries else Markup(),
        tag("p", note, class_="note") if note else Markup(),
        tag("details", tag("summary", "Numbers"), numbers),
    )


def card(title: str, content: Markup, *, wide: bool = False) -> Markup:
    """A table that stands among charts, with a title above; a wide one takes the whole row on a desk."""
    return tag("figure", tag("figcaption", title), content, class_="wide" if wide else None)


def picture(title: str, description: str, width: float, height: float, parts: Iterable[Markup]) -> Markup:
    """An SVG that says to screen readers what it shows."""
    return tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        *parts,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=title,
    )


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else number(cell)


def _breakable(name: str) -> Markup:
    """A name that may be broken behind its dots and underscores, as those of tensors must be on a phone."""
    if not name[:1].isalpha():
        return escaped(name)
    return Markup(escaped(name).replace(".", ".<wbr>").replace("_", "_<wbr>"))


def _cell(cell: Cell, right: bool) -> Markup:
    return tag("td", _text(cell) if right else _breakable(_text(cell)), class_="n" if right else None)
