/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/block_group_system.c: the system groups, which hold the group tree.
 *
 * They stand in the superblock. One is made with the pool; more are made, each as large as all before, when
 * half of what they have room for is used, so that their number stays small however large the pool becomes. A
 * new one is in memory at first, as any group; the commit that first may put a node there also has it in its
 * superblock.
 */
#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/lock.h"
#include "base/util.h"
#include "fs/core/fs_int.h"
#include "fs/format/block_group_format.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/space/block_group.h"
#include "fs/space/block_group_int.h"
#include "fs/space/free_space.h"
#include "fs/space/space_info.h"

#define GROUP_ITEM_BYTES 96u /* at most, with its slot in the node */

/* ---- how many groups they have room for -------------------------------------- */

/*
 * A third of it holds the items, in half-full nodes; the rest is for the old tree while the new one is
 * written.
 */
static uint64_t groups_in(uint64_t bytes)
{
	return bytes / 3 / NODE_SIZE * (NODE_CAPACITY / 2 / GROUP_ITEM_BYTES);
}

uint64_t block_group_system_for(uint64_t groups)
{
	return (groups / (NODE_CAPACITY / 2 / GROUP_ITEM_BYTES) + 1) * NODE_SIZE * 3;
}

static uint64_t system_bytes_locked(const struct group_table *t)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < t->nr_system; i++)
		bytes += t->system[i]->len;
	return bytes;
}

uint64_t block_group_system_bytes(struct fs *fs)
{
	uint64_t bytes;

	lock_take(&fs->groups->lock);
	bytes = system_bytes_locked(fs->groups);
	lock_drop(&fs->groups->lock);
	return bytes;
}

void block_group_system_added(struct fs *fs)
{
	uint64_t max = groups_in(block_group_system_bytes(fs));

	atomic_store(&fs->groups->live_max, (uint32_t)min_u64(max, GROUP_INDEX_MAX));
}

void block_group_pack_system(struct fs *fs, struct super_block *sb)
{
	struct group_table *t = fs->groups;

	lock_take(&t->lock);
	for (unsigned i = 0; i < t->nr_system; i++) {
		const struct block_group *g = t->system[i];
		struct super_system_group *entry = &sb->system[i];

		*entry = (struct super_system_group){.start = cpu_to_le64(g->start),
						     .length = cpu_to_le64(g->len)};
		for (unsigned k = 0; k < g->nr_stripes; k++)
			entry->stripe[k].offset = cpu_to_le64(g->stripe[k]);
	}
	lock_drop(&t->lock);
}

int block_group_read_system(struct fs *fs)
{
	for (unsigned i = 0; i < SUPER_SYSTEM_GROUPS; i++) {
		const struct super_system_group *sg = &fs->super->system[i];
		struct group_desc d = {.start = le64_to_cpu(sg->start),
				       .len = le64_to_cpu(sg->length),
				       .type = GROUP_SYSTEM,
				       .nr_stripes = 2,
				       .cache_slot = CACHE_SLOT_NONE,
				       .in_tree = true};
		struct block_group *g;
		int r;

		if (d.start == 0)
			continue;
		for (unsigned s = 0; s < GROUP_STRIPES_MAX; s++)
			d.stripe[s] = le64_to_cpu(sg->stripe[s].offset);
		r = block_group_add(fs, &d, &g);
		if (r == 0)
			r = block_group_load_empty(fs, g);
		if (r)
			return r;
		space_loaded_group(fs, GROUP_SYSTEM, d.len, 0);
	}
	block_group_system_added(fs);
	return atomic_load(&fs->groups->live_max) ? 0 : -EUCLEAN;
}

/* The group tree's nodes are what is used of the system groups. */
int block_group_take_system(struct fs *fs, uint64_t addr)
{
	struct block_group *g = block_group_find(fs, addr);

	if (!g || g->type != GROUP_SYSTEM || !block_group_holds(g, addr, NODE_SIZE) ||
	    !free_space_take(g->avail, block_group_index(g, addr), 1))
		return -EUCLEAN;
	lock_take(&g->lock);
	block_group_reorder_locked(fs, g);
	lock_drop(&g->lock);
	space_allocated_node(fs, GROUP_SYSTEM, NODE_SIZE);
	return 0;
}
