/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/server/test_rpc.c: the RPC server as a client of the bare protocol sees it: good ones, slow ones,
 * broken ones, and ones that vanish. The engine is a fake.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/le.h"
#include "base/mem.h"
#include "base/util.h"
#include "proto/byre.pb-c.h"
#include "proto/rpc_frame.h"
#include "server/limits.h"
#include "server/rpc_int.h"
#include "tests/lib/full_table.h"
#include "tests/lib/rpc_fixture.h"

static const Byre__Empty empty = BYRE__EMPTY__INIT;

struct client {
	int fd;
	struct rpc_parser parser;
	uint8_t buf[4096];
	size_t have, at;
};

static void client_socket(struct client *c)
{
	const struct timeval patience = {.tv_sec = 20};

	*c = (struct client){.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
	rpc_parser_init(&c->parser);
	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
}

static void client_connect(struct client *c, const struct fixture *fx)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", fx->path);
	assert_int_equal(connect(c->fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
}

static void client_open(struct client *c, const struct fixture *fx)
{
	client_socket(c);
	client_connect(c, fx);
}

/* The other end is closed, whatever is still to be read. */
static bool is_hung_up(int fd)
{
	struct pollfd pfd = {.fd = fd, .events = POLLRDHUP};

	return poll(&pfd, 1, 0) == 1;
}

static void client_close(struct client *c)
{
	close(c->fd);
	rpc_parser_fini(&c->parser);
}

static void send_all(int fd, const void *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);

		assert_true(n > 0);
		data = (const uint8_t *)data + n;
		len -= (size_t)n;
	}
}

static void send_frame(struct client *c, struct rpc_frame f, const void *body)
{
	uint8_t *wire = malloc(RPC_HEADER_LEN + f.message_len + f.bulk_len);

	rpc_frame_encode(&f, (struct rpc_header *)wire);
	if (f.message_len + f.bulk_len)
		memcpy(wire + RPC_HEADER_LEN, body, f.message_len + f.bulk_len);
	send_all(c->fd, wire, RPC_HEADER_LEN + f.message_len + f.bulk_len);
	free(wire);
}

static void request(struct client *c, uint64_t id, uint16_t method, const void *message)
{
	const ProtobufCMessage *msg = message;
	struct rpc_frame f = {.kind = RPC_REQUEST, .id = id, .method = method};
	uint8_t *packed = malloc(protobuf_c_message_get_packed_size(msg) + 1);

	f.message_len = (uint32_t)protobuf_c_message_pack(msg, packed);
	send_frame(c, f, packed);
	free(packed);
}

/* 1: a frame; 0: the server has closed. */
static int receive(struct client *c, struct rpc_frame *ret_frame)
{
	for (;;) {
		size_t used;
		ssize_t n;

		if (c->at < c->have) {
			int r = rpc_parser_feed(&c->parser, c->buf + c->at, c->have - c->at, &used,
						ret_frame);

			assert_in_range(r, 0, 1);
			c->at += used;
			if (r)
				return 1;
		}
		n = read(c->fd, c->buf, sizeof(c->buf));
		if (n <= 0) {
			assert_int_equal(n, 0);
			return 0;
		}
		c->at = 0;
		c->have = (size_t)n;
	}
}

static struct rpc_frame reply(struct client *c, uint64_t id, uint16_t status)
{
	struct rpc_frame f = {0};

	assert_int_equal(receive(c, &f), 1);
	assert_int_equal(f.kind, RPC_REPLY);
	assert_int_equal(f.id, id);
	assert_int_equal(f.status, status);
	return f;
}

/* A reply that is an error whose text has `part`. */
static void reply_error(struct client *c, uint64_t id, uint16_t status, const char *part)
{
	struct rpc_frame f = reply(c, id, status);
	Byre__Error *e = byre__error__unpack(NULL, f.message_len, f.message);

	assert_non_null(e);
	if (!strstr(e->text, part))
		fail_msg("'%s' is not in '%s'", part, e->text);
	assert_null(strchr(e->text, '\n'));
	byre__error__free_unpacked(e, NULL);
}

static void assert_closed(struct client *c)
{
	struct rpc_frame f;

	assert_int_equal(receive(c, &f), 0);
}

static void hello(struct client *c, uint64_t id)
{
	Byre__HelloRequest rq = BYRE__HELLO_REQUEST__INIT;

	request(c, id, BYRE__METHOD__METHOD_HELLO, &rq);
	reply(c, id, 0);
}

static void create(struct client *c, uint64_t id, const char *name, uint64_t size)
{
	Byre__VolumeCreateRequest rq = BYRE__VOLUME_CREATE_REQUEST__INIT;

	rq.name = (char *)name;
	rq.size = size;
	request(c, id, BYRE__METHOD__METHOD_VOLUME_CREATE, &rq);
}

/* ---- requests and answers ------------------------------------------------- */

static void test_rpc_hello_tells_the_limits(void **state)
{
	Byre__HelloRequest rq = BYRE__HELLO_REQUEST__INIT;
	Byre__HelloReply *r;
	struct client c;
	struct rpc_frame f;

	client_open(&c, *state);
	request(&c, 1, BYRE__METHOD__METHOD_HELLO, &rq);
	f = reply(&c, 1, 0);
	r = byre__hello_reply__unpack(NULL, f.message_len, f.message);
	assert_non_null(r);
	assert_int_equal(r->requests_max, RPC_REQUESTS_MAX);
	assert_int_equal(r->message_max, RPC_MESSAGE_MAX);
	assert_int_equal(r->bulk_max, RPC_BULK_MAX);
	assert_int_equal(r->initial_credit, RPC_INITIAL_CREDIT);
	assert_int_equal(r->pool_uuid.len, 16);
	byre__hello_reply__free_unpacked(r, NULL);
	client_close(&c);
}

static void test_rpc_unknown_method_is_an_error_and_no_more(void **state)
{
	struct client c;

	client_open(&c, *state);
	request(&c, 1, 999, &empty);
	reply_error(&c, 1, BYRE__STATUS__STATUS_ENOSYS, "999");
	hello(&c, 2);
	client_close(&c);
}

static void test_rpc_message_that_cannot_be_decoded_is_refused(void **state)
{
	struct rpc_frame f = {
		.kind = RPC_REQUEST, .id = 1, .method = BYRE__METHOD__METHOD_VOLUME_CREATE, .message_len = 4};
	struct client c;

	client_open(&c, *state);
	send_frame(&c, f, "\x0a\xff\xff\xff");
	reply_error(&c, 1, BYRE__STATUS__STATUS_EINVAL, "volume create");
	hello(&c, 2);
	client_close(&c);
}

static void test_rpc_replies_come_in_the_order_of_completion(void **state)
{
	struct fixture *fx = *state;
	struct client c;

	client_open(&c, fx);
	fake_hold_commits(fx->fs, true);
	request(&c, 10, BYRE__METHOD__METHOD_COMMIT, &empty);
	request(&c, 11, BYRE__METHOD__METHOD_POOL_INFO, &empty);
	reply(&c, 11, 0);
	/* beside 11 it might as well be the first: a create needs no worker to answer */
	create(&c, 12, "v", 4096);
	reply(&c, 12, 0);
	fake_hold_commits(fx->fs, false);
	reply(&c, 10, 0);
	client_close(&c);
}

static void test_rpc_bad_names_and_sizes_do_not_reach_the_engine(void **state)
{
	static const char *const names[] = {"", ".a", "-a", "a b", "a/b", "a@b", "\xc3\xa4", "a\nb"};
	static const uint64_t sizes[] = {0, 1, 4095, 4097, 1ull << 63, UINT64_MAX};
	struct fixture *fx = *state;
	char longest[258];
	struct client c;
	uint64_t id = 1;

	memset(longest, 'x', 256);
	longest[256] = '\0';
	client_open(&c, fx);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++, id++) {
		create(&c, id, names[i], 4096);
		reply_error(&c, id, BYRE__STATUS__STATUS_EINVAL, "not a valid name");
	}
	create(&c, id, longest, 4096);
	reply_error(&c, id++, BYRE__STATUS__STATUS_EINVAL, "not a valid name");
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++, id++) {
		create(&c, id, "v", sizes[i]);
		reply_error(&c, id, BYRE__STATUS__STATUS_EINVAL, "volume create v");
	}
	assert_int_equal(fake_changes(fx->fs), 0);
	client_close(&c);
}

static void test_rpc_engine_errors_arrive_with_their_words(void **state)
{
	struct fixture *fx = *state;
	struct client c;

	client_open(&c, fx);
	fake_fail_next(fx->fs, -ENOSPC);
	create(&c, 1, "v", 4096);
	reply_error(&c, 1, BYRE__STATUS__STATUS_ENOSPC, "the pool is full: delete something");
	fake_fail_next(fx->fs, -EIO);
	request(&c, 2, BYRE__METHOD__METHOD_COMMIT, &empty);
	reply_error(&c, 2, BYRE__STATUS__STATUS_EIO, "commit: ");
	client_close(&c);
}

static void test_rpc_bulk_data_fits_no_method_yet(void **state)
{
	struct rpc_frame f = {.kind = RPC_REQUEST,
			      .id = 1,
			      .method = BYRE__METHOD__METHOD_COMMIT,
			      .bulk_len = 3,
			      .flags = RPC_MORE};
	struct client c;

	client_open(&c, *state);
	send_frame(&c, f, "abc");
	send_frame(&c, (struct rpc_frame){.kind = RPC_DATA, .id = 1, .bulk_len = 3}, "def");
	send_frame(&c, (struct rpc_frame){.kind = RPC_CREDIT, .id = 1, .credit = 100}, NULL);
	send_frame(&c, (struct rpc_frame){.kind = RPC_CANCEL, .id = 1}, NULL);
	reply_error(&c, 1, BYRE__STATUS__STATUS_EINVAL, "no bulk data");
	hello(&c, 2);
	client_close(&c);
}

static void test_rpc_lists_in_pages(void **state)
{
	struct fixture *fx = *state;
	Byre__VolumeListRequest rq = BYRE__VOLUME_LIST_REQUEST__INIT;
	Byre__VolumeListReply *page;
	char after[256] = "", name[256];
	unsigned seen = 0;
	struct client c;
	bool more = true;

	for (unsigned i = 0; i < 1300; i++) {
		snprintf(name, sizeof(name), "v%04u%0250u", i, i);
		assert_int_equal(fs_volume_create(fx->fs, name, 4096, 0, NULL), 0);
	}
	client_open(&c, fx);
	rq.after = after;
	while (more) {
		struct rpc_frame f;

		request(&c, 1, BYRE__METHOD__METHOD_VOLUME_LIST, &rq);
		f = reply(&c, 1, 0);
		page = byre__volume_list_reply__unpack(NULL, f.message_len, f.message);
		assert_non_null(page);
		for (size_t i = 0; i < page->n_volumes; i++, seen++) {
			snprintf(name, sizeof(name), "v%04u%0250u", seen, seen);
			assert_string_equal(page->volumes[i]->name, name);
		}
		more = page->more;
		if (page->n_volumes)
			snprintf(after, sizeof(after), "%s", page->volumes[page->n_volumes - 1]->name);
		byre__volume_list_reply__free_unpacked(page, NULL);
	}
	assert_int_equal(seen, 1300);
	client_close(&c);
}

static void test_rpc_bytes_may_arrive_one_by_one(void **state)
{
	struct rpc_frame f = {.kind = RPC_REQUEST, .id = 5, .method = BYRE__METHOD__METHOD_HELLO};
	struct rpc_header h;
	struct client c;

	rpc_frame_encode(&f, &h);
	client_open(&c, *state);
	for (size_t i = 0; i < sizeof(h); i++)
		send_all(c.fd, (uint8_t *)&h + i, 1);
	reply(&c, 5, 0);
	client_close(&c);
}

/* ---- clients that break the rules ----------------------------------------- */

static void test_rpc_another_protocol_gets_one_error_and_the_end(void **state)
{
	struct client c;

	client_open(&c, *state);
	send_all(c.fd, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 35);
	reply_error(&c, 0, BYRE__STATUS__STATUS_EPROTO, "magic");
	assert_closed(&c);
	client_close(&c);
}

static void test_rpc_another_version_is_told_so(void **state)
{
	struct rpc_frame f = {.kind = RPC_REQUEST, .id = 5, .method = BYRE__METHOD__METHOD_HELLO};
	struct rpc_header h;
	struct client c;

	rpc_frame_encode(&f, &h);
	h.version = 9;
	client_open(&c, *state);
	send_all(c.fd, &h, sizeof(h));
	reply_error(&c, 0, BYRE__STATUS__STATUS_EPROTONOSUPPORT, "version 1");
	assert_closed(&c);
	client_close(&c);
}

static void test_rpc_huge_frame_is_refused_at_its_header(void **state)
{
	struct rpc_frame f = {.kind = RPC_REQUEST, .id = 5, .method = BYRE__METHOD__METHOD_HELLO};
	struct rpc_header h;
	struct client c;

	rpc_frame_encode(&f, &h);
	h.message_len = cpu_to_le32(UINT32_MAX);
	client_open(&c, *state);
	send_all(c.fd, &h, sizeof(h));
	reply_error(&c, 0, BYRE__STATUS__STATUS_EMSGSIZE, "too long");
	assert_closed(&c);
	client_close(&c);
}

static void test_rpc_id_in_use_is_refused_and_the_work_goes_on(void **state)
{
	struct fixture *fx = *state;
	struct client c, other;

	client_open(&c, fx);
	fake_hold_commits(fx->fs, true);
	request(&c, 1, BYRE__METHOD__METHOD_COMMIT, &empty);
	request(&c, 1, BYRE__METHOD__METHOD_COMMIT, &empty);
	reply_error(&c, 0, BYRE__STATUS__STATUS_EPROTO, "in use");
	fake_hold_commits(fx->fs, false);
	assert_closed(&c);
	client_open(&other, fx);
	hello(&other, 1);
	client_close(&other);
	client_close(&c);
}

static void test_rpc_replies_from_a_client_are_refused(void **state)
{
	struct client c;

	client_open(&c, *state);
	send_frame(&c, (struct rpc_frame){.kind = RPC_REPLY, .id = 1}, NULL);
	reply_error(&c, 0, BYRE__STATUS__STATUS_EPROTO, "server");
	assert_closed(&c);
	client_close(&c);
}

static void test_rpc_too_many_requests_are_turned_away_one_by_one(void **state)
{
	struct fixture *fx = *state;
	bool seen[RPC_REQUESTS_MAX + 1] = {false};
	struct client c;

	client_open(&c, fx);
	fake_hold_commits(fx->fs, true);
	for (uint64_t id = 1; id <= RPC_REQUESTS_MAX; id++)
		request(&c, id, BYRE__METHOD__METHOD_COMMIT, &empty);
	request(&c, 1000, BYRE__METHOD__METHOD_HELLO, &empty);
	reply_error(&c, 1000, BYRE__STATUS__STATUS_EBUSY, "too many requests");
	fake_hold_commits(fx->fs, false);
	for (unsigned i = 0; i < RPC_REQUESTS_MAX; i++) {
		struct rpc_frame f;

		assert_int_equal(receive(&c, &f), 1);
		assert_in_range(f.id, 1, RPC_REQUESTS_MAX);
		assert_false(seen[f.id]);
		seen[f.id] = true;
	}
	hello(&c, 1001);
	client_close(&c);
}

static void test_rpc_idle_connections_give_way(void **state)
{
	struct client *c = calloc(RPC_CONNECTIONS_MAX + 2, sizeof(*c));
	struct fixture *fx = *state;

	for (unsigned i = 0; i < RPC_CONNECTIONS_MAX; i++) {
		client_open(&c[i], fx);
		hello(&c[i], 1);
	}
	hello(&c[0], 2); /* the second one is now the one that has done nothing for longest */
	fake_hold_commits(fx->fs, true);
	request(&c[1], 1, BYRE__METHOD__METHOD_COMMIT, &empty);
	fake_await_commits(fx->fs, 1); /* and is no longer idle */
	client_open(&c[RPC_CONNECTIONS_MAX], fx);
	hello(&c[RPC_CONNECTIONS_MAX], 1);
	assert_closed(&c[2]);
	hello(&c[0], 3);
	fake_hold_commits(fx->fs, false);
	reply(&c[1], 1, 0);
	for (unsigned i = 0; i <= RPC_CONNECTIONS_MAX; i++)
		client_close(&c[i]);
	free(c);
}

static void test_rpc_idle_connections_give_way_when_descriptors_end(void **state)
{
	struct fixture *fx = *state;
	struct client c[4], newcomer;
	struct full_table full;

	for (size_t i = 0; i < ARRAY_SIZE(c); i++) {
		client_open(&c[i], fx);
		hello(&c[i], 1);
	}
	client_socket(&newcomer);
	full_table_begin(&full);
	client_connect(&newcomer, fx);
	hello(&newcomer, 1);
	assert_closed(&c[0]);
	hello(&c[1], 2);
	full_table_end(&full);
	for (size_t i = 0; i < ARRAY_SIZE(c); i++)
		client_close(&c[i]);
	client_close(&newcomer);
}

static void test_rpc_too_many_busy_connections_are_turned_away(void **state)
{
	struct fixture *fx = *state;
	struct client *c = calloc(RPC_CONNECTIONS_MAX + 1, sizeof(*c));

	fake_hold_commits(fx->fs, true);
	for (unsigned i = 0; i < RPC_CONNECTIONS_MAX; i++) {
		client_open(&c[i], fx);
		hello(&c[i], 1);
		request(&c[i], 2, BYRE__METHOD__METHOD_COMMIT, &empty);
	}
	for (unsigned i = 0; i < RPC_CONNECTIONS_MAX; i++)
		hello(&c[i], 3); /* the commits have arrived */
	client_open(&c[RPC_CONNECTIONS_MAX], fx);
	reply_error(&c[RPC_CONNECTIONS_MAX], 0, BYRE__STATUS__STATUS_EAGAIN, "too many connections");
	assert_closed(&c[RPC_CONNECTIONS_MAX]);
	fake_hold_commits(fx->fs, false);
	for (unsigned i = 0; i <= RPC_CONNECTIONS_MAX; i++)
		client_close(&c[i]);
	free(c);
}

static void test_rpc_client_that_vanishes_leaves_nothing_behind(void **state)
{
	struct fixture *fx = *state;
	Byre__StatsReply *stats;
	struct rpc_frame f;
	struct client c;

	for (int i = 0; i < 3; i++) {
		client_open(&c, fx);
		fake_hold_commits(fx->fs, true);
		for (uint64_t id = 1; id <= 20; id++)
			request(&c, id, BYRE__METHOD__METHOD_COMMIT, &empty);
		fake_await_commits(fx->fs, 1);
		client_close(&c);
		fake_hold_commits(fx->fs, false);
	}
	client_open(&c, fx);
	do {
		request(&c, 1, BYRE__METHOD__METHOD_STATS, &empty);
		f = reply(&c, 1, 0);
		stats = byre__stats_reply__unpack(NULL, f.message_len, f.message);
		assert_non_null(stats);
		f.id = stats->rpc_connections;
		byre__stats_reply__free_unpacked(stats, NULL);
	} while (f.id != 1);
	client_close(&c);
}

static void test_rpc_client_that_closed_its_sending_side_gets_its_answers(void **state)
{
	struct fixture *fx = *state;
	struct client c;

	client_open(&c, fx);
	fake_hold_commits(fx->fs, true);
	request(&c, 1, BYRE__METHOD__METHOD_COMMIT, &empty);
	request(&c, 2, BYRE__METHOD__METHOD_HELLO, &empty);
	shutdown(c.fd, SHUT_WR);
	reply(&c, 2, 0);
	fake_hold_commits(fx->fs, false);
	reply(&c, 1, 0);
	assert_closed(&c);
	client_close(&c);
}

/* A client that takes no answers still has its CANCEL read: what has not begun does not begin. */
static void test_rpc_cancel_is_read_while_answers_wait(void **state)
{
	Byre__VolumeListRequest rq = BYRE__VOLUME_LIST_REQUEST__INIT;
	const struct timespec nap = {.tv_nsec = 300000000};
	struct fixture *fx = *state;
	unsigned cancelled = 0, listed = 0;
	struct client c;
	char name[256];

	for (unsigned i = 0; i < 500; i++) {
		snprintf(name, sizeof(name), "v%04u%0250u", i, i);
		assert_int_equal(fs_volume_create(fx->fs, name, 4096, 0, NULL), 0);
	}
	client_open(&c, fx);
	for (uint64_t id = 1; id <= RPC_REQUESTS_MAX; id++) /* 8 MiB of answers */
		request(&c, id, BYRE__METHOD__METHOD_VOLUME_LIST, &rq);
	nanosleep(&nap, NULL);
	for (uint64_t id = 1; id <= RPC_REQUESTS_MAX; id++)
		send_frame(&c, (struct rpc_frame){.kind = RPC_CANCEL, .id = id}, NULL);
	nanosleep(&nap, NULL);
	for (unsigned i = 0; i < RPC_REQUESTS_MAX; i++) {
		struct rpc_frame f;

		assert_int_equal(receive(&c, &f), 1);
		assert_true(f.status == 0 || f.status == BYRE__STATUS__STATUS_ECANCELED);
		cancelled += f.status != 0;
		listed += f.status == 0;
	}
	assert_true(listed >= 4 && cancelled >= RPC_REQUESTS_MAX / 4);
	hello(&c, 1000);
	client_close(&c);
}

static void test_rpc_message_of_many_fields_is_refused(void **state)
{
	struct rpc_frame f = {.kind = RPC_REQUEST, .id = 1, .method = BYRE__METHOD__METHOD_HELLO};
	uint8_t *fields = malloc(RPC_MESSAGE_MAX);
	struct client c;

	for (uint32_t i = 0; i < RPC_MESSAGE_MAX; i += 2) {
		fields[i] = 15 << 3;
		fields[i + 1] = 1;
	}
	client_open(&c, *state);
	f.message_len = RPC_MESSAGE_MAX;
	send_frame(&c, f, fields);
	reply_error(&c, 1, BYRE__STATUS__STATUS_EINVAL, "fields");
	f.message_len = 2 * 256;
	send_frame(&c, f, fields);
	reply(&c, 1, 0);
	client_close(&c);
	free(fields);
}

#define FLOOD 3000

static void *flood(void *arg)
{
	struct client *c = arg;
	Byre__VolumeListRequest rq = BYRE__VOLUME_LIST_REQUEST__INIT;

	for (uint64_t id = 1; id <= FLOOD; id++)
		request(c, id, BYRE__METHOD__METHOD_VOLUME_LIST, &rq);
	return NULL;
}

/* The client sends all before it reads anything: the server must stop reading, and go on later. */
static void test_rpc_client_that_does_not_read_is_held_up_and_then_served(void **state)
{
	struct fixture *fx = *state;
	const struct timespec nap = {.tv_nsec = 100000000};
	unsigned answers = 0, busy = 0;
	pthread_t thread;
	struct client c;
	char name[256];

	for (unsigned i = 0; i < 200; i++) {
		snprintf(name, sizeof(name), "v%04u%0250u", i, i);
		assert_int_equal(fs_volume_create(fx->fs, name, 4096, 0, NULL), 0);
	}
	client_open(&c, fx);
	pthread_create(&thread, NULL, flood, &c);
	nanosleep(&nap, NULL);
	while (answers < FLOOD) {
		struct rpc_frame f;

		assert_int_equal(receive(&c, &f), 1);
		assert_true(f.status == 0 || f.status == BYRE__STATUS__STATUS_EBUSY);
		busy += f.status != 0;
		answers++;
	}
	pthread_join(thread, NULL);
	assert_true(busy < FLOOD);
	hello(&c, FLOOD + 1);
	client_close(&c);
}

/* ---- the end -------------------------------------------------------------- */

/* More than are parsed in one go, and the end right behind them. */
static void test_rpc_all_that_came_before_the_end_is_answered(void **state)
{
	enum { COUNT = 5 * RPC_FRAMES_MAX };
	struct rpc_header frames[COUNT];
	struct client c;

	client_open(&c, *state);
	for (unsigned id = 1; id <= COUNT; id++) {
		struct rpc_frame f = {.kind = RPC_REQUEST, .id = id, .method = BYRE__METHOD__METHOD_HELLO};

		rpc_frame_encode(&f, &frames[id - 1]);
	}
	send_all(c.fd, frames, sizeof(frames));
	assert_int_equal(shutdown(c.fd, SHUT_WR), 0);
	for (unsigned id = 1; id <= COUNT; id++)
		reply(&c, id, 0);
	assert_closed(&c);
	client_close(&c);
}

static int setup_impatient(void **state)
{
	return fx_setup_stall(state, 400);
}

/* Each makes progress all the time, and next to none. One that owes nothing stays. */
static void test_rpc_slow_clients_are_cut_off(void **state)
{
	struct fixture *fx = *state;
	struct client idle, sender, reader;
	Byre__VolumeListRequest rq = BYRE__VOLUME_LIST_REQUEST__INIT;
	bool sending = true, reading = true;
	uint8_t header[RPC_HEADER_LEN] = {0x42, 0x59, 0x52, 0x31, 1}, byte;
	char name[256];

	for (unsigned i = 0; i < 200; i++) {
		snprintf(name, sizeof(name), "v%04u%0250u", i, i);
		assert_int_equal(fs_volume_create(fx->fs, name, 4096, 0, NULL), 0);
	}
	client_open(&idle, fx);
	hello(&idle, 1);
	client_open(&sender, fx);
	client_open(&reader, fx);
	for (uint64_t id = 1; id <= RPC_REQUESTS_MAX; id++)
		request(&reader, id, BYRE__METHOD__METHOD_VOLUME_LIST, &rq);
	for (unsigned i = 0; i < 200 && (sending || reading); i++) {
		usleep(100000);
		sending = sending &&
			  send(sender.fd, header + i / 16, i % 16 == 0, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
		sending = sending && (recv(sender.fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
		reading = reading && !is_hung_up(reader.fd) && recv(reader.fd, &byte, 1, MSG_DONTWAIT) == 1;
	}
	assert_false(sending);
	assert_false(reading);
	hello(&idle, 2);
	client_close(&idle);
	client_close(&sender);
	client_close(&reader);
}

static void test_rpc_shutdown_is_answered_and_then_happens(void **state)
{
	struct fixture *fx = *state;
	struct client c;

	client_open(&c, fx);
	request(&c, 1, BYRE__METHOD__METHOD_SHUTDOWN, &empty);
	reply(&c, 1, 0);
	assert_closed(&c);
	fx_join(fx);
	assert_int_equal(atomic_load(&fx->shutdowns), 1);
	assert_null(fx->server);
	client_close(&c);
}

static void test_rpc_stop_waits_for_what_is_under_way(void **state)
{
	struct fixture *fx = *state;
	struct client c, idle;

	client_open(&idle, fx);
	hello(&idle, 1);
	client_open(&c, fx);
	fake_hold_commits(fx->fs, true);
	request(&c, 1, BYRE__METHOD__METHOD_COMMIT, &empty);
	fake_await_commits(fx->fs, 1);
	fx_ask_stop(fx);
	assert_closed(&idle); /* the stop has begun */
	fake_hold_commits(fx->fs, false);
	reply(&c, 1, 0);
	assert_closed(&c);
	fx_join(fx);
	client_close(&idle);
	client_close(&c);
}

/*
 * Its connection must not go before the call is done, however long that takes. A client that takes nothing
 * goes at once.
 */
static void test_rpc_cut_leaves_calls_under_way_their_answer(void **state)
{
	const struct timespec nap = {.tv_nsec = 200000000};
	struct fixture *fx = *state;
	struct client c, mute;

	client_open(&mute, fx);
	client_open(&c, fx);
	fake_hold_commits(fx->fs, true);
	request(&c, 1, BYRE__METHOD__METHOD_COMMIT, &empty);
	fake_await_commits(fx->fs, 1);
	fx_ask_stop(fx);
	fx_cut(fx);
	assert_closed(&mute);
	nanosleep(&nap, NULL);
	fake_hold_commits(fx->fs, false);
	reply(&c, 1, 0);
	assert_closed(&c);
	fx_join(fx);
	client_close(&mute);
	client_close(&c);
}

/* ---- anything ------------------------------------------------------------- */

/* One frame, sometimes damaged. */
static size_t random_frame(uint8_t *to)
{
	struct rpc_frame f = {
		.kind = RPC_REQUEST, .id = 1 + (uint64_t)rand() % 1000, .method = 1 + rand() % 40};
	size_t len;

	f.message_len = rand() % 40;
	len = RPC_HEADER_LEN + f.message_len;
	if (f.method == BYRE__METHOD__METHOD_SHUTDOWN)
		f.method = BYRE__METHOD__METHOD_COMMIT;
	rpc_frame_encode(&f, (struct rpc_header *)to);
	for (size_t i = RPC_HEADER_LEN; i < len; i++)
		to[i] = (uint8_t)rand();
	if (rand() % 8 == 0)
		to[20 + rand() % 4] ^= 1; /* a length */
	if (rand() % 20 == 0)
		to[rand() % 8] ^= (uint8_t)(1 << rand() % 8);
	return len;
}

static void test_rpc_random_clients_do_not_hurt_a_good_one(void **state)
{
	const char *env = getenv("SEED");
	unsigned seed = env ? (unsigned)strtoul(env, NULL, 0) : (unsigned)time(NULL);
	struct client good, bad;
	uint8_t wire[256];

	print_message("SEED=%u\n", seed);
	srand(seed);
	client_open(&good, *state);
	for (uint64_t round = 1; round <= 200; round++) {
		client_open(&bad, *state);
		for (int n = rand() % 20; n >= 0; n--) {
			size_t len = random_frame(wire);

			if (send(bad.fd, wire, (rand() % 10) ? len : (size_t)rand() % len, MSG_NOSIGNAL) < 0)
				break;
		}
		client_close(&bad);
		hello(&good, round);
	}
	client_close(&good);
}

#define WITH_SERVER(test) cmocka_unit_test_setup_teardown(test, fx_setup, fx_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_SERVER(test_rpc_hello_tells_the_limits),
		WITH_SERVER(test_rpc_unknown_method_is_an_error_and_no_more),
		WITH_SERVER(test_rpc_message_that_cannot_be_decoded_is_refused),
		WITH_SERVER(test_rpc_replies_come_in_the_order_of_completion),
		WITH_SERVER(test_rpc_bad_names_and_sizes_do_not_reach_the_engine),
		WITH_SERVER(test_rpc_engine_errors_arrive_with_their_words),
		WITH_SERVER(test_rpc_bulk_data_fits_no_method_yet),
		WITH_SERVER(test_rpc_lists_in_pages),
		WITH_SERVER(test_rpc_bytes_may_arrive_one_by_one),
		WITH_SERVER(test_rpc_another_protocol_gets_one_error_and_the_end),
		WITH_SERVER(test_rpc_another_version_is_told_so),
		WITH_SERVER(test_rpc_huge_frame_is_refused_at_its_header),
		WITH_SERVER(test_rpc_id_in_use_is_refused_and_the_work_goes_on),
		WITH_SERVER(test_rpc_replies_from_a_client_are_refused),
		WITH_SERVER(test_rpc_too_many_requests_are_turned_away_one_by_one),
		WITH_SERVER(test_rpc_idle_connections_give_way),
		WITH_SERVER(test_rpc_idle_connections_give_way_when_descriptors_end),
		WITH_SERVER(test_rpc_too_many_busy_connections_are_turned_away),
		WITH_SERVER(test_rpc_cancel_is_read_while_answers_wait),
		WITH_SERVER(test_rpc_message_of_many_fields_is_refused),
		WITH_SERVER(test_rpc_client_that_vanishes_leaves_nothing_behind),
		WITH_SERVER(test_rpc_client_that_closed_its_sending_side_gets_its_answers),
		WITH_SERVER(test_rpc_client_that_does_not_read_is_held_up_and_then_served),
		WITH_SERVER(test_rpc_all_that_came_before_the_end_is_answered),
		cmocka_unit_test_setup_teardown(test_rpc_slow_clients_are_cut_off, setup_impatient,
						fx_teardown),
		WITH_SERVER(test_rpc_shutdown_is_answered_and_then_happens),
		WITH_SERVER(test_rpc_stop_waits_for_what_is_under_way),
		WITH_SERVER(test_rpc_cut_leaves_calls_under_way_their_answer),
		WITH_SERVER(test_rpc_random_clients_do_not_hurt_a_good_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
