/* SPDX-License-Identifier: BSD-3-Clause */
/* Metrics and health over HTTP, on the fake engine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <event2/buffer.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/util.h"
#include "server/http.h"
#include "server/metrics.h"
#include "tests/lib/fake/nbd_fs.h"
#include "tests/lib/full_table.h"

static bool is_suffix(const char *s)
{
	return !*s || !strcmp(s, "_bucket") || !strcmp(s, "_sum") || !strcmp(s, "_count");
}

static void test_metrics_are_well_formed(void **state)
{
	struct evbuffer *out = evbuffer_new();
	struct fs_info info = {.size = 12345,
			       .errors_io = UINT64_MAX,
			       .read_only = true,
			       .commit_latency = {.us = 2500000,
						  .buckets = {[1] = 2, [FS_LATENCY_BUCKETS - 1] = 3}}};
	struct nbd_stats stats = {.reads = 7};
	struct metrics_nbd nbd = {0};
	char *line, last_help[64] = "", name[64], value[64];
	size_t len;
	int lines = 0;

	metrics_add(&nbd, &stats);
	metrics_add(&nbd, &stats);
	assert_int_equal(metrics_write(out, &info, &nbd), 0);
	while ((line = evbuffer_readln(out, &len, EVBUFFER_EOL_LF))) {
		if (sscanf(line, "# HELP %63s", name) == 1) {
			strcpy(last_help, name);
		} else if (line[0] != '#') {
			assert_int_equal(sscanf(line, "%63[a-z_]", name), 1);
			/* every series stands under its help */
			assert_int_equal(strncmp(name, last_help, strlen(last_help)), 0);
			assert_true(is_suffix(name + strlen(last_help)));
			assert_int_equal(sscanf(strrchr(line, ' '), " %63[0-9]", value), 1);
			lines++;
			if (!strcmp(name, "byre_pool_size_bytes"))
				assert_string_equal(line, "byre_pool_size_bytes 12345");
			if (strstr(line, "kind=\"io\""))
				assert_string_equal(line,
						    "byre_errors_total{kind=\"io\"} 18446744073709551615");
			if (strstr(line, "byre_commit_seconds_bucket{le=\"5e-05\"}"))
				assert_string_equal(value, "0");
			if (strstr(line, "byre_commit_seconds_bucket{le=\"0.0001\"}") ||
			    strstr(line, "commit_seconds_bucket{le=\"10\"}"))
				assert_string_equal(value, "2");
			if (strstr(line, "byre_commit_seconds_bucket{le=\"+Inf\"}") ||
			    strstr(line, "byre_commit_seconds_count"))
				assert_string_equal(value, "5");
			if (strstr(line, "byre_commit_seconds_sum"))
				assert_string_equal(strrchr(line, ' '), " 2.500000");
			if (strstr(line, "read_only"))
				assert_string_equal(line, "byre_pool_read_only 1");
			if (strstr(line, "requests_total{op=\"read\"}"))
				assert_string_equal(value, "14");
		}
		free(line);
	}
	assert_true(lines > 40);
	evbuffer_free(out);
}

/* Sends a request and runs the base until the server closes; returns the answer. */
static char *ask(struct event_base *base, const struct addr *addr, const char *request)
{
	static char buf[65536];
	size_t len = 0;
	ssize_t n;
	int fd;

	assert_int_equal(addr_connect(addr, &fd), 0);
	assert_int_equal(write(fd, request, strlen(request)), strlen(request));
	do {
		event_base_loop(base, EVLOOP_NONBLOCK);
		n = recv(fd, buf + len, sizeof(buf) - 1 - len, MSG_DONTWAIT);
		if (n > 0)
			len += n;
	} while (n);
	buf[len] = 0;
	close(fd);
	return buf;
}

static void test_http_edges(struct event_base *base, const struct addr *addr)
{
	char longer[HTTP_HEAD_MAX + 100], *got;
	int idle[9];

	got = ask(base, addr, "HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
	assert_non_null(strstr(got, " 503 "));
	assert_non_null(strstr(got, "Content-Length: 10\r\n"));
	assert_string_equal(strstr(got, "\r\n\r\n"), "\r\n\r\n");
	got = ask(base, addr, "GET /healthz?x=y HTTP/1.1\n\n");
	assert_non_null(strstr(got, " 503 "));
	assert_non_null(strstr(ask(base, addr, "GET\r\n\r\n"), " 400 "));
	assert_non_null(strstr(ask(base, addr, "GET healthz HTTP/1.1\r\n\r\n"), " 400 "));
	assert_non_null(strstr(ask(base, addr, "GET / HTTP/2.0\r\n\r\n"), " 505 "));
	assert_non_null(strstr(ask(base, addr, "POST / HTTP/1.1\r\n\r\n"), " 405 "));
	memset(longer, 'x', sizeof(longer));
	longer[sizeof(longer) - 1] = 0;
	assert_non_null(strstr(ask(base, addr, longer), " 431 "));

	/* More that ask for nothing than there are places: a client that asks is answered. */
	for (size_t i = 0; i < ARRAY_SIZE(idle); i++)
		assert_int_equal(addr_connect(addr, &idle[i]), 0);
	assert_non_null(strstr(ask(base, addr, "GET /healthz HTTP/1.0\r\n\r\n"), " 503 "));
	for (size_t i = 0; i < ARRAY_SIZE(idle); i++)
		close(idle[i]);
}

/* Clients that ask for nothing have taken the last descriptors: one that asks is answered, and at once. */
static void test_http_descriptors_end(struct event_base *base, const struct addr *addr)
{
	struct full_table full;
	int idle[3];

	for (size_t i = 0; i < ARRAY_SIZE(idle); i++) {
		assert_int_equal(addr_connect(addr, &idle[i]), 0);
		event_base_loop(base, EVLOOP_NONBLOCK);
	}
	full_table_begin(&full);
	close(full.fill[--full.count]); /* the client's */
	assert_non_null(strstr(ask(base, addr, "GET /healthz HTTP/1.0\r\n\r\n"), " 503 "));
	full_table_end(&full);
	for (size_t i = 0; i < ARRAY_SIZE(idle); i++)
		close(idle[i]);
}

static void test_http(void **state)
{
	char dir[] = "/tmp/test-http-XXXXXX", text[64];
	struct event_base *base = event_base_new();
	struct nbd_worker worker = {.loop = NULL};
	struct budget budget;
	struct http_server_options opt = {.budget = &budget, .workers = &worker, .worker_count = 1, .max = 4};
	struct http_server *http;
	struct addr addr;
	struct fs fs = {.count = 0};
	char *got;

	assert_non_null(mkdtemp(dir));
	snprintf(text, sizeof(text), "unix:%s/http.sock", dir);
	assert_int_equal(addr_parse(text, &addr), 0);
	opt.fs = &fs;
	budget_init(&budget, 1 << 20, 0);
	assert_int_equal(http_server_new(base, &addr, &opt, &http), 0);
	got = ask(base, &addr, "GET /metrics HTTP/1.0\r\n\r\n");
	assert_non_null(strstr(got, " 200 "));
	assert_non_null(strstr(got, "text/plain; version=0.0.4"));
	assert_non_null(strstr(got, "\nbyre_pool_size_bytes 1073741824\n"));
	got = ask(base, &addr, "GET /healthz HTTP/1.0\r\n\r\n");
	assert_non_null(strstr(got, " 200 "));
	assert_non_null(strstr(got, "\nok\n"));
	fs.read_only = true;
	got = ask(base, &addr, "GET /healthz HTTP/1.0\r\n\r\n");
	assert_non_null(strstr(got, " 503 "));
	got = ask(base, &addr, "GET /nosuch HTTP/1.0\r\n\r\n");
	assert_non_null(strstr(got, " 404 "));
	got = ask(base, &addr, "DELETE /metrics HTTP/1.0\r\n\r\n");
	assert_null(strstr(got, " 200 "));
	test_http_edges(base, &addr);
	test_http_descriptors_end(base, &addr);
	http_server_free(http);
	budget_fini(&budget);
	assert_int_equal(access(addr.path, F_OK), -1);
	event_base_free(base);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_metrics_are_well_formed),
		cmocka_unit_test(test_http),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
