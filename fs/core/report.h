/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/core/report.h: how the engine tells its caller what happened: lines for the log, a text for an error,
 * and the one state that an error can leave behind, read-only. Any thread, under any lock; none of these
 * waits.
 */
#ifndef FS_CORE_REPORT_H
#define FS_CORE_REPORT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "fs/fs.h"

struct fs;

/* One line for whoever opened the pool (fs_options.log), cut off at 511 bytes. */
void fs_log(struct fs *fs, enum fs_log_level level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * For lines that clients could cause without end: at most FS_LOG_OFTEN_MAX of a kind in FS_LOG_OFTEN_S
 * seconds. The last of them says that more are left out; the next line after that says how many. The figures
 * count all.
 */
#define FS_LOG_OFTEN_MAX 20u
#define FS_LOG_OFTEN_S 10u
enum fs_often_kind { FS_OFTEN_READ, FS_OFTEN_CHECKSUM, FS_OFTEN_WRITE, FS_OFTEN_SPACE, FS_OFTEN_KINDS };
struct fs_often {
	_Atomic uint64_t since_us, lines;
};
void fs_log_often(struct fs *fs, enum fs_often_kind kind, enum fs_log_level level, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* Fills in err (may be NULL) and returns code. */
int fs_fail(struct fs_error *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

bool fs_is_read_only(struct fs *fs);
/* Turns the pool read-only for good because of error (-errno; 0: EROFS): logs one line, the first time. */
void fs_set_read_only(struct fs *fs, int error, const char *what);

#endif
