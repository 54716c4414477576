#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""make check-vm: virtual machines with Debian's kernel on Byre's volumes.

  run.py [client|full]...      all of them by default

Environment: BYRE_BUILD (build), VM_TIMEOUT (300) seconds for one machine, COUNTS (see tests.mk).
A machine that lacks QEMU, the kernel package or a tool skips, and says so on a line "skipped: ...".
"""
import os
import re
import socket
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "lib")]

import byred as lib  # noqa: E402
import vm  # noqa: E402

TIMEOUT = int(os.environ.get("VM_TIMEOUT", "300"))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_client(kernel, folder):
    """nbd.ko with two connections over the guest's user network: XFS and ext4, checked, reattached, compared."""
    port = free_port()
    b = lib.Byred("4G", args=["--nbd", f"tcp:127.0.0.1:{port}"])
    try:
        b.start()
        b.create("xfs", "512M")
        b.create("ext4", "256M")
        guest = vm.Guest(folder, *kernel, {"test": "client", "port": port},
                         ["-nic", "user,model=virtio-net-pci"])
        try:
            guest.result(TIMEOUT)
        finally:
            guest.close()
    finally:
        b.close()


def wait_for_pause(guest, timeout):
    """Waits until QEMU has stopped the machine for lack of space."""
    deadline = time.monotonic() + timeout
    while True:
        guest.take_events()
        status = guest.qmp("query-status")
        if status["status"] == "io-error":
            break
        if re.search(r"^BYRE(-RESULT| filled)", guest.text(), re.M):
            raise AssertionError(f"the guest never paused: {guest.text()[-2000:]}")
        assert time.monotonic() < deadline, f"no pause within {timeout} s: {status}\n{guest.text()[-2000:]}"
        time.sleep(0.2)
    errors = [e["data"] for e in guest.events if e["event"] == "BLOCK_IO_ERROR"]
    assert errors and all(e["nospace"] and e["action"] == "stop" for e in errors), errors


def test_full(kernel, folder):
    """QEMU's disk on a thin volume: the machine pauses when the pool is full, and lives on after `pool grow`."""
    b = lib.Byred("256M")
    try:
        b.start()
        b.create("disk", "1G")
        guest = vm.Guest(
            folder,
            *kernel,
            {"test": "full", "files": 20},
            [
                "-nic",
                "none",
                "-drive",
                f"file={b.uri('disk')},format=raw,if=none,id=disk,werror=enospc,rerror=report,discard=unmap,cache=none",
                "-device",
                "virtio-blk-pci,drive=disk",
            ],
        )  # fmt: skip
        try:
            guest.qmp_connect()
            guest.wait_for("^BYRE filling", TIMEOUT)
            wait_for_pause(guest, TIMEOUT)
            # Going on without room: it pauses again, and nothing is lost by it.
            guest.events.clear()
            guest.qmp("cont")
            wait_for_pause(guest, 60)
            b.ok("pool", "grow", "1G")
            guest.qmp("cont")
            guest.result(TIMEOUT)
        finally:
            guest.close()
    finally:
        b.close()


TESTS = {"client": test_client, "full": test_full}


def main():
    chosen = sys.argv[1:] or list(TESTS)
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    with tempfile.TemporaryDirectory(prefix="byre-vm-") as folder:
        try:
            kernel = vm.build_initramfs(lib.BUILD)
        except vm.Missing as e:
            print(f"skipped: {e}")
            counts["skipped"] = len(chosen)
            chosen = []
        for name in chosen:
            start = time.monotonic()
            place = os.path.join(folder, name)
            os.mkdir(place)
            try:
                TESTS[name](kernel, place)
                word = "passed"
            except Exception:
                traceback.print_exc()
                word = "failed"
            counts[word] += 1
            print(f"  {word}  vm {name} ({time.monotonic() - start:.1f} s)", flush=True)
    if os.environ.get("COUNTS"):
        with open(os.environ["COUNTS"], "a") as f:
            f.write("vm {passed} {failed} {skipped}\n".format(**counts))
    print("vm tests: {passed} passed, {failed} failed, {skipped} skipped".format(**counts))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
