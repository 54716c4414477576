# SPDX-License-Identifier: BSD-3-Clause
"""byre scrub: damage in the pool's file under a running daemon is mended or named, while clients go on."""
import re
import struct
import subprocess
import threading
import time

import pytest

from byred import BLOCK, M, pattern, stored_blocks

NODE, NODE_MAGIC = 16384, b"BYND"


def rot(path, offsets):
    with open(path, "r+b", buffering=0) as f:
        for off in offsets:
            f.seek(off)
            byte = f.read(1)[0]
            f.seek(off)
            f.write(bytes([byte ^ 0x40]))


def nodes(path):
    """Places of nodes of volumes' trees, by their address: two each."""
    found = {}
    for off, block in stored_blocks(path):
        if block[4:8] == NODE_MAGIC:
            addr, owner = struct.unpack_from("<QQ", block, 8)
            generation = struct.unpack_from("<Q", block, 24)[0]
            if owner >= 256:
                found.setdefault((addr, generation), []).append(off)
    return {k: v for k, v in found.items() if len(v) == 2}


def wait_for_end(b, timeout=120):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        status = b.json("scrub", "status")
        if status["state"] != "running":
            return status
        time.sleep(0.1)
    raise AssertionError(f"the scrub does not end: {status}")


@pytest.fixture
def filled(make_byred):
    """A running daemon without memory for data: volume v has what is read from the file, w is for load."""
    b = make_byred("1G", args=["--cache-size", "4M"]).start()
    b.create("v", "64M")
    b.create("w", "64M")
    h = b.open("v")
    for i in range(0, 32, 8):
        h.pwrite(pattern(8 * M, i), i * M)
    h.flush()
    b.ok("commit")
    h.shutdown()
    return b


def test_scrub_of_a_good_pool_finds_nothing(filled):
    b = filled
    assert b.json("scrub", "status")["state"] == "never"
    assert b.ok("scrub", "status").out.startswith("scrub: never")
    b.ok("scrub", "start", "--rate", "1T")
    status = wait_for_end(b)
    assert status["state"] == "finished" and status["found"] == 0 and status["damage"] == []
    assert status["bytes_done"] >= 32 * M
    info = b.info()["scrub"]
    assert info["state"] == "finished" and info["ended"] == status["ended"]
    assert re.search(r"^scrub +finished 20\d\d-.*Z, nothing was wrong$", b.ok("pool", "info").out, re.M)
    b.refused("scrub", "stop", match="none is running")


def test_scrub_mends_nodes_and_names_data_under_load(filled):
    b = filled
    content = pattern(8 * M, 8)
    data = {content[i:i + BLOCK]: 8 * M + i for i in range(0, 8 * M, BLOCK)}
    places = {data[block]: off for off, block in stored_blocks(b.pool) if block in data}
    lost = [8 * M + i * BLOCK for i in list(range(100, 140)) + [7, 1000]]
    stop, errors, writes = threading.Event(), [], [0]

    def load():
        try:
            h = b.open("w")
            i, some = 0, pattern(M)
            while not stop.is_set():
                h.pwrite(some[i % 9 * 65536:][:65536], i * 7 % 63 * M)
                if i % 20 == 0:
                    h.flush()
                i += 1
                writes[0] = i
            h.shutdown()
        except Exception as e:  # noqa: BLE001: told by the test
            errors.append(e)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        rot(b.pool, (places[at] + 200 for at in lost))
        tree = nodes(b.pool)
        rot(b.pool, [offs[i % 2] + 300 for i, offs in enumerate(tree.values())])
        b.ok("scrub", "start", "--rate", "1T")
        status = wait_for_end(b)
    finally:
        stop.set()
        thread.join()
    assert not errors, errors
    assert writes[0] > 10
    assert status["state"] == "finished"
    assert [(d["volume"], d["offset"], d["length"], d["kind"]) for d in status["damage"]] == [
        ("v", 8 * M + 7 * BLOCK, BLOCK, "damaged"), ("v", 8 * M + 100 * BLOCK, 40 * BLOCK, "damaged"),
        ("v", 8 * M + 1000 * BLOCK, BLOCK, "damaged")]
    assert status["damaged_bytes"] == 42 * BLOCK
    assert status["found"] - status["mended"] == 42, status
    text = b.ok("scrub", "status").out
    assert f"volume v: {40 * BLOCK} bytes at byte {8 * M + 100 * BLOCK} are damaged: overwrite" in text
    assert "volume v: data at byte" in b.log_text()

    # What is named is what cannot be read; overwriting it ends that.
    h = b.open("v")
    with pytest.raises(Exception):
        h.pread(BLOCK, 8 * M + 7 * BLOCK)
    for d in status["damage"]:
        h.pwrite(content[d["offset"] - 8 * M:][:d["length"]], d["offset"])
    h.flush()
    h.shutdown()
    b.ok("commit")
    b.ok("scrub", "start", "--rate", "1T")
    status = wait_for_end(b)
    assert (status["found"], status["damage"]) == (0, [])
    b.stop()
    assert b.check() == [], "one copy of each node had rotted, and all are mended"


def test_scrub_is_paced_stops_and_goes_on_after_a_restart(filled):
    b = filled
    b.ok("scrub", "start", "--rate", "4M")
    time.sleep(2)
    status = b.json("scrub", "status")
    assert status["state"] == "running" and status["rate"] == 4 * M
    assert status["bytes_done"] <= 24 * M, "4 MiB a second, and a slice more"
    b.refused("scrub", "start", match="one is running")
    done = status["bytes_done"]
    b.stop()
    assert "goes on" not in b.log_text(since_start=True)
    b.start()
    deadline = time.monotonic() + 30
    while "scrub: goes on" not in b.log_text(since_start=True) and time.monotonic() < deadline:
        time.sleep(0.1)
    status = b.json("scrub", "status")
    assert status["bytes_done"] >= done
    if status["state"] == "running":
        started = time.monotonic()
        stopped = b.json("scrub", "stop")
        assert time.monotonic() - started < 10
        assert stopped["state"] == "stopped"
        b.ok("scrub", "start", "--rate", "1T")
        assert wait_for_end(b)["state"] == "finished"


def test_scrub_metrics(make_byred):
    b = make_byred("1G")
    b.http_sock = f"{b.dir}/http.sock"
    b.args = ["--http", f"unix:{b.http_sock}"]
    b.start()
    b.ok("scrub", "start", "--rate", "1T")
    wait_for_end(b)
    text = subprocess.run(["curl", "-s", "--unix-socket", b.http_sock, "http://x/metrics"], stdout=subprocess.PIPE,
                          text=True, check=True).stdout
    assert re.search("^byre_scrub_running 0$", text, re.M), text
    assert re.search(r"^byre_scrub_last_end_timestamp_seconds \d{10}$", text, re.M)
    assert re.search('^byre_scrub_errors{kind="found"} 0$', text, re.M)
    assert re.search(r"^byre_scrub_read_bytes [1-9]\d+$", text, re.M)
