# SPDX-License-Identifier: BSD-3-Clause
"""Random load on a volume over several connections, with a model of what each block may hold after a crash.

The model keeps for each 4 KiB block the contents it has had since the last flush that covered it, oldest first:
1. After a crash a block holds one of them, whole. The first is what the last covering flush made durable (or an even
   newer one that was acknowledged when that flush was sent).
2. A flush covers the writes that were acknowledged, on any connection, before it was sent; when its reply comes, what
   was older is forgotten.
3. One request at a time is under way for a block, so that the order of a block's contents is known.
"""
import select
import zlib

import nbdraw
from byred import BLOCK

ZERO = bytes(BLOCK)


class Model:
    """Versions of a block are numbered from its first; versions[block] holds those from number base[block] on."""

    def __init__(self, blocks):
        self.versions = [[ZERO] for _ in range(blocks)]
        self.base = [0] * blocks
        self.acked = [0] * blocks  # number of the newest acknowledged version
        self.dirty = set()  # blocks with more than one version

    def submit(self, first, contents):
        """A request that gives the blocks from `first` on these contents is about to be sent."""
        for block, content in enumerate(contents, first):
            self.versions[block].append(content)
            self.dirty.add(block)

    def newest(self, block):
        return self.base[block] + len(self.versions[block]) - 1

    def ack(self, first, count):
        for block in range(first, first + count):
            self.acked[block] = self.newest(block)

    def fail(self, first, count):
        """The request failed: its blocks may hold the old or the new contents from now on, each of them whole."""
        for block in range(first, first + count):
            self.versions[block].append(self.versions[block][-2])

    def snapshot(self):
        """What a flush that is sent now will cover: block and number of its version."""
        return [(block, self.acked[block]) for block in self.dirty]

    def flushed(self, snapshot):
        for block, number in snapshot:
            old = number - self.base[block]
            if old > 0:
                del self.versions[block][:old]
                self.base[block] = number
            if len(self.versions[block]) == 1:
                self.dirty.discard(block)

    def committed(self):
        """The server has ended cleanly: whatever was acknowledged is durable."""
        self.flushed(self.snapshot())

    def current(self, block):
        return self.versions[block][-1]

    def compare(self, data, crashed=True):
        """Descriptions of blocks that hold what they must not; after it the model holds what was read."""
        wrong = []
        for block, versions in enumerate(self.versions):
            got = data[block * BLOCK:(block + 1) * BLOCK]
            allowed = versions if crashed else versions[-1:]
            if got not in allowed:
                wrong.append(f"block {block}: holds {describe(got)}, may hold {[describe(v) for v in allowed]}")
            self.versions[block] = [got]
            self.base[block] = self.acked[block] = 0
        self.dirty.clear()
        return wrong


def describe(content):
    if content == ZERO:
        return "zeros"
    return f"{content[:8].hex()} (crc32 {zlib.crc32(content):08x})"


class Load:
    """Keeps `depth` requests under way on each of several connections until told to stop or the server is gone."""

    def __init__(self, b, volume, rng, model, connections=3, depth=8, max_blocks=32, flush_every=24):
        self.rng = rng
        self.model = model
        self.blocks = len(model.versions)
        self.depth = depth
        self.max_blocks = max_blocks
        self.flush_every = flush_every
        self.conns = [nbdraw.Conn(b.nbd_sock, volume) for _ in range(connections)]
        self.under_way = {conn: {} for conn in self.conns}  # cookie: (first, count) or a flush's snapshot
        self.busy = set()
        self.acked = self.flushes = self.sent = 0
        self.errors = {}
        self.serial = 0

    def new_content(self):
        self.serial += 1
        return (self.serial.to_bytes(8, "little") + self.rng.randbytes(56)) * (BLOCK // 64)

    def pick(self, count):
        for _ in range(20):
            first = self.rng.randrange(self.blocks - count + 1)
            if self.busy.isdisjoint(range(first, first + count)):
                return first
        return None

    def send_one(self, conn):
        self.sent += 1
        kind = self.rng.random()
        if self.rng.randrange(self.flush_every) == 0:
            cookie = conn.send(nbdraw.CMD_FLUSH)
            self.under_way[conn][cookie] = ("flush", self.model.snapshot())
            return
        count = self.rng.choice([1, 1, 1, 2, 4, self.rng.randint(1, self.max_blocks)])
        first = self.pick(count)
        if first is None:
            return
        fua = nbdraw.CMD_FLAG_FUA if self.rng.random() < 0.05 else 0
        if kind < 0.75:
            contents = [self.new_content() for _ in range(count)]
            request = (nbdraw.CMD_WRITE, first * BLOCK, count * BLOCK, fua, b"".join(contents))
        elif kind < 0.85:  # a piece of one block
            count = 1
            start = self.rng.randrange(BLOCK - 1)
            length = self.rng.randint(1, BLOCK - start)
            piece = self.rng.randbytes(length)
            old = self.model.current(first)
            contents = [old[:start] + piece + old[start + length:]]
            request = (nbdraw.CMD_WRITE, first * BLOCK + start, length, fua, piece)
        else:
            contents = [ZERO] * count
            cmd, flags = self.rng.choice([
                (nbdraw.CMD_TRIM, 0), (nbdraw.CMD_WRITE_ZEROES, 0), (nbdraw.CMD_WRITE_ZEROES, nbdraw.CMD_FLAG_NO_HOLE)])
            request = (cmd, first * BLOCK, count * BLOCK, flags | fua, b"")
        self.model.submit(first, contents)
        self.busy.update(range(first, first + count))
        cmd, offset, length, flags, data = request
        self.under_way[conn][conn.cookie + 1] = ("fua" if fua else "data", (first, count))
        conn.send(cmd, offset, length, flags, data)

    def take(self, conn, cookie, error):
        kind, what = self.under_way[conn].pop(cookie)
        if error:
            self.errors[error] = self.errors.get(error, 0) + 1
        if kind == "flush":
            if not error:
                self.flushes += 1
                self.model.flushed(what)
            return
        first, count = what
        self.busy.difference_update(range(first, first + count))
        if error:
            self.model.fail(first, count)
            return
        self.acked += 1
        self.model.ack(first, count)
        if kind == "fua":
            self.model.flushed([(b, self.model.acked[b]) for b in range(first, first + count)])

    def step(self, timeout=1.0, send=True):
        """Fills the queues and takes the replies that are there. Raises nbdraw.Closed when the server is gone."""
        if send:
            for conn in self.conns:
                while len(self.under_way[conn]) < self.depth:
                    before = len(self.under_way[conn])
                    self.send_one(conn)
                    if len(self.under_way[conn]) == before:
                        break
        ready, _, _ = select.select([c.sock for c in self.conns], [], [], timeout)
        for conn in self.conns:
            if conn.sock in ready:
                conn.fill()
            while (got := conn.next_reply()) is not None:
                self.take(conn, got[0], got[1])

    def drain(self):
        while any(self.under_way.values()):
            self.step(send=False)

    def close(self):
        for conn in self.conns:
            conn.close()


def read_all(b, volume, blocks):
    conn = nbdraw.Conn(b.nbd_sock, volume)
    out = bytearray()
    step = 256
    for first in range(0, blocks, step):
        n = min(step, blocks - first)
        error, data = conn.call(nbdraw.CMD_READ, first * BLOCK, n * BLOCK)
        assert error == 0, f"reading blocks {first} to {first + n - 1}: error {error}"
        out += data
    conn.close()
    return bytes(out)
