/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/pool/pool.c: opening and closing a pool; making one is in pool_format.c, the commit thread in
 * commit_thread.c, its figures in pool_info.c.
 */
#include "fs/pool/pool.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/le.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/util.h"
#include "fs/cache/cache.h"
#include "fs/commit/flush_log.h"
#include "fs/commit/group_tree.h"
#include "fs/commit/orphan.h"
#include "fs/commit/rebuild.h"
#include "fs/commit/root_tree.h"
#include "fs/commit/transaction.h"
#include "fs/core/clock.h"
#include "fs/core/fs_int.h"
#include "fs/core/lock_rank.h"
#include "fs/core/report.h"
#include "fs/core/upcall.h"
#include "fs/core/wakeup.h"
#include "fs/device/claim.h"
#include "fs/device/device.h"
#include "fs/device/device_space.h"
#include "fs/device/super.h"
#include "fs/device/work.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "fs/io/ctx.h"
#include "fs/ops/flush_log_replay.h"
#include "fs/scrub/scrub.h"
#include "fs/space/backing.h"
#include "fs/space/block_group.h"
#include "fs/space/pins.h"
#include "fs/space/space_info.h"
#include "fs/tree/node.h"
#include "fs/volume/volume.h"

#define DEFAULT_CACHE_BYTES (1ull << 30)
#define LOADED_SHARE 4u /* bitmaps of data groups may take this part of the cache's size in addition */
#define DEFAULT_COMMIT_INTERVAL_MS 5000u
#define DEFAULT_WORKERS 16u /* half of them for what does not wait */
/* more than a ring holds: what an earlier life wrote is never taken for ours */
#define LOG_SEQ_JUMP (1ull << 24)

void fs_work(struct fs *fs, struct fs_work *work)
{
	work_pool_add_waiting(fs->work, work);
}

/* ---- opening --------------------------------------------------------------- */

static int add_device_space(struct fs *fs)
{
	uint64_t log = le64_to_cpu(fs->super->log_offset), log_size = le64_to_cpu(fs->super->log_size);
	int r = group_space_add(fs, DEVICE_DATA_START, fs->dev->size - DEVICE_DATA_START);

	return r ? r : group_space_take(fs, log, log_size);
}

static int replay(struct fs *fs)
{
	uint64_t start = fs_now_us(fs), groups, items;
	int r;

	fs->log->offset = le64_to_cpu(fs->super->log_offset);
	fs->log->size = le64_to_cpu(fs->super->log_size);
	backing_set_log(fs, fs->log->offset, fs->log->size);
	fs->log->head = fs->log->tail = le64_to_cpu(fs->super->log_tail);
	fs->log->seq = le64_to_cpu(fs->super->log_seq);
	r = flush_log_replay(fs, fs->commit_q, &groups, &items);
	fs->log->lost_flushes = le64_to_cpu(fs->super->log_lost_flushes);
	fs->log->lost_ns = (int64_t)le64_to_cpu(fs->super->log_lost_ns);
	if (groups)
		fs_log(fs, FS_LOG_NOTICE, "flush log: %llu flushes with %llu changes replayed in %llu ms",
		       (unsigned long long)groups, (unsigned long long)items,
		       (unsigned long long)(fs_now_us(fs) - start) / 1000);
	/* Flushes commit until the first commit has put the new sequence into the superblock. */
	fs->log->seq += LOG_SEQ_JUMP;
	fs->log->failed = true;
	fs->super_dirty = true;
	space_promises_opened(fs);
	return r;
}

static int load_pool(struct fs *fs, struct fs_error *err)
{
	struct super_block *sb = fs->super;
	unsigned bad, old;
	int r = super_read(fs->commit_q, fs->dev->size, sb, &bad, &old, err);

	if (r)
		return r;
	if (bad)
		fs_log(fs, FS_LOG_WARNING, "%u of %u superblocks are damaged; they are being rewritten", bad,
		       SUPER_COPIES);
	if (le64_to_cpu(sb->ro_compat) & ~FEATURE_RO_COMPAT_KNOWN)
		fs_set_read_only(fs, -EROFS, "the pool uses features that this version can only read");
	/*
	 * Before anything else is written: what cannot be read now, and may be newer, must not be found at
	 * the next start.
	 */
	if ((bad || old) && !fs_is_read_only(fs)) {
		r = super_write_all(fs->commit_q, sb);
		if (r)
			fs_set_read_only(fs, r, "the superblocks cannot be rewritten");
	}
	memcpy(fs->uuid, sb->uuid, sizeof(fs->uuid));
	fs->group_step = le64_to_cpu(sb->group_step);
	fs->dev->size = le64_to_cpu(sb->device_size);
	atomic_store(&fs->next_id, max_u64(le64_to_cpu(sb->next_id), TREE_ID_FIRST_FREE));
	atomic_store(&fs->running_generation, le64_to_cpu(sb->generation) + 1);
	tree_root_unpack(&sb->root_tree, TREE_ID_ROOT, fs->root_tree);
	tree_root_unpack(&sb->group_tree, TREE_ID_GROUP, fs->group_tree);
	atomic_store(&fs->root_tree_nodes_bound, 2 * fs->root_tree->nodes + 16);
	scrub_opened(fs);
	space_info_init(fs);
	backing_decide(fs); /* what is promised is counted by it */
	r = add_device_space(fs);
	if (r == 0)
		r = block_group_read_system(fs);
	if (r == 0)
		r = group_tree_read(fs, fs->commit_q);
	if (r)
		return fs_fail(err, r, "the block groups cannot be read (%s): run a check of the pool",
			       strerror(-r));
	r = root_tree_read(fs);
	if (r)
		return fs_fail(err, r, "the volumes cannot be read (%s): run a check of the pool",
			       strerror(-r));
	if (atomic_load(&fs->lost_blocks))
		fs_log(fs, FS_LOG_WARNING,
		       "%llu bytes of volumes were lost with nodes of their trees and cannot be read: byre pool check names them",
		       (unsigned long long)atomic_load(&fs->lost_blocks) * FS_BLOCK_SIZE);
	r = replay(fs);
	return r ? fs_fail(err, r, "the flush log cannot be replayed (%s): run a check of the pool",
			   strerror(-r))
		 : 0;
}

static void set_options(struct fs *fs, const struct fs_options *opt)
{
	fs->opt = *opt;
	if (!fs->opt.cache_bytes)
		fs->opt.cache_bytes = DEFAULT_CACHE_BYTES;
	if (!fs->opt.commit_interval_ms)
		fs->opt.commit_interval_ms = DEFAULT_COMMIT_INTERVAL_MS;
	if (!fs->opt.workers)
		fs->opt.workers = DEFAULT_WORKERS;
	if (opt->read_only)
		atomic_store(&fs->read_only, EROFS);
}

/* All parts in one piece of memory: what each of them is, its own header says. */
struct pool {
	struct fs fs;
	struct group_table groups;
	struct space_info space;
	struct backing backing;
	struct volume_table volumes;
	struct work_pool work;
	struct flush_log log;
	struct bad_nodes bad_nodes;
	struct scrub scrub;
	struct pins pins;
	struct super_block super;
	struct tree_root root_tree, group_tree;
};

static void pack_scrub(struct fs *fs, struct super_block *sb)
{
	scrub_pack(fs, &sb->scrub);
}

static const struct fs_upcalls upcalls = {
	.commit = transaction_commit,
	.rebuild = rebuild_groups,
	.pack_scrub = pack_scrub,
	.poll_scrub = scrub_poll,
};

static struct fs *pool_new(void)
{
	struct pool *p = mem_zalloc(sizeof(*p));

	if (!p)
		return NULL;
	p->fs.up = &upcalls;
	p->groups.fs = p->backing.fs = p->log.fs = &p->fs;
	p->fs.groups = &p->groups;
	p->fs.space = &p->space;
	p->fs.backing = &p->backing;
	p->fs.volumes = &p->volumes;
	p->fs.work = &p->work;
	p->fs.log = &p->log;
	p->fs.bad_nodes = &p->bad_nodes;
	p->fs.scrub = &p->scrub;
	p->fs.pins = &p->pins;
	p->fs.super = &p->super;
	p->fs.root_tree = &p->root_tree;
	p->fs.group_tree = &p->group_tree;
	return &p->fs;
}

static void init_locks(struct fs *fs)
{
	lock_init(&fs->load_lock, LOCK_GROUP_LOAD);
	lock_init(&fs->ctx_lock, LOCK_CTX);
	lock_init(&fs->commit_lock, LOCK_COMMIT);
	lock_init(&fs->state_lock, LOCK_COMMIT_STATE);
	lock_cond_init(&fs->state_cond);
	lock_cond_init(&fs->done_cond);
	lock_init(&fs->space->lock, LOCK_SPACE_INFO);
	bad_nodes_init(fs->bad_nodes);
	lock_init(&fs->backing->lock, LOCK_SPARES);
	space_tickets_init(fs->space);
	volume_table_init(fs);
	flush_log_init(fs);
	scrub_init(fs);
}

/* Frees everything; nothing is written. */
static void destroy(struct fs *fs)
{
	work_pool_fini(fs->work);
	ASSERT(!fs->ctxs);
	scrub_fini(fs);
	flush_log_fini(fs);
	volume_table_fini(fs);
	space_info_fini(fs);
	group_table_fini(fs);
	if (fs->commit_q)
		fs->dev->ops->queue_free(fs->commit_q);
	cache_free(fs->cache);
	device_close(fs->dev);
	lock_fini(&fs->load_lock);
	lock_fini(&fs->backing->lock);
	device_space_fini(&fs->backing->freed);
	lock_fini(&fs->ctx_lock);
	lock_fini(&fs->commit_lock);
	lock_fini(&fs->state_lock);
	bad_nodes_fini(fs->bad_nodes);
	pthread_cond_destroy(&fs->state_cond);
	pthread_cond_destroy(&fs->done_cond);
	mem_free(container_of(fs, struct pool, fs));
}

static int start(struct fs *fs, struct fs_error *err)
{
	int r = group_table_init(fs);

	fs->groups->loaded_max = fs->opt.cache_bytes / LOADED_SHARE;
	if (r == 0)
		r = cache_new(fs->opt.cache_bytes, &fs->cache);
	if (r == 0 && fs->clock->threads)
		r = cache_start_thread(fs->cache);
	if (r == 0)
		r = fs->dev->ops->queue_new(fs->dev, &fs->commit_q);
	if (r == 0)
		r = work_pool_init(fs->work, fs->dev, fs->clock->threads ? fs->opt.workers : 0);
	if (r)
		return fs_fail(err, r, "%s", strerror(-r));
	r = load_pool(fs, err);
	if (r == 0 && !fs_is_read_only(fs))
		r = claim_take(fs, err);
	if (r == 0)
		r = backing_open(fs, err);
	if (r)
		return r;
	if (fs->clock->threads && !fs_is_read_only(fs)) {
		r = commit_thread_start(fs);
		if (r)
			return fs_fail(err, r, "no thread can be started: %s", strerror(-r));
	}
	if (!fs_is_read_only(fs))
		fs_kick_commit(fs);
	backing_tick(fs);
	return 0;
}

int pool_open(struct device *dev, const struct fs_options *opt, const struct fs_clock *clock,
	      struct fs **ret_fs, struct fs_error *err)
{
	struct fs *fs = pool_new();
	int r;

	if (!fs) {
		device_close(dev);
		return fs_fail(err, -ENOMEM, "out of memory");
	}
	fs->dev = dev;
	fs->clock = clock;
	fs->orphan_leaves = ORPHAN_LEAVES_PER_COMMIT;
	set_options(fs, opt);
	init_locks(fs);
	r = start(fs, err);
	if (r) {
		destroy(fs);
		return r;
	}
	*ret_fs = fs;
	return 0;
}

static int open_device(const char *path, const struct fs_options *opt, struct device **ret_dev,
		       int *ret_holder)
{
	int r = -ENOSYS;

	if (opt->device_kind != FS_DEVICE_THREADS)
		r = device_open_uring(path, !opt->read_only, ret_dev, ret_holder);
	if (opt->device_kind == FS_DEVICE_THREADS ||
	    (opt->device_kind == FS_DEVICE_AUTO && (r == -ENOSYS || r == -EPERM)))
		r = device_open_threads(path, !opt->read_only, ret_dev, ret_holder);
	if (r == 0 && opt->device_kind == FS_DEVICE_AUTO && (*ret_dev)->writes_late) {
		device_close(*ret_dev);
		r = device_open_threads(path, !opt->read_only, ret_dev, ret_holder);
	}
	return r;
}

int fs_open(const char *path, const struct fs_options *opt, struct fs **ret_fs, struct fs_error *err)
{
	struct fs_error inner = {""};
	struct device *dev;
	struct stat st;
	int holder = 0, r;

	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		return fs_fail(err, -EISDIR, "pool %s: is a directory, not a pool", path);
	r = open_device(path, opt, &dev, &holder);
	if (r)
		return claim_fail_open(path, r, holder, err);
	if (opt->write_log) {
		struct device *recorded;

		r = device_record(dev, opt->write_log, &recorded);
		if (r) {
			device_close(dev);
			return fs_fail(err, r, "write log %s: cannot be written: %s", opt->write_log,
				       strerror(-r));
		}
		dev = recorded;
	}
	r = pool_open(dev, opt, &fs_clock_system, ret_fs, &inner);
	if (r)
		return fs_fail(err, r, "pool %s: %s", path, inner.msg);
	if (!(*ret_fs)->dev->direct)
		fs_log(*ret_fs, FS_LOG_WARNING,
		       "pool %s: its file system has no direct I/O: data is cached twice", path);
	return 0;
}

/* ---- closing --------------------------------------------------------------- */

int fs_close(struct fs *fs)
{
	bool writable = fs && fs->commit_thread_runs;
	int r = 0;

	if (!fs)
		return 0;
	scrub_close(fs);
	commit_thread_stop(fs);
	if (fs_is_read_only(fs)) {
		r = writable ? -EROFS : 0; /* an error made it so: not everything could be committed */
	} else {
		ctx_return_runs(fs);
		/* what is still to be freed of deleted volumes, the next start goes on with */
		r = fs_commit(fs);
		if (r == 0)
			claim_give_up(fs);
	}
	atomic_store(&fs->rebuild_stop, true); /* not earlier: that commit may have needed it */
	destroy(fs);
	return r;
}

void pool_abandon(struct fs *fs)
{
	scrub_close(fs);
	commit_thread_stop(fs);
	space_fail_tickets(fs, -EIO);
	atomic_store(&fs->rebuild_stop, true);
	destroy(fs);
}
