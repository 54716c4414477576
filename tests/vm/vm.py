# SPDX-License-Identifier: BSD-3-Clause
"""A virtual machine with Debian's kernel and an initramfs of our own; QEMU emulates (KVM is not needed)."""
import gzip
import json
import lzma
import os
import re
import shutil
import socket
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))
QEMU = "qemu-system-x86_64"

# Modules that the guest loads, dependencies come by themselves. crc32c_generic is what ext4 and xfs ask for softly.
MODULES = ["crc32c_generic", "nbd", "xfs", "ext4", "virtio_pci", "virtio_net", "virtio_blk"]
TOOLS = ["/usr/sbin/nbd-client", "/sbin/mkfs.xfs", "/sbin/xfs_repair", "/sbin/mke2fs", "/sbin/e2fsck"]


class Missing(Exception):
    """Something that the test needs is not on this machine."""


class Cpio:
    """Writes the initramfs (cpio, newc)."""

    def __init__(self):
        self.out = bytearray()
        self.inode = 0
        self.folders = set()

    def entry(self, name, mode, data=b"", rdev=(0, 0)):
        self.inode += 1
        name = name.lstrip("/").encode() + b"\0"
        fields = [self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, rdev[0], rdev[1], len(name), 0]
        self.out += b"070701" + b"".join(b"%08X" % f for f in fields) + name
        self.out += b"\0" * (-len(self.out) % 4)
        self.out += data + b"\0" * (-len(data) % 4)

    def folder(self, path):
        path = path.strip("/")
        if path and path not in self.folders:
            self.folder(os.path.dirname(path))
            self.folders.add(path)
            self.entry(path, 0o040755)

    def file(self, path, data, mode=0o755):
        self.folder(os.path.dirname(path))
        self.entry(path, 0o100000 | mode, data)

    def copy(self, source, target=None):
        with open(source, "rb") as f:
            self.file(target or source, f.read())

    def finish(self):
        self.entry("dev", 0o040755)
        self.entry("dev/console", 0o020600, rdev=(5, 1))
        self.entry("TRAILER!!!", 0)
        return bytes(self.out)


def libraries(program):
    out = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"(/[^ ]+)", out))


def kernel_dir(build):
    """The unpacked kernel package: (vmlinuz, its root folder, version)."""
    root = os.path.join(build, "vm", "kernel")
    if not os.path.exists(os.path.join(root, "complete")):
        got = subprocess.run(["sh", os.path.join(HERE, "fetch-kernel"), os.path.join(build, "vm")],
                             capture_output=True, text=True)
        if got.returncode:
            raise Missing((got.stdout.strip().splitlines() or ["no kernel"])[-1])
    name = next(n for n in sorted(os.listdir(os.path.join(root, "boot"))) if n.startswith("vmlinuz-"))
    return os.path.join(root, "boot", name), root, name[len("vmlinuz-"):]


def module_data(path):
    with open(path, "rb") as f:
        data = f.read()
    if path.endswith(".xz"):
        return lzma.decompress(data)
    return data


def module_files(root, version, wanted=MODULES):
    """The modules with their dependencies as (name, bytes), in the order in which they can be loaded."""
    base = os.path.join(root, "lib", "modules", version)
    by_name = {}
    for folder, _, files in os.walk(base):
        for name in files:
            if re.search(r"\.ko(\.xz)?$", name):
                by_name[name.split(".ko")[0].replace("-", "_")] = os.path.join(folder, name)
    with open(os.path.join(base, "modules.builtin")) as f:
        builtin = {os.path.basename(p.strip()).split(".ko")[0].replace("-", "_") for p in f}
    order = {}

    def add(name):
        if name in builtin or name in order:
            return
        data = module_data(by_name[name])
        for dep in re.search(rb"\0depends=([^\0]*)\0", data).group(1).decode().split(","):
            if dep:
                add(dep.replace("-", "_"))
        order[name] = data

    for name in wanted:
        add(name)
    return order.items()


def build_initramfs(build, name="initramfs.gz", init=None, tools=TOOLS, modules=MODULES):
    """Makes the initramfs, with guest-init as its first process unless `init` is another one; returns (vmlinuz,
    initramfs)."""
    if not shutil.which(QEMU):
        raise Missing(f"{QEMU} is not installed")
    for tool in [*tools, "/bin/busybox"]:
        if not os.path.exists(tool):
            raise Missing(f"{tool} is not installed")
    vmlinuz, root, version = kernel_dir(build)
    cpio = Cpio()
    if init:
        cpio.file("/init", init)
    else:
        cpio.copy(os.path.join(HERE, "guest-init"), "/init")
    cpio.copy("/bin/busybox", "/bin/busybox")
    needed = set()
    for tool in tools:
        needed |= libraries(tool)
        cpio.copy(tool, f"/usr/sbin/{os.path.basename(tool)}")
    for lib in sorted(needed):
        cpio.copy(lib)
    names = []
    for module, data in module_files(root, version, modules):
        cpio.file(f"/modules/{module}.ko", data)
        names.append(f"/modules/{module}.ko\n")
    cpio.file("/modules.list", "".join(names).encode())
    for i in range(20):  # something under /usr/share that the test can delete again
        cpio.file(f"/usr/share/text/{i}", b"some text %d\n" % i * (100 * i + 1))
    target = os.path.join(build, "vm", name)
    with open(target, "wb") as f:
        f.write(gzip.compress(cpio.finish(), 1))
    return vmlinuz, target


class Guest:
    """A running machine: its serial console in a file, its control socket (QMP)."""

    def __init__(self, folder, vmlinuz, initramfs, params, args=()):
        self.console = os.path.join(folder, "console")
        self.qmp_path = os.path.join(folder, "qmp")
        self.events = []
        self.qmp_buf = b""
        append = "console=ttyS0 panic=-1 quiet loglevel=4 " + " ".join(f"byre.{k}={v}" for k, v in params.items())
        self.proc = subprocess.Popen(
            [
                QEMU,
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max",
                "-smp",
                "2",
                "-m",
                "768",
                "-no-reboot",
                "-nodefaults",
                "-display",
                "none",
                "-serial",
                f"file:{self.console}",
                "-qmp",
                f"unix:{self.qmp_path},server=on,wait=off",
                "-kernel",
                vmlinuz,
                "-initrd",
                initramfs,
                "-append",
                append,
                *args,
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def text(self):
        try:
            with open(self.console, "rb") as f:
                return f.read().decode(errors="replace").replace("\r", "")
        except FileNotFoundError:
            return ""

    def wait_for(self, pattern, timeout):
        """Waits for a line on the console; returns the match."""
        deadline = time.monotonic() + timeout
        while True:
            found = re.search(pattern, self.text(), re.M)
            if found:
                return found
            dead = self.proc.poll() is not None
            if dead and not re.search(pattern, self.text(), re.M):
                raise AssertionError(f"the guest ended without {pattern!r}: {self.proc.stderr.read().decode()}"
                                     f"\n{self.text()[-4000:]}")
            if time.monotonic() > deadline:
                raise AssertionError(f"no {pattern!r} on the console within {timeout} s:\n{self.text()[-4000:]}")
            time.sleep(0.1)

    def result(self, timeout):
        word = self.wait_for(r"^BYRE-RESULT (.*)$", timeout).group(1)
        assert word == "ok", f"the guest says: {word}\n{self.text()[-6000:]}"

    # ---- QMP ----

    def qmp_connect(self):
        self.qmp_sock = socket.socket(socket.AF_UNIX)
        for _ in range(100):
            try:
                self.qmp_sock.connect(self.qmp_path)
                break
            except OSError:
                time.sleep(0.1)
        self.qmp_line(10)
        self.qmp("qmp_capabilities")

    def qmp_line(self, timeout):
        """The next message, or None when none comes in time."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self.qmp_buf:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self.qmp_sock.settimeout(left)
            try:
                more = self.qmp_sock.recv(65536)
            except socket.timeout:
                return None
            if not more:
                return None
            self.qmp_buf += more
        line, self.qmp_buf = self.qmp_buf.split(b"\n", 1)
        return json.loads(line)

    def qmp(self, command, **arguments):
        message = {"execute": command}
        if arguments:
            message["arguments"] = arguments
        self.qmp_sock.sendall(json.dumps(message).encode() + b"\n")
        while (got := self.qmp_line(30)) is not None:
            if "event" in got:
                self.events.append(got)
            elif "error" in got:
                raise AssertionError(f"QMP {command}: {got['error']}")
            else:
                return got["return"]
        raise AssertionError(f"QMP {command}: no answer")

    def take_events(self):
        """Moves what has arrived into `events`."""
        while (got := self.qmp_line(0.05)) is not None:
            if "event" in got:
                self.events.append(got)

    def close(self):
        if self.proc.poll() is None:
            try:
                self.proc.wait(5)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
