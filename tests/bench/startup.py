#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""How long a large pool takes from start to `ready`, and kernel btrfs to mount a comparable file system.

  startup.py [--extents N] [--runs N] [--size 1T] [--no-btrfs] [--out DIR]

Two pools of the same size (sparse files) are filled by build/tests/bench/fill with N and N/10 extents in 64
volumes; the time from exec to `ready` is taken cold (the host's caches dropped), after a clean stop and after kill -9.
btrfs: as many extents (every second block of 64 files) on a loop device, space_cache=v2; the time of mount(8).
Everything stands in one temporary folder (TMPDIR), which is removed. Needs about N * 8 KiB of disk; btrfs needs root.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "lib"))

import byred as lib  # noqa: E402

VOLUMES = 64
BLOCK = 4096


def drop_caches():
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w") as f:
            f.write("3")
    except OSError:
        print("note: the host's caches could not be dropped: these are warm starts", file=sys.stderr)


def fill_pool(folder, extents, size):
    pool = os.path.join(folder, f"pool-{extents}")
    subprocess.run(
        [lib.BYRE, "pool", "create", pool, "--size", size, "--sparse"], check=True, stderr=subprocess.DEVNULL
    )
    start = time.monotonic()
    subprocess.run([os.path.join(lib.BUILD, "tests", "bench", "fill"), pool, str(VOLUMES), str(extents)], check=True)
    print(f"filled in {time.monotonic() - start:.0f} s", flush=True)
    return pool


def time_to_ready(pool, crash):
    """Seconds from start to ready; how the daemon before it had ended is the caller's."""
    b = lib.Byred(pool=pool, create=False)
    drop_caches()
    start = time.monotonic()
    b.start()
    seconds = time.monotonic() - start
    info = b.info()
    if crash:
        h = b.open("fill-0")
        h.pwrite(b"x" * BLOCK, BLOCK)  # something for the flush log
        h.flush()
        b.close_handles()
        b.kill()
    else:
        b.stop()
    shutil.rmtree(b.dir)
    return seconds, info["free_space_cache"]["rebuilt"]


def measure_pool(pool, runs):
    result = {}
    for name, crash in (("clean", False), ("killed", True)):
        time_to_ready(pool, crash)  # so that the runs that count follow the same kind of end
        timed = [time_to_ready(pool, crash) for _ in range(runs)]
        assert not any(rebuilt for _, rebuilt in timed), "free space was rebuilt"
        result[name] = statistics.median(s for s, _ in timed)
    return result


def fill_btrfs(mountpoint, extents):
    each = extents // VOLUMES
    block = os.urandom(BLOCK)
    for v in range(VOLUMES):
        fd = os.open(os.path.join(mountpoint, f"fill-{v}"), os.O_CREAT | os.O_WRONLY)
        for i in range(each):
            os.pwrite(fd, block, i * 2 * BLOCK)
        os.close(fd)
    os.sync()


def measure_btrfs(folder, extents, size, runs):
    image, mountpoint = os.path.join(folder, "btrfs.img"), os.path.join(folder, "mnt")
    with open(image, "wb") as f:
        f.truncate(size)
    os.mkdir(mountpoint)
    subprocess.run(["mkfs.btrfs", "-q", "-R", "free-space-tree", image], check=True)
    loop = subprocess.run(
        ["losetup", "-f", "--show", image], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    times = []
    try:
        subprocess.run(["mount", "-o", "space_cache=v2", loop, mountpoint], check=True)
        fill_btrfs(mountpoint, extents)
        subprocess.run(["umount", mountpoint], check=True)
        for _ in range(runs):
            drop_caches()
            start = time.monotonic()
            subprocess.run(["mount", loop, mountpoint], check=True)
            times.append(time.monotonic() - start)
            subprocess.run(["umount", mountpoint], check=True)
    finally:
        subprocess.run(["umount", "-q", mountpoint], check=False)
        subprocess.run(["losetup", "-d", loop], check=True)
        os.unlink(image)
    return statistics.median(times)


def parse_size(text):
    units = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--extents", type=int, default=5_000_000)
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--size", default="1T")
    p.add_argument("--no-btrfs", action="store_true")
    p.add_argument("--out", default=os.path.join(lib.BUILD, "bench"))
    a = p.parse_args()
    folder = tempfile.mkdtemp(prefix="byre-startup-")
    rows = []
    try:
        for extents in (a.extents // 10, a.extents):
            pool = fill_pool(folder, extents, a.size)
            for ended, seconds in measure_pool(pool, a.runs).items():
                rows.append({"what": "byred", "extents": extents, "after": ended, "seconds": seconds})
            os.unlink(pool)
        if not a.no_btrfs:
            for extents in (a.extents // 10, a.extents):
                seconds = measure_btrfs(folder, extents, parse_size(a.size), a.runs)
                rows.append({"what": "btrfs", "extents": extents, "after": "clean", "seconds": seconds})
                os.rmdir(os.path.join(folder, "mnt"))
    finally:
        shutil.rmtree(folder)
    print(f"\n{'':8}{'extents':>10}  {'after':8}{'ready in':>10}   (median of {a.runs}, cold, pool of {a.size})")
    for r in rows:
        print(f"{r['what']:8}{r['extents']:>10}  {r['after']:8}{r['seconds'] * 1000:>7.0f} ms")
    os.makedirs(a.out, exist_ok=True)
    with open(os.path.join(a.out, "startup.json"), "w") as f:
        json.dump(rows, f, indent=1)


if __name__ == "__main__":
    main()
