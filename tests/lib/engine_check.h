/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/lib/engine_check.h: the books of an idle pool (its counters against its groups and trees), and the
 * checker run over what stands on its device.
 */
#ifndef TESTS_LIB_ENGINE_CHECK_H
#define TESTS_LIB_ENGINE_CHECK_H

#include "fs/space/space_info.h"
#include "tests/lib/engine.h"

struct block_group;
struct device;
struct fs;
struct fs_volume;

struct books {
	struct fs *fs;
	uint64_t total[SPACE_KINDS], taken[SPACE_KINDS], pinned[SPACE_KINDS], slots, memory;
};

/* In order of name, hidden ones too; NULL: the first. The table's lock is held. */
struct fs_volume *engine_next_volume(struct engine *e, struct fs_volume *vol);

void books_add_group(struct block_group *g, void *arg);

/* Nothing is under way: every reservation is back, and the counters are what the groups say. */
void engine_check_books(struct engine *e);

/*
 * As above, after a commit of everything: nothing is pinned or pending, and allocated is what the trees use.
 */
void engine_check_committed(struct engine *e);

/* Checks a copy of what stands on the device. */
void engine_check_device(struct device *sim);

/* The check of a pool file needs the pool closed. */
void engine_check_file(const char *path);

void engine_check_all(struct engine *e);

#endif
