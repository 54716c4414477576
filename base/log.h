/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * base/log.h: lines for people on standard error, with syslog's levels. Where standard error is the journal,
 * each line starts with <N>, which systemd takes for the level. One line is one write(2), so that threads do
 * not mix.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>

#define LOG_LINE_MAX 1024

/* The values are syslog's. */
enum log_level {
	LOG_LEVEL_ERROR = 3,
	LOG_LEVEL_WARNING = 4,
	LOG_LEVEL_NOTICE = 5,
	LOG_LEVEL_INFO = 6,
	LOG_LEVEL_DEBUG = 7
};

/* What a line is about, for those who search the journal: "BYRE_VOLUME", "vm1". */
struct log_field {
	const char *name, *value;
};
#define LOG_FIELDS_MAX 6

struct log {
	const char *program; /* before each line; not copied */
	bool stamps;	     /* each line begins with the time, UTC: where no journal has it */
	/* Where lines with fields go instead, if set; false: it could not be done. From any thread. */
	bool (*send)(enum log_level level, const char *text, const struct log_field *fields, unsigned count);
	int fd;
	bool journal;
	_Atomic int level; /* lines above it are dropped; may be changed at any time from any thread */
};

/* Writes to standard error. `program` must outlive the log. */
void log_init(struct log *log, const char *program, enum log_level level);
void log_set_level(struct log *log, enum log_level level);

/* One line, cut at LOG_LINE_MAX bytes; control characters become '?'. From any thread. */
void log_line(struct log *log, enum log_level level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void log_vline(struct log *log, enum log_level level, const char *fmt, va_list args);

/*
 * A line about an event. The fields (LOG_FIELDS_MAX at most; a NULL value is left out) go with it where there
 * is a place for them.
 */
void log_event(struct log *log, enum log_level level, const struct log_field *fields, unsigned count,
	       const char *fmt, ...) __attribute__((format(printf, 5, 6)));

/* As log_line with level notice, but never dropped and without the program's name: what scripts wait for. */
void log_bare(struct log *log, const char *text);

/* error, warning, notice, info or debug. -EINVAL. */
int log_level_parse(const char *text, enum log_level *ret_level);

#endif
