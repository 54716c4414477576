# SPDX-License-Identifier: BSD-3-Clause
"""fio writes with checksums of its own and flushes; the daemon is killed in the middle.

Each block must then hold what it held before, or a whole write of this run that is no older than the newest one that
a flush covered. Which these are, fio's log of what it submitted tells.

Environment: KILLS (8), SEED.
"""
import hashlib
import os
import random
import shutil
import struct
import subprocess
import time

import pytest

import byred as lib

KILLS = int(os.environ.get("KILLS", "8"))
SIZE = 64 * lib.M
HEADER = struct.Struct("<HHIQQIIHHI")  # fio's struct verify_header
MAGIC = 0xACCA

pytestmark = [
    pytest.mark.skipif(not shutil.which("fio"), reason="fio is not installed"),
    pytest.mark.slow,
]


def start_fio(b, name, folder, depth, fsync, seed):
    log = os.path.join(folder, "iolog")
    open(log, "w").close()  # the daemon may be gone before fio has come so far
    return log, subprocess.Popen(
        [
            "fio",
            "--name=kill",
            "--ioengine=nbd",
            f"--uri={b.uri(name)}",
            "--rw=randwrite",
            "--bs=4k",
            f"--size={SIZE}",
            f"--iodepth={depth}",
            f"--fsync={fsync}",
            "--verify=sha1",
            "--do_verify=0",
            f"--write_iolog={log}",
            "--norandommap",
            "--time_based",
            "--runtime=60",
            f"--randseed={seed}",
        ],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def read_log(path, depth):
    """Offsets of the writes in order, and how many of the first of them are covered by a flush that has ended."""
    writes, covered, last = [], [], 0
    with open(path) as f:
        for line in f:
            words = line.split()
            if len(words) < 3 or words[2] not in ("write", "sync"):
                continue
            last += 1
            if words[2] == "write":
                writes.append(int(words[3]))
            else:
                covered.append((last, len(writes) - (depth - 1)))
    # With `depth` requests under way at the most, one that stands so far from the end has been answered.
    return writes, max([n for at, n in covered if last - at >= depth], default=0)


def swapped(digest):
    return b"".join(digest[i : i + 4][::-1] for i in range(0, len(digest), 4))


def write_number(block, off):
    """Which write of its run made the block, or None if it is none that is whole."""
    magic, _, length, _, at, _, _, _, number, _ = HEADER.unpack_from(block)
    end = HEADER.size + 20
    whole = magic == MAGIC and length == lib.BLOCK and at == off
    return number if whole and swapped(block[HEADER.size : end]) == hashlib.sha1(block[end:]).digest() else None


def compare(before, after, writes, covered):
    """What is wrong, in words."""
    newest, wrong = {}, []
    mine = {}
    for i, off in enumerate(writes):
        mine.setdefault(off, []).append(i)
        if i < covered:
            newest[off] = i
    for off in range(0, SIZE, lib.BLOCK):
        old, new = before[off : off + lib.BLOCK], after[off : off + lib.BLOCK]
        if old == new:
            if off in newest:
                wrong.append(f"{off}: write {newest[off]} was flushed and is not there")
            continue
        number = write_number(new, off)
        fits = [i for i in mine.get(off, []) if number is not None and i & 0xFFFF == number]
        if not fits:
            wrong.append(f"{off}: holds no write of this run")
        elif fits[-1] < newest.get(off, 0):
            wrong.append(f"{off}: holds write {fits[-1]}, but {newest[off]} was flushed")
    return wrong


def read_volume(b, name):
    h = b.open(name)
    data = b"".join(h.pread(4 * lib.M, off) for off in range(0, SIZE, 4 * lib.M))
    b.close_handles()
    return data


def test_fio_killed_with_verify_and_fsync(make_byred, seed):
    rng = random.Random(seed)
    b = make_byred("4G", args=["--commit-interval", "3600"], lifetime=7200).start()
    b.create("v", SIZE)
    before, flushed, slowest = bytes(SIZE), 0, 0
    for n in range(KILLS):
        depth, fsync = rng.choice([1, 1, 8]), rng.choice([1, 4, 8])
        log, fio = start_fio(b, "v", b.dir, depth, fsync, rng.randrange(1 << 30))
        time.sleep(0.2 + rng.random() * rng.choice([0.1, 1, 3]))
        b.kill()
        fio.wait(60)
        writes, covered = read_log(log, depth)
        findings = b.check()
        assert not findings, f"kill {n}: pool check: {findings[:20]}"
        began = time.monotonic()
        b.start()
        slowest = max(slowest, time.monotonic() - began)
        after = read_volume(b, "v")
        wrong = compare(before, after, writes, covered)
        assert not wrong, f"kill {n} (depth {depth}, flush each {fsync}): {len(wrong)} blocks: {wrong[:5]}"
        assert b.info()["free_space_cache"]["rebuilt"] == 0
        before, flushed = after, flushed + max(covered, 0)
    print(f"{KILLS} kills, {flushed} writes flushed, slowest start {slowest * 1000:.0f} ms")
    assert flushed > 0
