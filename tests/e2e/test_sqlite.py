# SPDX-License-Identifier: BSD-3-Clause
"""SQLite on ext4 on a volume (nbdfuse and a loop device), with the daemon killed in the middle of transactions.

Environment: SQLITE_KILLS (3) kills for each journal mode.
"""
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time

import pytest

KILLS = int(os.environ.get("SQLITE_KILLS", "3"))
WRITER = os.path.join(os.path.dirname(__file__), "sqlite_writer.py")
ACCOUNTS = 200


def missing():
    if os.geteuid() != 0:
        return "needs root for mount"
    for tool in ("nbdfuse", "losetup", "fusermount3", "mount"):
        if not shutil.which(tool) and not (tool == "fusermount3" and shutil.which("fusermount")):
            return f"{tool} is not installed"
    if not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
        return "no FUSE or no loop devices here"
    with open("/proc/filesystems") as f:
        if "ext4" not in f.read():
            return "this kernel has no ext4 loaded"
    return None


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def run(*args, check=True):
    got = subprocess.run(list(args), capture_output=True, text=True, timeout=120)
    assert not check or got.returncode == 0, f"{args}: {got.stdout}{got.stderr}"
    return got.stdout.strip()


class Mount:
    """A volume mounted as ext4: nbdfuse makes it a file, a loop device makes that a disk."""

    def __init__(self, b, volume):
        self.b = b
        self.volume = volume
        self.file = os.path.join(b.dir, "fuse")
        self.folder = os.path.join(b.dir, "mnt")
        self.loop = self.fuse = None
        for path in (self.folder,):
            os.makedirs(path, exist_ok=True)

    def attach(self):
        open(self.file, "a").close()
        self.fuse = subprocess.Popen(["nbdfuse", self.file, self.b.uri(self.volume)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while os.path.getsize(self.file) == 0:
            assert time.monotonic() < deadline and self.fuse.poll() is None, "nbdfuse did not start"
            time.sleep(0.02)
        self.loop = run("losetup", "--find", "--show", self.file)

    def mount(self):
        self.attach()
        run("mount", "-t", "ext4", self.loop, self.folder)

    def detach(self):
        """Takes everything away, whatever state it is in."""
        if os.path.ismount(self.folder):
            run("umount", self.folder, check=False)
        if os.path.ismount(self.folder):
            run("umount", "-l", self.folder, check=False)
        if self.loop:
            run("losetup", "-d", self.loop, check=False)
            self.loop = None
        if self.fuse:
            run("fusermount3" if shutil.which("fusermount3") else "fusermount", "-u", "-z", self.file, check=False)
            try:
                self.fuse.wait(20)
            except subprocess.TimeoutExpired:
                self.fuse.kill()
                self.fuse.wait()
            self.fuse = None


def verify(path, committed):
    """The database is whole, and everything that was committed is in it. Returns the number of its last transaction."""
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert db.execute("SELECT count(*), sum(amount) FROM account").fetchone() == (ACCOUNTS, ACCOUNTS * 1000)
    count, last = db.execute("SELECT count(*), coalesce(max(n), 0) FROM ledger").fetchone()
    assert count == last, "no gaps"
    assert last >= committed, f"transaction {committed} was committed, the database ends at {last}"
    # One more may have reached the disk before its word reached us.
    assert last <= committed + 1
    db.close()
    return last


@pytest.mark.slow
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite_loses_no_committed_transaction(make_byred, seed, journal):
    rng = random.Random(seed)
    b = make_byred("1G").start()
    b.create("db", "256M")
    disk = Mount(b, "db")
    path = os.path.join(disk.folder, "data.db")
    total = 0
    try:
        disk.attach()
        run("/sbin/mke2fs", "-q", "-F", "-t", "ext4", disk.loop)
        disk.detach()
        for n in range(KILLS):
            disk.mount()
            writer = subprocess.Popen([sys.executable, WRITER, path, journal, str(total + 1)],
                                      stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            assert writer.stdout.readline() == "ready\n"
            time.sleep(rng.random() * 2 + 0.1)
            b.kill()
            said = writer.stdout.read().split()
            writer.wait()
            committed = int(said[-1]) if said else total
            disk.detach()
            assert b.check() == []
            b.start()
            disk.mount()
            total = verify(path, committed)
            disk.detach()
        assert total > KILLS, "the load did something"
        disk.attach()
        run("/sbin/e2fsck", "-fn", disk.loop)
        print(f"{total} transactions in {KILLS} rounds")
    finally:
        disk.detach()
