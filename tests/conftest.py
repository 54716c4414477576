# SPDX-License-Identifier: BSD-3-Clause
"""What all pytest tests share. Environment: COUNTS, a file that gets "NAME PASSED FAILED SKIPPED" (see tests.mk)."""
import os


def pytest_terminal_summary(terminalreporter, config):
    path = os.environ.get("COUNTS")
    if not path:
        return
    stats = terminalreporter.stats
    passed, failed, skipped = (len(stats.get(k, [])) for k in ("passed", "failed", "skipped"))
    failed += len(stats.get("error", []))
    name = os.path.basename(os.path.normpath(config.args[0]))
    with open(path, "a") as f:
        f.write(f"{name} {passed} {failed} {skipped}\n")
