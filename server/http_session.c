/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/http_session.h"

#include <errno.h>
#include <string.h>

#include "base/util.h"

/* The parts of a request line; they point into the session's input. */
struct request {
	char *method, *path, *version;
};

static const struct {
	int status;
	const char *reason;
} reasons[] = {
	{200, "OK"},
	{400, "Bad Request"},
	{404, "Not Found"},
	{405, "Method Not Allowed"},
	{431, "Request Header Fields Too Large"},
	{500, "Internal Server Error"},
	{503, "Service Unavailable"},
	{505, "HTTP Version Not Supported"},
};

static const char *reason(int status)
{
	for (size_t i = 0; i < ARRAY_SIZE(reasons); i++)
		if (reasons[i].status == status)
			return reasons[i].reason;
	return "Error";
}

void http_session_init(struct http_session *s, http_handler *handler, void *arg)
{
	s->handler = handler;
	s->arg = arg;
	s->out = NULL;
	s->in_len = 0;
}

void http_session_fini(struct http_session *s)
{
	if (s->out)
		evbuffer_free(s->out);
	s->out = NULL;
}

/* Cuts the first line into its three parts. False: it has not so many, or holds what no line may hold. */
static bool split(char *line, struct request *ret_req)
{
	struct request req = {.method = line};
	char *end;

	for (char *c = line; *c; c++)
		if ((unsigned char)*c < ' ' || (unsigned char)*c >= 0x7f)
			return false;
	end = strchr(line, ' ');
	if (!end || end == line)
		return false;
	*end = 0;
	req.path = end + 1;
	end = strchr(req.path, ' ');
	if (!end || *req.path != '/')
		return false;
	*end = 0;
	req.version = end + 1;
	req.path[strcspn(req.path, "?#")] = 0;
	if (strncmp(req.version, "HTTP/", 5) || strchr(req.version, ' '))
		return false;
	*ret_req = req;
	return true;
}

static int judge(const struct request *req)
{
	if (strncmp(req->version, "HTTP/1.", 7))
		return 505;
	return strcmp(req->method, "GET") && strcmp(req->method, "HEAD") ? 405 : 404;
}

static int write_answer(struct http_session *s, struct http_answer *a, bool head)
{
	struct evbuffer *out = evbuffer_new();

	if (!out)
		return -ENOMEM;
	if (!evbuffer_get_length(a->body) && a->status != 200)
		evbuffer_add_printf(a->body, "%d %s\n", a->status, reason(a->status));
	if (evbuffer_add_printf(
		    out,
		    "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n%sConnection: close\r\n\r\n",
		    a->status, reason(a->status), a->type, evbuffer_get_length(a->body),
		    a->status == 405 ? "Allow: GET, HEAD\r\n" : "") < 0 ||
	    (!head && evbuffer_add_buffer(out, a->body) < 0)) {
		evbuffer_free(out);
		return -ENOMEM;
	}
	s->out = out;
	return 0;
}

static int answer(struct http_session *s, int status, const struct request *req)
{
	struct http_answer a = {
		.status = status, .type = "text/plain; charset=utf-8", .body = evbuffer_new()};
	int r;

	if (!a.body)
		return -ENOMEM;
	if (status == 404)
		s->handler(s->arg, req->path, &a);
	r = write_answer(s, &a, req && !strcmp(req->method, "HEAD"));
	evbuffer_free(a.body);
	return r;
}

/* Where the head ends, behind its empty line; NULL: not yet. Lines may end without CR. */
static char *head_end(char *in, size_t len)
{
	char *end = in + len;

	for (char *nl = in; (nl = memchr(nl, '\n', end - nl)); nl++) {
		char *next = nl + 1;

		if (next < end && *next == '\r')
			next++;
		if (next < end && *next == '\n')
			return next + 1;
	}
	return NULL;
}

size_t http_session_space(struct http_session *s, void **ret_space)
{
	*ret_space = s->in + s->in_len;
	return s->out ? 0 : sizeof(s->in) - s->in_len;
}

int http_session_received(struct http_session *s, size_t len)
{
	struct request req;
	char *line_end;

	ASSERT(!s->out && len <= sizeof(s->in) - s->in_len);
	s->in_len += len;
	if (!head_end(s->in, s->in_len))
		return s->in_len < sizeof(s->in) ? 0 : answer(s, 431, NULL);
	line_end = memchr(s->in, '\n', s->in_len);
	*line_end = 0;
	if (line_end > s->in && line_end[-1] == '\r')
		line_end[-1] = 0;
	if (!split(s->in, &req))
		return answer(s, 400, NULL);
	return answer(s, judge(&req), &req);
}
