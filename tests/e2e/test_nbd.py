# SPDX-License-Identifier: BSD-3-Clause
"""Every NBD command and its edges."""
import random

import nbd
import pytest

import nbdraw
from byred import BLOCK, IO_MAX, K, M, pattern

SIZE = 64 * M


@pytest.fixture
def h(shared, volume):
    return shared.open(volume)


@pytest.fixture
def raw(shared, volume):
    conn = nbdraw.Conn(shared.nbd_sock, volume)
    yield conn
    conn.close()


def errno_of(call, *args, **kwargs):
    with pytest.raises(nbd.Error) as e:
        call(*args, **kwargs)
    return e.value.errno


def test_nbd_announces_what_the_interface_says(h):
    assert h.get_size() == SIZE
    assert h.get_block_size(nbd.SIZE_MINIMUM) == 1
    assert h.get_block_size(nbd.SIZE_PREFERRED) == 4096
    assert h.get_block_size(nbd.SIZE_MAXIMUM) == IO_MAX
    assert h.can_flush() and h.can_fua() and h.can_trim() and h.can_zero() and h.can_cache()
    assert h.can_multi_conn()
    assert not h.is_read_only()


def test_nbd_new_volume_reads_as_zeros(h):
    assert h.pread(M, 0) == bytes(M)
    assert h.pread(1, SIZE - 1) == b"\0"
    assert h.pread(IO_MAX, SIZE - IO_MAX) == bytes(IO_MAX)


@pytest.mark.parametrize("offset", [0, 1, 511, 4095, 4096, 4097, 12288, 1 * M - 1, 32 * M - 3])
@pytest.mark.parametrize("length", [1, 2, 511, 4095, 4096, 4097, 8192, 8193, 65537])
def test_nbd_write_of_any_alignment_reads_back(h, offset, length):
    before = pattern(length + 2 * BLOCK, 7)
    data = pattern(length, offset * 31 + length)
    start = max(0, offset - BLOCK)
    h.pwrite(before, start)
    h.pwrite(data, offset)
    want = bytearray(before)
    want[offset - start:offset - start + length] = data
    assert h.pread(len(want), start) == want
    assert h.pread(length, offset) == data


def test_nbd_last_byte_of_the_volume(h):
    h.pwrite(b"abc", SIZE - 3)
    assert h.pread(5, SIZE - 5) == b"\0\0abc"


@pytest.mark.parametrize("offset", [0, 1, SIZE - IO_MAX])
def test_nbd_largest_request(h, offset):
    data = pattern(IO_MAX, offset)
    h.pwrite(data, offset)
    h.flush()
    assert h.pread(IO_MAX, offset) == data


def test_nbd_request_over_the_maximum_is_refused_and_the_connection_goes_on(raw):
    error, _ = raw.call(nbdraw.CMD_READ, 0, IO_MAX + 1)
    assert error in (nbdraw.EINVAL, nbdraw.EOVERFLOW)
    error, _ = raw.call(nbdraw.CMD_READ, 0, 0xFFFFFFFF)
    assert error in (nbdraw.EINVAL, nbdraw.EOVERFLOW)
    assert raw.call(nbdraw.CMD_READ, 0, 4096) == (0, bytes(4096))


def test_nbd_write_over_the_maximum_is_refused_and_writes_nothing(shared, volume, raw):
    """The protocol lets the server drop the connection instead: the data is on its way already."""
    data = b"x" * (IO_MAX + 1)
    try:
        error, _ = raw.call(nbdraw.CMD_WRITE, 0, len(data), data=data)
        assert error in (nbdraw.EINVAL, nbdraw.EOVERFLOW)
        assert raw.call(nbdraw.CMD_READ, 0, 4096) == (0, bytes(4096))
    except nbdraw.Closed:
        pass
    assert shared.open(volume).pread(M, 0) == bytes(M)


@pytest.mark.parametrize(
    "cmd, error",
    [
        (nbdraw.CMD_READ, nbdraw.EINVAL),
        (nbdraw.CMD_WRITE, nbdraw.ENOSPC),
        (nbdraw.CMD_WRITE_ZEROES, nbdraw.ENOSPC),
        (nbdraw.CMD_TRIM, None),
        (nbdraw.CMD_CACHE, None),
    ],
)
@pytest.mark.parametrize(
    "offset, length", [(SIZE, 1), (SIZE - 1, 2), (SIZE + 4096, 4096), (2**63, 4096), (2**64 - 4096, 8192)]
)
def test_nbd_past_the_end(raw, cmd, error, offset, length):
    data = b"z" * length if cmd == nbdraw.CMD_WRITE else b""
    got, _ = raw.call(cmd, offset, length, data=data)
    assert got == error if error else got in (nbdraw.EINVAL, nbdraw.ENOSPC)
    assert raw.call(nbdraw.CMD_READ, SIZE - 4096, 4096) == (
        0,
        bytes(4096),
    ), "the connection goes on, nothing was written"


@pytest.mark.parametrize("cmd", [7, 8, 9, 200, 0xFFFF])
def test_nbd_unknown_command_is_einval(raw, cmd):
    assert raw.call(cmd, 0, 0)[0] == nbdraw.EINVAL
    assert raw.call(nbdraw.CMD_READ, 0, 16) == (0, bytes(16))


@pytest.mark.parametrize(
    "cmd", [nbdraw.CMD_READ, nbdraw.CMD_WRITE, nbdraw.CMD_TRIM, nbdraw.CMD_FLUSH, nbdraw.CMD_WRITE_ZEROES]
)
@pytest.mark.parametrize("flags", [0x80, 0x8000])
def test_nbd_unknown_flag_is_einval(raw, cmd, flags):
    length = 0 if cmd == nbdraw.CMD_FLUSH else 4096
    data = b"f" * length if cmd == nbdraw.CMD_WRITE else b""
    assert raw.call(cmd, 0, length, flags=flags, data=data)[0] == nbdraw.EINVAL
    assert raw.call(nbdraw.CMD_READ, 0, 4096) == (0, bytes(4096))


@pytest.mark.parametrize(
    "cmd", [nbdraw.CMD_READ, nbdraw.CMD_WRITE, nbdraw.CMD_TRIM, nbdraw.CMD_WRITE_ZEROES, nbdraw.CMD_CACHE]
)
def test_nbd_zero_length_does_not_hang_or_harm(raw, cmd):
    error, _ = raw.call(cmd, 4096, 0)
    assert error in (0, nbdraw.EINVAL, nbdraw.ENOSPC)
    assert raw.call(nbdraw.CMD_READ, 4096, 4096) == (0, bytes(4096))


def test_nbd_flush_with_offset_or_length(raw):
    """Both are reserved; a server may ignore or refuse them."""
    assert raw.call(nbdraw.CMD_FLUSH, 0, 0)[0] == 0
    assert raw.call(nbdraw.CMD_FLUSH, 4096, 4096)[0] in (0, nbdraw.EINVAL)


@pytest.mark.parametrize(
    "offset, length", [(0, 1), (0, 4096), (1, 4095), (4095, 2), (5000, 20000), (8192, 1 * M), (3, 33 * M)]
)
@pytest.mark.parametrize("kind", ["trim", "zero", "zero no hole", "zero fua"])
def test_nbd_trimmed_and_zeroed_ranges_read_as_zeros(h, offset, length, kind):
    filled = pattern(34 * M, 3)
    h.pwrite(filled[:17 * M], 0)
    h.pwrite(filled[17 * M:], 17 * M)
    if kind == "trim":
        h.trim(length, offset)
    else:
        h.zero(length, offset, {"zero": 0, "zero no hole": nbd.CMD_FLAG_NO_HOLE, "zero fua": nbd.CMD_FLAG_FUA}[kind])
    want = bytearray(filled)
    want[offset:offset + length] = bytes(length)
    got = h.pread(17 * M, 0) + h.pread(17 * M, 17 * M)
    if got != want:
        bad = next(i for i in range(len(want)) if got[i] != want[i])
        pytest.fail(f"first wrong byte at {bad}")
    h.pwrite(b"again", offset)
    assert h.pread(5, offset) == b"again"


def test_nbd_trim_of_the_whole_volume_in_one_request(h):
    h.pwrite(pattern(4 * M), 30 * M)
    h.trim(SIZE, 0)
    assert h.pread(4 * M, 30 * M) == bytes(4 * M)


def test_nbd_fua_and_cache(h):
    data = pattern(10000, 5)
    h.pwrite(data, 123, nbd.CMD_FLAG_FUA)
    h.cache(1 * M, 0)
    assert h.pread(10000, 123) == data
    h.trim(4096, 4096, nbd.CMD_FLAG_FUA)
    assert h.pread(4096, 4096) == bytes(4096)


def test_nbd_no_hole_takes_space(shared):
    b = shared
    b.create("thick", "64M")
    try:
        h = b.open("thick")
        h.flush()
        b.ok("commit")
        before = b.info()["data_bytes"]
        h.zero(16 * M, 0, nbd.CMD_FLAG_NO_HOLE)
        b.ok("commit")
        assert b.info()["data_bytes"] - before >= 16 * M
        h.zero(16 * M, 0)
        b.ok("commit")
        assert b.info()["data_bytes"] - before < 1 * M
    finally:
        b.close_handles()
        b.delete("thick")


def test_nbd_writes_are_seen_on_other_connections_at_once(shared, volume):
    """multi-conn: what one connection wrote and another flushed, every connection sees."""
    handles = [shared.open(volume) for _ in range(4)]
    rng = random.Random(11)
    for i in range(100):
        data = rng.randbytes(rng.choice([512, 4096, 20000]))
        offset = rng.randrange(SIZE - len(data))
        handles[i % 4].pwrite(data, offset)
        handles[(i + 1) % 4].flush()
        assert handles[(i + 2) % 4].pread(len(data), offset) == data


def test_nbd_deep_queue_answers_every_request_once(raw):
    rng = random.Random(5)
    want, errors = {}, {}
    batch = bytearray()
    blocks = list(range(2000))
    rng.shuffle(blocks)
    for n, block in enumerate(blocks):
        data = block.to_bytes(4, "big") * 1024
        raw.cookie += 1
        raw.pending[raw.cookie] = 0
        batch += raw.request(nbdraw.CMD_WRITE, block * BLOCK, BLOCK, 0, raw.cookie, data)
        # A server may stop reading while its replies are not taken: never send without taking some.
        if n % 50 == 49:
            raw.send_raw(bytes(batch))
            batch.clear()
            while len(raw.pending) > (100 if n < len(blocks) - 1 else 0):
                cookie, error, _ = raw.reply()
                errors[cookie] = error
    assert set(errors.values()) == {0} and len(errors) == 2000
    for block in blocks:
        want[raw.send(nbdraw.CMD_READ, block * BLOCK, BLOCK)] = block
        while len(raw.pending) > (64 if block != blocks[-1] else 0):
            cookie, error, data = raw.reply()
            assert error == 0 and data == want[cookie].to_bytes(4, "big") * 1024


def test_nbd_overlapping_unaligned_writes_at_once_leave_no_mixture_inside_a_byte_range(shared, volume):
    """Small neighbours inside one block, all under way together: each must survive its neighbours'
    read-modify-write."""
    conns = [nbdraw.Conn(shared.nbd_sock, volume) for _ in range(4)]
    piece = 64
    total = 256 * K
    for start in range(0, total, piece * 4):
        for i, conn in enumerate(conns):
            offset = start + i * piece
            conn.write(offset, (offset // piece).to_bytes(4, "big") * (piece // 4))
            while len(conn.pending) > (64 if start + piece * 4 < total else 0):
                assert conn.reply()[1] == 0
    error, data = conns[0].call(nbdraw.CMD_READ, 0, total)
    assert error == 0
    want = b"".join((n).to_bytes(4, "big") * (piece // 4) for n in range(total // piece))
    assert data == want
    for conn in conns:
        conn.close()


def test_nbd_disconnect_command_closes(raw):
    raw.write(0, b"bye" * 1000)
    raw.reply()
    raw.disconnect()
    assert raw.closed_by_server()
