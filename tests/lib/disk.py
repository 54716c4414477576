# SPDX-License-Identifier: BSD-3-Clause
"""Exports as block devices of this machine: nbdfuse makes one a file, a loop device makes that a disk.

VolatileDisk is one with a write cache that a power cut empties: nbdkit's cache filter keeps what is written to itself
until a flush comes, and cut() kills it.
"""
import os
import shutil
import subprocess
import time


def missing():
    """Why this machine cannot have such disks, or None."""
    if os.geteuid() != 0:
        return "needs root for mount"
    for tool in ("nbdfuse", "losetup", "mount", "nbdkit"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    if not shutil.which("fusermount3") and not shutil.which("fusermount"):
        return "fusermount is not installed"
    if not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
        return "no FUSE or no loop devices here"
    with open("/proc/filesystems") as f:
        if "ext4" not in f.read():
            return "this kernel has no ext4 loaded"
    return None


def run(*args, check=True):
    got = subprocess.run(list(args), capture_output=True, text=True, timeout=120)
    assert not check or got.returncode == 0, f"{args}: {got.stdout}{got.stderr}"
    return got.stdout.strip()


def end(proc):
    """Waits for a process that is about to end by itself, and ends it when it does not."""
    try:
        proc.wait(20)
    except subprocess.TimeoutExpired:
        proc.kill()
        proc.wait()


class NbdDisk:
    """attach() makes the export at `uri` the block device `loop`; `file` is its file in `folder`."""

    def __init__(self, uri, folder):
        self.uri = uri
        self.file = os.path.join(folder, "fuse")
        self.loop = self.fuse = None

    def attach(self):
        open(self.file, "a").close()
        self.fuse = subprocess.Popen(["nbdfuse", self.file, self.uri], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while os.path.getsize(self.file) == 0:
            assert time.monotonic() < deadline and self.fuse.poll() is None, "nbdfuse did not start"
            time.sleep(0.02)
        self.loop = run("losetup", "--find", "--show", self.file)

    def detach(self):
        """Takes everything away, whatever state it is in."""
        if self.loop:
            run("losetup", "-d", self.loop, check=False)
            self.loop = None
        if self.fuse:
            run("fusermount3" if shutil.which("fusermount3") else "fusermount", "-u", "-z", self.file, check=False)
            end(self.fuse)
            self.fuse = None


class VolatileDisk(NbdDisk):
    """A disk of `size` bytes that loses what was not flushed when cut() is called. detach(), then attach() it again."""

    def __init__(self, size, folder):
        os.makedirs(folder)
        self.sock = os.path.join(folder, "sock")
        self.image = os.path.join(folder, "image")
        self.nbdkit = None
        with open(self.image, "wb") as f:
            f.truncate(size)
        super().__init__(f"nbd+unix:///?socket={self.sock}", folder)

    def attach(self):
        if os.path.exists(self.sock):
            os.unlink(self.sock)
        self.nbdkit = subprocess.Popen(
            ["nbdkit", "--foreground", "--unix", self.sock, "--filter=cache", "file", self.image, "cache=writeback"],
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while not os.path.exists(self.sock):
            assert time.monotonic() < deadline and self.nbdkit.poll() is None, "nbdkit did not start"
            time.sleep(0.02)
        super().attach()

    def cut(self):
        self.nbdkit.kill()
        self.nbdkit.wait()

    def detach(self):
        super().detach()
        if self.nbdkit:
            self.nbdkit.terminate()
            end(self.nbdkit)
            self.nbdkit = None


class Mount:
    """A disk's ext4 file system, mounted at `folder`."""

    def __init__(self, disk, folder):
        self.disk = disk
        self.folder = folder
        os.makedirs(folder, exist_ok=True)

    def mount(self):
        self.disk.attach()
        run("mount", "-t", "ext4", self.disk.loop, self.folder)

    def detach(self):
        """Takes everything away, whatever state it is in."""
        if os.path.ismount(self.folder):
            run("umount", self.folder, check=False)
        if os.path.ismount(self.folder):
            run("umount", "-l", self.folder, check=False)
        self.disk.detach()


