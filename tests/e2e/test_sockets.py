# SPDX-License-Identifier: BSD-3-Clause
"""Who can connect: sockets' modes and owners, and no TCP unless it is asked for."""
import os
import stat
import subprocess
import sys
import time

import pytest

import byred as lib

NOBODY = 65534


def start(b, *args, umask=0o077):
    """A daemon as a user starts it, who names the pool only."""
    with open(b.log, "ab") as log:
        b.proc = subprocess.Popen(
            [lib.BYRED, "--pool", b.pool, *args],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=b.dir,
            umask=umask,
        )  # fmt: skip
    deadline = time.monotonic() + 60
    b.log_from = 0
    while "\nready" not in "\n" + b.log_text():
        assert b.proc.poll() is None and time.monotonic() < deadline, b.log_text()
        time.sleep(0.01)


def mode(path):
    st = os.stat(path)
    assert stat.S_ISSOCK(st.st_mode)
    return stat.S_IMODE(st.st_mode)


def tcp_sockets(b):
    """Inodes of the TCP sockets on which the daemon listens."""
    listening = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if os.path.exists(table):
            with open(table) as f:
                listening |= {line.split()[9] for line in f if line.split()[3] == "0A"}
    mine = set()
    for fd in os.listdir(f"/proc/{b.proc.pid}/fd"):
        try:
            link = os.readlink(f"/proc/{b.proc.pid}/fd/{fd}")
        except OSError:
            continue
        if link.startswith("socket:["):
            mine.add(link[8:-1])
    return mine & listening


def connect_as(uid, gid, path):
    code = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    return subprocess.run([sys.executable, "-c", code, path], user=uid, group=gid, extra_groups=[],
                          stderr=subprocess.PIPE, text=True)  # fmt: skip


def test_sockets_by_default_are_unix_only_and_for_owner_and_group(make_byred):
    b = make_byred("64M")
    start(b)
    assert tcp_sockets(b) == set(), "a port on 127.0.0.1 is open to every user of the machine"
    for path in (b.nbd_sock, b.rpc_sock):
        assert mode(path) == 0o660, "whatever the umask"
    assert b.ok("volume", "list")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be somebody else")
def test_sockets_of_another_user_are_closed(make_byred):
    b = make_byred("64M")
    start(b, "--socket-group", str(NOBODY), "--http", "unix:http.sock", umask=0)
    os.chmod(b.dir, 0o755)
    for path in (b.nbd_sock, b.rpc_sock, os.path.join(b.dir, "http.sock")):
        other = connect_as(NOBODY - 1, NOBODY - 1, path)
        assert other.returncode != 0 and "PermissionError" in other.stderr, other
        member = connect_as(NOBODY - 1, NOBODY, path)
        assert member.returncode == 0, member


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to give sockets away")
def test_sockets_have_the_mode_and_owner_that_are_asked_for(make_byred):
    b = make_byred("64M")
    start(b, "--socket-mode", "0600", "--socket-owner", "nobody")
    for path in (b.nbd_sock, b.rpc_sock):
        assert mode(path) == 0o600
        assert os.stat(path).st_uid == NOBODY


@pytest.mark.parametrize("addr, warned", [("tcp:127.0.0.1:0", False), ("tcp:[::1]:0", False), ("tcp:0.0.0.0:0", True)])
def test_tcp_beyond_loopback_is_warned_about(make_byred, addr, warned):
    b = make_byred("64M")
    if "::1" in addr and not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("no IPv6")
    start(b, "--nbd", addr)
    assert tcp_sockets(b)
    assert ("no passwords" in b.log_text()) == warned


@pytest.mark.parametrize(
    "option",
    [("--socket-mode", "9"), ("--socket-mode", "01777"), ("--socket-owner", "no such user"), ("--socket-group", "-1")],
)  # fmt: skip
def test_wrong_socket_options_are_refused(make_byred, option):
    b = make_byred("64M")
    r = subprocess.run([lib.BYRED, "--pool", b.pool, *option], capture_output=True, text=True, timeout=20)
    assert r.returncode == 2 and option[0][2:] in r.stderr
