# SPDX-License-Identifier: BSD-3-Clause
"""One line in the log for each NBD client that comes, goes, or is refused; and not one for each of a flood."""
import os
import re
import time

import pytest

import nbdraw
from byred import K, M, pattern
from nbdraw import Conn


def lines(b, what, n=1, timeout=10):
    """The lines about NBD clients that match, once there are n of them."""
    deadline = time.monotonic() + timeout
    while True:
        found = [
            line for line in b.log_text().splitlines() if re.search(r"client \d+ ", line) and re.search(what, line)
        ]
        if len(found) >= n or time.monotonic() > deadline:
            assert len(found) == n, f"{what}: {found}\n{b.log_text()[-3000:]}"
            return found
        time.sleep(0.02)


def test_a_client_that_comes_and_goes_has_two_lines(byred):
    byred.create("vm1", "64M")
    conn = Conn(byred.nbd_sock, "vm1")
    assert "vm1" in lines(byred, r"client \d+ \(.*\) opens vm1$")[0]
    conn.write(0, pattern(1 * M))
    assert conn.reply()[1] == 0
    assert conn.call(nbdraw.CMD_READ, 0, 64 * K)[0] == 0
    conn.disconnect()
    conn.close()
    line = lines(byred, r"leaves vm1")[0]
    assert re.search(r"after \d+\.\d s, 64 KiB read, 1 MiB written: the client ended it$", line), line
    lines(byred, "opens")


def test_a_client_without_a_volume_has_one_line(byred):
    conn = Conn(byred.nbd_sock)
    assert conn.go("no-such-volume")[-1][0] == nbdraw.REP_ERR_UNKNOWN
    conn.close()
    lines(byred, r"leaves without a volume: there is no volume 'no-such-volume'")
    conn = Conn(byred.nbd_sock)
    conn.send_raw(b"\0" * 64)
    assert conn.closed_by_server()
    lines(byred, "leaves without a volume: it broke the protocol")
    lines(byred, "opens", 0, timeout=0.2)


def test_a_client_that_only_asks_what_there_is_has_none(byred):
    byred.create("vm1", "64M")
    conn = Conn(byred.nbd_sock)
    conn.option(nbdraw.OPT_LIST)
    assert conn.option_replies(nbdraw.OPT_LIST)[-1][0] == nbdraw.REP_ACK
    conn.close()
    time.sleep(0.3)
    lines(byred, "client", 0, timeout=0.2)


def test_a_client_that_stalls_is_a_warning(make_byred):
    b = make_byred(args=["--stall-timeout", "1"]).start()
    b.create("vm1", "64M")
    conn = Conn(b.nbd_sock, "vm1")
    conn.send_raw(Conn.request(nbdraw.CMD_WRITE, 0, 1 * M, 0, 1))
    assert conn.closed_by_server()
    assert "warning" in lines(b, "leaves vm1.*too slowly")[0]


@pytest.mark.parametrize("n", [400])
def test_a_flood_of_connections_is_no_flood_of_lines(byred, n):
    byred.create("vm1", "64M")
    for _ in range(n):
        Conn(byred.nbd_sock, "vm1").close()
    time.sleep(1.5)
    Conn(byred.nbd_sock, "vm1").close()
    Conn(byred.nbd_sock, "vm1").close()
    time.sleep(0.2)
    text = byred.log_text()
    assert len(re.findall(r"client \d+ ", text)) < n
    left_out = r"\d+ lines about NBD connections were left out"
    assert re.search(left_out, text)
    for _ in range(4):  # it goes on: lines that tell of lines must not be a flood, either
        for _ in range(40):
            Conn(byred.nbd_sock, "vm1").close()
        time.sleep(0.3)
    loops = len(os.sched_getaffinity(0))
    assert len(re.findall(left_out, byred.log_text())) <= loops, byred.log_text()[-2000:]
