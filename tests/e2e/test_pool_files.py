# SPDX-License-Identifier: BSD-3-Clause
"""Pool files that are not as they should be: one clear line, and nothing that was stored is lost."""
import os
import re
import shutil
import subprocess

import pytest

from byred import BLOCK, BYRE, BYRED, FATAL, M, pattern, stored_blocks

SUPER_MAGIC = b"BYREPOOL"


def superblocks(path):
    """Offsets of the superblock copies, found by their magic number (8 bytes into the block)."""
    with open(path, "rb") as f:
        head = f.read(16 * M)
    found = [i for i in range(0, len(head), BLOCK) if head[i + 8:i + 16] == SUPER_MAGIC]
    assert len(found) >= 2, "the pool keeps several copies"
    return found


def damage(path, offset, length=64):
    with open(path, "r+b") as f:
        f.seek(offset)
        data = f.read(length)
        f.seek(offset)
        f.write(bytes(b ^ 0xA5 for b in data))


def refuses_to_start(b, match, timeout=30):
    """byred ends by itself with exit code 1; what it says has a line that matches."""
    b.spawn()
    rc = b.wait(timeout)
    said = b.log_text(since_start=True)
    assert rc == 1, (rc, said)
    assert not FATAL.search(said), said
    assert "ready" not in said
    lines = [line for line in said.splitlines() if re.search(match, line, re.I)]
    assert lines, f"no line matches {match!r}:\n{said}"
    assert len(said.strip().splitlines()) <= 3, said
    return said


@pytest.fixture
def filled(make_byred):
    """A stopped pool with a volume that holds something."""
    b = make_byred("1G").start()
    b.create("v", "64M")
    h = b.open("v")
    h.pwrite(pattern(8 * M), 0)
    h.flush()
    h.shutdown()
    b.stop()
    return b


def test_a_pool_that_is_not_there_or_not_ours_names_the_cure(make_byred, tmp_path):
    b = make_byred("64M")
    missing = str(tmp_path / "missing")
    for command in (
        ["--pool", missing],
        ["pool", "info", missing],
        ["pool", "check", missing],
        ["volume", "list", "--pool", missing],
    ):
        program = BYRED if command[0] == "--pool" else BYRE
        r = subprocess.run([program, *command], capture_output=True, text=True, timeout=20)
        assert r.returncode == 1 and "byre pool create" in r.stderr and missing in r.stderr, r.stderr
    if os.getuid() == 0:
        os.chmod(b.dir, 0o755)
        r = subprocess.run(
            [BYRED, "--pool", b.pool],
            capture_output=True,
            text=True,
            timeout=20,
            user=65534,
            group=65534,
            extra_groups=[],
        )
        assert r.returncode == 1 and "user 65534" in r.stderr, r.stderr


def still_has_its_data(b):
    b.start()
    h = b.open("v")
    assert h.pread(8 * M, 0) == pattern(8 * M)
    h.pwrite(b"new", 9 * M)
    h.shutdown()
    b.stop()


def test_pool_one_superblock_copy_damaged_starts_and_repairs(filled):
    copies = len(superblocks(filled.pool))
    for n in range(copies):
        damage(filled.pool, superblocks(filled.pool)[n])
        # Damage may have hit the magic: what is left must do.
        still_has_its_data(filled)
        assert len(superblocks(filled.pool)) == copies, "a commit writes every copy again"
        assert filled.check() == []


def test_pool_all_superblocks_damaged_is_refused(filled):
    filled.damaged = True
    for offset in superblocks(filled.pool):
        damage(filled.pool, offset + 40)
    before = list(stored_blocks(filled.pool))
    refuses_to_start(filled, "superblock")
    filled.refused("pool", "check", filled.pool)
    assert list(stored_blocks(filled.pool)) == before, "nothing was written to it"


@pytest.mark.parametrize("size", [1, 4096, 1 * M, 100 * M, 900 * M])
def test_pool_truncated_is_refused(filled, size):
    whole = os.path.getsize(filled.pool)
    copy = filled.pool + ".copy"
    subprocess.run(["cp", "--sparse=always", filled.pool, copy], check=True)
    os.truncate(filled.pool, size)
    refuses_to_start(filled, "truncated|shorter|smaller|too small|superblock|size|not a byre pool|not a pool")
    filled.refused("pool", "check", filled.pool)
    assert os.path.getsize(filled.pool) == size
    os.replace(copy, filled.pool)
    assert os.path.getsize(filled.pool) == whole
    still_has_its_data(filled)


@pytest.mark.parametrize("kind", ["empty", "zeros", "ext4", "random", "text"])
def test_pool_of_another_format_is_refused_and_untouched(make_byred, kind):
    b = make_byred(create=False)
    b.damaged = True
    with open(b.pool, "wb") as f:
        if kind == "random":
            f.write(pattern(32 * M))
        elif kind == "text":
            f.write(b"shopping list\n")
        elif kind != "empty":
            f.truncate(64 * M)
    if kind == "ext4":
        subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", b.pool], check=True)
    before = open(b.pool, "rb").read()
    refuses_to_start(b, re.escape(b.pool))
    b.refused("pool", "check", b.pool)
    b.refused("pool", "info", b.pool)
    assert open(b.pool, "rb").read() == before


def test_pool_create_refuses_what_holds_something_unless_forced(make_byred):
    b = make_byred(create=False)
    with open(b.pool, "wb") as f:
        f.write(b"precious" * 1000)
    b.refused("pool", "create", b.pool, "--size", "64M", "--sparse", match="force")
    assert open(b.pool, "rb").read() == b"precious" * 1000
    b.ok("pool", "create", b.pool, "--size", "64M", "--sparse", "--force")
    b.start()
    b.stop()
    b.refused("pool", "create", b.pool, "--size", "64M", "--sparse", match="force")


def test_pool_that_does_not_exist(make_byred):
    b = make_byred(create=False)
    b.damaged = True
    refuses_to_start(b, "no such file|does not exist")
    b.refused("pool", "check", b.pool)
    assert not os.path.exists(b.pool)
    b.refused("pool", "create", "/nonexistent/dir/pool", "--size", "64M")


def test_pool_is_a_directory(make_byred):
    b = make_byred(create=False)
    b.damaged = True
    os.mkdir(b.pool)
    refuses_to_start(b, "directory|not a")


def test_pool_held_by_another_process_names_its_pid(make_byred):
    b = make_byred("64M").start()
    second = subprocess.run(
        [BYRED, "--pool", b.pool, "--nbd", f"unix:{b.dir}/nbd2.sock", "--rpc", f"unix:{b.dir}/rpc2.sock"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30,
    )
    assert second.returncode == 1
    assert re.search(rf"\b{b.proc.pid}\b", second.stdout), second.stdout
    assert b.byre("pool", "check", b.pool).rc == 1
    b.refused("pool", "check", b.pool, match=rf"\b{b.proc.pid}\b")
    b.refused("pool", "create", b.pool, "--size", "64M", "--sparse", "--force", match=rf"\b{b.proc.pid}\b")
    assert b.info()["size"] == 64 * M, "the daemon goes on"
    b.kill()
    b.start()
    b.stop()


def test_pool_socket_in_use_by_a_living_daemon_is_refused(make_byred):
    b = make_byred("64M").start()
    other = make_byred("64M")
    other.nbd_sock = b.nbd_sock
    other.spawn()
    assert other.wait(30) == 1
    assert b.nbd_sock in other.log_text()
    b.create("still", "1M")
    assert b.open("still").get_size() == 1 * M


def test_pool_stale_socket_after_kill_is_taken_over(make_byred):
    b = make_byred("64M").start()
    b.kill()
    assert os.path.exists(b.nbd_sock)
    b.start()
    b.stop()
    assert not os.path.exists(b.nbd_sock), "a clean end takes the socket away"


def test_pool_copied_while_stopped_is_the_same_pool(filled):
    copy = filled.dir + "/copy"
    subprocess.run(["cp", "--sparse=always", filled.pool, copy], check=True)
    shutil.move(copy, filled.pool)
    still_has_its_data(filled)


def test_pool_check_finds_damaged_node(filled):
    """Whatever part of the metadata is hit in both copies, check says so and exits 1; in one copy it is read from the
    twin."""
    filled.damaged = True
    # Nodes carry a checksum and their own address; data blocks are the pattern. Metadata is what is neither zero nor
    # pattern.
    stored = pattern(8 * M)
    data = {stored[i:i + BLOCK] for i in range(0, 8 * M, BLOCK)}
    supers = set(superblocks(filled.pool))
    hit = 0
    with open(filled.pool, "r+b") as f:
        for off, block in list(stored_blocks(filled.pool)):
            if off not in supers and block not in data:
                f.seek(off + 64)
                f.write(bytes(b ^ 0xFF for b in block[64:128]))
                hit += 1
    assert hit > 0
    findings = filled.check()
    assert findings, "damage in every copy of the metadata was not found"
