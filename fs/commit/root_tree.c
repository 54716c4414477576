/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/commit/root_tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/le.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/commit/transaction.h"
#include "fs/core/fs_int.h"
#include "fs/format/volume_format.h"
#include "fs/tree/node.h"
#include "fs/tree/tree.h"
#include "fs/volume/volume.h"

#define ROOT_KEY_LEN 9u

/* ---- at open --------------------------------------------------------------- */

int root_tree_read(struct fs *fs)
{
	struct tree_iter it;
	int r;

	tree_iter_init(&it, fs, fs->commit_q, fs->root_tree);
	r = tree_iter_first(&it);
	while (r == 0 && it.valid) {
		struct key key = tree_iter_key(&it);
		uint64_t be;

		if (key.len != ROOT_KEY_LEN) {
			r = -EUCLEAN;
			break;
		}
		memcpy(&be, key.data + 1, sizeof(be));
		if (key.data[0] == VOLUME_KEY_TYPE)
			r = volume_add_item(fs, be64toh(be), tree_iter_value(&it));
		else if (key.data[0] == ORPHAN_KEY_TYPE)
			r = orphan_add_item(fs, be64toh(be), tree_iter_value(&it));
		else
			r = -EUCLEAN;
		if (r == 0)
			r = tree_iter_next(&it);
	}
	tree_iter_fini(&it);
	return r;
}

/* ---- in a commit ----------------------------------------------------------- */

struct root_change {
	uint8_t key[ROOT_KEY_LEN];
	uint16_t len; /* 0: delete */
	uint8_t value[VOLUME_ITEM_MAX];
};

static void pack_root_key(struct root_change *rc, uint8_t type, uint64_t id)
{
	uint64_t be = htobe64(id);

	rc->key[0] = type;
	memcpy(rc->key + 1, &be, sizeof(be));
}

static void pack_volume(struct root_change *rc, struct fs_volume *vol)
{
	const struct volume_text *name = vol->frozen_name, *comment = vol->frozen_comment;
	struct volume_item item = {
		.size = cpu_to_le64(vol->frozen_size),
		.used_blocks = cpu_to_le64(vol->new_used_blocks),
		.lost_blocks = cpu_to_le64(vol->new_lost_blocks),
		.ctime_ns = cpu_to_le64((uint64_t)vol->ctime_ns),
		.flags = cpu_to_le32(vol->frozen_flags),
		.name_len = name->len,
		.comment_len = comment ? comment->len : 0,
	};

	pack_root_key(rc, VOLUME_KEY_TYPE, vol->id);
	if (vol->frozen_deleted)
		return;
	tree_root_pack(&vol->new_root, &item.root);
	memcpy(item.uuid, vol->uuid, sizeof(item.uuid));
	memcpy(rc->value, &item, sizeof(item));
	memcpy(rc->value + sizeof(item), name->text, name->len);
	if (comment)
		memcpy(rc->value + sizeof(item) + name->len, comment->text, comment->len);
	rc->len = (uint16_t)(sizeof(item) + name->len + item.comment_len);
}

static void pack_orphan(struct root_change *rc, const struct orphan *o)
{
	struct orphan_item item = {.used_blocks = cpu_to_le64(o->new_used_blocks),
				   .progress = cpu_to_le64(o->new_progress),
				   .owner = cpu_to_le64(o->root.owner)};

	pack_root_key(rc, ORPHAN_KEY_TYPE, o->id);
	if (o->done)
		return;
	tree_root_pack(&o->new_root, &item.root);
	memcpy(rc->value, &item, sizeof(item));
	rc->len = sizeof(item);
}

static int by_key(const void *a, const void *b)
{
	return memcmp(a, b, ROOT_KEY_LEN);
}

static int apply_changes(struct transaction *txn, struct root_change *rc, struct tree_keyed_change *change,
			 size_t cap)
{
	struct tree_keyed_changes changes;
	struct fs_volume *vol;
	struct orphan *o;
	size_t n = 0;

	TAILQ_FOREACH (vol, &txn->frozen, frozen_link)
		pack_volume(&rc[n++], vol);
	TAILQ_FOREACH (o, &txn->touched, touched_link)
		pack_orphan(&rc[n++], o);
	ASSERT(n == cap);
	qsort(rc, n, sizeof(*rc), by_key);
	for (size_t i = 0; i < n; i++) {
		change[i].key = (struct key){rc[i].key, ROOT_KEY_LEN};
		change[i].value = (struct value){rc[i].len ? rc[i].value : NULL, rc[i].len};
	}
	tree_keyed_changes_init(&changes, change, n);
	return tree_apply(&txn->store, &txn->root_tree, &changes.base);
}

int root_tree_update(struct transaction *txn)
{
	struct root_change *rc;
	struct tree_keyed_change *change;
	struct fs_volume *vol;
	struct orphan *o;
	size_t n = 0;
	int r = -ENOMEM;

	TAILQ_FOREACH (vol, &txn->frozen, frozen_link)
		n++;
	TAILQ_FOREACH (o, &txn->touched, touched_link)
		n++;
	if (n == 0)
		return 0;
	rc = mem_zalloc(n * sizeof(*rc));
	change = mem_zalloc(n * sizeof(*change));
	if (rc && change)
		r = apply_changes(txn, rc, change, n);
	mem_free(rc);
	mem_free(change);
	return r;
}
