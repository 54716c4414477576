# SPDX-License-Identifier: BSD-3-Clause
"""What an administrator types, sees and links against."""
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import time

import nbd
import pytest

from byred import BUILD, BYRE, G, K, M, run_byre

HEADER = os.path.join(os.path.dirname(__file__), "../../client/byre.h")


# ---- libbyre ----------------------------------------------------------------------------------


def declared():
    """The functions of byre.h that the library has to have: all that are not inline."""
    with open(HEADER) as f:
        text = re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)
    inline = set(re.findall(r"static inline [^(]*?(byre_\w+)\(", text))
    called = set(re.findall(r"(?:^|\s|\*)(byre_\w+)\(", text))
    return called - inline


def test_libbyre_shows_its_header_and_nothing_else():
    """It exported the protocol's parser, the log and every generated message."""
    lib = os.path.join(BUILD, "libbyre.so")
    out = subprocess.run(["nm", "-D", "--defined-only", lib], capture_output=True, text=True, check=True).stdout
    shown = {line.split()[2].split("@")[0] for line in out.splitlines()} - {"BYRE_0"}
    assert shown == declared()


def test_libbyre_is_a_c_and_a_cpp_library(tmp_path):
    """What byre.h has at its top compiles, links and runs, with warnings as errors."""
    text = '#include "byre.h"\nint main(void) { struct byre_pool_info i; struct byre *b = 0; struct byre_error e;\n'
    text += 'if (byre_connect("unix:/nonexistent", &b, &e) == 0) return byre_pool_info(b, &i, &e);\n'
    text += "byre_close(b); return e.code == -2 ? 0 : 1; }\n"
    for cc, name in (("cc", "x.c"), ("c++", "x.cc")):
        if subprocess.run(["which", cc], capture_output=True).returncode:
            pytest.skip(f"no {cc}")
        src, prog = tmp_path / name, tmp_path / (name + ".out")
        src.write_text(text)
        subprocess.run([cc, "-Wall", "-Wextra", "-Werror", "-I", os.path.dirname(HEADER), "-o", prog, src,
                        os.path.join(BUILD, "libbyre.so")], check=True)
        env = dict(os.environ, LD_LIBRARY_PATH=str(tmp_path))
        os.path.exists(tmp_path / "libbyre.so.0") or os.symlink(os.path.join(BUILD, "libbyre.so"), tmp_path / "libbyre.so.0")
        assert subprocess.run([prog], env=env).returncode == 0


# ---- the command line -------------------------------------------------------------------------


def test_a_daemon_that_hangs_does_not_hang_the_command_line(make_byred):
    b = make_byred("64M").start()
    os.kill(b.proc.pid, signal.SIGSTOP)
    try:
        start = time.monotonic()
        got = b.byre("volume", "list", "--timeout", "1")
        assert got.rc == 1 and "did not answer in time" in got.err and time.monotonic() - start < 8, got
    finally:
        os.kill(b.proc.pid, signal.SIGCONT)
    assert b.volumes() == {}


def test_errors_are_json_for_scripts(shared):
    b = shared
    got = b.byre("volume", "info", "nothing", "--json")
    assert got.rc == 1 and got.out == "" and got.err.count("\n") == 1
    line = json.loads(got.err)
    assert line["code"] == "ENOENT" and "nothing" in line["error"]
    got = b.byre("volume", "create", "x", "10GB", "--json")
    assert got.rc == 2 and json.loads(got.err)["code"] == "usage"


def test_sizes_as_people_type_them(shared):
    b = shared
    for size, want in (("10GiB", 10 * G), ("1.5G", 3 * G // 2), ("512MiB", 512 * M), ("0.5k", 4 * K)):
        b.create("typed", size)
        assert b.volumes()["typed"] == want
        b.delete("typed")


def test_an_idle_pool_is_not_read_only(make_byred):
    b = make_byred("64M").start()
    assert b.json("pool", "info")["state"] == "writable"
    b.stop()
    info = json.loads(run_byre("pool", "info", b.pool, "--json").out)
    assert info["state"] == "idle" and info["read_only"] is False
    assert re.search(r"^state +idle$", run_byre("pool", "info", b.pool).out, re.M)


def test_pool_grow_takes_all_of_its_device(make_byred):
    b = make_byred("64M").start()
    b.refused("pool", "grow", match="all of its device already, 67108864 bytes")
    b.ok("pool", "grow", "+32M")
    assert b.json("pool", "info")["size"] == 96 * M
    os.truncate(b.pool, 200 * M + 777)
    b.ok("pool", "grow")
    assert b.json("pool", "info")["size"] == 200 * M
    b.stop()
    assert b.check() == []


# ---- who does what ----------------------------------------------------------------------------


def wait_until(what, timeout=10):
    deadline = time.monotonic() + timeout
    while not (got := what()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return got


def test_clients_are_listed_and_a_hung_one_is_dropped(make_byred):
    """A client that hangs kept its volume from being deleted, and nobody could tell which it was."""
    b = make_byred("64M").start()
    b.create("held", "16M")
    h = b.open("held")
    h.pwrite(b"x" * 8192, 0)
    h.pread(4096, 0)
    client, = b.json("client", "list")
    assert client["volume"] == "held" and f"pid {os.getpid()}" in client["peer"] and not client["read_only"]
    assert client["figures"]["write"]["bytes"] == 8192 and client["figures"]["read"]["count"] == 1
    assert "held" in b.ok("client", "list").out
    b.refused("volume", "delete", "held", match="in use")
    b.refused("client", "drop", str(client["id"] + 1), match="no such client")
    b.ok("client", "drop", str(client["id"]))
    wait_until(lambda: b.json("client", "list") == [])
    b.delete("held")
    b.close_handles()


def test_figures_by_volume_survive_their_clients(make_byred):
    b = make_byred("64M").start()
    for name in ("a", "b"):
        b.create(name, "16M")
    h = b.open("a")
    h.pwrite(b"x" * 4096, 0)
    h.flush()
    b.close_handles()
    b.open("b").pread(65536, 0)
    b.ok("volume", "rename", "b", "c")
    stats = b.json("stats")
    assert stats["nbd"]["write"]["bytes"] == 4096 and stats["nbd"]["read"]["bytes"] == 65536
    assert stats["nbd"]["flush"]["count"] == 1 and sum(x["count"] for x in stats["nbd"]["read"]["latency"]) == 1
    assert re.search(r"nbd: read +1 \(0 failed\), 64 KiB", b.ok("stats").out)
    got = b.json("top", "--interval", "1")
    assert [v["volume"] for v in got["volumes"]] == ["a", "c"] and got["seconds"] >= 1
    assert re.search(r"^c +0 ", b.ok("top", "--interval", "1").out, re.M)


def test_top_shows_what_happens_now(make_byred):
    b = make_byred("64M").start()
    b.create("busy", "16M")
    b.create("idle", "16M")
    h, _ = b.open("busy"), b.open("idle").pread(4096, 0)
    top = subprocess.Popen([BYRE, "--connect", f"unix:{b.rpc_sock}", "top", "--interval", "2", "--json"], stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    for _ in range(10):
        h.pwrite(b"x" * 4096, 0)
    got = json.loads(top.communicate(timeout=20)[0])
    assert [v["volume"] for v in got["volumes"]] == ["busy", "idle"]
    assert got["volumes"][0]["figures"]["write"]["count"] == 10 and got["volumes"][1]["figures"]["read"]["count"] == 0
    assert got["clients"][0]["figures"]["write"]["bytes"] == 40960


def test_metrics_pass_promtools_lint(make_byred):
    """Names, units, types and help texts as Prometheus wants them."""
    if subprocess.run(["which", "promtool"], capture_output=True).returncode:
        pytest.skip("no promtool (Debian's package prometheus)")
    b = make_byred("64M")
    sock = os.path.join(b.dir, "http.sock")
    b.args += ["--http", f"unix:{sock}"]
    b.start()
    b.create("v", "16M")
    h = b.open("v")
    h.pwrite(b"x" * 4096, 0)
    h.flush()
    h.trim(4096, 0)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(sock)
        s.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = b"".join(iter(lambda: s.recv(65536), b"")).split(b"\r\n\r\n", 1)[1]
    assert b'byre_volume_bytes_total{volume="v",op="write"} 4096\n' in text
    got = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert got.returncode == 0 and not got.stdout and not got.stderr, got


# ---- what volumes are -------------------------------------------------------------------------


def test_volume_set_survives_a_restart(make_byred):
    b = make_byred("256M").start()
    b.create("v", "16M")
    b.ok("volume", "set", "v", "--reserved", "--read-only", "--comment", "die Datenbank für alle")
    for _ in range(2):
        info = b.json("volume", "info", "v")
        assert info["reserved"] and info["read_only"] and info["comment"] == "die Datenbank für alle"
        assert b.json("pool", "info")["volume_reserved_bytes"] >= 16 * M
        assert b.open("v").is_read_only()
        b.close_handles()
        b.kill()
        assert b.check() == []
        b.start()
    assert "comment" in b.ok("volume", "info", "v").out
    info = b.json("volume", "set", "v", "--thin", "--writable", "--comment", "")
    assert not info["reserved"] and not info["read_only"] and info["comment"] == ""
    assert b.json("pool", "info")["volume_reserved_bytes"] == 0
    b.open("v").pwrite(b"x", 0)
    b.close_handles()
    b.refused("volume", "set", "v", "--comment", "two\nlines", match="one line")
    b.refused("volume", "set", "v", "--comment", "x" * 256, match="too long")
    b.refused("volume", "set", "none", "--thin", match="none.*not exist")
    for wrong in ([], ["--thin", "--reserved"], ["--read-only", "--writable"]):
        assert b.byre("volume", "set", "v", *wrong).rc == 2


def test_volume_set_read_only_holds_at_once(make_byred):
    b = make_byred("256M").start()
    b.create("v", "16M")
    h = b.open("v")
    h.pwrite(b"x" * 4096, 0)
    b.ok("volume", "set", "v", "--read-only")
    with pytest.raises(nbd.Error) as e:
        h.pwrite(b"y" * 4096, 0)
    assert e.value.errno == "EPERM"
    h.flush()
    assert h.pread(4096, 0) == b"x" * 4096
    b.ok("volume", "set", "v", "--writable")
    h.pwrite(b"y" * 4096, 0)


def test_volume_set_reserved_keeps_its_promise(make_byred):
    """A thin volume that becomes reserved can be written to the end beside others that take all there is."""
    b = make_byred("256M").start()
    b.create("mine", "64M")
    b.create("greedy", "1G")
    h, g = b.open("mine"), b.open("greedy")
    h.pwrite(b"a" * (8 * M), 0)
    b.ok("volume", "set", "mine", "--reserved")
    b.refused("volume", "set", "greedy", "--reserved", match="greedy.*missing")
    with pytest.raises(nbd.Error):
        for off in range(0, 1 << 30, M):
            g.pwrite(b"g" * M, off)
    for off in range(0, 64 * M, M):
        h.pwrite(b"b" * M, off)
    h.flush()
    assert h.pread(M, 63 * M) == b"b" * M


def test_used_is_right_after_a_copy(make_byred):
    b = make_byred("256M", args=["--commit-interval", "3600"]).start()
    b.create("v", "64M")
    b.open("v").pwrite(b"x" * (8 * M), 0)
    assert b.json("volume", "info", "v")["used_bytes"] == 8 * M
    b.ok("commit")
    assert b.json("volume", "list")[0]["used_bytes"] == 8 * M
