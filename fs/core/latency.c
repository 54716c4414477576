/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/core/latency.h"

#include "fs/fs.h"

const uint32_t fs_latency_bounds_us[FS_LATENCY_BUCKETS - 1] = {
	50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000, 10000000,
};
