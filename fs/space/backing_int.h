/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/backing_int.h: shared by the worker that makes groups ahead of need (backing.c) and promises
 * (backing_promise.c).
 */
#ifndef FS_SPACE_BACKING_INT_H
#define FS_SPACE_BACKING_INT_H

#include <stdbool.h>
#include <stdint.h>

struct device_host;
struct fs;
struct space_reservation;

/* A group to make. */
struct backing_plan {
	uint8_t type; /* 0: none */
	uint64_t bytes;
};

/*
 * The next group for a request that does not fit, or (`ahead`) so that the next ones will: growth as for
 * space_metadata_fits. Under the space lock.
 */
struct backing_plan backing_plan_locked(struct fs *fs, const struct space_reservation *want, uint32_t flags,
					uint64_t growth, bool ahead);
/* Makes it; ever smaller on a host with little room. -ENOSPC, -ENOMEM, an error of the device. Waits. */
int backing_make(struct fs *fs, struct backing_plan plan);

/* Blocks for all groups: those of data, or the others. Waits. */
int backing_allocate_groups(struct fs *fs, bool data);

/*
 * How many blocks the file lacks for all groups to have theirs. Space that groups have left and that is not
 * discarded hides some.
 */
uint64_t backing_missing(struct fs *fs, const struct device_host *host);

#endif
