"""The reports: safe whatever names say, whole in one file, readable by everybody, and showing what the data says."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from albert_fast.report import precision_report, write
from albert_fast.report.axes import Axis, scale
from albert_fast.report.charts import WIDTH, Bar, Grid, Line, bar_chart, heat_map, line_chart
from albert_fast.report.data import (
    Accuracy,
    Change,
    ChannelSpread,
    ErrorPerPass,
    FileSize,
    Kept,
    PassError,
    PrecisionData,
    Sensitivity,
    TensorRange,
)
from albert_fast.report.markup import Markup, number, tag, trimmed
from albert_fast.report.style import DARK, DARK_TEXT_UP_TO, LIGHT, SHADES
from albert_fast.report.tables import table

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))
from engines_page import engines_page  # noqa: E402

HOSTILE = '</title></style></svg><script>alert(\'1\')</script>"><img src=x onerror="a"> &lt;b\x00\ud800'
SHOWN = HOSTILE.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
LAYER = "encoder.albert_layer_groups.0.albert_layers.0"
VOID = {"meta", "br", "wbr", "img"}


def whole(name: str = "") -> PrecisionData:
    """Data for every section, with a name put wherever one can be."""
    tensor = f"{LAYER}.ffn{name}.input"
    errors = tuple(PassError(after, 0.01, 0.2, 0.02, 0.999) for after in ("embeddings", "0", "1"))
    return PrecisionData(
        model=f"model {name}",
        facts=((f"fact {name}", f"value {name}"),),
        ranges=(
            TensorRange(tensor, (4.0, 1.0), (6.0, 1.5), (0.5, 0.1), (1e-4, 2e-4), (35.0, 34.0), (35.0, 22.0)),
            TensorRange(f"pooler{name}.input", (3.0,)),
        ),
        channels=(ChannelSpread(tensor, 256, (1.0, 0.5), (2.0, 1.0), (9.0, 1.5), (17, 3)),),
        sensitivity=Sensitivity(f"divergence {name}", f"nats {name}", (tensor,), ((0.5,), (None,)), 0.25),
        errors=(ErrorPerPass(f"int8 {name}", errors),),
        accuracy=(Accuracy(f"fp32 {name}", 80, 100, 0.71, 0.87), Accuracy(f"int8 {name}", 79, 100, 0.7, 0.86, 2, 1, 4)),
        changes=(Change(f"noun {name}", f"verb {name}", 4, 2, 1),),
        sizes=(FileSize(f"onnx {name}", 12_345_678),),
        kept=(Kept(tensor, "1", f"bf16 {name}", f"because {name}"),),
    )


class Page(HTMLParser):
    """A page as a browser reads it: elements with their attributes, the text, and what is not closed in its place."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.crossed: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.crossed.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


def benchmark_page(name: str = "") -> str:
    """The benchmark's page, with a name put wherever one can be."""
    document = json.loads((REPOSITORY / "benchmarks/results/engines.json").read_text())
    for row in document["rows"]:
        row.update(model=row["model"] + name, engine=row["engine"] + name, build_s=2.5, load_ms=30.0)
    document.update(what=document["what"] + name, baseline=document["baseline"] + name)
    return engines_page(document, f"conditions {name}")


PAGES = {"precision": lambda name: precision_report(whole(name)), "engines": benchmark_page}


@pytest.mark.parametrize("make", PAGES.values(), ids=PAGES)
def test_a_name_that_is_markup_stays_text(make: Callable[[str], str]) -> None:
    harmless, page = Page(make("n")), Page(make(HOSTILE))
    assert {element for element, _ in page.elements} == {element for element, _ in harmless.elements}
    attributes, known = ({name for _, found in one.elements for name in found} for one in (page, harmless))
    assert attributes == known
    assert page.crossed == []
    assert page.text.count(SHOWN) > 5


@pytest.mark.parametrize("make", PAGES.values(), ids=PAGES)
def test_a_page_asks_no_network_for_anything_and_runs_no_script(make: Callable[[str], str]) -> None:
    html = make("")
    page = Page(html)
    assert not re.search(r"https?:|//|url\(|@import", html)
    assert not page.all("script") + page.all("link") + page.all("img")
    assert all(str(found["href"]).startswith("#part") for found in page.all("a"))
    policy = next(found for found in page.all("meta") if "http-equiv" in found)
    assert str(policy["content"]).startswith("default-src 'none'")


@pytest.mark.parametrize("make", PAGES.values(), ids=PAGES)
def test_a_page_is_well_formed_and_its_references_lead_somewhere(make: Callable[[str], str]) -> None:
    page = Page(make(""))
    assert page.crossed == []
    ids = [str(found["id"]) for _, found in page.elements if "id" in found]
    assert len(ids) == len(set(ids))
    assert {str(found["href"])[1:] for found in page.all("a")} <= set(ids)
    pictures = [found for found in page.all("svg") if found.get("role") == "img"]
    assert len(page.all("desc")) == len(pictures) > 5
    for found in pictures:
        assert found["aria-label"]
        assert "width" not in found and str(found["viewbox"]).startswith(f"0 0 {WIDTH} ")


@pytest.mark.parametrize("make", PAGES.values(), ids=PAGES)
def test_every_picture_has_its_numbers_in_a_table(make: Callable[[str], str]) -> None:
    html = make("")
    figures = [part.split("</figure>")[0] for part in html.split("<figure")[1:]]
    assert all("<table" in one for one in figures)
    assert [("<details" in one) for one in figures] == [('role="img"' in one) for one in figures]


def test_the_same_data_gives_the_same_page() -> None:
    assert precision_report(whole()) == precision_report(whole())


SECTIONS = {
    "accuracy": "Accuracy",
    "errors": "Error after each pass",
    "ranges": "Activation ranges",
    "channels": "Outlier channels",
    "sensitivity": "Sensitivity",
    "kept": "Kept in higher precision",
    "sizes": "Size",
}


@pytest.mark.parametrize("field", SECTIONS)
def test_a_section_appears_only_where_its_data_is_there(field: str) -> None:
    alone = PrecisionData("model", **{field: getattr(whole(), field)})
    assert re.findall(r"<h2[^>]*>([^<]*)", precision_report(alone)) == [SECTIONS[field]]
    default = next(f.default for f in dataclasses.fields(PrecisionData) if f.name == field)
    without = dataclasses.replace(whole(), **{field: default})
    titles = re.findall(r"<h2[^>]*>([^<]*)", precision_report(without))
    assert titles == [title for title in SECTIONS.values() if title != SECTIONS[field]]


def test_a_range_is_drawn_beside_the_merged_one_and_says_what_merging_would_leave() -> None:
    html = precision_report(PrecisionData("model", ranges=whole().ranges[:1]))
    figure = html.split("<figure")[1].split("</figure>")[0]
    assert "merged range: 4.00 throughout." in figure
    assert figure.count("stroke-dasharray") == 2  # the line and its legend
    assert "merged, the smallest would keep 32 of 127 magnitudes" in figure


def test_tensors_of_several_layers_keep_the_layer_in_their_names() -> None:
    tensors = [f"encoder.albert_layer_groups.{group}.albert_layers.0.ffn.input" for group in (0, 1)]
    html = precision_report(PrecisionData("model", ranges=tuple(TensorRange(one, (1.0, 2.0)) for one in tensors)))
    assert re.findall(r"<figcaption>([^<]*)", html) == ["0.0 ffn.input", "1.0 ffn.input"]


ODD = {
    "nothing": [],
    "one point": [(1.0, 2.0)],
    "equal": [(0.0, 5.0), (1.0, 5.0)],
    "zeros": [(0.0, 0.0), (1.0, 0.0)],
    "not finite": [(0.0, float("nan")), (1.0, float("inf")), (2.0, 3.0)],
    "tiny": [(0.0, 1e-300), (1.0, 2e-300)],
    "huge": [(0.0, -1e300), (1.0, 1e300)],
}


@pytest.mark.parametrize("log", [False, True], ids=["linear", "log"])
@pytest.mark.parametrize("points", ODD.values(), ids=ODD)
def test_odd_numbers_give_a_picture_within_its_frame(points: list[tuple[float, float]], log: bool) -> None:
    html = line_chart("odd", [Line("line", tuple(points))], x=Axis("x"), y=Axis("y", log=log))
    height = float(re.findall(r'viewBox="0 0 360 ([\d.]+)"', html)[0])
    for x, y in re.findall(r"translate\(([^ ]+) ([^)]+)\)", html.split("<ul")[0]):
        assert 0 <= float(x) <= WIDTH and 0 <= float(y) <= height
    assert "nan" not in html.split("<details")[0] and "inf" not in html.split("<details")[0]


def test_a_point_that_a_logarithmic_axis_has_no_place_for_is_in_the_table_all_the_same() -> None:
    html = line_chart("zero", [Line("line", ((0, 0.0), (1, 0.5)))], x=Axis("x"), y=Axis("y", log=True))
    assert html.count("<title>line: ") == 1
    assert '<th scope="row">0</th><td>0</td>' in html


def test_a_band_down_to_zero_ends_at_the_foot_of_a_logarithmic_axis() -> None:
    line = Line("line", ((0, 1.0), (1, 2.0)), band=(0.0, 0.5))
    html = line_chart("band", [line], x=Axis("x"), y=Axis("y", log=True))
    assert re.findall(r'd="M[^"]*,198Z" class="band"', html)


def test_bars_begin_at_zero_and_are_as_long_as_their_values() -> None:
    html = bar_chart("sizes", [Bar("a", 10.0), Bar("b", 5.0)], axis=Axis("size", from_zero=True))
    lengths = [float(end) - float(start) for start, end in re.findall(r"M([\d.]+),[\d.]+H([\d.]+)V", html)]
    assert lengths[0] == pytest.approx(2 * lengths[1], rel=0.01)


def test_the_largest_cell_of_a_heat_map_has_the_darkest_shade_and_an_absent_one_none() -> None:
    grid = Grid("pass", ("0",), ("a", "b", "c"), ((0.0, 9.0, None),))
    html = heat_map("cells", grid)
    assert re.findall(r'class="h (h\w+)"><title>([^<]*)', html) == [
        ("h0", "0, a: 0"),
        ("h9", "0, b: 9.00"),
        ("hnone", "0, c: –"),
    ]


def test_a_table_refuses_a_row_of_another_length() -> None:
    with pytest.raises(ValueError, match="2 columns, but another number of cells in the rows wrong"):
        table("caption", ["a", "b"], [["right", 1], ["wrong", 1, 2]])


@pytest.mark.parametrize("axis", [Axis("x"), Axis("x", log=True)], ids=["linear", "log"])
@pytest.mark.parametrize("span", [(1.0, 1.3), (0.9, 41.0), (2e-6, 3e-4), (0.003, 700.0), (5e3, 6e9)])
def test_an_axis_has_three_to_ten_values_that_are_short(axis: Axis, span: tuple[float, float]) -> None:
    found = scale(axis, span, 0, 100)
    ticks = found.ticks()
    assert 3 <= len(ticks) <= 10
    assert all(found.low <= tick <= found.high and len(trimmed(tick)) <= 13 for tick in ticks)
    assert [round(found.place(v), 6) for v in (found.low, found.high)] == [0, 100]


def test_a_logarithmic_axis_prefers_ones_and_threes_and_fives() -> None:
    assert scale(Axis("x", log=True), (1, 1000), 0, 1).ticks() == [1, 3, 10, 30, 100, 300, 1000]
    assert scale(Axis("x", log=True), (1, 100), 0, 1).ticks() == [1, 2, 5, 10, 20, 50, 100]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0.0, "0"), (12, "12"), (12300, "12,300"), (0.0451, "0.0451"), (2.3e-7, "2.30e-07"),
        (9.996, "10.0"), (123456.7, "123,457"), (1e12, "1.00e+12"), (-3.14159, "-3.14"), (float("inf"), "∞"),
        (float("nan"), "–"),
    ],
)  # fmt: skip
def test_a_number_is_written_with_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_markup_is_never_made_of_somebody_elses_text() -> None:
    assert tag("p", "<b>", tag("b", "&"), id='"') == '<p id="&quot;">&lt;b&gt;<b>&amp;</b></p>'
    assert tag("p", id=Markup('"><script>')) == '<p id="&quot;&gt;&lt;script&gt;"></p>'


def luminance(color: str) -> float:
    """As in WCAG 2.2."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_lines_stand_out_from_the_page_in_both_themes(theme: dict[str, str]) -> None:
    for ground in ("page", "card"):
        wanted = {"text": 7.0, "quiet": 4.5, **{f"c{i}": 4.5 if i == 0 else 3.0 for i in range(8)}}
        found = {name: contrast(theme[name], theme[ground]) for name in wanted}
        assert {name: found[name] for name in wanted if found[name] < wanted[name]} == {}


def test_the_number_in_a_cell_of_a_heat_map_can_be_read() -> None:
    for index, shade in enumerate(SHADES):
        assert contrast(shade, "#000000" if index <= DARK_TEXT_UP_TO else "#ffffff") >= 4.5
    assert [luminance(shade) for shade in SHADES] == sorted(map(luminance, SHADES), reverse=True)


def test_a_page_is_written_to_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    write(tmp_path / "new" / "model.scales.html", "<!doctype html>é")
    assert (tmp_path / "new" / "model.scales.html").read_text(encoding="utf-8") == "<!doctype html>é"
