# SPDX-License-Identifier: BSD-3-Clause
"""What an administrator types, sees and links against."""
import ctypes
import json
import os
import re
import signal
import subprocess
import time

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
