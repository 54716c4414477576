#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""make bench: Byre and its peers on the same disk, driven with fio's nbd engine over a unix socket.

Prints a table, and writes results.json and chart.svg into OUT. Everything else stands in one temporary folder under
TMPDIR, else the build folder, which is removed at the end. Run it on a quiet machine: it measures.

Environment: BYRE_BUILD (build), SIZE (4G), ROUNDS (3), OUT ($BYRE_BUILD/bench), BYRED_ARGS (more options for byred).
"""
import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "lib")]

import byred as lib  # noqa: E402
import chart  # noqa: E402
import peers  # noqa: E402

# Reads stand first: they find the data as the fill has left it. (name, label, fio's options)
JOBS = [
    ("randread-qd32", "random read 4K, depth 32", ["--rw=randread", "--bs=4k", "--iodepth=32"]),
    ("randread-qd1", "random read 4K, depth 1", ["--rw=randread", "--bs=4k", "--iodepth=1"]),
    ("seqread", "sequential read 1M, depth 8", ["--rw=read", "--bs=1M", "--iodepth=8"]),
    ("seqwrite", "sequential write 1M, depth 8", ["--rw=write", "--bs=1M", "--iodepth=8"]),
    ("randwrite-qd32", "random write 4K, depth 32", ["--rw=randwrite", "--bs=4k", "--iodepth=32"]),
    ("randwrite-qd1", "random write 4K, depth 1", ["--rw=randwrite", "--bs=4k", "--iodepth=1"]),
    (
        "randwrite-fsync8",
        "random write 4K, depth 8, flush each 8",
        ["--rw=randwrite", "--bs=4k", "--iodepth=8", "--fsync=8"],
    ),
]


def parse_size(text):
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    return int(text[:-1]) * units[text[-1].upper()] if text[-1].upper() in units else int(text)


def arguments():
    p = argparse.ArgumentParser(description="Byre and its peers side by side.")
    p.add_argument("--peers", help="only these, with commas: " + ",".join(x.name for x in peers.PEERS))
    p.add_argument("--jobs", help="only these, with commas: " + ",".join(j[0] for j in JOBS))
    p.add_argument("--size", default=os.environ.get("SIZE", "4G"), help="bytes of data, fully written first (4G)")
    p.add_argument("--runtime", type=float, default=10, help="seconds for each job (10)")
    p.add_argument("--rounds", type=int, default=int(os.environ.get("ROUNDS", "0")), help="the median of so many (3)")
    p.add_argument("--short", action="store_true", help="1 GiB, 3 s, one round: for a first look")
    p.add_argument("--out", default=os.environ.get("OUT", os.path.join(lib.BUILD, "bench")))
    a = p.parse_args()
    a.size = parse_size("1G" if a.short and "SIZE" not in os.environ else a.size)
    a.runtime = 3 if a.short and a.runtime == 10 else a.runtime
    a.rounds = a.rounds or (1 if a.short else 3)
    for chosen, known in ((a.peers, [x.name for x in peers.PEERS]), (a.jobs, [j[0] for j in JOBS])):
        for name in (chosen or "").split(","):
            if name and name not in known:
                p.error(f"'{name}' is none of {', '.join(known)}")
    return a


def fio(work, peer, size, options):
    """One run of fio; returns its job as a dictionary."""
    got = subprocess.run(
        ["fio", "--name=bench", "--ioengine=nbd", f"--uri={peer.uri()}", f"--size={size}", "--output-format=json",
         "--randrepeat=0", "--norandommap=1", "--refill_buffers=1", "--group_reporting=1", *options],
        capture_output=True, text=True, cwd=work,
    )  # fmt: skip
    if got.returncode:
        raise RuntimeError(f"fio on {peer.name}: {got.stderr.strip()[-1000:]}")
    # Warnings may stand before the JSON.
    return json.loads(got.stdout[got.stdout.index("{"):])["jobs"][0]


def measure(work, peer, job, size, runtime):
    """Runs one job; returns what is reported of it."""
    os.sync()
    cpu = peer.cpu_seconds()
    result = fio(work, peer, size, [*job[2], "--time_based=1", f"--runtime={runtime}"])
    cpu = peer.cpu_seconds() - cpu
    side = result["read"] if result["read"]["total_ios"] else result["write"]
    if result["error"] or not side["total_ios"]:
        raise RuntimeError(f"{job[0]} on {peer.name}: fio's error {result['error']}, {side['total_ios']} operations")
    return {
        "iops": side["iops"],
        "mb_s": side["bw_bytes"] / 1e6,
        "p99_us": side["clat_ns"]["percentile"]["99.000000"] / 1000,
        "cpu_us_per_op": cpu * 1e6 / side["total_ios"],
        "operations": side["total_ios"],
    }


def drop_caches():
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w") as f:
            f.write("3")
    except OSError:
        pass  # not root: the warm-up pass is what counts anyway


def fill(work, peer, size):
    peer.start()
    fio(work, peer, size, ["--rw=write", "--bs=1M", "--iodepth=8", "--end_fsync=1"])
    peer.stop()


def one_round(work, chosen, jobs, a, results):
    for peer in chosen:
        drop_caches()
        peer.start()
        # One pass over everything, so that random reads find the data in memory.
        fio(work, peer, a.size, ["--rw=read", "--bs=1M", "--iodepth=8"])
        for job in jobs:
            got = measure(work, peer, job, a.size, a.runtime)
            results.setdefault(peer.name, {}).setdefault(job[0], []).append(got)
            print(f"  {peer.name:16} {job[0]:17} {got['iops']:10.0f} IOPS {got['mb_s']:8.1f} MB/s"
                  f"  p99 {got['p99_us']:9.1f} us  cpu {got['cpu_us_per_op']:7.2f} us", file=sys.stderr, flush=True)
        peer.stop()


def medians(results):
    return {
        peer: {
            job: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            for job, runs in jobs.items()
        }
        for peer, jobs in results.items()
    }


def table(summary, chosen, jobs, notes):
    lines = []
    for job in jobs:
        lines.append(f"{job[1]}")
        lines.append(f"  {'':28}{'IOPS':>10}{'MB/s':>10}{'p99 us':>11}{'CPU us/op':>11}")
        for peer in chosen:
            got = summary[peer.name][job[0]]
            lines.append(f"  {peer.label:28}{got['iops']:>10.0f}{got['mb_s']:>10.1f}{got['p99_us']:>11.1f}"
                         f"{got['cpu_us_per_op']:>11.2f}")
        lines.append("")
    return "\n".join(lines + notes)


def version(*command):
    try:
        out = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return None
    return out.splitlines()[0] if out else None


def environment(a):
    with open("/proc/cpuinfo") as f:
        cpu = next((line.split(":")[1].strip() for line in f if line.startswith("model name")), "unknown")
    return {
        "size": a.size, "rounds": a.rounds, "runtime_s": a.runtime, "cpu": cpu, "cpus": os.cpu_count(),
        "kernel": platform.release(), "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {
            "byred": version(lib.BYRED, "--version"), "fio": version("fio", "--version"),
            "nbdkit": version("nbdkit", "--version"), "qemu-nbd": version("qemu-nbd", "--version"),
        },
    }  # fmt: skip


def run(a, work):
    jobs = [j for j in JOBS if not a.jobs or j[0] in a.jobs.split(",")]
    chosen, notes = [], []
    for kind in peers.PEERS:
        if a.peers and kind.name not in a.peers.split(","):
            continue
        peer = kind(work, a.size)
        if why := peer.missing():
            notes.append(f"{peer.label} was left out: {why}")
        else:
            chosen.append(peer)
            notes += [peer.note] if peer.note else []
    if not chosen:
        print("\n".join(notes), file=sys.stderr)
        return 1
    env = environment(a)
    notes.append(f"{a.size >> 20} MiB of data, {a.rounds} rounds of {a.runtime:g} s (medians), {env['cpus']} x {env['cpu']},"
                 f" Linux {env['kernel']}; fio runs on the same machine")
    results = {}
    try:
        filled = set()
        for peer in chosen:
            peer.prepare()
            if peer.data not in filled:
                print(f"filling {peer.data}", file=sys.stderr, flush=True)
                fill(work, peer, a.size)
                filled.add(peer.data)
        for n in range(a.rounds):
            print(f"round {n + 1} of {a.rounds}", file=sys.stderr, flush=True)
            one_round(work, chosen, jobs, a, results)
    finally:
        for peer in chosen:
            peer.clean()
    summary = medians(results)
    print(table(summary, chosen, jobs, notes))
    os.makedirs(a.out, exist_ok=True)
    path = os.path.join(a.out, "results.json")
    with open(path, "w") as f:
        json.dump({"environment": env, "notes": notes, "labels": {p.name: p.label for p in chosen},
                   "jobs": {j[0]: j[1] for j in jobs}, "median": summary, "runs": results}, f, indent=1)
    print(f"\n{path}")
    print(chart.draw(path, os.path.join(a.out, "chart.svg")))
    return 0


def main():
    a = arguments()
    if not shutil.which("fio"):
        print("fio is not installed", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.makedirs(lib.BUILD, exist_ok=True)
    work = tempfile.mkdtemp(prefix="bench-", dir=os.environ.get("TMPDIR") or lib.BUILD)
    if len(work) > 60:
        print(f"the path of the temporary folder is too long for a unix socket: {work}; set TMPDIR", file=sys.stderr)
        os.rmdir(work)
        return 1
    tempfile.tempdir = work
    try:
        return run(a, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
