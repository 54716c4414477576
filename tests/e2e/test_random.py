# SPDX-License-Identifier: BSD-3-Clause
"""Random operations against a model in memory, and fio's own verification."""
import random
import shutil
import subprocess

import nbd
import pytest

from byred import M
from load import Load, Model, read_all

SIZE = 16 * M


def test_random_operations_match_a_bytearray(make_byred, seed):
    rng = random.Random(seed)
    b = make_byred("256M", args=["--commit-interval", "1"]).start()
    b.create("v", SIZE)
    h = b.open("v")
    model = bytearray(SIZE)
    for n in range(1500):
        length = rng.choice([1, rng.randint(1, 5000), 4096, 4096 * rng.randint(1, 30), rng.randint(1, 200_000)])
        offset = rng.randrange(SIZE - length + 1)
        if rng.random() < 0.5:
            offset -= offset % 4096
        what = rng.choices(["write", "read", "trim", "zero", "thick", "flush", "cache", "restart"],
                           [40, 30, 10, 6, 6, 6, 1, 0.3])[0]
        if what == "write":
            data = rng.randbytes(length)
            h.pwrite(data, offset, nbd.CMD_FLAG_FUA if rng.random() < 0.05 else 0)
            model[offset:offset + length] = data
        elif what == "read":
            assert h.pread(length, offset) == model[offset:offset + length], f"operation {n} at {offset}+{length}"
        elif what == "flush":
            h.flush()
        elif what == "cache":
            h.cache(length, offset)
        elif what == "restart":
            h.shutdown()
            b.restart()
            h = b.open("v")
        else:
            model[offset:offset + length] = bytes(length)
            if what == "trim":
                h.trim(length, offset)
            else:
                h.zero(length, offset, nbd.CMD_FLAG_NO_HOLE if what == "thick" else 0)
    assert h.pread(SIZE, 0) == model
    h.shutdown()
    b.restart()
    assert b.open("v").pread(SIZE, 0) == model


def test_random_load_on_many_connections_and_volumes(make_byred, seed):
    """Several volumes at once, each with its own model; at the end each holds exactly its own."""
    rng = random.Random(seed)
    b = make_byred("512M", args=["--commit-interval", "1"]).start()
    blocks = 2048
    models = {}
    for i in range(4):
        models[b.create(f"v{i}", blocks * 4096)] = Model(blocks)
    loads = {name: Load(b, name, rng, model, connections=4, depth=16) for name, model in models.items()}
    for _ in range(150):
        for load in loads.values():
            load.step(timeout=0.01)
    for name, load in loads.items():
        load.drain()
        load.close()
        assert not load.errors and load.acked > 100
        wrong = models[name].compare(read_all(b, name, blocks), crashed=False)
        assert not wrong, f"{name}: {wrong[:5]}"


def test_random_small_cache(make_byred, seed):
    """The cache limit far below the data: everything goes to the device and comes back."""
    rng = random.Random(seed)
    b = make_byred("512M", args=["--cache-size", "4M", "--commit-interval", "1"]).start()
    blocks = 16384
    b.create("v", blocks * 4096)
    model = Model(blocks)
    load = Load(b, "v", rng, model, depth=16, max_blocks=128)
    for _ in range(400):
        load.step(timeout=0.05)
    load.drain()
    load.close()
    for _ in range(2):
        wrong = model.compare(read_all(b, "v", blocks), crashed=False)
        assert not wrong, wrong[:5]


@pytest.mark.skipif(not shutil.which("fio"), reason="fio is not installed")
@pytest.mark.parametrize(
    "name, options",
    [
        ("mixed", ["--rw=randrw", "--bssplit=512/10:4k/40:8k/20:20k/10:64k/15:256k/5", "--iodepth=16"]),
        ("small", ["--rw=randwrite", "--bsrange=512-8k", "--bs_unaligned", "--iodepth=1", "--overwrite=0"]),
        ("big", ["--rw=randwrite", "--bs=1M", "--iodepth=8"]),
        ("flushes", ["--rw=randwrite", "--bs=4k", "--iodepth=8", "--fsync=8"]),
    ],
)
def test_random_fio_verify(make_byred, name, options):
    b = make_byred("1G", args=["--commit-interval", "1"]).start()
    b.create("v", "128M")
    for job, extra in (("first", []), ("over", ["--randseed=77"])):
        got = subprocess.run(
            ["fio", f"--name={name}-{job}", "--ioengine=nbd", f"--uri={b.uri('v')}", "--size=64M", "--verify=crc32c",
             "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0", "--serialize_overlap=1", *options, *extra],
            capture_output=True, text=True, timeout=300, cwd=b.dir,
        )  # fmt: skip
        assert got.returncode == 0, got.stdout[-3000:] + got.stderr[-3000:]
        assert "verify:" not in got.stderr, got.stderr
