# SPDX-License-Identifier: BSD-3-Clause
"""The host's file system runs full under a sparse pool: ENOSPC for new data, and nothing else.

Environment: HOST_FULL_ROUNDS (1) rounds for each file system, each with another fill.
"""
import os
import random
import re
import shutil
import subprocess
import time

import pytest
from byred import BLOCK, M, run_byre
from test_full import Writer
from test_hostile import http_get

import nbdraw

ROUNDS = int(os.environ.get("HOST_FULL_ROUNDS", "1"))
HOST_BYTES = 800 * M
THIN_BLOCKS = 900 * M // BLOCK
RESERVED_BLOCKS = 8 * M // BLOCK

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems")


def run(*args):
    subprocess.run(args, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


class Host:
    """A small file system of its own."""

    def __init__(self, kind, tmp_path):
        self.kind, self.image, self.dir = kind, str(tmp_path / "image"), str(tmp_path / "mount")
        os.mkdir(self.dir)
        if kind == "tmpfs":
            run("mount", "-t", "tmpfs", "-o", f"size={HOST_BYTES}", "none", self.dir)
            return
        if not shutil.which(f"mkfs.{kind}"):
            pytest.skip(f"no mkfs.{kind}")
        with open(self.image, "wb") as f:
            f.truncate(HOST_BYTES)
        run(f"mkfs.{kind}", "-q", self.image)
        try:
            run("mount", "-o", "loop", self.image, self.dir)
        except subprocess.CalledProcessError as e:
            pytest.skip(f"cannot be mounted: {e.stderr}")

    def room(self):
        st = os.statvfs(self.dir)
        return st.f_bfree * st.f_frsize

    def leave(self, room):
        """A file that takes all but so much."""
        with open(os.path.join(self.dir, "ballast"), "wb") as f:
            os.posix_fallocate(f.fileno(), 0, max(self.room() - room, BLOCK))

    def make_room(self):
        os.unlink(os.path.join(self.dir, "ballast"))

    def close(self):
        deadline = time.monotonic() + 5  # a ring that is torn down holds the file for a moment
        while subprocess.run(["umount", self.dir], stderr=subprocess.DEVNULL).returncode:
            if time.monotonic() > deadline:
                run("umount", "-l", self.dir)  # the test has failed, and a daemon still runs
                return
            time.sleep(0.05)


@pytest.fixture(params=["ext4", "xfs", "tmpfs"])
def host(request, tmp_path):
    h = Host(request.param, tmp_path)
    yield h
    h.close()


def scattered(rng, blocks, most=64):
    """Requests of 1 to `most` blocks, everywhere, without end."""
    while True:
        first = rng.randrange(blocks)
        yield first, min(rng.randint(1, most), blocks - first)


def until_refused(b, volume, order, serial, refusals=1):
    writer = Writer(b, volume, serial)
    assert writer.fill(order, refusals=refusals) >= refusals, "the host never became full"
    return writer


def expected(writer):
    """A write that failed may have left old or new; those blocks are not looked at."""
    for block in writer.refused:
        writer.stored.pop(block, None)


def reserved_is_served(b, serial, times=4):
    """All of it, several times over."""
    writer = Writer(b, "kept", serial)
    for n in range(times):
        writer.serial = serial + n
        assert writer.fill(((first, 64) for first in range(0, RESERVED_BLOCKS, 64)), refusals=10**9) == 0
        assert writer.conn.call(nbdraw.CMD_FLUSH)[0] == 0
    writer.verify()
    writer.conn.close()


def freeing_works(b, writer, rng):
    """Trims with whole blocks and with ragged edges, zeros, deletes; volumes can be made, and flushes and commits go
    on."""
    conn = writer.conn
    for block in rng.sample(sorted(writer.stored), 300):
        assert conn.call(nbdraw.CMD_TRIM, block * BLOCK, BLOCK)[0] == 0
        writer.stored[block] = bytes(BLOCK)
    data = [block for block, content in writer.stored.items() if content != bytes(BLOCK)]
    for block in rng.sample(data, 300):
        at, n = rng.randrange(1, BLOCK // 2), rng.randrange(1, BLOCK // 2)
        error, _ = conn.call(rng.choice([nbdraw.CMD_TRIM, nbdraw.CMD_WRITE_ZEROES]), block * BLOCK + at, n)
        assert error == 0, f"a trim with ragged edges: error {error}"
        old = writer.stored[block]
        writer.stored[block] = old[:at] + bytes(n) + old[at + n:]
    assert conn.call(nbdraw.CMD_FLUSH)[0] == 0
    b.create("another", "1M")
    b.ok("commit")
    b.delete("another")


def fill_ups(b):
    return len(re.findall("file system under the pool is full", b.log_text()))


def one_round(make_byred, host, rng):
    host.leave(rng.randint(90, 200) * M)
    b = make_byred("1G", pool=os.path.join(host.dir, "pool")).start()
    b.create("kept", RESERVED_BLOCKS * BLOCK, "--reserved")
    for name in ("a", "b", "gone"):
        b.create(name, THIN_BLOCKS * BLOCK)
    gone = Writer(b, "gone")
    assert gone.fill(((first, 64) for first in range(0, 4096, 64))) == 0  # 16 MiB
    gone.conn.close()

    a = until_refused(b, "a", ((first, 16) for first in range(0, THIN_BLOCKS, 16)), 1)
    c = until_refused(b, "b", scattered(rng, THIN_BLOCKS), 2, refusals=200)
    reserved_is_served(b, 100)
    freeing_works(b, a, rng)
    assert a.conn.call(nbdraw.CMD_FLUSH)[0] == 0
    expected(a)
    expected(c)
    a.verify()
    c.verify()
    info = b.info()
    assert not info["read_only"] and info["enospc"] > 0 and fill_ups(b) < 5, b.log_text()[-4000:]

    # On a full host: a kill, a start, deletes.
    assert c.conn.call(nbdraw.CMD_FLUSH)[0] == 0
    b.kill()
    b.start()
    for writer, name in ((a, "a"), (c, "b")):
        writer.conn = nbdraw.Conn(b.nbd_sock, name)
        writer.verify()
    c.fill(scattered(rng, THIN_BLOCKS), refusals=50)
    expected(c)
    reserved_is_served(b, 200)
    freeing_works(b, a, rng)
    b.delete("gone")
    b.ok("commit")

    # Room again: by itself, without a restart.
    host.make_room()
    deadline = time.monotonic() + 10
    again = Writer(b, "a", 3)
    while again.fill([(0, 64)]):
        assert time.monotonic() < deadline, b.log_text()[-4000:]
        time.sleep(0.1)
    assert again.fill(((first, 64) for first in range(64, 4096, 64))) == 0
    again.verify()
    again.conn.close()
    reserved_is_served(b, 300)
    info = b.info()
    assert not info["read_only"], b.log_text()[-4000:]
    a.conn.close()
    c.conn.close()
    b.close()


@pytest.mark.alone
def test_reserved_volume_larger_than_the_hosts_room(make_byred, host):
    """Refused at once, with both figures, and nothing of it stays allocated."""
    b = make_byred("6G", pool=os.path.join(host.dir, "pool")).start()
    b.ok("commit")
    before, start = host.room(), time.monotonic()
    for size in ("900M", "3G"):
        done = b.byre("volume", "create", "big", size, "--reserved")
        assert done.rc == 1 and re.search(r"has [0-9.]+ MiB free of [0-9.]+ [GM]iB", done.err), done.err
    assert time.monotonic() - start < 2
    assert before - host.room() < 64 * M, "something was allocated for it"
    b.create("small", "8M", "--reserved")
    b.close()


def test_how_full_goes_by_the_hosts_room(make_byred, host):
    """What is used, in text, JSON, metrics and the log: one basis, which counts no room that the host lacks."""
    host.leave(300 * M)
    b = make_byred("1G", pool=os.path.join(host.dir, "pool"), args=["--warn-full", "30"])
    sock = os.path.join(b.dir, "http.sock")
    b.args += ["--http", f"unix:{sock}"]
    b.start()
    b.create("v", "1G")
    b.open("v").pwrite(b"x" * (32 * M), 0)
    b.open("v").pwrite(b"x" * (32 * M), 32 * M)
    b.open("v").pwrite(b"x" * (32 * M), 64 * M)
    b.ok("commit")
    info = b.info()
    assert info["host_short_bytes"] > 500 * M and info["free_bytes"] > 700 * M
    assert 30 < info["used_percent"] < 60, info  # of the pool alone it is 10
    metrics = http_get(sock, "/metrics").decode()
    ratio = float(re.search(r"^byre_pool_used_ratio (\S+)$", metrics, re.M)[1])
    assert abs(100 * ratio - info["used_percent"]) <= 2
    text = b.ok("pool", "info").out
    assert abs(int(re.search(r"^used +(\d+) %$", text, re.M)[1]) - info["used_percent"]) <= 2
    assert re.search(r"^file system +.* free: no room for .* of the pool's free space$", text, re.M), text
    deadline = time.monotonic() + 20
    while "nearly full" not in b.log_text():
        assert time.monotonic() < deadline, b.log_text()
        time.sleep(0.2)
    b.close()


@pytest.mark.parametrize("number", range(ROUNDS))
def test_host_full(make_byred, host, number, seed):
    one_round(make_byred, host, random.Random(seed + number))


def test_deleted_volume_gives_its_blocks_back(make_byred):
    b = make_byred("1G", args=["--commit-interval", "1"]).start()
    b.create("v", "300M")
    writer = Writer(b, "v")
    assert writer.fill(((first, 64) for first in range(0, 224 * M // BLOCK, 64))) == 0
    b.ok("commit")
    writer.conn.close()
    full = os.stat(b.pool).st_blocks * 512
    assert full > 224 * M
    b.delete("v")
    deadline = time.monotonic() + 30
    while os.stat(b.pool).st_blocks * 512 > full - 150 * M:
        assert time.monotonic() < deadline, f"{full} bytes before, {os.stat(b.pool).st_blocks * 512} now"
        time.sleep(0.2)
    b.create("again", "300M")
    writer = Writer(b, "again", 2)
    assert writer.fill(((first, 64) for first in range(0, 224 * M // BLOCK, 64))) == 0
    writer.verify()
    writer.conn.close()


def held(b):
    return os.stat(b.pool).st_blocks * 512


def fill_and_trim_half(b, name="v", total=192 * M):
    """Every second MiB of what was written goes."""
    b.create(name, "300M")
    writer = Writer(b, name)
    assert writer.fill(((first, 64) for first in range(0, total // BLOCK, 64))) == 0
    b.ok("commit")
    before = held(b)
    for first in range(0, total // BLOCK, 512):
        assert writer.conn.call(nbdraw.CMD_TRIM, first * BLOCK, M)[0] == 0
        for block in range(first, first + 256):
            writer.stored[block] = bytes(BLOCK)
    assert writer.conn.call(nbdraw.CMD_FLUSH)[0] == 0
    return writer, before


def wait_until(what, seconds=30):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_trimmed_ranges_go_back_to_the_host(make_byred):
    b = make_byred("1G", args=["--commit-interval", "1"]).start()
    writer, before = fill_and_trim_half(b)
    wait_until(lambda: held(b) < before - 80 * M)
    info = b.info()
    assert info["discard"] and info["sparse"] and info["discarded_bytes"] > 80 * M and not info["host_full"]
    assert info["host_free_bytes"] > 0
    writer.verify()
    writer.conn.close()


def test_discard_off_and_pool_trim(make_byred):
    b = make_byred("1G", args=["--commit-interval", "1", "--discard", "off"]).start()
    writer, before = fill_and_trim_half(b)
    for _ in range(3):
        b.ok("commit")
        time.sleep(1)
    assert held(b) > before - 8 * M and b.info()["discarded_bytes"] == 0 and not b.info()["discard"]
    done = b.byre("pool", "trim", "--json")
    assert done.rc == 0 and done.json["discarded_bytes"] > 80 * M, done
    assert held(b) < before - 80 * M and b.info()["trim_left_bytes"] == 0
    writer.verify()
    writer.conn.close()
    b.stop()
    assert b.check() == []


def test_preallocated_pool_is_trimmed_when_asked_for(make_byred, tmp_path):
    pool = str(tmp_path / "pool")
    assert run_byre("pool", "create", pool, "--size", "256M").rc == 0
    b = make_byred(pool=pool, create=False, args=["--commit-interval", "1"]).start()
    done = b.byre("pool", "trim")
    assert done.rc == 1 and "--discard on" in done.err and held(b) >= 256 * M
    b.stop()
    b.args = ["--commit-interval", "1", "--discard", "on"]
    b.start()
    assert b.byre("pool", "trim").rc == 0
    assert held(b) < 64 * M and b.info()["sparse"]
    b.stop()
    b.args = []
    b.start()
    assert held(b) >= 256 * M and not b.info()["sparse"], "opened without, it is filled up again"


def test_device_is_trimmed(loop, make_byred, tmp_path):
    """A loop device passes discards on to its file."""
    image = str(tmp_path / "image")
    with open(image, "wb") as f:
        f.truncate(512 * M)
    dev = loop(image)
    assert run_byre("pool", "create", dev).rc == 0
    b = make_byred(pool=dev, create=False, args=["--commit-interval", "1"]).start()
    assert b.info()["discard"] and not b.info()["sparse"]
    before = os.stat(image).st_blocks * 512
    writer, _ = fill_and_trim_half(b)
    full = before + 192 * M
    wait_until(lambda: os.stat(image).st_blocks * 512 < full - 80 * M)
    writer.verify()
    writer.conn.close()
    b.delete("v")
    wait_until(lambda: os.stat(image).st_blocks * 512 < before + 64 * M)
    b.stop()
    assert b.check() == []
