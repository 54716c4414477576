# SPDX-License-Identifier: BSD-3-Clause
"""kill -9 at random moments under load: what was flushed is there, and nothing that was never written."""
import os
import random
import threading

import pytest

import nbdraw
from load import Load, Model, read_all

BLOCKS = 4096  # 16 MiB: small, so that blocks are rewritten often
KILLS = int(os.environ.get("KILLS", "8"))


def load_until_dead(load, b, seconds):
    """Runs the load, and kills the daemon in the middle."""
    timer = threading.Timer(seconds, b.kill)
    timer.start()
    try:
        while True:
            load.step()
    except nbdraw.Closed:
        pass
    timer.join()
    # Replies that had left the server count: it may have acknowledged a flush just before it died.
    for conn in load.conns:
        try:
            while True:
                while (got := conn.next_reply()) is not None:
                    load.take(conn, got[0], got[1])
                conn.fill()
        except nbdraw.Closed:
            pass
    load.close()


@pytest.mark.parametrize("interval", [["--commit-interval", "1"], []], ids=["commits", "default"])
def test_crash_kill_at_random_moments(make_byred, seed, interval):
    rng = random.Random(seed)
    b = make_byred("512M", args=interval).start()
    b.create("v", BLOCKS * 4096)
    model = Model(BLOCKS)
    flushes = acked = 0
    for n in range((KILLS + 1) // 2):
        load = Load(b, "v", rng, model, connections=rng.choice([1, 3, 4]), depth=rng.choice([1, 8, 32]))
        load_until_dead(load, b, rng.choice([0.05, 0.3, 1.0, 2.0]) * rng.random() + 0.02)
        assert not load.errors, load.errors
        flushes, acked = flushes + load.flushes, acked + load.acked
        findings = b.check()
        assert not findings, f"kill {n}: pool check: {findings[:20]}"
        b.start()
        wrong = model.compare(read_all(b, "v", BLOCKS))
        assert not wrong, f"kill {n}: {len(wrong)} wrong blocks: {wrong[:5]}"
        assert b.info()["free_space_cache"]["rebuilt"] == 0
    assert acked > 0
    print(f"{acked} requests acknowledged, {flushes} flushes")


def test_crash_right_after_a_flush_loses_nothing(make_byred, seed):
    """The kill follows the flush's reply at once: everything before it must be there, exactly."""
    rng = random.Random(seed)
    b = make_byred("512M").start()
    b.create("v", BLOCKS * 4096)
    model = Model(BLOCKS)
    for n in range(max(2, KILLS // 2)):
        load = Load(b, "v", rng, model)
        for _ in range(rng.randint(1, 60)):
            load.step()
        load.drain()
        assert load.conns[0].call(nbdraw.CMD_FLUSH)[0] == 0
        b.kill()
        load.close()
        assert b.check() == []
        b.start()
        wrong = model.compare(read_all(b, "v", BLOCKS), crashed=False)
        assert not wrong, f"kill {n}: {len(wrong)} wrong blocks: {wrong[:5]}"


def test_crash_of_the_start_itself(make_byred, seed):
    """Killed again while it starts, at many moments: replay must be repeatable."""
    rng = random.Random(seed)
    b = make_byred("512M", args=["--commit-interval", "3600"]).start()
    b.create("v", BLOCKS * 4096)
    model = Model(BLOCKS)
    load = Load(b, "v", rng, model)
    for _ in range(150):
        load.step()
    load.drain()
    assert load.conns[0].call(nbdraw.CMD_FLUSH)[0] == 0
    b.kill()
    load.close()
    import time

    for i in range(max(4, KILLS)):
        b.spawn()
        time.sleep(0.004 * i)
        b.kill()
    b.start()
    wrong = model.compare(read_all(b, "v", BLOCKS), crashed=False)
    assert not wrong, f"{len(wrong)} wrong blocks: {wrong[:5]}"


def test_crash_volume_commands_are_durable_when_they_return(make_byred, seed):
    rng = random.Random(seed)
    b = make_byred("256M", args=["--commit-interval", "3600"]).start()
    want = {}
    for n in range(max(3, KILLS // 2)):
        for _ in range(rng.randint(1, 8)):
            what = rng.choice(["create", "create", "delete", "rename", "resize"])
            name = rng.choice(sorted(want)) if want else None
            if what == "create" or not name:
                name, size = f"v{rng.randrange(10**9)}", rng.randint(1, 1000) * 4096
                b.create(name, size)
                want[name] = size
            elif what == "delete":
                b.delete(name)
                del want[name]
            elif what == "rename":
                b.ok("volume", "rename", name, name + "r")
                want[name + "r"] = want.pop(name)
            else:
                size = rng.randint(1, 1000) * 4096
                b.ok("volume", "resize", name, size, "--shrink")
                want[name] = size
        b.kill()
        assert b.check() == []
        b.start()
        assert b.volumes() == want, f"after kill {n}"


def test_sigterm_during_load_loses_nothing_acknowledged(make_byred, seed):
    """A clean end commits: every acknowledged write is there, flushed or not."""
    rng = random.Random(seed)
    b = make_byred("512M").start()
    b.create("v", BLOCKS * 4096)
    model = Model(BLOCKS)
    for _ in range(3):
        load = Load(b, "v", rng, model, depth=16, flush_every=1000)
        timer = threading.Timer(rng.random() + 0.1, b.proc.terminate)
        timer.start()
        try:
            while True:
                load.step()
        except nbdraw.Closed:
            pass
        timer.join()
        for conn in load.conns:
            try:
                while True:
                    while (got := conn.next_reply()) is not None:
                        load.take(conn, got[0], got[1])
                    conn.fill()
            except nbdraw.Closed:
                pass
        load.close()
        assert set(load.errors) <= {nbdraw.ESHUTDOWN}, load.errors
        assert b.wait(60) == 0, b.log_text()
        assert b.check() == []
        b.start()
        # What was acknowledged is durable; a request without a reply may have happened or not.
        model.committed()
        wrong = model.compare(read_all(b, "v", BLOCKS))
        assert not wrong, f"{len(wrong)} wrong blocks: {wrong[:5]}"
