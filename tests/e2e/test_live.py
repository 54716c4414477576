# SPDX-License-Identifier: BSD-3-Clause
"""Volumes and pools that change while clients use them; data that has gone bad."""
import re

import nbd
import pytest

import nbdraw
from byred import BLOCK, K, M, pattern, stored_blocks
from nbdraw import Conn


def test_live_rename_keeps_clients_connected(shared):
    b = shared
    b.create("before", "16M")
    h = b.open("before")
    h.pwrite(b"one", 0)
    result = b.byre("volume", "rename", "before", "after")
    name = "after" if result.rc == 0 else "before"
    assert result.rc == 0 or re.search("use|busy|connect", result.err, re.I), result
    h.pwrite(b"two", 3)
    h.flush()
    assert b.open(name).pread(6, 0) == b"onetwo"
    b.close_handles()
    b.delete(name)


def test_live_delete_of_a_volume_in_use_is_refused(shared):
    b = shared
    b.create("used", "16M")
    h = b.open("used")
    h.pwrite(b"data", 0)
    b.refused("volume", "delete", "used", match="use|busy|open|connect")
    assert h.pread(4, 0) == b"data"
    b.close_handles()
    b.delete("used")
    with pytest.raises(nbd.Error):
        b.open("used")


def test_live_a_volume_in_use_grows_and_does_not_shrink(shared):
    """It shrank without a question, and its client found out by errors."""
    b = shared
    b.create("elastic", "16M")
    h = b.open("elastic")
    h.pwrite(b"x" * M, 15 * M)
    b.ok("volume", "resize", "elastic", "32M")
    big = b.open("elastic")
    assert big.get_size() == 32 * M
    big.pwrite(b"y" * M, 31 * M)
    assert big.pread(2 * M, 15 * M) == b"x" * M + bytes(M)
    b.refused("volume", "resize", "elastic", "8M", match="elastic.*--shrink")
    b.refused("volume", "resize", "elastic", "8M", "--shrink", match="elastic.*in use")
    assert b.json("volume", "info", "elastic")["size"] == 32 * M
    assert h.pread(M, 15 * M) == b"x" * M and big.pread(M, 31 * M) == b"y" * M
    b.ok("volume", "resize", "elastic", "+8M")
    assert b.json("volume", "resize", "elastic", "+1.5M")["size"] == 41 * M + M // 2
    b.close_handles()
    b.shrink("elastic", "8M")
    b.ok("volume", "resize", "elastic", "32M")
    assert b.open("elastic").pread(24 * M, 8 * M) == bytes(24 * M), "what was cut off does not come back"
    b.close_handles()
    b.delete("elastic")


def test_live_shrink_and_grow_reads_zeros(shared):
    b = shared
    b.create("cut", "4M")
    h = b.open("cut")
    h.pwrite(pattern(4 * M), 0)
    h.flush()
    b.close_handles()
    for size in ("2M", "1052672", "4M"):
        b.shrink("cut", size)
    assert b.open("cut").pread(4 * M, 0) == pattern(4 * M)[:1052672] + bytes(4 * M - 1052672)
    b.close_handles()
    b.delete("cut")


def test_live_deleted_volume_of_the_same_name_is_empty(shared):
    b = shared
    for i in range(5):
        b.create("phoenix", "8M")
        h = b.open("phoenix")
        assert h.pread(8 * M, 0) == bytes(8 * M), f"round {i}"
        h.pwrite(pattern(8 * M, i), 0)
        h.flush()
        b.close_handles()
        b.delete("phoenix")


def test_live_commands_while_writing(make_byred):
    """Volume commands beside a writer that never pauses: none of its writes fails."""
    b = make_byred("512M", args=["--commit-interval", "1"]).start()
    b.create("v", "64M")
    conn = Conn(b.nbd_sock, "v")
    for i in range(40):
        for n in range(32):
            conn.write(((i * 32 + n) % 8192) * 2 * BLOCK, pattern(BLOCK, n))
        b.create(f"side{i}", "1M")
        if i % 3 == 0:
            b.ok("volume", "rename", f"side{i}", f"moved{i}")
        if i % 3 == 1:
            b.ok("volume", "delete", f"side{i}")
        if i % 10 == 0:
            b.ok("commit")
        while conn.pending:
            assert conn.reply()[1] == 0
    conn.close()
    assert len(b.volumes()) == 1 + 40 - 13


def test_live_damaged_data_block_is_eio_for_that_block_only(make_byred):
    b = make_byred("256M").start()
    b.damaged = True
    b.create("v", "16M")
    data = pattern(1 * M)
    h = b.open("v")
    h.pwrite(data, 0)
    h.pwrite(pattern(1 * M, 2), 2 * M)
    h.flush()
    h.shutdown()
    b.stop()
    bad = 100
    places = [off for off, block in stored_blocks(b.pool) if block == data[bad * BLOCK:(bad + 1) * BLOCK]]
    assert len(places) == 1, "data is kept once"
    with open(b.pool, "r+b") as f:
        f.seek(places[0] + 1234)
        byte = f.read(1)
        f.seek(places[0] + 1234)
        f.write(bytes([byte[0] ^ 1]))
    b.start()
    h = b.open("v")
    for offset, length in ((bad * BLOCK, BLOCK), (bad * BLOCK + 5, 1), (0, 1 * M)):
        with pytest.raises(nbd.Error) as e:
            h.pread(length, offset)
        assert e.value.errno == "EIO", f"{offset}+{length}"
    assert h.pread(bad * BLOCK, 0) == data[:bad * BLOCK]
    assert h.pread(1 * M - (bad + 1) * BLOCK, (bad + 1) * BLOCK) == data[(bad + 1) * BLOCK:]
    assert h.pread(1 * M, 2 * M) == pattern(1 * M, 2)
    with pytest.raises(nbd.Error):  # a piece of a block that cannot be read cannot be written
        h.pwrite(b"piece", bad * BLOCK + 100)
    said = b.log_text()
    assert "v" in said and str(bad * BLOCK) in said, f"the log names the volume and the offset: {said[-1000:]}"
    h.pwrite(b"n" * BLOCK, bad * BLOCK)
    h.flush()
    assert h.pread(BLOCK, bad * BLOCK) == b"n" * BLOCK, "a whole new block heals it"
    b.restart()
    assert b.open("v").pread(BLOCK, bad * BLOCK) == b"n" * BLOCK
    b.stop()
    assert b.check() == []


def test_live_reserved_volume_takes_its_space_at_once(make_byred):
    b = make_byred("256M").start()
    free = b.info()["free_bytes"]
    result = b.byre("volume", "create", "promised", "100M", "--reserved")
    if "not supported by this version" in result.err:
        pytest.skip("no reserved volumes in this version")
    assert result.rc == 0, result
    assert free - b.info()["free_bytes"] >= 100 * M
    b.refused("volume", "create", "too-much", "200M", "--reserved", match=r"\d")
    assert set(b.volumes()) == {"promised"}
    b.create("thin", "1G")
    conn = Conn(b.nbd_sock, "thin")
    error = offset = 0
    while error == 0:
        conn.write(offset, pattern(1 * M, offset))
        error = conn.reply()[1]
        offset += 1 * M
    assert error == nbdraw.ENOSPC and offset > 64 * M
    conn.close()
    h = b.open("promised")
    for round_ in range(3):
        for off in range(0, 100 * M, 4 * M):
            h.pwrite(pattern(4 * M, off + round_), off)
    h.flush()
    assert all(h.pread(4 * M, off) == pattern(4 * M, off + 2) for off in range(0, 100 * M, 4 * M))
    b.ok("commit")


def test_live_two_loops_many_connections(make_byred):
    b = make_byred("512M", args=["--threads", "2"]).start()
    b.create("v", "64M")
    conns = [Conn(b.nbd_sock, "v") for _ in range(64)]
    for i, conn in enumerate(conns):
        for n in range(16):
            conn.write(i * M + n * 64 * K, pattern(4 * K, i * 100 + n))
    for conn in conns:
        while conn.pending:
            assert conn.reply()[1] == 0
    for i, conn in enumerate(conns):
        other = conns[(i + 31) % 64]
        for n in range(16):
            assert other.call(nbdraw.CMD_READ, i * M + n * 64 * K, 4 * K) == (0, pattern(4 * K, i * 100 + n))
    for conn in conns:
        conn.close()
