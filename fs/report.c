/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/report.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fs/fs_int.h"

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

bool fs_is_read_only(struct fs *fs) { return atomic_load(&fs->read_only) != 0; }

void fs_set_read_only(struct fs *fs, int error, const char *what)
{
	int none = 0;

	if (atomic_compare_exchange_strong(&fs->read_only, &none, error ? -error : EROFS))
		fs_log(fs, FS_LOG_ERROR,
		       "%s (%s): the pool is read-only from now on; what was flushed is safe, restart when the cause is mended",
		       what, strerror(error ? -error : EROFS));
}
