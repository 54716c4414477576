# SPDX-License-Identifier: BSD-3-Clause
"""The pool on a disk with a write cache of its own, and the power goes: what no flush of the device reached is lost.

Unlike the simulator's, this disk stands below the kernel: a flush that Byre leaves out, or that the kernel is not
told of, loses data here. Environment: POWER_CUTS (4) for each kind of disk.
"""
import os
import random
import signal
import time

import pytest

from byred import G
from disk import VolatileDisk, missing
from load import Load, Model, read_all

CUTS = int(os.environ.get("POWER_CUTS", "4"))
BLOCKS = 8192

pytestmark = [pytest.mark.skipif(missing() is not None, reason=str(missing())), pytest.mark.slow]


def load_for(load, seconds, or_error=False):
    end = time.monotonic() + seconds
    while time.monotonic() < end and not (or_error and load.errors):
        load.step(timeout=0.05)


def cut_under_load(b, disk, load, rng):
    """The power goes, and the daemon lives on for a moment and sees its disk fail."""
    load_for(load, rng.choice([0.2, 1, 3]) * rng.random() + 0.1)
    assert not load.errors, load.errors
    disk.cut()
    load_for(load, 30, or_error=True)
    assert load.errors, "what the disk refused was acknowledged"
    load_for(load, 0.2)
    if rng.random() < 0.5:
        b.kill()
    else:
        b.proc.send_signal(signal.SIGTERM)
        b.wait()
    load.close()


def start_again(b, disk, kind):
    disk.detach()
    disk.attach()
    b.pool = disk.loop if kind == "disk" else disk.file
    findings = b.check()
    assert not findings, f"pool check: {findings[:20]}"
    b.start()


@pytest.mark.parametrize("kind", ["disk", "file"])
def test_power_cut_loses_nothing_flushed(make_byred, seed, kind):
    rng = random.Random(seed)
    b = make_byred(create=False, args=["--commit-interval", "1"])
    b.damaged = True  # the disk is gone when the daemon's end is checked
    disk = VolatileDisk(G, os.path.join(b.dir, "disk"))
    model = Model(BLOCKS)
    flushes = acked = 0
    try:
        disk.attach()
        b.pool = disk.loop if kind == "disk" else disk.file
        b.ok("pool", "create", b.pool, "--force", *(["--size", "1G", "--sparse"] if kind == "file" else []))
        b.start()
        b.create("v", BLOCKS * 4096)
        for n in range(CUTS):
            load = Load(b, "v", rng, model, connections=rng.choice([1, 3]), depth=rng.choice([1, 8, 32]))
            cut_under_load(b, disk, load, rng)
            flushes, acked = flushes + load.flushes, acked + load.acked
            start_again(b, disk, kind)
            wrong = model.compare(read_all(b, "v", BLOCKS))
            assert not wrong, f"cut {n}: {len(wrong)} wrong blocks: {wrong[:5]}"
            assert b.info()["free_space_cache"]["rebuilt"] == 0
        b.stop()
        assert b.check() == []
    finally:
        if b.running():
            b.kill()
        disk.detach()
    assert flushes > 0
    print(f"{CUTS} cuts, {acked} requests acknowledged, {flushes} flushes")
