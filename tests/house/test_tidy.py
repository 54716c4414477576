# SPDX-License-Identifier: BSD-3-Clause
"""The rules of make tidy, each broken on purpose in a tree of a few lines: it must find just that."""
import os
import re
import subprocess
import sys

import pytest

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
TIDY = os.path.join(TOP, "tests", "lib", "tidy.py")
SPDX = "/* SPDX-License-Identifier: BSD-3-Clause */\n"

# Nothing in these is wrong.
GOOD = {
    "base/lock.h": "void lock_init(struct lock *lock, int rank);\n",
    "base/util.h": "#define ASSERT(cond) check(cond)\n"
    "static inline unsigned min_u32(unsigned a, unsigned b)\n{\n\treturn a < b ? a : b;\n}\n",
    "fs/core/lock_rank.h": "enum lock_rank {\n\tLOCK_COMMIT = 100,\n\tLOCK_TABLE = 200,\n};\n",
    "fs/core/fs_int.h": "struct fs {\n\tint size;\n};\n",
    "fs/fs.h": "struct fs;\nint fs_commit(struct fs *fs);\n",
    "fs/space/group.h": "struct fs;\nstruct group {\n\tunsigned count;\n};\n"
    "bool group_take(struct group *g, unsigned *ret_start);\nbool group_is_full(struct group *g);\n",
    "fs/space/group.c": '#include "fs/space/group.h"\n\n#include "base/util.h"\n#include "fs/core/lock_rank.h"\n\n'
    "void group_init(struct group *g)\n{\n\tlock_init(&g->lock, LOCK_TABLE);\n\tASSERT(!group_is_full(g) && g->count == 0);\n}\n",
    "fs/tree/tree.h": "struct group;\nint tree_find(struct group *g);\n",
    "fs/tree/tree.c": '#include "fs/tree/tree.h"\n\n#include "fs/core/lock_rank.h"\n#include "fs/space/group.h"\n\n'
    "int tree_find(struct group *g)\n{\n\tlock_init(&g->lock, LOCK_COMMIT);\n\treturn g->count;\n}\n",
    "server/loop.c": '#include "fs/fs.h"\n\nint loop(struct fs *fs)\n{\n\treturn fs_commit(fs);\n}\n',
    "fs/format/a_format.h": "struct a_item {\n\tle64 size;\n};\nuint64_t a_unpack(const struct a_item *item);\n",
    "fs/device/a.c": "uint64_t a(struct a_item *a)\n{\n\treturn le64_to_cpu(a->size);\n}\n",
    "client/byre.h": "int byre_open(void);\n",
    "proto/frame.c": '#include "base/util.h"\n\nunsigned frame(void)\n{\n\treturn min_u32(1, 2);\n}\n',
    "tests/lib/a.py": "",
}


def with_guard(path, text):
    name = re.sub(r"[^A-Z0-9]", "_", path.upper())
    return f"#ifndef {name}\n#define {name}\n\n{text}\n#endif\n"


def write(root, path, text, raw=False):
    full = root / path
    full.parent.mkdir(parents=True, exist_ok=True)
    if not raw:
        text = with_guard(path, text) if path.endswith(".h") else text
        text = ("# SPDX-License-Identifier: BSD-3-Clause\n" if path.endswith(".py") else SPDX) + text
    full.write_text(text)


def tidy(root, *args):
    got = subprocess.run([sys.executable, TIDY, "--root", root, *args], capture_output=True, text=True)
    *findings, last = got.stdout.splitlines()
    assert got.returncode == (1 if findings else 0) and last == f"tidy: {len(findings)} findings", got
    return findings


@pytest.fixture
def tree(tmp_path):
    with open(os.path.join(TOP, ".clang-format")) as f:
        style = f.read()
    for path, text in GOOD.items():
        write(tmp_path, path, text)
    write(tmp_path, ".clang-format", style, raw=True)
    return tmp_path


def function(body, includes=""):
    return f"{includes}\nvoid f(struct group *g)\n{{\n\t{body}\n}}\n"


def included(*paths):
    return "".join(f'#include "{p}"\n' for p in paths)


LONG = "x" * 130

# The rule, the file that breaks it, its text, and what is said of it.
BROKEN = [
    ("include-direction", "base/bad.c", included("fs/fs.h"), "base/ must not include fs/"),
    ("include-direction", "fs/core/bad.c", included("server/loop.h"), "fs/ must not include server/"),
    ("include-direction", "proto/bad.c", included("fs/fs.h"), "proto/ must not include fs/"),
    ("include-direction", "client/libbyre_bad.c", included("fs/fs.h"), "client/ must not include fs/"),
    ("include-direction", "server/bad.c", included("fs/tree/tree.h"), "a private header of fs/"),
    ("include-direction", "fs/tree/bad.c", included("tests/lib/a.h"), "fs/ must not include tests/"),
    ("include-folder", "fs/tree/bad.c", included("tree.h"), "without its folder"),
    ("no-protocols", "fs/core/bad.c", "#include <sys/socket.h>\n", "fs/ knows no protocols"),
    ("room-order", "fs/space/bad.c", included("fs/tree/tree.h"), "fs/space/ is below fs/tree/"),
    ("room-order", "fs/core/bad.h", included("fs/space/group.h"), "fs/core/ is below fs/space/"),
    ("room-order", "fs/bad.c", "", "in no folder of the order"),
    ("room-order", "fs/attic/bad.c", "", "in no folder of the order"),
    ("include-used", "fs/tree/bad.c", included("fs/space/group.h"), "nothing of it is used"),
    (
        "include-used",
        "fs/tree/bad.c",
        included("base/util.h") + "int a; /* ASSERT, min_u32 */\n",
        "nothing of it is used",
    ),
    (
        "include-used",
        "fs/tree/bad.h",
        included("fs/space/group.h") + "int bad(struct group *g);\n",
        "for pointers only",
    ),
    ("one-key", "fs/commit/bad.c", "uint64_t a(uint64_t be)\n{\n\treturn be64toh(be);\n}\n", "keys are packed"),
    ("guard", "fs/tree/bad.h", SPDX + "#ifndef BAD_H\n#define BAD_H\n#endif\n", "the guard is BAD_H"),
    ("guard", "fs/tree/bad.h", SPDX + "int a;\n", "the guard is None"),
    ("licence", "fs/tree/bad.c", "int a;\n", "no SPDX line"),
    ("left-behind", "fs/tree/bad.c", "int a; \n", "trailing space"),
    ("left-behind", "tests/lib/bad.py", "# " + "TO" + "DO: all\n", "left behind"),
    ("length", "fs/tree/bad.c", "\tint a" + " + a" * 30 + ";\n", "columns, more than 110"),
    ("length", "fs/tree/bad.c", "/* " + LONG + " */\n", "columns, more than 110"),
    ("length", "fs/tree/bad.c", "\t\t\t\t\t\t\t\t\t\t\t\t\tlong_name = 1;\n", "columns, more than 110"),
    (
        "length",
        "fs/tree/bad.c",
        f'\tfirst_of_two_calls("{LONG}"); second_call(with, more, than, a, string);\n',
        "more than 110",
    ),
    ("length", "tests/lib/bad.py", "a = 1" + " + 1" * 30 + "\n", "columns, more than 120"),
    ("length", "fs/tree/bad.c", "int a;\n" * 900, "the file has 901 lines, more than 900"),
    ("formatting", "fs/tree/bad.c", "int  f( void ){return 1;}\n", "clang-format would change it"),
    ("assert-effect", "fs/tree/bad.c", function("ASSERT(g->count++ < 3);"), "with ++ or --"),
    ("assert-effect", "tests/bad.c", function("DEBUG_ASSERT(--g->count);"), "with ++ or --"),
    ("assert-effect", "fs/tree/bad.c", function("ASSERT((g->count = 3));"), "with an assignment"),
    ("assert-effect", "fs/tree/bad.c", function("ASSERT(group_take(g, 0));"), "ASSERT around group_take()"),
    (
        "assert-effect",
        "fs/tree/bad.c",
        function("ASSERT(list_remove_locked(g) ==\n\t       g);"),
        "list_remove_locked()",
    ),
    ("assert-effect", "fs/tree/bad.c", function("ASSERT(atomic_fetch_sub(&g->count, 1) > 0);"), "atomic_fetch_sub()"),
    ("assert-effect", "fs/tree/bad.c", function("ASSERT(group_find(g, 1, &start));"), "fills a variable"),
    ("one-place", "fs/tree/bad.c", "uint64_t b(struct a_item *a)\n{\n\treturn le64_to_cpu(a->size);\n}\n",
     "struct a_item is on the disk"),
    ("lock-ranks", "fs/tree/bad.c", function("lock_init(&g->lock, 500);"), "500 is no rank"),
    ("lock-ranks", "server/bad.c", function("lock_init(&g->lock, LOCK_LOOP);"), "LOCK_LOOP is no rank"),
    ("lock-ranks", "fs/tree/bad.h", "#define TREE_LOCK_RANK 300\n", "TREE_LOCK_RANK is defined outside"),
    ("lock-ranks", "fs/tree/bad.h", "#define LOCK_TREE (LOCK_TABLE - 1)\n", "LOCK_TREE is defined outside"),
    (
        "lock-ranks",
        "fs/core/lock_rank.h",
        "enum lock_rank {\n\tLOCK_COMMIT = 100,\n\tLOCK_TABLE = 200,\n\tLOCK_STATS = 300,\n};\n",
        "LOCK_STATS is used by no lock",
    ),
]  # fmt: skip


@pytest.mark.parametrize("rule, path, text, said", BROKEN, ids=[f"{b[0]}-{n}" for n, b in enumerate(BROKEN)])
def test_tidy_finds(tree, rule, path, text, said):
    assert tidy(tree, rule) == []
    write(tree, path, text, raw=rule in ("licence", "guard"))
    found = [line for line in tidy(tree, rule) if "fs/device/a.c" not in line]  # the other user of what two use
    assert len(found) == 1 and re.match(rf"{re.escape(path)}:\d+: ", found[0]) and said in found[0], found


FINE = [
    ("include-direction", "tests/a.c", included("fs/tree/tree.h", "server/loop.h", "tests/lib/a.h")),
    ("include-direction", "server/a.c", included("fs/core/lock_rank.h")),
    ("include-direction", "client/cli.c", included("fs/fs.h", "proto/frame.h", "byre.h")),
    ("include-used", "fs/tree/a.h", included("fs/space/group.h") + "struct a {\n\tstruct group g;\n};\n"),
    (
        "include-used",
        "fs/tree/a.c",
        included("fs/space/group.h") + "unsigned f(struct a *a)\n{\n\treturn a->g->count;\n}\n",
    ),
    ("one-place", "fs/tree/a.c", "struct a_item;\nsize_t n = sizeof(struct a_item);\n"),
    ("length", "fs/tree/a.c", f'\tfail(err, "{LONG}");\n'),
    ("length", "fs/tree/a.c", f'\t\t\t"{LONG}"\n'),
    ("assert-effect", "fs/tree/a.c", function("ASSERT(group_count(g) == 1 && a <= b && a != b && a >= b);")),
    (
        "assert-effect",
        "fs/tree/a.c",
        function('ASSERT(group_is_at(g, &g->start)); /* ASSERT(a++) */ say("ASSERT(a++)");'),
    ),
    ("assert-effect", "tests/a.c", function("ASSERT(group_take(g, &start));")),
]


@pytest.mark.parametrize("rule, path, text", FINE, ids=[f"{b[0]}-{n}" for n, b in enumerate(FINE)])
def test_tidy_lets_pass(tree, rule, path, text):
    write(tree, path, text)
    assert tidy(tree, rule) == []


def test_tidy_each_rule_is_broken_once():
    got = subprocess.run([sys.executable, TIDY, "--rules"], capture_output=True, text=True, check=True)
    rules = {line.split()[0] for line in got.stdout.splitlines()}
    assert rules == {b[0] for b in BROKEN}


def test_tidy_good_tree_has_no_findings(tree):
    assert tidy(tree, "--quick") == []


def test_tidy_order_of_rooms_is_that_of_the_documents():
    sys.path.insert(0, os.path.dirname(TIDY))
    import tidy as rules

    with open(os.path.join(TOP, "docs", "design.md")) as f:
        table = re.search(r"The folders of `fs/`, lowest first.*?\n\n(.*?)\n\n", f.read(), re.S)[1]
    assert re.findall(r"(?m)^\| `(\w+)`", table) == rules.ROOMS
    assert set(rules.ROOMS) == {
        d for d in os.listdir(os.path.join(TOP, "fs")) if os.path.isdir(os.path.join(TOP, "fs", d))
    }
