"""The precision report: what rounding to int8 does to a model, tensor by tensor, pass by pass, answer by answer."""

from __future__ import annotations

import re
from collections.abc import Iterable

from albert_fast.report.axes import Axis
from albert_fast.report.charts import Bar, Grid, Line, bar_chart, heat_map, line_chart
from albert_fast.report.data import ChannelSpread, PassError, PrecisionData, TensorRange
from albert_fast.report.markup import Markup, number, percent
from albert_fast.report.page import Section, page
from albert_fast.report.tables import Cell, card, table

TOP = 15
"""Rows of the table of changed answers."""
_LAYER = re.compile(r"^encoder\.albert_layer_groups\.(\d+)\.albert_layers\.(\d+)\.")
_WHAT = {
    "attention.input": "What query, key and value read.",
    "attention.dense.input": "Attention's result, which its output map reads.",
    "ffn.input": "What the first map of the feed-forward block reads.",
    "ffn_output.input": "What comes out of GELU, which the second map of the feed-forward block reads.",
}


def precision_report(data: PrecisionData) -> str:
    """The report as the text of one HTML file; sections without data are left out."""
    names = _short_names(data)
    sections = (
        _accuracy(data),
        _errors(data),
        _ranges(data.ranges, names),
        _channels(data.channels, names),
        _sensitivity(data, names),
        _kept(data, names),
        _sizes(data),
    )
    return page(f"Precision of {data.model}", sections, facts=data.facts, findings=list(_findings(data, names)))


def _findings(data: PrecisionData, names: dict[str, str]) -> Iterable[str]:
    """What a reader should take along, most important first."""
    if data.accuracy:
        first, *others = data.accuracy
        shares = [f"{first.name} {percent(first.share)}"]
        shares += [f"{one.name} {percent(one.share)} ({one.changed:,} changed)" for one in others]
        yield f"Right answers of {first.texts:,} texts: {', '.join(shares)}."
    distances = [f"{one.name} {percent(one.passes[-1].relative)}" for one in data.errors if one.passes]
    if distances:
        yield f"Distance of the hidden state from float32's after the last pass: {', '.join(distances)}."
    drifting = [one for one in data.ranges if len(one.chosen) > 1]
    if drifting:
        most = max(drifting, key=lambda one: one.merged / min(one.chosen))
        least = min(range(len(most.chosen)), key=lambda index: most.chosen[index])
        yield (
            f"The range of {names[most.tensor]} drifts most over the passes, between {number(min(most.chosen))} (pass "
            f"{least}) and {number(most.merged)}. One range for all passes would leave pass {least} "
            f"{most.merged_levels[least]:.0f} of int8's 127 magnitudes."
        )


def _accuracy(data: PrecisionData) -> Section:
    if not data.accuracy:
        return Section("Accuracy")
    first = data.accuracy[0]
    bars = [
        Bar(one.name, 100 * one.share, 100 * one.low, 100 * one.high, color=index)
        for index, one in enumerate(data.accuracy)
    ]
    confidence = "Whiskers: where the share lies with 95 % confidence, by the number of texts. The axis begins above 0."
    parts = [bar_chart("Right answers", bars, axis=Axis("right answers", "%", digits=4), note=confidence)]
    if len(data.accuracy) > 1:
        rows: list[list[Cell]] = [[one.name, one.changed, one.lost, one.gained] for one in data.accuracy[1:]]
        columns = ["", "changed", "now wrong", "now right"]
        numbers = table(f"Against {first.name}, of {first.texts:,} texts", columns, rows)
        parts.append(card("How many answers changed", numbers))
    if data.changes:
        shown: list[list[Cell]] = [[c.before, c.after, c.texts, c.lost, c.gained] for c in data.changes[:TOP]]
        texts = sum(change.texts for change in data.changes)
        caption = f"{len(shown)} of {len(data.changes)} pairs of classes, most texts first; {texts} texts in all"
        columns = [f"{first.name} said", "int8 says", "texts", "right before", "right now"]
        parts.append(card("Which answer became which", table(caption, columns, shown)))
    return Section("Accuracy", parts=tuple(parts))


def _errors(data: PrecisionData) -> Section:
    shown = [one for one in data.errors if one.passes]
    if not shown:
        return Section("Error after each pass")
    names = tuple(one.after for one in max((one.passes for one in shown), key=len))
    passes = Axis("after pass", values=tuple(map(float, range(len(names)))), names=tuple(map(_short_place, names)))

    def lines(name: str, value: str, dash: str = "solid") -> list[Line]:
        return [
            Line(f"{one.name}{name}", tuple((names.index(e.after), _value(e, value)) for e in one.passes), index, dash)
            for index, one in enumerate(shown)
        ]

    both = [
        line
        for pair in zip(lines(", mean", "mean_abs"), lines(", largest", "max_abs", "dashed"), strict=True)
        for line in pair
    ]
    charts = (
        line_chart("Distance", lines("", "relative"), x=passes, y=Axis("RMS of the error by RMS of float32", log=True)),
        line_chart("Angle", lines("", "turn"), x=passes, y=Axis("1 - cosine", log=True)),
        line_chart("Absolute error", both, x=passes, y=Axis("absolute error", log=True)),
    )
    about = "The hidden state against float32's on the same text, padding left out; e is after the embeddings."
    return Section("Error after each pass", (about,), charts)


def _ranges(ranges: tuple[TensorRange, ...], names: dict[str, str]) -> Section:
    drifting = [one for one in ranges if len(one.chosen) > 1]
    single = [one for one in ranges if len(one.chosen) == 1]
    parts = [_range_chart(one, names[one.tensor]) for one in drifting]
    exact = [one for one in drifting if one.signal_db]
    if exact:
        parts += [_signal_chart(exact, names)]
    if single:
        rows: list[list[Cell]] = [
            [names[one.tensor], *(row[0] if row else None for row in (one.chosen, one.largest, one.signal_db))]
            for one in single
        ]
        columns = ["tensor", "range", "largest seen", "signal by noise, dB"]
        parts.append(card("Tensors outside the passes", table("One pass, one range", columns, rows)))
    about = (
        "Every tensor has a range of its own in every pass. Tools that observe modules see all passes of the shared "
        "layer as one tensor and would take the merged range, the dashed line: where it is far above the range of a "
        "pass, that pass would be rounded on few of int8's 127 magnitudes."
    )
    return Section("Activation ranges", (about,) if parts else (), tuple(parts))


def _range_chart(one: TensorRange, name: str) -> Markup:
    """One tensor: its range, what was seen, and what merging would make of it."""
    lines = [Line("range of the pass", tuple(enumerate(one.chosen)), 0, band=one.largest)]
    if one.largest:
        lines.append(Line("largest seen", tuple(enumerate(one.largest)), 1))
        lines.append(Line("half of the numbers lie below", tuple(enumerate(one.middle)), 2))
    lines.append(Line("merged range", tuple((i, one.merged) for i in range(len(one.chosen))), 3, "dashed", False))
    levels = min(one.merged_levels)
    note = (
        f"{_what(one.tensor)} Range {number(min(one.chosen))} to {number(one.merged)}; merged, the smallest would keep "
        f"{levels:.0f} of 127 magnitudes."
    )
    if one.smoothed:
        note += " The range is of the tensor divided by its smoothing."
    if one.clipped:
        note += f" Clipped: at most {percent(max(one.clipped), 3)} of the numbers of a pass (shaded)."
    return line_chart(name, lines, x=_passes(len(one.chosen)), y=Axis("magnitude", from_zero=True), note=note.strip())


def _signal_chart(ranges: list[TensorRange], names: dict[str, str]) -> Markup:
    """Every tensor's signal by its rounding noise, with a range a pass and with one merged."""
    lines = []
    for index, one in enumerate(ranges):
        lines.append(Line(names[one.tensor], tuple(enumerate(one.signal_db)), index))
        merged = tuple(enumerate(one.merged_signal_db))
        lines.append(Line(f"{names[one.tensor]}, merged", merged, index, "dotted", marked=False))
    note = "More is better: 6 dB are one bit. Dotted: with one range for all passes."
    axis = Axis("signal by rounding noise", "dB")
    return line_chart("What int8 leaves of each tensor", lines, x=_passes(len(ranges[0].chosen)), y=axis, note=note)


def _channels(spreads: tuple[ChannelSpread, ...], names: dict[str, str]) -> Section:
    charts, rows = [], []
    for one in spreads:
        worst = max(range(len(one.top)), key=lambda index: one.outlier[index])
        row: list[Cell] = [names[one.tensor], one.channels, one.outlier[worst], worst, one.top_channel[worst]]
        rows.append(row)
        if len(one.top) > 1:
            lines = [
                Line("largest channel", tuple(enumerate(one.top)), 1, band=one.median),
                Line("99 % of the channels lie below", tuple(enumerate(one.high)), 4),
                Line("middle channel", tuple(enumerate(one.median)), 0),
            ]
            note = (
                f"In pass {worst} channel {one.top_channel[worst]} reaches {number(one.outlier[worst], 2)} times the "
                "middle one."
            )
            y = Axis("largest magnitude of a channel", log=True)
            charts.append(line_chart(names[one.tensor], lines, x=_passes(len(one.top)), y=y, note=note))
    if rows:
        caption = "In the pass where that is most"
        columns = ["tensor", "channels", "times the middle", "pass", "channel"]
        charts.append(card("Largest channel by the middle one", table(caption, columns, rows), wide=True))
    about = (
        "One scale serves all channels of a tensor. A channel far above the others takes the range for itself, and the "
        "others are rounded on what is left; SmoothQuant moves such channels into the weights."
    )
    return Section("Outlier channels", (about,) if charts else (), tuple(charts))


def _sensitivity(data: PrecisionData, names: dict[str, str]) -> Section:
    measured = data.sensitivity
    if measured is None or not measured.values or not measured.tensors:
        return Section("Sensitivity")
    rows = tuple(str(index) for index in range(len(measured.values)))
    order = sorted(range(len(measured.tensors)), key=lambda index: list(names).index(measured.tensors[index]))
    columns = tuple(names[measured.tensors[index]] for index in order)
    values = tuple(tuple(row[index] for index in order) for row in measured.values)
    grid = Grid("pass", rows, columns, values, Axis(measured.measure, measured.unit))
    about = "What rounding one tensor in one pass alone does to the answers."
    note = (
        f"Rounding all weights and nothing else: {grid.axis.text(measured.weights)}."
        if measured.weights is not None
        else ""
    )
    return Section("Sensitivity", (about,), (heat_map("Where rounding hurts", grid, note=note),))


def _kept(data: PrecisionData, names: dict[str, str]) -> Section:
    if not data.kept:
        return Section("Kept in higher precision")
    rows: list[list[Cell]] = [[names[one.tensor], one.passes, one.precision, one.reason] for one in data.kept]
    numbers = table("What could be int8 and is not", ["tensor", "passes", "precision", "why"], rows)
    return Section("Kept in higher precision", (), (card("Tensors that stay", numbers, wide=True),))


def _sizes(data: PrecisionData) -> Section:
    bars = [Bar(one.name, one.bytes / 1e6) for one in data.sizes]
    axis = Axis("size", "MB", from_zero=True)
    return Section("Size", (), (bar_chart("Bytes", bars, axis=axis, note="1 MB is 10^6 bytes."),) if bars else ())


def _short_names(data: PrecisionData) -> dict[str, str]:
    """Tensors' names without the path of the layer, where there is only one layer."""
    tensors = [one.tensor for one in data.ranges] + [one.tensor for one in data.channels]
    tensors += data.sensitivity.tensors if data.sensitivity else ()
    tensors += [one.tensor for one in data.kept]
    layers = {found[0] for found in map(_LAYER.match, tensors) if found}
    pattern = r"" if len(layers) <= 1 else r"\1.\2 "
    return {tensor: _LAYER.sub(pattern, tensor) for tensor in tensors}


def _what(tensor: str) -> str:
    return next((words for end, words in _WHAT.items() if tensor.endswith(f".{end}")), "")


def _passes(count: int) -> Axis:
    return Axis("pass", values=tuple(map(float, range(count))), digits=6)


def _short_place(after: str) -> str:
    return "e" if after == "embeddings" else after


def _value(error: PassError, name: str) -> float:
    return 1 - error.cosine if name == "turn" else float(getattr(error, name))
