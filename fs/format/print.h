/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/format/print.h: lines about what stands on disk, for people (`name=value`) and for programs (one JSON
 * object a line). The printers of the on-disk types fill them in; whoever begins a record also ends it.
 *
 * Invariants
 * 1. A line is one line, and plain text, whatever the bytes were: text from the disk is quoted and escaped.
 * 2. A JSON line is always whole: what does not fit any more is left out and `cut` says so.
 *
 * Growth: one buffer, PRINT_LINE_MAX bytes.
 */
#ifndef FS_FORMAT_PRINT_H
#define FS_FORMAT_PRINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PRINT_LINE_MAX 8192u
#define PRINT_INDENT_MAX 16u

struct print {
	void (*line)(void *arg, const char *text); /* without a newline */
	void *arg;
	bool json;
	unsigned indent; /* levels, for people */
	bool cut;	 /* the line is full */
	size_t len;
	char text[PRINT_LINE_MAX];
};

/* `kind` and names are words of the program: letters, digits, blanks, underscores. */
void print_begin(struct print *p, const char *kind);
void print_end(struct print *p);

void print_number(struct print *p, const char *name, uint64_t value);
void print_bool(struct print *p, const char *name, bool value);
/* A word of the program's. */
void print_word(struct print *p, const char *name, const char *word);
/* Untrusted text. */
void print_text(struct print *p, const char *name, const void *text, size_t len);
void print_hex(struct print *p, const char *name, uint64_t value);
void print_bytes(struct print *p, const char *name, const uint8_t *bytes, size_t len);
/* 8-4-4-4-12 */
void print_uuid(struct print *p, const char *name, const uint8_t uuid[16]);
/* since 1970, UTC, in nanoseconds; 0: "never" */
void print_time(struct print *p, const char *name, uint64_t ns);
/* The names of the bits, from the lowest on; bits without a name as a number. */
void print_flags(struct print *p, const char *name, uint64_t value, const char *const *names, unsigned n);
/* "first:second first:second ..." */
void print_pairs(struct print *p, const char *name, const uint64_t *first, const uint64_t *second, size_t n);

/* A record of its own about something that is not as it should be. */
void print_problem(struct print *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
