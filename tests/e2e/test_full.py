# SPDX-License-Identifier: BSD-3-Clause
"""A full pool: ENOSPC at the write that does not fit, and everything goes on.

Environment: FULL_ATTEMPTS (500) writes that are attempted when the pool is full already.
"""
import os
import random
import time

import nbdraw
import pytest
from byred import BLOCK, K, M
from nbdraw import Conn

POOL = "256M"
ATTEMPTS = int(os.environ.get("FULL_ATTEMPTS", "500"))
VOLUME_BLOCKS = 256 * 1024  # 1 GiB, far larger than the pool


def content(block, serial=0):
    return (block.to_bytes(8, "little") + serial.to_bytes(8, "little")) * (BLOCK // 16)


class Writer:
    """Writes blocks in a given order with a queue, and remembers what was acknowledged."""

    def __init__(self, b, volume, serial=0):
        self.conn = Conn(b.nbd_sock, volume)
        self.serial = serial
        self.stored = {}  # block: its content
        self.refused = set()
        self.slowest = 0.0
        self.under_way = {}

    def send(self, first, count):
        data = b"".join(content(b, self.serial) for b in range(first, first + count))
        cookie = self.conn.write(first * BLOCK, data)
        self.under_way[cookie] = (first, count, time.monotonic())

    def take(self):
        cookie, error, _ = self.conn.reply()
        first, count, start = self.under_way.pop(cookie)
        self.slowest = max(self.slowest, time.monotonic() - start)
        assert error in (0, nbdraw.ENOSPC), error
        for block in range(first, first + count):
            if error:
                self.refused.add(block)
            else:
                self.refused.discard(block)
                self.stored[block] = content(block, self.serial)
        return error

    def fill(self, order, depth=16, refusals=1):
        """Writes until `refusals` requests were refused (or the order is at its end)."""
        got = 0
        for first, count in order:
            self.send(first, count)
            while len(self.under_way) >= depth:
                got += self.take() != 0
            if got >= refusals:
                break
        while self.under_way:
            got += self.take() != 0
        return got

    def verify(self, conn=None):
        """Every block that was acknowledged reads back."""
        conn = conn or self.conn
        blocks = sorted(self.stored)
        asked = {}  # cookie: blocks
        while blocks or asked:
            while blocks and len(asked) < 32:
                n = 1
                while n < min(256, len(blocks)) and blocks[-n - 1] == blocks[-1] - n:
                    n += 1
                run = blocks[-n:]
                del blocks[-n:]
                asked[conn.send(nbdraw.CMD_READ, run[0] * BLOCK, n * BLOCK)] = run
            cookie, error, got = conn.reply()
            run = asked.pop(cookie)
            assert error == 0, f"blocks {run[0]} to {run[-1]}: error {error}"
            if got != b"".join(self.stored[block] for block in run):
                wrong = [b for i, b in enumerate(run) if got[i * BLOCK:(i + 1) * BLOCK] != self.stored[b]]
                raise AssertionError(f"wrong content in blocks {wrong[:10]}")


def sequential(size=64 * K):
    n = size // BLOCK
    return ((first, n) for first in range(0, VOLUME_BLOCKS, n))


def scattered(seed):
    blocks = list(range(VOLUME_BLOCKS))
    random.Random(seed).shuffle(blocks)
    return ((block, 1) for block in blocks)


def fill_to_the_brim(b, order):
    """Until small writes are refused too, also after a commit."""
    writer = Writer(b, "v")
    assert writer.fill(order) >= 1, "the pool never became full"
    for _ in range(3):
        assert b.byre("commit").rc == 0
        writer.fill(
            ((block, 1) for block in range(VOLUME_BLOCKS - 1, 0, -1) if block not in writer.stored), refusals=20
        )
    return writer


def full_pool(make_byred, order):
    b = make_byred(POOL).start()
    b.create("v", VOLUME_BLOCKS * BLOCK)
    return b, fill_to_the_brim(b, order)


def full_is_not_fatal(b, writer, trims=64):
    """Everything that must go on in a full pool."""
    conn = writer.conn
    # Reading, flushing, and more attempts.
    writer.verify()
    assert conn.call(nbdraw.CMD_FLUSH)[0] == 0
    blocks = iter([x for x in range(VOLUME_BLOCKS) if x not in writer.stored])
    writer.fill(((next(blocks), 1) for _ in range(ATTEMPTS)), refusals=ATTEMPTS)
    # Trim of acknowledged ranges works, and after a commit its space takes new data.
    rng = random.Random(1)
    victims = rng.sample(sorted(writer.stored), min(trims * 16, len(writer.stored) // 4))
    for block in victims:
        error, _ = conn.call(nbdraw.CMD_TRIM, block * BLOCK, BLOCK)
        assert error == 0, f"trim in a full pool: error {error}"
        writer.stored[block] = bytes(BLOCK)
    assert conn.call(nbdraw.CMD_FLUSH)[0] == 0
    b.ok("commit")
    again = Writer(b, "v", serial=7)
    refused = again.fill(((block, 1) for block in victims[:len(victims) // 2]), refusals=10**9)
    assert refused < len(victims) // 8, f"{refused} of {len(victims) // 2} trimmed blocks could not be written again"
    writer.stored.update(again.stored)
    again.conn.close()
    writer.verify()


def test_full_pool_written_sequentially(make_byred):
    b, writer = full_pool(make_byred, sequential())
    assert len(writer.stored) * BLOCK > 0.6 * 256 * M
    full_is_not_fatal(b, writer)
    writer.conn.close()
    restart_verify_delete(b, writer)


def test_full_pool_written_at_random(make_byred):
    b, writer = full_pool(make_byred, scattered(3))
    assert len(writer.stored) * BLOCK > 0.4 * 256 * M
    full_is_not_fatal(b, writer)
    writer.conn.close()
    restart_verify_delete(b, writer)


def restart_verify_delete(b, writer):
    """The full pool stops, starts, is killed, starts; then deleting the volume gives the space back."""
    b.restart()
    writer.verify(Conn(b.nbd_sock, "v"))
    b.kill()
    assert b.check() == []
    b.start()
    conn = Conn(b.nbd_sock, "v")
    writer.verify(conn)
    conn.close()
    b.delete("v")
    b.ok("commit")
    b.ok("commit")
    b.create("w", VOLUME_BLOCKS * BLOCK)
    second = Writer(b, "w", serial=9)
    second.fill(sequential())
    assert len(second.stored) > 0.9 * len(writer.stored), "the deleted volume's space is there again"
    second.verify()
    second.conn.close()


def test_full_pool_overwriting_works_after_a_little_trim(make_byred):
    """Rewriting needs new space before it frees the old (copy on write): it may be refused, never lost."""
    b, writer = full_pool(make_byred, sequential())
    blocks = sorted(writer.stored)
    for block in blocks[:512]:
        assert writer.conn.call(nbdraw.CMD_TRIM, block * BLOCK, BLOCK)[0] == 0
        writer.stored[block] = bytes(BLOCK)
    b.ok("commit")
    rewriter = Writer(b, "v", serial=5)
    for start in range(600, 600 + 1024, 128):
        rewriter.fill(((block, 1) for block in blocks[start:start + 128]), refusals=10**9)
        b.ok("commit")
    assert len(rewriter.stored) > 900, "rewriting in a pool with 2 MiB free, with commits between"
    writer.stored.update(rewriter.stored)
    writer.verify()
    for c in (writer.conn, rewriter.conn):
        c.close()


def test_full_pool_grows_while_in_use(make_byred):
    b, writer = full_pool(make_byred, sequential())
    stored = len(writer.stored)
    b.ok("pool", "grow", "512M")
    more = Writer(b, "v", serial=3)
    more.fill(((first, 16) for first in range(stored + 1024, VOLUME_BLOCKS - 16, 16)))
    assert len(more.stored) * BLOCK > 128 * M
    more.verify()
    writer.stored.update(more.stored)
    writer.verify()
    writer.conn.close()
    more.conn.close()


def test_full_pool_metadata_commands_work(make_byred):
    """A thin volume takes no data space: creating may be refused in one line; renaming back and deleting must work."""
    b, writer = full_pool(make_byred, sequential())
    result = b.byre("volume", "create", "another", "1G")
    assert result.rc == 0 or (result.rc == 1 and len(result.err.strip().splitlines()) == 1), result
    if result.rc == 0:
        b.delete("another")
    writer.verify()
    writer.conn.close()
    b.delete("v")
    b.create("v", "1G")


@pytest.mark.alone
def test_full_pool_sixteen_writers_at_once(make_byred):
    """No request waits over 5 s, nobody hangs, and the sum of what was acknowledged is what is there."""
    import select

    b = make_byred(POOL).start()
    b.create("v", VOLUME_BLOCKS * BLOCK)
    writers = []
    share = VOLUME_BLOCKS // 16
    for i in range(16):
        w = Writer(b, "v", serial=i)
        w.order = iter(range(i * share, (i + 1) * share, 4))
        w.refusals = 0
        writers.append(w)
    active = set(writers)
    while active:
        for w in list(active):
            while len(w.under_way) < 8 and w.refusals < 50:
                first = next(w.order, None)
                if first is None:
                    w.refusals = 50
                    break
                w.send(first, 4)
            if not w.under_way:
                active.discard(w)
        ready, _, _ = select.select([w.conn.sock for w in active], [], [], 20) if active else ([], [], [])
        assert ready or not active, "no reply for 20 s"
        for w in active:
            if w.conn.sock in ready:
                w.refusals += w.take() != 0
                while len(w.conn.buf) >= 16:
                    w.refusals += w.take() != 0
    slowest = max(w.slowest for w in writers)
    assert slowest < 5, f"a request waited {slowest:.1f} s"
    stored = sum(len(w.stored) for w in writers) * BLOCK
    assert 0.5 * 256 * M < stored < 256 * M
    for w in writers:
        w.verify()
    b.ok("commit")
    info = b.info()
    assert stored <= info["data_bytes"] <= stored + 16 * M
    assert info["reserved_bytes"] == 0
    for w in writers:
        w.conn.close()
