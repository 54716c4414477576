/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/commit/root_tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/util.h"
#include "fs/commit/transaction.h"
#include "fs/core/fs_int.h"
#include "fs/format/key.h"
#include "fs/format/volume_format.h"
#include "fs/tree/tree.h"
#include "fs/volume/volume.h"

/* ---- at open --------------------------------------------------------------- */

int root_tree_read(struct fs *fs)
{
	struct tree_iter it;
	int r;

	tree_iter_init(&it, fs, fs->commit_q, fs->root_tree);
	r = tree_iter_first(&it);
	while (r == 0 && it.valid) {
		uint64_t id;
		uint8_t type;

		r = key_unpack(tree_iter_key(&it), &type, &id);
		if (r == 0 && type == VOLUME_KEY_TYPE)
			r = volume_add_item(fs, id, tree_iter_value(&it));
		else if (r == 0 && type == ORPHAN_KEY_TYPE)
			r = orphan_add_item(fs, id, tree_iter_value(&it));
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
	uint8_t key[ITEM_KEY_LEN];
	uint16_t len; /* 0: delete */
	uint8_t value[VOLUME_ITEM_MAX];
};

static void pack_label(const struct volume_text *text, struct volume_label *ret_label)
{
	ret_label->len = text->len;
	memcpy(ret_label->text, text->text, text->len);
}

static void pack_volume(struct root_change *rc, struct fs_volume *vol)
{
	struct volume_fields item = {.id = vol->id,
				     .root = vol->new_root,
				     .size = vol->frozen_size,
				     .used_blocks = vol->new_used_blocks,
				     .lost_blocks = vol->new_lost_blocks,
				     .ctime_ns = (uint64_t)vol->ctime_ns,
				     .flags = vol->frozen_flags};

	key_pack(rc->key, VOLUME_KEY_TYPE, vol->id);
	if (vol->frozen_deleted)
		return;
	memcpy(item.uuid, vol->uuid, sizeof(item.uuid));
	pack_label(vol->frozen_name, &item.name);
	if (vol->frozen_comment)
		pack_label(vol->frozen_comment, &item.comment);
	rc->len = volume_item_pack(&item, rc->value);
}

static void pack_orphan(struct root_change *rc, const struct orphan *o)
{
	struct orphan_fields item = {.id = o->id,
				     .root = o->new_root,
				     .used_blocks = o->new_used_blocks,
				     .progress = o->new_progress};

	key_pack(rc->key, ORPHAN_KEY_TYPE, o->id);
	if (o->done)
		return;
	item.root.owner = o->root.owner;
	rc->len = orphan_item_pack(&item, rc->value);
}

static int by_key(const void *a, const void *b)
{
	return memcmp(a, b, ITEM_KEY_LEN);
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
		change[i].key = (struct key){rc[i].key, ITEM_KEY_LEN};
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
