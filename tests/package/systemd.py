#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The packages under a real systemd: a Debian that was just made, in QEMU, in which tests/package/guest.py does what an
administrator does.

  systemd.py BUILD [TEST...]      (as root; BUILD/debs has the packages; tests of guest.py, all of them by default)

Environment: VM_TIMEOUT (900) seconds for the machine, SUITE (bookworm), MIRROR, COUNTS (see tests.mk),
KEEP=1 leaves the root's image in BUILD/vm/debian.img, and the next run with KEEP=1 takes it from there.
"""
import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "vm")]

import vm  # noqa: E402

SUITE = os.environ.get("SUITE", "bookworm")
MIRROR = os.environ.get("MIRROR", "http://deb.debian.org/debian")
TIMEOUT = int(os.environ.get("VM_TIMEOUT", "900"))
PACKAGES = [
    "systemd-sysv",
    "udev",
    "dbus",
    "kmod",
    "procps",
    "sudo",
    "adduser",
    "e2fsprogs",
    "dmsetup",
    "fuse3",
    "nbd-client",
    "nbdkit",
    "libnbd-bin",
    "python3-libnbd",
    "qemu-utils",
]  # fmt: skip
MODULES = ["nbd", "loop", "fuse", "dm_mod", "ext4", "crc32c_generic"]
# The test starts when the machine is up, and its last line is what the host waits for.
TEST_UNIT = """[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'mkdir /payload && tar -C /payload -xf /dev/disk/by-id/virtio-payload && \
exec python3 -u /payload/guest.py'
StandardOutput=file:/dev/ttyS0
StandardError=file:/dev/ttyS0
TimeoutStartSec=infinity
[Install]
WantedBy=multi-user.target
"""
# What starts the root: the initramfs only loads what its disk takes.
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /dev /root
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do /bin/busybox insmod $module; done </modules.list
i=0
until [ -b /dev/vda ] || [ $i = 100 ]; do i=$((i + 1)); /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 -o rw /dev/vda /root
/bin/busybox mount -o move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
"""


def run(*cmd, error=AssertionError, **kw):
    got = subprocess.run(
        cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw
    )
    if got.returncode:
        raise error(f"{' '.join(cmd)} failed (exit {got.returncode}): {got.stdout[-1500:]}")
    return got.stdout


def in_root(root, *cmd):
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    return run("chroot", root, *cmd, env=env)


def copy_modules(kernel_root, version, root):
    base = os.path.join(root, "lib/modules", version)
    for name, data in vm.module_files(kernel_root, version, MODULES):
        os.makedirs(f"{base}/kernel", exist_ok=True)
        with open(f"{base}/kernel/{name}.ko", "wb") as f:
            f.write(data)
    for name in ("modules.builtin", "modules.order", "modules.builtin.modinfo"):
        shutil.copy(os.path.join(kernel_root, "lib/modules", version, name), base)
    in_root(root, "depmod", version)


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)


def make_root(build, root, deb, kernel_root, version):
    """A minimal Debian with systemd and what the package depends on, but without the package."""
    cache = os.path.join(os.path.abspath(build), "debootstrap-cache")
    os.makedirs(cache, exist_ok=True)
    run(
        "debootstrap",
        f"--cache-dir={cache}",
        "--variant=minbase",
        "--include=" + ",".join(PACKAGES),
        SUITE,
        root,
        MIRROR,
        error=vm.Missing,
    )
    depends = run("dpkg-deb", "-f", deb, "Depends").strip()
    in_root(root, "apt-get", "satisfy", "-y", "-qq", "--no-install-recommends", depends)
    shutil.rmtree(f"{root}/var/cache/apt/archives")
    os.makedirs(f"{root}/var/cache/apt/archives/partial")
    copy_modules(kernel_root, version, root)
    write(f"{root}/etc/systemd/system/byre-test.service", TEST_UNIT)
    write(f"{root}/etc/systemd/journald.conf.d/test.conf", "[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\n")
    write(f"{root}/etc/hostname", "guest\n")
    write(f"{root}/etc/hosts", "127.0.0.1 localhost guest\n")
    in_root(root, "systemctl", "enable", "-q", "byre-test.service")
    in_root(root, "systemctl", "mask", "-q", "serial-getty@ttyS0.service", "apt-daily.timer", "apt-daily-upgrade.timer",
            "e2scrub_all.timer", "fstrim.timer", "dpkg-db-backup.timer", "systemd-tmpfiles-clean.timer")  # fmt: skip


def make_image(build, deb, kernel_root, version):
    image = os.path.join(build, "vm", "debian.img")
    if os.environ.get("KEEP") and os.path.exists(image):
        return image
    with tempfile.TemporaryDirectory(prefix="byre-root-") as root:
        # In memory: dpkg syncs every file.
        run("mount", "-t", "tmpfs", "-o", "size=1500M,mode=755", "byre-root", root)
        try:
            make_root(build, root, deb, kernel_root, version)
            run("mke2fs", "-q", "-F", "-t", "ext4", "-d", root, image, "2G")
        finally:
            run("umount", "-l", root)
    return image


def make_newer(deb, folder):
    """The same package with a higher version."""
    unpacked, target = os.path.join(folder, "unpacked"), os.path.join(folder, "newer.deb")
    run("dpkg-deb", "-R", deb, unpacked)
    control = os.path.join(unpacked, "DEBIAN", "control")
    with open(control) as f:
        text = re.sub(r"(?m)^(Version: .*)$", r"\1+newer", f.read())
    write(control, text)
    run("dpkg-deb", "--root-owner-group", "-b", unpacked, target)
    return target


def make_payload(folder, deb, names):
    """What the guest gets on a disk of its own: the packages, the test, its name."""
    place = os.path.join(folder, "payload")
    os.mkdir(place)
    shutil.copy(deb, os.path.join(place, "byred.deb"))
    shutil.copy(make_newer(deb, folder), place)
    for name in ("guest.py", "guest_lib.py"):
        shutil.copy(os.path.join(HERE, name), place)
    write(os.path.join(place, "tests"), "\n".join(names))
    target = os.path.join(folder, "payload.tar")
    run("tar", "-C", place, "-cf", target, ".")
    return target


def disk(name, path, extra=""):
    return ["-drive", f"file={path},format=raw,if=none,id={name},cache=unsafe{extra}",
            "-device", f"virtio-blk-pci,drive={name},serial={name}"]  # fmt: skip


def boot(build, folder, names):
    """Returns how many steps of guest.py were done."""
    deb = next(p for p in glob.glob(os.path.join(build, "debs", "byred_*.deb")))
    vmlinuz, kernel_root, version = vm.kernel_dir(build)
    initramfs = vm.build_initramfs(build, name="debian-initramfs.gz", init=INIT.encode(), tools=(),
                                   modules=("crc32c_generic", "ext4", "virtio_pci", "virtio_blk"))[1]
    image = make_image(build, deb, kernel_root, version)
    pool = os.path.join(folder, "pool-disk")
    with open(pool, "wb") as f:
        f.truncate(256 << 20)
    guest = vm.Guest(folder, vmlinuz, initramfs, {}, [
        *disk("root", image, ",snapshot=on"), *disk("payload", make_payload(folder, deb, names), ",readonly=on"),
        *disk("pooldisk", pool), "-nic", "none", "-device", "virtio-rng-pci",
    ])  # fmt: skip
    try:
        guest.result(TIMEOUT)
        return len(re.findall("(?m)^  passed ", guest.text()))
    finally:
        guest.close()
        if os.environ.get("CONSOLE"):
            shutil.copy(guest.console, os.environ["CONSOLE"])
        print("".join(re.findall(r"(?m)^ +passed .*\n|^    .*\n", guest.text())), end="", flush=True)
        if not os.environ.get("KEEP"):
            os.unlink(image)


def main():
    build, names = sys.argv[1], sys.argv[2:]
    passed, failed, skipped = 0, 0, 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and clean up
    with tempfile.TemporaryDirectory(prefix="byre-systemd-") as folder:
        try:
            passed = boot(build, folder, names)
        except vm.Missing as e:
            print(f"skipped: {e}")
            skipped = 1
        except AssertionError as e:
            print(e)
            failed = 1
    if os.environ.get("COUNTS"):
        with open(os.environ["COUNTS"], "a") as f:
            f.write(f"systemd {passed} {failed} {skipped}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
