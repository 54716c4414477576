/* SPDX-License-Identifier: BSD-3-Clause */
/* tests/crash/sim/step.c: the steps of a history. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/util.h"
#include "fs/device/device_sim.h"
#include "fs/core/fs_int.h"
#include "fs/pool/pool.h"
#include "tests/crash/sim/disk.h"
#include "tests/crash/sim/fail.h"
#include "tests/crash/sim/sched.h"
#include "tests/crash/sim/world.h"
#include "fs/space/block_group.h"
#include "fs/device/device.h"
#include "fs/commit/flush_log.h"
#include "fs/fs.h"
#include "fs/scrub/scrub.h"
#include "fs/space/space_info.h"

#define REQUESTS_MAX 48u
#define HOT_BLOCKS 24u

/* For sim_fail, which is called from everywhere. */
static struct world *current;

void sim_fail(const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	if (current)
		fprintf(stderr, "FAIL seed %llu (%s), step %zu of %zu (%s): ",
			(unsigned long long)current->history->seed, profile_name(current->set->profile),
			current->step, current->history->count,
			current->step < current->history->count
				? step_name(current->history->step[current->step].kind)
				: "end");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	fflush(stderr);
	_exit(SIM_FAILED);
}

/* ---- requests ------------------------------------------------------------------ */

static struct model_volume *open_volume(struct world *w)
{
	unsigned first = (unsigned)rng_below(&w->rng, MODEL_VOLUMES_MAX);

	for (unsigned i = 0; i < MODEL_VOLUMES_MAX; i++) {
		unsigned k = (first + i) % MODEL_VOLUMES_MAX;

		if (w->handle[k] && !w->blocked[k])
			return &w->model->volume[k];
	}
	return NULL;
}

/* Somewhere in the volume: often in a small part of it, so that requests meet. */
static void draw_range(struct world *w, const struct model_volume *vol, enum fs_op op, uint64_t *ret_off,
		       uint64_t *ret_len)
{
	uint64_t limit = w->limit[vol - w->model->volume], blocks = limit ? limit : vol->blocks;
	uint64_t size = blocks * MODEL_BLOCK, off, len, shape = rng_below(&w->rng, 10);
	uint64_t most = op == FS_WRITE ? w->set->write_blocks_max : blocks;

	off = rng_below(&w->rng, rng_below(&w->rng, 2) ? min_u64(blocks, HOT_BLOCKS) : blocks) * MODEL_BLOCK;
	len = MODEL_BLOCK;
	if (shape >= 3 && shape < 6)
		len = (1 + rng_below(&w->rng, 8)) * MODEL_BLOCK;
	else if (shape == 6)
		len = (1 + rng_below(&w->rng, most)) * MODEL_BLOCK;
	else if (shape == 7)
		off += rng_below(&w->rng, MODEL_BLOCK), len = 1 + rng_below(&w->rng, 1024);
	else if (shape == 8)
		off += rng_below(&w->rng, 8) * 512, len = (1 + rng_below(&w->rng, 24)) * 512;
	else if (shape == 9)
		off += rng_below(&w->rng, MODEL_BLOCK), len = 1 + rng_below(&w->rng, 5 * MODEL_BLOCK);
	*ret_off = min_u64(off, size - 1);
	*ret_len = min_u64(len, size - *ret_off);
}

static void send_one(struct world *w, unsigned loop)
{
	static const struct {
		enum fs_op op;
		uint32_t flags;
		unsigned weight;
	} kinds[] = {{FS_WRITE, 0, 44},	  {FS_WRITE, FS_FUA, 8},    {FS_READ, 0, 18},
		     {FS_FLUSH, 0, 12},	  {FS_TRIM, 0, 7},	    {FS_TRIM, FS_FUA, 1},
		     {FS_ZERO, 0, 4},	  {FS_ZERO, FS_NO_HOLE, 3}, {FS_ZERO, FS_NO_HOLE | FS_FUA, 1},
		     {FS_ZERO, FS_FUA, 1}};
	struct model_volume *vol = open_volume(w);
	uint64_t at = rng_below(&w->rng, 99), off = 0, len = 0;
	struct request *req;
	unsigned k = 0;

	if (!vol || w->requests >= REQUESTS_MAX)
		return;
	while (at >= kinds[k].weight)
		at -= kinds[k++].weight;
	if (kinds[k].op != FS_FLUSH)
		draw_range(w, vol, kinds[k].op, &off, &len);
	if (!model_may_submit(w->model, vol, off, len))
		return;
	req = request_new(w, vol, kinds[k].op, off, len);
	req->io.flags = kinds[k].flags;
	request_send(w, loop, req);
}

static void step_io(struct world *w)
{
	unsigned loop = (unsigned)rng_below(&w->rng, w->set->loops), n = 1 + (unsigned)rng_below(&w->rng, 8);

	for (unsigned i = 0; i < n; i++)
		send_one(w, loop);
}

static bool has_room(void *arg)
{
	return ((struct world *)arg)->requests < REQUESTS_MAX / 2;
}

/* The largest volume that requests may go to. */
static struct model_volume *largest_volume(struct world *w)
{
	struct model_volume *best = NULL;

	for (unsigned k = 0; k < MODEL_VOLUMES_MAX; k++)
		if (w->handle[k] && !w->blocked[k] && !w->limit[k] &&
		    (!best || w->model->volume[k].blocks > best->blocks))
			best = &w->model->volume[k];
	return best;
}

/*
 * Each 2nd or 3rd block from somewhere on. Fibers run in between; it ends when somebody else wants the
 * volume, or the device dies.
 */
static void step_scatter(struct world *w)
{
	struct model_volume *vol = largest_volume(w);
	unsigned loop = (unsigned)rng_below(&w->rng, w->set->loops),
		 stride = 2 + (unsigned)rng_below(&w->rng, 2);
	enum fs_op op = rng_below(&w->rng, 4) ? FS_WRITE : FS_TRIM;
	uint64_t n = 100 + rng_below(&w->rng, 800), k, blk;

	if (!vol)
		return;
	k = (uint64_t)(vol - w->model->volume);
	blk = rng_below(&w->rng, vol->blocks);
	for (; n > 0; n--, blk = (blk + stride) % vol->blocks) {
		sched_wait(has_room, w);
		if (!w->handle[k] || w->blocked[k] || w->limit[k] || world_is_dead(w) ||
		    world_is_read_only(w))
			return;
		if (model_may_submit(w->model, vol, blk * MODEL_BLOCK, MODEL_BLOCK))
			request_send(w, loop, request_new(w, vol, op, blk * MODEL_BLOCK, MODEL_BLOCK));
	}
}

/* Some quarters of the largest volume, with ragged edges. */
static void step_hole(struct world *w)
{
	struct model_volume *vol = largest_volume(w);
	uint64_t from, n;

	if (!vol || vol->blocks < 1024)
		return;
	from = rng_below(&w->rng, 3) ? rng_below(&w->rng, vol->blocks / 2) : 0;
	n = rng_below(&w->rng, 3) ? vol->blocks / 4 + rng_below(&w->rng, vol->blocks / 4)
				  : vol->blocks - from;
	if (model_may_submit(w->model, vol, from * MODEL_BLOCK, n * MODEL_BLOCK))
		request_send(w, 0,
			     request_new(w, vol, rng_below(&w->rng, 2) ? FS_TRIM : FS_ZERO,
					 from * MODEL_BLOCK, n * MODEL_BLOCK));
}

static void step_readback(struct world *w)
{
	struct model_volume *vol = open_volume(w);

	if (vol && w->limit[vol - w->model->volume])
		return;
	for (uint64_t blk = 0; vol && blk < vol->blocks; blk += READ_CHUNK_BLOCKS) {
		uint64_t len = min_u64(READ_CHUNK_BLOCKS, vol->blocks - blk) * MODEL_BLOCK;

		if (!model_may_submit(w->model, vol, 0, 0))
			return;
		request_send(w, 0, request_new(w, vol, FS_READ, blk * MODEL_BLOCK, len));
	}
}

/* As for a large write that fails. */
static void step_groups(struct world *w)
{
	struct space_ticket t = {.flags = SPACE_NOTICKET, .want = {.pending = {1, 0}}};

	if (world_is_dead(w) || world_is_read_only(w))
		return;
	t.want.data_bytes = rng_below(&w->rng, w->sim->size / MODEL_BLOCK) * MODEL_BLOCK;
	if (space_reserve(w->fs, &t) == 0)
		space_unreserve(w->fs, &t.want);
	world_log(w, "groups: %u data, %u metadata, %u system", atomic_load(&w->fs->groups->number[0]),
		  atomic_load(&w->fs->groups->number[1]), atomic_load(&w->fs->groups->number[2]));
}

/* ---- faults -------------------------------------------------------------------- */

static void step_fault(struct world *w)
{
	static const unsigned ops[] = {DEVICE_SIM_OP(DEVICE_READ),  DEVICE_SIM_OP(DEVICE_WRITE),
				       DEVICE_SIM_OP(DEVICE_WRITE), DEVICE_SIM_OP(DEVICE_FLUSH),
				       DEVICE_SIM_OP(DEVICE_FLUSH), DEVICE_SIM_OP(DEVICE_FLUSH)};
	struct device_sim_fault fault = {
		.kind = rng_below(&w->rng, 3) ? DEVICE_SIM_FAIL : DEVICE_SIM_FAIL_TORN,
		.ops = ops[rng_below(&w->rng, ARRAY_SIZE(ops))],
		.skip = rng_below(&w->rng, 1u << rng_below(&w->rng, 7)),
		.count = 1 + rng_below(&w->rng, 1 + rng_below(&w->rng, 3)),
		.error = -EIO,
	};

	if (rng_below(&w->rng, 6) == 0)
		fault.count = 0;
	if (rng_below(&w->rng, 4) == 0) { /* the flush log only */
		fault.off = w->fs->log->offset;
		fault.len = w->fs->log->size;
	}
	w->tolerant = w->rebuild_is_fine = true;
	(void)device_sim_fault_add(w->sim, &fault);
	world_log(w, "fault: ops %x fail after %llu, %llu times", fault.ops, (unsigned long long)fault.skip,
		  (unsigned long long)fault.count);
}

/* Nothing but new data may fail for that: world_is_strict stays as it is. */
static void step_host_full(struct world *w)
{
	uint64_t left = UINT64_MAX;

	w->host_full = w->set->sparse && rng_below(&w->rng, 3) < 2;
	if (rng_below(&w->rng, 3) == 0) /* full soon: on the way of something */
		left = rng_below(&w->rng, 8u << 20);
	device_sim_set_host_full(w->sim, w->host_full);
	device_sim_set_host_left(w->sim, left);
	world_log(w, "the host is %s, with %lld bytes left", w->host_full ? "full" : "not full",
		  (long long)left);
}

static void step_nomem(struct world *w)
{
	uint64_t n = 1 + rng_below(&w->rng, 1u << rng_below(&w->rng, 11));

	w->tolerant = w->rebuild_is_fine = true;
	mem_fail_at(n);
	world_log(w, "allocation %llu fails", (unsigned long long)n);
}

static bool never(void *arg)
{
	(void)arg;
	return false;
}

static void send_flush(struct world *w)
{
	struct model_volume *vol = open_volume(w);

	if (vol && model_may_submit(w->model, vol, 0, 0))
		request_send(w, (unsigned)rng_below(&w->rng, w->set->loops),
			     request_new(w, vol, FS_FLUSH, 0, 0));
}

/*
 * A group of the log fails while a commit is somewhere on its way; nothing is dirty then for a while, and
 * more is flushed.
 */
static void step_logfail(struct world *w)
{
	struct device_sim_fault fault = {
		.kind = rng_below(&w->rng, 2) ? DEVICE_SIM_FAIL : DEVICE_SIM_FAIL_TORN,
		.ops = DEVICE_SIM_OP(DEVICE_WRITE),
		.count = 1,
		.error = -EIO,
	};
	unsigned id;

	world_drain(w);
	if (world_is_dead(w) || world_is_read_only(w))
		return;
	fault.off = w->fs->log->offset;
	fault.len = w->fs->log->size;
	step_io(w);
	sched_wait(has_room, w);
	(void)client_commit(w);
	for (uint64_t n = rng_below(&w->rng, 150); n && sched_step(); n--)
		;
	w->tolerant = w->rebuild_is_fine = true;
	id = device_sim_fault_add(w->sim, &fault);
	world_log(w, "one write of the flush log fails");
	send_flush(w);
	world_drain(w);
	device_sim_fault_remove(w->sim, id);
	(void)sched_wait_ms(never, NULL, rng_below(&w->rng, 3) * w->set->commit_interval_ms);
	step_io(w);
	world_drain(w);
	send_flush(w);
	world_drain(w);
	if (rng_below(&w->rng, 2))
		world_crash(w);
}

/*
 * Some reads that do not end for long, while what they read may be overwritten, committed and wanted by
 * others. Only from one loop: the other, and commits, go on.
 */
static void step_linger(struct world *w)
{
	unsigned reads = 1 + (unsigned)rng_below(&w->rng, 4);

	disk_hold_reads(w->fs->dev, reads,
			1 + (unsigned)rng_below(&w->rng, 1u << (4 + rng_below(&w->rng, 9))));
	for (unsigned i = 0; i < reads; i++) {
		struct model_volume *vol = open_volume(w);
		uint64_t off, len;

		if (!vol || w->requests >= REQUESTS_MAX)
			return;
		draw_range(w, vol, FS_READ, &off, &len);
		if (model_may_submit(w->model, vol, off, len))
			request_send(w, 0, request_new(w, vol, FS_READ, off, len));
	}
}

/*
 * Often with a crash somewhere on its way, while requests and flushes go on: the flush log may move with it.
 */
static void step_grow(struct world *w)
{
	uint64_t n = rng_below(&w->rng, 400);

	if (!client_grow(w) || rng_below(&w->rng, 3) == 0)
		return;
	for (uint64_t i = 0; i < n && sched_step(); i++) {
		if (i % 16 == 0)
			step_io(w);
		if (i % 8 == 0)
			send_flush(w);
	}
	world_crash(w);
}

/* ---- steps --------------------------------------------------------------------- */

static void step_run(struct world *w)
{
	uint64_t n = 1 + rng_below(&w->rng, 1u << rng_below(&w->rng, 8));

	while (n-- && sched_step())
		;
}

static void step_crash(struct world *w)
{
	if (rng_below(&w->rng, 2))
		world_crash(w);
	else
		device_sim_kill_after(w->sim, 1 + rng_below(&w->rng, 1u << rng_below(&w->rng, 9)));
}

static void step_scrub(struct world *w)
{
	uint64_t rate = rng_below(&w->rng, 2) ? 1ull << 40 : 1 + rng_below(&w->rng, 4u << 20);
	bool restart = rng_below(&w->rng, 4) == 0, stop = rng_below(&w->rng, 4) == 0;
	int r;

	w->fs->scrub->slices_small = rng_below(&w->rng, 2);
	r = stop ? fs_scrub_stop(w->fs, NULL) : fs_scrub_start(w->fs, rate, restart, NULL);
	world_log(w, "scrub: %s: %s", stop ? "stop" : "start", strerror(-r));
	if (r && r != -ENOENT && r != -EBUSY && world_is_strict(w))
		sim_fail("a scrub cannot be started or stopped: %s", strerror(-r));
}

static void step_do(struct world *w, enum step_kind kind)
{
	switch (kind) {
	case STEP_IO: step_io(w); break;
	case STEP_RUN: step_run(w); break;
	case STEP_DRAIN: world_drain(w); break;
	case STEP_TIME: sched_pass_time(1 + rng_below(&w->rng, 8000)); break;
	case STEP_COMMIT: (void)client_commit(w); break;
	case STEP_CREATE: (void)client_create(w); break;
	case STEP_DELETE: (void)client_delete(w); break;
	case STEP_RENAME: (void)client_rename(w); break;
	case STEP_RESIZE: (void)client_resize(w); break;
	case STEP_GROW: step_grow(w); break;
	case STEP_READBACK: step_readback(w); break;
	case STEP_CLEAN: (void)world_settle(w); break;
	case STEP_CLOSE:
		world_drain(w);
		(void)world_settle(w);
		world_drain(w);
		world_reopen(w, true);
		break;
	case STEP_CRASH: step_crash(w); break;
	case STEP_FAULT: step_fault(w); break;
	case STEP_NOMEM: step_nomem(w); break;
	case STEP_SCATTER: step_scatter(w); break;
	case STEP_HOST_FULL: step_host_full(w); break;
	case STEP_HOLE: step_hole(w); break;
	case STEP_LOGFAIL: step_logfail(w); break;
	case STEP_GROUPS: step_groups(w); break;
	case STEP_SCRUB: step_scrub(w); break;
	case STEP_LINGER: step_linger(w); break;
	case STEP_BURST: (void)client_burst(w); break;
	case STEP_KINDS: break;
	}
}

static void world_init(struct world *w, const struct history *h, bool verbose)
{
	*w = (struct world){.history = h, .set = &h->setting, .verbose = verbose, .rng = h->seed};
	w->model = model_new();
	w->rotten = calloc(ROTTEN_MAX, sizeof(*w->rotten));
	ASSERT(w->rotten);
	current = w;
	sched_seed(h->seed, h->setting.preempt);
}

static void world_fini(struct world *w)
{
	world_let_go(w);
	pool_abandon(w->fs);
	device_close(w->sim);
	if (w->old_image)
		device_close(w->old_image);
	model_free(w->model);
	free(w->rotten);
	free(w->burst);
	current = NULL;
}

void history_run(const struct history *h, bool verbose)
{
	struct world w;

	world_init(&w, h, verbose);
	world_log(
		&w,
		"seed %llu: %s, pool of %llu MiB, %u loops, preemption %u, volumes up to %u blocks, writes up to %u, log %llu",
		(unsigned long long)h->seed, profile_name(h->setting.profile),
		(unsigned long long)h->setting.pool_bytes >> 20, h->setting.loops, h->setting.preempt,
		h->setting.volume_blocks_max, h->setting.write_blocks_max,
		(unsigned long long)h->setting.log_bytes);
	world_first_open(&w);
	for (; w.step < h->count; w.step++) {
		const struct step *s = &h->step[w.step];

		w.rng = s->r;
		sched_seed(s->r, h->setting.preempt);
		world_log(&w, "-- %s", step_name(s->kind));
		if (world_is_dead(&w) || (world_is_read_only(&w) && rng_below(&w.rng, 6) == 0))
			world_crash(&w);
		step_do(&w, s->kind);
	}
	world_drain(&w);
	world_reopen(&w, true);
	world_log(
		&w,
		"done: %llu requests, %llu failed (%llu for space), %llu opens, %llu crashes, trace %016llx",
		w.ops, w.errors, w.enospc, w.opens, w.crashes, (unsigned long long)w.trace);
	mem_fail_at(0);
	world_fini(&w);
}

void history_prefixes(uint64_t seed, bool verbose)
{
	struct history *h = history_new(seed);
	struct world w;

	h->setting.profile = PROFILE_PLAIN;
	h->setting.pool_bytes = 24u << 20;
	h->setting.volume_blocks_max = 512;
	world_init(&w, h, verbose);
	world_first_open(&w);
	prefixes_run(&w);
	world_fini(&w);
	history_free(h);
}
