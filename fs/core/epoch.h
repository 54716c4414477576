/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/core/epoch.h: who may still be reading what a commit has freed.
 *
 * A reader enters the current epoch before it looks up where something is, and leaves it when it has read it.
 * A commit that has published its trees advances the epoch. What it freed may be reused once no reader is
 * left in an earlier epoch. Only the current epoch and the one before it have readers: the committer advances
 * only when the one before has drained.
 */
#ifndef FS_CORE_EPOCH_H
#define FS_CORE_EPOCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct epoch {
	_Atomic uint64_t current;
	_Atomic uint64_t readers[2];
};

/* Returns the value to pass to epoch_leave. Never waits. */
static inline unsigned epoch_enter(struct epoch *e)
{
	for (;;) {
		uint64_t cur = atomic_load(&e->current);

		atomic_fetch_add(&e->readers[cur & 1], 1);
		if (atomic_load(&e->current) == cur)
			return cur & 1;
		atomic_fetch_sub(&e->readers[cur & 1], 1);
	}
}

static inline void epoch_leave(struct epoch *e, unsigned which)
{
	atomic_fetch_sub(&e->readers[which], 1);
}

/* The committer alone: true when nobody is left in the epoch before the current one. */
static inline bool epoch_previous_is_empty(struct epoch *e)
{
	return atomic_load(&e->readers[(atomic_load(&e->current) + 1) & 1]) == 0;
}

/* The committer alone, only when the epoch before is empty. */
static inline void epoch_advance(struct epoch *e)
{
	atomic_fetch_add(&e->current, 1);
}

#endif
