#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""What free-space caches cost in commits under random 4 KiB overwrites of a whole volume that was written before.

  commits.py [--size 16G] [--runtime 30] [--out DIR]

Prints bytes and time of all commits of the measured part, and the caches' share of both (from `byre pool info`).
Everything stands in one temporary folder (TMPDIR), which is removed. Needs about two and a half times the size.
"""
import argparse
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "lib"))

import byred as lib  # noqa: E402


def fio(b, *args):
    subprocess.run(["fio", "--name=job", "--ioengine=nbd", f"--uri={b.uri('v')}", "--output-format=terse", *args],
                   check=True, stdout=subprocess.DEVNULL)


def figures(b):
    i = b.info()
    c = i["free_space_cache"]
    return {"commits": i["commits"], "commit_bytes": i["commit_bytes"], "commit_us": i["commit_us"],
            "cache_bytes": c["bytes"], "cache_us": c["us"], "data_bytes": i["data_bytes"]}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--size", type=int, default=16, help="GiB of the volume")
    p.add_argument("--runtime", type=int, default=30)
    p.add_argument("--out", default=os.path.join(lib.BUILD, "bench"))
    a = p.parse_args()
    b = lib.Byred(pool_size=f"{2 * a.size + 4}G", args=["--cache-size", "1G"], lifetime=3600)
    try:
        b.start()
        b.create("v", f"{a.size}G")
        fio(b, f"--size={a.size}G", "--bs=1M", "--rw=write", "--iodepth=8")
        b.ok("commit")
        before = figures(b)
        fio(
            b,
            f"--size={a.size}G",
            "--bs=4k",
            "--rw=randwrite",
            "--iodepth=32",
            f"--runtime={a.runtime}",
            "--time_based",
        )
        b.ok("commit")
        after = figures(b)
    finally:
        b.close(check=False)
    d = {k: after[k] - before[k] for k in before}
    d["cache_share_of_bytes"] = d["cache_bytes"] / d["commit_bytes"]
    d["cache_share_of_time"] = d["cache_us"] / d["commit_us"]
    print(f"{d['commits']} commits, {d['commit_bytes'] >> 20} MiB in {d['commit_us'] / 1e6:.2f} s; caches: "
          f"{d['cache_bytes'] / (1 << 20):.1f} MiB ({d['cache_share_of_bytes']:.2%}), "
          f"{d['cache_us'] / 1e6:.3f} s ({d['cache_share_of_time']:.2%})")
    os.makedirs(a.out, exist_ok=True)
    with open(os.path.join(a.out, "commits.json"), "w") as f:
        json.dump(d, f, indent=1)


if __name__ == "__main__":
    main()
