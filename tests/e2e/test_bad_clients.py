# SPDX-License-Identifier: BSD-3-Clause
"""Clients that misbehave: nothing stored is lost, and no other client notices."""
import random
import socket
import struct
import time

import pytest

import nbdraw
from byred import BLOCK, IO_MAX, K, M, pattern
from nbdraw import Conn


class Bystander:
    """A well-behaved client: writes and reads before and after, on a connection that stays open."""

    def __init__(self, b, name):
        self.conn = Conn(b.nbd_sock, name)
        self.n = 0
        self.look()

    def look(self):
        self.n += 1
        data = pattern(100 * K, self.n)
        start = time.monotonic()
        self.conn.write(self.n * M, data)
        assert self.conn.reply()[1] == 0
        for i in range(1, self.n + 1):
            assert self.conn.call(nbdraw.CMD_READ, i * M, 100 * K) == (0, pattern(100 * K, i))
        assert self.conn.call(nbdraw.CMD_FLUSH)[0] == 0
        assert time.monotonic() - start < 10


@pytest.fixture
def bystander(shared, volume):
    watcher = Bystander(shared, volume)
    yield watcher
    watcher.look()
    assert shared.running()
    watcher.conn.close()


def connect(b):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    s.connect(b.nbd_sock)
    return s


def send_ignoring_close(s, data):
    try:
        s.sendall(data)
    except OSError:
        pass


@pytest.mark.parametrize("n", [1, 7, 100, 100_000])
def test_bad_client_sends_garbage_instead_of_options(shared, bystander, n):
    for i in range(20):
        s = connect(shared)
        send_ignoring_close(s, random.Random(i).randbytes(n))
        bystander.look() if i == 10 else None
        s.close()


def test_bad_client_garbage_in_transmission_closes_only_that_connection(shared, volume, bystander):
    conn = Conn(shared.nbd_sock, volume)
    conn.send_raw(b"\x13\x37" * 2048)
    assert conn.closed_by_server()
    conn.close()


def test_bad_client_wrong_option_magic_closes(shared, bystander):
    conn = Conn(shared.nbd_sock)
    conn.option(nbdraw.OPT_LIST, magic=0x1234)
    assert conn.closed_by_server()
    conn.close()


@pytest.mark.parametrize("length", [4 * M, 1 << 31, 0xFFFFFFFF])
def test_bad_client_oversized_option_is_refused_and_takes_no_memory(shared, bystander, length):
    """The server may read past it or close; it must not wait for gigabytes with a buffer to match."""
    conn = Conn(shared.nbd_sock)
    conn.option(nbdraw.OPT_GO, b"x" * 4096, length=length)
    conn.sock.settimeout(2)
    try:
        kind, _ = conn.option_reply(nbdraw.OPT_GO)
        assert kind & (1 << 31)
    except (nbdraw.Closed, socket.timeout):
        pass
    with open(f"/proc/{shared.proc.pid}/status") as f:
        status = dict(line.split(":", 1) for line in f)
    assert int(status["VmRSS"].split()[0]) < 2 << 20, "KiB"
    conn.close()


@pytest.mark.parametrize("have", [1, 8, 17, 27])
def test_bad_client_half_header_then_nothing(shared, volume, bystander, have):
    whole = Conn.request(nbdraw.CMD_WRITE, 0, 4096, 0, 1)
    conns = [Conn(shared.nbd_sock, volume) for _ in range(10)]
    for conn in conns:
        conn.send_raw(whole[:have])
    time.sleep(0.2)
    bystander.look()
    for conn in conns:
        conn.close()


@pytest.mark.parametrize("before_handshake", [0, 3, 15])
def test_bad_client_goes_away_in_negotiation(shared, bystander, before_handshake):
    for _ in range(50):
        s = connect(shared)
        if before_handshake:
            s.recv(18)
            send_ignoring_close(s, struct.pack(">IQII", 3, nbdraw.IHAVEOPT, nbdraw.OPT_GO, 9)[:before_handshake])
        s.close()


@pytest.mark.parametrize(
    "length, sent", [(4096, 0), (4096, 1000), (IO_MAX, 4096), (IO_MAX, IO_MAX // 2), (100 * K, 99 * K)]
)
def test_bad_client_disconnects_in_the_middle_of_a_write(shared, volume, bystander, length, sent):
    """The write was never whole, so the range holds the old bytes, or at most whole new blocks of what arrived."""
    old = pattern(min(length, 4 * M), 90)
    area = 30 * M
    writer = Conn(shared.nbd_sock, volume)
    writer.write(area, old)
    assert writer.reply()[1] == 0
    writer.close()
    new = b"N" * sent
    for _ in range(5):
        conn = Conn(shared.nbd_sock, volume)
        conn.send_raw(Conn.request(nbdraw.CMD_WRITE, area, length, 0, 1, new))
        conn.close()
    bystander.look()
    reader = Conn(shared.nbd_sock, volume)
    _, got = reader.call(nbdraw.CMD_READ, area, len(old))
    for i in range(0, len(old), BLOCK):
        block = got[i:i + BLOCK]
        assert block == old[i:i + BLOCK] or block == b"N" * len(block), f"a mixture in the block at {i}"
    reader.close()


def test_bad_client_never_reads_its_replies(shared, volume, bystander):
    """Its replies fill the socket; the server must stop reading from it and serve the others."""
    conn = Conn(shared.nbd_sock, volume)
    conn.sock.settimeout(3)
    try:
        for _ in range(200):
            conn.send(nbdraw.CMD_READ, 0, IO_MAX)
    except socket.timeout:
        pass
    for _ in range(3):
        bystander.look()
    with open(f"/proc/{shared.proc.pid}/status") as f:
        status = dict(line.split(":", 1) for line in f)
    assert int(status["VmRSS"].split()[0]) < 3 << 20, "KiB: replies pile up"
    conn.close()


def test_bad_client_disconnects_with_many_requests_under_way(shared, volume, bystander):
    for i in range(20):
        conn = Conn(shared.nbd_sock, volume)
        for n in range(64):
            conn.write(20 * M + n * BLOCK, b"%c" % (65 + i) * BLOCK)
            conn.send(nbdraw.CMD_READ, n * BLOCK, 64 * K)
        conn.close()
    bystander.look()


def test_bad_client_many_idle_connections(shared, volume, bystander):
    idle = [connect(shared) for _ in range(300)]
    bystander.look()
    for s in idle:
        s.close()


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"GET / HTTP/1.0\r\n\r\n", b"\xff" * 4096], ids=["nothing", "zero", "http", "ff"]
)
def test_bad_client_of_the_rpc_socket(shared, bystander, data):
    for _ in range(10):
        s = socket.socket(socket.AF_UNIX)
        s.connect(shared.rpc_sock)
        send_ignoring_close(s, data)
        s.close()
    assert shared.volumes()
