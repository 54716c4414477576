# SPDX-License-Identifier: BSD-3-Clause
"""docs/format.md is right: a reader that was written from it (format_reader.py) finds in pools what was written to
them.

Environment: BYRE_BUILD (build), SEED.
"""
import json
import os
import random
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "lib")]

import byred as lib  # noqa: E402
import format_reader as fr  # noqa: E402

BLOCK, K, M = lib.BLOCK, lib.K, lib.M


@pytest.fixture
def rng():
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def make():
    made = []

    def start(size="256M", args=()):
        made.append(lib.Byred(size, args=args).start())
        return made[-1]

    yield start
    for b in made:
        b.close()


class Shadow:
    """A volume and what it must hold."""

    def __init__(self, b, name, size):
        self.name, self.bytes = b.create(name, size), bytearray(size)
        self.h = b.open(name)

    def write(self, rng, off, length):
        data = rng.randbytes(length)
        self.h.pwrite(data, off)
        self.bytes[off:off + length] = data

    def trim(self, off, length):
        self.h.trim(length, off)
        self.bytes[off:off + length] = bytes(length)

    def random_requests(self, rng, count):
        size = len(self.bytes)
        for _ in range(count):
            length = min(rng.choice([1, 511, BLOCK, BLOCK, 3 * BLOCK, 100 * K, 1 * M]), size)
            off = rng.randrange(size - length + 1)
            if rng.random() < 0.6:
                off -= off % BLOCK
            if rng.random() < 0.2:
                self.trim(off, length)
            else:
                self.write(rng, off, length)


def compare(pool, shadow):
    got = pool.read(shadow.name, 0, len(shadow.bytes) // BLOCK)
    wrong = [at // BLOCK for at in range(0, len(got), BLOCK) if got[at:at + BLOCK] != shadow.bytes[at:at + BLOCK]]
    assert not wrong, f"{shadow.name}: {len(wrong)} blocks differ, the first is {wrong[0]}"


def test_format_crc32c_of_the_check_value():
    assert fr.crc32c(b"123456789") == 0xE3069283
    assert fr.crc32c(bytes(32)) == 0x8A9136AA


def test_format_of_an_empty_pool(make):
    b = make("16M")
    b.stop()
    pool = fr.Pool(b.pool)
    assert pool.volumes == {} and pool.sb["device_size"] == 16 * M
    pool.close()


def test_format_of_a_pool_that_was_closed(make, rng):
    b = make()
    shadows = [Shadow(b, f"v{i}", size) for i, size in enumerate([BLOCK, 1 * M, 16 * M, 8 * M])]
    for s in shadows:
        s.random_requests(rng, 150)
    # Many small extents, so that trees have several levels' worth of leaves, and caches have bitmaps.
    for blk in rng.sample(range(16 * M // BLOCK), 1500):
        shadows[2].write(rng, blk * BLOCK, BLOCK)
    b.ok("commit")
    for blk in range(0, 8 * M // BLOCK, 2):
        shadows[3].trim(blk * BLOCK, BLOCK)
    b.ok("volume", "rename", "v1", "renamed")
    shadows[1].name = "renamed"
    b.close_handles()
    b.stop()
    pool = fr.Pool(b.pool)
    assert {name: v.size for name, v in pool.volumes.items()} == {s.name: len(s.bytes) for s in shadows}
    assert pool.log_items == 0 and pool.orphans == 0
    for s in shadows:
        compare(pool, s)
    pool.close()


def test_format_of_the_flush_log(make, rng):
    """Killed after a flush: the log has what no commit has, new block groups among it."""
    b = make()
    s = Shadow(b, "v", 20 * M)
    items = 0
    for _ in range(3):
        s.random_requests(rng, 60)
        s.write(rng, 0, 4 * M)
        s.h.flush()
        b.kill()
        pool = fr.Pool(b.pool)
        compare(pool, s)
        items += pool.log_items
        pool.close()
        b.handles.clear()
        b.start()
        s.h = b.open("v")
    assert items > 0


def test_format_of_operations_in_the_flush_log(make, rng):
    """Killed with volumes made, renamed, resized and deleted since the last commit."""
    b = make(args=["--commit-interval", "3600"])
    old = Shadow(b, "old", 2 * M)
    old.random_requests(rng, 30)
    old.h.flush()
    b.ok("commit")  # until then flushes are commits
    new = Shadow(b, "new", 4 * M)
    new.random_requests(rng, 30)
    new.h.flush()
    b.create("gone", 1 * M)
    b.delete("gone")
    b.create("gone", 3 * M)
    b.close_handles()
    b.ok("volume", "rename", "old", "other")
    b.ok("volume", "rename", "new", "old")
    b.ok("volume", "resize", "old", "1M", "--shrink")
    b.ok("volume", "resize", "old", "8M")
    b.ok("volume", "set", "gone", "--read-only", "--comment", "nicht mehr ganz")
    old.name, new.name = "other", "old"
    new.bytes[1 * M:] = bytes(7 * M)
    b.kill()
    pool = fr.Pool(b.pool)
    assert {name: v.size for name, v in pool.volumes.items()} == {"other": 2 * M, "old": 8 * M, "gone": 3 * M}
    assert pool.volumes["gone"].comment == "nicht mehr ganz" and pool.volumes["gone"].item["flags"] == 4
    assert pool.log_items >= 4  # a deletion is followed by a commit
    for s in (old, new):
        compare(pool, s)
    pool.close()
    b.start()
    for s in (old, new):
        assert bytes(b.open(s.name).pread(len(s.bytes), 0)) == bytes(s.bytes)


def test_format_of_data_that_did_not_arrive(make, rng):
    """Of the log's last group an item counts only if its data is there; the reader and the daemon agree about it."""
    b = make(args=["--commit-interval", "3600"])
    s = Shadow(b, "v", 1 * M)
    b.ok("commit")  # until then flushes are commits
    for off, length in ((0, 16 * K), (64 * K, 4 * K)):
        s.write(rng, off, length)
    s.h.flush()
    s.h.pwrite(b"lost" * (BLOCK // 4), BLOCK)
    s.write(rng, 128 * K, 8 * K)
    s.h.flush()
    b.kill()
    b.handles.clear()
    pool = fr.Pool(b.pool)
    assert pool.log_items == 4
    addr = pool.volumes["v"].blocks[1][0]
    group = pool.find(addr, BLOCK)
    pool.close()
    with open(b.pool, "r+b") as f:
        f.seek(group.offsets[0] + addr - group.start + 100)
        f.write(b"not what was written")
    pool = fr.Pool(b.pool)
    assert pool.log_items == 3
    compare(pool, s)
    pool.close()
    b.start()
    assert bytes(b.open("v").pread(len(s.bytes), 0)) == bytes(s.bytes)


def test_format_of_a_half_freed_volume(make, rng):
    """A pool that was killed while a deleted volume's space was being freed."""
    b = make("1G")
    s = Shadow(b, "kept", 4 * M)
    s.random_requests(rng, 50)
    s.h.flush()
    big = Shadow(b, "deleted", 160 * M)
    for blk in range(0, 160 * M // BLOCK, 2):
        big.h.pwrite(b"x" * BLOCK, blk * BLOCK)
    b.close_handles()
    b.delete("deleted")
    b.kill()
    pool = fr.Pool(b.pool)
    assert list(pool.volumes) == ["kept"]
    compare(pool, s)
    pool.close()


def test_format_reader_takes_the_twin_and_tells_damage(make, rng):
    b = make()
    s = Shadow(b, "v", 1 * M)
    s.write(rng, 0, 1 * M)
    b.close_handles()
    b.stop()
    b.damaged = True
    pool = fr.Pool(b.pool)
    root = pool.volumes["v"].extents[0]
    group = pool.find(root[2], BLOCK)
    data_at = group.offsets[0] + root[2] - group.start
    addr = pool.sb["root_tree"]["addr"]
    copies = [off + addr - pool.find(addr, BLOCK).start for off in pool.find(addr, BLOCK).offsets]
    pool.close()

    def flip(offset):
        with open(b.pool, "r+b") as f:
            f.seek(offset)
            byte = f.read(1)[0]
            f.seek(offset)
            f.write(bytes([byte ^ 1]))

    flip(copies[0] + 5000)
    pool = fr.Pool(b.pool)
    compare(pool, s)
    flip(data_at)
    with pytest.raises(fr.Broken, match="checksum"):
        pool.read("v", 0, 1)
    pool.close()
    flip(copies[1] + 5000)
    with pytest.raises(fr.Broken, match="no copy is valid"):
        fr.Pool(b.pool)


def test_format_reader_as_a_program(make, rng):
    b = make()
    s = Shadow(b, "v", 1 * M)
    s.random_requests(rng, 20)
    b.close_handles()
    b.stop()
    reader = [sys.executable, "-B", os.path.join(HERE, "format_reader.py"), b.pool]
    listed = json.loads(subprocess.run(reader, stdout=subprocess.PIPE, check=True).stdout)
    assert [v["name"] for v in listed["volumes"]] == ["v"]
    assert subprocess.run([*reader, "--cat", "v"], stdout=subprocess.PIPE, check=True).stdout == bytes(s.bytes)
