"""Draws bars of several servers, a panel a figure, as an SVG that can be read on a light and on a dark page."""

from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 880
COLUMNS = 2
MARGIN = 16
PANEL_WIDTH = (WIDTH - MARGIN * (COLUMNS + 1)) // COLUMNS
NAME_WIDTH = 118
VALUE_WIDTH = 62
BAR_HEIGHT = 12
ROW_HEIGHT = 18
HEAD_HEIGHT = 44
# A bar is cut off at so many times the first one's, so that the short ones can be told apart.
LONGEST = 4

STYLE = """
    .page { fill: #ffffff } .title { fill: #1b1f24; font-weight: 600 } .note { fill: #57606a } .name, .value { fill: #1b1f24 }
    .own { fill: #0a62c4 } .other { fill: #9aa4af } .spread { stroke: #1b1f24; stroke-width: 1 } .cut { stroke: #ffffff; stroke-width: 3 }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117 } .title { fill: #e6edf3 } .note { fill: #9198a1 } .name, .value { fill: #e6edf3 }
      .own { fill: #4493f8 } .other { fill: #656c76 } .spread { stroke: #e6edf3 } .cut { stroke: #0d1117 }
    }
    text { font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif } .note { font-size: 11px }"""


@dataclass
class Bar:
    name: str
    # Least, median, greatest; None where there is no figure.
    values: object
    text: object
    is_own: bool


@dataclass
class Panel:
    title: str
    note: str
    bars: list

    def height(self):
        return HEAD_HEIGHT + ROW_HEIGHT * len(self.bars)


def reach(panel):
    """The value at the right end of a panel."""
    medians = [bar.values[1] for bar in panel.bars if bar.values]
    first = next((bar.values[1] for bar in panel.bars if bar.values and bar.is_own), min(medians, default=1))
    return max(min(max(medians, default=1), LONGEST * first), 1e-9)


def draw_bar(bar, x, y, longest):
    middle = y + BAR_HEIGHT / 2
    yield f'<text class="name" x="{x}" y="{middle + 4:.0f}">{escape(bar.name)}</text>'
    if not bar.values:
        yield f'<text class="note" x="{x + NAME_WIDTH}" y="{middle + 4:.0f}">no figure</text>'
        return
    space = PANEL_WIDTH - NAME_WIDTH - VALUE_WIDTH
    place = lambda value: x + NAME_WIDTH + space * min(value / longest, 1)
    least, median, greatest = bar.values
    end = place(median)
    kind = "own" if bar.is_own else "other"
    yield f'<rect class="{kind}" x="{x + NAME_WIDTH}" y="{y}" width="{max(end - x - NAME_WIDTH, 1):.1f}" height="{BAR_HEIGHT}"/>'
    if median > longest:
        yield f'<path class="cut" d="M{end - 16:.1f} {y + BAR_HEIGHT + 2} l6 {-BAR_HEIGHT - 4}"/>'
    else:
        yield f'<path class="spread" d="M{place(least):.1f} {middle} H{place(greatest):.1f}"/>'
    right = max(end, place(greatest)) if median <= longest else end
    yield f'<text class="value" x="{right + 6:.1f}" y="{middle + 4:.0f}">{escape(bar.text)}</text>'


def draw_panel(panel, x, y):
    yield f'<text class="title" x="{x}" y="{y + 14}">{escape(panel.title)}</text>'
    yield f'<text class="note" x="{x}" y="{y + 30}">{escape(panel.note)}</text>'
    longest = reach(panel)
    for index, bar in enumerate(panel.bars):
        yield from draw_bar(bar, x, y + HEAD_HEIGHT - 4 + ROW_HEIGHT * index, longest)


def draw(panels):
    """The whole picture."""
    parts, y = [], MARGIN
    for start in range(0, len(panels), COLUMNS):
        row = panels[start:start + COLUMNS]
        for column, panel in enumerate(row):
            parts.extend(draw_panel(panel, MARGIN + column * (PANEL_WIDTH + MARGIN), y))
        y += max(panel.height() for panel in row) + MARGIN
    note = (f"Less is better. Bars: medians; lines: least to greatest. A bar that is cut is longer than {LONGEST} times Banter's (memory). *: did less than was asked.")
    parts.append(f'<text class="note" x="{MARGIN}" y="{y + 8}">{note}</text>')
    height = y + 8 + MARGIN
    body = "\n  ".join(parts)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
            f'aria-label="Banter beside its neighbours">\n  <style>{STYLE}\n  </style>\n'
            f'  <rect class="page" width="{WIDTH}" height="{height}"/>\n  {body}\n</svg>\n')
