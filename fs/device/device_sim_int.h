/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/device_sim_int.h: the simulated device's state, shared by device_sim.c (queues, completions),
 * device_sim_fault.c and device_sim_crash.c (the log, crashes, history).
 *
 * Invariants (all under `lock`)
 * 1. The events of the log are numbered without gaps; log.first is the number of events[0].
 * 2. Events up to stable_seq are in the stable image. They are dropped, except those that history keeps.
 * 3. view = stable plus the changes of the events after stable_seq, in order; unless a flush failed or writes
 *    were lost.
 */
#ifndef FS_DEVICE_DEVICE_SIM_INT_H
#define FS_DEVICE_DEVICE_SIM_INT_H

#include "base/lock.h"
#include "fs/device/device.h"
#include "fs/device/device_int.h"
#include "fs/device/device_sim.h"

struct sim_image;
struct sim_page;

#define SIM_FAULTS_MAX 64

struct sim_change {
	uint64_t pageno;
	struct sim_page *page; /* NULL: zeros */
};

struct sim_event {
	struct device_sim_event info;
	struct sim_change *changes; /* NULL for a flush */
	uint64_t count;
	uint64_t stable_seq; /* the device's, right after this event */
};

struct sim_log {
	struct sim_event *events;
	uint64_t first, count, room;
};

/* A request that was kicked. */
struct sim_pending {
	struct device_io *io;
	uint64_t start; /* events that had completed; a flush: that it covers */
	uint64_t sum;	/* of a write's buffer */
	int error;	/* to be reported */
	bool effect;	/* it does what it says */
	bool torn;	/* a write that does some of it */
};

struct sim_queue {
	struct device_queue q;
	struct sim_queue *next;
	struct io_list fresh;
	struct sim_pending *pending;
	uint64_t count, room;
	int event_fd; /* -1: nobody has asked for it */
};

struct sim_fault {
	struct device_sim_fault fault; /* skip and count go down */
	bool used, forever;
};

struct sim_device {
	struct device dev;
	struct lock lock;
	uint64_t rng;
	enum device_sim_order order;
	unsigned complete_max;
	bool discard_zeroes;
	struct sim_queue *queues;

	struct sim_image *view, *stable;
	struct sim_log log;
	uint64_t stable_seq;

	bool dead;
	uint64_t kill_after;
	struct sim_event *frozen; /* what was under way at death */
	uint64_t frozen_count;

	/*
	 * A sparse file's pages: 0: no blocks; 1: stable ones; else two more than the number of the last
	 * event when it got them: they are stable when the event after that is. NULL: not sparse.
	 */
	uint64_t *blocks;
	bool host_full;
	uint64_t host_left; /* pages that the host still has, where it is not full */

	struct sim_image *base; /* history's start; NULL: no history */
	uint64_t base_seq;
	struct sim_image *cursor; /* base plus the events up to cursor_seq */
	uint64_t cursor_seq;

	struct sim_fault faults[SIM_FAULTS_MAX];
	int (*hook)(void *arg, const struct device_io *io);
	void *hook_arg;
	struct device_sim_stats stats;
};

/* Aborts unless it is a simulated device. */
struct sim_device *sim_of(struct device *dev);
/* A device with this image (ownership moves) as view and as stable. */
struct device *sim_device_new(struct sim_image *image, uint64_t size, uint64_t seed);

/* Decides what becomes of a request that would succeed otherwise. The lock is held. */
void sim_fault_apply_locked(struct sim_device *sim, struct sim_pending *pending);

/* ---- device_sim_host.c; the lock is held --------------------------------------------- */

/* Blocks for a range: 0 or -ENOSPC, and then nothing has changed. */
int sim_host_allocate(struct sim_device *sim, uint64_t off, uint64_t len);
void sim_host_discard(struct sim_device *sim, uint64_t off, uint64_t len);
/* -ENOTSUP: it is not sparse. */
int sim_host_look(const struct sim_device *sim, struct device_host *ret_host);
void sim_host_grow(struct sim_device *sim, uint64_t old_size, uint64_t size);
/* The blocks of an image that a crash has left: what was not stable is kept or lost, as drawn from rng. */
void sim_host_crash(struct sim_device *sim, struct sim_device *image, uint64_t *rng);

/* ---- device_sim_crash.c; the lock is held -------------------------------------------- */

/* The number of the last event. */
static inline uint64_t sim_log_seq(const struct sim_log *log)
{
	return log->first + log->count - 1;
}

/* What a write or discard under way would change now. */
struct sim_event sim_event_make(struct sim_device *sim, const struct sim_pending *pending);
void sim_event_fini(struct sim_event *event);
/*
 * Keeps some sectors of each change, drawn from rng; the others become what `image` has. Also changes the
 * image in this way.
 */
void sim_event_tear(struct sim_event *event, struct sim_image *image, uint64_t *rng);
void sim_event_apply(const struct sim_event *event, struct sim_image *image);

/* Takes the event over. */
void sim_log_append(struct sim_log *log, const struct sim_event *event);
/* Moves the events up to seq into the stable image, torn if the flush failed; drops what nobody needs. */
void sim_settle(struct sim_device *sim, uint64_t seq, bool failed);
void sim_die_locked(struct sim_device *sim);
void sim_crash_fini(struct sim_device *sim);

#endif
