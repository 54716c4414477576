/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/core/latency.h: how long commits and log groups took, as histograms. Adding one takes two atomic
 * operations, from any thread.
 */
#ifndef FS_CORE_LATENCY_H
#define FS_CORE_LATENCY_H

#include <stdatomic.h>

#include "fs/fs.h"

struct latency {
	_Atomic uint64_t us, buckets[FS_LATENCY_BUCKETS];
};

static inline void latency_add(struct latency *l, uint64_t us)
{
	unsigned i = 0;

	while (i < FS_LATENCY_BUCKETS - 1 && us > fs_latency_bounds_us[i])
		i++;
	atomic_fetch_add_explicit(&l->us, us, memory_order_relaxed);
	atomic_fetch_add_explicit(&l->buckets[i], 1, memory_order_relaxed);
}

static inline void latency_get(const struct latency *l, struct fs_latency *ret)
{
	ret->us = atomic_load_explicit(&l->us, memory_order_relaxed);
	for (unsigned i = 0; i < FS_LATENCY_BUCKETS; i++)
		ret->buckets[i] = atomic_load_explicit(&l->buckets[i], memory_order_relaxed);
}

#endif
