# SPDX-License-Identifier: BSD-3-Clause
"""An ordinary NBD client in a process of its own: keeps 16 reads and writes of 16 KiB under way, and checks what it
reads.

    ordinary.py SOCKET EXPORT

Each line on standard input is answered with the number of requests done so far; at the end of the input it ends.
Block n of the volume's first 64 MiB holds n, so that a wrong answer is seen at once.
"""
import random
import select
import struct
import sys

import nbdraw

SIZE, SPAN, DEPTH = 16 << 10, 64 << 20, 16


def content(off):
    return struct.pack(">Q", off) * (SIZE // 8)


def main(path, export):
    conn = nbdraw.Conn(path, export, timeout=120)
    rng = random.Random(1)
    for off in range(0, SPAN, 1 << 20):
        conn.write(off, b"".join(content(o) for o in range(off, off + (1 << 20), SIZE)))
        assert conn.reply()[1] == 0
    reads, done = {}, 0
    print("ready", flush=True)
    while True:
        while len(conn.pending) < DEPTH:
            off = rng.randrange(SPAN // SIZE) * SIZE
            if rng.random() < 0.3:
                conn.write(off, content(off))
            else:
                reads[conn.send(nbdraw.CMD_READ, off, SIZE)] = off
        cookie, error, data = conn.reply()
        assert error == 0, error
        off = reads.pop(cookie, None)
        assert off is None or data == content(off), f"wrong data at {off}"
        done += 1
        if done % 16 == 0 and select.select([sys.stdin], [], [], 0)[0]:
            if not sys.stdin.readline():
                return
            print(done, flush=True)


main(*sys.argv[1:])
