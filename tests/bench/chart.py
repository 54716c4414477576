#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Draws bench.py's results.json as one SVG: a panel for each job, a bar for each peer.

  chart.py RESULTS.json CHART.svg
"""
import json
import sys


def draw(source, target):
    """Returns the path of the chart, or why there is none."""
    try:
        import matplotlib
    except ImportError:
        return "no chart: python3-matplotlib is not installed"
    matplotlib.use("svg")
    from matplotlib import pyplot

    with open(source) as f:
        results = json.load(f)
    jobs, labels, median = results["jobs"], results["labels"], results["median"]
    columns = 2
    rows = (len(jobs) + columns - 1) // columns
    figure, axes = pyplot.subplots(rows, columns, figsize=(12, 0.9 + rows * (0.7 + 0.27 * len(labels))), squeeze=False)
    for axis in axes.flat[len(jobs):]:
        axis.set_visible(False)
    for axis, (job, title) in zip(axes.flat, jobs.items()):
        # Large requests are compared in bytes, small ones in operations.
        key, unit = ("mb_s", "MB/s") if job.startswith("seq") else ("iops", "IOPS")
        values = [median[peer][job][key] for peer in labels]
        colors = ["#1f6f5c" if peer == "byre" else "#9aa5b1" for peer in labels]
        bars = axis.barh(range(len(values)), values, color=colors)
        axis.bar_label(bars, [f"{v:,.0f}" for v in values], padding=3, fontsize=8)
        axis.set_yticks(range(len(values)), list(labels.values()), fontsize=8)
        axis.invert_yaxis()
        axis.set_xlim(0, max(values) * 1.18)
        axis.tick_params(axis="x", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_title(f"{title} ({unit}, more is better)", fontsize=9, loc="left")
    env = results["environment"]
    figure.suptitle(f"NBD over a unix socket, {env['size'] >> 20} MiB, {env['cpus']} CPUs, medians of {env['rounds']} rounds",
                    fontsize=11, x=0.01, ha="left")
    figure.text(0.01, 0.005, "\n".join(results["notes"]), fontsize=6, va="bottom")
    figure.tight_layout(rect=(0, 0.02 + 0.012 * len(results["notes"]), 1, 0.97))
    figure.savefig(target, format="svg")
    return target


if __name__ == "__main__":
    print(draw(sys.argv[1], sys.argv[2]))
