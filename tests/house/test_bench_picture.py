# SPDX-License-Identifier: BSD-3-Clause
"""README's picture and its table show the same figures, those of docs/bench.json."""
import json
import os
import re
import subprocess
import sys

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))


def read(*path):
    with open(os.path.join(TOP, *path)) as f:
        return f.read()


def test_bench_picture_is_drawn_from_the_figures(tmp_path):
    drawn = str(tmp_path / "drawn.svg")
    subprocess.run([sys.executable, os.path.join(TOP, "tests", "bench", "chart.py"),
                    os.path.join(TOP, "docs", "bench.json"), drawn], check=True)  # fmt: skip
    assert read("docs", "bench.svg") == read(drawn), "run make bench-picture"


def test_bench_figures_of_readme_are_those_of_the_picture():
    figures = json.loads(read("docs", "bench.json"))
    rows = re.findall(r"(?m)^\| ([^|]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", read("README.md"))
    shown = {label: [int(v.replace(",", "")) for v in values] for label, *values in rows}
    jobs = [figures["median"][peer] for peer in figures["labels"]]
    assert shown == {label: [v["iops"] for v in job.values()] for label, job in zip(figures["labels"].values(), jobs)}
