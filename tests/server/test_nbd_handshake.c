/* SPDX-License-Identifier: BSD-3-Clause */
/* The NBD handshake, byte by byte, against the fake engine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/le.h"
#include "base/mem.h"
#include "base/util.h"
#include "server/nbd_handshake.h"
#include "tests/lib/nbd_rig.h"

static int setup(void **state)
{
	struct rig *rig = malloc(sizeof(*rig));

	rig_init(rig);
	*state = rig;
	return 0;
}

static int teardown(void **state)
{
	rig_fini(*state);
	free(*state);
	return 0;
}

static const void *take(struct rig *rig, size_t len)
{
	const void *data = rig->out + rig->out_pos;

	assert_true(rig->out_len - rig->out_pos >= len);
	rig->out_pos += len;
	return data;
}

static void expect_nothing_more(struct rig *rig)
{
	assert_int_equal(rig->out_len, rig->out_pos);
}

static void feed(struct rig *rig, struct bytes *b)
{
	assert_int_equal(rig_feed(rig, b->data, b->len, SIZE_MAX), b->len);
	b->len = 0;
}

static void expect_greeting(struct rig *rig)
{
	const struct nbd_greeting *g = take(rig, sizeof(*g));

	assert_true(be64_to_cpu(g->magic) == NBD_MAGIC);
	assert_true(be64_to_cpu(g->option_magic) == NBD_OPTION_MAGIC);
	assert_int_equal(be16_to_cpu(g->flags), NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
}

/* Greeting and flags. */
static void begin(struct rig *rig, uint32_t flags)
{
	struct bytes b = {.len = 0};

	rig_pump(rig);
	expect_greeting(rig);
	add_u32(&b, flags);
	feed(rig, &b);
}

/* The next reply must be of that type; returns its payload. */
static const uint8_t *expect_reply(struct rig *rig, uint32_t option, uint32_t type, uint32_t *ret_len)
{
	const struct nbd_option_reply *rep = take(rig, sizeof(*rep));
	uint32_t len = be32_to_cpu(rep->len);

	assert_true(be64_to_cpu(rep->magic) == NBD_REPLY_MAGIC);
	assert_int_equal(be32_to_cpu(rep->option), option);
	assert_int_equal(be32_to_cpu(rep->type), type);
	if (ret_len)
		*ret_len = len;
	return take(rig, len);
}

static uint16_t expect_info(struct rig *rig, uint32_t option, uint64_t size)
{
	const struct nbd_info_export *info = (const void *)expect_reply(rig, option, NBD_REP_INFO, NULL);
	const struct nbd_info_block_size *bs = (const void *)expect_reply(rig, option, NBD_REP_INFO, NULL);

	assert_int_equal(be16_to_cpu(info->type), NBD_INFO_EXPORT);
	assert_int_equal(be64_to_cpu(info->size), size);
	assert_int_equal(be16_to_cpu(bs->type), NBD_INFO_BLOCK_SIZE);
	assert_int_equal(be32_to_cpu(bs->minimum), 1);
	assert_int_equal(be32_to_cpu(bs->preferred), 4096);
	assert_int_equal(be32_to_cpu(bs->maximum), 32 << 20);
	expect_reply(rig, option, NBD_REP_ACK, NULL);
	return be16_to_cpu(info->flags);
}

static void test_go_enters_transmission(void **state)
{
	struct rig *rig = *state;
	struct bytes b = {.len = 0};
	uint16_t flags;

	begin(rig, 3);
	add_go(&b, NBD_OPT_GO, "vm1");
	feed(rig, &b);
	flags = expect_info(rig, NBD_OPT_GO, 256 << 10);
	assert_int_equal(flags, NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
					NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES |
					NBD_FLAG_SEND_FAST_ZERO | NBD_FLAG_CAN_MULTI_CONN |
					NBD_FLAG_SEND_CACHE);
	assert_int_equal(rig->s->state, NBD_TRANSMIT);
	assert_null(rig->s->hs);
}

static void test_info_stays_in_handshake(void **state)
{
	struct rig *rig = *state;
	struct bytes b = {.len = 0};

	begin(rig, 3);
	add_go(&b, NBD_OPT_INFO, "frozen");
	feed(rig, &b);
	assert_true(expect_info(rig, NBD_OPT_INFO, 64 << 10) & NBD_FLAG_READ_ONLY);
	assert_int_equal(rig->s->state, NBD_HANDSHAKE);
	assert_int_equal(rig->fs.volumes[1].refs, 0);
}

static void test_unknown_and_default_exports_are_refused_with_a_reason(void **state)
{
	static const char *const names[] = {"nosuch", "", "../etc", "-x", "vm1 "};
	struct rig *rig = *state;
	struct bytes b = {.len = 0};
	uint32_t len;

	begin(rig, 3);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		add_go(&b, NBD_OPT_GO, names[i]);
		feed(rig, &b);
		expect_reply(rig, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN, &len);
		assert_true(len > 0);
		assert_int_equal(rig->s->state, NBD_HANDSHAKE);
	}
	add_go(&b, NBD_OPT_GO, "vm1");
	feed(rig, &b);
	expect_info(rig, NBD_OPT_GO, 256 << 10);
}

static void test_export_name_with_and_without_zeroes(void **state)
{
	struct rig *rig = *state;

	for (uint32_t flags = 1; flags <= 3; flags += 2) {
		size_t len = flags & NBD_FLAG_NO_ZEROES ? 10 : 134;
		const struct nbd_export_reply *rep;
		struct bytes b = {.len = 0};

		begin(rig, flags);
		add_option(&b, NBD_OPT_EXPORT_NAME, "vm1", 3);
		feed(rig, &b);
		rep = take(rig, len);
		assert_int_equal(be64_to_cpu(rep->size), 256 << 10);
		assert_true(be16_to_cpu(rep->flags) & NBD_FLAG_HAS_FLAGS);
		expect_nothing_more(rig);
		assert_int_equal(rig->s->state, NBD_TRANSMIT);
		rig_disconnect(rig);
		rig_connect(rig);
	}
}

static void test_export_name_of_nothing_ends_the_connection(void **state)
{
	struct rig *rig = *state;
	struct bytes b = {.len = 0};

	begin(rig, 3);
	add_option(&b, NBD_OPT_EXPORT_NAME, "nosuch", 6);
	feed(rig, &b);
	assert_true(nbd_session_is_over(rig->s));
	expect_nothing_more(rig);
}

static void test_list(void **state)
{
	struct rig *rig = *state;
	struct bytes b = {.len = 0};
	const uint8_t *data;
	uint32_t len;

	begin(rig, 3);
	add_option(&b, NBD_OPT_LIST, NULL, 0);
	feed(rig, &b);
	data = expect_reply(rig, NBD_OPT_LIST, NBD_REP_SERVER, &len);
	assert_int_equal(len, 7);
	assert_memory_equal(data, "\0\0\0\3vm1", 7);
	data = expect_reply(rig, NBD_OPT_LIST, NBD_REP_SERVER, &len);
	assert_memory_equal(data, "\0\0\0\6frozen", 10);
	expect_reply(rig, NBD_OPT_LIST, NBD_REP_ACK, &len);
	assert_int_equal(len, 0);
	add_option(&b, NBD_OPT_LIST, "x", 1);
	feed(rig, &b);
	expect_reply(rig, NBD_OPT_LIST, NBD_REP_ERR_INVALID, NULL);
}

static void test_abort_is_acknowledged(void **state)
{
	struct rig *rig = *state;
	struct bytes b = {.len = 0};

	begin(rig, 3);
	add_option(&b, NBD_OPT_ABORT, NULL, 0);
	feed(rig, &b);
	expect_reply(rig, NBD_OPT_ABORT, NBD_REP_ACK, NULL);
	assert_true(nbd_session_is_over(rig->s));
}

static void test_unknown_options_are_unsupported(void **state)
{
	static const uint32_t unknown[] = {NBD_OPT_STARTTLS, 13, 4, 0, 12, UINT32_MAX};
	struct rig *rig = *state;
	struct bytes b = {.len = 0};

	begin(rig, 3);
	for (size_t i = 0; i < ARRAY_SIZE(unknown); i++) {
		add_option(&b, unknown[i], "abcde", i);
		feed(rig, &b);
		expect_reply(rig, unknown[i], NBD_REP_ERR_UNSUP, NULL);
	}
	assert_int_equal(rig->s->state, NBD_HANDSHAKE);
}

static void test_malformed_options_are_invalid(void **state)
{
	struct rig *rig = *state;
	struct bytes b = {.len = 0};

	begin(rig, 3);
	/*
	 * the name longer than the option; bytes left over; fewer info requests than announced; nothing at
	 * all
	 */
	add_option(&b, NBD_OPT_GO, "\0\0\0\xffvm1\0\0", 9);
	add_option(&b, NBD_OPT_GO, "\0\0\0\3vm1\0\0x", 10);
	add_option(&b, NBD_OPT_INFO, "\0\0\0\3vm1\0\2\0\0", 11);
	add_option(&b, NBD_OPT_INFO, NULL, 0);
	feed(rig, &b);
	expect_reply(rig, NBD_OPT_GO, NBD_REP_ERR_INVALID, NULL);
	expect_reply(rig, NBD_OPT_GO, NBD_REP_ERR_INVALID, NULL);
	expect_reply(rig, NBD_OPT_INFO, NBD_REP_ERR_INVALID, NULL);
	expect_reply(rig, NBD_OPT_INFO, NBD_REP_ERR_INVALID, NULL);
	add_option(&b, NBD_OPT_STRUCTURED_REPLY, "x", 1);
	feed(rig, &b);
	expect_reply(rig, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_INVALID, NULL);
}

static void test_oversized_option_is_skipped(void **state)
{
	struct rig *rig = *state;
	struct bytes b = {.len = 0};

	begin(rig, 3);
	add_option(&b, 77, NULL, NBD_OPTION_MAX + 1);
	add_fill(&b, 'x', NBD_OPTION_MAX + 1);
	add_option(&b, NBD_OPT_LIST, "x", 1);
	feed(rig, &b);
	expect_reply(rig, 77, NBD_REP_ERR_TOO_BIG, NULL);
	expect_reply(rig, NBD_OPT_LIST, NBD_REP_ERR_INVALID, NULL);
	expect_nothing_more(rig);
}

static void test_largest_option_is_read(void **state)
{
	struct rig *rig = *state;
	struct bytes b = {.len = 0};

	begin(rig, 3);
	add_option(&b, 77, NULL, NBD_OPTION_MAX);
	add_fill(&b, 'x', NBD_OPTION_MAX);
	feed(rig, &b);
	expect_reply(rig, 77, NBD_REP_ERR_UNSUP, NULL);
	expect_nothing_more(rig);
}

static void test_absurd_option_ends_the_connection(void **state)
{
	struct rig *rig = *state;
	struct bytes b = {.len = 0};

	begin(rig, 3);
	add_option(&b, 77, NULL, UINT32_MAX);
	feed(rig, &b);
	assert_true(nbd_session_is_over(rig->s));
}

static void test_unknown_client_flags_end_the_connection(void **state)
{
	struct rig *rig = *state;

	begin(rig, 4);
	assert_true(nbd_session_is_over(rig->s));
}

static void test_garbage_for_an_option_ends_the_connection(void **state)
{
	struct rig *rig = *state;
	struct bytes b = {.len = 0};

	begin(rig, 3);
	add_fill(&b, 0x55, 64);
	rig_feed(rig, b.data, b.len, 64);
	assert_true(nbd_session_is_over(rig->s));
	expect_nothing_more(rig);
}

static void test_meta_context_needs_structured_replies(void **state)
{
	struct rig *rig = *state;
	struct bytes b = {.len = 0};

	begin(rig, 3);
	add_meta(&b, NBD_OPT_SET_META_CONTEXT, "vm1", "base:allocation");
	feed(rig, &b);
	expect_reply(rig, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID, NULL);
}

static void expect_context(struct rig *rig, uint32_t option, uint32_t id)
{
	uint32_t len;
	const uint8_t *data = expect_reply(rig, option, NBD_REP_META_CONTEXT, &len);

	assert_int_equal(len, 4 + strlen("base:allocation"));
	assert_int_equal(be32_to_cpu(*(const be32 *)data), id);
	assert_memory_equal(data + 4, "base:allocation", strlen("base:allocation"));
	expect_reply(rig, option, NBD_REP_ACK, NULL);
}

static void test_meta_contexts_are_listed_and_set(void **state)
{
	struct rig *rig = *state;
	struct bytes b = {.len = 0};

	begin(rig, 3);
	add_option(&b, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	add_meta(&b, NBD_OPT_LIST_META_CONTEXT, "vm1", NULL);
	add_meta(&b, NBD_OPT_LIST_META_CONTEXT, "vm1", "base:");
	add_meta(&b, NBD_OPT_LIST_META_CONTEXT, "vm1", "x-other:thing");
	add_meta(&b, NBD_OPT_SET_META_CONTEXT, "vm1", "base:");
	add_meta(&b, NBD_OPT_SET_META_CONTEXT, "nosuch", "base:allocation");
	add_meta(&b, NBD_OPT_SET_META_CONTEXT, "vm1", "base:allocation");
	add_go(&b, NBD_OPT_GO, "vm1");
	feed(rig, &b);
	expect_reply(rig, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, NULL);
	expect_context(rig, NBD_OPT_LIST_META_CONTEXT, 0);
	expect_context(rig, NBD_OPT_LIST_META_CONTEXT, 0);
	expect_reply(rig, NBD_OPT_LIST_META_CONTEXT, NBD_REP_ACK, NULL);
	expect_reply(rig, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, NULL);
	expect_reply(rig, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_UNKNOWN, NULL);
	expect_context(rig, NBD_OPT_SET_META_CONTEXT, 1);
	assert_true(expect_info(rig, NBD_OPT_GO, 256 << 10) & NBD_FLAG_SEND_DF);
	assert_true(rig->s->allocation);
}

static void test_meta_context_of_another_export_does_not_count(void **state)
{
	struct rig *rig = *state;
	struct bytes b = {.len = 0};

	begin(rig, 3);
	add_option(&b, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	add_meta(&b, NBD_OPT_SET_META_CONTEXT, "frozen", "base:allocation");
	add_go(&b, NBD_OPT_GO, "vm1");
	feed(rig, &b);
	assert_int_equal(rig->s->state, NBD_TRANSMIT);
	assert_true(rig->s->structured);
	assert_false(rig->s->allocation);
}

/* Whatever way the bytes are cut, the answers are the same; requests may follow the last option at once. */
static void test_every_split_gives_the_same_answers(void **state)
{
	struct rig *rig = *state;
	struct bytes b = {.len = 0};
	uint8_t want[4096];
	size_t want_len;

	add_u32(&b, 3);
	add_option(&b, NBD_OPT_LIST, NULL, 0);
	add_option(&b, 77, "hello", 5);
	add_go(&b, NBD_OPT_INFO, "nosuch");
	add_go(&b, NBD_OPT_GO, "vm1");
	add_request(&b, NBD_CMD_READ, 0, 1, 0, 16);
	add_request(&b, NBD_CMD_DISC, 0, 2, 0, 0);
	assert_int_equal(rig_feed(rig, b.data, b.len, SIZE_MAX), b.len);
	assert_true(nbd_session_is_over(rig->s));
	want_len = rig->out_len;
	assert_true(want_len <= sizeof(want));
	memcpy(want, rig->out, want_len);
	for (size_t cut = 1; cut < b.len; cut++) {
		rig_disconnect(rig);
		rig_connect(rig);
		rig->out_len = rig->out_pos = 0;
		assert_int_equal(rig_feed(rig, b.data, cut, cut), cut);
		assert_int_equal(rig_feed(rig, b.data + cut, b.len - cut, SIZE_MAX), b.len - cut);
		assert_true(nbd_session_is_over(rig->s));
		assert_int_equal(rig->out_len, want_len);
		assert_memory_equal(rig->out, want, want_len);
	}
}

static void test_client_that_does_not_read_gets_one_answer_at_a_time(void **state)
{
	struct rig *rig = *state;
	struct bytes b = {.len = 0};
	struct iovec iov[2];

	begin(rig, 3);
	for (int i = 0; i < 100; i++)
		add_option(&b, NBD_OPT_LIST, NULL, 0);
	rig->send_max = 0;
	assert_int_equal(rig_feed(rig, b.data, b.len, SIZE_MAX), b.len);
	assert_int_equal(nbd_session_rx(rig->s, iov), 0);
	assert_true(rig->s->hs->out_len < 256);
	rig->send_max = 1;
	rig_pump(rig);
	for (int i = 0; i < 100; i++) {
		expect_reply(rig, NBD_OPT_LIST, NBD_REP_SERVER, NULL);
		expect_reply(rig, NBD_OPT_LIST, NBD_REP_SERVER, NULL);
		expect_reply(rig, NBD_OPT_LIST, NBD_REP_ACK, NULL);
	}
	expect_nothing_more(rig);
	assert_int_equal(nbd_session_rx(rig->s, iov), 1);
}

static void test_no_memory_ends_one_connection_only(void **state)
{
	struct rig *rig = *state;
	struct bytes b = {.len = 0};

	for (uint64_t n = 1;; n++) {
		struct nbd_session *s;

		rig_disconnect(rig);
		mem_fail_at(n);
		s = nbd_session_new(&rig->env, rig);
		if (!s) {
			mem_fail_at(0);
			rig_connect(rig);
			continue;
		}
		rig->s = s;
		b.len = 0;
		add_u32(&b, 3);
		add_option(&b, NBD_OPT_LIST, NULL, 0);
		add_go(&b, NBD_OPT_GO, "vm1");
		rig_feed(rig, b.data, b.len, SIZE_MAX);
		if (mem_fail_pending()) {
			assert_int_equal(rig->s->state, NBD_TRANSMIT);
			break;
		}
	}
	mem_fail_at(0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_go_enters_transmission),
		T(test_info_stays_in_handshake),
		T(test_unknown_and_default_exports_are_refused_with_a_reason),
		T(test_export_name_with_and_without_zeroes),
		T(test_export_name_of_nothing_ends_the_connection),
		T(test_list),
		T(test_abort_is_acknowledged),
		T(test_unknown_options_are_unsupported),
		T(test_malformed_options_are_invalid),
		T(test_oversized_option_is_skipped),
		T(test_largest_option_is_read),
		T(test_absurd_option_ends_the_connection),
		T(test_unknown_client_flags_end_the_connection),
		T(test_garbage_for_an_option_ends_the_connection),
		T(test_meta_context_needs_structured_replies),
		T(test_meta_contexts_are_listed_and_set),
		T(test_meta_context_of_another_export_does_not_count),
		T(test_every_split_gives_the_same_answers),
		T(test_client_that_does_not_read_gets_one_answer_at_a_time),
		T(test_no_memory_ends_one_connection_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
