# SPDX-License-Identifier: BSD-3-Clause
"""The Makefile: the project's flags stay whatever the user's are, its head names all that there is, and make dev sets a
checkout up."""
import json
import os
import re
import shutil
import subprocess

import pytest

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))


def environment(**more):
    """Without what the make that runs these tests hands on."""
    drop = (
        "MAKEFLAGS",
        "MAKELEVEL",
        "MFLAGS",
        "BUILD",
        "CC",
        "CFLAGS",
        "CPPFLAGS",
        "LDFLAGS",
        "LDLIBS",
        "DEBUG",
        "SAN",
        "WERROR",
    )
    return {k: v for k, v in os.environ.items() if k not in drop and not k.startswith("GIT_")} | more


def make(*args, cwd=TOP, env=None, check=True):
    got = subprocess.run(["make", "--no-print-directory", *args], cwd=cwd, env=environment(**(env or {})),
                         capture_output=True, text=True)  # fmt: skip
    assert not check or got.returncode == 0, got.stdout[-3000:] + got.stderr[-3000:]
    return got


def commands(tmp_path, *args, env=None):
    """What make would run to build everything, in a folder where nothing is built: compilations, and links."""
    out = (
        make("-n", f"BUILD={tmp_path}/b", *args, "all", "tools", "unit", env=env)
        .stdout.replace("\\\n", " ")
        .splitlines()
    )
    compiles = [line for line in out if re.search(r"\s-c\s", line)]
    links = [line for line in out if re.search(r"\s-o\s", line) and line not in compiles]
    assert len(compiles) > 150 and len(links) > 30
    return compiles, links


def has(line, flag):
    return re.search(rf"(^|\s){re.escape(flag)}(\s|$)", line)


def assert_project_flags(compiles, links):
    for line in compiles:
        for flag in (
            "-std=gnu17",
            "-Wall",
            "-Wextra",
            "-Wmissing-prototypes",
            "-pthread",
            "-fPIC",
            "-I.",
            "-D_GNU_SOURCE",
        ):
            assert has(line, flag), (flag, line)
    for line in links:
        assert has(line, "-pthread"), line


def test_flags_of_the_project_alone(tmp_path):
    compiles, links = commands(tmp_path)
    assert_project_flags(compiles, links)
    assert all(has(line, "-O2") and has(line, "-g") for line in compiles)


@pytest.mark.parametrize("way", ["command line", "environment"])
def test_flags_of_the_user_come_behind_those_of_the_project(tmp_path, way):
    mine = {
        "CFLAGS": "-O0 -DMINE_C",
        "CPPFLAGS": "-DMINE_CPP",
        "LDFLAGS": "-Wl,-mine",
        "LDLIBS": "-lmine",
        "CC": "mycc",
    }
    args = [f"{k}={v}" for k, v in mine.items()] if way == "command line" else []
    compiles, links = commands(tmp_path, "WERROR=1", "DEBUG=1", "SAN=thread", *args, env={} if args else mine)
    assert_project_flags(compiles, links)
    for line in compiles:
        assert line.split()[0] == "mycc", line
        assert all(
            has(line, f) for f in ("-DMINE_C", "-DMINE_CPP", "-Werror", "-DBYRE_DEBUG=1", "-fsanitize=thread")
        ), line
        optimised = re.findall(r"\s(-O\w)", line)
        assert optimised[-1] == "-O0", line
    for line in links:
        assert line.split()[0] == "mycc" and has(line, "-Wl,-mine") and has(line, "-fsanitize=thread"), line
        assert line.split()[-1] == "-lmine", line


def makefiles():
    return {name: open(os.path.join(TOP, name)).read() for name in ("Makefile", "tests/tests.mk")}


def head(text):
    return "\n".join(line for line in text.split("\n\n")[0].splitlines() if line.startswith("#"))


def test_head_names_every_target_and_no_other():
    files = makefiles()
    phony = {t for text in files.values() for line in re.findall(r"^\.PHONY:(.*)$", text, re.M) for t in line.split()}
    named = set(re.findall(r"\bmake ([a-z][a-z0-9-]*)", head(files["Makefile"])))
    assert phony - {"all"} == named
    rules = {t for text in files.values() for t in re.findall(r"^([a-z][a-z0-9-]*):(?!=)", text, re.M)}
    assert rules == phony, "each target that is no file is .PHONY, and each .PHONY is a target"


def test_head_names_every_switch():
    files = makefiles()
    heads = "\n".join(head(t) for t in files.values())
    switches = {v for text in files.values() for v in re.findall(r"^([A-Z_]+)\s*\?=", text, re.M)}
    # What is asked for and nowhere set comes from outside, too.
    code = "\n".join(files.values())
    used = set(re.findall(r"\$\$?[({]([A-Z_]+)[)}]", code)) | set(
        re.findall(r"\$\((?:if|filter [a-z]+,)\s*\$\(([A-Z_]+)\)", code)
    )
    assigned = set(re.findall(r"(?:^|[:\s])([A-Z_]+)\s*[:?+]?=", code, re.M))
    for name in (switches | (used - assigned)) - {"MAKE", "CURDIR", "MAKEFILE_LIST"}:
        assert re.search(rf"\b{name}\b", heads), f"{name} is in no head"


def test_no_variable_is_left_over():
    code = "\n".join(makefiles().values())
    for name in set(re.findall(r"^([A-Za-z_]+)\s*[:?+]?=", code, re.M)) | set(
        re.findall(r"^define ([a-z_]+)", code, re.M)
    ):
        assert re.search(rf"\$\$?[({{](?:call\s+)?{name}[)}},:]|\$\(call {name}\b", code), f"{name} is used nowhere"


@pytest.fixture
def checkout(tmp_path):
    """A repository with the tree's files as they are now."""
    top = tmp_path / "tree"
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=TOP,
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split(
        "\0"
    )  # fmt: skip
    for name in filter(None, files):
        if os.path.isfile(os.path.join(TOP, name)):
            os.makedirs(top / os.path.dirname(name), exist_ok=True)
            shutil.copy2(os.path.join(TOP, name), top / name)
    git(top, "init", "-q")
    git(top, "add", "-A")
    git(top, "commit", "-q", "-m", "all")
    return top


def git(top, *args, check=True):
    got = subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *args], cwd=top,
                         env=environment(GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_SYSTEM="/dev/null"),
                         capture_output=True, text=True)  # fmt: skip
    assert not check or got.returncode == 0, got
    return got


def dev(top):
    return make("dev", cwd=top, env={"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}).stdout


def test_dev_lists_how_each_file_is_compiled(checkout):
    dev(checkout)
    with open(checkout / "compile_commands.json") as f:
        listed = {entry["file"]: entry for entry in json.load(f)}
    assert set(git(checkout, "ls-files", "*.c").stdout.split()) == set(listed)
    entry = listed["client/main.c"]
    assert entry["directory"] == str(checkout) and "-std=gnu17" in entry["command"]
    subprocess.run(entry["command"] + " -fsyntax-only", shell=True, cwd=checkout, check=True)
    assert git(checkout, "status", "--porcelain").stdout == "", "what make dev makes is not for git"


def test_dev_hook_refuses_what_is_not_formatted(checkout):
    dev(checkout)
    source = checkout / "base" / "new.c"
    source.write_text("/* SPDX-License-Identifier: BSD-3-Clause */\nint  f( void ){return 1;}\n")
    git(checkout, "add", "base/new.c")
    refused = git(checkout, "commit", "-m", "new", check=False)
    assert refused.returncode and "base/new.c" in refused.stderr and "clang-format -i" in refused.stderr
    subprocess.run(["clang-format", "-i", source], check=True)
    assert git(checkout, "commit", "-m", "new", check=False).returncode, "what is staged is what counts"
    git(checkout, "add", "base/new.c")
    source.write_text("int  f( void ){return 1;}\n")
    git(checkout, "commit", "-m", "new")
    git(checkout, "checkout", "-q", ".")
    git(checkout, "rm", "-q", "base/new.c")
    git(checkout, "commit", "-m", "a file that goes is not looked at")


def test_dev_overwrites_no_hook(checkout):
    hook = checkout / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 0\n")
    assert "stays as it is" in dev(checkout)
    assert hook.read_text() == "#!/bin/sh\nexit 0\n"
    hook.unlink()
    dev(checkout)
    made = hook.read_text()
    assert "already" in dev(checkout) and hook.read_text() == made
    hook.unlink()
    git(checkout, "config", "core.hooksPath", str(checkout / "elsewhere"))
    assert "no hook installed" in dev(checkout)
    assert not hook.exists() and not (checkout / "elsewhere").exists()
