# SPDX-License-Identifier: BSD-3-Clause
"""byre pool dump: prints every structure, changes nothing, and goes on where something is damaged."""
import json
import os
import time

import pytest

from byred import BLOCK, M, pattern

NODE = 16384


def dump(b, *args):
    """The records of a dump, in order, of which the text form has as many."""
    result = b.byre("pool", "dump", b.pool, *args, "--json")
    assert result.rc == 0, result
    records = [json.loads(line) for line in result.out.splitlines()]
    assert all("record" in r for r in records)
    text = b.byre("pool", "dump", b.pool, *args)
    assert text.rc == 0 and len(text.out.splitlines()) == len(records)
    for line, record in zip(text.out.splitlines(), records):
        assert line.strip().split()[0] == record["record"]
    problems = sum(r["record"] == "problem" for r in records)
    assert (f"{problems} problem" in text.err) == (problems > 0), text.err
    return records


def only(records, kind, **fields):
    return [r for r in records if r["record"] == kind and all(r.get(k) == v for k, v in fields.items())]


def one(records, kind, **fields):
    found = only(records, kind, **fields)
    assert len(found) == 1, (kind, fields, found)
    return found[0]


def problems(records):
    return [r["text"] for r in only(records, "problem")]


def write(b, name, data, off=0):
    h = b.open(name)
    h.pwrite(data, off)
    h.flush()
    h.shutdown()


@pytest.fixture
def killed(make_byred):
    """A pool with a volume that commits know, and one that only the log does; its daemon was killed."""
    b = make_byred("1G").start()
    data = pattern(2 * M, 1)
    b.create("vm1", "16M")
    b.ok("volume", "set", "vm1", "--comment", 'a "quoted" comment')
    write(b, "vm1", data)
    b.stop()
    for attempt in range(10):
        b.start("--commit-interval", "300")
        time.sleep(0.3 * (attempt + 1))  # a pool that was opened commits once; nothing else asks for a commit here
        b.create("early", "8M")
        write(b, "early", pattern(64 * BLOCK, 2))
        b.ok("volume", "rename", "early", "late")
        b.kill()
        if not only(dump(b), "volume", name="late"):
            return b, data
        b.start()  # a commit took it in after all
        b.delete("late")
        b.stop()
    raise AssertionError("each time a commit came first")


def test_dump_prints_every_structure(killed):
    b, data = killed
    before = os.stat(b.pool)
    r = dump(b)
    after = os.stat(b.pool)
    assert (before.st_mtime_ns, before.st_blocks) == (after.st_mtime_ns, after.st_blocks)
    assert not problems(r)

    supers = only(r, "superblock", valid=True, checksum="good")
    assert [s["copy"] for s in supers] == [0, 1, 2]
    assert len({s["generation"] for s in supers}) == 1 and not only(r, "superblock_difference")
    sb = supers[0]
    assert sb["device_size"] == 1 << 30 and sb["version"] == 2
    assert one(r, "scrub")["state"] == "never"
    assert one(r, "system_group", index=0)["length"] > 0

    claim = one(r, "claim")
    assert claim["valid"] and claim["held"] and claim["pool"] == sb["uuid"]
    assert len(only(r, "spares")) == 2

    groups = only(r, "group")
    assert {g["type"] for g in groups} == {"data", "metadata"}
    assert sum(g["used"] for g in groups if g["type"] == "data") == len(data)
    for g in groups:
        if g["used"]:
            cache = one(r, "cache", group=g["start"], state="good", copy=0)
            assert cache["slot"] == g["cache_slot"] and cache["generation"] == g["cache_generation"]
            copies = sum(k.startswith("stripe") for k in g)
            assert len(only(r, "cache", group=g["start"], state="good")) == copies

    for name in ("group tree", "root tree"):
        tree = one(r, "tree", name=name)
        assert tree["whole"] and tree["nodes"] >= 1 and tree["bad_copies"] == 0

    vol = one(r, "volume", name="vm1")
    assert vol["size"] == 16 * M and vol["used_blocks"] == len(data) // BLOCK
    assert vol["comment"] == 'a "quoted" comment'
    assert not only(r, "volume", name="late")

    records = only(r, "log_record")
    assert [x["seq"] for x in records] == list(range(sb["log_seq"], sb["log_seq"] + len(records)))
    assert all(x["replayed"] == "yes" for x in records) and "last" in records[-1]["flags"]
    assert one(r, "log_end")["next_seq"] == records[-1]["seq"] + 1
    assert len(only(r, "log_item")) == sum(x["items"] for x in records)
    late = one(r, "log_item", type="create", name="early", replayed="yes")
    assert sum(x["blocks"] for x in only(r, "log_item", type="extent", volume=late["volume"])) == 64
    assert one(r, "log_item", type="rename")["name"] == "late"


def test_dump_of_a_volume_finds_its_bytes(killed):
    b, data = killed
    r = dump(b, "volume", "vm1")
    extents = only(r, "extent")
    assert sum(e["blocks"] for e in extents) == len(data) // BLOCK
    with open(b.pool, "rb") as f:
        for e in extents:
            f.seek(e["offset"])
            assert f.read(e["blocks"] * BLOCK) == data[e["blk"] * BLOCK:(e["blk"] + e["blocks"]) * BLOCK]
    assert one(r, "tree", name="volume vm1")["whole"]
    limited = dump(b, "volume", "vm1", "--limit", "2")
    assert len(only(limited, "extent")) == 2 and len(only(limited, "more")) == 1
    assert "no commit knows" in problems(dump(b, "volume", "late"))[0]


def test_dump_of_parts(killed):
    b, _ = killed
    assert {x["record"] for x in dump(b, "claim")} == {"claim", "tree"}
    r = dump(b, "caches")
    free = sum(x.get("units", x.get("free")) for x in r if x["record"] in ("free_run", "free_bitmap"))
    assert free * BLOCK == sum(c["free_bytes"] for c in only(r, "cache", state="good", copy=0))
    sb = one(dump(b, "superblock"), "superblock", copy=0)
    r = dump(b, "node", str(sb["root_tree_addr"]), "node", hex(sb["group_tree_addr"]))
    nodes = only(r, "node", addr=sb["root_tree_addr"])
    assert [n["copy"] for n in nodes] == [0, 1] and all(n["valid"] and n["owner"] == 1 for n in nodes)
    assert len(only(r, "volume")) == nodes[0]["items"]
    assert only(r, "node", addr=sb["group_tree_addr"], owner=2) and only(r, "group")
    for words, match in ((["frob"], "not a part"), (["node"], "missing"), (["node", "12x"], "not an address"),
                         (["volume"], "missing"), (["volume", "-x"], "not a valid name")):
        result = b.byre("pool", "dump", b.pool, "--", *words)
        assert result.rc == 2 and match in result.err, result
    b.start()
    b.refused("pool", "dump", b.pool, match="held by")
    b.stop()


def rot(path, off, n=1):
    with open(path, "r+b") as f:
        f.seek(off)
        was = f.read(n)
        f.seek(off)
        f.write(bytes(x ^ 0x55 for x in was))


def test_dump_goes_on_with_damage(killed):
    b, _ = killed
    b.damaged = True
    sb = one(dump(b, "superblock"), "superblock", copy=0)
    nodes = only(dump(b, "node", str(sb["root_tree_addr"])), "node")

    rot(b.pool, nodes[0]["offset"] + 5000)  # one copy of a node
    r = dump(b)
    assert one(r, "tree", name="root tree") == {**one(r, "tree", name="root tree"), "whole": True, "bad_copies": 1}
    assert len(problems(r)) == 1 and "copy 0" in problems(r)[0] and "checksum" in problems(r)[0]
    assert one(r, "volume", name="vm1")
    r = dump(b, "node", str(sb["root_tree_addr"]))
    assert [n["checksum"] for n in only(r, "node")] == ["bad", "good"]

    rot(b.pool, 65536, 4096)  # a superblock copy
    r = dump(b)
    assert [s["valid"] for s in only(r, "superblock")] == [False, True, True]
    assert any(p.startswith("superblock copy 0") for p in problems(r))
    assert one(r, "volume", name="vm1") and only(r, "log_item")

    rot(b.pool, nodes[1]["offset"] + 5000)  # the node's other copy
    r = dump(b)
    tree = one(r, "tree", name="root tree")
    assert not tree["whole"] and tree["lost_nodes"] == 1
    assert not only(r, "volume") and only(r, "group") and only(r, "log_item")

    log = one(r, "log")
    rot(b.pool, log["offset"] + log["tail"] % log["size"] + 20)  # the log's first record
    r = dump(b, "log")
    assert not only(r, "log_record") and one(r, "log_end")["next_seq"] == log["seq"]
    assert any("is damaged" in p for p in problems(r))


def test_dump_of_a_truncated_file(killed):
    b, _ = killed
    b.damaged = True
    groups = only(dump(b, "groups"), "group")
    system = one(dump(b, "superblock"), "system_group", index=0)
    os.truncate(b.pool, 12 * M)
    r = dump(b)
    assert any("truncated" in p for p in problems(r))
    assert [s["checksum"] for s in only(r, "superblock")] == ["good"] * 3
    assert one(r, "system_group", index=0) == system
    assert only(r, "group") == groups  # the group tree stands in front
    assert one(r, "log")
    os.truncate(b.pool, 100 * 1024)  # one superblock is left
    r = dump(b)
    assert len(only(r, "superblock")) == 1 and len(problems(r)) > 3
    with open(b.pool, "wb") as f:
        f.write(bytes(64 * 1024))
    r = dump(b)
    assert any("no superblock can be used" in p for p in problems(r))
