/* SPDX-License-Identifier: BSD-3-Clause */
/* The transmission phase with extended headers, byte by byte, against the fake engine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/le.h"
#include "base/util.h"
#include "tests/lib/nbd_transmit_rig.h"

#define PIB (UINT64_C(1) << 50)
#define PAYLOAD NBD_CMD_FLAG_PAYLOAD_LEN

static struct bytes b;

static int setup_extended(void **state)
{
	setup(state);
	handshake_extended(*state, "vm1");
	b.len = 0;
	return 0;
}

/* With a thin volume of 1 PiB that the fake engine keeps nothing of. */
static int setup_huge(void **state)
{
	struct rig *rig;

	setup(state);
	rig = *state;
	fake_fs_add(&rig->fs, "huge", PIB, 0);
	handshake_extended(rig, "huge");
	b.len = 0;
	return 0;
}

static void send_all(struct rig *rig)
{
	feed(rig, &b);
	rig_settle(rig);
}

static void expect_none(struct rig *rig, uint64_t cookie, uint64_t off)
{
	uint64_t len;

	expect_extended(rig, cookie, NBD_CHUNK_NONE, off, &len);
	assert_int_equal(len, 0);
}

static void test_every_command(void **state)
{
	struct rig *rig = *state;
	const uint8_t *data;
	uint64_t len;

	add_extended(&b, NBD_CMD_WRITE, PAYLOAD | NBD_CMD_FLAG_FUA, 1, 100, 5);
	add(&b, "hello", 5);
	add_extended(&b, NBD_CMD_READ, NBD_CMD_FLAG_DF, 2, 100, 5);
	add_extended(&b, NBD_CMD_FLUSH, 0, 3, 0, 0);
	add_extended(&b, NBD_CMD_CACHE, 0, 4, 0, 4096);
	add_extended(&b, NBD_CMD_TRIM, 0, 5, 0, 4096);
	add_extended(&b, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, 6, 4096, 4096);
	add_extended(&b, NBD_CMD_BLOCK_STATUS, 0, 7, 512, 1024);
	add_extended(&b, NBD_CMD_READ, 0, 8, 0, 0);
	send_all(rig);
	expect_none(rig, 8, 0); /* needs no engine: first */
	expect_none(rig, 1, 100);
	data = expect_extended(rig, 2, NBD_CHUNK_OFFSET_DATA, 100, &len);
	assert_int_equal(len, 8 + 5);
	assert_int_equal(be64_to_cpu(*(const be64 *)data), 100);
	assert_memory_equal(data + 8, "hello", 5);
	expect_none(rig, 3, 0);
	expect_none(rig, 4, 0);
	expect_none(rig, 5, 0);
	expect_none(rig, 6, 4096);
	data = expect_extended(rig, 7, NBD_CHUNK_BLOCK_STATUS_EXT, 512, &len);
	assert_int_equal(len, 8 + 16);
	assert_int_equal(be32_to_cpu(*(const be32 *)data), 1);
	assert_int_equal(be32_to_cpu(*(const be32 *)(data + 4)), 1);
	assert_int_equal(be64_to_cpu(*(const be64 *)(data + 8)), 1024);
	assert_int_equal(be64_to_cpu(*(const be64 *)(data + 16)), NBD_STATE_HOLE | NBD_STATE_ZERO);
	expect_end(rig);
	assert_int_equal(rig->s->state, NBD_TRANSMIT);
}

static void test_lengths_of_64_bits(void **state)
{
	static const uint64_t lens[] = {UINT32_MAX, UINT64_C(1) << 32, (UINT64_C(1) << 32) + 1, PIB};
	static const uint16_t types[] = {NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES, NBD_CMD_BLOCK_STATUS};
	struct rig *rig = *state;

	for (size_t i = 0; i < ARRAY_SIZE(lens); i++) {
		for (size_t t = 0; t < ARRAY_SIZE(types); t++) {
			uint64_t off = PIB - lens[i], len;
			const uint8_t *data;

			add_extended(&b, types[t], 0, 9, off, lens[i]);
			send_all(rig);
			if (types[t] != NBD_CMD_BLOCK_STATUS) {
				expect_none(rig, 9, off);
				assert_int_equal(rig->fs.last_off, off);
				assert_int_equal(rig->fs.last_len, lens[i]);
				continue;
			}
			data = expect_extended(rig, 9, NBD_CHUNK_BLOCK_STATUS_EXT, off, &len);
			assert_int_equal(be64_to_cpu(*(const be64 *)(data + 8)), lens[i]);
		}
		add_extended(&b, NBD_CMD_CACHE, 0, 10, PIB - lens[i], lens[i]);
		send_all(rig);
		expect_none(rig, 10, PIB - lens[i]);
	}
	expect_end(rig);
}

/* Each range ends behind the volume, or wraps around. */
static void test_ranges_past_the_end(void **state)
{
	static const struct {
		uint64_t off, len;
	} ranges[] = {
		{0, PIB + 1},
		{PIB, 1},
		{0, UINT64_C(1) << 63},
		{0, UINT64_MAX},
		{1, UINT64_MAX},
		{4096, UINT64_MAX - 4095},
		{UINT64_MAX, 1},
		{UINT64_MAX, UINT64_MAX},
		{UINT64_C(1) << 63, UINT64_C(1) << 63},
	};
	static const struct {
		uint16_t type;
		uint32_t error;
	} commands[] = {{NBD_CMD_TRIM, NBD_EINVAL},
			{NBD_CMD_WRITE_ZEROES, NBD_ENOSPC},
			{NBD_CMD_CACHE, NBD_EINVAL},
			{NBD_CMD_BLOCK_STATUS, NBD_EINVAL},
			{NBD_CMD_READ, NBD_EINVAL}};
	struct rig *rig = *state;
	unsigned before = rig->fs.requests;

	for (size_t r = 0; r < ARRAY_SIZE(ranges); r++) {
		for (size_t c = 0; c < ARRAY_SIZE(commands); c++) {
			add_extended(&b, commands[c].type, 0, 1, ranges[r].off, ranges[r].len);
			send_all(rig);
			expect_extended_error(rig, 1, commands[c].error, ranges[r].off);
		}
	}
	expect_end(rig);
	assert_int_equal(rig->fs.requests, before);
	assert_int_equal(rig->s->state, NBD_TRANSMIT);
}

/* They keep the offset that the client gave. */
static void test_zeroes_in_pieces(void **state)
{
	struct rig *rig = *state;

	add_extended(&b, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, 1, 4096, 3 * NBD_PIECE);
	send_all(rig);
	expect_none(rig, 1, 4096);
	rig->fs.fail = -ENOSPC;
	add_extended(&b, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, 2, 8192, 3 * NBD_PIECE);
	send_all(rig);
	assert_string_equal(expect_extended_error(rig, 2, NBD_ENOSPC, 8192),
			    "WRITE_ZEROES of 1572864 bytes at 8192 of 'huge': no space is left in the pool");
	expect_end(rig);
}

static void add_filter(uint64_t cookie, uint64_t effect, uint32_t ids, const uint32_t *id)
{
	add_extended(&b, NBD_CMD_BLOCK_STATUS, PAYLOAD, cookie, 0, 8 + 4 * ids);
	add_u64(&b, effect);
	for (uint32_t i = 0; i < ids; i++)
		add_u32(&b, id[i]);
}

static void test_status_filter(void **state)
{
	struct rig *rig = *state;
	const uint8_t *data;
	uint64_t len;

	add_filter(1, 8192, 1, (uint32_t[]){1});
	add_filter(2, 8192, 1, (uint32_t[]){2});       /* unknown */
	add_filter(3, 8192, 2, (uint32_t[]){1, 1});    /* twice */
	add_filter(4, 8192, 0, NULL);		       /* none */
	add_filter(5, 0, 1, (uint32_t[]){1});	       /* no range */
	add_filter(6, UINT64_MAX, 1, (uint32_t[]){1}); /* past the end */
	add_extended(&b, NBD_CMD_BLOCK_STATUS, PAYLOAD, 7, 0, 3);
	add(&b, "abc", 3);
	add_extended(&b, NBD_CMD_BLOCK_STATUS, PAYLOAD, 8, 0, 0);
	add_extended(&b, NBD_CMD_FLUSH, 0, 9, 0, 0); /* all of that was taken as what it is */
	send_all(rig);
	for (uint64_t i = 2; i <= 8; i++)
		expect_extended_error(rig, i, NBD_EINVAL, 0);
	expect_none(rig, 9, 0);
	data = expect_extended(rig, 1, NBD_CHUNK_BLOCK_STATUS_EXT, 0, &len);
	assert_int_equal(len, 8 + 16);
	assert_int_equal(be64_to_cpu(*(const be64 *)(data + 8)), 8192);
	expect_end(rig);
}

static void test_payload_on_a_command_that_has_none(void **state)
{
	static const uint16_t types[] = {NBD_CMD_READ,	NBD_CMD_FLUSH,	      NBD_CMD_TRIM,
					 NBD_CMD_CACHE, NBD_CMD_WRITE_ZEROES, 77};
	struct rig *rig = *state;

	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		add_extended(&b, types[i], PAYLOAD, i, 0, 1000);
		add_fill(&b, 0x21, 1000);
	}
	add_extended(&b, NBD_CMD_FLUSH, 0, 99, 0, 0);
	send_all(rig);
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		expect_extended_error(rig, i, NBD_EINVAL, 0);
	expect_none(rig, 99, 0);
	expect_end(rig);
}

static void test_unknown_flags(void **state)
{
	struct rig *rig = *state;

	add_extended(&b, NBD_CMD_TRIM, 1 << 9, 1, 0, 4096);
	add_extended(&b, NBD_CMD_WRITE, PAYLOAD | 1 << 15, 2, 0, 4);
	add(&b, "data", 4);
	add_extended(&b, NBD_CMD_FLUSH, 0, 3, 0, 0);
	send_all(rig);
	assert_non_null(strstr(expect_extended_error(rig, 1, NBD_EINVAL, 0), "flags"));
	expect_extended_error(rig, 2, NBD_EINVAL, 0);
	expect_none(rig, 3, 0);
	expect_end(rig);
}

/* What came before is answered, what follows is not looked at. */
static void expect_last_error(struct rig *rig, const char *text)
{
	rig->fs.defer = false;
	add_extended(&b, NBD_CMD_FLUSH, 0, 3, 0, 0);
	assert_true(rig_feed(rig, b.data, b.len, SIZE_MAX) <= b.len);
	rig_settle(rig);
	assert_non_null(strstr(expect_extended_error(rig, 2, NBD_EINVAL, 4096), text));
	expect_none(rig, 1, 0);
	expect_end(rig);
	assert_true(nbd_session_is_over(rig->s));
}

/* QEMU 10 does this. */
static void test_write_without_its_flag_has_data_all_the_same(void **state)
{
	struct rig *rig = *state;

	add_extended(&b, NBD_CMD_WRITE, 0, 1, 4096, 5);
	add(&b, "hello", 5);
	add_extended(&b, NBD_CMD_FLUSH, 0, 2, 0, 0);
	send_all(rig);
	expect_none(rig, 1, 4096);
	expect_none(rig, 2, 0);
	expect_end(rig);
	assert_memory_equal(rig->fs.volumes[0].data + 4096, "hello", 5);
}

static void test_payload_above_the_limit_ends_the_session(void **state)
{
	add_extended(&b, NBD_CMD_FLUSH, 0, 1, 0, 0);
	add_extended(&b, NBD_CMD_WRITE, PAYLOAD, 2, 4096, BIG + 1);
	expect_last_error(*state, "limit");
}

static void test_absurd_payload_ends_the_session(void **state)
{
	add_extended(&b, NBD_CMD_FLUSH, 0, 1, 0, 0);
	add_extended(&b, NBD_CMD_TRIM, PAYLOAD, 2, 4096, UINT64_MAX);
	expect_last_error(*state, "limit");
}

static void test_compact_header_in_an_extended_session(void **state)
{
	struct rig *rig = *state;

	add_request(&b, NBD_CMD_FLUSH, 0, 1, 0, 0);
	add_fill(&b, 0, 64);
	rig_feed(rig, b.data, b.len, SIZE_MAX);
	rig_settle(rig);
	expect_end(rig);
	assert_true(nbd_session_is_over(rig->s));
}

static void test_extended_header_in_a_compact_session(void **state)
{
	struct rig *rig = *state;

	b.len = 0;
	add_extended(&b, NBD_CMD_FLUSH, 0, 1, 0, 0);
	rig_feed(rig, b.data, b.len, SIZE_MAX);
	rig_settle(rig);
	expect_end(rig);
	assert_true(nbd_session_is_over(rig->s));
}

/* Replies come in the same order however it is cut: good ones. */
static void add_good(void)
{
	b.len = 0;
	add_extended(&b, NBD_CMD_WRITE, PAYLOAD, 1, 0, 300);
	add_fill(&b, 7, 300);
	add_filter(2, 4096, 1, (uint32_t[]){1});
	add_filter(4, 8192, 1, (uint32_t[]){1});
	add_extended(&b, NBD_CMD_READ, 0, 5, 0, 300);
}

/* And refusals. */
static void add_bad(void)
{
	b.len = 0;
	add_filter(1, 4096, 1, (uint32_t[]){9});
	add_extended(&b, NBD_CMD_TRIM, PAYLOAD, 2, 0, 50);
	add_fill(&b, 0x6e, 50);
	add_filter(3, 8192, 2, (uint32_t[]){1, 2});
	add_extended(&b, NBD_CMD_WRITE, PAYLOAD, 4, VOLUME_SIZE, 90);
	add_fill(&b, 0x21, 90);
	add_extended(&b, 55, 0, 5, 0, 300);
}

static void check_pieces(struct rig *rig, void (*add_them)(void))
{
	uint8_t *whole;
	size_t len;

	add_them();
	send_all(rig);
	len = rig->out_len - rig->out_pos;
	whole = malloc(len);
	memcpy(whole, take(rig, len), len);
	for (size_t piece = 1; piece < 400; piece++) {
		add_them();
		assert_int_equal(rig_feed(rig, b.data, b.len, piece), b.len);
		rig_settle(rig);
		assert_int_equal(rig->out_len - rig->out_pos, len);
		assert_memory_equal(take(rig, len), whole, len);
	}
	free(whole);
}

static void test_pieces_of_every_size_give_the_same_replies(void **state)
{
	struct rig *rig = *state;

	rig->fs.volumes[0].data[0] = 1; /* a write finds what the map says */
	check_pieces(rig, add_good);
	check_pieces(rig, add_bad);
}

/* Requests that wait for a place are not taken for halves of one. */
static void test_requests_without_room_are_served_later(void **state)
{
	struct rig *rig = *state;
	unsigned n = NBD_REQUESTS_MAX + 1;

	rig->fs.defer = true;
	b.len = 0;
	for (unsigned i = 0; i < n; i++)
		add_extended(&b, NBD_CMD_TRIM, 0, i, 0, 4096);
	assert_int_equal(rig_feed(rig, b.data, b.len, SIZE_MAX), b.len);
	expect_end(rig);
	rig_settle(rig);
	assert_int_equal(rig->out_len - rig->out_pos, n * sizeof(struct nbd_extended_chunk));
}

int main(void)
{
#define E(name) cmocka_unit_test_setup_teardown(name, setup_extended, teardown)
#define H(name) cmocka_unit_test_setup_teardown(name, setup_huge, teardown)
#define X(name) cmocka_unit_test_setup_teardown(name, setup_structured, teardown)
	const struct CMUnitTest tests[] = {
		E(test_every_command),
		H(test_lengths_of_64_bits),
		H(test_ranges_past_the_end),
		H(test_zeroes_in_pieces),
		E(test_status_filter),
		E(test_payload_on_a_command_that_has_none),
		E(test_unknown_flags),
		E(test_write_without_its_flag_has_data_all_the_same),
		E(test_payload_above_the_limit_ends_the_session),
		E(test_absurd_payload_ends_the_session),
		E(test_compact_header_in_an_extended_session),
		X(test_extended_header_in_a_compact_session),
		E(test_pieces_of_every_size_give_the_same_replies),
		E(test_requests_without_room_are_served_later),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
