# SPDX-License-Identifier: BSD-3-Clause
"""A daemon under test: starts, stops and kills build/byred, runs build/byre, and opens NBD connections.

Used by the end-to-end tests, the VM tests and the benchmark. Everything stands in one short temporary folder
(a unix socket's path has 108 bytes at most), which is gone after close().
"""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import nbd

BUILD = os.path.abspath(os.environ.get("BYRE_BUILD", "build"))
BYRED = os.path.join(BUILD, "byred")
BYRE = os.path.join(BUILD, "byre")

K, M, G, T = 1 << 10, 1 << 20, 1 << 30, 1 << 40
BLOCK = 4096
IO_MAX = 32 * M

# What a sanitizer or an assertion leaves in the log, however the program then ends.
FATAL = re.compile(
    r"ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:|assertion failed", re.M
)


def is_sanitized():
    with open(BYRED, "rb") as f:
        data = f.read()
    return b"__asan_init" in data or b"__tsan_init" in data


class Watchdog:
    """Kills watched processes when their time is up.

    A test that hangs does so in a blocking call of libnbd; killing the server is what gets it out. That must be
    done by another process, which itself ends with this one.
    """

    CODE = """
import os, select, signal, sys, time
due = {}
while True:
    ready, _, _ = select.select([0], [], [], 0.5)
    if ready:
        line = sys.stdin.readline()
        if not line:
            break
        pid, seconds = line.split()
        due.pop(int(pid), None)
        if float(seconds) > 0:
            due[int(pid)] = time.monotonic() + float(seconds)
    for pid in [p for p, t in due.items() if t < time.monotonic()]:
        del due[pid]
        try:
            os.kill(pid, signal.SIGABRT)
        except OSError:
            pass
"""

    def __init__(self):
        self.proc = subprocess.Popen(
            [sys.executable, "-uc", self.CODE], stdin=subprocess.PIPE, text=True
        )

    def watch(self, pid, seconds):
        self.proc.stdin.write(f"{pid} {seconds}\n")
        self.proc.stdin.flush()

    def unwatch(self, pid):
        self.watch(pid, 0)

    def close(self):
        self.proc.stdin.close()
        self.proc.wait()


class Result:
    """What a run of the command line gave: exit code, text, and its JSON."""

    def __init__(self, proc):
        self.rc = proc.returncode
        self.out = proc.stdout
        self.err = proc.stderr

    @property
    def json(self):
        return json.loads(self.out)

    def __repr__(self):
        return f"exit {self.rc}\nstdout: {self.out}\nstderr: {self.err}"


def run_byre(*args, connect=None, timeout=60, stdin=None):
    env = dict(os.environ)
    env.pop("BYRE_CONNECT", None)
    if connect:
        env["BYRE_CONNECT"] = connect
    proc = subprocess.run(
        [BYRE, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=stdin or subprocess.DEVNULL,
        text=True,
        env=env,
        timeout=timeout,
    )
    result = Result(proc)
    assert not FATAL.search(result.err), result.err
    assert proc.returncode >= 0, f"byre died: {result}"
    return result


class Byred:
    """One pool and, when it runs, its daemon."""

    def __init__(self, pool_size="4G", args=(), pool=None, watchdog=None, create=True, lifetime=600):
        self.dir = tempfile.mkdtemp(prefix="byre-")
        self.pool = pool or os.path.join(self.dir, "pool")
        self.nbd_sock = os.path.join(self.dir, "nbd.sock")
        self.rpc_sock = os.path.join(self.dir, "rpc.sock")
        self.log = os.path.join(self.dir, "log")
        self.args = list(args)
        self.proc = None
        self.watchdog = watchdog
        self.lifetime = lifetime
        self.damaged = False  # set by tests that break the pool file: no check at the end
        self.handles = []
        if create:
            self.ok("pool", "create", self.pool, "--size", pool_size, "--sparse")

    # ---- the process ----

    def spawn(self, *args, nofile=None):
        """Starts the daemon without waiting for it; `nofile`: the descriptors that it may have."""
        limit = ["prlimit", f"--nofile={nofile}"] if nofile else []
        assert self.proc is None or self.proc.poll() is not None
        self.log_from = os.path.getsize(self.log) if os.path.exists(self.log) else 0
        with open(self.log, "ab") as log:
            self.proc = subprocess.Popen(
                [
                    *limit,
                    BYRED,
                    "--pool", self.pool,
                    "--nbd", f"unix:{self.nbd_sock}",
                    "--rpc", f"unix:{self.rpc_sock}",
                    *self.args,
                    *args,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.dir,
            )  # fmt: skip
        if self.watchdog:
            self.watchdog.watch(self.proc.pid, self.lifetime)
        return self

    def start(self, *args, timeout=60, nofile=None):
        self.spawn(*args, nofile=nofile)
        deadline = time.monotonic() + timeout
        while not re.search(r"\bready\b", self.log_text(since_start=True)):
            if self.proc.poll() is not None:
                raise AssertionError(f"byred ended with {self.proc.returncode}:\n{self.log_text()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"byred is not ready after {timeout} s:\n{self.log_text()}")
            time.sleep(0.001)
        return self

    def running(self):
        return self.proc is not None and self.proc.poll() is None

    def wait(self, timeout=60):
        rc = self.proc.wait(timeout)
        if self.watchdog:
            self.watchdog.unwatch(self.proc.pid)
        return rc

    def stop(self, timeout=120):
        """SIGTERM; the daemon must end by itself with exit code 0."""
        self.proc.send_signal(signal.SIGTERM)
        rc = self.wait(timeout)
        assert rc == 0, f"byred ended with {rc} after SIGTERM:\n{self.log_text()}"

    def kill(self):
        self.proc.send_signal(signal.SIGKILL)
        self.wait()

    def restart(self):
        self.stop()
        self.start()

    def log_text(self, since_start=False):
        try:
            with open(self.log, "rb") as f:
                if since_start:
                    f.seek(self.log_from)
                return f.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    # ---- the command line ----

    @property
    def connect_addr(self):
        return f"unix:{self.rpc_sock}"

    def byre(self, *args, **kwargs):
        return run_byre(*args, connect=self.connect_addr, **kwargs)

    def ok(self, *args, **kwargs):
        """Runs byre, which must succeed."""
        result = self.byre(*args, **kwargs)
        assert result.rc == 0, f"byre {' '.join(map(str, args))}: {result}\n{self.log_text()[-2000:]}"
        return result

    def refused(self, *args, rc=1, match=None, **kwargs):
        """Runs byre, which must fail with exit code rc and exactly one line on standard error."""
        result = self.byre(*args, **kwargs)
        text = f"byre {' '.join(map(str, args))}: {result}"
        assert result.rc == rc, text
        if rc == 1:
            assert len(result.err.strip().splitlines()) == 1, text
        else:
            assert result.err.strip(), text
        if match:
            assert re.search(match, result.err, re.I), text
        return result

    def json(self, *args):
        return self.ok(*args, "--json").json

    def volumes(self):
        """Name to size, from `volume list --json`."""
        listed = self.json("volume", "list")
        if isinstance(listed, dict):
            listed = listed["volumes"]
        return {v["name"]: v["size"] for v in listed}

    def create(self, name, size, *args):
        self.ok("volume", "create", name, size, *args)
        return name

    def check(self):
        """`byre pool check` of the stopped pool: its findings, an empty list where all is well."""
        result = self.byre("pool", "check", self.pool, timeout=300)
        assert result.rc in (0, 1), result
        lines = (result.out + result.err).strip().splitlines()
        return [] if result.rc == 0 else (lines or ["exit 1 and no word"])

    def info(self):
        return self.json("pool", "info")

    # ---- NBD ----

    def uri(self, name):
        return f"nbd+unix:///{name}?socket={self.nbd_sock}"

    def open(self, name, strict=False):
        """A libnbd handle. Not strict: libnbd sends what the test says, and the server has to judge it."""
        h = nbd.NBD()
        if not strict:
            h.set_strict_mode(0)
        h.connect_uri(self.uri(name))
        self.handles.append(h)
        return h

    def close_handles(self):
        for h in self.handles:
            try:
                h.shutdown()
            except nbd.Error:
                pass  # closed by the test
        self.handles.clear()

    def delete(self, name, timeout=10):
        """Deletes a volume; one whose client has just gone may be busy for a moment."""
        deadline = time.monotonic() + timeout
        while True:
            result = self.byre("volume", "delete", name)
            if result.rc == 0:
                return
            in_use = re.search(r"use|busy|connect|client", result.err, re.I)
            assert in_use and time.monotonic() < deadline, f"{result}\n{self.log_text()[-2000:]}"
            time.sleep(0.05)

    def shrink(self, name, size, timeout=10):
        """Resizes a volume, smaller if that is what it means; its client may have gone only just now."""
        deadline = time.monotonic() + timeout
        while (result := self.byre("volume", "resize", name, size, "--shrink")).rc:
            assert "in use" in result.err and time.monotonic() < deadline, result
            time.sleep(0.05)

    def close(self, check=True):
        """Ends everything and removes the folder. Raises when the daemon or the pool is not well."""
        problem = None
        if self.running():
            self.proc.send_signal(signal.SIGCONT)  # a test may have failed while it was stopped
        self.close_handles()
        try:
            if self.running():
                try:
                    self.stop()
                except (AssertionError, subprocess.TimeoutExpired) as e:
                    problem = str(e)
                    if self.running():
                        self.kill()
            if check and not self.damaged and not problem and os.path.exists(self.pool):
                findings = self.check()
                if findings:
                    problem = "byre pool check found:\n" + "\n".join(findings[:50])
            log = self.log_text()
            if FATAL.search(log):
                problem = (problem or "") + "\n" + log[-20000:]
        finally:
            shutil.rmtree(self.dir, ignore_errors=True)
        if problem:
            raise AssertionError(problem)


def pattern(size, seed=1):
    """Bytes that do not repeat and do not compress: each 8 bytes differ."""
    import random

    return random.Random(seed).randbytes(size)


def stored_blocks(path):
    """The 4 KiB blocks of a sparse file that are not all zeros, as (offset, bytes)."""
    zeros = bytes(BLOCK)
    fd = os.open(path, os.O_RDONLY)
    try:
        end, pos = os.fstat(fd).st_size, 0
        while pos < end:
            try:
                start = os.lseek(fd, pos, os.SEEK_DATA)
            except OSError:
                return
            pos = os.lseek(fd, start, os.SEEK_HOLE)
            start -= start % BLOCK
            while start < pos:
                chunk = os.pread(fd, min(4 * M, pos - start), start)
                for i in range(0, len(chunk), BLOCK):
                    if chunk[i:i + BLOCK] != zeros:
                        yield start + i, chunk[i:i + BLOCK]
                start += len(chunk)
    finally:
        os.close(fd)
