#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""make tidy: the rules of the tree that a compiler does not check.

    tidy.py [--root DIR] [--quick | --full] [--rules] [RULE...]

Each rule is a function below, and says what it asks for. A finding is one line, FILE:LINE: what. Exit 1 when there is
one. --quick leaves clang-tidy out; --full adds clang's analyzer, whose findings are for information: it guesses.
--rules lists the rules. tests/house/test_tidy.py breaks each of them on purpose, in a tree of a few lines."""
import argparse
import concurrent.futures
import functools
import os
import re
import shlex
import subprocess
import sys

# The folders of fs/, lowest first (docs/design.md): a file includes headers of its own and of lower ones.
ROOMS = "core format device cache space tree volume commit ops io scrub pool check".split()

# Which of the top folders may include which, and what of fs/ is for others.
MAY_INCLUDE = {
    "base": {"base"},
    "fs": {"base", "fs"},
    "proto": {"base", "proto"},
    "server": {"base", "proto", "fs", "server"},
    "client": {"base", "proto", "client"},
}  # fmt: skip
PUBLIC = {"server": {"fs/fs.h", "fs/core/lock_rank.h"}, "client": {"fs/fs.h"}}
PROTOCOLS = re.compile(r"sys/socket|netinet/|sys/un|event2/|openssl/|protobuf-c|jansson")

C_COLUMNS, PY_COLUMNS, TAB = 110, 120, 8
LINES, TEST_LINES = 900, 1200

RULES = {}


def rule(function):
    RULES[function.__name__.replace("_", "-")] = function
    return function


class File:
    """A file's text, and what stands in it once comments and strings are blank: lines stay where they are."""

    def __init__(self, root, path):
        self.path = path
        self.top = path.split("/")[0]
        with open(os.path.join(root, path), encoding="utf-8") as f:
            self.text = f.read()

    @functools.cached_property
    def lines(self):
        return self.text.split("\n")[: -1 if self.text.endswith("\n") else None]

    @functools.cached_property
    def code(self):
        """Without comments and with empty strings, #include lines apart."""

        def blank(m):
            s = m[0]
            if s.startswith("/"):
                return re.sub(r"[^\n]", " ", s)
            return s[0] + " " * (len(s) - 2) + s[-1]

        text = re.sub(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", blank, self.text, flags=re.S)
        return re.sub(r"(?m)^#\s*include.*$", "", text)

    @functools.cached_property
    def includes(self):
        """(line, path) of each header of the project."""
        found = (re.match(r'#\s*include\s*"([^"]*)"', line) for line in self.lines)
        return [(n, m[1]) for n, m in enumerate(found, 1) if m]

    @functools.cached_property
    def words(self):
        return set(re.findall(r"[A-Za-z_]\w*", self.code))

    @functools.cached_property
    def accesses(self):
        """The members that it looks into structs for."""
        return set(re.findall(r"(?:->|\.)\s*([A-Za-z_]\w*)", self.code))

    def line_of(self, offset):
        return self.code.count("\n", 0, offset) + 1


class Tree:
    def __init__(self, root):
        self.root = root
        names = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root, capture_output=True, text=True
        )
        if names.returncode == 0 and names.stdout:
            paths = filter(None, names.stdout.split("\0"))
        else:  # a source archive
            paths = (os.path.relpath(os.path.join(d, f), root) for d, _, files in os.walk(root) for f in files)
            paths = (p for p in paths if not re.match(r"\.git/|build/", p))
        self.paths = sorted({p for p in paths if os.path.isfile(os.path.join(root, p))})
        self.files = {}

    def file(self, path):
        if path not in self.files:
            self.files[path] = File(self.root, path)
        return self.files[path]

    def select(self, pattern):
        return [self.file(p) for p in self.paths if re.search(pattern, p)]

    @property
    def c_files(self):
        return self.select(r"\.[ch]$")

    @property
    def headers(self):
        return {f.path: f for f in self.select(r"\.h$")}


# ---- what may include what ----------------------------------------------------


@rule
def include_direction(tree):
    """base <- fs <- server; base <- proto <- client; proto <- server. The command line also uses fs/fs.h, the server
    that and the ranks of locks. Nothing includes tests/ but tests."""
    for f in tree.c_files:
        if f.top not in MAY_INCLUDE:
            continue
        is_library = re.match(r"client/(libbyre|byre\.h)", f.path)
        public = set() if is_library else PUBLIC.get(f.top, set())
        for n, inc in f.includes:
            to = inc.split("/")[0]
            if "/" not in inc or inc in public:
                continue
            if to == "tests" or to in MAY_INCLUDE and to not in MAY_INCLUDE[f.top]:
                yield f.path, n, f"{f.top}/ must not include {to}/ ({inc})"
            elif to == "fs" != f.top:
                yield f.path, n, f"{f.top}/ includes {inc}, a private header of fs/"


@rule
def include_folder(tree):
    """Includes of the project name their folder, but for the public byre.h."""
    for f in tree.c_files:
        for n, inc in f.includes:
            if "/" not in inc and inc != "byre.h":
                yield f.path, n, f'"{inc}" is included without its folder'


@rule
def no_protocols(tree):
    """fs/ knows no sockets, no event loop, no messages."""
    for f in tree.select(r"^fs/.*\.[ch]$"):
        for n, line in enumerate(f.lines, 1):
            if re.match(r"#\s*include\s*<", line) and PROTOCOLS.search(line):
                yield f.path, n, f"fs/ knows no protocols: {line}"


def room_of(path):
    parts = path.split("/")
    return parts[1] if parts[0] == "fs" and len(parts) == 3 else None


@rule
def room_order(tree):
    """Inside fs/, no file includes a header of a higher folder. fs/fs.h is for everyone, and includes nothing of
    fs/."""
    for f in tree.select(r"^fs/.*\.[ch]$"):
        room = room_of(f.path)
        if f.path == "fs/fs.h":
            for n, inc in f.includes:
                if inc.startswith("fs/"):
                    yield f.path, n, f"the public header includes {inc}"
        elif room not in ROOMS:
            yield f.path, 1, "in no folder of the order in docs/design.md"
        else:
            for n, inc in f.includes:
                to = room_of(inc)
                if to in ROOMS and ROOMS.index(to) > ROOMS.index(room):
                    yield f.path, n, f"fs/{room}/ is below fs/{to}/ and must not include {inc}"


@functools.cache
def declared(header):
    """The names that a header declares itself (macros, types, constants, functions, objects), and its structs'
    members."""
    code = header.code
    names = set(re.findall(r"(?m)^[ \t]*#[ \t]*define[ \t]+(\w+)", code))
    names -= {header.path.upper().replace("/", "_").replace(".", "_").replace("-", "_")}
    names |= set(re.findall(r"\b(?:struct|union|enum)\s+(\w+)\s*\{", code))
    for body in re.findall(r"\benum\b[^;{}]*\{([^}]*)\}", code):
        names |= set(re.findall(r"(?:^|,)\s*(\w+)", body))
    flat = re.sub(r"(?m)^[ \t]*#(?:.*\\\n)*.*", "", code)
    members = set()
    while body := re.search(r"\{[^{}]*\}", flat):
        members |= set(re.findall(r"(\w+)\s*(?:\[[^\]]*\]\s*)*(?:[;,]|:\s*\d)", body[0])) | set(
            re.findall(r"\(\*\s*(\w+)\)", body[0])
        )
        flat = flat[: body.start()] + ";" + flat[body.end() :]
    for statement in flat.split(";"):
        head = re.sub(r"__attribute__\s*\(\(.*?\)\)", "", statement, flags=re.S).strip()
        if m := re.match(r"typedef\b.*?\(\s*\*?\s*(\w+)\s*\)\s*\(", head, re.S) or re.match(
            r"typedef\b.*\b(\w+)$", head, re.S
        ):
            names.add(m[1])
        elif m := re.match(r"([A-Z][A-Z_]+)\((.*)\)", head, re.S):  # of sys/queue.h and sys/tree.h
            first = m[2].split(",")[0].strip()
            if m[1].endswith("_HEAD") or m[1].startswith("RB_"):
                names.add(first)
        elif m := re.match(r"[\w\s*]*?\b(\w+)\s*\(", head):
            names.add(m[1])
        elif m := re.match(r"extern\b.*?(\w+)(?:\[.*)?$", head, re.S):
            names.add(m[1])
    return names, members


def pointers_only(f, names):
    """Whether f uses these names for nothing but pointers to structs, for which a declaration will do."""
    code = f.code
    for name in names & f.words:
        for m in re.finditer(rf"\b{name}\b", code):
            before = code[: m.start()].rstrip()
            if not re.search(r"\b(?:struct|union)$", before) or not re.match(r"\s*(?:\*|;)", code[m.end() :]):
                return False
    return True


@rule
def include_used(tree):
    """No umbrellas: a file uses at least one name that each header it includes declares. A header of fs/ that includes
    one of another folder needs more of it than pointers to its structs, which a declaration gives."""
    headers = tree.headers
    for f in tree.c_files:
        if f.top == "tests":
            continue
        for n, inc in f.includes:
            header = headers.get(inc)
            if header is None or inc == re.sub(r"\.c$", ".h", f.path):
                continue
            names, members = declared(header)
            looks_inside = bool(members & f.accesses)
            if not names & f.words and not looks_inside:
                yield f.path, n, f"{inc} is included and nothing of it is used"
            elif looks_inside:
                continue
            elif (
                f.path.endswith(".h") and f.top == "fs" and room_of(inc) != room_of(f.path) and pointers_only(f, names)
            ):
                yield f.path, n, f"{inc} is included for pointers only: declare the structs"


@rule
def one_key(tree):
    """Keys of tree items are packed and unpacked in fs/format/key.h and nowhere else."""
    for f in tree.select(r"^fs/(?!format/)\w+/.*\.[ch]$"):
        for m in re.finditer(r"\b(?:htobe\d\d|be\d\dtoh)\b", f.code):
            yield f.path, f.line_of(m.start()), f"{m[0]}: keys are packed and unpacked by fs/format/key.h"


# ---- each file ----------------------------------------------------------------


TEXT = r"\.(c|h|py|sh|proto|mk|ini)$|^(deploy|tests/lib)/|^Makefile$|^\.ci/run$"


@rule
def licence(tree):
    """Each file names its licence in its first lines."""
    for f in tree.select(TEXT):
        if not any("SPDX-License-Identifier: BSD-3-Clause" in line for line in f.lines[:5]):
            yield f.path, 1, "no SPDX line"


@rule
def guard(tree):
    """A header's guard is its path."""
    for f in tree.headers.values():
        want = re.sub(r"[^A-Z0-9]", "_", f.path.upper())
        found = re.search(r"(?m)^#ifndef (\w+)", f.text)
        if not found or found[1] != want:
            yield f.path, f.line_of(found.start()) if found else 1, f"the guard is {found and found[1]}, not {want}"


@rule
def left_behind(tree):
    """No spaces at the end of a line, and nothing left to be done."""
    for f in tree.select(TEXT):
        for n, line in enumerate(f.lines, 1):
            if line != line.rstrip(" \t"):
                yield f.path, n, "trailing space"
            if re.search(r"\b(TODO|FIXME|XXX)\b", line) and not re.search(r"test_tidy\.py$|tidy\.py$", f.path):
                yield f.path, n, f"left behind: {line.strip()}"


@rule
def length(tree):
    """No C file is longer than 900 lines (tests: 1,200). C has 110 columns, with tabs of 8, and Python 120. Only a line
    that a string alone makes too long may be longer."""
    for f in tree.c_files:
        most = TEST_LINES if f.top == "tests" else LINES
        if len(f.lines) > most:
            yield f.path, most, f"the file has {len(f.lines)} lines, more than {most}"
        for n, line in enumerate(f.lines, 1):
            columns = len(line.expandtabs(TAB))
            if columns > C_COLUMNS and not is_one_string(line):
                yield f.path, n, f"{columns} columns, more than {C_COLUMNS}"
    for f in tree.select(r"\.py$"):
        for n, line in enumerate(f.lines, 1):
            if len(line) > PY_COLUMNS and not is_one_string(line):
                yield f.path, n, f"{len(line)} columns, more than {PY_COLUMNS}"


def is_one_string(line):
    """A line with one string literal, or the part of one, and hardly anything else."""
    m = re.fullmatch(r'([^"]*)([rf]?"(?:\\.|[^"\\])*")([^"]*)', line.strip())
    return bool(m) and len(m[1]) + len(m[3]) <= 40


@rule
def formatting(tree):
    """C files are as clang-format has them (.clang-format)."""
    files = [f.path for f in tree.c_files]

    def differs(path):
        got = subprocess.run(
            ["clang-format", "--dry-run", "-Werror", path], cwd=tree.root, capture_output=True, text=True
        )
        first = re.search(r":(\d+):\d+: error", got.stderr)
        return (path, int(first[1]) if first else 1, "clang-format would change it") if got.returncode else None

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from filter(None, pool.map(differs, files))


# ---- what a compiler lets pass ------------------------------------------------

# A name's words that say that the function changes something, and those that say that it only looks.
CHANGES = set("insert remove take drop give put set add del delete unlink free alloc new init fini open close write submit commit "
              "merge push pop append grow resize reserve release start stop destroy lock unlock erase clear fill apply".split())  # fmt: skip
LOOKS = set("is are has have may can must check find count of wants over merge".split())
UNITS = r"^(free_space|write_batch|commit_thread|delayed_ref|extent_lock|flush_log)_"


def changes_state(function):
    if re.match(r"(__)?atomic_(fetch|exchange|compare|store|flag_test)|__atomic_(?!load)|pthread_", function):
        return True
    words = re.sub(UNITS, "", function).split("_")
    return bool(CHANGES & set(words)) and not LOOKS & set(words)


def argument(code, start):
    """What stands in parentheses, from the character after the first one."""
    depth, end = 1, start
    while depth and end < len(code):
        depth += {"(": 1, ")": -1}.get(code[end], 0)
        end += 1
    return code[start : end - 1]


@rule
def assert_effect(tree):
    """What ASSERT is given changes nothing: no ++, no assignment, no call of what changes state or fills a variable. In
    tests an ASSERT may be around the call that is tested."""
    for f in tree.c_files:
        for m in re.finditer(r"\b(?:DEBUG_)?ASSERT\(", f.code):
            text = argument(f.code, m.end())
            where = f.path, f.line_of(m.start())
            if re.search(r"\+\+|--", text):
                yield *where, "ASSERT with ++ or --"
            elif f.top != "tests" and re.search(r"(?<![=!<>])=(?!=)", text):
                yield *where, "ASSERT with an assignment"
            elif f.top != "tests":
                for call in re.findall(r"\b([a-z_]\w*)\s*\(", text):
                    if changes_state(call):
                        yield *where, f"ASSERT around {call}(), which changes something: compute first, then assert"
                if re.search(r"\b[a-z_]\w*\s*\([^()]*(?<!&)&\w+\s*[,)]", text):
                    yield *where, "ASSERT around a call that fills a variable: compute first, then assert"


@rule
def lock_ranks(tree):
    """Ranks of locks are in the one enum of fs/core/lock_rank.h, each is used, and lock_init() is given one by name."""
    enum = next(iter(tree.select(r"^fs/core/lock_rank\.h$")), None)
    ranks = re.findall(r"\b(LOCK_\w+)\s*=", enum.code) if enum else []
    used = set()
    for f in tree.c_files:
        if f.top == "tests" or f.top == "base":
            continue
        for m in re.finditer(r"\block_init\(", f.code):
            rank = argument(f.code, m.end()).rsplit(",", 1)[-1].strip()
            used.add(rank)
            if rank not in ranks:
                yield f.path, f.line_of(m.start()), f"{rank} is no rank of fs/core/lock_rank.h"
        for m in re.finditer(r"(?m)^#\s*define\s+(\w+_LOCK_RANK(?=[ \t])|LOCK_\w+(?=[ \t]+\(?LOCK_))", f.code):
            yield f.path, f.line_of(m.start()), f"{m[1]} is defined outside the enum of fs/core/lock_rank.h"
    for name in ranks:
        if name not in used:
            yield enum.path, enum.line_of(enum.code.index(name)), f"{name} is used by no lock"


# Structs of fs/format/ that are kept, or handed on, as the bytes that they are on the disk.
AS_BYTES = {
    "node_header": "nodes stand in the cache as on the disk, and trees work on them in place",
    "node_slot": "likewise",
    "node_pointer": "likewise",
    "super_block": "the superblock of a pool is kept whole, and fields of it are changed for the next one",
    "super_scrub": "likewise",
    "super_system_group": "likewise",
    "log_record": "a record is built and read in its buffer",
    "log_group_item": "likewise",
    "log_item": "an operation is logged, queued and replayed as the item that describes it",
    "log_create": "likewise",
    "log_resize": "likewise",
    "log_set": "likewise",
    "log_extent": "likewise",
    "claim_block": "the claim writes it; byre pool dump looks into the block that it prints",
    "spares_block": "likewise, the list of spares",
    "free_space_cache_header": "likewise, free-space caches",
}


@rule
def one_place(tree):
    """What is on the disk is packed and unpacked in one place: a struct of fs/format/ is converted there or in one file
    outside (tests apart). Those that are kept as they are on the disk are listed above, with the reason."""
    structs = {}
    for f in tree.select(r"^fs/format/.*_format\.h$"):
        for m in re.finditer(r"(?m)^struct (\w+) \{(.*?)^\}", f.code, re.S):
            if re.search(r"\b[bl]e(16|32|64)\b", m[2]):
                structs[m[1]] = []
    outside = [f for f in tree.select(r"^(fs|server|client)/.*\.[ch]$") if not f.path.startswith("fs/format/")]
    for f in outside:
        for name in structs.keys() & f.words:
            used = re.search(rf"(?<!sizeof\()struct {name}\b(?!\s*;)", f.code)
            converts = re.search(r"\b(cpu_to_[bl]e|[bl]e\d\d_to_cpu)", f.code)
            if used and converts and name not in AS_BYTES:
                structs[name].append((f.path, f.line_of(used.start())))
    for name, places in structs.items():
        for path, line in places if len(places) > 1 else []:
            yield path, line, f"struct {name} is on the disk, and converted in {len(places)} files: its codec belongs in one"


# ---- clang-tidy ---------------------------------------------------------------

CHECKS = ("-*,bugprone-*,-bugprone-easily-swappable-parameters,-bugprone-narrowing-conversions,-bugprone-reserved-identifier,"
          "-bugprone-implicit-widening-of-multiplication-result,-bugprone-assignment-in-if-condition,-bugprone-branch-clone,"
          "-bugprone-macro-parentheses,-bugprone-sizeof-expression,-bugprone-misplaced-widening-cast,"
          "-bugprone-suspicious-string-compare,misc-redundant-expression,misc-misplaced-const")  # fmt: skip
ANALYZER = ",clang-analyzer-core.*,clang-analyzer-unix.*"


def clang_tidy(tree, full):
    """A short list of clang-tidy's checks, for real mistakes, finds nothing outside tests/."""
    build = os.environ.get("BUILD") or "build"
    got = subprocess.run(["make", "--no-print-directory", "-s", f"BUILD={build}", "tidy-flags"], cwd=tree.root,
                         capture_output=True, text=True)  # fmt: skip
    if got.returncode:
        yield "Makefile", 1, f"make tidy-flags: {got.stderr.strip()}"
        return
    flags = shlex.split(got.stdout.splitlines()[-1])
    files = [f.path for f in tree.select(r"\.c$") if f.top != "tests"]

    def check(path):
        return subprocess.run(
            ["clang-tidy", "--quiet", f"-checks={CHECKS}{ANALYZER if full else ''}", path, "--", *flags],
            cwd=tree.root,
            capture_output=True,
            text=True,
        ).stdout  # fmt: skip

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        said = set(line for out in pool.map(check, files) for line in out.splitlines())
    for line in sorted(said):
        if m := re.match(r"([^ :]+):(\d+):\d+: (?:warning|error): (.*)", line):
            path = os.path.relpath(m[1], os.path.abspath(tree.root)) if os.path.isabs(m[1]) else m[1]
            if path.startswith(".."):
                continue  # what it says of system headers is not ours
            if "[clang-analyzer" in line:
                print(f"for information: {path}:{m[2]}: {m[3]}")
            else:
                yield path, int(m[2]), m[3]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=os.path.join(os.path.dirname(__file__), "..", ".."))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--rules", action="store_true")
    parser.add_argument("rule", nargs="*", choices=[[], *RULES])
    args = parser.parse_args()
    if args.rules:
        for name, function in RULES.items():
            print(f"{name:18} {' '.join(function.__doc__.split())}")
        return 0
    tree = Tree(os.path.abspath(args.root))
    findings = {found for name in args.rule or RULES for found in RULES[name](tree)}
    if not args.rule and not args.quick:
        findings |= set(clang_tidy(tree, args.full))
    for path, line, what in sorted(findings):
        print(f"{path}:{line}: {what}")
    print(f"tidy: {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
