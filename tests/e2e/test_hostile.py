# SPDX-License-Identifier: BSD-3-Clause
"""Clients that keep to the protocol and mean harm. Whatever they do: the daemon's memory stays within its budget,
ordinary clients keep at least half of their throughput, and a stop ends within its deadline."""
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

import byred as lib
import nbdraw
from byred import G, IO_MAX, K, M
from nbdraw import Conn

MEMORY, CACHE, SLACK = 128 * M, 64 * M, 64 * M
STALL_S, STOP_S = 4, 5
LIB = os.path.join(os.path.dirname(lib.__file__))


def status_bytes(b, field):
    with open(f"/proc/{b.proc.pid}/status") as f:
        return int(dict(line.split(":", 1) for line in f)[field].split()[0]) * K


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def assert_idle(b, seconds=1.0):
    """A loop that spins takes all of a core."""
    before = cpu_seconds(b.proc.pid)
    time.sleep(seconds)
    assert cpu_seconds(b.proc.pid) - before < seconds / 2, "a loop spins"


def assert_memory(b):
    if not lib.is_sanitized():
        assert status_bytes(b, "VmHWM") <= MEMORY + CACHE + SLACK, "the budget does not hold"


def stop_in_time(b, seconds=STOP_S):
    start = time.monotonic()
    b.stop(timeout=seconds + 10)
    took = time.monotonic() - start
    assert took < seconds + 3, f"the stop took {took:.1f} s"


def thread_seconds(pid, tid):
    """Of one thread: how long it ran, and how long it could have run while others had the processors."""
    with open(f"/proc/{pid}/task/{tid}/schedstat") as f:
        run, wait = f.read().split()[:2]
    return int(run) / 1e9, int(wait) / 1e9


class Ordinary:
    def __init__(self, b, name):
        self.b = b
        self.proc = subprocess.Popen(
            [sys.executable, os.path.join(LIB, "ordinary.py"), b.nbd_sock, name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.proc.stdout.readline() == "ready\n"

    def done(self):
        self.proc.stdin.write("\n")
        self.proc.stdin.flush()
        return int(self.proc.stdout.readline())

    def seconds(self):
        """Of the client's thread, and of the loop that serves the first connection, its own: the daemon's main
        thread."""
        return [thread_seconds(p.pid, p.pid) for p in (self.proc, self.b.proc)]

    def rate(self, seconds=1.0):
        """Requests a second, of the time in which neither the client nor its loop waited for a processor: what other
        programs take of the machine, attackers among them, does not count. What the loop does for attackers does, and
        so does all waiting for the daemon."""
        start, before, then = time.monotonic(), self.done(), self.seconds()
        time.sleep(seconds)
        done, took, now = self.done() - before, time.monotonic() - start, self.seconds()
        ran = [n[0] - t[0] for n, t in zip(now, then)]
        waited = [n[1] - t[1] for n, t in zip(now, then)]
        return done / max(took - sum(waited), *ran)

    def close(self):
        self.proc.stdin.close()
        rc = self.proc.wait(30)
        self.proc.stdout.close()
        return rc


class Hostile:
    """A daemon with a small budget, and an ordinary client beside the attackers. Only tests that run alone measure
    it."""

    def __init__(self, b, alone):
        self.b = b
        self.conns = []
        self.slow = None
        b.create("good", "1G")
        b.create("bad", "16G")
        self.ordinary = Ordinary(b, "good")
        self.base = max(self.ordinary.rate() for _ in range(2)) if alone else None

    def conn(self, rcvbuf=None):
        c = Conn(self.b.nbd_sock, "bad")
        self.conns.append(c)
        return c

    def drop(self):
        for c in self.conns:
            c.close()
        self.conns.clear()

    def assert_throughput(self, tries=8):
        """Half of what it was. One good second of a few is enough, and when there is none, end() looks what the client
        gets without the attack."""
        best = 0
        for _ in range(tries):
            best = max(best, self.ordinary.rate())
            if best >= self.base / 2:
                return
        self.slow = best

    def end(self):
        assert_memory(self.b)
        if self.slow:
            self.drop()
            base = max(self.ordinary.rate() for _ in range(2))
            assert self.slow >= base / 2, f"{self.slow:.0f} requests a second beside the attack, {base:.0f} without"
        assert self.ordinary.close() == 0


@pytest.fixture
def hostile(make_byred, request):
    args = [
        "--memory",
        f"{MEMORY}",
        "--cache-size",
        f"{CACHE}",
        "--stall-timeout",
        f"{STALL_S}",
        "--stop-timeout",
        f"{STOP_S}",
    ]
    b = make_byred("8G", args=[*args, *getattr(request, "param", [])]).start()
    h = Hostile(b, request.node.get_closest_marker("alone") is not None)
    yield h
    h.drop()
    if h.ordinary.proc.poll() is None:
        h.ordinary.proc.kill()
        h.ordinary.proc.wait()


def connect(path):
    """A unix socket's queue of newcomers may be full for a moment."""
    deadline = time.monotonic() + 20
    while True:
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(10)
        try:
            s.connect(path)
            return s
        except BlockingIOError:
            s.close()
            assert time.monotonic() < deadline, "nobody accepts"
            time.sleep(0.01)


def receive(s, n):
    data = b""
    while len(data) < n:
        more = s.recv(n - len(data))
        if not more:
            break
        data += more
    return data


def send_some(conn, data, seconds=2):
    """Sends as much as the server takes within the time."""
    conn.sock.settimeout(seconds)
    try:
        conn.sock.sendall(data)
    except (socket.timeout, OSError):
        pass


# ---- writes ----


@pytest.mark.alone
@pytest.mark.parametrize("hostile", [["--threads", "1"]], indirect=True)
def test_hostile_headers_of_large_writes_and_nothing_more(hostile):
    """Sixteen announce 32 MiB each. A client with uncached reads is answered, nothing spins, the stop is in time."""
    for _ in range(16):
        hostile.conn().send_raw(Conn.request(nbdraw.CMD_WRITE, 0, IO_MAX, 0, 1))
    time.sleep(0.2)
    reader = Conn(hostile.b.nbd_sock, "bad")
    for i in range(32):
        reader.send(nbdraw.CMD_READ, i * 64 * K, 64 * K)
    reader.sock.settimeout(10)
    for _ in range(32):
        assert reader.reply()[1] == 0
    reader.close()
    hostile.assert_throughput()
    hostile.end()
    assert_idle(hostile.b)
    hostile.drop()
    assert_idle(hostile.b)
    stop_in_time(hostile.b)


@pytest.mark.alone
def test_hostile_half_writes_are_cut_off_and_a_whole_one_passes(hostile):
    data = bytes(IO_MAX - 4096)
    threads = []
    for i in range(12):
        conn = hostile.conn()
        conn.send_raw(Conn.request(nbdraw.CMD_WRITE, 32 * M * i, IO_MAX, 0, 1))
        threads.append(threading.Thread(target=send_some, args=(conn, data, 20)))
        threads[-1].start()
    hostile.assert_throughput()
    whole = Conn(hostile.b.nbd_sock, "bad", timeout=60)
    whole.write(1 * G, bytes(IO_MAX))
    assert whole.reply()[1] == 0, "a large write waits for ever"
    whole.close()
    for t in threads:
        t.join()
    for conn in hostile.conns:
        assert conn.closed_by_server(timeout=4 * STALL_S)
    hostile.end()
    stop_in_time(hostile.b)


@pytest.mark.alone
def test_hostile_half_headers(hostile):
    for i in range(200):
        hostile.conn().send_raw(Conn.request(nbdraw.CMD_WRITE, 0, 4096, 0, 1)[: 1 + i % 27])
    hostile.assert_throughput()
    assert hostile.conns[0].closed_by_server(timeout=3 * STALL_S), "a request that never gets whole stays for ever"
    hostile.end()
    stop_in_time(hostile.b)


# ---- reads ----


@pytest.mark.alone
def test_hostile_replies_that_nobody_reads_stay_within_the_budget(hostile):
    for i in range(24):
        hostile.conn().send_raw(Conn.request(nbdraw.CMD_READ, 0, IO_MAX, 0, 1))
    time.sleep(0.5)
    hostile.assert_throughput()
    assert_memory(hostile.b)
    for conn in hostile.conns:  # what lies in the socket is dropped, then the end
        assert_closed_within(conn, 8 * STALL_S)
    hostile.end()
    stop_in_time(hostile.b)


def assert_closed_within(conn, seconds):
    """Looks without reading: a reader would be no hostile one."""
    import select

    p = select.poll()
    p.register(conn.sock, select.POLLRDHUP)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if p.poll(200):
            return
    raise AssertionError(f"still connected after {seconds} s")


@pytest.mark.alone
def test_hostile_many_small_requests_that_nobody_reads(hostile):
    burst = b"".join(Conn.request(nbdraw.CMD_READ, i * 64 * K, 64 * K, 0, i) for i in range(128))
    for _ in range(100):
        send_some(hostile.conn(), burst * 4, 0.01)
    hostile.assert_throughput()
    assert_memory(hostile.b)
    hostile.end()
    stop_in_time(hostile.b)


@pytest.mark.alone
def test_hostile_small_requests_of_many_connections_hold_no_receive_buffers(hostile):
    """Each sends more than it may have under way: what the daemon has read and cannot serve yet counts, too."""
    burst = b"".join(Conn.request(nbdraw.CMD_READ, 0, 4096, 0, i) for i in range(8000))
    for _ in range(1000):
        send_some(hostile.conn(), burst, 0.001)
    hostile.assert_throughput()
    assert_memory(hostile.b)
    hostile.end()
    stop_in_time(hostile.b)


def test_hostile_slow_reader_is_served_and_idle_ones_stay(hostile):
    """Slow, but above the least rate: it gets all of its data. Who has asked for nothing may wait for ever."""
    idle = hostile.conn()
    slow = hostile.conn()
    slow.send(nbdraw.CMD_READ, 0, 8 * M)
    start = time.monotonic()
    while len(slow.buf) < 16 + 8 * M:
        slow.fill()
        time.sleep(0.05)
        assert time.monotonic() - start < 60
    time.sleep(max(0, 2 * STALL_S + 1 - (time.monotonic() - start)))
    assert slow.reply()[1] == 0
    assert idle.call(nbdraw.CMD_READ, 0, 4096)[0] == 0
    assert slow.call(nbdraw.CMD_READ, 0, 4096)[0] == 0
    hostile.end()


# ---- connections ----


@pytest.mark.alone
def test_hostile_five_thousand_connections(hostile):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 6000:
        pytest.skip(f"needs 6,000 descriptors, has {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (6000, hard))
    idle = hostile.conn()
    socks = []
    try:
        for i in range(5000):
            s = connect(hostile.b.nbd_sock)
            if i % 2:  # an option that is never whole takes the most memory that a handshake can
                try:
                    s.sendall(struct.pack(">IQII", 3, nbdraw.IHAVEOPT, nbdraw.OPT_GO, 16 * K) + bytes(16 * K - 1))
                except OSError:
                    pass
            socks.append(s)
        hostile.assert_throughput()
        assert_memory(hostile.b)
        assert hostile.b.ok("volume", "list")
        for _ in range(
            20
        ):  # who wants a volume gets it, since others have opened none; who has one keeps it, though idle
            assert hostile.conn().call(nbdraw.CMD_READ, 0, 4096)[0] == 0
        for conn in hostile.conns:
            assert conn.call(nbdraw.CMD_READ, 0, 4096)[0] == 0
    finally:
        for s in socks:
            s.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert idle.call(nbdraw.CMD_READ, 0, 4096)[0] == 0
    hostile.end()
    stop_in_time(hostile.b)


@pytest.mark.parametrize("kind", ["nbd", "rpc", "http"])
def test_hostile_descriptors_at_their_end(make_byred, kind):
    """What the daemon needs for itself, and four more: whoever takes connections of one kind, the others go on, no loop
    spins, and the log stays small."""
    b = make_byred("256M", args=["--http", "unix:http.sock", "--cache-size", "16M", "--threads", "2"]).start()
    b.create("v", "16M")
    limit = len(os.listdir(f"/proc/{b.proc.pid}/fd")) + 4
    b.stop()
    b.start(nofile=limit)
    assert f"only {limit} descriptors may be open" in b.log_text(since_start=True)
    path = {"nbd": b.nbd_sock, "rpc": b.rpc_sock, "http": os.path.join(b.dir, "http.sock")}[kind]
    socks = []
    for _ in range(100):
        socks.append(connect(path))
    before = os.path.getsize(b.log)
    assert_idle(b, 2)
    assert os.path.getsize(b.log) - before < 16 * K, "the log grows"
    assert b.ok("volume", "list")
    if kind != "http":
        assert b"byre_pool_size_bytes" in http_get(os.path.join(b.dir, "http.sock"), "/metrics")
    if kind != "nbd":
        conn = Conn(b.nbd_sock, "v")
        assert conn.call(nbdraw.CMD_READ, 0, 4096)[0] == 0
        conn.close()
    for s in socks:
        s.close()
    time.sleep(0.5)
    conn = Conn(b.nbd_sock, "v")
    assert conn.call(nbdraw.CMD_READ, 0, 4096)[0] == 0
    conn.close()
    assert b.ok("volume", "list")
    assert b"byre_pool_size_bytes" in http_get(os.path.join(b.dir, "http.sock"), "/metrics")


# ---- zeroes ----


@pytest.mark.alone
def test_hostile_flood_of_zeroes_ends_with_a_stop(hostile):
    """3.5 KiB of input ask for half a TiB of zeros on the disk."""
    conn = hostile.conn()
    conn.send_raw(
        b"".join(
            Conn.request(nbdraw.CMD_WRITE_ZEROES, i % 3 * 4 * G, 4 * G - 4096, nbdraw.CMD_FLAG_NO_HOLE, i)
            for i in range(128)
        )
    )  # fmt: skip
    hostile.assert_throughput()
    assert_memory(hostile.b)
    hostile.end()
    stop_in_time(hostile.b)


def test_hostile_flood_of_zeroes_ends_with_its_connection(hostile):
    conn = hostile.conn()
    conn.send_raw(
        b"".join(Conn.request(nbdraw.CMD_WRITE_ZEROES, 0, 2 * G, nbdraw.CMD_FLAG_NO_HOLE, i) for i in range(128))
    )
    time.sleep(0.3)
    hostile.drop()
    hostile.end()
    time.sleep(1)
    assert_idle(hostile.b)


@pytest.mark.alone
def test_hostile_flood_of_cache_requests(hostile):
    """CACHE asks for reads of 32 MiB with 28 bytes: this is about memory, and about waiting."""
    writer = Conn(hostile.b.nbd_sock, "bad")
    for i in range(32):
        writer.write(64 * M + i * 32 * M, os.urandom(M) * 32)
        assert writer.reply()[1] == 0
    writer.close()
    for _ in range(10):  # what was written has displaced the ordinary client's blocks: it reads them again
        if hostile.ordinary.rate() >= hostile.base * 3 / 4:
            break
    for i in range(30):
        hostile.conn().send_raw(
            b"".join(
                Conn.request(nbdraw.CMD_CACHE, 64 * M + n % 32 * 32 * M, (32 * M) >> (n % 2 * 7), 0, n)
                for n in range(128)
            )
        )  # fmt: skip
    hostile.assert_throughput(tries=6)
    reader = Conn(hostile.b.nbd_sock, "bad")
    start = time.monotonic()
    for i in range(16):
        assert reader.call(nbdraw.CMD_READ, 4 * G + i * M, 4096)[0] == 0
    assert time.monotonic() - start < 10
    reader.close()
    hostile.end()
    stop_in_time(hostile.b)


# ---- RPC ----


def rpc_frame(method, ident, message=b"", kind=1):
    return struct.pack("<4sBBHQHHIII", b"BYR1", 1, kind, 0, ident, method, 0, len(message), 0, 0) + message


def rpc_connect(b):
    return connect(b.rpc_sock)


def test_hostile_idle_rpc_connections_do_not_lock_others_out(hostile):
    socks = [rpc_connect(hostile.b) for _ in range(300)]
    time.sleep(1.2)
    for _ in range(5):
        assert hostile.b.ok("volume", "list")
    for s in socks:
        s.close()
    hostile.end()


@pytest.mark.alone
def test_hostile_rpc_flood_of_unknown_fields(hostile):
    """A frame with 85 Ki fields that nobody knows takes little longer than as many bytes in one such field."""
    frame = rpc_frame(1, 7, b"\x98\x3e\x00" * (256 * K // 3))
    plain = rpc_frame(1, 7, b"\x9a\x3e\xf0\xff\x0f" + bytes(256 * K - 16))
    stop = threading.Event()

    def flood(s):
        s.settimeout(5)
        try:
            while not stop.is_set():
                s.sendall(frame)
                s.recv(4096)
        except OSError:
            pass

    s = rpc_connect(hostile.b)
    before = cpu_seconds(hostile.b.proc.pid)

    def cost(what):
        """The least of many: what others do on the machine only adds."""
        times = []
        for _ in range(50):
            start = time.monotonic()
            s.sendall(what)
            assert s.recv(4096)
            times.append(time.monotonic() - start)
        return min(times)

    many, one = cost(frame), cost(plain)
    assert many < 3 * one, f"{many * 1000:.1f} ms a frame, {one * 1000:.1f} ms with one field"
    threads = [threading.Thread(target=flood, args=(rpc_connect(hostile.b),)) for _ in range(2)]
    for t in threads:
        t.start()
    hostile.assert_throughput()
    stop.set()
    for t in threads:
        t.join()
    assert cpu_seconds(hostile.b.proc.pid) >= before
    hostile.end()


@pytest.mark.alone
def test_hostile_rpc_answers_that_nobody_reads(hostile):
    for i in range(300):
        hostile.b.create(f"{'x' * 240}{i}", "4K") if i < 30 else None
    socks = []
    for _ in range(200):
        s = rpc_connect(hostile.b)
        s.settimeout(0.05)
        try:
            s.sendall(b"".join(rpc_frame(33, 1 + i) for i in range(64)) * 50)
        except OSError:
            pass
        socks.append(s)
    hostile.assert_throughput()
    assert_memory(hostile.b)
    for s in socks:
        s.close()
    hostile.end()
    stop_in_time(hostile.b)


# ---- HTTP ----


def http_get(path, url):
    s = connect(path)
    s.sendall(f"GET {url} HTTP/1.0\r\n\r\n".encode())
    data = b""
    while True:
        more = s.recv(65536)
        if not more:
            break
        data += more
    s.close()
    return data


@pytest.mark.alone
@pytest.mark.parametrize("hostile", [["--http", "unix:http.sock"]], indirect=True)
def test_hostile_http_floods(hostile):
    path = os.path.join(hostile.b.dir, "http.sock")
    socks = []
    for i in range(400):
        s = connect(path)
        try:
            s.sendall(
                [b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\n\r\n" * 50, b"GET / HTTP/1.1\r\nX: " + b"y" * 7000][
                    i % 4
                ]
            )
        except OSError:
            pass
        socks.append(s)
    hostile.assert_throughput()
    assert_memory(hostile.b)
    assert b" 200 " in http_get(path, "/healthz").splitlines()[0]
    for s in socks:
        s.close()
    assert b"byre_pool_size_bytes" in http_get(path, "/metrics")
    hostile.end()
    stop_in_time(hostile.b)


# ---- the stop ----


def test_hostile_reader_does_not_hold_up_a_stop(hostile):
    conn = hostile.conn()
    for i in range(4):
        conn.send(nbdraw.CMD_READ, 0, 8 * M)
    stop = threading.Event()

    def trickle():
        try:
            while not stop.wait(0.5):
                conn.sock.recv(256 * K)
        except OSError:
            pass

    t = threading.Thread(target=trickle)
    t.start()
    time.sleep(1)
    hostile.end()
    stop_in_time(hostile.b)
    stop.set()
    t.join()


@pytest.mark.parametrize("hostile", [["--stop-timeout", "120"]], indirect=True)
def test_hostile_second_sigterm_ends_at_once(hostile):
    conn = hostile.conn()
    conn.send(nbdraw.CMD_READ, 0, 32 * M)
    hostile.end()
    time.sleep(0.5)
    hostile.b.proc.terminate()
    time.sleep(1)
    assert hostile.b.running(), "nothing held it up"
    start = time.monotonic()
    hostile.b.proc.terminate()
    assert hostile.b.wait(10) == 0
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("hostile", [["--nbd", "tcp:127.0.0.1:0"]], indirect=True)
def test_stop_over_tcp_loses_no_admitted_reply(hostile):
    """At SIGTERM the client's further requests lie unread in the socket: closing then would reset the connection, and
    throw away replies that are on their way."""
    port = tcp_port(hostile.b)
    s = socket.create_connection(("127.0.0.1", port))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * K)
    s.settimeout(10)
    assert len(receive(s, 18)) == 18
    s.sendall(struct.pack(">IQII", 1, nbdraw.IHAVEOPT, nbdraw.OPT_EXPORT_NAME, 3) + b"bad")
    assert len(receive(s, 134)) == 134
    s.sendall(b"".join(Conn.request(nbdraw.CMD_READ, 0, 256 * K, 0, i) for i in range(20)))
    time.sleep(0.5)
    s.sendall(b"".join(Conn.request(nbdraw.CMD_WRITE, 0, 4 * M, 0, 99) + bytes(64 * K) for i in range(1)))
    hostile.end()
    hostile.b.proc.terminate()
    time.sleep(0.5)
    try:
        s.sendall(Conn.request(nbdraw.CMD_FLUSH, 0, 0, 0, 100) * 100)
    except OSError:
        pass
    got = 0
    while True:
        head = receive(s, 16)
        if len(head) < 16:
            break
        assert struct.unpack(">II", head[:8])[1] == 0
        assert len(receive(s, 256 * K)) == 256 * K
        got += 1
    s.close()
    assert got == 20
    assert hostile.b.wait(STOP_S + 3) == 0


def tcp_port(b):
    """The port that the kernel chose."""
    with open("/proc/net/tcp") as f:
        listening = {line.split()[9]: int(line.split()[1].split(":")[1], 16) for line in f if line.split()[3] == "0A"}
    for fd in os.listdir(f"/proc/{b.proc.pid}/fd"):
        try:
            link = os.readlink(f"/proc/{b.proc.pid}/fd/{fd}")
        except OSError:
            continue
        if link.startswith("socket:[") and link[8:-1] in listening:
            return listening[link[8:-1]]
    raise AssertionError("no TCP socket listens")
