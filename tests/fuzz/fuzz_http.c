/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fuzz/fuzz_http.c: the HTTP session without a socket. The first byte says how the rest is cut into
 * pieces; the answer must be the one that the same bytes get at once, well formed, and of the length that it
 * announces.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "server/http_session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void handle(void *arg, const char *path, struct http_answer *a)
{
	ASSERT(*path == '/' && !strpbrk(path, "?#\r\n "));
	if (strcmp(path, "/metrics"))
		return;
	evbuffer_add(a->body, "some 1\n", 7);
	a->status = 200;
}

/* The answer in buf; 0: there is none yet. */
static size_t feed(const uint8_t *data, size_t size, size_t piece, char *buf, size_t max)
{
	struct http_session *s = malloc(sizeof(*s));
	size_t len = 0;

	ASSERT(s);
	http_session_init(s, handle, NULL);
	while (size && !s->out) {
		void *space;
		size_t n = min_u64(min_u64(http_session_space(s, &space), size), piece);

		ASSERT(n > 0);
		memcpy(space, data, n);
		ASSERT(http_session_received(s, n) == 0);
		data += n;
		size -= n;
	}
	if (s->out) {
		void *space;

		ASSERT(http_session_space(s, &space) == 0);
		len = evbuffer_get_length(s->out);
		ASSERT(len < max);
		ASSERT(evbuffer_remove(s->out, buf, len) == (int)len);
	}
	buf[len] = 0;
	http_session_fini(s);
	free(s);
	return len;
}

static void check(const char *answer, size_t len, bool head)
{
	const char *end = strstr(answer, "\r\n\r\n"), *length = strstr(answer, "Content-Length: ");
	int status;

	ASSERT(end && length && length < end);
	ASSERT(sscanf(answer, "HTTP/1.1 %d ", &status) == 1 && status >= 200 && status < 600);
	if (!head)
		ASSERT((size_t)(answer + len - (end + 4)) == strtoul(length + 16, NULL, 10));
	else
		ASSERT(answer + len == end + 4);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char whole[4096], cut[4096];
	size_t len;

	if (!size)
		return 0;
	len = feed(data + 1, size - 1, SIZE_MAX, whole, sizeof(whole));
	ASSERT(feed(data + 1, size - 1, 1u + data[0], cut, sizeof(cut)) == len && !memcmp(whole, cut, len));
	if (len)
		check(whole, len,
		      size > 6 && !memcmp(data + 1, "HEAD ", 5) && !strstr(whole, " 400 ") &&
			      !strstr(whole, " 431 "));
	ASSERT(len || size - 1 < HTTP_HEAD_MAX);
	return 0;
}
