/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/proto/test_rpc_frame.c: frames: what is allowed, and parsing however the bytes arrive. SEED replays
 * the random test.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/util.h"
#include "proto/byre.pb-c.h"
#include "proto/rpc_frame.h"
#include "proto/rpc_status.h"

static const struct rpc_frame plain_request = {.kind = RPC_REQUEST, .id = 7, .method = 3};

static void test_frame_header_has_the_documented_bytes(void **state)
{
	static const uint8_t wire[RPC_HEADER_LEN] = {
		'B',  'Y', 'R', '1', 1, 1, 1, 0, 8, 7, 6,  5, 4, 3, 2, 1,
		0x21, 0,   0,	0,   5, 0, 0, 0, 0, 0, 16, 0, 9, 0, 0, 0,
	};
	struct rpc_frame f = {
		.kind = RPC_REQUEST,
		.flags = RPC_MORE,
		.id = 0x0102030405060708,
		.method = 0x21,
		.message_len = 5,
		.bulk_len = RPC_BULK_MAX,
		.credit = 9,
	};
	struct rpc_frame back;
	struct rpc_header h;

	rpc_frame_encode(&f, &h);
	assert_memory_equal(&h, wire, sizeof(wire));
	assert_int_equal(rpc_frame_decode(&h, &back, NULL), 0);
	assert_int_equal(back.id, f.id);
	assert_int_equal(back.flags, RPC_MORE);
	assert_int_equal(back.bulk_len, RPC_BULK_MAX);
	assert_int_equal(back.credit, 9);
}

static void test_frame_rules_are_enforced(void **state)
{
	static const struct {
		struct rpc_frame f;
		int error;
	} cases[] = {
		{{.kind = RPC_REQUEST,
		  .id = 1,
		  .method = 1,
		  .message_len = RPC_MESSAGE_MAX,
		  .bulk_len = RPC_BULK_MAX},
		 0},
		{{.kind = RPC_REPLY, .id = 1}, 0},
		{{.kind = RPC_REPLY, .id = 0, .status = 71, .message_len = 3}, 0},
		{{.kind = RPC_DATA, .id = 1, .flags = RPC_MORE, .bulk_len = 1}, 0},
		{{.kind = RPC_CREDIT, .id = 1, .credit = RPC_CREDIT_MAX}, 0},
		{{.kind = RPC_CANCEL, .id = 1}, 0},
		{{.kind = 0, .id = 1}, -EPROTO},
		{{.kind = 6, .id = 1}, -EPROTO},
		{{.kind = 255, .id = 1}, -EPROTO},
		{{.kind = RPC_REQUEST, .id = 1, .method = 1, .flags = 2}, -EPROTO},
		{{.kind = RPC_REQUEST, .id = 0, .method = 1}, -EPROTO},
		{{.kind = RPC_REQUEST, .id = 1, .method = 0}, -EPROTO},
		{{.kind = RPC_REQUEST, .id = 1, .method = 1, .status = 5}, -EPROTO},
		{{.kind = RPC_REQUEST, .id = 1, .method = 1, .message_len = RPC_MESSAGE_MAX + 1}, -EMSGSIZE},
		{{.kind = RPC_REQUEST, .id = 1, .method = 1, .bulk_len = RPC_BULK_MAX + 1}, -EMSGSIZE},
		{{.kind = RPC_REPLY, .id = 1, .method = 1}, -EPROTO},
		{{.kind = RPC_REPLY, .id = 1, .status = 5, .bulk_len = 1}, -EPROTO},
		{{.kind = RPC_DATA, .id = 1, .status = 5, .flags = RPC_MORE}, -EPROTO},
		{{.kind = RPC_CREDIT, .id = 1}, -EPROTO},
		{{.kind = RPC_CREDIT, .id = 1, .credit = RPC_CREDIT_MAX + 1}, -EPROTO},
		{{.kind = RPC_CREDIT, .id = 1, .credit = 1, .bulk_len = 1}, -EPROTO},
		{{.kind = RPC_CANCEL, .id = 1, .message_len = 1}, -EPROTO},
		{{.kind = RPC_CANCEL, .id = 1, .flags = RPC_MORE}, -EPROTO},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const char *why = NULL;

		assert_int_equal(rpc_frame_check(&cases[i].f, &why), cases[i].error);
		assert_int_equal(!why, !cases[i].error);
	}
}

static void test_parser_refuses_other_protocols_and_versions_for_good(void **state)
{
	struct rpc_header h;
	struct rpc_parser p;
	struct rpc_frame f;
	size_t used;

	rpc_parser_init(&p);
	assert_int_equal(rpc_parser_feed(&p, "GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n", 36, &used, &f),
			 -EPROTO);
	assert_non_null(p.why);
	rpc_frame_encode(&plain_request, &h);
	assert_int_equal(rpc_parser_feed(&p, &h, sizeof(h), &used, &f), -EPROTO);
	rpc_parser_fini(&p);

	h.version = 2;
	assert_int_equal(rpc_parser_feed(&p, &h, sizeof(h), &used, &f), -EPROTONOSUPPORT);
	rpc_parser_fini(&p);
}

static void test_parser_allocates_nothing_for_a_frame_that_is_too_long(void **state)
{
	struct rpc_frame f = {.kind = RPC_REQUEST, .id = 1, .method = 1};
	struct rpc_header h;
	struct rpc_parser p;
	size_t used;

	rpc_frame_encode(&f, &h);
	h.bulk_len = cpu_to_le32(UINT32_MAX);
	h.message_len = cpu_to_le32(UINT32_MAX);
	rpc_parser_init(&p);
	mem_fail_at(1);
	assert_int_equal(rpc_parser_feed(&p, &h, sizeof(h), &used, &f), -EMSGSIZE);
	assert_true(mem_fail_pending());
	mem_fail_at(0);
	rpc_parser_fini(&p);
}

static void test_parser_reports_memory_that_is_out(void **state)
{
	struct rpc_frame f = {.kind = RPC_REQUEST, .id = 1, .method = 1, .message_len = 10};
	struct rpc_header h;
	struct rpc_parser p;
	size_t used;

	rpc_frame_encode(&f, &h);
	rpc_parser_init(&p);
	mem_fail_at(1);
	assert_int_equal(rpc_parser_feed(&p, &h, sizeof(h), &used, &f), -ENOMEM);
	assert_int_equal(rpc_parser_feed(&p, "x", 1, &used, &f), -ENOMEM);
	rpc_parser_fini(&p);
}

static void test_parser_take_hands_the_buffer_over(void **state)
{
	struct rpc_frame f = {.kind = RPC_REQUEST, .id = 1, .method = 1, .message_len = 2, .bulk_len = 3};
	uint8_t wire[RPC_HEADER_LEN + 5];
	struct rpc_parser p;
	uint8_t *taken;
	size_t used;

	rpc_frame_encode(&f, (struct rpc_header *)wire);
	memset(wire + RPC_HEADER_LEN, 'm', 2);
	memset(wire + RPC_HEADER_LEN + 2, 'b', 3);
	rpc_parser_init(&p);
	assert_int_equal(rpc_parser_wants(&p), RPC_HEADER_LEN);
	assert_int_equal(rpc_parser_feed(&p, wire, RPC_HEADER_LEN, &used, &f), 0);
	assert_int_equal(rpc_parser_wants(&p), 5);
	assert_int_equal(rpc_parser_feed(&p, wire + RPC_HEADER_LEN, 5, &used, &f), 1);
	assert_int_equal(rpc_parser_wants(&p), RPC_HEADER_LEN);
	taken = rpc_parser_take(&p);
	assert_memory_equal(taken, "mmbbb", 5);
	assert_ptr_equal(f.bulk, taken + 2);
	assert_int_equal(rpc_parser_feed(&p, wire, sizeof(wire), &used, &f), 1);
	assert_ptr_not_equal(f.message, taken);
	mem_free(taken);
	rpc_parser_fini(&p);
}

/* A frame number n whose contents follow from n. */
static size_t make_frame(unsigned n, uint8_t *to)
{
	struct rpc_frame f = {.kind = RPC_DATA,
			      .id = n + 1,
			      .message_len = rand() % 50,
			      .bulk_len = rand() % 3 ? 0 : rand() % 3000};

	rpc_frame_encode(&f, (struct rpc_header *)to);
	memset(to + RPC_HEADER_LEN, (int)n, f.message_len);
	memset(to + RPC_HEADER_LEN + f.message_len, (int)n + 1, f.bulk_len);
	return RPC_HEADER_LEN + f.message_len + f.bulk_len;
}

static void check_contents(const struct rpc_frame *f, unsigned n)
{
	assert_int_equal(f->id, n + 1);
	for (uint32_t i = 0; i < f->message_len; i++)
		assert_int_equal(f->message[i], (uint8_t)n);
	for (uint32_t i = 0; i < f->bulk_len; i++)
		assert_int_equal(f->bulk[i], (uint8_t)(n + 1));
}

#define FRAMES 300

static void test_parser_finds_the_frames_however_they_are_cut(void **state)
{
	const char *env = getenv("SEED");
	unsigned seed = env ? (unsigned)strtoul(env, NULL, 0) : (unsigned)time(NULL);
	uint8_t *stream = mem_alloc(FRAMES * 3200);
	struct rpc_parser p;
	size_t len = 0;

	print_message("SEED=%u\n", seed);
	srand(seed);
	for (unsigned n = 0; n < FRAMES; n++)
		len += make_frame(n, stream + len);

	rpc_parser_init(&p);
	for (int round = 0; round < 20; round++) {
		size_t at = 0;
		unsigned n = 0;

		while (at < len) {
			size_t chunk =
				min_u64(len - at, round ? 1 + (size_t)(rand() % (1 << (round % 14))) : 1);
			struct rpc_frame f;
			size_t used = 0;
			int r = rpc_parser_feed(&p, stream + at, chunk, &used, &f);

			assert_in_range(r, 0, 1);
			assert_true(r || used == chunk);
			at += used;
			if (r)
				check_contents(&f, n++);
		}
		assert_int_equal(n, FRAMES);
	}
	rpc_parser_fini(&p);
	mem_free(stream);
}

static void test_status_maps_both_ways(void **state)
{
	assert_int_equal(rpc_status_from_errno(0), 0);
	assert_int_equal(rpc_status_from_errno(-ENOSPC), BYRE__STATUS__STATUS_ENOSPC);
	assert_int_equal(rpc_status_from_errno(-ENOTTY), BYRE__STATUS__STATUS_EIO);
	assert_int_equal(rpc_status_to_errno(60000), -EIO);
	for (unsigned i = 0; i < byre__status__descriptor.n_values; i++) {
		uint16_t status = (uint16_t)byre__status__descriptor.values[i].value;

		assert_int_equal(rpc_status_from_errno(rpc_status_to_errno(status)), status);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_frame_header_has_the_documented_bytes),
		cmocka_unit_test(test_frame_rules_are_enforced),
		cmocka_unit_test(test_parser_refuses_other_protocols_and_versions_for_good),
		cmocka_unit_test(test_parser_allocates_nothing_for_a_frame_that_is_too_long),
		cmocka_unit_test(test_parser_reports_memory_that_is_out),
		cmocka_unit_test(test_parser_take_hands_the_buffer_over),
		cmocka_unit_test(test_parser_finds_the_frames_however_they_are_cut),
		cmocka_unit_test(test_status_maps_both_ways),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
