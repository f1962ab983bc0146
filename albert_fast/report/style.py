"""How the pages look: one column on a phone, several charts beside each other on a desk, light and dark."""

from __future__ import annotations

LIGHT = {
    "page": "#ffffff", "card": "#f6f7f9", "text": "#1a1d21", "quiet": "#565d66", "edge": "#d5d9df",
    "c0": "#0067a5", "c1": "#c44e00", "c2": "#007a5a", "c3": "#a63f86", "c4": "#806400", "c5": "#4b5bd0",
    "c6": "#0a7787", "c7": "#626870",
}  # fmt: skip
DARK = {
    "page": "#14171a", "card": "#1c2024", "text": "#e8eaed", "quiet": "#a6adb6", "edge": "#363c44",
    "c0": "#5cb3f0", "c1": "#ff8c4a", "c2": "#3ecf9f", "c3": "#e58bc9", "c4": "#d9b83a", "c5": "#a3aef7",
    "c6": "#4fd0e3", "c7": "#a8adb3",
}  # fmt: skip
# From light to dark in equal steps of lightness, so that the order stays in print and to the colour-blind.
SHADES = ("#e8f1fa", "#d0e2f3", "#b6d2eb", "#9bc1e2", "#7eaed8", "#6099cb", "#4383bb", "#2b6ca6", "#18558a", "#0b3d68")
_LINES = 24  # of one chart
DARK_TEXT_UP_TO = 6  # shades that black is read better on than white

_RULES = """
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 78rem; padding: 1rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0 }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .3rem }
p, ul { margin: .4rem 0; max-width: 46rem }
a { color: var(--c0) }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem; margin: .8rem 0; font-size: .9rem }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .8rem 0; font-size: .9rem }
.facts dt { color: var(--quiet) }
.facts dd { margin: 0 }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1rem;
  align-items: start; margin: .8rem 0 }
figure { margin: 0; padding: .8rem; background: var(--card); border: 1px solid var(--edge); border-radius: .5rem;
  min-width: 0 }
.wide { grid-column: 1 / -1 }
figcaption { font-weight: 600; margin-bottom: .4rem }
figure > svg { display: block; width: 100%; max-width: 34rem; height: auto }
svg text { font: 11px system-ui, sans-serif; fill: var(--text); unicode-bidi: isolate }
svg .tick, svg .label { fill: var(--quiet) }
.grid, .axis { stroke: var(--edge); fill: none }
.axis { stroke: var(--quiet) }
.line { stroke: var(--c); stroke-width: 1.8; fill: none; stroke-linejoin: round }
.mark { fill: var(--c); stroke: var(--card); stroke-width: .8 }
.band { fill: var(--c); opacity: .16 }
.bar path { fill: var(--c) }
.bar .whisker { stroke: var(--text); stroke-width: 1.3; fill: none }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem .9rem; margin: .3rem 0; padding: 0;
  font-size: .85rem }
.legend li { border-radius: .2rem }
.swatch { width: 28px; height: 12px; margin-right: .35rem; vertical-align: middle }
.note { font-size: .85rem; color: var(--quiet); margin: .3rem 0 }
details { margin-top: .4rem; font-size: .85rem }
summary { cursor: pointer; color: var(--c0); padding: .2rem 0 }
.scroll { overflow-x: auto; max-width: 100% }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; overflow-wrap: normal }
caption { text-align: left; color: var(--quiet); padding: .2rem 0 }
th, td { padding: .2rem .5rem; border-bottom: 1px solid var(--edge); text-align: left; vertical-align: top;
  unicode-bidi: isolate; max-width: 22rem }
thead th { vertical-align: bottom }
th:first-child { padding-left: 0 }
.n { text-align: right; white-space: nowrap }
.s { transition: opacity .15s }
.hnone rect { fill: none; stroke: var(--edge) }
@media (max-width: 30rem) { th, td { padding: .2rem .35rem } table { font-size: .8rem } th { max-width: 8.5rem } }
@media print { details > * { display: block } nav { display: none } }
"""


def style_sheet() -> str:
    """The CSS of a page. Pointing at a line in a legend dims the other lines of its chart."""
    rules = [f":root {{ color-scheme: light dark; {_variables(LIGHT)} }}"]
    rules.append(f"@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}")
    rules.append(_RULES.strip())
    rules += [f".c{index} {{ --c: var(--c{index}) }}" for index in range(8)]
    for index, shade in enumerate(SHADES):
        text = "#000000" if index <= DARK_TEXT_UP_TO else "#ffffff"
        rules.append(f".h{index} rect {{ fill: {shade} }} svg .h{index} text {{ fill: {text} }}")
    for index in range(_LINES):
        rules.append(f"figure:has(.k{index}:is(:hover, :focus)) .s:not(.s{index}) {{ opacity: .12 }}")
    return "\n".join(rules)


def _variables(colors: dict[str, str]) -> str:
    return "; ".join(f"--{name}: {color}" for name, color in colors.items())
