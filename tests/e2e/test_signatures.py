# SPDX-License-Identifier: BSD-3-Clause
"""What stood on a device or file before a pool: named when it is refused, gone when it is overwritten."""
import os
import shutil
import struct
import subprocess
import zlib

import pytest
from byred import M, run_byre

SIZE = 400 * M
REPO = os.path.join(os.path.dirname(__file__), "..", "..")


def signatures(path):
    """What wipefs finds, which looks everywhere that libblkid knows."""
    out = subprocess.run(["wipefs", "--noheadings", "--parsable", path], check=True, capture_output=True, text=True)
    return out.stdout.split()


def gpt(f, size):
    """A GUID partition table with one partition, at both ends."""
    entry = bytes(range(1, 17)) + bytes(range(17, 33)) + struct.pack("<QQQ", 2048, 4095, 0) + bytes(72)
    entries = entry + bytes(128 * 127)
    last = size // 512 - 1

    def header(here, other, table):
        h = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, here, other, 34, last - 33,
                        bytes(range(50, 66)), table, 128, 128, zlib.crc32(entries))  # fmt: skip
        return h[:16] + struct.pack("<I", zlib.crc32(h)) + h[20:]

    mbr = bytearray(512)
    mbr[446:462] = struct.pack("<BBBBBBBBII", 0, 0, 2, 0, 0xEE, 255, 255, 255, 1, last)
    mbr[510:] = b"\x55\xaa"
    for at, data in ((0, mbr), (512, header(1, last, 2)), (1024, entries), ((last - 32) * 512, entries),
                     (last * 512, header(last, 1, last - 32))):  # fmt: skip
        f.seek(at)
        f.write(data)


def make(kind, path):
    if kind == "gpt":
        with open(path, "r+b") as f:
            gpt(f, SIZE)
        return
    tool = {"swap": "mkswap"}.get(kind, f"mkfs.{kind}")
    if not shutil.which(tool):
        pytest.skip(f"no {tool}")
    subprocess.run([tool, *(["-L", "old data"] if kind == "ext4" else []), path], check=True, capture_output=True)


@pytest.fixture
def image(tmp_path):
    path = str(tmp_path / "image")
    with open(path, "wb") as f:
        f.truncate(SIZE)
    return path


@pytest.fixture
def device(loop, image):
    """The image as a block device."""
    return loop(image)


NAMES = {"ext4": 'an ext4 file system "old data"', "xfs": "an xfs file system", "swap": "a swap area",
         "gpt": "a partition table (gpt)"}  # fmt: skip


@pytest.mark.parametrize("kind", NAMES)
def test_old_signature_on_a_device_is_named_and_wiped(device, kind):
    make(kind, device)
    assert signatures(device)
    refused = run_byre("pool", "create", device)
    assert refused.rc == 1 and f"holds {NAMES[kind]}: --force" in refused.err, refused
    assert signatures(device), "a refusal must change nothing"
    assert run_byre("pool", "create", device, "--force").rc == 0
    assert signatures(device) == []
    blkid = subprocess.run(["blkid", "-p", device], capture_output=True, text=True)
    assert blkid.returncode == 2, blkid
    assert run_byre("pool", "check", device).rc == 0
    again = run_byre("pool", "create", device)
    assert again.rc == 1 and "holds a Byre pool" in again.err, again


@pytest.mark.parametrize("kind", ["ext4", "gpt"])
def test_old_signature_in_a_file_is_named_and_wiped(image, kind):
    make(kind, image)
    refused = run_byre("pool", "create", image, "--size", SIZE, "--sparse")
    assert refused.rc == 1 and f"holds {NAMES[kind]}" in refused.err, refused
    assert run_byre("pool", "create", image, "--size", SIZE, "--sparse", "--force").rc == 0
    assert signatures(image) == []
    assert run_byre("pool", "check", image).rc == 0


def test_signature_at_the_end_alone_is_seen(device):
    """As a GPT whose first copy was overwritten leaves it: the start is all zeros."""
    make("gpt", device)
    with open(device, "r+b") as f:
        f.write(bytes(M))
    refused = run_byre("pool", "create", device)
    assert refused.rc == 1 and "gpt" in refused.err, refused
    assert run_byre("pool", "create", device, "--force").rc == 0
    assert signatures(device) == []


def test_pool_is_known_to_file(image):
    if not shutil.which("file"):
        pytest.skip("no file(1)")
    assert run_byre("pool", "create", image, "--size", SIZE, "--sparse", "--force").rc == 0
    magic = os.path.join(REPO, "deploy", "byre.magic")
    out = subprocess.run(["file", "-m", magic, image], check=True, capture_output=True, text=True).stdout
    assert "Byre storage pool (version 2), 419430400 bytes" in out, out
