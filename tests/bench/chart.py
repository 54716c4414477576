#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Draws bench.py's results.json as one SVG: a panel for each job, a bar for each peer.

  chart.py RESULTS.json CHART.svg
"""
import json
import sys
from xml.sax.saxutils import escape

COLUMNS, PANEL, BAR, GAP, LABEL, VALUE = 2, 500, 16, 6, 205, 70
HEAD, TITLE, NOTE = 44, 26, 14
STYLE = """text { font-family: Helvetica, Arial, sans-serif; font-size: 12px; fill: #24292f }
.head { font-size: 15px; font-weight: bold } .title { font-weight: bold } .note { font-size: 10px; fill: #57606a }
.bar { fill: #9aa5b1 } .ours { fill: #1f6f5c }"""


def text(x, y, what, kind="", anchor="start"):
    return f'<text x="{x:.0f}" y="{y:.0f}" class="{kind}" text-anchor="{anchor}">{escape(what)}</text>'


def panel(x, y, job, title, labels, median):
    """Large requests are compared in bytes, small ones in operations."""
    key, unit = ("mb_s", "MB/s") if job.startswith("seq") else ("iops", "IOPS")
    values = {peer: median[peer][job][key] for peer in labels if job in median.get(peer, {})}
    most = max(values.values()) or 1
    parts = [text(x, y + 14, f"{title} ({unit}, more is better)", "title")]
    for n, (peer, value) in enumerate(values.items()):
        top = y + TITLE + n * (BAR + GAP)
        width = (PANEL - LABEL - VALUE) * value / most
        parts.append(text(x + LABEL - 8, top + 12, labels[peer], anchor="end"))
        parts.append(f'<rect x="{x + LABEL}" y="{top}" width="{width:.1f}" height="{BAR}" '
                     f'class="{"ours" if peer == "byre" else "bar"}"/>')  # fmt: skip
        parts.append(text(x + LABEL + width + 6, top + 12, f"{value:,.0f}"))
    return parts


def draw(source, target):
    """Returns the path of the chart."""
    with open(source) as f:
        results = json.load(f)
    jobs, labels, median, env = results["jobs"], results["labels"], results["median"], results["environment"]
    height = TITLE + len(labels) * (BAR + GAP) + 14
    rows = (len(jobs) + COLUMNS - 1) // COLUMNS
    width, bottom = COLUMNS * (PANEL + 10) + 10, HEAD + rows * height
    total = bottom + NOTE * len(results["notes"]) + 12
    head = f"NBD over a unix socket, {env['size'] >> 20} MiB, {env['cpus']} CPUs, medians of {env['rounds']} rounds"
    parts = ['<?xml version="1.0" encoding="UTF-8"?>', "<!-- SPDX-License-Identifier: BSD-3-Clause -->",
             f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{total}" viewBox="0 0 {width} {total}">',
             f"<style>{STYLE}</style>", f'<rect width="{width}" height="{total}" fill="#ffffff"/>',
             text(14, 26, head, "head")]  # fmt: skip
    for n, (job, title) in enumerate(jobs.items()):
        parts += panel(10 + n % COLUMNS * (PANEL + 10), HEAD + n // COLUMNS * height, job, title, labels, median)
    parts += [text(14, bottom + NOTE * (n + 1), note, "note") for n, note in enumerate(results["notes"])]
    with open(target, "w") as f:
        f.write("\n".join(parts) + "\n</svg>\n")
    return target


if __name__ == "__main__":
    print(draw(sys.argv[1], sys.argv[2]))
