/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/check/check_log_volume.h: the volumes of a pool as the flush log changes them, for the checker. They
 * start as those of the root tree, and are then made, deleted, renamed and resized. Finding one by id is
 * logarithmic, and what was found stays until fini.
 */
#ifndef FS_CHECK_CHECK_LOG_VOLUME_H
#define FS_CHECK_CHECK_LOG_VOLUME_H

#include <stddef.h>
#include <stdint.h>

struct check_volume;
struct log_item;

struct log_volume;

struct log_volumes {
	struct log_volume **by_id; /* ascending */
	size_t count, cap;
};

/* From those that the root tree names. -ENOMEM. */
int log_volumes_init(struct log_volumes *lv, const struct check_volume *vol, size_t count);
void log_volumes_fini(struct log_volumes *lv);
/* NULL: there is none, or none any more. */
const struct check_volume *log_volumes_find(const struct log_volumes *lv, uint64_t id);
/* Applies an item that is valid by itself. -EUCLEAN: it does not fit the volumes. -ENOMEM. */
int log_volumes_apply(struct log_volumes *lv, const struct log_item *item);

#endif
