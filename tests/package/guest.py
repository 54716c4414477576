#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""An administrator's days with the package, under a real systemd. Runs as root inside the machine of systemd.py.

The steps build on each other: a service that one has started is what the next upgrades.
"""
import json
import os
import re
import stat
import subprocess
import time
import traceback

import nbd

from guest_lib import (
    MIB,
    NBD,
    RPC,
    Newcomers,
    Writer,
    can_connect,
    drop_in,
    handle,
    journal,
    listening_inode,
    main_pid,
    prop,
    sh,
    wait_until,
    write,
)  # fmt: skip

FAST_RPC = "unix:/run/byre-fast/rpc.sock"


def test_install():
    """Nothing starts by itself: there is no pool yet."""
    sh("apt-get install -y /payload/byred.deb")
    assert prop("ActiveState") == "inactive" and prop("UnitFileState") == "disabled"
    assert sh("stat -c '%U %G %a' /var/lib/byre").split() == ["byre", "byre", "700"]
    assert "byre" in sh("id byre")
    said = sh("systemctl start byred", ok=False)
    log = sh("journalctl -u byred -o cat")
    assert "/var/lib/byre/pool" in log and "pool create" in log, f"a start without a pool says: {said} {log}"
    sh("systemctl stop byred")


def test_first_pool():
    sh("sudo -u byre byre pool create /var/lib/byre/pool --size 256M")
    sh("systemctl enable --now byred")
    assert prop("ActiveState") == "active" and prop("NFileDescriptorStore") == "2"
    sh("byre pool info")
    sh("byre volume create vm1 64M")
    assert "vm1" in sh("byre volume list")
    for path in (NBD, RPC):
        st = os.stat(path)
        assert stat.S_IMODE(st.st_mode) == 0o660 and sh(f"stat -c '%U %G' {path}") == "byre byre\n"
    assert sh("stat -c '%U %G %a' /run/byre /var/lib/byre/pool").splitlines() == ["byre byre 755", "byre byre 600"]


def test_confined():
    """What the unit promises of the process: its user, no way to gain rights, system calls filtered, memory bounded."""
    with open(f"/proc/{main_pid()}/status") as f:
        status = dict(re.findall(r"(?m)^(\w+):\s+(.*)$", f.read()))
    assert status["Uid"].split()[0] == sh("id -u byre").strip()
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2" and int(status["CapBnd"], 16) == 0
    defaults = dict(re.findall(r"--(cache-size|memory) SIZE .*\(default: (\w+)\)", sh("byred --help")))
    units = {"M": MIB, "G": MIB << 10}
    sizes = {k: int(v[:-1]) * units[v[-1]] for k, v in defaults.items()}
    assert len(sizes) == 2
    assert sum(sizes.values()) + 512 * MIB <= int(prop("MemoryMax")), "the rule of operating.md for MemoryMax"
    device = sh("byre pool info")
    assert "io_uring" in device, f"the unit's filter keeps io_uring away: {device}"


def test_members_of_the_group():
    sh("adduser --disabled-password --gecos '' alice && adduser --disabled-password --gecos '' mallory")
    sh("adduser alice byre")
    assert "vm1" in sh("sudo -u alice byre volume list")
    assert "ermission denied" in sh("sudo -u mallory byre volume list", ok=False)
    assert sh("sudo -u alice nbdinfo --size 'nbd+unix:///vm1?socket=/run/byre/nbd.sock'") == f"{64 * MIB}\n"
    sh("sudo -u mallory nbdinfo --size 'nbd+unix:///vm1?socket=/run/byre/nbd.sock'", ok=False)


def test_instance_on_a_disk():
    """byred@fast, with a pool that is a whole disk, and what operating.md says that it takes."""
    with open("/etc/byre/byred.conf") as f:
        text = f.read()
    text = re.sub(r"(?m)^pool = .*", "pool = /dev/disk/by-id/virtio-pooldisk", text)
    write("/etc/byre/fast.conf", re.sub(r"(?m)^(nbd|rpc) = .*\n", "", text))
    sh("byre pool create /dev/disk/by-id/virtio-pooldisk")
    sh("systemctl start byred@fast", ok=False)
    sh("systemctl stop byred@fast")
    drop_in("byred@fast", "[Service]\nDeviceAllow=/dev/disk/by-id/virtio-pooldisk rw\n")
    write("/etc/udev/rules.d/90-byre.rules",
          'SUBSYSTEM=="block", ENV{ID_SERIAL}=="pooldisk", OWNER="byre", GROUP="byre", MODE="0600"\n')  # fmt: skip
    sh("udevadm control --reload && udevadm trigger --settle /dev/vdc")
    assert sh("stat -L -c '%U %a' /dev/disk/by-id/virtio-pooldisk") == "byre 600\n"
    sh("systemctl enable --now byred@fast")
    assert "writable" in sh(f"byre --connect {FAST_RPC} pool info")
    sh(f"byre --connect {FAST_RPC} volume create disk1 128M")
    assert "disk1" not in sh("byre volume list"), "two daemons, two pools"


def test_journal_has_fields():
    start = time.time()
    sh("byre volume create noted 8M")
    h = handle("noted")
    h.pwrite(b"x" * 4096, 0)
    h.shutdown()
    wait_until(lambda: journal("BYRE_EVENT=disconnect", "BYRE_VOLUME=noted"))
    sh("byre volume delete noted")
    sh("byre volume delete noted", ok=False)
    by_event = {}
    for entry in journal("BYRE_VOLUME=noted", since=start):
        by_event.setdefault(entry["BYRE_EVENT"], entry)
        assert entry["_SYSTEMD_UNIT"] == "byred.service" and entry["SYSLOG_IDENTIFIER"] == "byred"
    assert {"volume-create", "connect", "disconnect", "volume-delete"} <= set(by_event), by_event
    assert by_event["disconnect"]["BYRE_BYTES"] == "4096" and by_event["connect"]["BYRE_PEER"]
    refused = [e for e in journal("BYRE_EVENT=volume-delete", since=start) if "BYRE_ERROR" in e]
    assert len(refused) == 1 and refused[0]["PRIORITY"] == "5", refused
    sh("systemctl reload byred")
    assert journal("-u byred", "-p info", since=start)


def restart_under_newcomers(how, unit="byred", export="vm1", path=NBD):
    """Whatever ends the daemon: the sockets stay, and who connects meanwhile waits."""
    pid, inodes = main_pid(unit), [listening_inode(path), listening_inode(path.replace("nbd.sock", "rpc.sock"))]
    assert all(inodes)
    with Newcomers(export, path) as newcomers:
        time.sleep(0.5)
        how()
        wait_until(lambda: prop("ActiveState", unit) == "active" and prop("MainPID", unit) not in ("0", str(pid)))
        after = newcomers.count
        wait_until(lambda: newcomers.count > after + 2 or newcomers.errors)
    assert newcomers.cut <= 1, f"{newcomers.cut} were cut off"
    assert not newcomers.errors, f"{len(newcomers.errors)} of {newcomers.count} failed: {newcomers.errors[:3]}"
    assert [listening_inode(path), listening_inode(path.replace("nbd.sock", "rpc.sock"))] == inodes
    assert prop("NFileDescriptorStore", unit) == "2", "each restart adds to the store"
    print(f"    {newcomers.count} connected, the slowest within {newcomers.slowest:.2f} s", flush=True)


def test_restart_under_newcomers():
    restart_under_newcomers(lambda: sh("systemctl restart byred"))
    restart_under_newcomers(
        lambda: sh("systemctl restart byred@fast"), "byred@fast", "disk1", "/run/byre-fast/nbd.sock"
    )


def test_crash_under_newcomers():
    restart_under_newcomers(lambda: os.kill(main_pid(), 9))


def test_watchdog():
    """A daemon that hangs is ended and started anew."""
    drop_in("byred", "[Service]\nWatchdogSec=10\n", "watchdog")
    sh("systemctl restart byred")
    time.sleep(12)
    assert prop("NRestarts") == "0", "the watchdog is not fed"
    pid = main_pid()
    os.kill(pid, 19)
    wait_until(lambda: prop("NRestarts") == "1" and prop("ActiveState") == "active", 90)
    assert "result 'watchdog'" in sh("journalctl -u byred -o cat")
    assert "vm1" in sh("byre volume list")
    os.unlink("/etc/systemd/system/byred.service.d/watchdog.conf")
    sh("systemctl daemon-reload && systemctl restart byred")


def test_socket_settings_change():
    """A restart gives the sockets that are kept the mode and the group that the configuration has by then."""
    with open("/etc/byre/byred.conf") as f:
        old = f.read()
    sh("addgroup vms && adduser --disabled-password --gecos '' --ingroup vms bob")
    write("/etc/byre/byred.conf", old + "\nsocket-mode = 0620\nsocket-group = vms\n")
    sh("systemctl restart byred", ok=False)
    assert "adduser byre" in sh("journalctl -u byred -o cat | tail -n 20")
    write("/etc/byre/byred.conf", old)
    sh("systemctl restart byred && adduser byre vms")
    sh("sudo -u bob byre volume list", ok=False)
    write("/etc/byre/byred.conf", old + "\nsocket-mode = 0660\nsocket-group = vms\n")
    restart_under_newcomers(lambda: sh("systemctl restart byred"))
    assert sh(f"stat -c '%U %G %a' {NBD} {RPC}") == "byre vms 660\n" * 2
    assert "vm1" in sh("sudo -u bob byre volume list")
    sh("sudo -u alice byre volume list", ok=False)
    write("/etc/byre/byred.conf", old)
    restart_under_newcomers(lambda: sh("systemctl restart byred"))
    assert sh(f"stat -c '%U %G %a' {NBD} {RPC}") == "byre byre 660\n" * 2


BRIDGES = {
    "/dev/nbd1": [
        "nbdkit -U /run/vm1.sock --filter=retry nbd socket=/run/byre/nbd.sock export=bridged1 retries=60 retry-delay=1 retry-exponential=no",
        "nbd-client -unix /run/vm1.sock /dev/nbd1"],
    "/dev/nbd2": [
        "qemu-nbd --connect=/dev/nbd2 --cache=none --discard=unmap --image-opts "
        "driver=nbd,server.type=unix,server.path=/run/byre/nbd.sock,export=bridged2,reconnect-delay=300"],
}  # fmt: skip


def test_restart_and_upgrade_under_file_systems():
    """The kernel's clients, each through a bridge that connects again: programs that write and sync notice nothing."""
    sh("modprobe nbd")
    writers = []
    for device, commands in BRIDGES.items():
        folder = f"/mnt/{os.path.basename(device)}"
        sh(f"byre volume create bridged{device[-1]} 32M")
        for command in commands:
            # They stay, as a daemon, with what they have inherited.
            sh(f"{command} >/tmp/bridge.log 2>&1 || {{ cat /tmp/bridge.log; false; }}")
        wait_until(lambda: sh(f"blockdev --getsize64 {device}") == f"{32 * MIB}\n")
        os.makedirs(folder)
        sh(f"mkfs.ext4 -q {device} && mount -o discard {device} {folder}")
        writers.append(Writer(folder))
    for how in ("restart", "restart", "upgrade"):
        for w in writers:
            w.more()
        if how == "restart":
            sh("systemctl restart byred")
        else:
            upgrade()
        for w in writers:
            w.more()
    for device, w in zip(BRIDGES, writers):
        w.finish()
        print(f"    {device}: {w.count} files written and synced, the slowest in {w.slowest:.2f} s", flush=True)
        sh(f"umount {w.folder} && e2fsck -fn {device}")
    assert "I/O error" not in sh("dmesg") and "Dead connection" not in sh("dmesg")
    sh("nbd-client -d /dev/nbd1 && qemu-nbd -d /dev/nbd2")
    sh("kill $(pidof nbdkit)")


def upgrade():
    """To a package of a higher version: what runs goes on as the new one, the configuration stays."""
    pids = {u: main_pid(u) for u in ("byred", "byred@fast")}
    with open("/etc/byre/byred.conf", "a") as f:
        f.write("# mine\n")
    restart_under_newcomers(lambda: sh("DEBIAN_FRONTEND=noninteractive apt-get install -y /payload/newer.deb"))
    assert sh("dpkg-query -W -f '${Version}' byred").endswith("+newer")
    for unit, pid in pids.items():
        assert main_pid(unit) != pid and not os.readlink(f"/proc/{main_pid(unit)}/exe").endswith("(deleted)")
        assert prop("NRestarts", unit) == "0" and prop("Result", unit) == "success"
    with open("/etc/byre/byred.conf") as f:
        assert f.read().endswith("# mine\n")


def test_file_system_by_fuse():
    """Where the kernel has no nbd: nbdfuse and a loop device."""
    sh("byre volume create fused 32M && mkdir -p /run/fused /mnt/fused")
    fuse = subprocess.Popen(["nbdfuse", "/run/fused/disk", "nbd+unix:///fused?socket=/run/byre/nbd.sock"])
    try:
        wait_until(lambda: os.path.exists("/run/fused/disk"))
        loop = sh("losetup --find --show /run/fused/disk").strip()
        sh(f"mkfs.ext4 -q {loop} && mount {loop} /mnt/fused")
        sh("cp -r /etc/systemd /mnt/fused && diff -r /etc/systemd /mnt/fused/systemd")
        sh(f"umount /mnt/fused && e2fsck -fn {loop} && losetup -d {loop}")
    finally:
        sh("fusermount3 -u /run/fused", None)
        fuse.wait(30)
    wait_until(lambda: not json.loads(sh("byre client list --json")))
    sh("byre volume delete fused")


def test_pool_elsewhere():
    """The unit lets the daemon write in /var/lib/byre only, and what it says otherwise names the cure."""
    sh("install -d -o byre -g byre /srv/byre && sudo -u byre byre pool create /srv/byre/pool --size 64M")
    write("/etc/byre/srv.conf", "[byred]\npool = /srv/byre/pool\n")
    sh("systemctl start byred@srv", ok=False)
    assert "ReadWritePaths" in sh("journalctl -u byred@srv -o cat")
    sh("systemctl stop byred@srv")
    drop_in("byred@srv", "[Unit]\nRequiresMountsFor=/srv/byre\n[Service]\nReadWritePaths=/srv/byre\n")
    sh("systemctl start byred@srv && byre --connect unix:/run/byre-srv/rpc.sock volume create a 8M")
    write("/etc/byre/srv.conf", "[byred]\npool = /srv/byre/pool\ncache-size = much\n")
    sh("systemctl restart byred@srv", ok=False)
    time.sleep(3)
    assert prop("NRestarts", "byred@srv") == "0", "a wrong setting stays wrong: nothing is tried again"
    assert "cache-size" in sh("journalctl -u byred@srv -o cat | tail -n 5")


def test_full():
    """A full pool refuses, says so once, and what makes room works."""
    start, block = time.time(), os.urandom(MIB)
    byre = f"byre --connect {FAST_RPC}"
    sh(f"{byre} volume create big 2G && {byre} volume create small 16M --reserved")
    h = handle("big", "/run/byre-fast/nbd.sock")
    written = 0
    try:
        while written < 1024:
            h.pwrite(block[written % 64:] + block[:written % 64], written * MIB)
            written += 1
        raise AssertionError("a pool of 256 MiB took 1 GiB")
    except nbd.Error as e:
        assert e.errno == "ENOSPC", e
    assert h.pread(MIB, 0) == block and written > 150, written
    h.flush()
    h.shutdown()
    wait_until(lambda: journal("-u byred@fast", "BYRE_EVENT=pool-full", since=start))
    sh("nbdcopy -- /payload/byred.deb 'nbd+unix:///small?socket=/run/byre-fast/nbd.sock'")
    sh(f"{byre} volume delete big && {byre} volume create again 64M")
    sh("nbdcopy -- /payload/byred.deb 'nbd+unix:///again?socket=/run/byre-fast/nbd.sock'")


def scrub(byre):
    sh(f"{byre} scrub start --restart")
    return wait_until(lambda: (s := json.loads(sh(f"{byre} scrub status --json")))["state"] == "finished" and s, 60)


def test_broken_block():
    """Bytes that change on the disk, and a sector that the disk cannot read any more: found by a scrub, mended by
    overwriting."""
    sh("truncate -s 128M /var/tmp/disk && losetup /dev/loop5 /var/tmp/disk")
    sectors = (128 << 20) // 512
    sh(f"echo '0 {sectors} linear /dev/loop5 0' | dmsetup create broken")
    sh("chown byre: $(readlink -f /dev/mapper/broken) && byre pool create /dev/mapper/broken")
    write("/etc/byre/dm.conf", "[byred]\npool = /dev/mapper/broken\n")
    drop_in("byred@dm", "[Service]\nDeviceAllow=/dev/mapper/broken rw\n")
    sh("systemctl start byred@dm")
    byre = "byre --connect unix:/run/byre-dm/rpc.sock"
    sh(f"{byre} volume create v 32M")
    blocks = [os.urandom(65536) for _ in range(2)]
    h = handle("v", "/run/byre-dm/nbd.sock")
    for i, block in enumerate(blocks):
        h.pwrite(block, i << 20)
    h.flush()
    sh(f"{byre} commit")
    assert not scrub(byre)["damage"]
    with open("/var/tmp/disk", "rb") as f:
        image = f.read()
    places = [image.index(block[:4096]) for block in blocks]
    with open("/var/tmp/disk", "r+b") as f:
        f.seek(places[0] + 4096)
        f.write(b"rot" * 100)
    sh("sync; echo 3 >/proc/sys/vm/drop_caches")
    bad = places[1] // 512
    sh(f"dmsetup suspend broken; printf '0 {bad} linear /dev/loop5 0\\n{bad} 8 error\\n{bad + 8} {sectors - bad - 8} linear /dev/loop5 "
       f"{bad + 8}\\n' | dmsetup load broken && dmsetup resume broken")  # fmt: skip
    sh("systemctl restart byred@dm")
    found = scrub(byre)["damage"]
    assert [(d["volume"], d["offset"], d["kind"]) for d in found] == [
        ("v", 4096, "damaged"),
        ("v", 1 << 20, "damaged"),
    ], found
    h = handle("v", "/run/byre-dm/nbd.sock")
    for i, at in enumerate((4096, 1 << 20)):
        try:
            h.pread(4096, at)
            raise AssertionError("what is damaged was read")
        except nbd.Error as e:
            assert e.errno == "EIO", e
        if i == 0:
            h.pwrite(blocks[i][at % MIB:at % MIB + 4096], at)
        else:
            sh("qemu-io -f raw -c 'write -z 1M 4k' 'nbd+unix:///v?socket=/run/byre-dm/nbd.sock'")
            blocks[i] = bytes(4096) + blocks[i][4096:]
    h.flush()
    assert [h.pread(65536, i << 20) for i in range(2)] == blocks
    assert not scrub(byre)["damage"]
    h.shutdown()
    sh("systemctl stop byred@dm && dmsetup remove broken && losetup -d /dev/loop5")


def test_stop_within_its_deadline():
    """A client that asks for much and reads nothing: the stop waits for stop-timeout, and not for it."""
    h = handle("vm1")
    buffers = [nbd.Buffer(MIB) for _ in range(60)]
    for i, buf in enumerate(buffers):
        h.aio_pread(buf, i * MIB)
    start = time.monotonic()
    sh("systemctl stop byred")
    took = time.monotonic() - start
    assert prop("Result") == "success" and prop("ExecMainStatus") == "0"
    assert "clients took longer than 10 s" in sh("journalctl -u byred -o cat | tail -n 20")
    assert 9 < took < 60, f"{took:.1f} s"
    print(f"    stopped within {took:.1f} s", flush=True)
    assert not can_connect(NBD) and not os.path.exists(NBD), "who connects to a stopped service is told at once"
    sh("systemctl start byred")
    assert can_connect(NBD)


def dangling():
    return sh("find -L /etc/systemd/system -type l").split()


def test_remove_and_purge():
    """Daemons end, and what people have made stays: pools, and until the purge the configuration."""
    sh("apt-get remove -y byred")
    assert (
        not sh("pidof byred", None).strip()
        and not os.path.exists("/run/byre")
        and not os.path.exists("/usr/sbin/byred")
    )
    assert all(map(os.path.exists, ("/etc/byre/byred.conf", "/etc/byre/fast.conf", "/var/lib/byre/pool")))
    sh("apt-get install -y /payload/newer.deb && systemctl start byred byred@fast")
    assert "vm1" in sh("byre volume list")
    sh("apt-get purge -y byred")
    assert not sh("pidof byred", None).strip()
    assert not os.path.exists("/etc/byre/byred.conf") and os.path.exists("/etc/byre/fast.conf")
    assert os.path.exists("/var/lib/byre/pool")
    assert not dangling(), dangling()


STEPS = [f for name, f in list(globals().items()) if name.startswith("test_")]


def main():
    with open("/payload/tests") as f:
        chosen = f.read().split()
    needed = ("test_install", "test_first_pool")
    for step in STEPS:
        name = step.__name__
        if chosen and name not in needed and name[5:] not in chosen:
            continue
        start = time.monotonic()
        try:
            step()
        except Exception:
            traceback.print_exc()
            print(sh("journalctl -u 'byred*' -o short-monotonic --no-pager | grep -v 'opens\|leaves' | tail -n 40; dmesg | tail -n 5", None))
            return f"failed: {name}"
        print(f"  passed  {name} ({time.monotonic() - start:.1f} s)", flush=True)
    return "ok"


if __name__ == "__main__":
    print(f"BYRE-RESULT {main()}", flush=True)
    subprocess.run(["poweroff", "-f"])
