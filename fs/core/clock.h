/* SPDX-License-Identifier: BSD-3-Clause */
/* fs/core/clock.h: the engine's two clocks. */
#ifndef FS_CORE_CLOCK_H
#define FS_CORE_CLOCK_H

#include <stdint.h>

/* Microseconds of the monotonic clock: for durations. */
uint64_t fs_now_us(void);
/* Nanoseconds since 1970, UTC: for what people read. It may jump. */
uint64_t fs_wall_ns(void);

#endif
