/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/ops/volume_op_int.h: an operation on a volume under way. volume_change.c begins and ends each,
 * volume_op.c creates, deletes and renames, volume_resize.c resizes, volume_set.c sets flags and comments.
 *
 * An operation first takes what can fail or has to be waited for: memory, room in the metadata, a reserved
 * volume's promise. Then it changes memory and puts its record on the flush log's list, in one step under the
 * log's lock and the volume's (volume_op_change_locked); that is its place in the order of all changes. Then
 * it waits as a flush does. If the log has no room, or the log group fails, the next commit answers it.
 *
 * Invariants
 * 1. Memory changes only when nothing but the device can still fail. After that the operation is answered
 *    with an error only if the pool has become read-only.
 * 2. Nothing durable can build on something that is not: everything goes through one list, in order.
 * 3. A name is taken from the moment that an operation claims it for a volume, and free again when the
 *    volume's deletion is durable. Ids are never used again, not even those of operations that failed or that
 *    replay found.
 * 4. A volume has at most one operation under way that others have to wait for (busy: RESIZE, SET). While it
 *    is being created or deleted, nobody finds it (hidden).
 */
#ifndef FS_OPS_VOLUME_OP_INT_H
#define FS_OPS_VOLUME_OP_INT_H

#include "fs/commit/flush_log.h"
#include "fs/format/flush_log_format.h"
#include "fs/space/space_info.h"

struct fs;
struct fs_error;
struct fs_volume;
struct fs_volume_op;
struct volume_table;
struct volume_text;

struct volume_op {
	struct fs *fs;
	struct fs_volume_op *user;
	struct fs_volume *vol; /* a reference, from the change on */
	struct space_reservation res;
	struct flush_waiter wait;
	struct log_op log;
	/* RENAME, SET: the text that replaces the old one, later the old one; or NULL */
	struct volume_text *text;
	/* runs when it is durable or the pool is read-only; any thread, no lock of a volume held */
	void (*finish)(struct volume_op *op, int error);
};

/* Takes memory and room in the metadata (flags: enum space_flags). Waits. 0, or err is filled in. */
int volume_op_begin(struct fs *fs, struct fs_volume_op *user, uint32_t flags, struct volume_op **ret_op);
/* Gives back what begin took, when nothing was changed. */
void volume_op_cancel(struct volume_op *op);
/*
 * The volume was changed. The log's lock and the volume's are held, and op->log has all but its head; bytes:
 * of the record, with its name. Takes a reference.
 */
void volume_op_change_locked(struct volume_op *op, struct fs_volume *vol, enum log_item_type type,
			     uint64_t bytes);
/* Waits in the background until it is durable; then come finish and the user's done. */
void volume_op_send(struct volume_op *op);

/*
 * With the table's lock held: the volume once it is neither hidden nor busy. Waits for that. NULL: there is
 * none.
 */
struct fs_volume *volume_find_idle_locked(struct volume_table *t, const char *name);
/*
 * Promises space for all of a volume of this size, if the flags say that it is reserved. Waits. 0, or
 * user->err says why not.
 */
int volume_set_promise(struct fs_volume_op *user, struct fs_volume *vol, uint32_t flags, uint64_t size);
int volume_no_such(struct fs_error *err, const char *name);
int volume_check_size(struct fs_error *err, const char *name, uint64_t size);

/* The volume with a reference, and busy: others on it wait until volume_set_idle. -ENOENT, -EROFS. */
int volume_get_busy(struct fs *fs, const char *name, struct fs_volume **ret_vol, struct fs_error *err);
void volume_set_idle(struct fs_volume *vol);
int volume_bad_name(struct fs_error *err, const char *name);

/* 0: it is on its way; else the caller answers. */
int volume_resize_start(struct fs *fs, struct fs_volume_op *user);
int volume_set_start(struct fs *fs, struct fs_volume_op *user);

#endif
