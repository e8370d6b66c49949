"""The plot of bench/growth.py: time per token against size, both logarithmic, a panel for each series.

Written as plain SVG. Its colours are readable on white and on black, and it has no background of its own.
"""
import math

from growth_cases import SERIES

COLOURS = {"ours": "#e4572e", "torch": "#2f80c2", "torch-compile": "#8a63d2", "onednn": "#2a9d6f",
           "openblas": "#b08900", "jax": "#c2559d", "floor": "#8b949e"}
TEXT = "#7d8590"
COLUMNS, WIDTH, HEIGHT = 4, 250, 220
LEFT, TOP, RIGHT, BOTTOM = 46, 26, 12, 34
HEADER, BLOCK_TITLE = 36, 24


def lines_of(record, series, threads):
    """Side: (size, microseconds per token) of the cases that were measured."""
    lines = {}
    for size, case in series.points.items():
        figures = record["table"][threads].get(case.name)
        if figures:
            tokens = record["work"][case.name]["tokens"]
            for side, ms in {**figures["min_ms"], "floor": figures["floor_ms"]}.items():
                lines.setdefault(side, []).append((size, ms / tokens * 1e3))
    return lines


def text(x, y, content, anchor="middle", size=11, colour=TEXT):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{content}</text>'


def ticks(low, high):
    steps = (1,) if high / low > 300 else (1, 2, 5) if high / low > 5 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    return [step * 10 ** power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            for step in steps if low <= step * 10 ** power <= high]


def panel(series, lines, left, top):
    sizes = [size for size, _ in max(lines.values(), key=len)]
    values = [value for points in lines.values() for _, value in points]
    low, high = min(values) / 1.25, max(values) * 1.25
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x_of(size):
        return left + LEFT + inner_width * math.log(size / sizes[0]) / math.log(sizes[-1] / sizes[0])

    def y_of(value):
        return top + TOP + inner_height * math.log(high / value) / math.log(high / low)

    out = [text(left + LEFT, top + 16, series.title, "start", 12)]
    for value in ticks(low, high):
        y = y_of(value)
        out.append(f'<path d="M{left + LEFT} {y:.1f}h{inner_width}" stroke="{TEXT}" stroke-opacity="0.3"/>')
        out.append(text(left + LEFT - 5, y + 4, f"{value:g}", "end", 10))
    for size in sizes:
        out.append(text(x_of(size), top + HEIGHT - BOTTOM + 14, size, size=10))
    out.append(text(left + LEFT + inner_width / 2, top + HEIGHT - 7, series.axis))
    for side in sorted(lines, key=lambda side: (side == "ours", list(COLOURS).index(side))):  # ours on top
        points = [(x_of(size), y_of(value)) for size, value in lines[side]]
        colour, width = COLOURS[side], 2.4 if side == "ours" else 1.4
        dashes = ' stroke-dasharray="4 3"' if side == "floor" else ""
        out.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" fill="none" '
                   f'stroke="{colour}" stroke-width="{width}"{dashes}/>')
        if side != "floor":
            out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{width + 0.6:.1f}" fill="{colour}"/>' for x, y in points]
    return out


def svg(record):
    """The plot, or None where no series has two sizes measured."""
    blocks = {}
    for threads in record["table"]:
        panels = [(series, lines_of(record, series, threads)) for series in SERIES]
        blocks[threads] = [(series, lines) for series, lines in panels if len(lines.get("ours", [])) > 1]
    sides = [side for side in COLOURS if any(side in lines for panels in blocks.values() for _, lines in panels)]
    if not sides:
        return None
    out, top, left = [], HEADER, LEFT
    for side in sides:
        out.append(f'<path d="M{left} 16h18" stroke="{COLOURS[side]}" stroke-width="3"/>')
        out.append(text(left + 24, 20, side, "start", 12))
        left += 44 + 7 * len(side)
    for threads, panels in blocks.items():
        title = f"microseconds a token, {threads} thread{'s' if threads != '1' else ''}, level {record['level']}"
        out.append(text(LEFT, top + 14, title, "start", 13))
        top += BLOCK_TITLE
        for i, (series, lines) in enumerate(panels):
            out += panel(series, lines, i % COLUMNS * WIDTH, top + i // COLUMNS * HEIGHT)
        top += math.ceil(len(panels) / COLUMNS) * HEIGHT
    size = f"{COLUMNS * WIDTH} {top}"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="system-ui, sans-serif">\n' +
            "\n".join(out) + "\n</svg>\n")
