/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <string.h>

#include "server/config.h"

struct reading {
	struct config *config;
	struct config_error *err;
	bool failed;
};

/* inih's handler: 0 is an error, and makes ini_parse_file return this line's number. */
static int on_value(void *arg, const char *section, const char *name, const char *value)
{
	struct reading *reading = arg;

	if (reading->failed) /* inih goes on after an error; the first one is told */
		return 1;
	if (strcmp(section, "byred") != 0) {
		snprintf(reading->err->msg, sizeof(reading->err->msg), "'%s' stands outside of [byred]", name);
		reading->failed = true;
	} else {
		reading->failed = config_set(reading->config, name, value ? value : "", CONFIG_FROM_FILE,
					     reading->err) < 0;
	}
	return !reading->failed;
}

int config_read_file(struct config *c, const char *path, struct config_error *err)
{
	struct config_error why = {"this line is not understood"};
	struct reading reading = {.config = c, .err = &why};
	FILE *f = fopen(path, "re");
	int r = f ? 0 : -errno, line;

	if (r < 0) {
		snprintf(err->msg, sizeof(err->msg), "cannot read %.300s: %s", path, strerror(-r));
		return r;
	}
	line = ini_parse_file(f, on_value, &reading);
	if (line < 0 || ferror(f)) {
		snprintf(err->msg, sizeof(err->msg), "cannot read %.300s", path);
		r = -EIO;
	} else if (line > 0) {
		snprintf(err->msg, sizeof(err->msg), "%.150s:%d: %.300s", path, line, why.msg);
		r = -EINVAL;
	}
	fclose(f);
	return r;
}
