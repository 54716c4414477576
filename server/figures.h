/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/figures.h: how many requests there were, of how many bytes, how long they took and how many failed,
 * by kind.
 *
 * 1. One thread adds to a set; any thread may read it meanwhile. A reader sees each number whole, but not all
 *    of them as of one instant.
 * 2. A latency counts in the first bucket whose bound it does not exceed; the last bucket has no bound.
 *
 * Adding costs a dozen plain memory accesses; a set has FIGURES_KINDS * (4 + FIGURES_BUCKETS) numbers (640
 * bytes).
 */
#ifndef SERVER_FIGURES_H
#define SERVER_FIGURES_H

#include <stdatomic.h>
#include <stdint.h>

/*
 * FREE: trims and zeroes. OTHER: block status, cache, what is not known. The numbers are the protocol's, too.
 */
enum figures_kind { FIGURES_READ, FIGURES_WRITE, FIGURES_FLUSH, FIGURES_FREE, FIGURES_OTHER, FIGURES_KINDS };
#define FIGURES_BUCKETS 16

extern const char *const figures_kind_names[FIGURES_KINDS];
/* Microseconds; of all buckets but the last. */
extern const uint32_t figures_bounds_us[FIGURES_BUCKETS - 1];
/* The same in seconds, as metrics have them; the last is "+Inf". */
extern const char *const figures_bounds_text[FIGURES_BUCKETS];

struct figures_live {
	struct {
		_Atomic uint64_t count, errors, bytes, us, buckets[FIGURES_BUCKETS];
	} kind[FIGURES_KINDS];
};

struct figures {
	struct figures_kind_sum {
		uint64_t count, errors, bytes, us, buckets[FIGURES_BUCKETS];
	} kind[FIGURES_KINDS];
};

/* A request has ended; `bytes` were moved, and `error` is 0 or not. From the set's one thread. */
void figures_add(struct figures_live *live, enum figures_kind kind, uint64_t bytes, uint64_t us, int error);

/* Adds what `live` has to `sum`. */
void figures_sum(struct figures *sum, const struct figures_live *live);

/* CLOCK_MONOTONIC. */
uint64_t figures_now_us(void);

#endif
