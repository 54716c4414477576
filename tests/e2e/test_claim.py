# SPDX-License-Identifier: BSD-3-Clause
"""Two that want to write to one pool, and devices that cannot be written."""
import os
import re
import shutil
import signal
import subprocess
import time

import nbdraw
import pytest
from byred import BLOCK, BYRED, M, run_byre


def refused(*args):
    """A daemon that must not start: what it says."""
    got = subprocess.run([BYRED, "--pool", *args], capture_output=True, text=True, timeout=30)
    assert got.returncode == 1 and "ready" not in got.stdout + got.stderr, got
    return got.stderr


def test_pool_file_and_the_loop_device_of_it_exclude_each_other(loop, make_byred):
    b = make_byred("64M").start()
    device = loop(b.pool)
    message = refused(device)
    assert re.search(rf"held by process {b.proc.pid}\b", message), message
    assert run_byre("pool", "check", device).rc != 0
    again = run_byre("pool", "create", device, "--force")
    assert again.rc == 1 and f"process {b.proc.pid}" in again.err, again
    b.create("v", "1M")
    b.stop()
    with_device = make_byred(pool=device, create=False).start()
    message = refused(b.pool)
    assert re.search(rf"held by process {with_device.proc.pid}\b", message), message
    with_device.stop()
    assert b.check() == []


def test_read_only_device_is_refused_at_the_start(make_byred, loop):
    b = make_byred("64M")
    device = loop(b.pool, "--read-only")
    message = refused(device)
    assert "read-only" in message and "--read-only" in message, message
    assert run_byre("pool", "info", device).rc == 0
    writable = loop(b.pool)
    subprocess.run(["blockdev", "--setro", writable], check=True)
    try:
        assert "read-only" in refused(writable)
    finally:  # the device would keep that for its next file
        subprocess.run(["blockdev", "--setrw", writable], check=True)


def test_second_writer_that_no_lock_stops_turns_the_first_read_only(make_byred, tmp_path, loop):
    """A hard case made with copies of the claim: what stands on the device is another daemon's from then on."""
    b = make_byred("64M", args=["--commit-interval", "1"]).start()
    b.create("v", "1M")
    other = str(tmp_path / "other")
    b.proc.send_signal(signal.SIGSTOP)  # a commit in the middle of the copy would tear it
    time.sleep(0.2)  # what it has sent to the disk gets there
    shutil.copy(b.pool, other)
    b.proc.send_signal(signal.SIGCONT)
    late = make_byred(pool=other, create=False).start()  # claims the copy
    claim = slice(192 << 10, (192 << 10) + 4096)
    with open(other, "rb") as f:
        theirs = f.read()[claim]
    late.stop()
    before = super_generation(b.pool)
    with open(b.pool, "r+b") as f:
        f.seek(claim.start)
        f.write(theirs)
        os.fsync(f.fileno())
    deadline = time.monotonic() + 10
    while not b.info()["read_only"]:
        assert time.monotonic() < deadline, b.log_text()
        time.sleep(0.1)
    assert re.search(rf"the pool was taken by process {late.proc.pid} on host", b.log_text()), b.log_text()
    conn = nbdraw.Conn(b.nbd_sock, "v")
    assert conn.call(nbdraw.CMD_WRITE, 0, BLOCK, data=bytes(BLOCK))[0] != 0
    conn.close()
    assert super_generation(b.pool) <= before + 1
    assert "which still runs" in late.log_text()
    b.kill()
    b.start()  # takes it again
    b.create("w", "1M")


def super_generation(path):
    with open(path, "rb") as f:
        f.seek((64 << 10) + 24)
        return int.from_bytes(f.read(8), "little")


def test_holder_in_another_namespace_has_a_name(make_byred):
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("needs root and unshare")
    b = make_byred("64M").start()
    got = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", BYRED, "--pool", b.pool], capture_output=True,
                         text=True, timeout=30)  # fmt: skip
    assert got.returncode == 1 and "process 0" not in got.stderr, got
    assert re.search(rf"held by process {b.proc.pid} on host \S+ since \d{{4}}-", got.stderr), got.stderr
