# SPDX-License-Identifier: BSD-3-Clause
"""byre pool check: few lines, in order, each with what to do; and doing that ends the damage."""
import json
import os
import re
import subprocess

import pytest

from byred import BLOCK, BYRE, M, pattern, stored_blocks


def places(b, blocks):
    """Where each of these blocks stands in the pool file."""
    want = {block: i for i, block in enumerate(blocks)}
    found = {}
    for off, block in stored_blocks(b.pool):
        if block in want:
            found[want[block]] = off
    assert len(found) == len(want)
    return found


def rot(b, offsets):
    with open(b.pool, "r+b") as f:
        for off in offsets:
            f.seek(off + 100)
            byte = f.read(1)[0]
            f.seek(off + 100)
            f.write(bytes([byte ^ 0x40]))


@pytest.fixture
def two_volumes(make_byred):
    b = make_byred("1G").start()
    data = {}
    for seed, name in enumerate(("beta", "alpha"), 1):
        b.create(name, "16M")
        data[name] = pattern(8 * M, seed)
        h = b.open(name)
        h.pwrite(data[name], 0)
        h.flush()
        h.shutdown()
    b.stop()
    blocks = {n: [d[i:i + BLOCK] for i in range(0, len(d), BLOCK)] for n, d in data.items()}
    return b, data, {n: places(b, bl) for n, bl in blocks.items()}


def test_check_names_damaged_data_and_overwriting_it_heals(two_volumes):
    b, data, where = two_volumes
    b.damaged = True
    rot(b, (where["alpha"][i] for i in range(512, 768)))  # 1 MiB in a row
    rot(b, (where["beta"][i] for i in (40, 10, 20)))
    result = b.byre("pool", "check", b.pool)
    assert result.rc == 1
    lines = result.out.strip().splitlines()
    assert len(lines) == 4, result.out
    for line, byte in zip(lines, (10, 20, 40)):
        assert line.startswith(f"volume beta: data at byte {byte * BLOCK}, {BLOCK} bytes "), line
    assert lines[3].startswith(f"volume alpha: data at byte {2 * M}, {M} bytes "), lines[3]
    assert all("overwrite or trim this range" in line for line in lines)
    assert "restore the pool from a backup" not in result.out + result.err
    assert re.search("4 findings: overwrite, trim or restore the ranges named", result.err)

    report = b.byre("pool", "check", b.pool, "--repair", "--json")
    assert report.rc == 1
    details = report.json["details"]
    assert report.json["lines"] and not report.json["clean"] and report.json["left"] == 4
    assert [(d["volume"], d["offset"], d["length"], d["cure"]) for d in details] == [
        ("beta", 10 * BLOCK, BLOCK, "overwrite"), ("beta", 20 * BLOCK, BLOCK, "overwrite"),
        ("beta", 40 * BLOCK, BLOCK, "overwrite"), ("alpha", 2 * M, M, "overwrite")]

    b.start()
    for d in details:
        h = b.open(d["volume"])
        end = d["offset"] + d["length"]
        h.pwrite(data[d["volume"]][d["offset"]:end], d["offset"])
        h.flush()
        h.shutdown()
    for name, content in data.items():
        h = b.open(name)
        assert h.pread(8 * M, 0) == content
        h.shutdown()
    b.stop()
    b.damaged = False
    assert b.check() == []


def test_check_short_file_is_told_how_to_get_its_size_back(two_volumes):
    b, _, _ = two_volumes
    whole = os.path.getsize(b.pool)
    os.truncate(b.pool, whole - 1)
    for args in (("pool", "check", b.pool), ("pool", "info", b.pool)):
        b.refused(*args, match=rf"truncate -s {whole} ")
    os.truncate(b.pool, whole)
    assert b.check() == []


def test_check_of_a_file_whose_name_is_no_utf8(make_byred, tmp_path):
    """JSON is UTF-8: what is not in it is shown as '?', and the report is there."""
    b = make_byred("64M")
    name = os.fsencode(str(tmp_path)) + b"/p\xff"
    os.rename(b.pool, name)
    done = subprocess.run([BYRE, "pool", "check", name, "--json"], capture_output=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["clean"] and report["path"].endswith("/p?")


def test_check_longer_file_is_no_fault(two_volumes):
    b, _, _ = two_volumes
    whole = os.path.getsize(b.pool)
    os.truncate(b.pool, whole + M)
    result = b.ok("pool", "check", b.pool)
    assert f"{M} bytes more than the pool" in result.err
    report = b.json("pool", "check", b.pool)
    assert report["clean"] and len(report["notes"]) == 1
    b.start()
    b.stop()
    assert os.path.getsize(b.pool) == whole + M
