/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/crash/sim/world.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "fs/device/device_sim.h"
#include "fs/core/fs_int.h"
#include "fs/pool/pool.h"
#include "tests/crash/sim/clock.h"
#include "tests/crash/sim/disk.h"
#include "tests/crash/sim/fail.h"
#include "tests/crash/sim/sched.h"
#include "fs/space/block_group.h"
#include "fs/commit/flush_log.h"
#include "fs/fs.h"
#include "fs/core/report.h"
#include "fs/space/space_info.h"
#include "fs/io/ctx.h"
#include "fs/volume/volume.h"

#define LOOP_BATCH 16

void world_log(struct world *w, const char *fmt, ...)
{
	va_list ap;

	if (!w->verbose)
		return;
	printf("%4zu ", w->step);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	fflush(stdout);
}

static void trace(struct world *w, uint64_t what)
{
	w->trace = (w->trace ^ what) * 0x9e3779b97f4a7c15u;
}

bool world_is_dead(struct world *w)
{
	return device_sim_is_dead(w->sim);
}
bool world_is_read_only(struct world *w)
{
	return w->fs && fs_is_read_only(w->fs);
}
bool world_is_strict(struct world *w)
{
	return !w->tolerant && !w->data_rotten && !world_is_dead(w);
}

/* ---- what the engine says ------------------------------------------------------ */

static void engine_log(void *arg, enum fs_log_level level, const char *msg)
{
	struct world *w = arg;

	world_log(w, "engine: <%d> %s", level, msg);
	/* A sum over starts: what was found has had its line when it was. */
	if (!world_is_strict(w) || strstr(msg, "pieces were bad") ||
	    (w->set->profile == PROFILE_LOST &&
	     (strstr(msg, "lost") || strstr(msg, "no copy of a node") || strstr(msg, "scrub:"))))
		return;
	if (level <= FS_LOG_ERROR)
		sim_fail("the engine complains: %s", msg);
	if (level <= FS_LOG_WARNING && strstr(msg, "scrub:") && w->set->profile != PROFILE_ROT &&
	    !w->slots_damaged)
		sim_fail("the scrub finds what nobody damaged: %s", msg);
	if (strstr(msg, "free-space cache") && !w->rebuild_is_fine)
		sim_fail("a cache is lost that nobody damaged: %s", msg);
}

/* ---- requests ------------------------------------------------------------------ */

static bool error_is_fine(struct world *w, const struct request *req, int error)
{
	bool frees = req->io.op == FS_TRIM || (req->io.op == FS_ZERO && !(req->io.flags & FS_NO_HOLE));

	if (error == -ENOSPC && !world_is_dead(w) && !world_is_read_only(w) && req->op.vol->reserved)
		return w->leaked;
	if (error == -EIO && w->set->profile == PROFILE_LOST && req->io.op != FS_FLUSH &&
	    model_may_be_lost(w->model, &req->op))
		return true;
	if (error == -ENOSPC && (req->io.op == FS_WRITE || req->io.op == FS_ZERO) && !frees)
		return true;
	/*
	 * A trim of a part of a lost extent frees nothing and needs room: docs/proof.md, statement 2.
	 */
	if (error == -ENOSPC && frees && w->leaked && atomic_load(&req->io.vol->lost_blocks))
		return true;
	return !world_is_strict(w) && error != -EINVAL && (error != -ENOSPC || world_is_dead(w));
}

static void request_free(struct request *req)
{
	free(req->buf);
	free(req);
}

static void request_done(struct fs_io *io)
{
	struct request *req = container_of(io, struct request, io);
	struct world *w = req->w;

	trace(w, (uint64_t)io->op << 32 ^ io->off ^ io->len << 20 ^ (uint64_t)(unsigned)io->error);
	if (io->error) {
		w->errors++;
		w->enospc += io->error == -ENOSPC;
		world_log(w, "op %d of volume %u, %llu+%llu ends with %s", io->op, req->vol,
			  (unsigned long long)io->off, (unsigned long long)io->len, strerror(-io->error));
		if (!error_is_fine(w, req, io->error))
			sim_fail("op %d of volume %u, %llu+%llu, fails for no reason: %s", io->op, req->vol,
				 (unsigned long long)io->off, (unsigned long long)io->len,
				 strerror(-io->error));
	}
	if (!req->raw)
		model_end(w->model, &req->op, io->error, req->buf);
	w->under_way[req->vol]--;
	w->requests--;
	if (req->ended) {
		*req->ended = true;
		*req->error = io->error;
	}
	request_free(req);
}

struct request *request_new(struct world *w, struct model_volume *vol, enum fs_op op, uint64_t off,
			    uint64_t len)
{
	static const enum model_op_kind kinds[] = {
		[FS_READ] = MODEL_READ, [FS_WRITE] = MODEL_WRITE, [FS_FLUSH] = MODEL_FLUSH,
		[FS_TRIM] = MODEL_ZERO, [FS_ZERO] = MODEL_ZERO,
	};
	struct request *req = calloc(1, sizeof(*req));

	ASSERT(req);
	req->w = w;
	req->vol = (unsigned)(vol - w->model->volume);
	req->io = (struct fs_io){
		.op = op, .vol = w->handle[req->vol], .off = off, .len = len, .done = request_done};
	req->op = (struct model_op){.kind = kinds[op], .vol = vol, .off = off, .len = len};
	if (op == FS_READ || op == FS_WRITE) {
		req->buf = malloc(len);
		ASSERT(req->buf);
		req->io.buf = req->buf;
	}
	if (op == FS_WRITE)
		model_fill(w->model, &req->op, req->buf);
	return req;
}

void request_send(struct world *w, unsigned loop, struct request *req)
{
	struct loop *l = &w->loop[loop];

	req->op.fua = req->io.flags & FS_FUA;
	req->op.loop = loop;
	w->under_way[req->vol]++;
	w->requests++;
	w->ops++;
	if (!req->raw) /* from now on it may happen */
		model_submit(w->model, &req->op);
	*l->tail = req;
	l->tail = &req->next;
	world_log(w, "op %d%s of volume %u, %llu+%llu, write %u", req->io.op, req->op.fua ? " (FUA)" : "",
		  req->vol, (unsigned long long)req->io.off, (unsigned long long)req->io.len, req->op.number);
}

int world_read(struct world *w, struct model_volume *vol, uint64_t blk, uint64_t n, void *buf)
{
	struct request *req = request_new(w, vol, FS_READ, blk * MODEL_BLOCK, n * MODEL_BLOCK);
	bool ended = false;
	int error = 0;

	free(req->buf);
	req->buf = NULL;
	req->io.buf = buf;
	req->raw = true;
	req->ended = &ended;
	req->error = &error;
	request_send(w, 0, req);
	while (!ended)
		world_drain(w);
	return error;
}

/* ---- loops --------------------------------------------------------------------- */

static bool loop_has_work(void *arg)
{
	struct loop *l = arg;

	return l->stop || l->first || l->ctx->ex.posts || l->ctx->open_write ||
	       disk_queue_is_busy(l->ctx->ex.q);
}

static void submit_batch(struct loop *l)
{
	struct fs_io *batch[LOOP_BATCH];
	size_t n = 0;

	while (l->first && n < LOOP_BATCH) {
		struct request *req = l->first;

		l->first = req->next;
		if (!l->first)
			l->tail = &l->first;
		if (req->op.kind == MODEL_FLUSH) /* covers what has ended by now */
			req->op.submitted_at = model_now(l->w->model);
		batch[n++] = &req->io;
	}
	if (n)
		fs_submit(l->ctx, batch, n);
}

static void loop_main(void *arg)
{
	struct loop *l = arg;

	while (!l->stop) {
		sched_wait(loop_has_work, l);
		submit_batch(l);
		fs_ctx_run(l->ctx);
		sched_pause();
	}
}

static bool is_idle(void *arg)
{
	struct world *w = arg;

	return w->requests == 0;
}

void world_drain(struct world *w)
{
	sched_wait(is_idle, w);
	client_wait(w);
}

void world_let_go(struct world *w)
{
	for (unsigned i = 0; i < w->set->loops; i++) {
		w->loop[i].stop = true;
		sched_join(w->loop[i].fiber);
		fs_ctx_free(w->loop[i].ctx);
	}
	for (unsigned i = 0; i < MODEL_VOLUMES_MAX; i++) {
		if (w->handle[i])
			fs_volume_put(w->handle[i]);
		w->handle[i] = NULL;
		w->blocked[i] = false;
		w->limit[i] = 0;
	}
}

static void start_loops(struct world *w)
{
	for (unsigned i = 0; i < w->set->loops; i++) {
		struct loop *l = &w->loop[i];
		int r;

		*l = (struct loop){.w = w};
		l->tail = &l->first;
		r = fs_ctx_new(w->fs, &l->ctx);
		if (r == -ENOMEM && w->tolerant)
			r = fs_ctx_new(w->fs, &l->ctx);
		if (r)
			sim_fail("fs_ctx_new: %s", strerror(-r));
		l->fiber = sched_start(i ? "loop 1" : "loop 0", loop_main, l);
	}
}

void world_get_handle(struct world *w, struct model_volume *vol)
{
	unsigned i = (unsigned)(vol - w->model->volume);
	int r = fs_volume_get(w->fs, vol->name, &w->handle[i]);

	if (r)
		sim_fail("volume %s cannot be opened: %s", vol->name, strerror(-r));
	w->blocked[i] = false;
}

int world_open(struct world *w)
{
	struct fs_options opt = {.cache_bytes = w->set->cache_bytes,
				 .commit_interval_ms = w->set->commit_interval_ms,
				 .workers = 3,
				 .scrub_goes_on = true,
				 .log = engine_log,
				 .log_arg = w,
				 .discard = w->set->discard ? FS_DISCARD_ON : FS_DISCARD_OFF,
				 .as_device = !w->set->sparse};
	struct fs_error err = {""};
	int r = pool_open(disk_new(w->sim), &opt, &sim_clock, &w->fs, &err);

	w->opens++;
	w->rebuilt = 0;
	trace(w, 77);
	if (r) {
		w->fs = NULL;
		world_log(w, "not opened: %s", err.msg);
		if (world_is_strict(w))
			sim_fail("the pool cannot be opened: %s", err.msg);
		return r;
	}
	if (w->opens % 4 == 0)
		w->fs->log->verify_max = 64u << 10;
	w->fs->groups->loaded_max = w->set->bitmap_bytes;
	w->fs->orphan_leaves = 1 + w->opens % 3; /* so that crashes find volumes that are partly freed */
	space_info_init(w->fs);			 /* the reserves go by it */
	start_loops(w);
	return 0;
}
