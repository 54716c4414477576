/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/volume/volume.c: the table, the items, look-ups and pendings. What users do to volumes is in
 * volume_op.c.
 */
#include "fs/volume/volume.h"

#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/cache/cache.h"
#include "fs/core/fs_int.h"
#include "fs/core/lock_rank.h"
#include "fs/core/report.h"
#include "fs/device/device.h"
#include "fs/format/key.h"
#include "fs/format/node_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "fs/space/block_group.h"
#include "fs/space/pins.h"
#include "fs/space/space_info.h"
#include "fs/tree/node.h"
#include "fs/tree/tree.h"
#include "fs/volume/extent.h"
#include "fs/volume/extent_state.h"
#include "fs/volume/overlay.h"
#include "fs/volume/volume_int.h"

static int name_order(const struct fs_volume *a, const struct fs_volume *b)
{
	return strcmp(a->name->text, b->name->text);
}
static int id_order(const struct fs_volume *a, const struct fs_volume *b)
{
	return a->id < b->id ? -1 : a->id > b->id;
}

/* Not RB_GENERATE_STATIC: it needs __unused, which libbsd does not define here. */
RB_GENERATE_INTERNAL(volume_tree, fs_volume, by_name, name_order, __attribute__((unused)) static)
RB_GENERATE_INTERNAL(volume_id_tree, fs_volume, by_id, id_order, __attribute__((unused)) static)

void volume_table_init(struct fs *fs)
{
	struct volume_table *t = fs->volumes;

	lock_init(&t->op_lock, LOCK_VOLUME_OP);
	lock_init(&t->lock, LOCK_VOLUME_TABLE);
	lock_init(&t->dirty_lock, LOCK_DIRTY_VOLUMES);
	lock_cond_init(&t->idle_cond);
	RB_INIT(&t->by_name);
	RB_INIT(&t->by_id);
	TAILQ_INIT(&t->dirty);
	TAILQ_INIT(&t->unlogged);
	SLIST_INIT(&t->freed[0]);
	SLIST_INIT(&t->freed[1]);
	TAILQ_INIT(&t->orphans);
}

static struct fs_volume *take_freed(struct volume_table *t, unsigned set)
{
	struct fs_volume *vol;

	lock_take(&t->dirty_lock);
	vol = SLIST_FIRST(&t->freed[set]);
	if (vol)
		SLIST_REMOVE_HEAD(&t->freed[set], freed_link[set]);
	lock_drop(&t->dirty_lock);
	return vol;
}

void volume_table_fini(struct fs *fs)
{
	struct volume_table *t = fs->volumes;
	struct fs_volume *vol;
	struct orphan *o;

	while ((vol = TAILQ_FIRST(&t->unlogged))) {
		TAILQ_REMOVE(&t->unlogged, vol, log_link);
		volume_unref(vol);
	}
	while ((vol = TAILQ_FIRST(&t->dirty))) {
		TAILQ_REMOVE(&t->dirty, vol, dirty_link);
		volume_unref(vol);
	}
	for (unsigned set = 0; set < 2; set++)
		while ((vol = take_freed(t, set)))
			volume_unref(vol);
	while ((vol = RB_MIN(volume_tree, &t->by_name)))
		volume_table_remove_locked(t, vol);
	while ((o = TAILQ_FIRST(&t->orphans))) {
		TAILQ_REMOVE(&t->orphans, o, link);
		mem_free(o);
	}
	pthread_cond_destroy(&t->idle_cond);
	lock_fini(&t->op_lock);
	lock_fini(&t->lock);
	lock_fini(&t->dirty_lock);
}

struct fs_volume *volume_new(struct fs *fs, uint64_t id, const char *name)
{
	struct fs_volume *vol = mem_zalloc(sizeof(*vol));
	struct volume_text *text = vol ? volume_text_new(name, (uint8_t)strlen(name)) : NULL;

	if (!text) {
		mem_free(vol);
		return NULL;
	}
	vol->fs = fs;
	vol->name = text;
	vol->id = id;
	atomic_store(&vol->refs, 1);
	lock_init(&vol->lock, LOCK_VOLUME);
	extent_state_tree_init(&vol->states, NULL, NULL);
	overlay_init(&vol->running);
	overlay_init(&vol->committing);
	vol->root.owner = id;
	vol->tree_end = FS_VOLUME_SIZE_MAX / FS_BLOCK_SIZE;
	return vol;
}

struct volume_text *volume_text_new(const char *text, uint8_t len)
{
	struct volume_text *t = mem_alloc(sizeof(*t) + len + 1u);

	if (!t)
		return NULL;
	atomic_init(&t->refs, 1);
	t->len = len;
	memcpy(t->text, text, len);
	t->text[len] = '\0';
	return t;
}

struct volume_text *volume_text_get(struct volume_text *text)
{
	if (text)
		atomic_fetch_add(&text->refs, 1);
	return text;
}

void volume_text_put(struct volume_text *text)
{
	if (text && atomic_fetch_sub(&text->refs, 1) == 1)
		mem_free(text);
}

struct volume_name volume_get_name(struct fs_volume *vol)
{
	struct volume_name name;

	lock_take(&vol->lock);
	memcpy(name.text, vol->name->text, vol->name->len + 1u);
	lock_drop(&vol->lock);
	return name;
}

void volume_unref(struct fs_volume *vol)
{
	if (atomic_fetch_sub(&vol->refs, 1) > 1)
		return;
	overlay_clear(&vol->running);
	overlay_clear(&vol->committing);
	extent_state_tree_fini(&vol->states);
	volume_text_put(vol->name);
	volume_text_put(vol->comment);
	volume_text_put(vol->frozen_name);
	volume_text_put(vol->frozen_comment);
	mem_free(vol->touches);
	mem_free(vol->frozen_touches);
	lock_fini(&vol->lock);
	mem_free(vol);
}

struct fs_volume *volume_table_find_locked(struct volume_table *t, const char *name)
{
	lock_assert_held(&t->lock);
	for (struct fs_volume *vol = RB_ROOT(&t->by_name); vol;) {
		int order = strcmp(name, vol->name->text);

		if (order == 0)
			return vol;
		vol = order < 0 ? RB_LEFT(vol, by_name) : RB_RIGHT(vol, by_name);
	}
	return NULL;
}

void volume_table_count_locked(struct volume_table *t, struct fs_volume *vol, uint64_t size)
{
	t->sizes = t->sizes - vol->counted_size + size;
	vol->counted_size = size;
}

bool volume_table_insert_locked(struct volume_table *t, struct fs_volume *vol)
{
	if (RB_INSERT(volume_tree, &t->by_name, vol))
		return false;
	if (RB_INSERT(volume_id_tree, &t->by_id, vol)) {
		RB_REMOVE(volume_tree, &t->by_name, vol);
		return false;
	}
	atomic_fetch_add(&vol->fs->space->volumes, 1);
	volume_table_count_locked(t, vol, atomic_load(&vol->size));
	return true;
}

void volume_table_remove_locked(struct volume_table *t, struct fs_volume *vol)
{
	RB_REMOVE(volume_tree, &t->by_name, vol);
	RB_REMOVE(volume_id_tree, &t->by_id, vol);
	volume_table_count_locked(t, vol, 0);
	if (!vol->deleted) /* else it counts until it is buried */
		atomic_fetch_sub(&vol->fs->space->volumes, 1);
	volume_unref(vol);
}

void volume_table_rename_locked(struct volume_table *t, struct fs_volume *vol, struct volume_text **name)
{
	struct volume_text *old = vol->name;

	RB_REMOVE(volume_tree, &t->by_name, vol);
	lock_take(&vol->lock);
	vol->name = *name;
	lock_drop(&vol->lock);
	*name = old;
	ASSERT(!RB_INSERT(volume_tree, &t->by_name, vol));
}

void volume_set_deleted_locked(struct fs_volume *vol)
{
	lock_assert_held(&vol->fs->volumes->lock);
	ASSERT(!vol->deleted);
	atomic_fetch_add(&vol->fs->volumes->dying, 1);
	volume_table_count_locked(vol->fs->volumes, vol, 0);
	vol->hidden = true;
	lock_take(&vol->lock);
	vol->deleted = true;
	lock_drop(&vol->lock);
}

uint32_t volume_change_item_locked(struct fs_volume *vol, uint32_t flags, struct volume_text **comment)
{
	struct volume_text *old = vol->comment;

	lock_assert_held(&vol->lock);
	vol->comment = *comment;
	*comment = old;
	return atomic_exchange(&vol->flags, flags);
}

uint32_t volume_change_item(struct fs_volume *vol, uint32_t flags, struct volume_text **comment)
{
	uint32_t had;

	lock_take(&vol->lock);
	had = volume_change_item_locked(vol, flags, comment);
	lock_drop(&vol->lock);
	return had;
}

int volume_hole_new(uint64_t from, uint64_t to, struct pending **ret_hole, struct pending **ret_spare)
{
	struct pending *hole = pending_new((to - from) / FS_BLOCK_SIZE, false), *spare = NULL;
	int r = hole ? overlay_insert_prealloc(&spare) : -ENOMEM;

	if (r) {
		pending_free(hole);
		return r;
	}
	hole->blk = from / FS_BLOCK_SIZE;
	*ret_hole = hole;
	*ret_spare = spare;
	return 0;
}

struct fs_volume *volume_table_next_locked(struct volume_table *t, const char *after)
{
	struct fs_volume *vol = RB_ROOT(&t->by_name), *best = NULL;

	while (vol) {
		if (strcmp(vol->name->text, after) > 0) {
			best = vol;
			vol = RB_LEFT(vol, by_name);
		} else {
			vol = RB_RIGHT(vol, by_name);
		}
	}
	return best;
}

struct fs_volume *volume_by_id(struct fs *fs, uint64_t id)
{
	struct fs_volume key, *vol;

	key.id = id;
	lock_take(&fs->volumes->lock);
	vol = RB_FIND(volume_id_tree, &fs->volumes->by_id, &key);
	lock_drop(&fs->volumes->lock);
	return vol;
}

struct fs_volume *volume_get_by_id(struct fs *fs, uint64_t id)
{
	struct fs_volume key, *vol;

	key.id = id;
	lock_take(&fs->volumes->lock);
	vol = RB_FIND(volume_id_tree, &fs->volumes->by_id, &key);
	if (vol)
		volume_ref(vol);
	lock_drop(&fs->volumes->lock);
	return vol;
}

static void add_to_sums(struct fs *fs, const struct tree_root *root)
{
	struct tree_sums sums = {0};

	tree_sums_add(&sums, root, 1);
	space_commit_done(fs, &sums);
}

int volume_add_item(struct fs *fs, uint64_t id, struct value value)
{
	struct volume_fields item;
	struct fs_volume *vol;
	const char *doubt;
	bool ok;

	if (id < TREE_ID_FIRST_FREE || volume_item_unpack(id, value, &item, &doubt) ||
	    !volume_size_is_valid(item.size))
		return -EUCLEAN;
	vol = volume_new(fs, id, item.name.text);
	if (!vol)
		return -ENOMEM;
	if (item.comment.len) {
		vol->comment = volume_text_new(item.comment.text, item.comment.len);
		if (!vol->comment) {
			volume_unref(vol);
			return -ENOMEM;
		}
	}
	atomic_store(&vol->size, item.size);
	vol->flags = item.flags;
	vol->ctime_ns = (int64_t)item.ctime_ns;
	vol->used_blocks = item.used_blocks;
	vol->lost_blocks = item.lost_blocks;
	vol->tree_end = item.size / FS_BLOCK_SIZE;
	atomic_fetch_add(&fs->lost_blocks, vol->lost_blocks);
	memcpy(vol->uuid, item.uuid, sizeof(vol->uuid));
	vol->root = item.root;
	space_promise_allocated(fs, &vol->promise, (int64_t)(vol->used_blocks * FS_BLOCK_SIZE));
	if (vol->flags & FS_VOLUME_RESERVED)
		(void)space_set_promise(fs, &vol->promise, space_promise_for(vol->size), true, NULL);
	lock_take(&fs->volumes->lock);
	ok = volume_table_insert_locked(fs->volumes, vol);
	lock_drop(&fs->volumes->lock);
	if (!ok) {
		volume_unref(vol);
		return -EUCLEAN;
	}
	add_to_sums(fs, &vol->root);
	return 0;
}

/* Of what was cut out. A volume's id is less than those of its parts, so the owner has been read before. */
static void find_owner(struct fs *fs, struct orphan *o)
{
	struct orphan *other;

	o->vol = volume_by_id(fs, o->root.owner);
	if (o->vol) {
		o->vol->cuts++;
		return;
	}
	TAILQ_FOREACH_REVERSE (other, &fs->volumes->orphans, orphan_list, link)
		if (other->id == o->root.owner)
			o->deleted = other;
}

int orphan_add_item(struct fs *fs, uint64_t id, struct value value)
{
	struct orphan_fields item;
	const char *doubt;
	struct orphan *o;

	if (orphan_item_unpack(id, value, &item, &doubt))
		return -EUCLEAN;
	o = mem_zalloc(sizeof(*o));
	if (!o)
		return -ENOMEM;
	o->id = id;
	o->root = item.root;
	o->used_blocks = item.used_blocks;
	o->progress = item.progress;
	o->in_tree = true;
	add_to_sums(fs, &o->root);
	if (o->root.owner == id) {
		TAILQ_INSERT_TAIL(&fs->volumes->orphans, o, link);
	} else {
		find_owner(fs, o);
		TAILQ_INSERT_HEAD(&fs->volumes->orphans, o, link);
	}
	atomic_fetch_add(&fs->orphans, 1);
	return 0;
}

/* ---- pendings -------------------------------------------------------------- */

void volume_set_dirty_locked(struct fs_volume *vol)
{
	struct volume_table *t = vol->fs->volumes;

	lock_assert_held(&vol->lock);
	lock_take(&t->dirty_lock);
	if (!vol->dirty_listed) {
		vol->dirty_listed = true;
		vol->running_generation = atomic_load(&vol->fs->running_generation);
		volume_ref(vol);
		TAILQ_INSERT_TAIL(&t->dirty, vol, dirty_link);
	}
	lock_drop(&t->dirty_lock);
}

static void set_unlogged_locked(struct fs_volume *vol)
{
	struct volume_table *t = vol->fs->volumes;

	if (vol->log_listed)
		return;
	lock_take(&t->dirty_lock);
	vol->log_listed = true;
	volume_ref(vol);
	TAILQ_INSERT_TAIL(&t->unlogged, vol, log_link);
	lock_drop(&t->dirty_lock);
}

void volume_note_freed_locked(struct fs_volume *vol, uint64_t generation, uint64_t bytes)
{
	struct volume_table *t = vol->fs->volumes;
	unsigned set = pins_set(vol->fs->pins, generation);

	lock_assert_held(&vol->lock);
	if (vol->freed_bytes[set] == 0 && bytes) {
		volume_ref(vol);
		lock_take(&t->dirty_lock);
		SLIST_INSERT_HEAD(&t->freed[set], vol, freed_link[set]);
		lock_drop(&t->dirty_lock);
	}
	vol->freed_bytes[set] += bytes;
}

static void pin_replaced(void *arg, uint64_t addr, uint64_t nblk)
{
	struct fs_volume *vol = arg;

	volume_note_freed_locked(vol, vol->running_generation, nblk * FS_BLOCK_SIZE);
	block_group_pin(vol->fs, addr, nblk * FS_BLOCK_SIZE, vol->running_generation);
}

/*
 * A pending was put into the running overlay of a volume that is on the list of dirty ones: only then is what
 * a freeze takes for frozen certain to be.
 */
static void note_log(struct volume_table *t, uint64_t extents, uint64_t blocks)
{
	atomic_fetch_add(&t->log_bytes, extents * 120 + blocks * 4);
}

void volume_insert_locked(struct fs_volume *vol, struct pending *p, struct pending **spare)
{
	uint64_t blocks = p->addr ? p->nblk : 0;

	if (!vol->dirty_listed)
		volume_set_dirty_locked(vol);
	p->gen = vol->running_generation;
	overlay_insert(&vol->running, p, spare, pin_replaced, vol);
	set_unlogged_locked(vol);
	/* last: a group that is built meanwhile takes what is counted off, not what is listed later */
	note_log(vol->fs->volumes, 1, blocks);
}

static void release_freed(struct fs_volume *vol, unsigned which)
{
	uint64_t freed;

	lock_take(&vol->lock);
	freed = vol->freed_bytes[which];
	vol->freed_bytes[which] = 0;
	lock_drop(&vol->lock);
	if (freed)
		space_promise_allocated(vol->fs, &vol->promise, -(int64_t)freed);
}

void volume_release_freed(struct fs *fs, unsigned set)
{
	struct fs_volume *vol;

	while ((vol = take_freed(fs->volumes, set))) {
		release_freed(vol, set);
		volume_unref(vol);
	}
}

/* ---- look-up --------------------------------------------------------------- */

/* The overlays' answer; false: neither knows, and up to *max blocks are to be looked for in *ret_root. */
static bool lookup_overlays(struct fs_volume *vol, uint64_t blk, uint64_t *max,
			    struct volume_piece *ret_piece, uint32_t *crc, struct tree_root *ret_root)
{
	struct overlay_piece op;

	lock_take(&vol->lock);
	overlay_lookup(&vol->running, blk, &op);
	if (!op.found) {
		*max = min_u64(*max, op.nblk);
		overlay_lookup(&vol->committing, blk, &op);
	}
	*max = min_u64(*max, op.nblk);
	if (op.found) {
		*ret_piece = (struct volume_piece){.addr = op.addr, .nblk = *max, .generation = op.gen};
		if (op.addr && crc)
			memcpy(crc, op.crc, *max * sizeof(*crc));
	} else {
		*ret_root = vol->root;
	}
	lock_drop(&vol->lock);
	return op.found;
}

/* Once for each node: what cannot be read of the volume for its sake. */
static void tell_lost(struct fs_volume *vol, uint64_t blk, const struct extent_piece *ep)
{
	uint64_t size = atomic_load(&vol->size) / FS_BLOCK_SIZE,
		 end = ep->nblk < size - min_u64(size, blk) ? blk + ep->nblk : size;

	fs_log(vol->fs, FS_LOG_ERROR,
	       "volume %s, offset %llu, length %llu: cannot be read: no copy of a node of its tree is good",
	       volume_get_name(vol).text, (unsigned long long)ep->lost_blk * FS_BLOCK_SIZE,
	       (unsigned long long)(end - min_u64(end, ep->lost_blk)) * FS_BLOCK_SIZE);
}

int volume_lookup(struct fs_volume *vol, struct device_queue *q, uint64_t blk, uint64_t max,
		  struct volume_piece *ret_piece, uint32_t *crc)
{
	struct tree_root root;
	struct extent_piece ep;
	int r;

	if (lookup_overlays(vol, blk, &max, ret_piece, crc, &root))
		return 0;
	r = extent_lookup(vol->fs, q, &root, blk, &ep);
	if (r)
		return r;
	if (ep.lost_node && bad_nodes_note(vol->fs->bad_nodes, ep.lost_node, 1))
		tell_lost(vol, blk, &ep);
	max = min_u64(max, ep.nblk);
	*ret_piece = (struct volume_piece){
		.addr = ep.addr, .nblk = max, .lost = ep.lost, .generation = ep.generation};
	for (uint64_t i = 0; ep.addr && crc && i < max; i++)
		crc[i] = le32_to_cpu(ep.crc[i]);
	cache_put(vol->fs->cache, ep.entry);
	return 0;
}
