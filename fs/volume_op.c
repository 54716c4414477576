/* SPDX-License-Identifier: BSD-3-Clause */
/* fs/volume_op.c: what users do to volumes: create, delete, rename, resize. Looking at them: volume_look.c. */
#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/mem.h"
#include "base/text.h"
#include "base/util.h"
#include "fs/fs_int.h"
#include "fs/transaction.h"
#include "fs/volume_int.h"

bool fs_name_is_valid(const char *name)
{
	size_t len = strlen(name);

	if (len < 1 || len > FS_NAME_MAX || name[0] == '.' || name[0] == '-')
		return false;
	for (size_t i = 0; i < len; i++) {
		char c = name[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
		      c == '-'))
			return false;
	}
	return true;
}

static int bad_name(struct fs_error *err, const char *name)
{
	return fs_fail(err, -EINVAL, "volume %.64s: not a valid name: 1 to 255 letters, digits, '.', '_', '-', not starting with '.' or '-'",
		       name);
}

static int check_size(struct fs_error *err, const char *name, uint64_t size)
{
	if (size == 0 || size % FS_BLOCK_SIZE || size > FS_VOLUME_SIZE_MAX)
		return fs_fail(err, -EINVAL, "volume %s: size %llu is not a multiple of 4 KiB from 4 KiB to 8 EiB less 4 KiB", name,
			       (unsigned long long)size);
	return 0;
}

/* ---- reservations that wait ------------------------------------------------ */

struct waiting {
	struct space_ticket ticket;
	struct fs *fs;
	bool done;
	int error;
};

static void ticket_done(struct space_ticket *t, int error)
{
	struct waiting *w = container_of(t, struct waiting, ticket);

	lock_take(&w->fs->state_lock);
	w->error = error;
	w->done = true;
	pthread_cond_broadcast(&w->fs->done_cond);
	lock_drop(&w->fs->state_lock);
}

/* Room in the metadata for a change to the root tree. Waits. The commit that carries it out takes it over. */
static int reserve_change(struct fs *fs, uint32_t flags, struct space_reservation *ret_res)
{
	struct waiting w = {.fs = fs, .ticket = {.want = {0, {1, 1024 + (flags & SPACE_FREEING ? space_cut_bytes(fs, UINT64_MAX) : 0)}, NULL}, .flags = flags, .done = ticket_done}};
	int r = space_reserve(fs, &w.ticket);

	if (r == -EINPROGRESS && fs->simulated) {
		while (!w.done && (work_run_one(&fs->work) || transaction_commit(fs) == 0))
			;
		r = w.done ? w.error : -EROFS;
	} else if (r == -EINPROGRESS) {
		lock_take(&fs->state_lock);
		while (!w.done)
			lock_wait(&fs->state_lock, &fs->done_cond);
		lock_drop(&fs->state_lock);
		r = w.error;
	}
	if (r == 0)
		*ret_res = w.ticket.want;
	return r;
}

static void set_meta_dirty_locked(struct fs_volume *vol)
{
	vol->meta_dirty = true;
	volume_set_dirty_locked(vol);
}

/* The volume is dirty. */
static int commit_dirty(struct fs *fs, struct space_reservation *res)
{
	space_pend(fs, res, res->pending);
	return fs_commit(fs);
}

static int commit_change(struct fs *fs, struct fs_volume *vol, struct space_reservation *res)
{
	lock_take(&vol->lock);
	set_meta_dirty_locked(vol);
	lock_drop(&vol->lock);
	return commit_dirty(fs, res);
}

/* ---- create ---------------------------------------------------------------- */

static int add_volume(struct fs *fs, const char *name, uint64_t size, uint32_t flags, struct fs_volume **ret_vol)
{
	struct fs_volume *vol = volume_new(fs, atomic_fetch_add(&fs->next_id, 1), name);
	struct timespec now;
	bool ok;

	if (!vol)
		return -ENOMEM;
	clock_gettime(CLOCK_REALTIME, &now);
	vol->ctime_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
	vol->flags = flags;
	vol->hidden = true;
	atomic_store(&vol->size, size);
	if (getrandom(vol->uuid, sizeof(vol->uuid), 0) != sizeof(vol->uuid))
		memcpy(vol->uuid, &vol->id, sizeof(vol->id));
	lock_take(&fs->volumes.lock);
	ok = volume_table_insert_locked(&fs->volumes, vol);
	lock_drop(&fs->volumes.lock);
	if (!ok) {
		volume_unref(vol);
		return -EEXIST;
	}
	*ret_vol = vol;
	return 0;
}

/*
 * What was trimmed or deleted a moment ago counts when it was committed and its pins are released: by two commits, as
 * readers may keep those of the first; a deleted volume goes piece by piece. 0, or -ENOSPC and what is missing then;
 * -EDQUOT when the host has no room for a sparse pool's data.
 */
static int promise(struct fs *fs, struct fs_volume *vol, uint64_t bytes, uint64_t *ret_missing)
{
	uint64_t before = UINT64_MAX;

	for (unsigned tries = 0;; tries++) {
		bool deleting = atomic_load(&fs->orphans);

		int r = backing_promise(fs, &vol->promise, bytes);

		if (r == 0 && space_set_promise(fs, &vol->promise, bytes, false, ret_missing) == 0)
			return 0;
		if (r)
			return r;
		if ((tries >= 2 && !(deleting && *ret_missing < before)) || fs_commit(fs))
			return -ENOSPC;
		before = *ret_missing;
	}
}

/* Sees to it that a reserved volume of this size can always be written; a thin one is promised nothing. */
static int set_promise(struct fs *fs, struct fs_volume *vol, uint64_t size, struct fs_error *err)
{
	uint64_t missing;

	int r;

	if (!(vol->flags & FS_VOLUME_RESERVED))
		return 0;
	r = promise(fs, vol, space_promise_for(size), &missing);
	if (r == 0)
		return 0;
	backing_promise_end(fs);
	if (r == -EDQUOT)
		return fs_fail(err, -ENOSPC, "volume %s: %llu bytes cannot be reserved: the pool is sparse, and the file system that it is on has no room for them: make room there, or create it thin",
			       vol->name, (unsigned long long)size);
	if (r != -ENOSPC)
		return fs_fail(err, r, "volume %s: %llu bytes cannot be reserved: %s", vol->name, (unsigned long long)size, strerror(-r));
	return fs_fail(err, -ENOSPC, "volume %s: %llu bytes cannot be reserved, %llu are missing: grow the pool, free space, or create it thin",
		       vol->name, (unsigned long long)size, (unsigned long long)missing);
}

static int create(struct fs *fs, const char *name, uint64_t size, uint32_t flags, struct fs_error *err)
{
	struct space_reservation res;
	struct fs_volume *vol;
	int r = reserve_change(fs, 0, &res);

	if (r)
		return fs_fail(err, r, "volume %s: cannot be created: %s", name, strerror(-r));
	r = add_volume(fs, name, size, flags, &vol);
	if (r) {
		space_unreserve(fs, &res);
		return fs_fail(err, r, r == -EEXIST ? "volume %s: exists already" : "volume %s: out of memory", name);
	}
	r = set_promise(fs, vol, size, err);
	if (r) {
		space_unreserve(fs, &res);
		lock_take(&fs->volumes.lock);
		volume_table_remove_locked(&fs->volumes, vol);
		lock_drop(&fs->volumes.lock);
		return r;
	}
	r = commit_change(fs, vol, &res);
	lock_take(&fs->volumes.lock);
	if (r)
		volume_table_remove_locked(&fs->volumes, vol);
	else
		vol->hidden = false;
	lock_drop(&fs->volumes.lock);
	return r ? fs_fail(err, r, "volume %s: cannot be created: the commit failed: %s", name, strerror(-r)) : 0;
}

int fs_volume_create(struct fs *fs, const char *name, uint64_t size, uint32_t flags, struct fs_error *err)
{
	int r;

	if (!fs_name_is_valid(name))
		return bad_name(err, name);
	r = check_size(err, name, size);
	if (r)
		return r;
	if (flags & FS_VOLUME_WRITEBACK)
		return fs_fail(err, -ENOTSUP, "volume %s: write-back volumes are not supported by this version: create it with --cache direct",
			       name);
	if (flags & ~(uint32_t)(FS_VOLUME_READ_ONLY | FS_VOLUME_RESERVED))
		return fs_fail(err, -EINVAL, "volume %s: unknown flags", name);
	if (fs_is_read_only(fs))
		return fs_fail(err, -EROFS, "volume %s: cannot be created: the pool is read-only", name);
	lock_take(&fs->volumes.op_lock);
	r = create(fs, name, size, flags, err);
	lock_drop(&fs->volumes.op_lock);
	return r;
}

/* ---- the other operations, each on an existing volume ---------------------- */

/* With a reference for the caller. */
static int find(struct fs *fs, const char *name, struct fs_volume **ret_vol, struct fs_error *err)
{
	struct fs_volume *vol;

	lock_take(&fs->volumes.lock);
	vol = volume_table_find_locked(&fs->volumes, name);
	if (vol && !vol->hidden)
		volume_ref(vol);
	else
		vol = NULL;
	lock_drop(&fs->volumes.lock);
	if (!vol)
		return fs_fail(err, -ENOENT, "volume %.255s: does not exist", name);
	if (fs_is_read_only(fs)) {
		volume_unref(vol);
		return fs_fail(err, -EROFS, "volume %s: cannot be changed: the pool is read-only", name);
	}
	*ret_vol = vol;
	return 0;
}

static int do_delete(struct fs *fs, struct fs_volume *vol, const char *name, struct fs_error *err)
{
	struct space_reservation res;
	bool busy;
	int r = reserve_change(fs, SPACE_FREEING, &res);

	if (r)
		return fs_fail(err, r, "volume %s: cannot be deleted: %s", name, strerror(-r));
	lock_take(&fs->volumes.lock);
	busy = vol->handles > 0;
	if (!busy) {
		vol->hidden = true; /* keeps its name until the commit */
		lock_take(&vol->lock);
		vol->deleted = true;
		set_meta_dirty_locked(vol); /* in one step: a commit that sees it as deleted must be the only one */
		lock_drop(&vol->lock);
	}
	lock_drop(&fs->volumes.lock);
	if (busy) {
		space_unreserve(fs, &res);
		return fs_fail(err, -EBUSY, "volume %s: in use by a client: disconnect it first", name);
	}
	r = commit_dirty(fs, &res);
	if (r)
		return fs_fail(err, r, "volume %s: cannot be deleted: the commit failed: %s", name, strerror(-r));
	(void)space_set_promise(fs, &vol->promise, 0, true, NULL);
	backing_promise_end(fs);
	lock_take(&fs->volumes.lock);
	volume_table_remove_locked(&fs->volumes, vol);
	lock_drop(&fs->volumes.lock);
	fs_kick_commit(fs); /* its space is freed by the next ones */
	return 0;
}

int fs_volume_delete(struct fs *fs, const char *name, struct fs_error *err)
{
	struct fs_volume *vol;
	int r;

	lock_take(&fs->volumes.op_lock);
	r = find(fs, name, &vol, err);
	if (r == 0) {
		r = do_delete(fs, vol, name, err);
		volume_unref(vol);
	}
	lock_drop(&fs->volumes.op_lock);
	return r;
}

static int do_rename(struct fs *fs, struct fs_volume *vol, const char *from, const char *to, struct fs_error *err)
{
	struct space_reservation res;
	bool taken;
	int r = reserve_change(fs, 0, &res);

	if (r)
		return fs_fail(err, r, "volume %s: cannot be renamed: %s", from, strerror(-r));
	lock_take(&fs->volumes.lock);
	taken = volume_table_find_locked(&fs->volumes, to) != NULL;
	if (!taken)
		volume_table_rename_locked(&fs->volumes, vol, to);
	lock_drop(&fs->volumes.lock);
	if (taken) {
		space_unreserve(fs, &res);
		return fs_fail(err, -EEXIST, "volume %s: exists already", to);
	}
	r = commit_change(fs, vol, &res);
	return r ? fs_fail(err, r, "volume %s: cannot be renamed: the commit failed: %s", from, strerror(-r)) : 0;
}

int fs_volume_rename(struct fs *fs, const char *from, const char *to, struct fs_error *err)
{
	struct fs_volume *vol;
	int r;

	if (!fs_name_is_valid(to))
		return bad_name(err, to);
	lock_take(&fs->volumes.op_lock);
	r = find(fs, from, &vol, err);
	if (r == 0) {
		r = do_rename(fs, vol, from, to, err);
		volume_unref(vol);
	}
	lock_drop(&fs->volumes.op_lock);
	return r;
}

/*
 * What lies beyond the new end goes in the same step as the size: no commit sees one without the other. Requests
 * that are under way there are waited for; later ones find the new size.
 * A volume that grows shows its new size only after the commit: the flush log must not name blocks that
 * the committed volume does not have. And while one shrinks, the log is not used: should the commit not happen, then
 * neither may the hole, nor may a flush have left out what stands in its place.
 */
static int set_size(struct fs *fs, struct fs_volume *vol, uint64_t size)
{
	uint64_t old = atomic_load(&vol->size);
	struct pending *p = NULL, *spare = NULL;
	struct extent_lock lk;
	int r = 0;

	if (size < old) {
		p = pending_new((old - size) / FS_BLOCK_SIZE, false);
		r = p ? overlay_insert_prealloc(&spare) : -ENOMEM;
		if (r) {
			pending_free(p);
			return r;
		}
		p->blk = size / FS_BLOCK_SIZE;
		extent_lock_init(&lk, size, old, 0, NULL);
		lock_extent(&vol->states, &lk);
	}
	lock_take(&fs->log.lock);
	if (p)
		flush_log_suspend_locked(fs);
	lock_take(&vol->lock);
	if (size > old)
		vol->grown_size = size;
	else
		atomic_store(&vol->size, size);
	if (p)
		volume_insert_locked(vol, p, &spare);
	lock_drop(&vol->lock);
	lock_drop(&fs->log.lock);
	if (p)
		unlock_extent(&vol->states, &lk);
	pending_free(spare);
	return 0;
}

static int do_resize(struct fs *fs, struct fs_volume *vol, const char *name, uint64_t size, struct fs_error *err)
{
	struct space_reservation res;
	int r = reserve_change(fs, size < atomic_load(&vol->size) ? SPACE_FREEING : 0, &res);

	if (r)
		return fs_fail(err, r, "volume %s: cannot be resized: %s", name, strerror(-r));
	if (size > atomic_load(&vol->size)) {
		r = set_promise(fs, vol, size, err);
		if (r) {
			space_unreserve(fs, &res);
			return r;
		}
	}
	r = set_size(fs, vol, size);
	if (r) {
		space_unreserve(fs, &res);
		return fs_fail(err, r, "volume %s: cannot be resized: %s", name, strerror(-r));
	}
	r = commit_change(fs, vol, &res);
	if (r)
		return fs_fail(err, r, "volume %s: cannot be resized: the commit failed: %s", name, strerror(-r));
	lock_take(&vol->lock);
	atomic_store(&vol->size, size);
	vol->grown_size = 0;
	lock_drop(&vol->lock);
	if (vol->flags & FS_VOLUME_RESERVED)
		(void)space_set_promise(fs, &vol->promise, space_promise_for(size), true, NULL);
	return 0;
}

int volume_resize_begin(struct fs_volume *vol, uint64_t size, bool may_shrink, struct fs_error *err)
{
	struct fs *fs = vol->fs;
	uint64_t old = atomic_load(&vol->size);
	bool busy;

	if (size >= old)
		return 0;
	if (!may_shrink)
		return fs_fail(err, -EINVAL, "volume %s: not made smaller: what lies behind %llu bytes (of %llu) would be lost: if that is meant, say --shrink",
			       vol->name, (unsigned long long)size, (unsigned long long)old);
	lock_take(&fs->volumes.lock);
	busy = vol->handles > 0;
	vol->shrinking = !busy;
	lock_drop(&fs->volumes.lock);
	return busy ? fs_fail(err, -EBUSY, "volume %s: not made smaller: in use by a client: disconnect it first", vol->name) : 0;
}

void volume_resize_end(struct fs_volume *vol)
{
	lock_take(&vol->fs->volumes.lock);
	vol->shrinking = false;
	lock_drop(&vol->fs->volumes.lock);
}

int fs_volume_set_size(struct fs *fs, const char *name, uint64_t size, bool may_shrink, struct fs_error *err)
{
	struct fs_volume *vol;
	int r = check_size(err, name, size);

	if (r)
		return r;
	lock_take(&fs->volumes.op_lock);
	r = find(fs, name, &vol, err);
	if (r == 0) {
		r = volume_resize_begin(vol, size, may_shrink, err);
		if (r == 0) {
			r = do_resize(fs, vol, name, size, err);
			volume_resize_end(vol);
		}
		volume_unref(vol);
	}
	lock_drop(&fs->volumes.op_lock);
	return r;
}

int fs_volume_resize(struct fs *fs, const char *name, uint64_t size, struct fs_error *err)
{
	struct fs_volume *vol;
	int r = check_size(err, name, size);

	if (r)
		return r;
	lock_take(&fs->volumes.op_lock);
	r = find(fs, name, &vol, err);
	if (r == 0) {
		r = do_resize(fs, vol, name, size, err);
		volume_unref(vol);
	}
	lock_drop(&fs->volumes.op_lock);
	return r;
}

/* ---- set ------------------------------------------------------------------- */

/* What a commit writes later; returns what is to be dropped. */
static struct volume_comment *change_item(struct fs_volume *vol, const struct fs_volume_change *change,
					  struct volume_comment *comment)
{
	struct volume_comment *old = comment;

	lock_take(&vol->lock);
	atomic_store(&vol->flags, (atomic_load(&vol->flags) | change->set) & ~change->clear);
	if (change->comment) {
		old = vol->comment;
		vol->comment = comment;
	}
	lock_drop(&vol->lock);
	return old;
}

/*
 * Promised before the flag stands, and released when it durably does not: a crash between leaves no reserved volume
 * without its space.
 */
static int do_set(struct fs *fs, struct fs_volume *vol, const char *name, const struct fs_volume_change *change,
		  struct volume_comment *comment, struct fs_error *err)
{
	uint32_t set = change->set & ~atomic_load(&vol->flags);
	uint64_t size = atomic_load(&vol->size), missing = 0;
	struct space_reservation res;
	int r = reserve_change(fs, 0, &res);

	if (r) {
		volume_comment_put(comment);
		return fs_fail(err, r, "volume %s: cannot be changed: %s", name, strerror(-r));
	}
	if (set & FS_VOLUME_RESERVED && promise(fs, vol, space_promise_for(size), &missing)) {
		backing_promise_end(fs);
		space_unreserve(fs, &res);
		volume_comment_put(comment);
		if (!missing)
			return fs_fail(err, -ENOSPC, "volume %s: %llu bytes cannot be reserved: the file system under the sparse pool has no room for them: make room there, or leave it thin",
				       name, (unsigned long long)size);
		return fs_fail(err, -ENOSPC, "volume %s: %llu bytes cannot be reserved, %llu are missing: grow the pool, free space, or leave it thin",
			       name, (unsigned long long)size, (unsigned long long)missing);
	}
	volume_comment_put(change_item(vol, change, comment));
	r = commit_change(fs, vol, &res);
	if (r)
		return fs_fail(err, r, "volume %s: cannot be changed: the commit failed: %s", name, strerror(-r));
	if (change->clear & FS_VOLUME_RESERVED) {
		(void)space_set_promise(fs, &vol->promise, 0, true, NULL);
		backing_promise_end(fs);
	}
	return 0;
}

static int check_change(const char *name, const struct fs_volume_change *change, struct fs_error *err)
{
	const uint32_t known = FS_VOLUME_RESERVED | FS_VOLUME_READ_ONLY;
	size_t len = change->comment ? strlen(change->comment) : 0;

	if (!fs_name_is_valid(name))
		return bad_name(err, name);
	if ((change->set | change->clear) & ~known || change->set & change->clear)
		return fs_fail(err, -EINVAL, "volume %s: no such change", name);
	if (len > FS_COMMENT_MAX)
		return fs_fail(err, -EINVAL, "volume %s: a comment of %zu bytes is too long: use %d at most", name, len, FS_COMMENT_MAX);
	if (!text_is_plain(change->comment, len))
		return fs_fail(err, -EINVAL, "volume %s: the comment is not on one line of UTF-8", name);
	return 0;
}

int fs_volume_set(struct fs *fs, const char *name, const struct fs_volume_change *change, struct fs_error *err)
{
	struct volume_comment *comment = NULL;
	struct fs_volume *vol;
	int r = check_change(name, change, err);

	if (r)
		return r;
	if (change->comment && *change->comment) {
		comment = volume_comment_new(change->comment, (uint8_t)strlen(change->comment));
		if (!comment)
			return fs_fail(err, -ENOMEM, "volume %s: out of memory", name);
	}
	lock_take(&fs->volumes.op_lock);
	r = find(fs, name, &vol, err);
	if (r == 0) {
		r = do_set(fs, vol, name, change, comment, err);
		volume_unref(vol);
	} else {
		volume_comment_put(comment);
	}
	lock_drop(&fs->volumes.op_lock);
	return r;
}
