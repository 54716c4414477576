# SPDX-License-Identifier: BSD-3-Clause
"""SQLite on ext4 on a volume (nbdfuse and a loop device), with the daemon killed in the middle of transactions.

Environment: SQLITE_KILLS (3) kills for each journal mode.
"""
import os
import random
import sqlite3
import subprocess
import sys
import time

import pytest

from disk import Mount, NbdDisk, missing, run

KILLS = int(os.environ.get("SQLITE_KILLS", "3"))
WRITER = os.path.join(os.path.dirname(__file__), "sqlite_writer.py")
ACCOUNTS = 200


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


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
    disk = NbdDisk(b.uri("db"), b.dir)
    fs = Mount(disk, os.path.join(b.dir, "mnt"))
    path = os.path.join(fs.folder, "data.db")
    total = 0
    try:
        disk.attach()
        run("/sbin/mke2fs", "-q", "-F", "-t", "ext4", disk.loop)
        disk.detach()
        for n in range(KILLS):
            fs.mount()
            writer = subprocess.Popen([sys.executable, WRITER, path, journal, str(total + 1)],
                                      stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            assert writer.stdout.readline() == "ready\n"
            time.sleep(rng.random() * 2 + 0.1)
            b.kill()
            said = writer.stdout.read().split()
            writer.wait()
            committed = int(said[-1]) if said else total
            fs.detach()
            assert b.check() == []
            b.start()
            fs.mount()
            total = verify(path, committed)
            fs.detach()
        assert total > KILLS, "the load did something"
        disk.attach()
        run("/sbin/e2fsck", "-fn", disk.loop)
        print(f"{total} transactions in {KILLS} rounds")
    finally:
        fs.detach()
