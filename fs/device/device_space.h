/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/device_space.h: a set of ranges of the device: the space that belongs to no block group.
 *
 * A search tree by offset (a treap) that also knows the longest range below each node.
 *
 * Invariants
 * 1. Ranges do not overlap and do not touch: neighbours are joined.
 * 2. Giving a range back that was taken in one piece needs no memory: each take brings the node that giving
 *    back may need.
 *
 * Growth: every call is logarithmic in the number of ranges; memory is one node of 48 bytes for each range
 * and for each piece that is taken.
 *
 * Threads: no lock of its own.
 */
#ifndef FS_DEVICE_DEVICE_SPACE_H
#define FS_DEVICE_DEVICE_SPACE_H

#include <stdbool.h>
#include <stdint.h>

struct device_range;

/* Start with {0}. */
struct device_space {
	struct device_range *root;
	struct device_range *spare; /* linked by `left` */
	uint64_t bytes, ranges;
	uint64_t rng;
};

void device_space_fini(struct device_space *ds);

/* None of it is in the set. -ENOMEM: nothing has changed. */
int device_space_add(struct device_space *ds, uint64_t off, uint64_t len);

/* -EUCLEAN: not all of it is in the set. -ENOMEM. Nothing has changed then. */
int device_space_take(struct device_space *ds, uint64_t off, uint64_t len);

/* The first place with len bytes in one range. False: there is none. */
bool device_space_find(const struct device_space *ds, uint64_t len, uint64_t *ret_off);

/*
 * The first range that ends after `from`, whole. False: there is none. To walk: from = *ret_off + *ret_len.
 */
bool device_space_next(const struct device_space *ds, uint64_t from, uint64_t *ret_off, uint64_t *ret_len);

/* For tests. The length of the longest range. */
uint64_t device_space_longest(const struct device_space *ds);

#endif
