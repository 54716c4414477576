/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/util.h"

static const struct {
	const char *name;
	enum log_level level;
} levels[] = {
	{"error", LOG_LEVEL_ERROR}, {"warning", LOG_LEVEL_WARNING}, {"notice", LOG_LEVEL_NOTICE},
	{"info", LOG_LEVEL_INFO},   {"debug", LOG_LEVEL_DEBUG},
};

/*
 * systemd names the journal's stream as device:inode in $JOURNAL_STREAM; a redirected stderr does not match.
 */
static bool is_journal(int fd)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	return stream && sscanf(stream, "%llu:%llu", &dev, &ino) == 2 && !fstat(fd, &st) &&
	       st.st_dev == dev && st.st_ino == ino;
}

void log_init(struct log *log, const char *program, enum log_level level)
{
	log->program = program;
	log->stamps = false;
	log->send = NULL;
	log->fd = STDERR_FILENO;
	log->journal = is_journal(log->fd);
	atomic_init(&log->level, level);
}

void log_set_level(struct log *log, enum log_level level)
{
	atomic_store_explicit(&log->level, level, memory_order_relaxed);
}

static void emit(struct log *log, enum log_level level, const char *text)
{
	char buf[LOG_LINE_MAX + 8];
	int n = snprintf(buf, sizeof(buf) - 1, "%.*s%.*s", log->journal ? 3 : 0,
			 (char[]){'<', '0' + level, '>', 0}, LOG_LINE_MAX, text);
	ssize_t done;

	for (int i = 0; i < n; i++)
		if ((unsigned char)buf[i] < ' ' || buf[i] == 0x7f)
			buf[i] = '?';
	buf[n++] = '\n';
	do {
		done = write(log->fd, buf, n);
	} while (done < 0 && errno == EINTR);
}

/* "2026-11-21T18:00:00.123Z " into buf; returns its length. */
static int stamp(char *buf, size_t size)
{
	struct timespec ts;
	struct tm tm;
	size_t n;

	clock_gettime(CLOCK_REALTIME, &ts);
	if (!gmtime_r(&ts.tv_sec, &tm))
		return 0;
	n = strftime(buf, size, "%Y-%m-%dT%H:%M:%S", &tm);
	return (int)n + snprintf(buf + n, size - n, ".%03ldZ ", ts.tv_nsec / 1000000);
}

void log_vline(struct log *log, enum log_level level, const char *fmt, va_list args)
{
	char text[LOG_LINE_MAX];
	const char *kind = level == LOG_LEVEL_ERROR	? "error: "
			   : level == LOG_LEVEL_WARNING ? "warning: "
							: "";
	int n;

	if ((int)level > atomic_load_explicit(&log->level, memory_order_relaxed))
		return;
	n = log->stamps && !log->journal ? stamp(text, sizeof(text)) : 0;
	if (!log->journal)
		n += snprintf(text + n, sizeof(text) - n, "%s: %s", log->program, kind);
	vsnprintf(text + n, sizeof(text) - n, fmt, args);
	emit(log, level, text);
}

void log_line(struct log *log, enum log_level level, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	log_vline(log, level, fmt, args);
	va_end(args);
}

void log_event(struct log *log, enum log_level level, const struct log_field *fields, unsigned count,
	       const char *fmt, ...)
{
	char text[LOG_LINE_MAX];
	va_list args;

	if ((int)level > atomic_load_explicit(&log->level, memory_order_relaxed))
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (!log->send || !log->send(level, text, fields, count < LOG_FIELDS_MAX ? count : LOG_FIELDS_MAX))
		log_line(log, level, "%s", text);
}

void log_bare(struct log *log, const char *text)
{
	emit(log, LOG_LEVEL_NOTICE, text);
}

int log_level_parse(const char *text, enum log_level *ret_level)
{
	for (size_t i = 0; i < ARRAY_SIZE(levels); i++) {
		if (!strcmp(text, levels[i].name)) {
			*ret_level = levels[i].level;
			return 0;
		}
	}
	return -EINVAL;
}
