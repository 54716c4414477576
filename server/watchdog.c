/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/watchdog.h"

#include <errno.h>
#include <stdatomic.h>
#include <systemd/sd-daemon.h>

#include "base/mem.h"
#include "base/util.h"

/* One loop's. The task is posted again only when it has run. */
struct ping {
	struct task task;
	struct loop *loop;
	atomic_bool answered;
};

struct watchdog {
	struct event *timer;
	struct log *log;
	bool told; /* that a loop is late */
	unsigned count;
	struct ping pings[];
};

static void pong(struct task *task)
{
	atomic_store(&container_of(task, struct ping, task)->answered, true);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct watchdog *w = arg;
	unsigned late = 0;

	for (unsigned i = 0; i < w->count; i++)
		late += !atomic_load(&w->pings[i].answered);
	if (late && !w->told)
		log_line(w->log, LOG_LEVEL_ERROR, "%u of %u loops do not answer", late, w->count);
	w->told = late;
	if (!late)
		sd_notify(0, "WATCHDOG=1");
	for (unsigned i = 0; i < w->count; i++)
		if (atomic_exchange(&w->pings[i].answered, false))
			loop_post(w->pings[i].loop, &w->pings[i].task);
}

int watchdog_new(struct loop *const *loops, unsigned count, struct log *log, struct watchdog **ret_watchdog)
{
	struct watchdog *w;
	struct timeval period;
	uint64_t us;

	*ret_watchdog = NULL;
	if (sd_watchdog_enabled(0, &us) <= 0)
		return 0;
	w = mem_zalloc(sizeof(*w) + count * sizeof(w->pings[0]));
	if (!w)
		return -ENOMEM;
	w->log = log;
	w->count = count;
	for (unsigned i = 0; i < count; i++) {
		w->pings[i].loop = loops[i];
		w->pings[i].task.fn = pong;
		atomic_store(&w->pings[i].answered, true);
	}
	us /= 3;
	period = (struct timeval){.tv_sec = us / 1000000, .tv_usec = us % 1000000};
	w->timer = event_new(loops[0]->base, -1, EV_PERSIST, on_timer, w);
	if (!w->timer || event_add(w->timer, &period) < 0) {
		watchdog_free(w);
		return -ENOMEM;
	}
	*ret_watchdog = w;
	return 0;
}

void watchdog_free(struct watchdog *w)
{
	if (!w)
		return;
	if (w->timer)
		event_free(w->timer);
	mem_free(w);
}
