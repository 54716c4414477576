# SPDX-License-Identifier: BSD-3-Clause
"""A recorded run of the daemon: the pool as it was at any moment is clean and holds what was flushed by then."""
import os
import random
import re
import shutil
import subprocess

import pytest

import byred as lib
from byred import BLOCK, BUILD, M

REPLAY = os.path.join(BUILD, "tests", "crash", "replay_log")
ROUNDS = 12
BLOCKS = 256


def replay(*args):
    return subprocess.run([REPLAY, *map(str, args)], check=True, stdout=subprocess.PIPE, text=True).stdout


def flush_points(log):
    """Record numbers, from `replay_log LOG --list`."""
    points = [int(m.group(1)) for m in re.finditer(r"^flush (\d+) covers", replay(log, "--list"), re.M)]
    assert points, replay(log, "--list")
    return points


def write_rounds(h, rng):
    """Writes random blocks and flushes, round by round; the version of each block after each flush."""
    states = []
    now = [0] * BLOCKS
    for version in range(1, ROUNDS + 1):
        for block in rng.sample(range(BLOCKS), 40):
            h.pwrite(bytes([version]) * BLOCK, block * BLOCK)
            now[block] = version
        h.flush()
        states.append(list(now))
    return states


def read_all(b, image):
    b.pool = image
    b.start()
    h = b.open("v")
    data = bytes(h.pread(BLOCKS * BLOCK, 0))
    b.close_handles()
    b.kill()
    return [data[i * BLOCK] for i in range(BLOCKS)], data


@pytest.mark.slow
@pytest.mark.parametrize("crash", [False, True], ids=["kept", "torn"])
def test_every_moment_is_whole(make_byred, seed, crash):
    if not os.access(REPLAY, os.X_OK):
        pytest.fail(f"{REPLAY} is not built: make tools")
    rng = random.Random(seed)
    b = make_byred(pool_size="64M")
    pool = b.pool
    log = os.path.join(b.dir, "write.log")
    base = os.path.join(b.dir, "base")
    b.start()
    b.create("v", BLOCKS * BLOCK)
    b.stop()
    shutil.copyfile(pool, base)
    b.start("--write-log", log)
    states = [[0] * BLOCKS] + write_rounds(b.open("v"), rng)
    b.close_handles()
    b.kill()

    points = flush_points(log)
    image = os.path.join(b.dir, "image")
    oldest = 0
    between = rng.sample(range(1, points[-1]), 12)  # in the middle of things, too
    for point in sorted({*points, *between}):
        if os.path.exists(image):
            os.unlink(image)
        replay(log, base, image, "--to", point, *(["--crash", rng.randrange(1 << 32)] if crash else []))
        result = b.byre("pool", "check", image)
        assert result.rc == 0, f"seed {seed}, record {point}: {result}"
        versions, data = read_all(b, image)
        for i, v in enumerate(versions):
            assert data[i * BLOCK : (i + 1) * BLOCK] == bytes([v]) * BLOCK, f"record {point}: block {i} is torn"
        # Some flushed state stands below everything: no block is older than in it; and it never goes back.
        flushed = max(s for s, state in enumerate(states) if all(v >= w for v, w in zip(versions, state)))
        assert flushed >= oldest, f"seed {seed}, record {point}: after flush {flushed}, flush {oldest} was there before"
        oldest = flushed
    assert oldest == ROUNDS  # the last flush point covers everything
    b.pool = pool
