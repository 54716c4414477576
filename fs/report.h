/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/report.h: how the engine tells its caller what happened: lines for the log, a text for an error, and the one
 * state that an error can leave behind, read-only. Any thread, under any lock; none of these waits.
 */
#ifndef FS_REPORT_H
#define FS_REPORT_H

#include <stdbool.h>

#include "fs/fs.h"

/* One line for whoever opened the pool (fs_options.log), cut off at 511 bytes. */
void fs_log(struct fs *fs, enum fs_log_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Fills in err (may be NULL) and returns code. */
int fs_fail(struct fs_error *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

bool fs_is_read_only(struct fs *fs);
/* Turns the pool read-only for good because of error (-errno; 0: EROFS): one line in the log, the first time. */
void fs_set_read_only(struct fs *fs, int error, const char *what);

#endif
