/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/volume/volume.h: volumes: their pending changes, their committed trees, and the table of all volumes.
 *
 * Invariants
 * 1. A block's newest state is in `running`; if not, in `committing` (while a commit is under way); if not,
 *    in the tree at `root`. The three change together under the volume's lock, so a look-up under it is
 *    consistent.
 * 2. A volume with anything in `running`, or with meta_dirty, is on the list of dirty volumes.
 * 3. A volume with unlogged pendings is on the log's list.
 * 4. size is a multiple of FS_BLOCK_SIZE; no extent lies beyond it in any overlay or tree of one generation.
 *
 * Growth: each volume takes about 0.9 KiB of memory for as long as the pool is open, and a start reads and
 * sorts the items of all of them. Finding one is logarithmic. A commit, a flush and replay look only at
 * volumes that changed.
 */
#ifndef FS_VOLUME_VOLUME_H
#define FS_VOLUME_VOLUME_H

#include <bsd/sys/queue.h>
#include <bsd/sys/tree.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/lock.h"
#include "fs/format/node_format.h"
#include "fs/fs.h"
#include "fs/space/space_info.h"
#include "fs/volume/extent_state.h"
#include "fs/volume/overlay.h"

struct device_queue;
struct fs;
struct value;
struct volume_touches;

/* A name or a comment: shared by a volume and the commit that writes it; never changed. */
struct volume_text {
	_Atomic uint32_t refs;
	uint8_t len; /* not 0 */
	char text[]; /* with a final zero */
};

struct log_create;
struct log_rename;
struct log_resize;
struct log_set;

struct fs_volume {
	struct fs *fs;
	uint64_t id;
	_Atomic uint32_t refs; /* the table's, handles, lists */

	/* volume table lock */
	RB_ENTRY(fs_volume) by_name, by_id;
	uint32_t handles;
	struct volume_text *name; /* also stable under the volume's lock */
	bool hidden;		  /* not durable yet, or being deleted: nobody may open it */
	bool busy;		  /* an operation is under way that others on this volume wait for */
	bool shrinking;		  /* nobody may open it now */
	uint64_t counted_size;	  /* its part of the table's `sizes` */

	_Atomic uint32_t flags;	     /* enum fs_volume_flags; changes under the volume's lock */
	struct volume_text *comment; /* likewise; NULL: none */
	int64_t ctime_ns;
	uint8_t uuid[FS_UUID_LEN];

	struct extent_state_tree states;

	struct lock lock;
	_Atomic uint64_t size;
	uint64_t grown_size; /* the size once growth is durable; 0: it is not growing */
	struct overlay running, committing;
	uint64_t running_generation; /* of `running`, valid when it is on the dirty list */
	struct tree_root root;
	uint64_t used_blocks;		/* of root */
	_Atomic uint64_t lost_blocks;	/* of root */
	uint64_t tree_end;		/* in blocks: root has no extent at or past it */
	struct volume_touches *touches; /* NULL: none (volume_touch.h) */
	bool meta_dirty, deleted;
	bool buried; /* a commit has made an orphan of it */
	/*
	 * by set of pins: stops being the volume's when the set is released; if not 0, the volume is on the
	 * list `freed`
	 */
	uint64_t freed_bytes[2];

	struct space_promise promise; /* the lock of struct space_info */

	/* LOCK_DIRTY_VOLUMES */
	bool dirty_listed, log_listed;
	TAILQ_ENTRY(fs_volume) dirty_link, log_link;
	SLIST_ENTRY(fs_volume) freed_link[2];

	/* The committer's copy, as of the freeze. */
	TAILQ_ENTRY(fs_volume) frozen_link;
	uint64_t frozen_size;
	uint32_t frozen_flags;
	struct volume_text *frozen_name, *frozen_comment;
	struct volume_touches *frozen_touches;
	bool frozen_deleted;
	uint64_t frozen_generation; /* of the commit that did that last */
	unsigned cuts;		    /* orphans that were cut out of its tree */
	struct tree_root new_root;
	uint64_t new_used_blocks, new_lost_blocks, new_freed_blocks;
};

RB_HEAD(volume_tree, fs_volume);
RB_HEAD(volume_id_tree, fs_volume);
TAILQ_HEAD(volume_list, fs_volume);
SLIST_HEAD(volume_stack, fs_volume);

/*
 * A tree whose space is being freed, some leaves in each commit: a deleted volume's, or a part cut out of a
 * volume's tree. The committer's.
 */
struct orphan {
	TAILQ_ENTRY(orphan) link, touched_link;
	uint64_t id; /* of its item: the deleted volume's, or one of its own */
	/* counts are of what is left; 0 for a part cut out, whose counts are the volume's */
	struct tree_root root;
	uint64_t used_blocks;	/* likewise */
	uint64_t progress;	/* first block that is not yet freed */
	bool in_tree;		/* the root tree has an item for it */
	struct fs_volume *vol;	/* it was cut out of; NULL: of none, or that is deleted: */
	struct orphan *deleted; /* what became of the volume */
	/* what the commit under way makes of it: */
	bool touched;
	struct tree_root new_root;
	uint64_t new_progress, new_used_blocks;
	struct orphan *new_deleted;
	bool done;
};
TAILQ_HEAD(orphan_list, orphan);

struct volume_table {
	struct lock op_lock; /* one growth of the pool, or promise, at a time */
	struct lock lock;
	pthread_cond_t idle_cond; /* a volume is not busy any more */
	struct volume_tree by_name;
	struct volume_id_tree by_id; /* the same ones */
	_Atomic uint64_t dying;	     /* of space_info's volumes, deleted ones */
	/*
	 * An upper bound of what running overlays, and operations, take in the next group of the flush log,
	 * which takes it off.
	 */
	_Atomic uint64_t log_bytes;
	/*
	 * Of all volumes that are not deleted, together, as of the last finished operation on each. The
	 * table's lock.
	 */
	unsigned __int128 sizes;
	struct lock dirty_lock;
	struct volume_list dirty;     /* changes for the next commit */
	struct volume_list unlogged;  /* pendings for the next flush */
	struct volume_stack freed[2]; /* volumes with freed_bytes, by set of pins */
	/* The committer's. A part cut out comes before the deleted volume that it was cut out of. */
	struct orphan_list orphans;
};

void volume_table_init(struct fs *fs);
void volume_table_fini(struct fs *fs);

/* From the root tree, at open. -EUCLEAN on impossible items. */
int volume_add_item(struct fs *fs, uint64_t id, struct value value);
/* After all volumes. */
int orphan_add_item(struct fs *fs, uint64_t id, struct value value);
/* By id, for replay. NULL: none. No reference is taken. */
struct fs_volume *volume_by_id(struct fs *fs, uint64_t id);
/* The same with a reference: the volume stays until volume_unref even if it is deleted meanwhile. */
struct fs_volume *volume_get_by_id(struct fs *fs, uint64_t id);

/* `len` bytes, 1 to 255, that need no final zero. NULL: no memory. */
struct volume_text *volume_text_new(const char *text, uint8_t len);
/* Both accept NULL. */
struct volume_text *volume_text_get(struct volume_text *text);
void volume_text_put(struct volume_text *text);
/* Its name, in the caller's memory: for messages. Without the volume's lock. */
struct volume_name {
	char text[FS_NAME_MAX + 1];
};
struct volume_name volume_get_name(struct fs_volume *vol);

/* Operations from the flush log, at open. -EUCLEAN: they contradict the volumes that there are. */
int volume_replay_create(struct fs *fs, const struct log_create *lc);
int volume_replay_delete(struct fs *fs, uint64_t id);
int volume_replay_rename(struct fs *fs, const struct log_rename *lr);
int volume_replay_resize(struct fs *fs, const struct log_resize *lr);
int volume_replay_set(struct fs *fs, const struct log_set *ls);

static inline void volume_ref(struct fs_volume *vol)
{
	atomic_fetch_add(&vol->refs, 1);
}
void volume_unref(struct fs_volume *vol);

/* Blocks of the volume's are pinned in a transaction of that generation. */
void volume_note_freed_locked(struct fs_volume *vol, uint64_t generation, uint64_t bytes);
/*
 * A set of pins is released: what volumes freed in it no longer counts as allocated to them. Cost: one step
 * for each of these volumes. The committer.
 */
void volume_release_freed(struct fs *fs, unsigned set);

/* Puts the volume on the dirty list and sets the generation that its changes now belong to. */
void volume_set_dirty_locked(struct fs_volume *vol);

/*
 * Puts a pending into the running overlay, pinning what it replaces there. Sets p->gen. Takes p and may take
 * *spare (see overlay_insert).
 */
void volume_insert_locked(struct fs_volume *vol, struct pending *p, struct pending **spare);

/* Where one piece of a volume is. */
struct volume_piece {
	uint64_t addr; /* 0: a hole, or lost */
	uint64_t nblk; /* 1 to the number asked for */
	bool lost;     /* its content is lost: it cannot be read */
	uint64_t generation;
};

/*
 * Looks up blk and up to max blocks from there. crc (room for max; may be NULL) gets the checksums of a piece
 * that has an address. The caller is in an epoch. With q NULL: -EAGAIN if a node is not in the cache.
 */
int volume_lookup(struct fs_volume *vol, struct device_queue *q, uint64_t blk, uint64_t max,
		  struct volume_piece *ret_piece, uint32_t *crc);

#endif
