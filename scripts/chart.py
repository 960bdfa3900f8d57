#!/usr/bin/env python3
"""Draws what `jetmill bench steady --csv FILE` wrote: throughput, latency, memory and disk over time.

    scripts/chart.py FILE [docs/operations/steady.svg]

The standard library is enough: an SVG is text, and each panel is a few lines in it.
"""

import csv
import math
import sys
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 980, 650
# Of a panel: its outer size, and the room for its title, scales and legend within it.
PANEL_WIDTH, PANEL_HEIGHT = WIDTH // 2, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 58, 34
HEAD = 36
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
LINES_MAX = 1200


def main() -> int:
    if len(sys.argv) not in (2, 3):
        sys.stderr.write(__doc__ or "")
        return 2
    source = Path(sys.argv[1])
    target = Path(sys.argv[2] if len(sys.argv) == 3 else "docs/operations/steady.svg")
    with source.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    if len(rows) < 2:
        sys.stderr.write(f"{source} has fewer than two looks\n")
        return 1
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(draw(rows))
    print(f"{target}: {len(rows)} looks")
    return 0


def column(rows: list[dict[str, str]], name: str) -> list[float | None]:
    return [float(row[name]) if row.get(name) else None for row in rows]


def draw(rows: list[dict[str, str]]) -> str:
    seconds = [value or 0.0 for value in column(rows, "seconds")]
    unit, divisor = ("minutes", 60.0) if seconds[-1] > 300 else ("seconds", 1.0)
    times = [value / divisor for value in seconds]
    memory = {
        name.removeprefix("pss_mb "): column(rows, name)
        for name in rows[0]
        if name.startswith("pss_mb ") and name != "pss_mb client"
    }
    panels = [
        ("Throughput, tasks/s", {"completed": column(rows, "tasks_per_second")}),
        ("Latency from the intended time, ms", {q: column(rows, f"{q}_ms") for q in ("p50", "p99")}),
        ("Memory (PSS), MB", memory),
        (
            "On disk, MB",
            {"nats-server": column(rows, "nats_disk_mb"), "ledger": column(rows, "ledger_mb")},
        ),
    ]
    done = int(float(rows[-1]["completed"]))
    head = f"{done:,} tasks in {times[-1]:.0f} {unit}, a look every {seconds[1] - seconds[0]:.0f} s"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#222">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="24" font-size="15" font-weight="600">{escape(head)}</text>',
    ]
    for place, (title, series) in enumerate(panels):
        x, y = place % 2 * PANEL_WIDTH, HEAD + place // 2 * PANEL_HEIGHT
        parts.append(f'<g transform="translate({x},{y})">{panel(title, times, series, unit)}</g>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def panel(title: str, times: list[float], series: dict[str, list[float | None]], unit: str) -> str:
    series = {name: values for name, values in series.items() if any(v is not None for v in values)}
    known = [value for values in series.values() for value in values if value is not None]
    top, step = scale(max(known, default=1.0))
    wide, high = PANEL_WIDTH - LEFT - RIGHT, PANEL_HEIGHT - TOP - BOTTOM

    def across(time: float) -> float:
        return LEFT + wide * time / (times[-1] or 1.0)

    def up(value: float) -> float:
        return TOP + high * (1 - value / top)

    parts = [f'<text x="{LEFT}" y="20" font-weight="600">{escape(title)}</text>']
    for tick in range(round(top / step) + 1):
        y = up(tick * step)
        parts.append(f'<path d="M{LEFT} {y:.1f}h{wide}" stroke="#ddd"/>')
        label = f"{tick * step:,.{0 if step >= 1 else 2}f}"
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    last, step = scale(times[-1])
    for tick in range(round(last / step) + 1):
        if tick * step <= times[-1]:
            x = across(tick * step)
            parts.append(f'<text x="{x:.1f}" y="{TOP + high + 18}" text-anchor="middle">{tick * step:g}</text>')
    parts.append(f'<text x="{LEFT + wide}" y="{TOP + high + 32}" text-anchor="end" fill="#666">{unit}</text>')
    legend = LEFT
    for place, (name, values) in enumerate(series.items()):
        colour = COLOURS[place % len(COLOURS)]
        parts.append(f'<path d="{line(times, values, across, up)}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<rect x="{legend}" y="31" width="14" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{legend + 19}" y="38">{escape(name)}</text>')
        legend += 34 + 7 * len(name)
    return "".join(parts)


def line(times, values, across, up) -> str:
    """The path of a series; what is not known is left out, of many looks the highest of each few."""
    points = [(time, value) for time, value in zip(times, values) if value is not None]
    each = math.ceil(len(points) / LINES_MAX)
    points = [max(points[n : n + each], key=lambda point: point[1]) for n in range(0, len(points), each)]
    return "M" + "L".join(f"{across(time):.1f} {up(value):.1f}" for time, value in points)


def scale(most: float) -> tuple[float, float]:
    """The end of an axis that begins at zero, and the step of its ticks: four to ten of them."""
    most = max(most, 1e-6)
    step = 10.0 ** math.floor(math.log10(most))
    step = next(step * part for part in (0.1, 0.2, 0.25, 0.5, 1.0) if most / (step * part) <= 8)
    return step * math.ceil(most / step - 1e-9), step


if __name__ == "__main__":
    sys.exit(main())
