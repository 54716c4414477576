# SPDX-License-Identifier: BSD-3-Clause
"""The database's side of test_sqlite: commits transactions for ever, and says on standard output which are committed.

  sqlite_writer.py FILE JOURNAL_MODE FIRST

Each transaction moves an amount between accounts and adds a line to a ledger; a torn one would show in the sums.
"""
import random
import sqlite3
import sys

ACCOUNTS = 200


def main(path, journal, first):
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"PRAGMA journal_mode={journal}")
    # EXTRA: with FULL the deletion of the rollback journal, which is the commit, need not be on disk.
    db.execute("PRAGMA synchronous=EXTRA")
    db.execute("PRAGMA cache_size=50")  # pages; small, so that it spills in the middle of a transaction
    db.execute("BEGIN")
    db.execute("CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, amount INTEGER, filler BLOB)")
    db.execute("CREATE TABLE IF NOT EXISTS ledger (n INTEGER PRIMARY KEY, source INTEGER, target INTEGER, filler BLOB)")
    for i in range(ACCOUNTS):
        db.execute("INSERT OR IGNORE INTO account VALUES (?, 1000, zeroblob(2000))", (i,))
    db.execute("COMMIT")
    print("ready", flush=True)
    n = first
    while True:
        db.execute("BEGIN IMMEDIATE")
        for _ in range(random.randint(1, 5)):
            source, target = random.sample(range(ACCOUNTS), 2)
            db.execute("UPDATE account SET amount = amount - 1, filler = randomblob(2000) WHERE id = ?", (source,))
            db.execute("UPDATE account SET amount = amount + 1, filler = randomblob(2000) WHERE id = ?", (target,))
        db.execute("INSERT INTO ledger VALUES (?, ?, ?, randomblob(?))", (n, source, target, random.randint(1, 9000)))
        db.execute("COMMIT")
        print(n, flush=True)
        n += 1


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
