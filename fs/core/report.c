/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/core/report.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fs/core/clock.h"
#include "fs/core/fs_int.h"
#include "fs/fs.h"

void fs_log(struct fs *fs, enum fs_log_level level, const char *fmt, ...)
{
	char msg[512];
	va_list ap;

	if (!fs->opt.log)
		return;
	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	fs->opt.log(fs->opt.log_arg, level, msg);
}

/* Which line of its kind it is in the time at hand, from 1 on. */
static uint64_t often_count(struct fs *fs, struct fs_often *often)
{
	uint64_t now = fs_now_us(fs), since = atomic_load(&often->since_us), lines = 0;

	if ((since == 0 || now - since >= FS_LOG_OFTEN_S * 1000000ull) &&
	    atomic_compare_exchange_strong(&often->since_us, &since, now))
		lines = atomic_exchange(&often->lines, 0);
	if (lines > FS_LOG_OFTEN_MAX)
		fs_log(fs, FS_LOG_WARNING, "%llu lines like the next one were left out",
		       (unsigned long long)(lines - FS_LOG_OFTEN_MAX));
	return atomic_fetch_add(&often->lines, 1) + 1;
}

void fs_log_often(struct fs *fs, enum fs_often_kind kind, enum fs_log_level level, const char *fmt, ...)
{
	uint64_t n = often_count(fs, &fs->often[kind]);
	char msg[400];
	va_list ap;

	if (n > FS_LOG_OFTEN_MAX)
		return;
	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	fs_log(fs, level, "%s%s", msg,
	       n == FS_LOG_OFTEN_MAX ? "; there is more, of which no line is written for some seconds" : "");
}

int fs_fail(struct fs_error *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (err) {
		va_start(ap, fmt);
		vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
		va_end(ap);
	}
	return code;
}

bool fs_is_read_only(struct fs *fs)
{
	return atomic_load(&fs->read_only) != 0;
}

void fs_set_read_only(struct fs *fs, int error, const char *what)
{
	int none = 0;

	if (atomic_compare_exchange_strong(&fs->read_only, &none, error ? -error : EROFS))
		fs_log(fs, FS_LOG_ERROR,
		       "%s (%s): the pool is read-only from now on; what was flushed is safe: remove the cause, then restart",
		       what, strerror(error ? -error : EROFS));
}
