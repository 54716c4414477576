/* SPDX-License-Identifier: BSD-3-Clause */
/* fs/volume_int.h: what volume.c, volume_op.c and volume_look.c share: the table of volumes, under its lock. */
#ifndef FS_VOLUME_INT_H
#define FS_VOLUME_INT_H

#include "fs/volume.h"

/* One reference, the caller's; in no table. NULL: no memory. */
struct fs_volume *volume_new(struct fs *fs, uint64_t id, const char *name);

struct fs_volume *volume_table_find_locked(struct volume_table *t, const char *name);
/* Takes over the caller's reference. False: the name is taken. */
bool volume_table_insert_locked(struct volume_table *t, struct fs_volume *vol);
/* Drops the table's reference. */
void volume_table_remove_locked(struct volume_table *t, struct fs_volume *vol);
void volume_table_rename_locked(struct volume_table *t, struct fs_volume *vol, const char *name);
/* The first volume whose name is greater; "" for the very first. NULL: none. */
struct fs_volume *volume_table_next_locked(struct volume_table *t, const char *after);

/*
 * Before and after a resize that asks (fs_volume_set_size), by whoever does one metadata operation at a time. begin: 0, or
 * why it may not be.
 */
int volume_resize_begin(struct fs_volume *vol, uint64_t size, bool may_shrink, struct fs_error *err);
void volume_resize_end(struct fs_volume *vol);

#endif
