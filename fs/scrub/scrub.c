/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/scrub/scrub.c: when a scrub begins, how fast it goes, when it ends, and what is known of it.
 *
 * Its thread gives way twice: by the kernel's idle class for what it reads (where the device's scheduler
 * knows classes), and by itself: while clients send requests it sleeps three times as long as each slice
 * took.
 */
#include "base/le.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/size.h"
#include "base/util.h"
#include "fs/core/clock.h"
#include "fs/core/fs_int.h"
#include "fs/core/lock_rank.h"
#include "fs/core/report.h"
#include "fs/core/wakeup.h"
#include "fs/device/device.h"
#include "fs/format/node_format.h"
#include "fs/format/super_format.h"
#include "fs/format/volume_format.h"
#include "fs/fs.h"
#include "fs/io/ctx.h"
#include "fs/scrub/scrub_int.h"
#include "fs/space/space_info.h"
#include "fs/scrub/scrub.h"

#include <errno.h>
#include <linux/ioprio.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef unsigned long long ull;

#define GIVE_WAY 3u
#define PAUSE_MAX_MS 10000u
#define NS_PER_S 1000000000ll

static int64_t now_ns(const struct fs *fs)
{
	return (int64_t)fs_wall_ns(fs);
}

/* ---- what it found --------------------------------------------------------- */

void scrub_log(struct scrub_run *r, enum fs_log_level level, const char *fmt, ...)
{
	struct scrub *s = r->fs->scrub;
	char msg[400];
	unsigned n;
	va_list ap;

	lock_take(&s->lock);
	n = ++s->damage_logged;
	lock_drop(&s->lock);
	if (n > SCRUB_DAMAGE_LINES_MAX)
		return;
	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	fs_log(r->fs, level, "%s%s", msg,
	       n == SCRUB_DAMAGE_LINES_MAX ? "; there is more, of which no line is written" : "");
}

/* Joined with the one before it, where they are neighbours: true. */
static bool join(struct scrub *s, const struct fs_scrub_damage *d)
{
	struct fs_scrub_damage *last = s->damage_count ? &s->damage[s->damage_count - 1] : NULL;

	if (!last || last->volume_id != d->volume_id || last->kind != d->kind ||
	    last->off + last->len != d->off)
		return false;
	last->len += d->len;
	return true;
}

void scrub_damaged(struct scrub_run *r, enum fs_scrub_damage_kind kind, uint64_t off, uint64_t len,
		   const char *why)
{
	struct fs_scrub_damage d = {.volume_id = r->id, .off = off, .len = len, .kind = kind};
	struct scrub *s = r->fs->scrub;
	bool joined;

	memcpy(d.volume, r->name, sizeof(d.volume));
	lock_take(&s->lock);
	s->status.damaged_bytes += len;
	joined = join(s, &d);
	if (!joined && s->damage_count < SCRUB_DAMAGE_MAX)
		s->damage[s->damage_count++] = d;
	lock_drop(&s->lock);
	if (!joined)
		scrub_log(
			r, FS_LOG_ERROR,
			"scrub: volume %s: data at byte %llu and on is damaged (%s): overwrite or trim it, or restore it from a backup; "
			"byre scrub status has the whole list",
			r->name, (ull)off, why);
}

void fs_scrub_get_status(struct fs *fs, struct fs_scrub_status *ret_status)
{
	lock_take(&fs->scrub->lock);
	*ret_status = fs->scrub->status;
	lock_drop(&fs->scrub->lock);
}

size_t fs_scrub_get_damage(struct fs *fs, struct fs_scrub_damage *ret_damage, size_t max)
{
	struct scrub *s = fs->scrub;
	size_t n;

	lock_take(&s->lock);
	n = s->damage_count;
	if (n)
		memcpy(ret_damage, s->damage, min_u64(n, max) * sizeof(*ret_damage));
	lock_drop(&s->lock);
	return n;
}

/* ---- in the superblock ------------------------------------------------------- */

void scrub_pack(struct fs *fs, struct super_scrub *ret_item)
{
	struct scrub *s = fs->scrub;
	const struct fs_scrub_status *st = &s->status;

	lock_take(&s->lock);
	*ret_item = (struct super_scrub){
		.state = (uint8_t)st->state,
		.started_ns = cpu_to_le64((uint64_t)st->started_ns),
		.ended_ns = cpu_to_le64((uint64_t)st->ended_ns),
		.volume = cpu_to_le64(s->volume),
		.pos = cpu_to_le64(s->pos),
		.phase = s->phase,
		.bytes_done = cpu_to_le64(st->bytes_done),
		.bytes_total = cpu_to_le64(st->bytes_total),
		.found = cpu_to_le64(st->found),
		.mended = cpu_to_le64(st->mended),
		.damaged_bytes = cpu_to_le64(st->damaged_bytes),
	};
	lock_drop(&s->lock);
}

static void unpack(struct scrub *s, const struct super_scrub *item)
{
	s->status = (struct fs_scrub_status){
		.state = item->state <= FS_SCRUB_STOPPED ? item->state : FS_SCRUB_NEVER,
		.started_ns = (int64_t)le64_to_cpu(item->started_ns),
		.ended_ns = (int64_t)le64_to_cpu(item->ended_ns),
		.bytes_done = le64_to_cpu(item->bytes_done),
		.bytes_total = le64_to_cpu(item->bytes_total),
		.found = le64_to_cpu(item->found),
		.mended = le64_to_cpu(item->mended),
		.damaged_bytes = le64_to_cpu(item->damaged_bytes),
	};
	s->volume = le64_to_cpu(item->volume);
	s->pos = le64_to_cpu(item->pos);
	s->phase = item->phase <= SCRUB_ENDED ? item->phase : SCRUB_SUPERS;
}

/* The next commit, soon, has it. */
static void save(struct fs *fs)
{
	if (fs_is_read_only(fs))
		return;
	lock_take(&fs->commit_lock);
	fs->super_dirty = true;
	lock_drop(&fs->commit_lock);
	fs_kick_commit(fs);
}

/* ---- a run ----------------------------------------------------------------- */

static void run_free(struct scrub_run *r)
{
	if (!r)
		return;
	mem_free(r->data);
	for (unsigned i = 0; i < NODE_LEVEL_MAX; i++)
		mem_free(r->node[i]);
	for (unsigned i = 0; i < GROUP_STRIPES_MAX; i++)
		mem_free(r->copy[i]);
	device_queue_free(r->q);
	mem_free(r);
}

/* For as long as the pool is open. */
static bool keep_room_for_damage(struct scrub *s)
{
	struct fs_scrub_damage *room = mem_alloc(SCRUB_DAMAGE_MAX * sizeof(*room));

	if (!room)
		return false;
	lock_take(&s->lock);
	if (!s->damage) {
		s->damage = room;
		room = NULL;
	}
	lock_drop(&s->lock);
	mem_free(room);
	return true;
}

static int run_new(struct fs *fs, uint64_t rate, struct scrub_run **ret_run)
{
	struct scrub_run *r = mem_zalloc(sizeof(*r));
	bool ok;

	if (!r)
		return -ENOMEM;
	r->fs = fs;
	r->rate = rate ? rate : SCRUB_RATE_DEFAULT;
	r->scale = 1;
	r->scale_max = fs->scrub->slices_small ? 1 : SCRUB_SCALE_MAX;
	r->type = VOLUME_KEY_TYPE;
	for (unsigned i = 0; i < SCRUB_READS; i++) {
		r->read[i].run = r;
		r->read[i].next = r->free_read;
		r->free_read = &r->read[i];
	}
	r->data = mem_alloc_aligned(DEVICE_ALIGN, SCRUB_BLOCKS * SCRUB_SCALE_MAX * (size_t)FS_BLOCK_SIZE);
	ok = r->data && keep_room_for_damage(fs->scrub);
	for (unsigned i = 0; i < NODE_LEVEL_MAX; i++)
		ok &= (r->node[i] = mem_alloc_aligned(DEVICE_ALIGN, NODE_SIZE)) != NULL;
	for (unsigned i = 0; i < GROUP_STRIPES_MAX; i++)
		ok &= (r->copy[i] = mem_alloc_aligned(DEVICE_ALIGN, i ? NODE_SIZE : SCRUB_COPY_BYTES)) !=
		      NULL;
	if (!ok || fs->dev->ops->queue_new(fs->dev, &r->q)) {
		r->q = NULL;
		run_free(r);
		return -ENOMEM;
	}
	*ret_run = r;
	return 0;
}

/* Takes over what the slice brought. True: there is more to be read. */
static bool slice_done(struct scrub_run *r, int error)
{
	struct scrub *s = r->fs->scrub;
	bool more;

	lock_take(&s->lock);
	s->status.bytes_done += r->bytes;
	s->status.bytes_total = max_u64(s->status.bytes_total, s->status.bytes_done);
	s->status.found += r->found;
	s->status.mended += error ? 0 : r->repaired;
	s->phase = (uint8_t)r->phase;
	s->volume = r->type == VOLUME_KEY_TYPE ? r->id : UINT64_MAX;
	s->pos = scrub_pos(r);
	more = error == 0 && r->phase != SCRUB_ENDED && !s->stop && !s->closing;
	lock_drop(&s->lock);
	return more;
}

static void report(struct fs *fs, const struct fs_scrub_status *st, int error)
{
	char bytes[SIZE_FORMAT_MAX], damaged[SIZE_FORMAT_MAX];

	size_format(st->bytes_done, bytes, sizeof(bytes));
	size_format(st->damaged_bytes, damaged, sizeof(damaged));
	if (error)
		fs_log(fs, FS_LOG_ERROR, "scrub: ended after %s: %s", bytes, strerror(-error));
	else if (st->state == FS_SCRUB_STOPPED)
		fs_log(fs, FS_LOG_NOTICE, "scrub: stopped after %s", bytes);
	else if (st->state == FS_SCRUB_FINISHED && st->found == 0 && st->damaged_bytes == 0)
		fs_log(fs, FS_LOG_NOTICE, "scrub: %s read, nothing is wrong", bytes);
	else if (st->state == FS_SCRUB_FINISHED)
		fs_log(fs, st->found > st->mended || st->damaged_bytes ? FS_LOG_ERROR : FS_LOG_WARNING,
		       "scrub: %s read, %llu pieces were bad, %llu of them are mended, %s of volumes cannot be read",
		       bytes, (ull)st->found, (ull)st->mended, damaged);
}

/* It is over, or goes on at the next start. */
static void end_run(struct scrub_run *r, int error)
{
	struct fs *fs = r->fs;
	struct scrub *s = fs->scrub;
	struct fs_scrub_status status;
	bool closing;

	lock_take(&s->lock);
	closing = s->closing && r->phase != SCRUB_ENDED && !error;
	if (!closing) {
		s->status.state = r->phase == SCRUB_ENDED ? FS_SCRUB_FINISHED : FS_SCRUB_STOPPED;
		s->status.ended_ns = now_ns(fs);
	}
	status = s->status;
	lock_drop(&s->lock);
	run_free(r);
	report(fs, &status, error);
	save(fs);
}

/* ---- its thread -------------------------------------------------------------- */

static uint64_t client_requests(struct fs *fs)
{
	uint64_t n = 0;

	lock_take(&fs->ctx_lock);
	for (struct fs_ctx *ctx = fs->ctxs; ctx; ctx = ctx->next)
		n += atomic_load_explicit(&ctx->requests, memory_order_relaxed);
	lock_drop(&fs->ctx_lock);
	return n;
}

static void give_way(struct scrub_run *r, uint64_t took_us, bool clients)
{
	uint64_t us = r->bytes * 1000000 / r->rate;
	struct scrub *s = r->fs->scrub;

	us = us > took_us ? us - took_us : 0;
	if (clients)
		us = max_u64(us, took_us * GIVE_WAY);
	r->owed_us = min_u64(r->owed_us + us, PAUSE_MAX_MS * 1000ull);
	us = r->owed_us;
	if (us < 1000) /* small volumes are short slices */
		return;
	r->owed_us = 0;
	lock_take(&s->lock);
	if (!s->stop && !s->closing)
		(void)lock_wait_ms(&s->lock, &s->cond, us / 1000);
	lock_drop(&s->lock);
}

static void lower_priority(void)
{
	pid_t self = (pid_t)syscall(SYS_gettid);

	(void)setpriority(PRIO_PROCESS, (id_t)self, 10);
	(void)syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, self, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0));
}

static void *scrub_thread(void *arg)
{
	struct scrub_run *r = arg;
	struct fs *fs = r->fs;
	struct scrub *s = fs->scrub;
	uint64_t saved = fs_now_us(fs), requests = client_requests(fs);
	bool more = true;
	int e = 0;

	lower_priority();
	while (more) {
		uint64_t began = fs_now_us(fs), now, seen;

		e = scrub_slice(r);
		more = slice_done(r, e);
		now = fs_now_us(fs);
		if (now - saved > SCRUB_SAVE_MS * 1000ull) {
			save(fs);
			saved = now;
		}
		seen = client_requests(fs);
		if (more)
			give_way(r, now - began, seen != requests);
		requests = seen;
	}
	end_run(r, e);
	lock_take(&s->lock);
	s->run = NULL;
	pthread_cond_broadcast(&s->cond);
	lock_drop(&s->lock);
	return NULL;
}

bool scrub_step(struct fs *fs)
{
	struct scrub_run *r = fs->scrub->run;
	int e;

	if (!r)
		return false;
	e = scrub_slice(r);
	if (slice_done(r, e))
		return true;
	fs->scrub->run = NULL;
	end_run(r, e);
	return true;
}

/* ---- starting and stopping ------------------------------------------------------ */

/* The thread of the last run, whose work is done, or all but. */
static void join_thread(struct scrub *s)
{
	bool joinable;

	lock_take(&s->lock);
	while (s->joinable && s->run && s->status.state != FS_SCRUB_RUNNING)
		lock_wait(&s->lock, &s->cond);
	joinable = s->joinable && !s->run;
	if (joinable)
		s->joinable = false;
	lock_drop(&s->lock);
	if (joinable)
		pthread_join(s->thread, NULL);
}

static void reset(struct fs *fs, const struct scrub_run *r)
{
	struct scrub *s = fs->scrub;
	uint64_t data, metadata;

	space_used_bytes(fs, &data, &metadata);
	lock_take(&s->lock);
	s->status = (struct fs_scrub_status){.state = FS_SCRUB_RUNNING,
					     .started_ns = now_ns(fs),
					     .rate = r->rate,
					     .bytes_total = data + 2 * metadata};
	s->volume = s->pos = 0;
	s->phase = SCRUB_SUPERS;
	s->damage_count = s->damage_logged = 0;
	lock_drop(&s->lock);
}

static void go_on(struct fs *fs, struct scrub_run *r)
{
	struct scrub *s = fs->scrub;

	lock_take(&s->lock);
	s->status.state = FS_SCRUB_RUNNING;
	s->status.ended_ns = 0;
	s->status.rate = r->rate;
	s->damage_logged = 0;
	scrub_go_to(r, s->phase, s->volume, s->pos);
	lock_drop(&s->lock);
}

/* s->run is this run: nobody else starts one. */
static int launch(struct fs *fs, struct scrub_run *r)
{
	struct scrub *s = fs->scrub;
	int e = 0;

	if (!fs->clock->threads)
		return 0;
	lock_take(&s->lock);
	e = -pthread_create(&s->thread, NULL, scrub_thread, r);
	s->joinable = e == 0;
	lock_drop(&s->lock);
	return e;
}

int fs_scrub_start(struct fs *fs, uint64_t rate, bool restart, struct fs_error *err)
{
	struct scrub *s = fs->scrub;
	struct scrub_run *r;
	bool taken, goes_on;
	int e = run_new(fs, rate, &r);

	if (e)
		return fs_fail(err, e, "scrub start: no memory or descriptors for it: try again later");
	join_thread(s);
	lock_take(&s->lock);
	taken = s->run || s->joinable || s->closing;
	if (!taken) {
		s->run = r;
		s->stop = false;
	}
	goes_on = !restart && (s->status.state == FS_SCRUB_STOPPED || s->status.state == FS_SCRUB_RUNNING);
	lock_drop(&s->lock);
	if (taken) {
		run_free(r);
		return fs_fail(err, -EBUSY,
			       "scrub start: one is running: see byre scrub status, or stop it first");
	}
	if (goes_on)
		go_on(fs, r);
	else
		reset(fs, r);
	fs_log(fs, FS_LOG_NOTICE, "scrub: %s, at most %llu bytes a second", goes_on ? "goes on" : "begins",
	       (ull)r->rate);
	save(fs);
	e = launch(fs, r);
	if (e) {
		s->run = NULL;
		end_run(r, e);
		return fs_fail(err, e, "scrub start: no thread for it: %s", strerror(-e));
	}
	return 0;
}

/* Until none runs. */
static void wait_for_end(struct fs *fs)
{
	struct scrub *s = fs->scrub;

	if (!fs->clock->threads) {
		struct scrub_run *r = s->run;

		s->run = NULL;
		if (r)
			end_run(r, 0);
		return;
	}
	lock_take(&s->lock);
	pthread_cond_broadcast(&s->cond);
	while (s->run)
		lock_wait(&s->lock, &s->cond);
	lock_drop(&s->lock);
	join_thread(s);
}

int fs_scrub_stop(struct fs *fs, struct fs_error *err)
{
	struct scrub *s = fs->scrub;
	bool runs;

	lock_take(&s->lock);
	runs = s->run != NULL;
	s->stop |= runs;
	lock_drop(&s->lock);
	if (!runs)
		return fs_fail(err, -ENOENT, "scrub stop: none is running");
	wait_for_end(fs);
	return 0;
}

/* ---- with the pool ---------------------------------------------------------------- */

void scrub_init(struct fs *fs)
{
	lock_init(&fs->scrub->lock, LOCK_SCRUB);
	lock_cond_init(&fs->scrub->cond);
}

void scrub_close(struct fs *fs)
{
	lock_take(&fs->scrub->lock);
	fs->scrub->closing = true;
	lock_drop(&fs->scrub->lock);
	wait_for_end(fs);
}

void scrub_fini(struct fs *fs)
{
	ASSERT(!fs->scrub->run && !fs->scrub->joinable);
	mem_free(fs->scrub->damage);
	pthread_cond_destroy(&fs->scrub->cond);
	lock_fini(&fs->scrub->lock);
}

void scrub_opened(struct fs *fs)
{
	unpack(fs->scrub, &fs->super->scrub);
}

/* One that was under way when the pool was closed says so in the superblock. */
static bool was_interrupted(struct fs *fs)
{
	return fs->opt.scrub_goes_on && fs->scrub->status.state == FS_SCRUB_RUNNING;
}

static bool is_due(struct fs *fs)
{
	const struct fs_scrub_status *st = &fs->scrub->status;
	int64_t last = st->ended_ns ? st->ended_ns : (int64_t)le64_to_cpu(fs->super->ctime_ns);

	return fs->opt.scrub_interval_s &&
	       now_ns(fs) - last >=
		       (int64_t)min_u64(fs->opt.scrub_interval_s, INT64_MAX / NS_PER_S) * NS_PER_S;
}

/*
 * It is asked after each commit; what was wanting a moment ago (memory, descriptors, threads) mostly still
 * is.
 */
void scrub_poll(struct fs *fs)
{
	struct fs_error err = {""};
	bool start;

	lock_take(&fs->scrub->lock);
	start = !fs->scrub->run && !fs->scrub->closing && (was_interrupted(fs) || is_due(fs)) &&
		fs_now_us(fs) >= fs->scrub->not_before_us;
	lock_drop(&fs->scrub->lock);
	if (!start || fs_scrub_start(fs, fs->opt.scrub_rate, false, &err) == 0)
		return;
	fs->scrub->not_before_us = fs_now_us(fs) + SCRUB_AGAIN_S * 1000000ull;
	fs_log(fs, FS_LOG_WARNING, "%s; it will be tried again in %u seconds", err.msg, SCRUB_AGAIN_S);
}
