/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/commit/rebuild.c: see rebuild.h. Why a walk in slices, each of the trees of another moment, gives the
 * right answer:
 *
 * Let S be the start, when each group's `lost` is cleared, and E the end; both are under the commit lock, so
 * the committed trees stand still at them. A group in state REBUILDING gives nothing out. So what the
 * committed trees refer to in it only shrinks from S to E, and `lost` is exactly what went. Wanted is what
 * they refer to at E.
 *
 * 1. Nothing too much: each slice sees committed trees between S and E, so it finds only what was referred to
 *    at S. What of that is not referred to at E is in `lost`, and is taken out at the end.
 * 2. Nothing too little, data: a block that is referred to at E is so at every moment from S to E, by the
 *    same block of the same volume all the time (a range has one reference, and no operation moves one). The
 *    slices of a volume cover all its blocks without a gap: each begins where the one before ended, at the
 *    first block that it did not see, and takes in the extent that reaches over this place.
 * 3. Nothing too little, nodes: a node that is referred to at E is so from S to E. Nodes do not change, nor
 *    does what is below one that stays, so its first key is all the time a key of the tree, and whoever walks
 *    over that key passes through the node. Each slice notes all nodes on its path.
 * 4. A volume made after S has nothing in these groups. One that is deleted becomes an orphan of the same id,
 *    and each slice looks the id up anew; an orphan's tree is entered at its progress, in front of which all
 *    is in `lost`.
 * 5. What a hole cuts out of a tree after S gets an id of its own, and moves from the volume to that, once.
 *    So the orphans with ids that were not there at S are walked last, until there are none that were not, at
 *    E: what a slice of the volume came too late to see is found there.
 *
 * Where nodes were lost (SUPER_FLAG_LEAKED) the item's `used` may be more than was found: what they referred
 * to is free then.
 *
 * A node that no copy is left of ends nothing: the walk goes on behind it, to find all of them, and has the
 * next commit put lost extents in their place (fs/commit/volume_touch.h). Then the trees are walked once
 * more. Not handed over before: where such a node can be read after all, it refers to space. What the
 * *device* cannot read may come back: it is waited for until a rebuild ten minutes later. Those of deleted
 * volumes are left to the commits that free them.
 *
 * A slice holds its epoch only as long as it takes to read REBUILD_SLICE_LEAVES leaves, so that freed space
 * comes back.
 */
#include "fs/commit/rebuild.h"

#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/cache/cache.h"
#include "fs/commit/transaction.h"
#include "fs/commit/volume_touch.h"
#include "fs/core/clock.h"
#include "fs/core/epoch.h"
#include "fs/core/fs_int.h"
#include "fs/core/report.h"
#include "fs/core/wakeup.h"
#include "fs/device/device.h"
#include "fs/format/block_group_format.h"
#include "fs/format/key.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "fs/space/block_group.h"
#include "fs/space/free_space.h"
#include "fs/space/pins.h"
#include "fs/space/space_info.h"
#include "fs/tree/node.h"
#include "fs/tree/tree.h"
#include "fs/volume/extent.h"
#include "fs/volume/volume.h"

#ifdef BYRE_DEBUG
#define REBUILD_SLICE_LEAVES 2u /* many slices, also in small pools */
#else
#define REBUILD_SLICE_LEAVES 256u
#endif
#define REBUILD_HAND_OVERS 1000u /* each but the last walks what was cut out since the one before */
#define REBUILD_PINS_WAIT_MS 10000u
#define REBUILD_HOLES 4u /* in front of a node that is lost: to its leaf's end */

struct rebuild_group {
	/* It cannot go away before it is done: only a loaded one is removed. Then it may be gone at once. */
	struct block_group *group;
	uint64_t start;
	uint64_t *used; /* found by the walk */
	bool done, contradicts;
	uint64_t found; /* bytes, at the end */
};

struct rebuild {
	struct fs *fs;
	struct device_queue *q;
	struct rebuild_group *group; /* in order of address */
	size_t groups, groups_cap;
	uint64_t *id; /* of the volumes and orphans at the start */
	size_t ids, ids_cap, walked;
	int lost;	  /* error of a node that could not be read */
	uint64_t next_id; /* what was made with an id from here on is not among them */
	int error;	  /* of the collection */
};

static size_t bitmap_words(const struct block_group *g)
{
	return (g->nblocks + 63) / 64;
}

/* ---- what was found -------------------------------------------------------- */

static struct rebuild_group *find_group(struct rebuild *rb, uint64_t addr)
{
	size_t lo = 0, hi = rb->groups;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		const struct block_group *g = rb->group[mid].group;

		if (addr < g->start)
			hi = mid;
		else if (addr - g->start >= g->len)
			lo = mid + 1;
		else
			return &rb->group[mid];
	}
	return NULL;
}

static int mark(struct rebuild *rb, uint64_t addr, uint64_t len)
{
	struct rebuild_group *rg = find_group(rb, addr);
	const struct block_group *g;
	uint64_t first;

	if (!rg)
		return 0;
	g = rg->group;
	if (!block_group_holds(g, addr, len))
		return -EUCLEAN;
	first = block_group_index(g, addr);
	for (uint64_t i = first; i < first + len / g->unit; i++)
		rg->used[i / 64] |= 1ull << (i % 64);
	return 0;
}

/* The nodes from the root down to where the iterator stands. */
static int mark_path(struct rebuild *rb, const struct tree_iter *it)
{
	int r = 0;

	for (unsigned level = 0; r == 0 && level <= it->root.level; level++)
		r = mark(rb, it->node[level]->addr, NODE_SIZE);
	return r;
}

/* ---- the start ------------------------------------------------------------- */

static void collect_group(struct block_group *g, void *arg)
{
	struct rebuild *rb = arg;
	uint64_t *used;
	bool wanted;

	lock_take(&g->lock);
	wanted = g->state == GROUP_REBUILDING && !g->contradicts;
	lock_drop(&g->lock);
	if (!wanted || rb->error)
		return;
	if (rb->groups == rb->groups_cap) {
		size_t cap = rb->groups_cap ? rb->groups_cap * 2 : 16;
		struct rebuild_group *v = mem_realloc(rb->group, cap * sizeof(*v));

		if (!v) {
			rb->error = -ENOMEM;
			return;
		}
		rb->group = v;
		rb->groups_cap = cap;
	}
	used = mem_zalloc(bitmap_words(g) * sizeof(uint64_t));
	if (!used) {
		rb->error = -ENOMEM;
		return;
	}
	rb->group[rb->groups++] = (struct rebuild_group){.group = g, .start = g->start, .used = used};
	lock_take(&g->lock);
	memset(g->lost, 0, bitmap_words(g) * sizeof(uint64_t));
	lock_drop(&g->lock);
}

static int add_id(struct rebuild *rb, uint64_t id)
{
	if (rb->ids == rb->ids_cap) {
		size_t cap = rb->ids_cap ? rb->ids_cap * 2 : 64;
		uint64_t *v = mem_realloc(rb->id, cap * sizeof(*v));

		if (!v)
			return -ENOMEM;
		rb->id = v;
		rb->ids_cap = cap;
	}
	rb->id[rb->ids++] = id;
	return 0;
}

static int add_key(struct rebuild *rb, struct key key)
{
	uint64_t id;
	uint8_t type;
	int r = key_unpack(key, &type, &id);

	return r ? r : add_id(rb, id);
}

/* Notes the root tree's nodes, and which trees it names. */
static int walk_root_tree(struct rebuild *rb)
{
	struct tree_iter it;
	int r;

	tree_iter_init(&it, rb->fs, rb->q, rb->fs->root_tree);
	for (r = tree_iter_first(&it); r == 0 && it.valid; r = r ? r : tree_iter_next(&it)) {
		r = it.slot[0] == 0 ? mark_path(rb, &it) : 0;
		if (r == 0)
			r = add_key(rb, tree_iter_key(&it));
	}
	tree_iter_fini(&it);
	return r;
}

static int start(struct rebuild *rb)
{
	struct fs *fs = rb->fs;
	unsigned epoch;
	int r;

	lock_take(&fs->commit_lock);
	epoch = epoch_enter(&fs->epoch);
	block_group_each(fs, collect_group, rb); /* groups go away under the commit lock only */
	r = rb->error;
	rb->next_id = atomic_load(&fs->next_id);
	if (r == 0 && rb->groups)
		r = walk_root_tree(rb);
	epoch_leave(&fs->epoch, epoch);
	lock_drop(&fs->commit_lock);
	return r;
}

/* ---- the walk -------------------------------------------------------------- */

static int get_root_item(struct rebuild *rb, uint8_t type, uint64_t id, void *buf, size_t cap,
			 size_t *ret_len)
{
	uint8_t key[ITEM_KEY_LEN];

	key_pack(key, type, id);
	return tree_get(rb->fs, rb->q, rb->fs->root_tree, (struct key){key, sizeof(key)}, buf, cap, ret_len);
}

/*
 * The committed tree of a volume or orphan, and the first block of it that is still there. -ENOENT. The
 * commit lock is held.
 */
static int find_root(struct rebuild *rb, uint64_t id, struct tree_root *ret_root, uint64_t *ret_from)
{
	uint8_t buf[VOLUME_ITEM_MAX];
	struct orphan_fields orphan;
	struct volume_fields vol;
	const char *doubt;
	size_t len;
	int r = get_root_item(rb, VOLUME_KEY_TYPE, id, buf, sizeof(buf), &len);

	*ret_from = 0;
	if (r == 0) {
		r = volume_item_unpack(id, (struct value){buf, (uint16_t)len}, &vol, &doubt);
		if (r == 0)
			*ret_root = vol.root;
	} else if (r == -ENOENT) {
		r = get_root_item(rb, ORPHAN_KEY_TYPE, id, buf, sizeof(buf), &len);
		if (r == 0)
			r = orphan_item_unpack(id, (struct value){buf, (uint16_t)len}, &orphan, &doubt);
		if (r)
			return r;
		*ret_root = orphan.root;
		*ret_from = orphan.progress;
	}
	return r;
}

/* Some leaves from block *pos on; *pos is then the first block that was not seen, with an error also. */
static int walk_leaves(struct rebuild *rb, const struct tree_root *root, uint64_t *pos, bool *ret_end)
{
	uint8_t bytes[EXTENT_KEY_LEN];
	struct tree_iter it;
	uint64_t seen = *pos;
	unsigned leaves = 0;
	bool first = true;
	int r;

	extent_key_pack(bytes, *pos);
	tree_iter_init(&it, rb->fs, rb->q, root);
	r = tree_iter_seek(&it, (struct key){bytes, sizeof(bytes)});
	while (r == 0 && it.valid) {
		struct extent e;

		r = atomic_load(&rb->fs->rebuild_stop)
			    ? -ECANCELED
			    : extent_unpack(tree_iter_key(&it), tree_iter_value(&it), &e);
		if (r == 0 && (first || it.slot[0] == 0)) {
			if (leaves++ == REBUILD_SLICE_LEAVES) {
				r = e.blk > *pos ? 0 : -EUCLEAN; /* else it would go on for ever */
				seen = e.blk;
				break;
			}
			first = false;
			r = mark_path(rb, &it);
		}
		if (r == 0 && e.addr)
			r = mark(rb, e.addr, e.nblk * FS_BLOCK_SIZE);
		if (r == 0) {
			seen = e.blk + e.nblk;
			r = tree_iter_next(&it);
		}
	}
	*pos = seen;
	*ret_end = !it.valid;
	tree_iter_fini(&it);
	return r;
}

/* Whether waiting will not help. */
static bool is_final(struct rebuild *rb, int error)
{
	struct fs *fs = rb->fs;

	if (error == -EUCLEAN)
		return true;
	if (!fs->rebuild_eio_us)
		fs->rebuild_eio_us = fs_now_us(fs);
	return fs_now_us(fs) - fs->rebuild_eio_us >= REBUILD_AGAIN_S * 1000000ull;
}

/*
 * Behind the node that the walk of a volume ended at; the next commit is to replace it. It stands at *pos, or
 * behind a hole there.
 */
static int pass_lost(struct rebuild *rb, uint64_t id, const struct tree_root *root, int error, uint64_t *pos,
		     bool *ret_end)
{
	for (unsigned i = 0; i < REBUILD_HOLES; i++) {
		struct extent_piece piece;
		int r = extent_lookup(rb->fs, rb->q, root, *pos, &piece);

		if (r)
			return r;
		if (piece.entry)
			cache_put(rb->fs->cache, piece.entry);
		if (piece.addr || (piece.lost && !piece.lost_node)) /* it can be read now: another time */
			return error;
		if (piece.lost_node && is_final(rb, error))
			volume_touch(rb->fs, id, piece.lost_blk);
		*ret_end = piece.nblk >= UINT64_MAX - *pos;
		*pos += *ret_end ? 0 : piece.nblk;
		if (piece.lost_node)
			return 0;
		if (*ret_end)
			return error;
	}
	return error;
}

static int walk_slice(struct rebuild *rb, uint64_t id, uint64_t *pos, bool *ret_end)
{
	struct fs *fs = rb->fs;
	struct tree_root root;
	uint64_t from;
	unsigned epoch;
	int r;

	lock_take(&fs->commit_lock);
	epoch = epoch_enter(&fs->epoch);
	r = find_root(rb, id, &root, &from);
	lock_drop(&fs->commit_lock);
	if (r == 0) {
		*pos = max_u64(*pos, from);
		r = walk_leaves(rb, &root, pos, ret_end);
		if (node_is_lost(r)) {
			rb->lost = r;
			r = root.owner == id ? pass_lost(rb, id, &root, r, pos, ret_end) : r;
		}
	} else if (r == -ENOENT) { /* deleted, and all of it is freed */
		*ret_end = true;
		r = 0;
	}
	epoch_leave(&fs->epoch, epoch);
	return r;
}

static int walk_volumes(struct rebuild *rb)
{
	int r = 0;

	for (; r == 0 && rb->walked < rb->ids; rb->walked++) {
		uint64_t pos = 0;
		bool end = false;

		while (r == 0 && !end)
			r = walk_slice(rb, rb->id[rb->walked], &pos, &end);
	}
	return r ? r : rb->lost;
}

/* Notes the orphans made since the start that were not walked. The commit lock is held. */
static int add_new_orphans(struct rebuild *rb, bool *ret_any)
{
	const struct orphan *o;
	int r = 0;

	*ret_any = false;
	TAILQ_FOREACH (o, &rb->fs->volumes->orphans, link) {
		if (r || o->id < rb->next_id) /* ids ascend */
			continue;
		*ret_any = true;
		r = add_id(rb, o->id);
	}
	rb->next_id = atomic_load(&rb->fs->next_id);
	return r;
}

/* ---- the end --------------------------------------------------------------- */

/* The group's free space: all that was not found or is lost since. NULL: no memory. */
static struct free_space *make_free_space(struct rebuild_group *rg)
{
	const struct block_group *g = rg->group;
	struct free_space *space = free_space_new(g->nblocks, false);
	bool set;

	rg->found = 0;
	for (size_t w = 0; space && w < bitmap_words(g); w++) {
		uint64_t rest = g->nblocks - w * 64, valid = rest >= 64 ? UINT64_MAX : (1ull << rest) - 1;
		uint64_t used = rg->used[w] & ~g->lost[w] & valid, free_bits = ~used & valid;

		rg->found += (uint64_t)__builtin_popcountll(used) * g->unit;
		set = free_space_set_words(space, (uint32_t)w, 1, &free_bits);
		ASSERT(set);
	}
	return space;
}

static int hand_over_locked(struct fs *fs, struct rebuild_group *rg)
{
	struct block_group *g = rg->group;
	struct free_space *space = make_free_space(rg);
	uint64_t *lost, leaked;
	int r;

	if (!space)
		return -ENOMEM;
	/* What nobody refers to since nodes were lost is free. */
	leaked = g->used > rg->found && le64_to_cpu(fs->super->flags) & SUPER_FLAG_LEAKED
			 ? g->used - rg->found
			 : 0;
	g->contradicts = rg->contradicts = rg->found != g->used - leaked;
	r = g->contradicts ? 0 : block_group_rebuilt(fs, g, space);
	if (r || g->contradicts) {
		if (g->contradicts && g->type == GROUP_METADATA)
			atomic_fetch_sub(&fs->groups->metadata_unknown, 1);
		free_space_free(space);
		return r;
	}
	lock_take(&g->lock);
	lost = g->lost;
	g->lost = NULL;
	lock_drop(&g->lock);
	mem_free(lost);
	atomic_fetch_sub(&fs->groups->rebuilding, 1);
	atomic_fetch_add(&fs->stats.cache_rebuilt, 1);
	block_group_set_dirty(fs, g);
	space_unavailable(fs, g->type, -(int64_t)(g->len - g->used));
	if (leaked) {
		g->used -= leaked;
		space_found_leaked(fs, g->type, leaked);
		fs_log(fs, FS_LOG_NOTICE,
		       "block group %llu: %llu bytes are free again that lost nodes had referred to",
		       (unsigned long long)g->start, (unsigned long long)leaked);
	}
	rg->done = true;
	return 0;
}

/*
 * Takes the commit lock at a moment when nobody reads what the last commit freed, and so nothing in `lost`.
 * Where pins of that commit still gather the epoch is advanced for this alone: a commit might be waiting for
 * the rebuild.
 */
static bool lock_without_readers(struct fs *fs)
{
	uint64_t commits = UINT64_MAX; /* done when the epoch was advanced */

	for (unsigned ms = 0; ms < REBUILD_PINS_WAIT_MS && !atomic_load(&fs->rebuild_stop); ms++) {
		lock_take(&fs->commit_lock);
		if (transaction_release_pins(fs) && !pins_are_left(fs->pins))
			return true;
		if (!atomic_load(&fs->pins->waiting) && epoch_previous_is_empty(&fs->epoch)) {
			if (commits == atomic_load(&fs->commits_done))
				return true;
			commits = atomic_load(&fs->commits_done);
			epoch_advance(&fs->epoch);
			if (epoch_previous_is_empty(&fs->epoch))
				return true;
		}
		lock_drop(&fs->commit_lock);
		if (!fs_pause(fs, 1000))
			break;
	}
	return false;
}

/* 1: something else has to be walked first. */
static int try_hand_over(struct rebuild *rb)
{
	bool more = false;
	int r;

	if (!lock_without_readers(rb->fs)) {
		if (atomic_load(&rb->fs->rebuild_stop))
			return -ECANCELED;
		fs_kick_rebuild(rb->fs);
		return -EAGAIN;
	}
	r = add_new_orphans(rb, &more);
	for (size_t i = 0; r == 0 && !more && i < rb->groups; i++)
		r = hand_over_locked(rb->fs, &rb->group[i]);
	lock_drop(&rb->fs->commit_lock);
	return r == 0 && more ? 1 : r;
}

static int hand_over(struct rebuild *rb)
{
	int r;

	for (unsigned i = 0; i < REBUILD_HAND_OVERS; i++) {
		r = try_hand_over(rb);
		if (r <= 0)
			return r;
		r = walk_volumes(rb);
		if (r)
			return r;
	}
	fs_kick_rebuild(rb->fs);
	return -EAGAIN;
}

static void report(struct rebuild *rb, int error, uint64_t us)
{
	size_t done = 0;

	for (size_t i = 0; i < rb->groups; i++) {
		const struct rebuild_group *rg = &rb->group[i];

		done += rg->done;
		if (rg->contradicts)
			fs_log(rb->fs, FS_LOG_ERROR,
			       "block group %llu: the trees refer to %llu bytes of it, its item says otherwise: it is not used; run byre pool check",
			       (unsigned long long)rg->start, (unsigned long long)rg->found);
	}
	fs_log(rb->fs, error && error != -ECANCELED ? FS_LOG_WARNING : FS_LOG_NOTICE,
	       "free space of %zu of %zu block groups rebuilt in %llu ms%s%s", done, rb->groups,
	       (unsigned long long)us / 1000, error ? ": " : "",
	       error == -ECANCELED ? "the pool is being closed, the next start begins anew"
	       : error		   ? strerror(-error)
				   : "");
}

static void rebuild_fini(struct rebuild *rb)
{
	for (size_t i = 0; i < rb->groups; i++)
		mem_free(rb->group[i].used);
	mem_free(rb->group);
	mem_free(rb->id);
}

int rebuild_groups(struct fs *fs, struct device_queue *q)
{
	struct rebuild rb = {.fs = fs, .q = q};
	uint64_t began = fs_now_us(fs);
	int r;

	if (fs_is_read_only(fs) && !fs->opt.read_only) /* a commit failed: books and trees may not agree */
		return -EROFS;
	r = start(&rb);
	if (rb.groups == 0) {
		rebuild_fini(&rb);
		return r;
	}
	fs_log(fs, FS_LOG_NOTICE, "rebuilding the free space of %zu block groups from the trees", rb.groups);
	if (r == 0)
		r = walk_volumes(&rb);
	if (r == 0)
		r = hand_over(&rb);
	if (!rb.lost)
		fs->rebuild_eio_us = 0;
	report(&rb, r, fs_now_us(fs) - began);
	if (r == 0)
		fs_kick_commit(fs); /* writes the caches, and lets those go on who wait for space */
	rebuild_fini(&rb);
	return r;
}
