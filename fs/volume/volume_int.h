/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/volume/volume_int.h: what volume.c, volume_op.c and volume_look.c share: the table of volumes, under its
 * lock.
 */
#ifndef FS_VOLUME_VOLUME_INT_H
#define FS_VOLUME_VOLUME_INT_H

#include <stdbool.h>
#include <stdint.h>

struct fs;
struct fs_volume;
struct pending;
struct space_pending;
struct volume_table;
struct volume_text;

/* One reference, the caller's; in no table. NULL: no memory. */
struct fs_volume *volume_new(struct fs *fs, uint64_t id, const char *name);

struct fs_volume *volume_table_find_locked(struct volume_table *t, const char *name);
/* Takes over the caller's reference. False: the name is taken. */
bool volume_table_insert_locked(struct volume_table *t, struct fs_volume *vol);
/* The volume's size has changed, or is to count no more. */
void volume_table_count_locked(struct volume_table *t, struct fs_volume *vol, uint64_t size);
/* Drops the table's reference. */
void volume_table_remove_locked(struct volume_table *t, struct fs_volume *vol);
/* Takes *name, and puts the old name there. */
void volume_table_rename_locked(struct volume_table *t, struct fs_volume *vol, struct volume_text **name);
/* Its id is free of it, and the next commit makes an orphan of it. The table's lock is held. */
void volume_set_deleted_locked(struct fs_volume *vol);
/* Sets the flags, and exchanges its comment with *comment (NULL: none). Returns the old flags. */
uint32_t volume_change_item(struct fs_volume *vol, uint32_t flags, struct volume_text **comment);
uint32_t volume_change_item_locked(struct fs_volume *vol, uint32_t flags, struct volume_text **comment);
/*
 * The hole for bytes [from, to) when a volume ends at `from`; *ret_spare is for volume_insert_locked.
 * -ENOMEM.
 */
int volume_hole_new(uint64_t from, uint64_t to, struct pending **ret_hole, struct pending **ret_spare);

/* What an operation changes in the root tree. */
#define VOLUME_OP_PENDING ((struct space_pending){1, 1024})

/* The first volume with a greater name; "" finds the very first. NULL: none. */
struct fs_volume *volume_table_next_locked(struct volume_table *t, const char *after);

#endif
