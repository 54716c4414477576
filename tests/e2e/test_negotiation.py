# SPDX-License-Identifier: BSD-3-Clause
"""Fixed newstyle negotiation, by hand."""
import struct

import pytest

import nbdraw
from byred import IO_MAX, M
from nbdraw import Conn


@pytest.fixture
def conn(shared, volume):  # closed before the volume goes
    c = Conn(shared.nbd_sock)
    yield c
    c.close()


def transmission_works(conn):
    conn.write(0, b"hello")
    assert conn.reply()[1] == 0
    assert conn.call(nbdraw.CMD_READ, 0, 5) == (0, b"hello")


def test_negotiation_server_flags(conn):
    assert conn.server_flags & (nbdraw.FLAG_FIXED_NEWSTYLE | nbdraw.FLAG_NO_ZEROES) == 3


def test_negotiation_list_names_every_volume(shared, conn, volume):
    other = shared.create("a.name_with-everything.9", "1M")
    conn.option(nbdraw.OPT_LIST)
    replies = conn.option_replies(nbdraw.OPT_LIST)
    assert replies[-1] == (nbdraw.REP_ACK, b"")
    names = set()
    for kind, data in replies[:-1]:
        assert kind == nbdraw.REP_SERVER
        n = struct.unpack_from(">I", data)[0]
        names.add(data[4:4 + n].decode())
    assert {volume, other} <= names
    shared.delete(other)


def test_negotiation_list_with_data_is_invalid(conn):
    conn.option(nbdraw.OPT_LIST, b"xx")
    assert conn.option_replies(nbdraw.OPT_LIST)[-1][0] == nbdraw.REP_ERR_INVALID


def test_negotiation_info_then_go(conn, volume):
    replies = conn.go(volume, nbdraw.OPT_INFO, [nbdraw.INFO_BLOCK_SIZE])
    assert replies[-1][0] == nbdraw.REP_ACK
    infos = {struct.unpack(">H", d[:2])[0]: d[2:] for k, d in replies[:-1] if k == nbdraw.REP_INFO}
    size, flags = struct.unpack(">QH", infos[nbdraw.INFO_EXPORT])
    assert size == 64 * M
    want = nbdraw.TFLAG_HAS_FLAGS | nbdraw.TFLAG_FLUSH | nbdraw.TFLAG_FUA | nbdraw.TFLAG_TRIM
    want |= nbdraw.TFLAG_WRITE_ZEROES | nbdraw.TFLAG_MULTI_CONN | nbdraw.TFLAG_CACHE
    assert flags & want == want and not flags & nbdraw.TFLAG_READ_ONLY
    assert struct.unpack(">III", infos[nbdraw.INFO_BLOCK_SIZE]) == (1, 4096, IO_MAX)
    assert conn.go(volume)[-1][0] == nbdraw.REP_ACK
    transmission_works(conn)


def test_negotiation_unknown_export_then_the_right_one(conn, volume):
    for opt in (nbdraw.OPT_INFO, nbdraw.OPT_GO):
        for name in ("nobody", "", volume + "x", "../" + volume, volume + "@nosnap", b"\xff\xfe", "x" * 255):
            assert conn.go(name, opt)[-1][0] == nbdraw.REP_ERR_UNKNOWN, name
    assert conn.go(volume)[-1][0] == nbdraw.REP_ACK
    transmission_works(conn)


def test_negotiation_export_name(conn, volume):
    conn.option(nbdraw.OPT_EXPORT_NAME, volume.encode())
    size, flags = struct.unpack(">QH", conn.read(10))
    assert size == 64 * M and flags & nbdraw.TFLAG_HAS_FLAGS
    transmission_works(conn)


def test_negotiation_export_name_without_no_zeroes_gets_124_zeroes(shared, volume):
    import socket

    s = socket.socket(socket.AF_UNIX)
    s.settimeout(30)
    s.connect(shared.nbd_sock)
    f = s.makefile("rwb", buffering=0)

    def read(n):
        out = b""
        while len(out) < n:
            more = f.read(n - len(out))
            assert more
            out += more
        return out

    read(18)
    s.sendall(struct.pack(">I", nbdraw.FLAG_FIXED_NEWSTYLE))
    s.sendall(struct.pack(">QII", nbdraw.IHAVEOPT, nbdraw.OPT_EXPORT_NAME, len(volume)) + volume.encode())
    assert read(134)[10:] == bytes(124)
    f.close()
    s.close()


def test_negotiation_export_name_of_nothing_closes(conn):
    conn.option(nbdraw.OPT_EXPORT_NAME, b"nobody")
    assert conn.closed_by_server()


@pytest.mark.parametrize("opt", [4, 12, 77, 0x7FFFFFFF, 0xFFFFFFFF])
def test_negotiation_unknown_option_is_unsupported(conn, volume, opt):
    conn.option(opt, b"data")
    assert conn.option_replies(opt)[-1][0] == nbdraw.REP_ERR_UNSUP
    assert conn.go(volume)[-1][0] == nbdraw.REP_ACK


@pytest.mark.parametrize("opt", [nbdraw.OPT_STARTTLS, nbdraw.OPT_STRUCTURED_REPLY])
def test_negotiation_optional_option_is_answered(conn, volume, opt):
    conn.option(opt)
    kind = conn.option_replies(opt)[-1][0]
    if opt == nbdraw.OPT_STARTTLS and kind == nbdraw.REP_ACK:
        return  # TLS is on: the conversation goes on encrypted
    if kind != nbdraw.REP_ACK:
        assert kind in (nbdraw.REP_ERR_UNSUP, nbdraw.REP_ERR_POLICY)
    assert conn.go(volume)[-1][0] == nbdraw.REP_ACK


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0",
        struct.pack(">I", 4) + b"ab",
        struct.pack(">I", 0xFFFFFFFF) + b"ab" + struct.pack(">H", 0),
        struct.pack(">I", 1) + b"a" + struct.pack(">H", 5),
        struct.pack(">I", 1) + b"a" + struct.pack(">H", 0) + b"more",
    ],
    ids=["empty", "short", "short name", "huge name", "missing infos", "surplus"],
)
@pytest.mark.parametrize("opt", [nbdraw.OPT_INFO, nbdraw.OPT_GO])
def test_negotiation_malformed_go_is_invalid(conn, volume, opt, data):
    conn.option(opt, data)
    assert conn.option_replies(opt)[-1][0] == nbdraw.REP_ERR_INVALID
    assert conn.go(volume)[-1][0] == nbdraw.REP_ACK
    transmission_works(conn)


def test_negotiation_abort(conn):
    conn.option(nbdraw.OPT_ABORT)
    try:
        assert conn.option_reply(nbdraw.OPT_ABORT)[0] == nbdraw.REP_ACK
    except nbdraw.Closed:
        return
    assert conn.closed_by_server()
