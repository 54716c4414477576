# SPDX-License-Identifier: BSD-3-Clause
"""The servers that bench.py compares. Each has files of its own, or shares a format's file with its siblings.

A peer is prepared once (its data file exists, empty), then started and stopped any number of times.
"""
import os
import shutil
import signal
import subprocess
import time

import byred as lib

CLK_TCK = os.sysconf("SC_CLK_TCK")


def run(*args):
    got = subprocess.run(list(map(str, args)), capture_output=True, text=True)
    if got.returncode:
        raise RuntimeError(f"{' '.join(map(str, args))}: {got.stderr.strip() or got.stdout.strip()}")
    return got.stdout


class Peer:
    name = label = None
    data = None  # peers with the same `data` share one file, which is filled once
    note = ""

    def __init__(self, work, size):
        self.work = work
        self.size = size
        self.proc = None
        self.sock = os.path.join(work, f"{self.name}.sock")

    def missing(self):
        """Why this peer cannot run here, or None."""
        return None

    def prepare(self):
        pass

    def command(self):
        raise NotImplementedError

    def start(self):
        if os.path.exists(self.sock):
            os.unlink(self.sock)
        self.log = open(os.path.join(self.work, f"{self.name}.log"), "ab")
        self.proc = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 30
        while not os.path.exists(self.sock):
            if self.proc.poll() is not None or time.monotonic() > deadline:
                with open(self.log.name) as f:
                    raise RuntimeError(f"{self.name} did not start: {f.read()[-1000:]}")
            time.sleep(0.02)
        time.sleep(0.1)

    def uri(self):
        return f"nbd+unix:///?socket={self.sock}"

    def pid(self):
        return self.proc.pid

    def cpu_seconds(self):
        """User and system time of the server and of its children that have ended."""
        with open(f"/proc/{self.pid()}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return sum(int(x) for x in fields[11:15]) / CLK_TCK

    def stop(self):
        if self.proc and self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
            try:
                self.proc.wait(120)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
        self.proc = None

    def clean(self):
        self.stop()


def write_zeros(path, size):
    """Allocates a file's blocks for good, as writing it does and fallocate does not."""
    chunk = bytes(4 << 20)
    with open(path, "wb", buffering=0) as f:
        for at in range(0, size, len(chunk)):
            f.write(chunk[: size - at])
        os.fsync(f.fileno())


class Byre(Peer):
    name, label, data = "byre", "Byre", "byre"

    def __init__(self, work, size):
        super().__init__(work, size)
        cache = size + size // 4
        self.byred = None
        self.note = f"Byre runs with --cache-size {cache >> 20}M (the data and a quarter) on a pool file that was written once; the peers have the host's page cache"
        self.args = ["--cache-size", str(cache), *os.environ.get("BYRED_ARGS", "").split()]

    def missing(self):
        return None if os.access(lib.BYRED, os.X_OK) else f"{lib.BYRED} is not built"

    def prepare(self):
        # Room for the copy beside the data: twice the size, as the btrfs peer has it.
        self.byred = lib.Byred(pool=os.path.join(self.work, "pool"), create=False, args=self.args)
        pool_size = 2 * self.size + (1 << 30)
        # Every peer's file is written once before anything is measured. Byre writes to new places: the whole pool,
        # then.
        write_zeros(self.byred.pool, pool_size)
        self.byred.ok("pool", "create", self.byred.pool, "--size", pool_size, "--force", timeout=600)
        self.byred.start()
        self.byred.create("bench", self.size)
        self.byred.stop()

    def start(self):
        self.byred.start()

    def uri(self):
        return self.byred.uri("bench")

    def pid(self):
        return self.byred.proc.pid

    def stop(self):
        if self.byred and self.byred.running():
            self.byred.stop(timeout=300)

    def clean(self):
        if self.byred:
            self.byred.close(check=False)


class RawFile(Peer):
    data = "raw"

    def path(self):
        return os.path.join(self.work, "disk.raw")

    def prepare(self):
        with open(self.path(), "ab") as f:
            f.truncate(self.size)


class NbdkitFile(RawFile):
    name, label = "nbdkit-file", "nbdkit file"

    def missing(self):
        return None if shutil.which("nbdkit") else "nbdkit is not installed"

    def command(self):
        return ["nbdkit", "-f", "-U", self.sock, "file", self.path()]


class QemuRaw(RawFile):
    name, label, format, cache = "qemu-raw", "qemu-nbd raw", "raw", None

    def missing(self):
        return None if shutil.which("qemu-nbd") else "qemu-nbd is not installed"

    def command(self):
        cache = [f"--cache={self.cache}"] if self.cache else []
        return ["qemu-nbd", "-t", "-e", "8", "-k", self.sock, "-f", self.format, *cache, self.path()]


class QemuRawNone(QemuRaw):
    name, label, cache = "qemu-raw-none", "qemu-nbd raw, cache=none", "none"


class QemuQcow2(QemuRaw):
    name, label, format, data = "qemu-qcow2", "qemu-nbd qcow2", "qcow2", "qcow2"

    def path(self):
        return os.path.join(self.work, "disk.qcow2")

    def prepare(self):
        if not os.path.exists(self.path()):
            run("qemu-img", "create", "-q", "-f", "qcow2", self.path(), self.size)


class QemuQcow2None(QemuQcow2):
    name, label, cache = "qemu-qcow2-none", "qemu-nbd qcow2, cache=none", "none"


class NbdkitBtrfs(NbdkitFile):
    name, label, data = "nbdkit-btrfs", "nbdkit file on btrfs", "btrfs"
    note = "nbdkit on btrfs: the CPU time of the kernel's threads (checksums, write-back, loop device) is not counted"
    loop = None

    def __init__(self, work, size):
        super().__init__(work, size)
        self.folder = os.path.join(work, "btrfs")

    def path(self):
        return os.path.join(self.folder, "disk.raw")

    def missing(self):
        if why := super().missing():
            return why
        if os.geteuid() != 0:
            return "needs root for mount"
        if not shutil.which("mkfs.btrfs"):
            return "mkfs.btrfs (btrfs-progs) is not installed"
        with open("/proc/filesystems") as f:
            known = "btrfs" in f.read()
        if not known and subprocess.run(["modprobe", "-q", "btrfs"], capture_output=True).returncode:
            return "this kernel has no btrfs"
        return None

    def prepare(self):
        image = os.path.join(self.work, "btrfs.img")
        with open(image, "wb") as f:
            os.posix_fallocate(f.fileno(), 0, 2 * self.size + (1 << 30))
        self.loop = run("losetup", "--find", "--show", image).strip()
        run("mkfs.btrfs", "-q", self.loop)
        os.makedirs(self.folder, exist_ok=True)
        run("mount", "-t", "btrfs", self.loop, self.folder)
        super().prepare()

    def clean(self):
        super().clean()
        if os.path.ismount(self.folder):
            run("umount", self.folder)
        if self.loop:
            run("losetup", "-d", self.loop)
            self.loop = None


PEERS = [Byre, NbdkitFile, QemuRaw, QemuRawNone, QemuQcow2, QemuQcow2None, NbdkitBtrfs]
