/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/lib/tree_nodes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fs/cache/cache.h"
#include "fs/core/fs_int.h"
#include "fs/device/device_sim.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/fs.h"
#include "fs/space/block_group.h"
#include "fs/tree/node.h"
#include "fs/volume/extent.h"
#include "fs/volume/volume.h"
#include "fs/format/key.h"
#include "fs/format/volume_format.h"

struct tree_place tree_place_of(struct engine *e, struct fs_volume *vol, uint64_t blk, uint8_t level)
{
	struct tree_place p = {{vol->root.addr, vol->root.generation, vol->root.owner, vol->root.level},
			       0,
			       fs_volume_size(vol) / BLOCK};
	uint8_t bytes[EXTENT_KEY_LEN];

	extent_key_pack(bytes, blk);
	assert_true(level <= vol->root.level);
	while (p.id.level > level) {
		struct cache_entry *entry;
		const struct node_header *node;
		int slot;

		assert_int_equal(node_read(e->fs, e->fs->commit_q, &p.id, &entry), 0);
		node = node_header(entry);
		slot = node_floor(node, (struct key){bytes, sizeof(bytes)});
		slot = slot < 0 ? 0 : slot;
		p.first = extent_key_blk(node_key(node, (unsigned)slot));
		if ((unsigned)slot + 1 < node_count(node))
			p.end = extent_key_blk(node_key(node, (unsigned)slot + 1));
		assert_int_equal(node_child(node, (unsigned)slot, vol->id, &p.id), 0);
		cache_put(e->fs->cache, entry);
	}
	return p;
}

void rot_node(struct engine *e, uint64_t addr)
{
	uint64_t off[GROUP_STRIPES_MAX];

	assert_int_equal(block_group_map(e->fs, addr, NODE_SIZE, off), 2);
	device_sim_flip(e->sim, off[0] + 5000, 1);
	device_sim_flip(e->sim, off[1] + 9000, 2);
	cache_invalidate(e->fs->cache, CACHE_NODE, addr);
}
