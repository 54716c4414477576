# SPDX-License-Identifier: BSD-3-Clause
"""Real disk images through the tools that people use: nbdcopy and qemu-img."""
import filecmp
import os
import subprocess

import pytest

from byred import M

SIZE = 256 * M


def run(*args, timeout=300):
    got = subprocess.run(list(map(str, args)), capture_output=True, text=True, timeout=timeout)
    assert got.returncode == 0, f"{args}: {got.stdout}{got.stderr}"
    return got.stdout


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """An ext4 file system with some of this machine's files in it."""
    folder = tmp_path_factory.mktemp("image")
    source, path = folder / "source", folder / "image.raw"
    source.mkdir()
    taken = count = 0
    for root, _, files in os.walk("/usr/share"):
        for name in sorted(files):
            full = os.path.join(root, name)
            if os.path.islink(full) or not os.path.isfile(full):
                continue
            size = os.path.getsize(full)
            if size < 2 * M and taken + size < 120 * M and count < 2500:
                taken, count = taken + size, count + 1
                with open(full, "rb") as src, open(source / f"{taken}-{name}", "wb") as dst:
                    dst.write(src.read())
    assert taken > 5 * M
    with open(path, "wb") as f:
        f.truncate(SIZE)
    run("/sbin/mke2fs", "-q", "-t", "ext4", "-d", source, path)
    yield path
    run("rm", "-rf", folder)


def read_out(b, name, folder, tool):
    out = folder / f"out-{tool}.raw"
    if tool == "nbdcopy":
        run("nbdcopy", b.uri(name), out)
    else:
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", b.uri(name), out)
    return out


def is_same(b, image, name, folder):
    for tool in ("nbdcopy", "qemu-img"):
        out = read_out(b, name, folder, tool)
        assert filecmp.cmp(image, out, shallow=False), f"differs, read with {tool}"
        out.unlink()


def copy_in(b, image, name, tool):
    if tool == "nbdcopy":
        run("nbdcopy", "--flush", image, b.uri(name))
    else:
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, b.uri(name))


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["nbdcopy", "qemu-img"])
def test_image_comes_back_identical(make_byred, image, tmp_path, tool):
    b = make_byred("2G").start()
    b.create("disk", SIZE)
    copy_in(b, image, "disk", tool)
    is_same(b, image, "disk", tmp_path)
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, b.uri("disk"))
    b.restart()
    is_same(b, image, "disk", tmp_path)
    # A second copy, flushed by the tool at its end (qemu-img does so itself), then a crash.
    b.create("disk2", SIZE)
    copy_in(b, image, "disk2", tool)
    b.kill()
    b.start()
    is_same(b, image, "disk2", tmp_path)
    is_same(b, image, "disk", tmp_path)
    run("/sbin/e2fsck", "-fn", read_out(b, "disk2", tmp_path, "nbdcopy"))


@pytest.mark.slow
def test_image_qcow2_converts_into_a_volume(make_byred, image, tmp_path):
    qcow2 = tmp_path / "image.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, qcow2)
    b = make_byred("2G").start()
    b.create("disk", SIZE)
    run("qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", qcow2, b.uri("disk"))
    is_same(b, image, "disk", tmp_path)


@pytest.mark.slow
def test_image_is_thin(make_byred, image):
    """Holes of the image take no space in the pool, written by either tool."""
    b = make_byred("2G").start()
    stored = os.stat(image).st_blocks * 512
    for tool in ("nbdcopy", "qemu-img"):
        before = b.info()["data_bytes"]
        b.create(tool, SIZE)
        copy_in(b, image, tool, tool)
        b.ok("commit")
        assert b.info()["data_bytes"] - before < stored * 1.2 + 4 * M


def test_image_nbdinfo_lists_and_describes(shared, volume):
    out = run("nbdinfo", "--list", f"nbd+unix:///?socket={shared.nbd_sock}")
    assert volume in out
    assert "67108864" in run("nbdinfo", "--size", shared.uri(volume))
