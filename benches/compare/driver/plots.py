"""Bars with whiskers, as SVG: no program but this one is needed to draw them."""

import math
import statistics
from html import escape

from .results import label, number
from .servers import LIMIT, OURS, RIVAL

COLOURS = {OURS: "#1f6feb", LIMIT: "#8c959f", RIVAL: "#d4a72c"}
LABEL, BAR, VALUE = 230, 430, 130
ROW, HEAD, TOP, FOOT = 16, 26, 40, 34

# File, title, unit, key of the figures (None: the workload's own), workloads.
PLOTS = [
    ("merge", "Offline merge", "s, less is better", None, "merge-"),
    ("overlay", "Overlay over NBD", "requests/s, more is better", None, ("write-", "flush-", "read-")),
    (
        "overlay-cpu",
        "CPU time of the server for each request",
        "us, less is better",
        "cpu_us",
        ("write-", "flush-", "read-"),
    ),
    ("origin", "Origin writes with snapshots", "requests/s, more is better", None, "origin-"),
    ("opening", "First read from a server", "ms from its start, less is better", None, "open-"),
    ("meanwhile", "Latency during a merge", "p99 in us, less is better", None, "meanwhile-"),
]


def draw(results, folder):
    """Writes the files that there are figures for; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for file, title, unit, key, prefix in PLOTS:
        workloads = [it for it in results.workloads.values() if it.name.startswith(prefix)]
        if workloads:
            path = folder / f"{file}.svg"
            path.write_text(chart(title, unit, [(it, key or it.key) for it in workloads]))
            drawn.append(path)
    return drawn


def chart(title, unit, workloads):
    """All contenders of these workloads on one logarithmic scale."""
    rows = [row for it, key in workloads for row in bars(it, key)]
    values = [value for row in rows if row[1] for value in row[1]]
    low, high = 10 ** math.floor(math.log10(min(values))), max(values)
    across = lambda value: BAR * math.log(max(value, low) / low) / math.log(high / low)
    parts, y = [], TOP
    for text, spread, kind in rows:
        y += HEAD if kind is None else ROW
        parts.append(line(text, spread, kind, y, across))
    width, height = LABEL + BAR + VALUE, y + FOOT
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="22" font-size="15" font-weight="bold">{escape(title)}</text>',
        f'<text x="{LABEL}" y="22" fill="#57606a">{escape(unit)}; logarithmic</text>',
        *grid(low, high, y, across),
        *parts,
        legend(y + 24),
        "</svg>\n",
    ])


def bars(workload, key):
    """A heading, then text, (median, least, most) and kind of each contender."""
    rows = [(workload.title, None, None)]
    for name, contender in workload.contenders.items():
        values = workload.values(name, key)
        if values:
            spread = (statistics.median(values), min(values), max(values))
            rows.append((label(contender)[2:], spread, contender.kind))
    return rows


def line(text, spread, kind, y, across):
    if kind is None:
        return f'<text x="10" y="{y}" font-weight="bold">{escape(text)}</text>'
    middle, least, most = spread
    faint = ' fill-opacity="0.45"' if "not durable" in text else ""
    whisker = f"M{LABEL + across(least):.1f},{y - 4} H{LABEL + across(most):.1f}"
    return (
        f'<text x="{LABEL - 6}" y="{y}" text-anchor="end">{escape(text)}</text>'
        f'<rect x="{LABEL}" y="{y - 10}" width="{max(across(middle), 1):.1f}" height="12"'
        f' fill="{COLOURS[kind]}"{faint}/>'
        f'<path d="{whisker}" stroke="#24292f" stroke-width="1.5"/>'
        f'<text x="{LABEL + across(most) + 5:.1f}" y="{y}" fill="#57606a">{number(middle)}</text>'
    )


def grid(low, high, bottom, across):
    decade = low
    while decade <= high:
        x = LABEL + across(decade)
        yield f'<path d="M{x:.1f},{TOP} V{bottom + 4}" stroke="#d0d7de"/>'
        decade *= 10


def legend(y):
    parts, x = [], LABEL
    for kind, text in ((OURS, "dmsnap"), (LIMIT, "limit"), (RIVAL, "rival")):
        parts.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{COLOURS[kind]}"/>')
        parts.append(f'<text x="{x + 14}" y="{y}">{text}</text>')
        x += 80
    parts.append(f'<text x="{x}" y="{y}">bar: median; line: least to most</text>')
    return "".join(parts)
