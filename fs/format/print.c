/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/format/print.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/text.h"

#define TAIL_BYTES 32u /* for what ends a line: the mark that it was cut, and a brace */

/* All of it or nothing, so that what was cut is a whole field. */
static void add(struct print *p, const char *text, size_t len)
{
	if (p->cut || p->len + len + TAIL_BYTES > sizeof(p->text)) {
		p->cut = true;
		return;
	}
	memcpy(p->text + p->len, text, len);
	p->len += len;
}

static void add_string(struct print *p, const char *text)
{
	add(p, text, strlen(text));
}

__attribute__((format(printf, 2, 3))) static void addf(struct print *p, const char *fmt, ...)
{
	char buf[128];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(buf, sizeof(buf), fmt, ap);
	va_end(ap);
	add_string(p, buf);
}

/*
 * JSON's form, which people can read as well. Bytes that are no plain text become characters of that number.
 */
static void add_quoted(struct print *p, const char *text, size_t len)
{
	bool plain = text_is_plain(text, len);

	add_string(p, "\"");
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c == '"' || c == '\\')
			addf(p, "\\%c", c);
		else if (plain || (c >= 0x20 && c < 0x7f))
			add(p, text + i, 1);
		else
			addf(p, "\\u%04x", c);
	}
	add_string(p, "\"");
}

/* Fields that do not fit are taken back as a whole: returns where this one began. */
static size_t field(struct print *p, const char *name)
{
	size_t at = p->len;

	if (p->json) {
		add_string(p, ",\"");
		add_string(p, name);
		add_string(p, "\":");
	} else {
		add_string(p, " ");
		add_string(p, name);
		add_string(p, "=");
	}
	return at;
}

static void end_field(struct print *p, size_t at)
{
	if (p->cut)
		p->len = at < p->len ? at : p->len;
}

/* A word: quoted for programs alone. */
static void put_word(struct print *p, const char *name, const char *word)
{
	size_t at = field(p, name);

	if (p->json)
		add_string(p, "\"");
	add_string(p, word);
	if (p->json)
		add_string(p, "\"");
	end_field(p, at);
}

void print_begin(struct print *p, const char *kind)
{
	p->len = 0;
	p->cut = false;
	if (p->json) {
		add_string(p, "{\"record\":\"");
		add_string(p, kind);
		add_string(p, "\"");
		return;
	}
	for (unsigned i = 0; i < p->indent && i < PRINT_INDENT_MAX; i++)
		add_string(p, "  ");
	add_string(p, kind);
}

void print_end(struct print *p)
{
	const char *mark = !p->cut ? "" : p->json ? ",\"cut\":true" : " cut=yes";

	p->len += (size_t)snprintf(p->text + p->len, sizeof(p->text) - p->len, "%s%s", mark,
				   p->json ? "}" : "");
	p->line(p->arg, p->text);
	p->len = 0;
	p->cut = false;
}

void print_number(struct print *p, const char *name, uint64_t value)
{
	size_t at = field(p, name);

	addf(p, "%" PRIu64, value);
	end_field(p, at);
}

void print_bool(struct print *p, const char *name, bool value)
{
	size_t at = field(p, name);

	add_string(p, p->json ? (value ? "true" : "false") : (value ? "yes" : "no"));
	end_field(p, at);
}

void print_word(struct print *p, const char *name, const char *word)
{
	put_word(p, name, word);
}

void print_text(struct print *p, const char *name, const void *text, size_t len)
{
	size_t at = field(p, name);

	add_quoted(p, text, len);
	end_field(p, at);
}

void print_hex(struct print *p, const char *name, uint64_t value)
{
	char buf[32];

	snprintf(buf, sizeof(buf), "0x%" PRIx64, value);
	put_word(p, name, buf);
}

void print_bytes(struct print *p, const char *name, const uint8_t *bytes, size_t len)
{
	size_t at = field(p, name);

	if (p->json)
		add_string(p, "\"");
	for (size_t i = 0; i < len; i++)
		addf(p, "%02x", bytes[i]);
	if (p->json)
		add_string(p, "\"");
	end_field(p, at);
}

void print_uuid(struct print *p, const char *name, const uint8_t uuid[16])
{
	char buf[40];
	size_t len = 0;

	for (unsigned i = 0; i < 16; i++)
		len += (size_t)snprintf(buf + len, sizeof(buf) - len, "%s%02x",
					i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid[i]);
	put_word(p, name, buf);
}

void print_time(struct print *p, const char *name, uint64_t ns)
{
	time_t sec = (time_t)(ns / 1000000000);
	char buf[64];
	struct tm tm;

	if (ns == 0)
		snprintf(buf, sizeof(buf), "never");
	else if (gmtime_r(&sec, &tm) && strftime(buf, sizeof(buf), "%Y-%m-%dT%H:%M:%S", &tm))
		snprintf(buf + strlen(buf), sizeof(buf) - strlen(buf), ".%09uZ", (unsigned)(ns % 1000000000));
	else
		snprintf(buf, sizeof(buf), "%" PRIu64, ns);
	put_word(p, name, buf);
}

void print_flags(struct print *p, const char *name, uint64_t value, const char *const *names, unsigned n)
{
	char buf[256] = "";
	size_t len = 0;

	for (unsigned i = 0; i < n; i++)
		if (value >> i & 1)
			len += (size_t)snprintf(buf + len, sizeof(buf) - len, "%s%s", len ? "," : "",
						names[i]);
	value = n < 64 ? value >> n << n : 0;
	if (value)
		len += (size_t)snprintf(buf + len, sizeof(buf) - len, "%s0x%" PRIx64, len ? "," : "", value);
	put_word(p, name, len ? buf : "none");
}

void print_pairs(struct print *p, const char *name, const uint64_t *first, const uint64_t *second, size_t n)
{
	size_t at = field(p, name);

	if (p->json)
		add_string(p, "[");
	for (size_t i = 0; i < n; i++)
		addf(p, p->json ? "%s[%" PRIu64 ",%" PRIu64 "]" : "%s%" PRIu64 ":%" PRIu64, i ? "," : "",
		     first[i], second[i]);
	if (p->json)
		add_string(p, "]");
	end_field(p, at);
}

void print_problem(struct print *p, const char *fmt, ...)
{
	char buf[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(buf, sizeof(buf), fmt, ap);
	va_end(ap);
	print_begin(p, "problem");
	print_text(p, "text", buf, strlen(buf));
	print_end(p);
}
