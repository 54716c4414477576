/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/pool_watch.h"

#include <errno.h>
#include <inttypes.h>

#include "base/size.h"
#include "base/util.h"
#include "proto/figure_table.h"
#include "server/figures.h"

#define HYSTERESIS_PERCENT 2

uint64_t pool_used_bytes(const struct fs_info *info)
{
	return info->data_bytes + info->volume_reserved_bytes;
}

uint64_t pool_left_bytes(const struct fs_info *info)
{
	return info->free_bytes - info->host_short_bytes;
}

unsigned pool_used_percent(const struct fs_info *info)
{
	return figure_used_percent(pool_used_bytes(info), pool_left_bytes(info));
}

/* ---- one look ------------------------------------------------------------- */

static void tell(struct pool_watch *w, enum log_level level, const char *event, const struct fs_info *info,
		 const char *what)
{
	const struct log_field fields[] = {{"BYRE_EVENT", event}, {"BYRE_POOL", w->config->pool}};
	char left[SIZE_FORMAT_MAX], sizes[SIZE_FORMAT_MAX];

	log_event(w->log, level, fields, ARRAY_SIZE(fields),
		  "%s: %s: %u %% used, %s free; volumes have %s altogether%s", w->config->pool, what,
		  pool_used_percent(info), size_format(pool_left_bytes(info), left, sizeof(left)),
		  size_format(info->provisioned_bytes, sizes, sizeof(sizes)),
		  level == LOG_LEVEL_WARNING ? ": grow the pool, or delete, trim or shrink volumes" : "");
}

static void look_level(struct pool_watch *w, const struct fs_info *info)
{
	const unsigned *at = w->config->warn_full;
	unsigned percent = pool_used_percent(info), old = w->level;

	while (w->level < w->config->warn_full_count && percent >= at[w->level])
		w->level++;
	while (w->level && percent + HYSTERESIS_PERCENT < at[w->level - 1])
		w->level--;
	if (w->level > old)
		tell(w, LOG_LEVEL_WARNING, "pool-nearly-full", info, "the pool is nearly full");
	else if (w->level < old)
		tell(w, LOG_LEVEL_NOTICE, "pool-less-full", info, "the pool is less full again");
}

static void look_full(struct pool_watch *w, const struct fs_info *info, uint64_t now_ms)
{
	if (info->enospc > w->enospc) {
		w->enospc = info->enospc;
		w->refused_ms = now_ms;
		if (!w->full)
			tell(w, LOG_LEVEL_WARNING, "pool-full", info,
			     "the pool is full, requests are refused for lack of space");
		w->full = true;
	} else if (w->full && now_ms - w->refused_ms >= POOL_WATCH_QUIET_MS && pool_used_percent(info) < 99) {
		w->full = false;
		tell(w, LOG_LEVEL_NOTICE, "pool-not-full", info, "the pool is no longer full");
	}
}

void pool_watch_look(struct pool_watch *w, const struct fs_info *info, uint64_t now_ms)
{
	look_level(w, info);
	look_full(w, info, now_ms);
}

/* ---- again and again ------------------------------------------------------ */

static void look_work(struct fs_work *work)
{
	struct pool_watch *w = container_of(work, struct pool_watch, work);
	struct fs_info info;

	fs_get_info(w->fs, &info);
	pool_watch_look(w, &info, figures_now_us() / 1000);
	atomic_store(&w->busy, false);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct pool_watch *w = arg;

	if (!atomic_exchange(&w->busy, true))
		fs_work(w->fs, &w->work);
}

int pool_watch_start(struct pool_watch *w, struct event_base *base)
{
	const struct timeval period = {.tv_sec = POOL_WATCH_MS / 1000,
				       .tv_usec = POOL_WATCH_MS % 1000 * 1000};

	w->work.fn = look_work;
	w->timer = event_new(base, -1, EV_PERSIST, on_timer, w);
	if (!w->timer || event_add(w->timer, &period) < 0)
		return -ENOMEM;
	on_timer(-1, 0, w);
	return 0;
}

void pool_watch_stop(struct pool_watch *w)
{
	if (w->timer)
		event_free(w->timer);
	w->timer = NULL;
}
