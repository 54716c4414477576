/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/http.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/http.h>
#include <unistd.h>

#include "base/mem.h"
#include "server/metrics.h"

#define HTTP_HEADERS_MAX 8192
#define HTTP_BODY_MAX 4096
#define HTTP_TIMEOUT_S 30
#define METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"

struct http_server {
	struct evhttp *http;
	struct addr addr;
	struct fs *fs;
	const struct nbd_worker *workers;
	unsigned worker_count;
};

static void answer(struct evhttp_request *req, int status, const char *type, struct evbuffer *body)
{
	evhttp_add_header(evhttp_request_get_output_headers(req), "Content-Type", type);
	evhttp_send_reply(req, status, NULL, body);
}

static int write_clients(const struct http_server *h, struct evbuffer *body)
{
	struct client_list *clients = h->workers[0].clients; /* all workers' */

	return clients ? metrics_write_clients(body, h->fs, clients) : 0;
}

static void on_metrics(struct evhttp_request *req, void *arg)
{
	struct http_server *h = arg;
	struct metrics_nbd nbd = {0};
	struct evbuffer *body = evbuffer_new();
	struct fs_info info;

	fs_get_info(h->fs, &info);
	for (unsigned i = 0; i < h->worker_count; i++)
		metrics_add(&nbd, &h->workers[i].env.stats);
	if (body && metrics_write(body, &info, &nbd) == 0 && write_clients(h, body) == 0)
		answer(req, HTTP_OK, METRICS_TYPE, body);
	else
		evhttp_send_error(req, HTTP_INTERNAL, NULL);
	if (body)
		evbuffer_free(body);
}

static void on_health(struct evhttp_request *req, void *arg)
{
	struct http_server *h = arg;
	struct evbuffer *body = evbuffer_new();
	struct fs_info info;

	fs_get_info(h->fs, &info);
	if (body)
		evbuffer_add_printf(body, info.read_only ? "read-only\n" : "ok\n");
	answer(req, info.read_only ? HTTP_SERVUNAVAIL : HTTP_OK, "text/plain", body);
	if (body)
		evbuffer_free(body);
}

static int listen_on(struct http_server *h)
{
	int fd, r = addr_listen(&h->addr, &fd);

	if (r < 0)
		return r;
	if (evhttp_accept_socket_with_handle(h->http, fd))
		return 0;
	close(fd);
	addr_unlink(&h->addr);
	return -ENOMEM;
}

int http_server_new(struct event_base *base, const struct addr *addr, struct fs *fs,
		    const struct nbd_worker *workers, unsigned worker_count, struct http_server **ret_http)
{
	struct http_server *h = mem_zalloc(sizeof(*h));
	int r;

	if (!h)
		return -ENOMEM;
	*h = (struct http_server){
		.http = evhttp_new(base),
		.addr = *addr,
		.fs = fs,
		.workers = workers,
		.worker_count = worker_count,
	};
	r = h->http ? listen_on(h) : -ENOMEM;
	if (r < 0) {
		if (h->http)
			evhttp_free(h->http);
		mem_free(h);
		return r;
	}
	evhttp_set_allowed_methods(h->http, EVHTTP_REQ_GET | EVHTTP_REQ_HEAD);
	evhttp_set_max_headers_size(h->http, HTTP_HEADERS_MAX);
	evhttp_set_max_body_size(h->http, HTTP_BODY_MAX);
	evhttp_set_timeout(h->http, HTTP_TIMEOUT_S);
	evhttp_set_cb(h->http, "/metrics", on_metrics, h);
	evhttp_set_cb(h->http, "/healthz", on_health, h);
	*ret_http = h;
	return 0;
}

void http_server_free(struct http_server *h)
{
	if (!h)
		return;
	addr_unlink(&h->addr);
	evhttp_free(h->http);
	mem_free(h);
}
