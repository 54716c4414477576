/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/lib/fast_fill.h: volumes with very many extents, quickly: the blocks get a place and a checksum, and
 * no data is written. On a simulated device, or in a sparse file, what was never written reads as zeros, and
 * so do they; but they are no holes.
 */
#ifndef TESTS_LIB_FAST_FILL_H
#define TESTS_LIB_FAST_FILL_H

#include "tests/lib/engine.h"

struct fs_volume;

#define FAST_FILL_COMMIT 100000u /* pendings between two commits */

void fast_fill_one(struct engine *e, struct fs_volume *vol, uint64_t blk, uint32_t crc);

uint32_t fast_fill_crc(void);

/* n blocks from `first` on, each `stride` behind the one before: extents of one block each. Committed. */
void fast_fill(struct engine *e, struct fs_volume *vol, uint64_t first, uint64_t n, uint64_t stride);

#endif
