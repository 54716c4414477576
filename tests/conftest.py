# SPDX-License-Identifier: BSD-3-Clause
"""What all pytest tests share. Environment: COUNTS, a file that gets "NAME PASSED FAILED SKIPPED" (see tests.mk)."""
import os


def pytest_addoption(parser):
    parser.addoption(
        "--alone", choices=["only", "not", "too"], default="too", help="what becomes of tests marked alone"
    )


def pytest_collection_modifyitems(config, items):
    which = config.getoption("--alone")
    if which == "too":
        return
    keep = [i for i in items if (i.get_closest_marker("alone") is not None) == (which == "only")]
    config.hook.pytest_deselected(items=[i for i in items if i not in set(keep)])
    items[:] = keep


def pytest_terminal_summary(terminalreporter, config):
    path = os.environ.get("COUNTS")
    if not path or hasattr(config, "workerinput"):
        return
    stats = terminalreporter.stats
    passed, failed, skipped = (len(stats.get(k, [])) for k in ("passed", "failed", "skipped"))
    failed += len(stats.get("error", []))
    name = os.path.basename(os.path.normpath(config.args[0]))
    with open(path, "a") as f:
        f.write(f"{name} {passed} {failed} {skipped}\n")
