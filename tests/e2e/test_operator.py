# SPDX-License-Identifier: BSD-3-Clause
"""What an administrator types, sees and links against."""
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import nbd
import pytest

from byred import BUILD, BYRE, BYRED, G, K, M, run_byre

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
    needs = subprocess.run(
        ["readelf", "-d", os.path.join(BUILD, "libbyre.so")], capture_output=True, text=True, check=True
    ).stdout
    san = ["-fsanitize=address,undefined"] if "libasan" in needs else []  # its runtime has to come first
    for cc, name in (("cc", "x.c"), ("c++", "x.cc")):
        if subprocess.run(["which", cc], capture_output=True).returncode:
            pytest.skip(f"no {cc}")
        src, prog = tmp_path / name, tmp_path / (name + ".out")
        src.write_text(text)
        subprocess.run([cc, *san, "-Wall", "-Wextra", "-Werror", "-I", os.path.dirname(HEADER), "-o", prog, src,
                        os.path.join(BUILD, "libbyre.so")], check=True)
        env = dict(os.environ, LD_LIBRARY_PATH=str(tmp_path))
        os.path.exists(tmp_path / "libbyre.so.0") or os.symlink(
            os.path.join(BUILD, "libbyre.so"), tmp_path / "libbyre.so.0"
        )
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
    b.ok("commit")
    stats = b.json("stats")
    for kind in ("commit", "log_group"):
        assert 0 < stats[kind]["count"] == sum(x["count"] for x in stats[kind]["latency"]) and stats[kind]["us"] > 0
    assert re.search(r"commits +\d+, \d.* on average, 99 % within \d", b.ok("stats").out)
    assert re.search(r"flush log groups +\d+, \d.* on average, 99 % within \d", b.ok("stats").out)
    got = b.json("top", "--interval", "1")
    assert [v["volume"] for v in got["volumes"]] == ["a", "c"] and got["seconds"] >= 1
    assert re.search(r"^c +0 ", b.ok("top", "--interval", "1").out, re.M)


def test_top_shows_what_happens_now(make_byred):
    b = make_byred("64M").start()
    b.create("busy", "16M")
    b.create("idle", "16M")
    h, _ = b.open("busy"), b.open("idle").pread(4096, 0)
    top = subprocess.Popen(
        [BYRE, "--connect", f"unix:{b.rpc_sock}", "top", "--interval", "2", "--json"], stdout=subprocess.PIPE, text=True
    )
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
    counts = dict(
        line.split()
        for line in text.decode().splitlines()
        if line.startswith(("byre_log_group_seconds_", "byre_commits_total"))
    )
    assert int(counts["byre_log_group_seconds_count"]) > 0 and float(counts["byre_log_group_seconds_sum"]) > 0
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


# ---- the daemon -------------------------------------------------------------------------------


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def test_read_only_serves_what_a_crash_left_and_changes_nothing(make_byred):
    """The log is replayed in memory; the file need not be writable, and two may read it at once."""
    b = make_byred("64M", args=["--commit-interval", "3600"]).start()
    b.create("v", "16M")
    h = b.open("v")
    h.pwrite(b"rescue me" * 1000, 4096)
    h.flush()
    b.kill()
    b.close_handles()
    before = digest(b.pool)
    os.chmod(b.pool, 0o400)
    b.start("--read-only")
    h = b.open("v")
    assert h.is_read_only() and h.pread(9000, 4096) == b"rescue me" * 1000
    h.flush()
    assert b.json("pool", "info")["state"] == "read-only"
    b.refused("volume", "create", "w", "4K", match="read-only")
    b.refused("volume", "delete", "v", match="read-only")
    b.refused("volume", "set", "v", "--thin", match="read-only")
    assert "rescue" in h.pread(9, 4096).decode()
    assert json.loads(run_byre("pool", "info", b.pool, "--json").out)["state"] == "idle"
    b.close_handles()
    b.stop()
    assert digest(b.pool) == before
    os.chmod(b.pool, 0o600)
    b.start()
    assert b.open("v").pread(9, 4096) == b"rescue me"


def test_the_sample_configuration_is_understood(tmp_path):
    """As it is, and with every line that is a comment by default."""
    with open(os.path.join(os.path.dirname(__file__), "../../deploy/byred.conf")) as f:
        sample = f.read().replace("/var/lib/byre/pool", str(tmp_path / "missing"))
    full = re.sub(r"(?m)^;(?!socket-group)", "", sample)
    assert full.count("\n;") == 1 and "warn-full" in full
    for text in (sample, full):
        (tmp_path / "conf").write_text(text)
        r = subprocess.run([BYRED, "--config", str(tmp_path / "conf")], capture_output=True, text=True, timeout=20)
        assert r.returncode == 1 and "missing: there is no such file" in r.stderr, r.stderr


def test_sighup_while_the_pool_opens(make_byred):
    """It ended the process."""
    b = make_byred("64M")
    for _ in range(20):
        b.spawn()
        while not has_open(b.proc.pid, b.pool):
            assert b.running()
        while b.running() and not re.search(r"^ready$", b.log_text(since_start=True), re.M):
            os.kill(b.proc.pid, signal.SIGHUP)
        assert b.running(), b.log_text()
        wait_until(lambda: re.search(r"^ready$", b.log_text(since_start=True), re.M))
        b.stop()


def has_open(pid, path):
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(f"/proc/{pid}/fd/{fd}") == path:
                return True
        except OSError:
            pass
    return False


class Manager:
    """What systemd does for a service of Type=notify: readiness, watchdog, and a store of descriptors."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "notify")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(self.path)
        self.sock.settimeout(10)
        self.store = []
        self.said = []

    def take(self, until):
        while True:
            data, fds, _, _ = socket.recv_fds(self.sock, 4096, 64)
            text = data.decode()
            self.said.append(text)
            if "FDSTORE=1" in text:
                self.store += fds
            if "FDSTOREREMOVE=1" in text:
                for fd in self.store:
                    os.close(fd)
                self.store = []
            if until in text:
                return

    def start(self, b, watchdog_us=0, args=()):
        passed = list(self.store)
        script = "import os, sys\nfds = %r\nfor i, fd in enumerate(fds): os.dup2(fd, 100 + i)\n" % passed
        script += "for i in range(len(fds)): os.dup2(100 + i, 3 + i)\n"
        script += "os.environ['LISTEN_PID'] = os.environ['WATCHDOG_PID'] = str(os.getpid())\n"
        script += "os.environ['LISTEN_FDS'] = str(len(fds))\nos.execv(sys.argv[1], sys.argv[1:])"
        env = dict(os.environ, NOTIFY_SOCKET=self.path, WATCHDOG_USEC=str(watchdog_us))
        with open(b.log, "ab") as log:
            b.proc = subprocess.Popen(
                [sys.executable, "-c", script, BYRED, "--pool", b.pool, "--nbd", f"unix:{b.nbd_sock}", "--rpc",
                 f"unix:{b.rpc_sock}", *args], env=env, pass_fds=passed, stdout=log, stderr=log, cwd=b.dir)
        self.take("READY=1")


def test_who_connects_during_a_restart_waits(make_byred):
    """The listening sockets stay with the service manager: nobody gets ECONNREFUSED, after a stop or a crash."""
    b = make_byred("64M")
    manager = Manager(b.dir)
    manager.start(b)
    b.create("v", "16M")
    assert len(manager.store) == 2
    for end in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        b.proc.send_signal(end)
        b.proc.wait()
        late = subprocess.Popen(
            [BYRE, "--connect", f"unix:{b.rpc_sock}", "volume", "list", "--json"], stdout=subprocess.PIPE, text=True
        )
        with socket.socket(socket.AF_UNIX) as nbd_client:
            nbd_client.connect(b.nbd_sock)
            nbd_client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                nbd_client.recv(8)
            assert late.poll() is None
            manager.start(b)
            nbd_client.settimeout(10)
            assert nbd_client.recv(8) == b"NBDMAGIC"
        assert [v["name"] for v in json.loads(late.communicate(timeout=10)[0])] == ["v"]
        assert len(manager.store) == 2, "no restart adds to the store"
    b.stop()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to give sockets away")
def test_kept_sockets_follow_the_configuration(make_byred):
    """A restart gives them the mode, owner and group that are asked for by then, and takes them back."""
    b = make_byred("64M")
    manager = Manager(b.dir)
    other = 65534
    for args, want in (((), (0o660, 0, os.getgid())),
                       (("--socket-mode", "0600", "--socket-owner", str(other)), (0o600, other, os.getgid())),
                       (("--socket-mode", "0666", "--socket-group", str(other)), (0o666, 0, other)),
                       ((), (0o660, 0, os.getgid()))):  # fmt: skip
        inodes = [os.stat(p).st_ino for p in (b.nbd_sock, b.rpc_sock)] if manager.store else None
        manager.start(b, args=args)
        for path in (b.nbd_sock, b.rpc_sock):
            st = os.stat(path)
            assert (st.st_mode & 0o7777, st.st_uid, st.st_gid) == want, args
        assert inodes in (None, [os.stat(p).st_ino for p in (b.nbd_sock, b.rpc_sock)]), "they are the sockets of before"
        b.proc.send_signal(signal.SIGTERM)
        b.proc.wait()
    b.proc = None


def test_the_watchdog_is_fed(make_byred):
    b = make_byred("64M")
    manager = Manager(b.dir)
    manager.start(b, watchdog_us=600_000)
    for _ in range(3):
        manager.take("WATCHDOG=1")
    os.kill(b.proc.pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        manager.sock.settimeout(1)
        for _ in range(3):  # what was on its way
            manager.take("WATCHDOG=1")
    os.kill(b.proc.pid, signal.SIGCONT)
    manager.take("WATCHDOG=1")
    b.stop()


def test_changes_are_logged_with_who_asked(make_byred):
    b = make_byred("64M").start()
    b.create("one", "16M")
    b.ok("volume", "rename", "one", "two")
    b.refused("volume", "create", "two", "16M", match="exists")
    b.ok("volume", "resize", "two", "+16M")
    b.delete("two")
    log = b.log_text()
    who = rf" \(asked by uid {os.getuid()}, pid \d+\)$"
    for line in (
        "done: volume create one, 16 MiB",
        "done: volume rename one, to two",
        "refused: volume two: exists already",
        "done: volume resize two, 32 MiB",
        "done: volume delete two",
    ):
        assert re.search(r"^\S+Z byred: " + re.escape(line) + who, log, re.M), (line, log)


def test_a_pool_that_everybody_may_read_is_told_and_mended(make_byred):
    b = make_byred("64M")
    os.chmod(b.pool, 0o644)
    b.start()
    assert re.search(r"warning: pool \S+: its file can be opened by every user \(mode 0644\): chmod 600 it", b.log_text())
    b.stop()
    assert run_byre("pool", "create", b.pool, "--size", "64M", "--sparse", "--force").rc == 0
    assert os.stat(b.pool).st_mode & 0o777 == 0o600
    b.start()
    assert "chmod" not in b.log_text(since_start=True)


def test_near_full_is_told(make_byred):
    b = make_byred("64M", args=["--warn-full", "10,50"]).start()
    b.create("v", "1G")
    b.open("v").pwrite(b"x" * (20 * M), 0)
    wait_until(lambda: "nearly full" in b.log_text(), 20)
    info = b.json("pool", "info")
    assert info["provisioned_bytes"] == G and 10 <= info["used_percent"] < 80
    assert re.search(r"^volumes' sizes +1 GiB, \d+\.\d\d times the room$", b.ok("pool", "info").out, re.M)
    line = re.search(r"^(\S+) byred: warning: .*nearly full: \d+ % used", b.log_text(), re.M)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line[1])


@pytest.mark.parametrize("client", ["qemu-storage-daemon", "nbdkit"])
def test_clients_that_connect_again_live_through_restarts(make_byred, client):
    """With the options that docs/operating.md gives."""
    if subprocess.run(["which", client], capture_output=True).returncode:
        pytest.skip(f"no {client}")
    b = make_byred("256M").start()
    b.create("vm1", "64M")
    sock = os.path.join(b.dir, "between.sock")
    command = {
        "qemu-storage-daemon": [
            "qemu-storage-daemon", "--nbd-server", f"addr.type=unix,addr.path={sock}", "--blockdev",
            f"driver=nbd,node-name=vm1,server.type=unix,server.path={b.nbd_sock},export=vm1,reconnect-delay=300",
            "--export", "type=nbd,id=e,node-name=vm1,name=vm1,writable=on"],
        "nbdkit": [
            "nbdkit", "-f", "-U", sock, "--filter=retry", "nbd", f"socket={b.nbd_sock}", "export=vm1", "retries=60",
            "retry-delay=1", "retry-exponential=no"],
    }[client]  # fmt: skip
    between = subprocess.Popen(command)
    try:
        wait_until(lambda: os.path.exists(sock))
        h = nbd.NBD()
        h.connect_uri(f"nbd+unix:///vm1?socket={sock}")
        for i in range(2):
            h.pwrite(bytes([1 + i]) * 4096, i * 4096)
            b.stop()
            late = threading.Timer(1, b.start)
            late.start()
            h.pwrite(bytes([11 + i]) * 4096, M + i * 4096)  # waits
            h.flush()
            late.join()
            assert h.pread(4096, i * 4096) == bytes([1 + i]) * 4096
            assert h.pread(4096, M + i * 4096) == bytes([11 + i]) * 4096
        h.shutdown()
    finally:
        between.terminate()
        between.wait()
