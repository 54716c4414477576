/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/check/check_log_volume.h: the volumes of a pool as the flush log changes them, for the check: those of
 * the root tree at first, then made, deleted, renamed and resized. Found by id, in logarithmic time. What was
 * found stays until fini.
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
/* NULL: there is none, or not any more. */
const struct check_volume *log_volumes_find(const struct log_volumes *lv, uint64_t id);
/* An item that was checked for itself. -EUCLEAN: it cannot be. -ENOMEM. */
int log_volumes_apply(struct log_volumes *lv, const struct log_item *item);

#endif
