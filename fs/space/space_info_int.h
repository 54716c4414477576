/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/space/space_info_int.h: what space_bound.c computes for space_info.c without changing anything, and what
 * space_ticket.c asks of space_info.c. Everything is called under the lock of struct space_info.
 *
 * Invariant: reserving, making data groups and saying how much is free all ask the same function,
 * space_metadata_fits. It is (M) of docs/design.md.
 */
#ifndef FS_SPACE_SPACE_INFO_INT_H
#define FS_SPACE_SPACE_INFO_INT_H

#include "fs/space/space_info.h"

struct fs;

/* Takes the reservation if it fits, without looking at tickets. */
enum space_fit space_try_reserve_locked(struct fs *fs, const struct space_reservation *want, uint32_t flags);

#define SYSTEM_GROUP_MAX (256ull << 20)

/* All pendings: of requests under way, and of the running and committing overlays. */
struct space_pending space_all_pending(const struct space_info *si);

/* Metadata for data yet to come, in the worst case: each block an item of its own, in half-full leaves. */
uint64_t space_items_for(uint64_t data_bytes);

/*
 * Metadata that the writes to reserved volumes may come to need, when so many bytes more than now are
 * promised: items for what is owed to them, and nodes that a commit writes anew.
 */
uint64_t space_promise_growth(const struct space_info *si, uint64_t more_bytes);

/*
 * What stays free for metadata beyond that when data takes more of the device: so that data, not metadata,
 * runs out first, and what is trimmed then can be written again, in smaller pieces too.
 */
uint64_t space_growth_slack(const struct space_info *si, uint64_t more_data);

/*
 * Whether the commits of everything pending, and of `extra`, find room in metadata groups and in this much
 * unallocated space. flags: enum space_flags, which say what reserves stay untouched. `growth`: bytes of
 * metadata to leave room for beyond what is there; not for requests with SPACE_FREEING or SPACE_PROMISED.
 */
bool space_metadata_fits(const struct fs *fs, struct space_pending extra, uint64_t unallocated,
			 uint32_t flags, uint64_t growth);

/* How many bytes are lacking: 0 if they fit. */
uint64_t space_metadata_lacking(const struct fs *fs, struct space_pending extra, uint64_t unallocated,
				uint32_t flags, uint64_t growth);

/* Device space for groups that hold this much data, with their cache slots. */
uint64_t space_groups_for(const struct fs *fs, uint64_t data_bytes);

/* What metadata must also have room for when a data group of that size is made. */
uint64_t space_group_growth(const struct fs *fs, uint64_t bytes);

/* Whether this much data can be reserved in the existing groups. */
bool space_data_fits(const struct space_info *si, uint64_t bytes, uint32_t flags);
/* How many bytes are lacking. */
uint64_t space_data_lacking(const struct space_info *si, uint64_t bytes, uint32_t flags);

/* How many data groups the group tree has room for; a quarter of it is kept for metadata. */
uint64_t space_groups_left(const struct fs *fs);

/*
 * Device bytes that data groups for so much data of reserved volumes take of unallocated space; and how many
 * groups that are at the most. Where a range ends the groups become smaller, and the slots beside each take
 * some more (a *loss*, of at most so much for each range). All losses together are counted once where space
 * is given to metadata, so that what is promised always finds its place; and twice where a reservation is
 * checked, so that metadata finds its own when they have come.
 */
uint64_t space_aside_bytes(const struct fs *fs, uint64_t data_bytes, unsigned losses);
uint64_t space_aside_groups(const struct fs *fs, uint64_t data_bytes);

/* Unallocated space except that: what metadata, and data of others, may have. */
uint64_t space_unallocated(const struct fs *fs, unsigned losses);

/* How much more can be set aside for reserved volumes, with this much more metadata. */
uint64_t space_can_set_aside_locked(struct fs *fs, uint64_t growth);

#endif
