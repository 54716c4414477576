/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/device_sim.h: a device in memory for tests and the crash simulator: sparse, cheap to clone,
 * deterministic from a seed, with faults, and with crashes that lose, tear and reorder what was not flushed.
 *
 * The model
 * 1. There are two images. The *view* is what reads see: a write is in it from its completion on. The
 *    *stable* image is what certainly survives a crash: a flush that completes moves into it every write and
 *    discard that completed before the flush was submitted. In between is a log of completed events.
 * 2. Completions happen only inside poll and wait of the request's own queue, in an order drawn from the
 *    seed.
 * 3. A crash keeps the stable image and any part of the rest: writes that completed and were not flushed, and
 *    writes under way. Each is kept, dropped or torn between sectors of 512 bytes. Completed writes keep
 *    their order; a write that is under way comes after those that had completed when it was kicked, and
 *    before or after the others.
 * 4. A flush that fails settles what it covered: of each write some sectors, drawn from the seed, become
 *    stable and the others never do, although reads see them. No later flush brings them back. (That is what
 *    page caches do.)
 * 5. A discard leaves in each page its old content, zeros or garbage, and is as volatile as a write.
 * 6. A buffer that changes while it is being written aborts the test, with a message.
 *
 * One thread gives one outcome for one seed. Several threads are safe, but not deterministic. Allocations do
 * not go through base/mem.h, so that they do not disturb tests that fail the engine's n-th allocation.
 * Running out of memory aborts.
 *
 * All calls below take a device made by device_sim_new or one of its descendants.
 */
#ifndef FS_DEVICE_DEVICE_SIM_H
#define FS_DEVICE_DEVICE_SIM_H

#include "fs/device/device.h"

#define DEVICE_SIM_SECTOR 512u

/* A device full of zeros; size is a multiple of 4096. */
struct device *device_sim_new(uint64_t size, uint64_t seed);
/*
 * A copy of what reads see now, with everything in it durable; no faults of the table, default order. Costs
 * size / 256 KiB bytes.
 */
struct device *device_sim_clone(struct device *dev, uint64_t seed);
/* Writes what reads see now to a sparse file, for use with other tools. 0 or a negative errno. */
int device_sim_save(struct device *dev, const char *path);

/* ---- order ---------------------------------------------------------------------- */

enum device_sim_order { DEVICE_SIM_FIFO, DEVICE_SIM_RANDOM };

/*
 * Which requests a poll completes: all that are under way if complete_max is 0, else 1 to complete_max of
 * them. The default is DEVICE_SIM_RANDOM and 0.
 */
void device_sim_set_order(struct device *dev, enum device_sim_order order, unsigned complete_max);

/* What discarded pages hold: zeros only (as a hole in a file), or the default, anything (as a disk). */
void device_sim_set_discard_zeroes(struct device *dev, bool zeroes);

/*
 * A sparse file on a host that can run full. The pages that the view has then have blocks, the others get
 * them when they are written or allocated, and lose them when they are discarded. While the host is full,
 * whatever would need blocks fails with -ENOSPC; a write fails as a whole. What no flush has made stable may
 * have lost its blocks after a crash; images of one are sparse too. History images and clones are not.
 */
void device_sim_set_sparse(struct device *dev);
void device_sim_set_host_full(struct device *dev, bool full);
/*
 * How much the host has left, besides what it has given already; discards give back to it. UINT64_MAX, the
 * default: any amount.
 */
void device_sim_set_host_left(struct device *dev, uint64_t bytes);
/* Pages that have blocks; 0 when it is not sparse. */
uint64_t device_sim_host_pages(struct device *dev);

/* ---- crashes ---------------------------------------------------------------------- */

enum device_sim_crash_mode {
	DEVICE_SIM_CRASH_RANDOM,	 /* each drawn: kept, dropped, torn; the proportions are drawn too */
	DEVICE_SIM_CRASH_LOSE_ALL,	 /* nothing that is not stable survives */
	DEVICE_SIM_CRASH_KEEP_COMPLETED, /* what completed survives, what was under way does not */
	DEVICE_SIM_CRASH_KEEP_ALL,	 /* everything survives */
	DEVICE_SIM_CRASH_KEEP_UNDER_WAY, /* what completed is lost, what was under way survives */
	DEVICE_SIM_CRASH_TORN,		 /* everything is torn */
	DEVICE_SIM_CRASH_MODES,
};

/* The device dies: every request on every queue, from now on, completes with -EIO and does nothing. */
void device_sim_kill(struct device *dev);
/*
 * It dies by itself, in place of the events-th completion of a write, flush or discard from now on (1: the
 * next one). 0 turns this off.
 */
void device_sim_kill_after(struct device *dev, uint64_t events);
bool device_sim_is_dead(struct device *dev);

/*
 * A new device with what a crash at this moment (or when the device died) may leave. May be called many times
 * with different seeds and modes; the old device goes on as before. Everything in the new one is durable; its
 * seed is `seed`.
 */
struct device *device_sim_crash_image(struct device *dev, enum device_sim_crash_mode mode, uint64_t seed);
/* Kill and crash image in one. The old device is still to be closed. */
struct device *device_sim_crash(struct device *dev, enum device_sim_crash_mode mode, uint64_t seed);

/* ---- history: crash after every event, from one run ---------------------------------- */

struct device_sim_event {
	enum device_op op; /* WRITE, DISCARD or FLUSH */
	uint64_t off, len;
	uint64_t start;	 /* how many events had completed when it was kicked (a flush: submitted) */
	uint64_t covers; /* FLUSH: the events 1 to covers are stable with it */
};

/* Keeps all events from now on, in memory. What completed before counts as stable at event 0. */
void device_sim_history_start(struct device *dev);
/* How many there are. They are numbered from 1. */
uint64_t device_sim_history_count(struct device *dev);
void device_sim_history_get(struct device *dev, uint64_t n, struct device_sim_event *ret_event);
/*
 * As device_sim_crash_image, for a crash right after event n (0: at the start). With KEEP_COMPLETED: exactly
 * the events 1 to n. Cheapest when called with n ascending.
 */
struct device *device_sim_history_image(struct device *dev, uint64_t n, enum device_sim_crash_mode mode,
					uint64_t seed);

/* ---- faults ---------------------------------------------------------------------------- */

#define DEVICE_SIM_OP(op) (1u << (op))
#define DEVICE_SIM_ALL_OPS (~0u)

enum device_sim_fault_kind {
	DEVICE_SIM_FAIL,      /* the request fails and has no effect; a flush: see 4. above */
	DEVICE_SIM_FAIL_TORN, /* the request fails, but some sectors of a write arrive */
	/* it reports success but does nothing; a read leaves the buffer as it was */
	DEVICE_SIM_LOSE,
};

struct device_sim_fault {
	enum device_sim_fault_kind kind;
	unsigned ops;	   /* DEVICE_SIM_OP(DEVICE_READ) | ... */
	uint64_t off, len; /* only requests that touch this range; len 0: any. Flushes touch every range */
	uint64_t skip;	   /* lets this many requests pass */
	uint64_t count;	   /* then hits this many; 0: all from then on */
	int error;	   /* for example -EIO */
};

/*
 * Requests are matched when they are kicked, in that order; the first fault that is due wins. Returns an id.
 * At most 64 at a time.
 */
unsigned device_sim_fault_add(struct device *dev, const struct device_sim_fault *fault);
void device_sim_fault_remove(struct device *dev, unsigned id);
void device_sim_fault_clear(struct device *dev);

/*
 * Called for each request when it is kicked, after the table; a negative errno fails it. No calls to the
 * device inside. NULL: none.
 */
void device_sim_set_hook(struct device *dev, int (*hook)(void *arg, const struct device_io *io), void *arg);

/* Reads that touch these pages fail with -EIO until the page is written again. Multiples of 4096. */
void device_sim_bad_range(struct device *dev, uint64_t off, uint64_t len);
/* Bit rot: flips one bit, in all images. */
void device_sim_flip(struct device *dev, uint64_t addr, unsigned bit);
/* Undoes bit rot: the page at off, in each image and in the log where it is exactly `bad`, becomes `good`. */
void device_sim_mend(struct device *dev, uint64_t off, const void *bad, const void *good);
/*
 * Reads and writes past all queues, faults and counters; writing changes all images. Any alignment, within
 * the device.
 */
void device_sim_peek(struct device *dev, uint64_t off, void *buf, uint64_t len);
void device_sim_poke(struct device *dev, uint64_t off, const void *buf, uint64_t len);

/* ---- counters ---------------------------------------------------------------------------- */

struct device_sim_stats {
	uint64_t ops[4]; /* completed, by enum device_op, with and without errors */
	uint64_t failed; /* of these, with an error */
	uint64_t read_bytes, written_bytes, discarded_bytes;
	uint64_t unstable_events; /* completed writes and discards that are not stable */
	uint64_t under_way;
	uint64_t pages; /* that the view has allocated */
};

void device_sim_get_stats(struct device *dev, struct device_sim_stats *ret_stats);

#endif
