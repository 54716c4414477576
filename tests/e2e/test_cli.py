# SPDX-License-Identifier: BSD-3-Clause
"""The command line: what it does, its exit codes, its JSON."""
import re
import subprocess
import time

import pytest

from byred import BYRE, BYRED, G, K, M, T, run_byre

INFO_FIELDS = """size data_bytes metadata_bytes reserved_bytes pinned_bytes free_bytes generation block_groups
    free_space_cache last_commit_ms volumes snapshots objects""".split()


@pytest.mark.parametrize("program", [BYRE, BYRED])
@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_cli_help_and_version(program, flag):
    got = subprocess.run([program, flag], capture_output=True, text=True, timeout=30)
    assert got.returncode == 0 and got.stdout.strip() and not got.stderr
    if flag == "--version":
        assert re.search(r"\d+\.\d+", got.stdout)


@pytest.mark.parametrize(
    "args",
    [
        [], ["nonsense"], ["pool"], ["volume"], ["volume", "nonsense"], ["pool", "create"], ["volume", "create", "x"],
        ["volume", "delete"], ["volume", "rename", "a"], ["volume", "list", "surplus"], ["pool", "info", "--nonsense"],
        ["volume", "create", "x", "12Q"], ["volume", "create", "x", "-5"], ["volume", "create", "x", ""],
        ["volume", "create", "x", "1.5.2G"], ["volume", "create", "x", "99999999999999999999999"],
        ["volume", "resize", "x", "abc"], ["pool", "create", "/tmp/never-made"], ["pool", "grow", "1G", "2G"],
    ],
)  # fmt: skip
def test_cli_wrong_usage_is_exit_2(shared, args):
    shared.refused(*args, rc=2)


@pytest.mark.parametrize("args", [[], ["--pool"], ["--nonsense"], ["--pool", "x", "--cache-size", "lots"],
                                  ["--pool", "x", "--nbd", "ftp:y"], ["--pool", "x", "surplus"]])
def test_cli_byred_wrong_usage_is_exit_2(args):
    got = subprocess.run([BYRED, *args], capture_output=True, text=True, timeout=30, cwd="/")
    assert got.returncode == 2 and got.stderr.strip(), got



def test_cli_volume_life(shared):
    b = shared
    b.ok("volume", "create", "one", "10M")
    b.refused("volume", "create", "one", "10M", match="one.*exist")
    info = b.json("volume", "info", "one")
    assert info["name"] == "one" and info["size"] == 10 * M
    assert b.volumes()["one"] == 10 * M
    assert "one" in b.ok("volume", "list").out and "one" in b.ok("volume", "info", "one").out
    b.ok("volume", "rename", "one", "two")
    assert "one" not in b.volumes() and b.volumes()["two"] == 10 * M
    b.refused("volume", "info", "one", match="one")
    b.refused("volume", "rename", "one", "three", match="one")
    b.create("three", "4K")
    b.refused("volume", "rename", "two", "three", match="three.*exist")
    b.ok("volume", "resize", "two", "20M")
    assert b.volumes()["two"] == 20 * M
    b.refused("volume", "resize", "two", "4K", match="two.*lost.*--shrink")
    assert b.volumes()["two"] == 20 * M
    b.ok("volume", "resize", "two", "4K", "--shrink")
    assert b.open("two").get_size() == 4 * K
    b.close_handles()
    for name in ("two", "three"):
        b.delete(name)
        b.refused("volume", "delete", name, match=name)
    assert not {"one", "two", "three"} & set(b.volumes())


def test_cli_volumes_survive_a_restart(make_byred):
    b = make_byred("256M").start()
    want = {f"vol.{i}": (i + 1) * M for i in range(50)}
    for name, size in want.items():
        b.create(name, size)
    b.ok("volume", "rename", "vol.7", "seven")
    b.ok("volume", "delete", "vol.8")
    want["seven"] = want.pop("vol.7")
    del want["vol.8"]
    assert b.volumes() == want
    b.restart()
    assert b.volumes() == want
    b.kill()
    b.start()
    assert b.volumes() == want
    assert list(b.volumes()) == sorted(want), "listed in order of name"


@pytest.mark.parametrize("name", ["a", "A9", "x" * 255, "v.1", "under_score", "da-sh", "9", "a..b"])
def test_cli_good_names(shared, name):
    shared.create(name, "1M")
    assert name in shared.volumes()
    assert shared.open(name).get_size() == 1 * M
    shared.close_handles()
    shared.delete(name)


@pytest.mark.parametrize(
    "name", ["", ".a", ".", "..", "x" * 256, "a b", "a/b", "ä", "a@b", "a\nb", "a:b", "a%", "a\\b", "--", "-a"]
)
def test_cli_bad_names_are_refused_before_anything_changes(shared, name):
    before = shared.volumes()
    for args in (["create", name, "1M"], ["delete", name], ["info", name]):
        result = shared.byre("volume", *args)
        assert result.rc in (1, 2) and result.err.strip(), result
        assert len(result.err.strip().splitlines()) == 1 or result.rc == 2, result
    shared.create("good", "1M")
    result = shared.byre("volume", "rename", "good", name)
    assert result.rc in (1, 2) and result.err.strip()
    shared.delete("good")
    assert shared.volumes() == before


@pytest.mark.parametrize(
    "text, size",
    [("4096", 4096), ("4K", 4096), ("1M", M), ("3G", 3 * G), ("2T", 2 * T), ("1P", 1024 * T),
     ("1", 4096), ("4097", 8192), ("9223372036854771712", (1 << 63) - 4096)],
)  # fmt: skip
def test_cli_sizes(shared, text, size):
    """Rounded up to 4 KiB, and said so; larger than the pool is fine."""
    result = shared.ok("volume", "create", "sized", text)
    if text in ("1", "4097"):
        assert re.search("round", result.out + result.err, re.I), result
    assert shared.volumes()["sized"] == size
    h = shared.open("sized")
    assert h.get_size() == size
    h.pwrite(b"end", size - 3)
    assert h.pread(4, size - 4) == b"\0end"
    shared.close_handles()
    shared.delete("sized")


@pytest.mark.parametrize("text", ["0", "0K", "9223372036854775807", "8192P", "16384P"])
def test_cli_impossible_sizes_are_refused(shared, text):
    result = shared.byre("volume", "create", "sized", text)
    assert result.rc in (1, 2) and result.err.strip()
    assert "sized" not in shared.volumes()


def test_cli_pool_info_json(make_byred):
    b = make_byred("1G").start()
    b.create("v", "200M")
    info = b.info()
    missing = [f for f in INFO_FIELDS if f not in info]
    assert not missing, f"fields missing in pool info --json: {missing}"
    assert info["size"] == 1 * G and info["volumes"] == 1 and info["snapshots"] == 0 and info["objects"] == 0
    assert isinstance(info["block_groups"], dict) and info["block_groups"]
    assert isinstance(info["free_space_cache"], dict)
    assert {"loaded", "written", "rebuilt"} <= set(info["free_space_cache"])
    assert 0 < info["free_bytes"] < 1 * G and info["reserved_bytes"] == 0
    h = b.open("v")
    for i in range(8):
        h.pwrite(bytes([i + 1]) * 8 * M, i * 8 * M)
    h.flush()
    b.ok("commit")
    after = b.info()
    assert 64 * M <= after["data_bytes"] - info["data_bytes"] < 80 * M
    assert 50 * M < info["free_bytes"] - after["free_bytes"] < 90 * M
    assert after["generation"] > info["generation"]
    assert after["reserved_bytes"] == 0, "nothing is reserved when idle"
    h.trim(64 * M, 0)
    h.flush()
    b.ok("commit")
    b.ok("commit")
    assert b.info()["data_bytes"] < 8 * M, "trim gives the space back"
    assert b.json("stats")
    assert b.ok("pool", "info").out.strip()


def test_cli_pool_info_of_a_file_that_no_daemon_holds(make_byred):
    b = make_byred("1G")
    info = run_byre("pool", "info", b.pool, "--json")
    assert info.rc == 0, info
    assert info.json["size"] == 1 * G and info.json["volumes"] == 0


def test_cli_pool_create_preallocates_unless_sparse(make_byred):
    import os

    b = make_byred(create=False)
    b.ok("pool", "create", b.pool, "--size", "64M")
    assert os.stat(b.pool).st_blocks * 512 >= 64 * M
    os.unlink(b.pool)
    b.ok("pool", "create", b.pool, "--size", "64M", "--sparse")
    assert os.stat(b.pool).st_blocks * 512 < 32 * M
    assert os.stat(b.pool).st_size == 64 * M


@pytest.mark.parametrize("size", ["0", "4K", "1M"])
def test_cli_pool_too_small_is_refused(make_byred, size):
    import os

    b = make_byred(create=False)
    result = b.byre("pool", "create", b.pool, "--size", size, "--sparse")
    assert result.rc in (1, 2) and result.err.strip()
    assert not os.path.exists(b.pool)


def test_cli_smallest_pool_works(make_byred):
    b = make_byred("16M").start()
    b.create("v", "4M")
    h = b.open("v")
    h.pwrite(b"x" * 64 * K, 0)
    h.flush()
    b.restart()
    assert b.open("v").pread(64 * K, 0) == b"x" * 64 * K


def test_cli_pool_grow(make_byred):
    b = make_byred("128M").start()
    b.create("v", "1G")
    before = b.info()
    b.ok("pool", "grow", "1G")
    after = b.info()
    assert after["size"] == 1 * G and after["free_bytes"] - before["free_bytes"] > 700 * M
    b.refused("pool", "grow", "512M")
    h = b.open("v")
    for i in range(20):
        h.pwrite(bytes([i + 1]) * 16 * M, i * 16 * M)
    h.flush()
    b.restart()
    assert b.info()["size"] == 1 * G
    h = b.open("v")
    assert all(h.pread(16 * M, i * 16 * M) == bytes([i + 1]) * 16 * M for i in range(20))


def test_cli_without_a_daemon(make_byred):
    b = make_byred(create=False)
    b.damaged = True
    start = time.monotonic()
    b.refused("volume", "list", match=re.escape(b.rpc_sock))
    assert time.monotonic() - start < 10


def test_cli_connect_option_wins_over_the_environment(shared):
    result = run_byre("--connect", shared.connect_addr, "volume", "list", connect="unix:/nonexistent")
    assert result.rc == 0, result


def test_cli_shutdown_ends_the_daemon(make_byred):
    b = make_byred("64M").start()
    b.create("v", "1M")
    b.ok("shutdown")
    assert b.wait(60) == 0
    b.start()
    assert "v" in b.volumes()
