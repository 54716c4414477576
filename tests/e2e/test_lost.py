# SPDX-License-Identifier: BSD-3-Clause
"""Leaves of volumes' trees that are lost in both copies, in a pool that others use: what they held is EIO until it is
overwritten, and all else goes on."""
import json
import os
import random
import re
import socket
import sys
import threading

import pytest

import nbdraw
from byred import BLOCK, pattern, run_byre
from load import Load, Model, read_all

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fs"))

import format_reader as fr  # noqa: E402

BLOCKS, OTHERS = 6000, 2048
EIO = 5


def leaves(pool, name):
    """(first block, end, places on the device) of each leaf of a volume's tree, in order."""
    p = fr.Pool(pool)
    vol = p.volumes[name]
    for g in p.groups.values():
        g.used.clear()  # they were all found once

    def visit(addr, generation, level, end):
        h, data = p.node(addr, generation, vol.id, level)
        items = p.items(h, data)
        blks = [int.from_bytes(key[1:], "big") for key, _ in items]
        if level == 0:
            g = p.find(addr, fr.NODE)
            yield blks[0], end, [off + addr - g.start for off in g.offsets]
            return
        for (_, value), behind in zip(items, blks[1:] + [end]):
            child, born = fr.struct.unpack("<QQ", value)
            yield from visit(child, born, level - 1, behind)

    root = p.said[vol.id][0]
    found = list(visit(root["addr"], root["generation"], root["level"], vol.size // BLOCK))
    p.close()
    return found


def rot(pool, offsets):
    with open(pool, "r+b") as f:
        for off in offsets:
            f.seek(off + 5000)
            byte = f.read(1)[0]
            f.seek(off + 5000)
            f.write(bytes([byte ^ 0x10]))


class Others:
    """Verified load with flushes on volumes that are not damaged, in a thread each, until it is stopped or the daemon
    is gone."""

    def __init__(self, b, names, seed):
        self.b, self.names = b, names
        self.rng = {n: random.Random(seed + i) for i, n in enumerate(names)}
        self.model = {n: Model(OTHERS) for n in names}
        self.flushes = 0
        self.problems = []

    def start(self):
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(n,)) for n in self.names]
        for t in self.threads:
            t.start()

    def run(self, name):
        load = Load(self.b, name, self.rng[name], self.model[name])
        try:
            while not self.ended.is_set():
                load.step(0.1)
            load.drain()
        except nbdraw.Closed:
            self.take_last(load)
        self.flushes += load.flushes
        if load.errors or load.flushes == 0:
            self.problems.append(f"{name}: {load.flushes} flushes, errors {load.errors}")
        load.close()

    @staticmethod
    def take_last(load):
        """Replies that had left the daemon count."""
        for conn in load.conns:
            try:
                while True:
                    while (got := conn.next_reply()) is not None:
                        load.take(conn, got[0], got[1])
                    conn.fill()
            except nbdraw.Closed:
                pass

    def wait(self):
        for t in self.threads:
            t.join()
        assert not self.problems, self.problems

    def stop(self):
        self.ended.set()
        self.wait()

    def verify(self, crashed):
        for n in self.names:
            wrong = self.model[n].compare(read_all(self.b, n, OTHERS), crashed)
            assert not wrong, f"{n}: {len(wrong)} wrong blocks: {wrong[:3]}"


class Damaged:
    """A volume of single blocks with gaps between them; `lost` are those that nobody can know."""

    def __init__(self, b, name, seed):
        self.b, self.name, self.seed = b, name, seed
        self.block = [bytes(BLOCK)] * BLOCKS
        self.lost = set()
        b.create(name, BLOCKS * BLOCK)
        conn = nbdraw.Conn(b.nbd_sock, name)
        for blk in range(0, BLOCKS, 2):
            self.write(conn, blk)
        assert conn.call(nbdraw.CMD_FLUSH)[0] == 0
        conn.close()

    def write(self, conn, blk, n=1):
        self.seed += 1
        data = pattern(n * BLOCK, self.seed)
        error, _ = conn.call(nbdraw.CMD_WRITE, blk * BLOCK, n * BLOCK, 0, data)
        assert error == 0, f"{self.name}: block {blk}: error {error}"
        for i in range(n):
            self.block[blk + i] = data[i * BLOCK:(i + 1) * BLOCK]
            self.lost.discard(blk + i)

    def trim(self, conn, blk, n, cmd=nbdraw.CMD_TRIM):
        assert conn.call(cmd, blk * BLOCK, n * BLOCK)[0] == 0
        for i in range(blk, blk + n):
            self.block[i] = bytes(BLOCK)
            self.lost.discard(i)

    def verify(self):
        """Exactly what is lost is EIO, and all else is right."""
        conn = nbdraw.Conn(self.b.nbd_sock, self.name)
        for blk in range(BLOCKS):
            error, data = conn.call(nbdraw.CMD_READ, blk * BLOCK, BLOCK)
            assert error == (EIO if blk in self.lost else 0), f"{self.name}: block {blk}: error {error}"
            assert error or data == self.block[blk], f"{self.name}: block {blk}"
        conn.close()

    def lose(self, leaf):
        first, end, places = leaf
        rot(self.b.pool, places)
        self.lost.update(range(first, end))


def check_report(b, *args):
    result = run_byre("pool", "check", b.pool, *args, "--json", timeout=300)
    report = json.loads(result.out)
    assert report["clean"] == (result.rc == 0), result
    return report


def lost_metric(b):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(30)
        s.connect(os.path.join(b.dir, "http.sock"))
        s.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = b"".join(iter(lambda: s.recv(65536), b"")).decode()
    return int(re.search(r"^byre_lost_bytes (\d+)$", text, re.M)[1])


def expect_lost(b, bytes_lost):
    info = b.info()
    assert info["lost_bytes"] == bytes_lost and not info["read_only"], b.log_text()[-3000:]
    assert lost_metric(b) == bytes_lost


@pytest.mark.parametrize(
    "which", ["middle", pytest.param("first", marks=pytest.mark.slow), pytest.param("last", marks=pytest.mark.slow)]
)
def test_lost_leaf_stays_where_it_is(make_byred, seed, which):
    b = make_byred("1G", args=["--commit-interval", "1", "--cache-size", "8M"])
    b.args += ["--http", "unix:" + os.path.join(b.dir, "http.sock")]
    b.start()
    b.damaged = True  # until it is mended
    for name in ("a", "b"):
        b.create(name, OTHERS * BLOCK)
    hit, gone = Damaged(b, "hit", seed), Damaged(b, "gone", seed + 1)
    b.stop()

    tree, other_tree = leaves(b.pool, "hit"), leaves(b.pool, "gone")
    assert len(tree) > 4
    leaf = tree[{"first": 0, "middle": len(tree) // 2, "last": -1}[which]]
    hit.lose(leaf)
    gone.lose(other_tree[1])
    report = check_report(b)
    ranges = {(d.get("volume"), d.get("offset"), d.get("length"), d["cure"]) for d in report["details"]}
    first, end, _ = leaf
    assert ranges == {
        ("hit", first * BLOCK, (end - first) * BLOCK, "overwrite"),
        ("gone", other_tree[1][0] * BLOCK, (other_tree[1][1] - other_tree[1][0]) * BLOCK, "overwrite"),
    }, report

    # Nobody has written there: reads fail, everything else is served.
    others = Others(b, ("a", "b"), seed)
    b.start()
    others.start()
    hit.verify()
    assert f"volume hit, offset {first * BLOCK}, length {(end - first) * BLOCK}: cannot be read" in b.log_text()

    # One write there, flushed; then a kill, and replay onto the damaged tree.
    conn = nbdraw.Conn(b.nbd_sock, "hit")
    hit.write(conn, first + 5, 2)
    assert conn.call(nbdraw.CMD_FLUSH)[0] == 0
    b.kill()
    others.wait()
    b.start()
    others.verify(crashed=True)
    others.start()
    b.ok("commit")
    assert f"volume hit, offset {first * BLOCK}, length {(end - first) * BLOCK}: lost, except what was written since" in b.log_text()
    hit.verify()
    expect_lost(b, (end - first - 2) * BLOCK)

    # Deleted beside it; more is written and trimmed; a clean restart.
    b.delete("gone")
    b.create("new", "1M")
    conn = nbdraw.Conn(b.nbd_sock, "hit")
    assert conn.call(nbdraw.CMD_WRITE, first * BLOCK + 100, 10, 0, bytes(10))[0] == EIO  # the rest of the block is lost
    hit.trim(conn, first + 50, 7)
    hit.write(conn, 3 if which != "first" else BLOCKS - 5)
    b.ok("commit")
    expect_lost(b, (end - first - 9) * BLOCK)
    others.stop()
    conn.close()
    b.restart()
    others.verify(crashed=False)
    others.start()
    hit.verify()
    expect_lost(b, (end - first - 9) * BLOCK)

    # Overwriting it, by writes, zeros and a trim, mends all of it.
    conn = nbdraw.Conn(b.nbd_sock, "hit")
    for blk in range(first, first + 200, 8):
        hit.write(conn, blk, 8)
    hit.trim(conn, first + 200, 100, nbdraw.CMD_WRITE_ZEROES)
    hit.trim(conn, first + 300, end - first - 300)
    assert not hit.lost
    assert conn.call(nbdraw.CMD_FLUSH)[0] == 0
    b.ok("commit")
    expect_lost(b, 0)
    hit.verify()
    others.stop()
    conn.close()
    b.stop()
    assert "read-only" not in b.log_text()

    # What is left is space that nobody knows the owner of; a repair frees it, and then nothing is wrong.
    report = check_report(b)
    assert report["details"] and all(
        "lost nodes had referred to" in d["text"] and d["cure"] == "repair" for d in report["details"]
    ), report
    report = check_report(b, "--repair")
    assert report["left"] == 0
    b.damaged = False
    assert b.check() == []
    b.start()
    hit.verify()
    others.verify(crashed=False)
    used = next(v["used_bytes"] for v in b.json("volume", "list") if v["name"] == "hit")
    assert 0 < used <= sum(block != bytes(BLOCK) for block in hit.block) * BLOCK
