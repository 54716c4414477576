/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/latency.h"

const uint32_t fs_latency_bounds_us[FS_LATENCY_BUCKETS - 1] = {
	100, 500, 1000, 5000, 10000, 50000, 100000, 500000, 1000000, 5000000, 30000000,
};
