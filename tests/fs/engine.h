/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/engine.h: what the tests of the engine share: a pool on a simulated device with one context and
 * calls that wait, a byte model of a volume, and the books of an idle pool. Included after <cmocka.h>.
 *
 * The simulated device outlives the pool: fs_close and pool_abandon close a thin wrapper around it, so that a
 * pool can be opened again on what the last one left.
 */
#ifndef TESTS_FS_ENGINE_H
#define TESTS_FS_ENGINE_H

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/util.h"
#include "fs/check/check.h"
#include "fs/device/device_sim.h"
#include "fs/core/fs_int.h"
#include "fs/pool/pool.h"
#include "base/lock.h"
#include "fs/space/backing.h"
#include "fs/space/block_group.h"
#include "fs/format/block_group_format.h"
#include "fs/io/ctx.h"
#include "fs/device/device.h"
#include "fs/volume/extent_state.h"
#include "fs/space/free_space.h"
#include "fs/fs.h"
#include "fs/format/node_format.h"
#include "fs/space/pins.h"
#include "fs/space/space_info.h"
#include "fs/tree/tree.h"
#include "fs/volume/volume.h"
#include "fs/core/work.h"
#include "fs/volume/volume_int.h"

#define KIB (1ull << 10)
#define MIB (1ull << 20)
#define BLOCK ((uint64_t)FS_BLOCK_SIZE)
#define STEPS_MAX 20000000u

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

struct engine {
	struct device *sim; /* stays when the pool is closed; NULL: the pool is a file */
	char path[256];
	struct fs *fs;
	struct fs_ctx *ctx;
	struct fs_options opt;
	bool threads;	   /* a real commit thread and workers, on the simulated device */
	bool hold_commits; /* requests that are waited for run workers, but no commit */
	uint64_t rng;
	char log[4096]; /* the last messages */
};

/* ---- random numbers --------------------------------------------------------- */

static inline uint64_t rnd(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

/* 0 to n - 1. */
static inline uint64_t pick(uint64_t *state, uint64_t n)
{
	return rnd(state) % n;
}

static inline uint64_t test_seed(void)
{
	const char *env = getenv("SEED");
	struct timespec ts;
	uint64_t seed;

	clock_gettime(CLOCK_REALTIME, &ts);
	seed = env ? strtoull(env, NULL, 0)
		   : ((uint64_t)ts.tv_nsec + (uint64_t)ts.tv_sec * 1000000000u) % 1000000;
	print_message("SEED=%llu\n", (unsigned long long)seed);
	return seed;
}

static inline double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Bytes that differ from block to block and from version to version; never all zeros. */
static inline void fill_bytes(void *buf, uint64_t len, uint64_t seed)
{
	uint8_t *p = buf;
	uint64_t v = 0;

	seed = seed * 2 + 1;
	for (uint64_t i = 0; i < len; i++) {
		if (i % 8 == 0)
			v = rnd(&seed) | 1;
		p[i] = (uint8_t)(v >> (i % 8 * 8));
	}
}

/* ---- a device that outlives its pool ---------------------------------------- */

/*
 * Passes everything on to a simulated device. before_submit (may be NULL) sees each request of each queue on
 * the thread that submits it; it may use other queues of the device, and those requests it sees too.
 */
struct kept_device {
	struct device dev;
	struct device *inner;
	struct device_ops ops;
	void (*before_submit)(void *arg, struct device_queue *q, const struct device_io *io);
	void *arg;
};

static inline struct kept_device *kept_of(struct device_queue *q)
{
	return container_of(q->dev, struct kept_device, dev);
}

static inline void kept_close(struct device *dev)
{
	free(container_of(dev, struct kept_device, dev));
}

static inline int kept_queue_new(struct device *dev, struct device_queue **ret_q)
{
	struct device *inner = container_of(dev, struct kept_device, dev)->inner;
	int r = inner->ops->queue_new(inner, ret_q);

	if (r == 0)
		(*ret_q)->dev = dev;
	return r;
}

/* For the time of a call the queue is the inner device's again. */
#define KEPT_CALL(q, call)                               \
	do {                                             \
		struct kept_device *kept = kept_of(q);   \
		const struct device_ops *ops;            \
		q->dev = kept->inner;                    \
		ops = kept->inner->ops;                  \
		call;                                    \
		q->dev = &kept->dev;                     \
		if (device_flush_failed(kept->inner))    \
			device_set_flush_failed(q->dev); \
	} while (0)

static inline void kept_queue_free(struct device_queue *q)
{
	struct device *inner = kept_of(q)->inner;

	q->dev = inner;
	inner->ops->queue_free(q);
}

static inline void kept_submit(struct device_queue *q, struct device_io *io)
{
	struct kept_device *k = kept_of(q);

	if (k->before_submit)
		k->before_submit(k->arg, q, io);
	KEPT_CALL(q, ops->submit(q, io));
}

static inline void kept_kick(struct device_queue *q)
{
	KEPT_CALL(q, ops->kick(q));
}

/*
 * Completions run in here, and they may submit: the queue is the engine's meanwhile, so the inner ops are
 * called on it.
 */
static inline unsigned kept_poll(struct device_queue *q)
{
	unsigned n;

	KEPT_CALL(q, n = ops->poll(q));
	return n;
}

static inline unsigned kept_wait(struct device_queue *q)
{
	unsigned n;

	KEPT_CALL(q, n = ops->wait(q));
	return n;
}

static inline int kept_fd(struct device_queue *q)
{
	int fd;

	KEPT_CALL(q, fd = ops->fd(q));
	return fd;
}

static inline int kept_grow(struct device *dev, uint64_t size, bool preallocate)
{
	struct device *inner = container_of(dev, struct kept_device, dev)->inner;
	int r = inner->ops->grow(inner, size, preallocate);

	__atomic_store_n(&dev->size, device_size(inner), __ATOMIC_RELAXED);
	return r;
}

static inline int kept_allocate(struct device *dev, uint64_t off, uint64_t len, bool fresh)
{
	struct device *inner = container_of(dev, struct kept_device, dev)->inner;

	return inner->ops->allocate(inner, off, len, fresh);
}

static inline int kept_host(struct device *dev, struct device_host *ret_host)
{
	struct device *inner = container_of(dev, struct kept_device, dev)->inner;

	return inner->ops->host(inner, ret_host);
}

static inline struct device *keep(struct device *inner)
{
	struct kept_device *k = calloc(1, sizeof(*k));

	assert_non_null(k);
	k->dev = *inner;
	k->inner = inner;
	k->ops = (struct device_ops){inner->ops->name, kept_close, kept_queue_new, kept_queue_free,
				     kept_submit,      kept_kick,  kept_poll,	   kept_wait,
				     kept_fd,	       kept_grow,  kept_allocate,  kept_host};
	k->dev.ops = &k->ops;
	return &k->dev;
}

/* ---- opening and closing ---------------------------------------------------- */

static inline void engine_log(void *arg, enum fs_log_level level, const char *msg)
{
	struct engine *e = arg;
	size_t used, len = strlen(msg) + 1;

	if (getenv("VERBOSE"))
		fprintf(stderr, "log %d: %s\n", (int)level, msg);
	if (e->threads || len + 1 > sizeof(e->log))
		return;
	used = strlen(e->log);
	if (used + len + 1 > sizeof(e->log)) {
		e->log[0] = 0;
		used = 0;
	}
	memcpy(e->log + used, msg, len);
	strcat(e->log, "\n");
}

/* Runs what the pool's threads would do, until there is nothing left. */
static inline void engine_settle(struct engine *e)
{
	for (unsigned i = 0; i < STEPS_MAX; i++) {
		if (e->ctx)
			fs_ctx_run(e->ctx);
		if (!pool_step(e->fs))
			return;
	}
	fail_msg("the pool does not come to rest");
}

static inline int engine_try_open(struct engine *e)
{
	struct fs_error err = {""};
	int r;

	assert_true(e->sim || e->path[0]);
	e->opt.log = engine_log;
	e->opt.log_arg = e;
	if (!e->opt.cache_bytes)
		e->opt.cache_bytes = 16 * MIB;
	e->fs = NULL;
	e->ctx = NULL;
	r = e->sim ? pool_open(keep(e->sim), &e->opt, !e->threads, &e->fs, &err)
		   : fs_open(e->path, &e->opt, &e->fs, &err);
	if (r) {
		print_message("open: %s\n", err.msg);
		return r;
	}
	assert_int_equal(fs_ctx_new(e->fs, &e->ctx), 0);
	return 0;
}

/* Opens without running anything yet: what was asked for at open (a first commit) is still to be done. */
static inline void engine_open_only(struct engine *e)
{
	assert_int_equal(engine_try_open(e), 0);
}

static inline void engine_open(struct engine *e)
{
	engine_open_only(e);
	if (!e->threads)
		engine_settle(e);
}

static inline struct engine *engine_new_with(uint64_t size, uint64_t seed, const struct fs_options *opt)
{
	struct engine *e = calloc(1, sizeof(*e));

	assert_non_null(e);
	e->rng = seed;
	if (opt)
		e->opt = *opt;
	e->sim = device_sim_new(size, seed);
	assert_int_equal(pool_format(e->sim, false, NULL), 0);
	engine_open(e);
	return e;
}

static inline struct engine *engine_new(uint64_t size, uint64_t seed)
{
	return engine_new_with(size, seed, NULL);
}

/* On a sparse file of a host that can run full. */
static inline struct engine *engine_new_sparse(uint64_t size, uint64_t seed)
{
	struct engine *e = calloc(1, sizeof(*e));

	assert_non_null(e);
	e->rng = seed;
	e->sim = device_sim_new(size, seed);
	device_sim_set_sparse(e->sim);
	assert_int_equal(pool_format(e->sim, true, NULL), 0);
	engine_open(e);
	return e;
}

/* With the pool's own threads, on a simulated device; its outcome depends on them. */
static inline struct engine *engine_new_threads(uint64_t size, uint64_t seed, const struct fs_options *opt)
{
	struct engine *e = calloc(1, sizeof(*e));

	assert_non_null(e);
	e->rng = seed;
	e->opt = *opt;
	e->threads = true;
	e->sim = device_sim_new(size, seed);
	assert_int_equal(pool_format(e->sim, false, NULL), 0);
	engine_open(e);
	return e;
}

/* A sparse file in a folder for large temporary files, as a user's pool is. */
static inline struct engine *engine_new_file(uint64_t size, uint64_t seed, const struct fs_options *opt)
{
	struct fs_create_options co = {.size_bytes = size, .sparse = true, .force = true};
	struct engine *e = calloc(1, sizeof(*e));
	struct fs_error err = {""};
	int fd;

	assert_non_null(e);
	e->rng = seed;
	e->opt = *opt;
	e->threads = true;
	snprintf(e->path, sizeof(e->path), "%s/byre-test-XXXXXX",
		 getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp");
	fd = mkstemp(e->path);
	assert_true(fd >= 0);
	close(fd);
	if (fs_create(e->path, &co, &err))
		fail_msg("%s", err.msg);
	engine_open(e);
	return e;
}

static inline void engine_close(struct engine *e)
{
	fs_ctx_free(e->ctx);
	assert_int_equal(fs_close(e->fs), 0);
	e->ctx = NULL;
	e->fs = NULL;
}

/* The process dies; the device goes on. */
static inline void engine_abandon(struct engine *e)
{
	fs_ctx_free(e->ctx);
	pool_abandon(e->fs);
	e->ctx = NULL;
	e->fs = NULL;
}

static inline void engine_reopen(struct engine *e)
{
	engine_close(e);
	engine_open(e);
}

/* The machine dies: what is found again is drawn by `mode`. */
static inline void engine_crash(struct engine *e, enum device_sim_crash_mode mode, uint64_t seed)
{
	struct device *old = e->sim;

	e->sim = device_sim_crash_image(old, mode, seed);
	engine_abandon(e);
	device_close(old);
}

/* Frees all; what is not committed is gone. */
static inline void engine_free(struct engine *e)
{
	if (e->fs)
		engine_abandon(e);
	device_close(e->sim);
	if (e->path[0])
		(void)unlink(e->path);
	free(e);
}

/*
 * Commits until nothing is left to be done: deleted volumes are freed, pins are released. Nothing may be
 * under way.
 */
static inline void engine_commit(struct engine *e)
{
	int r;

	for (unsigned i = 0; i < 1000; i++) {
		if (!e->threads)
			engine_settle(e);
		r = fs_commit(e->fs);
		if (r)
			fail_msg("commit: %s; %s", strerror(-r), e->log);
		if (!atomic_load(&e->fs->orphans) && !pins_are_left(e->fs->pins))
			return;
		if (e->threads)
			usleep(1000);
	}
	fail_msg("pins or orphans stay for ever");
}

/* ---- requests that wait ------------------------------------------------------- */

static inline void engine_io_done(struct fs_io *io)
{
	(*(unsigned *)io->arg)--;
}

/* Runs the pool until *left is 0. */
static inline void engine_wait(struct engine *e, const unsigned *left)
{
	for (unsigned i = 0; *left; i++) {
		if (e->threads)
			(void)poll(&(struct pollfd){.fd = fs_ctx_fd(e->ctx), .events = POLLIN}, 1, 100);
		fs_ctx_run(e->ctx);
		if (e->hold_commits)
			(void)work_run_one(&e->fs->work);
		else if (!e->threads)
			pool_step(e->fs);
		if (i >= STEPS_MAX)
			fail_msg("%u requests are never answered", *left);
	}
}

/* The device under an open pool, for before_submit. */
static inline struct kept_device *engine_device(struct engine *e)
{
	return container_of(e->fs->dev, struct kept_device, dev);
}

/* Starts n requests as one batch; *left counts down. */
static inline void engine_submit(struct engine *e, struct fs_io *ios, unsigned n, unsigned *left)
{
	struct fs_io *list[256];

	assert_true(n <= ARRAY_SIZE(list));
	*left += n;
	for (unsigned i = 0; i < n; i++) {
		ios[i].done = engine_io_done;
		ios[i].arg = left;
		ios[i].error = 1; /* done sets it */
		list[i] = &ios[i];
	}
	fs_submit(e->ctx, list, n);
}

static inline int engine_io(struct engine *e, struct fs_volume *vol, enum fs_op op, uint32_t flags,
			    uint64_t off, uint64_t len, void *buf)
{
	struct fs_io io = {.op = op, .flags = flags, .vol = vol, .off = off, .len = len, .buf = buf};
	unsigned left = 0;

	engine_submit(e, &io, 1, &left);
	engine_wait(e, &left);
	return io.error;
}

static inline int engine_write(struct engine *e, struct fs_volume *vol, uint64_t off, uint64_t len,
			       const void *buf)
{
	return engine_io(e, vol, FS_WRITE, 0, off, len, (void *)(uintptr_t)buf);
}

static inline int engine_read(struct engine *e, struct fs_volume *vol, uint64_t off, uint64_t len, void *buf)
{
	return engine_io(e, vol, FS_READ, 0, off, len, buf);
}

static inline int engine_trim(struct engine *e, struct fs_volume *vol, uint64_t off, uint64_t len)
{
	return engine_io(e, vol, FS_TRIM, 0, off, len, NULL);
}

static inline int engine_flush(struct engine *e)
{
	return engine_io(e, NULL, FS_FLUSH, 0, 0, 0, NULL);
}

/* Makes a volume if there is none of that name, and takes a handle. */
static inline struct fs_volume *engine_volume(struct engine *e, const char *name, uint64_t size)
{
	struct fs_volume *vol = NULL;
	struct fs_error err = {""};
	int r;

	if (fs_volume_get(e->fs, name, &vol) == 0)
		return vol;
	r = fs_volume_create(e->fs, name, size, 0, &err);
	if (r)
		fail_msg("%s", err.msg);
	assert_int_equal(fs_volume_get(e->fs, name, &vol), 0);
	return vol;
}

/* ---- a byte model of a volume --------------------------------------------------- */

struct model {
	uint8_t *bytes;
	uint64_t size;
};

static inline void model_init(struct model *m, uint64_t size)
{
	m->bytes = calloc(1, size);
	assert_non_null(m->bytes);
	m->size = size;
}

static inline void model_fini(struct model *m)
{
	free(m->bytes);
}

/* Reads [off, off+len) and compares; names the first byte that differs. */
static inline void model_verify(struct engine *e, struct fs_volume *vol, const struct model *m, uint64_t off,
				uint64_t len)
{
	uint8_t *buf = malloc(len + 1);
	int r;

	assert_non_null(buf);
	memset(buf, 0xa5, len + 1);
	r = engine_read(e, vol, off, len, buf);
	if (r)
		fail_msg("read of %llu bytes at %llu: %s; %s", (unsigned long long)len,
			 (unsigned long long)off, strerror(-r), e->log);
	for (uint64_t i = 0; i < len; i++)
		if (buf[i] != m->bytes[off + i])
			fail_msg("byte %llu is %02x, not %02x", (unsigned long long)(off + i), buf[i],
				 m->bytes[off + i]);
	assert_int_equal(buf[len], 0xa5); /* not a byte more than was asked for */
	free(buf);
}

static inline void model_verify_all(struct engine *e, struct fs_volume *vol, const struct model *m)
{
	for (uint64_t at = 0; at < m->size; at += MIB)
		model_verify(e, vol, m, at, min_u64(MIB, m->size - at));
}

/* ---- the books of an idle pool ---------------------------------------------------- */

struct books {
	struct fs *fs;
	uint64_t total[SPACE_KINDS], taken[SPACE_KINDS], pinned[SPACE_KINDS], slots, memory;
};

/* In order of name, hidden ones too; NULL: the first. The table's lock is held. */
static inline struct fs_volume *engine_next_volume(struct engine *e, struct fs_volume *vol)
{
	return volume_table_next_locked(e->fs->volumes, vol ? vol->name->text : "");
}

static inline void books_add_group(struct block_group *g, void *arg)
{
	struct books *b = arg;
	int kind = g->type == GROUP_DATA       ? SPACE_DATA
		   : g->type == GROUP_METADATA ? SPACE_METADATA
					       : SPACE_SYSTEM;

	b->total[kind] += g->len;
	b->slots += g->len;
	if (g->state != GROUP_LOADED) {
		b->taken[kind] += g->used;
		return;
	}
	assert_true(free_space_check(g->avail));
	b->taken[kind] += (uint64_t)(g->nblocks - free_space_count(g->avail)) * g->unit;
	b->pinned[kind] += (uint64_t)(g->pinned_blocks[0] + g->pinned_blocks[1]) * g->unit;
	b->memory += free_space_memory(g->avail) + free_space_memory(g->committed) +
		     2 * ((g->nblocks + 63) / 64 * 8);
	/* the committed bitmap is kept by delayed refs, which system groups do not have */
	if (g->type != GROUP_SYSTEM)
		assert_int_equal((uint64_t)free_space_count(g->committed) * g->unit, g->len - g->used);
}

/* Nothing is under way: every reservation is back, and the counters are what the groups say. */
static inline void engine_check_books(struct engine *e)
{
	struct space_info *si = e->fs->space;
	struct books b = {.fs = e->fs};
	struct fs_volume *vol;
	struct fs_info info;

	ctx_return_runs(e->fs);
	b.taken[SPACE_DATA] -= (uint64_t)e->fs->backing->spares * BLOCK; /* they count as free */
	block_group_each(e->fs, books_add_group, &b);
	lock_take(&si->lock);
	assert_int_equal(si->in_flight.touches, 0);
	assert_int_equal(si->in_flight.bytes, 0);
	assert_int_equal(si->nr_tickets, 0);
	for (int k = 0; k < SPACE_KINDS; k++) {
		assert_int_equal(si->kind[k].may_use, 0);
		assert_int_equal(si->kind[k].total, b.total[k]);
		assert_int_equal(si->kind[k].allocated, b.taken[k]);
		assert_int_equal(si->kind[k].pinned, b.pinned[k]);
	}
	lock_drop(&si->lock);
	lock_take(&e->fs->volumes->lock);
	for (vol = engine_next_volume(e, NULL); vol; vol = engine_next_volume(e, vol)) {
		assert_int_equal(extent_state_count(&vol->states), 0);
		assert_int_equal(extent_state_delalloc_bytes(&vol->states), 0);
	}
	lock_drop(&e->fs->volumes->lock);
	fs_get_info(e->fs, &info);
	assert_int_equal(info.reserved_bytes, 0);
	assert_int_equal(e->ctx->under_way, 0);
}

/*
 * As above, after a commit of everything: nothing is pinned or pending, and allocated is what the trees use.
 */
static inline void engine_check_committed(struct engine *e)
{
	struct space_info *si = e->fs->space;
	uint64_t nodes = 0, leaves = 0, items = 0, blocks = 0;
	struct fs_volume *vol;

	/*
	 * What was accounted a moment after its overlay was frozen counts until the next commit that does
	 * something.
	 */
	lock_take(&e->fs->commit_lock);
	e->fs->super_dirty |= e->threads;
	lock_drop(&e->fs->commit_lock);
	engine_commit(e);
	engine_check_books(e);
	lock_take(&e->fs->volumes->lock);
	for (vol = engine_next_volume(e, NULL); vol; vol = engine_next_volume(e, vol)) {
		assert_int_equal(vol->running.count + vol->committing.count, 0);
		nodes += vol->root.nodes;
		leaves += vol->root.leaves;
		items += vol->root.items;
		blocks += vol->used_blocks;
	}
	lock_drop(&e->fs->volumes->lock);
	lock_take(&si->lock);
	assert_int_equal(
		si->running.touches + si->running.bytes + si->committing.touches + si->committing.bytes, 0);
	assert_int_equal(si->kind[SPACE_DATA].pinned + si->kind[SPACE_METADATA].pinned +
				 si->kind[SPACE_SYSTEM].pinned,
			 0);
	assert_int_equal(si->kind[SPACE_DATA].allocated, blocks * BLOCK);
	assert_int_equal(si->tree_nodes, nodes);
	assert_int_equal(si->tree_leaves, leaves);
	assert_int_equal(si->tree_items, items);
	assert_int_equal(si->kind[SPACE_METADATA].allocated, (nodes + e->fs->root_tree->nodes) * NODE_SIZE);
	assert_int_equal(si->kind[SPACE_SYSTEM].allocated, e->fs->group_tree->nodes * NODE_SIZE);
	lock_drop(&si->lock);
}

/* ---- the checker -------------------------------------------------------------------- */

static inline void engine_finding(void *arg, const char *line)
{
	print_message("finding: %s\n", line);
}

/* Checks a copy of what stands on the device. */
static inline void engine_check_device(struct device *sim)
{
	struct fs_check_options opt = {.finding = engine_finding};
	struct device *copy = device_sim_clone(sim, 1);
	struct fs_error err = {""};
	uint64_t findings = 1;
	int r = check_device(copy, &opt, &findings, &err);

	device_close(copy);
	if (r)
		fail_msg("the check cannot run: %s", err.msg);
	assert_int_equal(findings, 0);
}

/* The check of a pool file needs the pool closed. */
static inline void engine_check_file(const char *path)
{
	struct fs_check_options opt = {.finding = engine_finding};
	struct fs_error err = {""};
	uint64_t findings = 1;

	if (fs_check(path, &opt, &findings, &err))
		fail_msg("the check cannot run: %s", err.msg);
	assert_int_equal(findings, 0);
}

static inline void engine_check_all(struct engine *e)
{
	engine_check_committed(e);
	if (e->sim)
		engine_check_device(e->sim);
}

#endif
