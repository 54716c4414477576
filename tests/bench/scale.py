#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""How Byre's costs grow: with the number of volumes, and with the size of the pool. Prints two tables; asserts nothing.

  scale.py [--volumes 100,1000,10000,100000] [--pools 1G,64G,1T,16T,1P] [--limit SECONDS] [--json]

Pools are sparse files: those of volumes stand under TMPDIR, else the build folder; those of pools where files may be
that large (--dir; /dev/shm by default: ext4 ends at 16 TiB. tmpfs takes long to see that a sparse pool's blocks are
there, which counts as a start's time). A row ends when creating or deleting has taken --limit seconds; what was reached
by then stands in the table.

Environment: BYRE_BUILD (build), BYRED_ARGS (more options for byred).
"""
import argparse
import json
import os
import shutil
import socket
import statistics
import struct
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "lib")]

import byred as lib  # noqa: E402

HEADER = struct.Struct("<4sBBHQHHIII")
CREATE, DELETE, COMMIT = 32, 37, 3
IN_FLIGHT = 64
CACHE = "64M"


# ---- the RPC, as docs/rpc.md has it --------------------------------------------------------


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def create_message(name, size):
    name = name.encode()
    return b"\x0a" + varint(len(name)) + name + b"\x10" + varint(size)


def name_message(name):
    name = name.encode()
    return b"\x0a" + varint(len(name)) + name


class Rpc:
    """One connection, with requests in flight together."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.buf = b""
        self.next_id = 1

    def close(self):
        self.sock.close()

    def send(self, method, message):
        self.sock.sendall(HEADER.pack(b"BYR1", 1, 1, 0, self.next_id, method, 0, len(message), 0, 0) + message)
        self.next_id += 1

    def receive(self):
        """The status of one reply, with its text."""
        while True:
            if len(self.buf) >= HEADER.size:
                magic, _, kind, _, _, _, status, length, bulk, _ = HEADER.unpack_from(self.buf)
                assert magic == b"BYR1" and kind == 2 and bulk == 0
                if len(self.buf) >= HEADER.size + length:
                    text = self.buf[HEADER.size:HEADER.size + length]
                    self.buf = self.buf[HEADER.size + length:]
                    return status, text
            got = self.sock.recv(1 << 16)
            assert got, "the daemon has closed the connection"
            self.buf += got

    def call(self, method, message=b""):
        self.send(method, message)
        status, text = self.receive()
        assert status == 0, (status, text)

    def many(self, method, messages, limit):
        """All of them, IN_FLIGHT at a time, for `limit` seconds at the most: how many, and in how many seconds."""
        began = time.monotonic()
        sent = done = 0
        for message in messages:
            if time.monotonic() - began > limit:
                break
            if sent - done == IN_FLIGHT:
                status, text = self.receive()
                assert status == 0, (status, text)
                done += 1
            self.send(method, message)
            sent += 1
        while done < sent:
            status, text = self.receive()
            assert status == 0, (status, text)
            done += 1
        return done, time.monotonic() - began


# ---- what is measured -----------------------------------------------------------------------


def rss_mib(b):
    with open(f"/proc/{b.proc.pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS")) / 1024


def timed(fn):
    began = time.monotonic()
    fn()
    return (time.monotonic() - began) * 1000


def commit_ms(b, name, rounds=15):
    """A commit with one block of one volume changed; the median."""
    rpc, h, took = Rpc(b.rpc_sock), b.open(name), []
    for i in range(rounds):
        h.pwrite(lib.pattern(4096, i), i * 65536)
        took.append(timed(lambda: rpc.call(COMMIT)))
        time.sleep(0.02)
    h.shutdown()
    b.handles.clear()
    rpc.close()
    return statistics.median(took)


def new_pool(folder, size):
    """Pool in `folder`, sockets where paths are short."""
    path = os.path.join(tempfile.mkdtemp(prefix="byre-scale-", dir=folder), "pool")
    args = ["--cache-size", CACHE, *os.environ.get("BYRED_ARGS", "").split()]
    b = lib.Byred(args=args, pool=path, create=False, lifetime=3600)
    b.ok("pool", "create", path, "--size", size, "--sparse", timeout=600)
    return b


def remove(b):
    b.damaged = True  # no check: it has its own tests, and takes long here
    b.close(check=False)
    shutil.rmtree(os.path.dirname(b.pool), ignore_errors=True)


def measure_volumes(folder, n, limit):
    b = new_pool(folder, "64G")
    try:
        b.start()
        rpc = Rpc(b.rpc_sock)
        names = [f"v{i:06}" for i in range(n)]
        made, took = rpc.many(CREATE, (create_message(v, 1 << 30) for v in names), limit)
        row = {"volumes": made, "wanted": n, "create_per_s": made / took}
        row["commit_ms"] = commit_ms(b, names[0])
        rpc.close()
        row["stop_ms"] = timed(b.stop)
        row["start_ms"] = timed(b.start)
        row["rss_mib"] = rss_mib(b)
        rpc = Rpc(b.rpc_sock)
        gone, took = rpc.many(DELETE, (name_message(v) for v in names[1:made]), min(limit, 20))
        row["delete_per_s"] = gone / took
        rpc.close()
        row["stop_after_delete_ms"] = timed(b.stop)
        return row
    finally:
        remove(b)


def measure_pool(folder, size):
    b = new_pool(folder, "16M")
    os.unlink(b.pool)
    try:
        row = {"pool": size}
        row["create_ms"] = timed(lambda: b.ok("pool", "create", b.pool, "--size", size, "--sparse", timeout=600))
        row["start_ms"] = timed(b.start)
        row["rss_mib"] = rss_mib(b)
        info = b.info()
        row["free_percent"] = 100 * info["free_bytes"] / info["size"]
        b.create("v", "4G")
        h = b.open("v")
        for i in range(64):
            h.pwrite(lib.pattern(1 << 20, i), i << 20)
        h.shutdown()
        b.handles.clear()
        row["commit_ms"] = commit_ms(b, "v")
        row["stop_ms"] = timed(b.stop)
        row["restart_ms"] = timed(b.start)
        row["restart_rss_mib"] = rss_mib(b)
        b.stop()
        return row
    finally:
        remove(b)


# ---- tables ---------------------------------------------------------------------------------


def print_table(rows, columns):
    cells = [[title for title, _, _ in columns]]
    for row in rows:
        cells.append([fmt.format(row[key]) if key in row else "-" for _, key, fmt in columns])
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths)))
    print(flush=True)


VOLUME_COLUMNS = [
    ("volumes", "volumes", "{}"), ("create/s", "create_per_s", "{:.0f}"), ("commit ms", "commit_ms", "{:.1f}"),
    ("stop ms", "stop_ms", "{:.0f}"), ("start ms", "start_ms", "{:.0f}"), ("RSS MiB", "rss_mib", "{:.0f}"),
    ("delete/s", "delete_per_s", "{:.0f}"), ("stop ms, deleting", "stop_after_delete_ms", "{:.0f}"),
]
POOL_COLUMNS = [
    ("pool", "pool", "{}"),
    ("create ms", "create_ms", "{:.0f}"),
    ("start ms", "start_ms", "{:.0f}"),
    ("RSS MiB", "rss_mib", "{:.0f}"),
    ("free %", "free_percent", "{:.1f}"),
    ("commit ms", "commit_ms", "{:.1f}"),
    ("stop ms", "stop_ms", "{:.0f}"),
    ("start again ms", "restart_ms", "{:.0f}"),
    ("RSS MiB then", "restart_rss_mib", "{:.0f}"),
]


def main():
    p = argparse.ArgumentParser(description="How Byre's costs grow.")
    p.add_argument("--volumes", default="100,1000,10000,100000", help="numbers of volumes; empty: leave the table out")
    p.add_argument("--pools", default="1G,64G,1T,16T,1P", help="sizes of pools; empty: leave the table out")
    p.add_argument("--limit", type=float, default=300, help="seconds to create the volumes of a row (300)")
    p.add_argument("--dir", default="/dev/shm", help="where files may have a PiB (/dev/shm)")
    p.add_argument("--json", action="store_true", help="print JSON instead")
    a = p.parse_args()
    folder = os.environ.get("TMPDIR", lib.BUILD)
    volumes, pools = [], []
    for n in filter(None, a.volumes.split(",")):
        volumes.append(measure_volumes(folder, int(n), a.limit))
        if not a.json:
            print_table(volumes[-1:], VOLUME_COLUMNS)
    for size in filter(None, a.pools.split(",")):
        pools.append(measure_pool(a.dir, size))
        if not a.json:
            print_table(pools[-1:], POOL_COLUMNS)
    if a.json:
        print(json.dumps({"volumes": volumes, "pools": pools}, indent=1))
        return
    print("All together:\n")
    if volumes:
        print_table(volumes, VOLUME_COLUMNS)
    if pools:
        print_table(pools, POOL_COLUMNS)


if __name__ == "__main__":
    main()
