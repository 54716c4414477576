/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/delayed_ref.h: references to space that a transaction adds and drops, collected while the trees
 * are merged and run once at its end. Until they run, a transaction can still be given up.
 *
 * One range has one reference: dropping it frees the range.
 */
#ifndef FS_SPACE_DELAYED_REF_H
#define FS_SPACE_DELAYED_REF_H

#include <stddef.h>
#include <stdint.h>

struct delayed_ref {
	uint64_t addr; /* logical bytes */
	uint32_t len;  /* bytes / 4096 */
	int32_t delta; /* +1 or -1 */
};

struct delayed_refs {
	struct delayed_ref *ref;
	size_t count, cap;
};

/* 0 or -ENOMEM (nothing changed). len_bytes is a multiple of 4096. */
int delayed_ref_add(struct delayed_refs *refs, uint64_t addr, uint64_t len_bytes, int delta);

/*
 * Sorts them into the order in which they run: first additions, then drops, each by address. (A range may
 * come and go in one transaction, as that of a volume that is deleted; it never goes and comes.) Neighbours
 * are merged within a step of logical addresses, because the next group may begin where one ends. Cannot
 * fail.
 */
void delayed_refs_settle(struct delayed_refs *refs, uint64_t group_step);

void delayed_refs_fini(struct delayed_refs *refs);

#endif
