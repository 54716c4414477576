#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""How many volumes a second are created and deleted over one RPC connection, with requests in flight together.

creates.py [--count 5000] [--window 64] [--dir DIR]: makes a sparse pool in DIR, starts byred on it, and prints a line
for each. Speaks the protocol of docs/rpc.md itself, so that it measures the daemon and not a client.
"""
import argparse
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time

BUILD = os.path.abspath(os.environ.get("BYRE_BUILD", "build"))
CREATE, DELETE, REQUEST, REPLY = 32, 37, 1, 2
HEADER = struct.Struct("<4sBBHQHHIII")


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def message(name, size=None):
    text = name.encode()
    return b"\x0a" + varint(len(text)) + text + (b"\x10" + varint(size) if size else b"")


def frame(ident, method, body):
    return HEADER.pack(b"BYR1", 1, REQUEST, 0, ident, method, 0, len(body), 0, 0) + body


class Rpc:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.data = b""

    def reply(self):
        while True:
            if len(self.data) >= HEADER.size:
                _, _, kind, _, _, _, status, length, bulk, _ = HEADER.unpack_from(self.data)
                end = HEADER.size + length + bulk
                if len(self.data) >= end:
                    body, self.data = self.data[HEADER.size:end], self.data[end:]
                    if kind == REPLY:
                        return status, body
                    continue
            more = self.sock.recv(1 << 16)
            if not more:
                raise SystemExit("creates: the daemon closed the connection")
            self.data += more

    def run(self, method, bodies, window):
        """Seconds that all take, with at most `window` of them under way."""
        start, sent = time.monotonic(), 0
        for done in range(len(bodies)):
            burst = b""
            while sent < len(bodies) and sent - done < window:
                sent += 1
                burst += frame(sent, method, bodies[sent - 1])
            if burst:
                self.sock.sendall(burst)
            status, body = self.reply()
            if status:
                raise SystemExit(f"creates: status {status}: {body!r}")
        return time.monotonic() - start


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--count", type=int, default=5000)
    p.add_argument("--window", type=int, default=64)
    p.add_argument("--size", default="16G")
    p.add_argument("--dir", default="/var/tmp")
    args = p.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as tmp:
        pool, rpc = f"{tmp}/pool", f"{tmp}/rpc.sock"
        subprocess.run(
            [f"{BUILD}/byre", "pool", "create", pool, "--size", args.size, "--sparse"],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        daemon = subprocess.Popen(
            [f"{BUILD}/byred", "--pool", pool, "--nbd", f"unix:{tmp}/nbd.sock", "--rpc", f"unix:{rpc}"],
            stderr=subprocess.DEVNULL,
        )
        try:
            for _ in range(200):
                if os.path.exists(rpc):
                    break
                time.sleep(0.05)
            conn = Rpc(rpc)
            for window in (1, args.window):
                names = [f"v{window}-{i}" for i in range(args.count if window > 1 else min(args.count, 500))]
                for what, method, bodies in (("creates", CREATE, [message(n, 1 << 30) for n in names]),
                                             ("deletes", DELETE, [message(n) for n in names])):
                    seconds = conn.run(method, bodies, window)
                    print(f"{what}: {len(bodies)} with {window} in flight: {len(bodies) / seconds:.0f} a second", flush=True)
        finally:
            daemon.terminate()
            daemon.wait(60)
    return 0


if __name__ == "__main__":
    sys.exit(main())
