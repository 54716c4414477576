#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""A reader of pools that was written from docs/format.md alone, and shares no code with the engine.

  format_reader.py POOL                      volumes and their extents, as JSON
  format_reader.py POOL --cat VOLUME         the volume's content, on standard output

A pool that no daemon has open; nothing is written. What contradicts docs/format.md raises Broken, exit 1.
"""
import argparse
import json
import os
import struct
import sys

BLOCK, NODE = 4096, 16384
SUPER_OFFSETS = (64 << 10, 512 << 10, (8 << 20) - (64 << 10))
DATA, METADATA, SYSTEM = 1, 2, 4
ROOT_TREE, GROUP_TREE, FIRST_ID = 1, 2, 256
LAST, DATA_DURABLE, PAD = 1, 2, 4
LOG_EXTENT, LOG_GROUP, LOG_CREATE, LOG_DELETE, LOG_RENAME, LOG_RESIZE, LOG_SET = range(1, 8)


class Broken(Exception):
    """The pool is not what docs/format.md says."""


def need(condition, *what):
    if not condition:
        raise Broken(" ".join(map(str, what)))


# ---- CRC32C --------------------------------------------------------------------------------


def crc_tables():
    first = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        first.append(n)
    tables = [first]
    for _ in range(7):
        tables.append([first[v & 255] ^ v >> 8 for v in tables[-1]])
    return tables


TABLES = crc_tables()


def crc32c(data):
    t0, t1, t2, t3, t4, t5, t6, t7 = TABLES
    crc, whole = 0xFFFFFFFF, len(data) // 8 * 8
    for (v,) in struct.iter_unpack("<Q", memoryview(data)[:whole]):
        v ^= crc
        crc = (t7[v & 255] ^ t6[v >> 8 & 255] ^ t5[v >> 16 & 255] ^ t4[v >> 24 & 255]
               ^ t3[v >> 32 & 255] ^ t2[v >> 40 & 255] ^ t1[v >> 48 & 255] ^ t0[v >> 56])  # fmt: skip
    for byte in data[whole:]:
        crc = t0[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


# ---- structs -------------------------------------------------------------------------------


def fields(layout, names, data, at=0):
    return dict(zip(names.split(), struct.unpack_from("<" + layout, data, at)))


def tree_root(data, at=0):
    root = fields("QQQQQBB", "addr generation nodes leaves items level flags", data, at)
    root["rest"] = data[at + 42:at + 48]
    return root


class Group:
    """A block group: where it stands, and which of its units something refers to."""

    def __init__(self, start, length, kind, offsets, item=None):
        self.start, self.length, self.kind, self.offsets, self.item = start, length, kind, offsets, item
        self.unit = BLOCK if kind == DATA else NODE
        self.units = length // self.unit
        self.used = set()
        need(length and length % self.unit == 0, "group", start, "has length", length)

    def claim(self, addr, length):
        first, rest = divmod(addr - self.start, self.unit)
        need(rest == 0 and length % self.unit == 0, "address", addr, "is between units")
        units = range(first, first + length // self.unit)
        need(self.used.isdisjoint(units), "address", addr, "is referred to twice")
        self.used.update(units)


class Volume:
    def __init__(self, ident, item, name):
        self.id, self.item, self.name = ident, item, name
        self.size = item["size"]
        self.comment = ""
        self.extents = []  # (block, blocks, addr, generation, checksums), of the tree
        self.blocks = {}  # block: (addr, checksum), with the flush log
        self.lost = []  # (block, blocks)
        self.holes = []  # (block, blocks) that the flush log has made


class Pool:
    def __init__(self, path):
        self.fd = os.open(path, os.O_RDONLY)
        self.groups = {}
        self.volumes = {}
        self.orphans = 0
        self.log_items = 0
        self.said = {}  # owner: (root, used_blocks) as its item says them
        self.found = {}  # owner: nodes, leaves, items, blocks of its tree and of what was cut out of it
        self.read_super()
        self.read_groups()
        self.read_root_tree()
        self.check_counts()
        self.check_groups()
        for v in self.volumes.values():
            for blk, n, addr, _, crcs in v.extents:
                for i in range(n):
                    v.blocks[blk + i] = (addr + i * BLOCK, crcs[i])
        self.read_log()

    def close(self):
        os.close(self.fd)

    def pread(self, length, offset):
        data = os.pread(self.fd, length, offset)
        need(len(data) == length, "the file ends before", offset + length)
        return data

    # ---- superblock, groups ----

    def super_copy(self, offset):
        data = self.pread(BLOCK, offset)
        sb = fields("IIQQQ16sQQQQQQIIQQ", "crc version magic offset generation uuid compat ro_compat incompat flags "
                    "device_size group_step block_size node_size ctime_ns next_id", data)
        good = (data[8:16] == b"BYREPOOL" and sb["crc"] == crc32c(data[4:]) and sb["offset"] == offset
                and sb["version"] == 2)
        sb["root_tree"], sb["group_tree"] = tree_root(data, 120), tree_root(data, 168)
        sb.update(fields("QQQQ", "log_offset log_size log_tail log_seq", data, 216))
        sb["system"] = [struct.unpack_from("<6Q", data, 344 + 48 * i) for i in range(32)]
        sb.update(
            fields(
                "BB6s9Q",
                "scrub_state scrub_phase scrub_reserved scrub_started_ns scrub_ended_ns scrub_volume scrub_pos "
                "scrub_bytes_done scrub_bytes_total scrub_found scrub_mended scrub_damaged_bytes",
                data,
                264,
            )
        )
        need(
            not good or not any(data[1880:]) and not any(sb["scrub_reserved"]),
            "superblock: reserved bytes are not zero",
        )
        need(not good or sb["scrub_state"] <= 3 and sb["scrub_phase"] <= 4, "superblock: scrub")
        return sb if good else None

    def read_super(self):
        copies = [c for c in map(self.super_copy, SUPER_OFFSETS) if c]
        need(copies, "no superblock is valid")
        self.sb = sb = max(copies, key=lambda c: c["generation"])
        need(sb["incompat"] == 0, "unknown features")
        need((sb["block_size"], sb["node_size"]) == (BLOCK, NODE), "block sizes", sb["block_size"], sb["node_size"])
        need(sb["group_step"] & (sb["group_step"] - 1) == 0, "group size", sb["group_step"])
        for start, length, _, off0, _, off1 in sb["system"]:
            if start:
                self.add_group(Group(start, length, SYSTEM, [off0, off1]))

    def add_group(self, g):
        need(g.start and g.start % self.sb["group_step"] == 0, "group", g.start, "is not at a step")
        need(g.start not in self.groups and g.length <= self.sb["group_step"], "group", g.start, "does not fit")
        self.groups[g.start] = g

    def find(self, addr, length):
        g = self.groups.get(addr - addr % self.sb["group_step"])
        need(g and addr + length <= g.start + g.length, "address", addr, "is in no group")
        return g

    def read_groups(self):
        names = ("length used generation cache_generation cache_crc cache_bytes slot_bytes cache_slot type nr_stripes "
                 "reserved")
        for key, value in self.whole(self.sb["group_tree"], GROUP_TREE):
            need(len(key) == 9 and key[0] == 1, "group tree: key", key.hex())
            item = fields("QQQQIIIBBBB", names, value)
            stripes = list(struct.iter_unpack("<QQ", value[48:]))
            need(len(stripes) == item["nr_stripes"] and item["reserved"] == 0, "group item", value.hex())
            need(item["type"] in (DATA, METADATA) and not any(d for d, _ in stripes), "group item", value.hex())
            start = int.from_bytes(key[1:], "big")
            self.add_group(Group(start, item["length"], item["type"], [o for _, o in stripes], item))

    # ---- trees ----

    def node(self, addr, generation, owner, level):
        g = self.find(addr, NODE)
        need(g.kind == (SYSTEM if owner == GROUP_TREE else METADATA), "node", addr, "stands in a group of type", g.kind)
        for off in g.offsets:
            data = self.pread(NODE, off + addr - g.start)
            h = fields("I4sQQQ8sBBHI", "crc magic addr owner generation pool level reserved n data_off", data)
            if (h["magic"] == b"BYND" and h["crc"] == crc32c(data[4:]) and h["pool"] == self.sb["uuid"][:8]
                    and (h["addr"], h["generation"], h["owner"], h["level"]) == (addr, generation, owner, level)):
                g.claim(addr, NODE)
                return h, data
        raise Broken(f"node {addr} of tree {owner}: no copy is valid")

    def items(self, h, data):
        out, total = [], 0
        for i in range(h["n"]):
            off, klen, vlen = struct.unpack_from("<HHH", data, 64 + 6 * i)
            need(h["data_off"] <= off and off + klen + vlen <= NODE and klen, "node", h["addr"], "item", i)
            out.append((data[off:off + klen], data[off + klen:off + klen + vlen]))
            total += klen + vlen
        need(out and total == NODE - h["data_off"], "node", h["addr"], "has gaps among its items")
        need(all(a[0] < b[0] for a, b in zip(out, out[1:])), "node", h["addr"], "is not in order")
        return out

    def walk(self, root, owner, gone=None):
        """The items in order. gone(key of the next child): true where the child before it is freed (orphans)."""
        counts = [0, 0, 0]  # nodes, leaves, items

        def visit(addr, generation, level, first, upper):
            h, data = self.node(addr, generation, owner, level)
            items = self.items(h, data)
            need(first is None or items[0][0] == first, "node", addr, "does not begin with its parent's key")
            need(upper is None or items[-1][0] < upper, "node", addr, "holds keys that belong behind it")
            counts[0] += 1
            if level == 0:
                counts[1] += 1
                counts[2] += len(items)
                yield from items
                return
            for i, (key, value) in enumerate(items):
                child_addr, child_generation = struct.unpack("<QQ", value)
                behind = items[i + 1][0] if i + 1 < len(items) else upper
                need(child_generation <= generation, "node", addr, "has a child younger than itself")
                if not (gone and behind is not None and gone(behind)):
                    yield from visit(child_addr, child_generation, level - 1, key, behind)

        need(root["flags"] < 4 and not any(root["rest"]), "tree", owner, "has a wrong root")
        if root["addr"]:
            need(root["generation"] <= self.sb["generation"], "tree", owner, "is younger than the superblock")
            yield from visit(root["addr"], root["generation"], root["level"], None, None)
        self.counts = counts

    def whole(self, root, owner):
        """A tree whose counts are exact."""
        yield from self.walk(root, owner)
        need(self.counts == [root["nodes"], root["leaves"], root["items"]], "tree", owner, "has", self.counts)

    def check_counts(self):
        for owner, found in self.found.items():
            root, used = self.said[owner]
            said = [root["nodes"], root["leaves"], root["items"], used]
            for i, flag in enumerate((2, 2, 1, 0)):
                need(found[i] <= said[i] if root["flags"] & flag else found[i] == said[i] or (i == 3 and root["flags"]
                     and found[i] >= said[i]), "tree", owner, "has", found, "and says", said)

    def add_found(self, owner, blocks):
        self.found[owner] = [a + b for a, b in zip(self.found.get(owner, [0] * 4), self.counts + [blocks])]

    def read_root_tree(self):
        for key, value in self.whole(self.sb["root_tree"], ROOT_TREE):
            need(len(key) == 9 and key[0] in (1, 2), "root tree: key", key.hex())
            ident = int.from_bytes(key[1:], "big")
            need(FIRST_ID <= ident < self.sb["next_id"], "id", ident, "was never given out")
            root = tree_root(value)
            if key[0] == 1:
                self.read_volume(ident, root, value)
            else:
                self.read_orphan(ident, root, value)

    def read_volume(self, ident, root, value):
        item = fields("QQQQ16sIBB", "size used_blocks lost_blocks ctime_ns uuid flags name_len comment_len", value, 48)
        end = 104 + item["name_len"]
        need(len(value) == end + item["comment_len"] and not any(value[102:104]), "volume", ident, "has a wrong item")
        v = Volume(ident, item, value[104:end].decode("ascii"))
        v.comment = value[end:].decode("utf-8")
        need(v.comment.isprintable(), "volume", v.name, "has a comment with control characters")
        found = list(self.extents(self.walk(root, ident)))
        v.extents = [e for e in found if e[2]]
        v.lost = [e[:2] for e in found if not e[2]]
        self.said[ident] = root, item["used_blocks"]
        self.add_found(ident, sum(e[1] for e in v.extents))
        lost = sum(n for _, n in v.lost)
        need(lost == item["lost_blocks"], "volume", v.name, "has lost", lost, "blocks, says", item["lost_blocks"])
        end = 0
        for blk, n, *_ in found:
            need(blk >= end, "volume", v.name, "has extents that overlap at block", blk)
            end = blk + n
        need(end * BLOCK <= v.size, "volume", v.name, "has extents behind its end")
        need(v.name not in self.volumes, "two volumes are called", v.name)
        self.volumes[v.name] = v

    def read_orphan(self, ident, root, value):
        used, progress, owner = struct.unpack_from("<QQQ", value, 48)
        need(len(value) == 72, "orphan", ident, "has a wrong item")
        found = self.extents(self.walk(root, owner, lambda key: int.from_bytes(key[1:], "big") <= progress))
        blocks = sum(e[1] for e in found if e[2])
        if owner == ident:
            self.said[ident] = root, used
        self.add_found(owner, blocks)
        self.orphans += 1

    def extents(self, items):
        """(first block, blocks, address, generation, checksums); address 0: lost."""
        for key, value in items:
            addr, generation, n, flags = struct.unpack_from("<QQII", value)
            need(len(key) == 9 and key[0] == 0x10, "extent key", key.hex())
            blk = int.from_bytes(key[1:], "big")
            if flags == 1:
                need(addr > 0 and n == 0 and len(value) == 24, "lost extent at", blk)
                yield blk, addr, 0, generation, ()
                continue
            need(flags == 0 and 1 <= n <= 128 and len(value) == 24 + 4 * n, "extent of", n, "blocks")
            g = self.find(addr, n * BLOCK)
            need(g.kind == DATA, "extent in a group of type", g.kind)
            g.claim(addr, n * BLOCK)
            yield blk, n, addr, generation, struct.unpack_from(f"<{n}I", value, 24)

    # ---- free space ----

    def check_groups(self):
        for g in self.groups.values():
            if g.item:
                leaked = self.sb["flags"] & 2 and g.item["used"] >= len(g.used) * g.unit
                need(leaked or g.item["used"] == len(g.used) * g.unit, "group", g.start, "says used", g.item["used"])
                if g.item["cache_slot"] != 255:
                    for off in g.offsets:
                        free = self.cache(g, off + g.length + g.item["cache_slot"] * g.item["slot_bytes"])
                        real = set(range(g.units)) - g.used
                        need(free <= real if leaked else free == real, "group", g.start, "has a wrong cache")

    def cache(self, g, offset):
        data = self.pread(g.item["cache_bytes"], offset)
        h = fields("I4sHHI16sQQQQIII", "crc magic version reserved flags pool start length generation free entries "
                   "bitmaps bytes", data)
        need(h["magic"] == b"BFSC" and h["version"] == 1 and h["flags"] == 0, "cache of group", g.start, h)
        need(h["crc"] == crc32c(data[4:]) == g.item["cache_crc"], "cache of group", g.start, "checksum")
        need(
            h["pool"] == self.sb["uuid"]
            and h["start"] == g.start
            and h["length"] == g.units * 4096
            and h["generation"] == g.item["cache_generation"]
            and h["free"] == g.units * 4096 - g.item["used"] // g.unit * 4096
            and h["bytes"] == len(data) == 96 + 8 * h["entries"] + 512 * h["bitmaps"],
            "cache of group",
            g.start,
            h,
        )
        free, at, end = set(), 96 + 8 * h["entries"], 0
        for start, n in struct.iter_unpack("<II", data[96:at]):
            need(start >= end, "cache of group", g.start, "is not in order")
            if n & 0x80000000:
                bits = int.from_bytes(data[at:at + 512], "little")
                at, end = at + 512, start + 4096
                found = {start + i for i in range(4096) if bits >> i & 1}
                need(start % 4096 == 0 and len(found) == n & 0x7FFFFFFF, "cache of group", g.start, "bitmap at", start)
                free |= found
            else:
                end = start + n
                free.update(range(start, end))
        need(at == len(data) and end <= max(g.units, -(-g.units // 4096) * 4096), "cache of group", g.start)
        return free

    # ---- flush log ----

    def record(self, pos, seq):
        """The record's flags, items' bytes and the next position; None: the log ends here."""
        size = self.sb["log_size"]
        at = pos % size
        data = self.pread(BLOCK, self.sb["log_offset"] + at)
        h = fields("I4s16sQQIIII", "crc magic pool seq durable bytes items flags reserved", data)
        if (h["magic"] != b"BYLG" or h["pool"] != self.sb["uuid"] or h["seq"] != seq or not 56 <= h["bytes"] <= 262144
                or at + -(-h["bytes"] // BLOCK) * BLOCK > size):
            return None
        data = self.pread(h["bytes"], self.sb["log_offset"] + at)
        if h["crc"] != crc32c(data[4:]):
            return None
        step = size - at if h["flags"] & PAD else -(-h["bytes"] // BLOCK) * BLOCK
        return h["flags"], data[56:], pos + step

    def log_groups(self):
        pos, seq, group = self.sb["log_tail"], self.sb["log_seq"], b""
        while (rec := self.record(pos, seq)) is not None and rec[2] - self.sb["log_tail"] <= self.sb["log_size"]:
            flags, items, pos = rec
            seq, group = seq + 1, group + items
            if flags & LAST:
                yield flags, group
                group = b""

    def read_log(self):
        groups = list(self.log_groups())
        for i, (flags, group) in enumerate(groups):
            verify = i + 1 == len(groups) and not flags & DATA_DURABLE
            at = 0
            while at < len(group):
                kind, zero, length, ident, generation = struct.unpack_from("<HHIQQ", group, at)
                need(
                    not zero and length >= 24 and length % 8 == 0 and at + length <= len(group),
                    "flush log: item",
                    kind,
                    length,
                )
                self.log_item(kind, ident, generation, group[at + 24 : at + length], verify)
                at += length

    def log_item(self, kind, ident, generation, body, verify):
        if kind == LOG_GROUP:
            length, offset = struct.unpack("<QQ", body)
            if ident not in self.groups:
                self.add_group(Group(ident, length, DATA, [offset]))
        elif kind == LOG_EXTENT:
            blk, n, addr = struct.unpack_from("<QQQ", body)
            crcs = struct.unpack_from(f"<{n}I", body, 24) if addr else ()
            need(n and len(body) == 24 + -(-4 * len(crcs) // 8) * 8, "flush log: an extent of", n, "blocks")
            if generation > self.sb["generation"]:
                self.log_extent(ident, blk, n, addr, crcs, verify)
        elif LOG_CREATE <= kind <= LOG_SET:
            if generation > self.sb["generation"]:
                self.log_operation(kind, ident, body)
        else:
            need(False, "flush log: an item of type", kind)

    def log_name(self, body, at, length):
        need(0 < length == len(body[at:].rstrip(b"\0")) and len(body) == at + -(-length // 8) * 8, "flush log: a name")
        return body[at:at + length].decode("ascii")

    def log_operation(self, kind, ident, body):
        self.log_items += 1
        v = self.by_id(ident)
        need((v is None) == (kind == LOG_CREATE), "flush log: operation", kind, "on volume", ident)
        if kind == LOG_CREATE:
            item = fields("QQ16sIB", "size ctime_ns uuid flags name_len", body)
            v = Volume(ident, item, self.log_name(body, 40, item["name_len"]))
        elif kind == LOG_RESIZE:
            v.size, = struct.unpack("<Q", body)
            v.blocks = {b: where for b, where in v.blocks.items() if b * BLOCK < v.size}
            return
        elif kind == LOG_SET:
            flags, length = struct.unpack_from("<IB", body)
            need(len(body) == 8 + -(-length // 8) * 8 and not any(body[8 + length:]), "flush log: a comment")
            v.item["flags"] = flags
            v.comment = body[8:8 + length].decode("utf-8")
            return
        else:
            del self.volumes[v.name]
            if kind == LOG_DELETE:
                need(not body, "flush log: a deletion has", len(body), "bytes more")
                return
            v.name = self.log_name(body, 8, body[0])
        need(v.name not in self.volumes, "flush log: two volumes are called", v.name)
        self.volumes[v.name] = v

    def by_id(self, ident):
        return next((v for v in self.volumes.values() if v.id == ident), None)

    def log_extent(self, ident, blk, n, addr, crcs, verify):
        v = self.by_id(ident)
        need(v and (blk + n) * BLOCK <= v.size, "flush log: blocks", blk, n, "of volume", ident)
        if verify and any(crc32c(self.data(addr + i * BLOCK)) != c for i, c in enumerate(crcs)):
            return
        self.log_items += 1
        if addr:
            v.blocks.update((blk + i, (addr + i * BLOCK, c)) for i, c in enumerate(crcs))
        else:
            v.holes.append((blk, n))
            for b in [b for b in v.blocks if blk <= b < blk + n]:
                del v.blocks[b]

    # ---- data ----

    def data(self, addr):
        g = self.find(addr, BLOCK)
        return self.pread(BLOCK, g.offsets[0] + addr - g.start)

    def read(self, name, blk, count):
        v, out = self.volumes[name], []
        for b in range(blk, blk + count):
            addr, crc = v.blocks.get(b, (0, 0))
            lost, hole = (any(first <= b < first + n for first, n in runs) for runs in (v.lost, v.holes))
            need(addr or hole or not lost, "volume", name, "has lost block", b)
            block = self.data(addr) if addr else bytes(BLOCK)
            need(not addr or crc32c(block) == crc, "volume", name, "block", b, "does not match its checksum")
            out.append(block)
        return b"".join(out)


def describe(pool):
    return {
        "generation": pool.sb["generation"],
        "groups": {kind: sum(g.kind == n for g in pool.groups.values())
                   for n, kind in ((DATA, "data"), (METADATA, "metadata"), (SYSTEM, "system"))},
        "orphans": pool.orphans,
        "log_items": pool.log_items,
        "volumes": [{"name": v.name, "size": v.size, "uuid": v.item["uuid"].hex(), "flags": v.item["flags"],
                     "extents": [{"offset": blk * BLOCK, "length": n * BLOCK, "address": addr, "generation": generation}
                                 for blk, n, addr, generation, _ in v.extents]}
                    for _, v in sorted(pool.volumes.items())],
    }


def main():
    p = argparse.ArgumentParser(description="Reads a pool as docs/format.md says.")
    p.add_argument("pool")
    p.add_argument("--cat", metavar="VOLUME")
    args = p.parse_args()
    try:
        pool = Pool(args.pool)
        if args.cat:
            blocks = pool.volumes[args.cat].size // BLOCK
            for b in range(0, blocks, 256):
                sys.stdout.buffer.write(pool.read(args.cat, b, min(256, blocks - b)))
        else:
            print(json.dumps(describe(pool), indent=2))
    except (Broken, KeyError, struct.error) as e:
        print(f"{args.pool}: {e!r}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
