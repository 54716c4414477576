/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/commit/volume_touch.h: leaves of volumes that the next commit opens although nobody has written there. A
 * node was found there that has no good copy, so that it becomes a lost extent (docs/design.md, Lost nodes).
 * Until then nobody can say what is free in the block groups: a rebuild cannot end, and a check cannot tell
 * what has leaked.
 *
 * Invariants
 * 1. A touch changes nothing that can be read: a node that is lost then reads as it did before, and one that
 *    can be read again is written anew as it was.
 * 2. Each touch has reserved what its commit may write, as a trim does that may split a lost extent: a touch
 *    that does not fit, or for which there is no memory, is left out, and whoever found the node asks again
 *    when it meets it again.
 *
 * Growth: at most VOLUME_TOUCHES_MAX for each volume and commit, 8 bytes each; the rest waits for the next
 * walk.
 */
#ifndef FS_COMMIT_VOLUME_TOUCH_H
#define FS_COMMIT_VOLUME_TOUCH_H

#include <stdint.h>

struct fs;

#define VOLUME_TOUCHES_MAX 64u

/* In ascending order, each once. */
struct volume_touches {
	unsigned count;
	uint64_t blk[VOLUME_TOUCHES_MAX];
};

/*
 * Touches the leaf of this volume that holds the block, or would. Takes the volume table's lock and the
 * volume's. May do nothing.
 */
void volume_touch(struct fs *fs, uint64_t id, uint64_t blk);

#endif
