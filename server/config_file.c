/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/config_file.c: byred's settings from an INI file, read by inih.
 *
 * The library, as it is built for Debian, joins an indented line to the value before it and cuts lines at 200
 * bytes, taking the rest for a line of its own. So it gets its lines from here: without indentation, without
 * comments that fill a line, and whole.
 */
#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/config.h"

#define SECTION "byred"
#define NOT_UNDERSTOOD "this line is not understood"

struct reading {
	FILE *f;
	char *line; /* getline's */
	size_t line_size;
	int number;
	struct config *config;
	struct config_error *err;
	bool failed;
	int error; /* of reading; 0: none */
};

static void complain(struct reading *reading, const char *fmt, const char *what)
{
	if (!reading->failed) /* the first error is reported */
		snprintf(reading->err->msg, sizeof(reading->err->msg), fmt, what);
	reading->failed = true;
}

/* inih's handler: 0 is an error. */
static int on_value(void *arg, const char *section, const char *name, const char *value)
{
	struct reading *reading = arg;

	if (reading->failed)
		return 0;
	if (strcmp(section, SECTION) != 0)
		complain(reading, "'%.300s' stands outside of [" SECTION "]", name);
	else if (config_set(reading->config, name, value ? value : "", CONFIG_FROM_FILE, reading->err) < 0)
		reading->failed = true;
	return !reading->failed;
}

/* inih does not tell of sections without settings. */
static void check_section(struct reading *reading, const char *line)
{
	size_t len = strcspn(line, "]");
	char name[64];

	snprintf(name, sizeof(name), "%.*s", (int)(len ? len - 1 : 0), line + 1);
	if (strcmp(name, SECTION) != 0)
		complain(reading, "there is no section [%.60s], only [" SECTION "]", name);
}

/* inih's reader: as fgets, one line at a time. After an error the file ends for it. */
static char *next_line(char *buf, int size, void *arg)
{
	struct reading *reading = arg;
	ssize_t len = reading->failed ? -1 : getline(&reading->line, &reading->line_size, reading->f);
	const char *p = reading->line;

	if (len < 0) {
		/* also for lack of memory, which ferror does not report */
		if (!reading->failed && !feof(reading->f))
			reading->error = -errno;
		return NULL;
	}
	reading->number++;
	while (isspace((unsigned char)*p))
		p++;
	if (*p == '#' || *p == ';')
		p = "";
	if (*p == '[')
		check_section(reading, p);
	if (strlen(reading->line) != (size_t)len)
		complain(reading, "%s", "this line has a zero byte in it");
	if (strlen(p) + 1 > (size_t)size - 1)
		complain(reading, "%s", "this line is too long; give a long value on the command line");
	if (reading->failed)
		return NULL;
	len = snprintf(buf, size, "%s", p);
	if (!len || buf[len - 1] != '\n')
		strcpy(buf + len, "\n");
	return buf;
}

int config_read_file(struct config *c, const char *path, struct config_error *err)
{
	struct config_error why = {NOT_UNDERSTOOD};
	struct reading reading = {.config = c, .err = &why};
	int r, line;

	reading.f = fopen(path, "re");
	if (!reading.f) {
		r = -errno;
		snprintf(err->msg, sizeof(err->msg), "cannot read %.300s: %s", path, strerror(-r));
		return r;
	}
	r = 0;
	line = ini_parse_stream(next_line, &reading, on_value, &reading);
	if (reading.failed && line <= 0) /* the reader's complaint: it is about the last line that it read */
		line = reading.number;
	/* inih itself goes on after a line that it does not understand */
	if (line > 0 && line < reading.number)
		why = (struct config_error){NOT_UNDERSTOOD};
	if (line < 0 || reading.error) {
		r = reading.error ? reading.error : -ENOMEM;
		snprintf(err->msg, sizeof(err->msg), "cannot read %.300s: %s", path, strerror(-r));
	} else if (line > 0) {
		snprintf(err->msg, sizeof(err->msg), "%.150s:%d: %.300s", path, line, why.msg);
		for (char *p = err->msg; *p; p++) /* it stays one line */
			if (iscntrl((unsigned char)*p))
				*p = '?';
		r = -EINVAL;
	}
	free(reading.line);
	fclose(reading.f);
	return r;
}
