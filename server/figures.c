/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/figures.h"

#include <time.h>

const char *const figures_kind_names[FIGURES_KINDS] = {"read", "write", "flush", "free", "other"};

const uint32_t figures_bounds_us[FIGURES_BUCKETS - 1] = {
	50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000, 10000000,
};

const char *const figures_bounds_text[FIGURES_BUCKETS] = {
	"5e-05", "0.0001", "0.0002", "0.0005", "0.001", "0.002", "0.005", "0.01",
	"0.02",	 "0.05",   "0.1",    "0.2",    "0.5",	"1",	 "10",	  "+Inf",
};

static void bump(_Atomic uint64_t *v, uint64_t by)
{
	/* One writer: no need for a locked instruction. */
	atomic_store_explicit(v, atomic_load_explicit(v, memory_order_relaxed) + by, memory_order_relaxed);
}

static uint64_t look(const _Atomic uint64_t *v)
{
	return atomic_load_explicit(v, memory_order_relaxed);
}

static unsigned bucket_of(uint64_t us)
{
	unsigned i = 0;

	while (i < FIGURES_BUCKETS - 1 && us > figures_bounds_us[i])
		i++;
	return i;
}

void figures_add(struct figures_live *live, enum figures_kind kind, uint64_t bytes, uint64_t us, int error)
{
	bump(&live->kind[kind].count, 1);
	bump(&live->kind[kind].bytes, bytes);
	bump(&live->kind[kind].us, us);
	bump(&live->kind[kind].buckets[bucket_of(us)], 1);
	if (error)
		bump(&live->kind[kind].errors, 1);
}

void figures_sum(struct figures *sum, const struct figures_live *live)
{
	for (int k = 0; k < FIGURES_KINDS; k++) {
		sum->kind[k].count += look(&live->kind[k].count);
		sum->kind[k].errors += look(&live->kind[k].errors);
		sum->kind[k].bytes += look(&live->kind[k].bytes);
		sum->kind[k].us += look(&live->kind[k].us);
		for (int b = 0; b < FIGURES_BUCKETS; b++)
			sum->kind[k].buckets[b] += look(&live->kind[k].buckets[b]);
	}
}

uint64_t figures_now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}
