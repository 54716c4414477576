# SPDX-License-Identifier: BSD-3-Clause
"""What the steps of guest.py are made of: commands, systemd's view of a unit, and clients that never rest."""
import json
import os
import socket
import subprocess
import threading
import time

import nbd

NBD, RPC = "/run/byre/nbd.sock", "/run/byre/rpc.sock"
MIB = 1 << 20


def sh(command, ok=True, timeout=120):
    """Runs a line as it is printed in the documents; returns what it says."""
    got = subprocess.run(
        command,
        shell=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )  # fmt: skip
    if ok is not None:
        assert (got.returncode == 0) == ok, f"$ {command}\nexit {got.returncode}: {got.stdout}"
    return got.stdout


def prop(name, unit="byred"):
    return sh(f"systemctl show -p {name} --value {unit}").strip()


def main_pid(unit="byred"):
    pid = int(prop("MainPID", unit))
    assert pid > 0, f"{unit} does not run: {sh(f'systemctl status {unit}', None)}"
    return pid


def wait_until(what, timeout=30, step=0.05):
    deadline = time.monotonic() + timeout
    while not (got := what()):
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(step)
    return got


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)


def drop_in(unit, text, name="override"):
    """What `systemctl edit UNIT` does."""
    write(f"/etc/systemd/system/{unit}.service.d/{name}.conf", text)
    sh("systemctl daemon-reload")


def listening_inode(path):
    """The listening socket itself, not its file."""
    with open("/proc/net/unix") as f:
        for line in f:
            words = line.split()
            if words[-1] == path and words[3] == "00010000":
                return int(words[6])
    return None


def can_connect(path):
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect(path)
            return True
        except OSError:
            return False


def journal(*matches, since=None):
    args = " ".join(matches) + (f" --since @{int(since)}" if since else "")
    return [json.loads(line) for line in sh(f"journalctl -o json --no-pager {args}").splitlines()]


def handle(export, path=NBD):
    h = nbd.NBD()
    h.connect_uri(f"nbd+unix:///{export}?socket={path}")
    return h


class Newcomers:
    """Connect again and again, as clients that are just being started: none may be refused. One that the end of a
    daemon meets in the middle of its handshake is cut off, as those are that were there before."""

    def __init__(self, export, path=NBD):
        self.export, self.path, self.count, self.slowest, self.ended = export, path, 0, 0, False
        self.errors, self.cut = [], 0
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.ended:
            start = time.monotonic()
            try:
                h = handle(self.export, self.path)
                assert h.get_size() > 0
                h.shutdown()
                self.count += 1
            except nbd.Error as e:
                if e.errno in ("EPIPE", "ECONNRESET") or "server disconnected" in str(e):
                    self.cut += 1
                else:
                    self.errors.append(str(e))
            self.slowest = max(self.slowest, time.monotonic() - start)
            time.sleep(0.01)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.ended = True
        self.thread.join()


class Writer:
    """A program that writes and syncs small files of a mounted file system all the time, and reads them back."""

    def __init__(self, folder):
        self.folder, self.count, self.slowest, self.error, self.ended = folder, 0, 0, None, False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def content(self, i):
        return b"%d " % i * 2000

    def run(self):
        try:
            while not self.ended:
                start = time.monotonic()
                with open(f"{self.folder}/{self.count % 200}", "wb") as f:
                    f.write(self.content(self.count))
                    f.flush()
                    os.fsync(f.fileno())
                self.count += 1
                self.slowest = max(self.slowest, time.monotonic() - start)
        except OSError as e:
            self.error = e

    def more(self, timeout=60):
        """Waits until it has got on."""
        before = self.count
        wait_until(lambda: self.error or self.count >= before + 3, timeout)
        assert not self.error, f"{self.folder}: {self.error}; {sh('dmesg | tail -n 20')}"

    def finish(self):
        self.ended = True
        self.thread.join(60)
        assert not self.error and not self.thread.is_alive(), self.error
        for i in range(max(0, self.count - 200), self.count):
            with open(f"{self.folder}/{i % 200}", "rb") as f:
                assert f.read() == self.content(i), f"file {i} of {self.folder} differs"
