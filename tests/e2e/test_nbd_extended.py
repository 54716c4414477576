# SPDX-License-Identifier: BSD-3-Clause
"""NBD with extended headers, byte by byte; and what the handshake tells beyond the size."""
import struct
import time

import nbd
import pytest

import nbdraw
from byred import IO_MAX, K, M, pattern
from nbdraw import ExtendedConn

P = 1 << 50
PAYLOAD = nbdraw.CMD_FLAG_PAYLOAD_LEN
SIZE = 64 * M
NOTHING = (nbdraw.CHUNK_NONE, b"")


@pytest.fixture
def conn(shared, volume):
    c = ExtendedConn(shared.nbd_sock, volume)
    yield c
    c.close()


@pytest.fixture
def huge(shared):
    name = shared.create("huge", "1P")
    c = ExtendedConn(shared.nbd_sock, name)
    yield c
    c.close()
    shared.delete(name)


def read(conn, offset, length, flags=0):
    kind, payload = conn.call(nbdraw.CMD_READ, offset, length, flags)
    assert kind == nbdraw.CHUNK_DATA and struct.unpack_from(">Q", payload)[0] == offset
    assert len(payload) == 8 + length
    return payload[8:]


def extents(conn, *args, **kwargs):
    kind, payload = conn.call(nbdraw.CMD_BLOCK_STATUS, *args, **kwargs)
    assert kind == nbdraw.CHUNK_STATUS_EXT
    context, n = struct.unpack_from(">II", payload)
    assert context == conn.context and len(payload) == 8 + 16 * n and n
    return [struct.unpack_from(">QQ", payload, 8 + 16 * i) for i in range(n)]


def filtered(effect, *ids):
    data = struct.pack(">Q", effect) + b"".join(struct.pack(">I", i) for i in ids)
    return dict(length=len(data), flags=PAYLOAD, data=data)


def test_extended_flags(shared, volume, conn):
    assert conn.size == SIZE
    assert conn.flags & nbdraw.TFLAG_DF and conn.flags & nbdraw.TFLAG_BLOCK_STATUS_PAYLOAD
    plain = ExtendedConn(shared.nbd_sock, volume, context=False)
    assert not plain.flags & nbdraw.TFLAG_BLOCK_STATUS_PAYLOAD
    assert plain.error_of(nbdraw.CMD_BLOCK_STATUS, 0, 4096)[0] == nbdraw.EINVAL
    plain.close()


def test_extended_every_command(conn):
    data = pattern(70 * K, 5)
    conn.write(123, data, nbdraw.CMD_FLAG_FUA)
    assert conn.reply()[1:] == NOTHING
    assert read(conn, 123, len(data)) == data
    assert read(conn, 100, 30, nbdraw.CMD_FLAG_DF) == bytes(23) + data[:7]
    assert conn.call(nbdraw.CMD_FLUSH) == NOTHING
    assert conn.call(nbdraw.CMD_CACHE, 0, 64 * K) == NOTHING
    assert extents(conn, 0, SIZE) == [(72 * K, 0), (SIZE - 72 * K, 3)]
    assert extents(conn, 0, SIZE, flags=nbdraw.CMD_FLAG_REQ_ONE) == [(72 * K, 0)]
    assert conn.call(nbdraw.CMD_TRIM, 0, 4096) == NOTHING
    assert conn.call(nbdraw.CMD_WRITE_ZEROES, 8192, 4096, nbdraw.CMD_FLAG_FAST_ZERO) == NOTHING
    assert conn.call(nbdraw.CMD_WRITE_ZEROES, 16384, 4096, nbdraw.CMD_FLAG_NO_HOLE) == NOTHING
    assert read(conn, 0, 4096) == read(conn, 8192, 4096) == read(conn, 16384, 4096) == bytes(4096)
    assert read(conn, 4096, 4096) == data[4096 - 123:8192 - 123]
    assert conn.call(nbdraw.CMD_READ, 0, 0) == NOTHING
    conn.disconnect()
    assert conn.closed_by_server()


def test_extended_status_filter(conn):
    conn.write(0, bytes([1]) * 4096)
    assert conn.reply()[1:] == NOTHING
    assert extents(conn, 0, **filtered(8192, conn.context)) == [(4096, 0), (4096, 3)]
    bad = [
        filtered(8192),
        filtered(8192, conn.context + 1),
        filtered(8192, conn.context, conn.context),
        filtered(0, conn.context),
        filtered(SIZE + 1, conn.context),
        filtered((1 << 64) - 1, conn.context),
        dict(length=5, flags=PAYLOAD, data=b"abcde"),
        dict(length=1 * M, flags=PAYLOAD, data=bytes(1 * M)),
    ]
    for args in bad:
        assert conn.error_of(nbdraw.CMD_BLOCK_STATUS, 0, **args)[0] == nbdraw.EINVAL
    assert read(conn, 0, 4) == bytes([1]) * 4


@pytest.mark.parametrize("length", [(1 << 32) - 1, 1 << 32, (1 << 32) + 4096, P])
def test_extended_long_ranges(huge, length):
    """Trims, zeroes, maps and hints of any length take no time."""
    off = P - length
    huge.write(P - 4096, b"x" * 4096)
    assert huge.reply()[1:] == NOTHING
    start = time.monotonic()
    status = extents(huge, off, length)
    assert sum(n for n, _ in status) == length and status[0] == (length - 4096, 3)
    assert huge.call(nbdraw.CMD_CACHE, off, length) == NOTHING
    assert huge.call(nbdraw.CMD_TRIM, off, length) == NOTHING
    assert read(huge, P - 4096, 4096) == bytes(4096)
    assert huge.call(nbdraw.CMD_WRITE_ZEROES, off, length, nbdraw.CMD_FLAG_FAST_ZERO) == NOTHING
    assert extents(huge, off, length) == [(length, 3)]
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("offset,length", [(0, P + 1), (P, 1), (0, 1 << 63), (0, (1 << 64) - 1), (1, (1 << 64) - 1),
                                           (4096, (1 << 64) - 4096), ((1 << 64) - 1, (1 << 64) - 1),
                                           (1 << 63, 1 << 63)])
def test_extended_ranges_past_the_end(huge, offset, length):
    for cmd, want in [(nbdraw.CMD_TRIM, nbdraw.EINVAL), (nbdraw.CMD_WRITE_ZEROES, nbdraw.ENOSPC),
                      (nbdraw.CMD_CACHE, nbdraw.EINVAL), (nbdraw.CMD_BLOCK_STATUS, nbdraw.EINVAL),
                      (nbdraw.CMD_READ, nbdraw.EINVAL)]:
        error, text = huge.error_of(cmd, offset, length)
        assert error == want and f"{length} bytes at {offset} of 'huge'" in text
    assert read(huge, 0, 1) == b"\0"


def test_extended_errors_say_what(conn):
    assert conn.error_of(nbdraw.CMD_READ, SIZE - 1, 2) == (
        nbdraw.EINVAL, f"READ of 2 bytes at {SIZE - 1} of '{conn.export}': it goes beyond the end of the volume")
    assert "flags" in conn.error_of(nbdraw.CMD_TRIM, 0, 4096, 1 << 11)[1]
    assert "limit" in conn.error_of(nbdraw.CMD_READ, 0, IO_MAX + 1)[1]
    assert "does not know" in conn.error_of(99, 0, 1)[1]


def test_extended_payload_on_a_command_that_has_none(conn):
    for cmd in (nbdraw.CMD_READ, nbdraw.CMD_FLUSH, nbdraw.CMD_TRIM, nbdraw.CMD_CACHE, nbdraw.CMD_WRITE_ZEROES, 99):
        data = nbdraw.ExtendedConn.request(nbdraw.CMD_WRITE_ZEROES, 0, SIZE, PAYLOAD) * 3000
        assert conn.error_of(cmd, 0, len(data), PAYLOAD, data)[0] == nbdraw.EINVAL
    assert conn.call(nbdraw.CMD_FLUSH) == NOTHING


def test_extended_header_in_two_pieces(conn):
    conn.write(0, b"hello")
    assert conn.reply()[1:] == NOTHING
    for cut in (1, 4, 27, 28, 31):
        whole = conn.request(nbdraw.CMD_READ, 0, 5, 0, 77)
        conn.pending[77] = 0
        conn.send_raw(whole[:cut])
        time.sleep(0.05)
        conn.send_raw(whole[cut:])
        assert conn.reply() == (77, nbdraw.CHUNK_DATA, bytes(8) + b"hello")


@pytest.mark.parametrize("flags,length", [(0, IO_MAX + 1), (PAYLOAD, IO_MAX + 1), (PAYLOAD, (1 << 64) - 1)],
                         ids=["no payload flag", "above the limit", "absurd"])
def test_extended_write_that_breaks_the_rules_ends_the_session(shared, volume, conn, flags, length):
    """Nobody can say where the next request begins: what looks like one is none."""
    forged = conn.request(nbdraw.CMD_WRITE, 0, 4, PAYLOAD, 9, b"evil")
    error, text = conn.error_of(nbdraw.CMD_WRITE, 0, length, flags, forged)
    assert error == nbdraw.EINVAL and "limit" in text
    assert conn.closed_by_server()
    other = ExtendedConn(shared.nbd_sock, volume)
    assert read(other, 0, 4) == bytes(4)
    other.close()


def test_extended_write_without_the_payload_flag(conn):
    """QEMU 10 leaves it out, and sends the data."""
    assert conn.call(nbdraw.CMD_WRITE, 4096, 5, 0, b"hello") == NOTHING
    assert read(conn, 4096, 5) == b"hello"


def test_extended_header_in_a_compact_session(shared, volume):
    c = nbdraw.Conn(shared.nbd_sock, volume)
    c.send_raw(ExtendedConn.request(nbdraw.CMD_FLUSH))
    assert c.closed_by_server()


def test_compact_header_in_an_extended_session(conn):
    conn.send_raw(nbdraw.Conn.request(nbdraw.CMD_FLUSH) * 2)
    assert conn.closed_by_server()


def test_extended_headers_cannot_be_undone(shared, volume):
    c = nbdraw.Conn(shared.nbd_sock)
    c.option(nbdraw.OPT_EXTENDED_HEADERS, b"x")
    assert c.option_replies(nbdraw.OPT_EXTENDED_HEADERS)[-1][0] == nbdraw.REP_ERR_INVALID
    c.option(nbdraw.OPT_EXTENDED_HEADERS)
    assert c.option_replies(nbdraw.OPT_EXTENDED_HEADERS)[-1][0] == nbdraw.REP_ACK
    c.option(nbdraw.OPT_STRUCTURED_REPLY)
    assert c.option_replies(nbdraw.OPT_STRUCTURED_REPLY)[-1][0] == nbdraw.REP_ERR_EXT_HEADER_REQD
    c.option(nbdraw.OPT_EXPORT_NAME, volume.encode())
    assert c.closed_by_server()


# ---- the handshake -------------------------------------------------------------


def test_name_and_description(shared, volume):
    shared.ok("volume", "set", volume, "--comment", "Ann's disk")
    h = nbd.NBD()
    h.set_opt_mode(True)
    h.set_full_info(True)
    h.set_export_name(volume)
    h.connect_unix(shared.nbd_sock)
    h.opt_info()
    assert h.get_canonical_export_name() == volume and h.get_export_description() == "Ann's disk"
    listed = {}
    h.opt_list(listed.__setitem__)
    assert listed[volume] == "Ann's disk"
    h.opt_abort()


def test_default_export(make_byred):
    b = make_byred(args=["--default-export", "disk"]).start()
    c = nbdraw.Conn(b.nbd_sock)
    kind, text = c.go("")[-1]
    assert kind == nbdraw.REP_ERR_UNKNOWN and b"'disk', which does not exist" in text
    b.create("disk", "8M")
    assert c.go("")[-1][0] == nbdraw.REP_ACK
    assert c.call(nbdraw.CMD_READ, 0, 4) == (0, bytes(4))
    c.close()


def test_no_default_export_says_what_to_do(shared):
    c = nbdraw.Conn(shared.nbd_sock)
    kind, text = c.go("")[-1]
    assert kind == nbdraw.REP_ERR_UNKNOWN and b"default-export" in text
    c.close()
