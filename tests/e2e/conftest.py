# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of the end-to-end tests. Environment: BYRE_BUILD (build), KILLS (8), SEED (see tests.mk)."""
import os
import random
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "lib"))

import byred as lib  # noqa: E402


def pytest_sessionstart(session):
    for program in (lib.BYRED, lib.BYRE):
        if not os.access(program, os.X_OK):
            pytest.exit(f"{program} is not there: run make first", returncode=1)


@pytest.fixture(scope="session")
def watchdog():
    dog = lib.Watchdog()
    yield dog
    dog.close()


@pytest.fixture
def loop():
    """Makes block devices of files. A test that has a pool on one names it before make_byred, whose end comes first
    then."""
    if os.geteuid() != 0:
        pytest.skip("needs root for losetup")
    made = []

    def make(path, *args):
        got = subprocess.run(["losetup", "--find", "--show", *args, path], capture_output=True, text=True)
        if got.returncode:
            pytest.skip(f"no loop device: {got.stderr}")
        made.append(got.stdout.strip())
        return made[-1]

    yield make
    for device in made:
        subprocess.run(["losetup", "-d", device], check=True)


@pytest.fixture
def make_byred(watchdog):
    """Makes pools with daemons; at the end of the test each is stopped and its pool is checked."""
    made = []

    def make(*args, **kwargs):
        made.append(lib.Byred(*args, watchdog=watchdog, **kwargs))
        return made[-1]

    yield make
    problems = []
    for b in made:
        try:
            b.close()
        except AssertionError as e:
            problems.append(str(e))
    assert not problems, "\n".join(problems)


@pytest.fixture
def byred(make_byred):
    """A running daemon on a sparse 4 GiB pool of its own."""
    return make_byred().start()


@pytest.fixture(scope="module")
def shared(watchdog):
    """A running daemon that the tests of one file share: each test makes a volume of its own."""
    b = lib.Byred(watchdog=watchdog, lifetime=1800)
    b.start()
    yield b
    b.close()


@pytest.fixture
def volume(shared, request):
    """A fresh volume of 64 MiB on the shared daemon, gone after the test."""
    name = shared.create(f"v{time.monotonic_ns()}", "64M")
    yield name
    shared.close_handles()
    shared.delete(name)


@pytest.fixture
def seed():
    """The seed of a random test: printed when the test fails, taken from SEED."""
    value = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"SEED={value}")
    return value
