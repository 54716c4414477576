/* SPDX-License-Identifier: BSD-3-Clause */
/* The NBD transmission phase against the fake engine: every command, every error, every cut of the bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "base/mem.h"
#include "base/util.h"
#include "tests/lib/nbd_transmit_rig.h"

static void test_write_then_read(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;
	const uint8_t *data;

	b.len = 0;
	add_request(&b, NBD_CMD_WRITE, 0, 1, 4095, 3);
	add(&b, "abc", 3);
	feed(rig, &b);
	expect_simple(rig, 1, 0, 0);
	add_request(&b, NBD_CMD_READ, 0, 2, 4094, 5);
	feed(rig, &b);
	data = expect_simple(rig, 2, 0, 5);
	assert_memory_equal(data, "\0abc\0", 5);
	expect_end(rig);
}

static void test_trim_and_zeroes_read_as_zeros(void **state)
{
	struct rig *rig = *state;

	memset(rig->fs.volumes[0].data, 0xee, VOLUME_SIZE);
	request(rig, NBD_CMD_TRIM, 0, 0, 4096, 0);
	request(rig, NBD_CMD_WRITE_ZEROES, 0, 8192, 10, 0);
	assert_true(fake_fs_is_hole(&rig->fs.volumes[0], 0, 4096));
	assert_true(fake_fs_is_hole(&rig->fs.volumes[0], 8192, 10));
	assert_int_equal(rig->fs.volumes[0].data[8202], 0xee);
}

static void test_flags_reach_the_engine(void **state)
{
	struct rig *rig = *state;

	request(rig, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE, 0, 4096, 0);
	assert_int_equal(rig->fs.last_flags, FS_FUA | FS_NO_HOLE);
	request(rig, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, 0, 4096, 0);
	assert_int_equal(rig->fs.last_flags, 0);
	request(rig, NBD_CMD_TRIM, NBD_CMD_FLAG_FUA, 0, 4096, 0);
	assert_int_equal(rig->fs.last_flags, FS_FUA);
	request(rig, NBD_CMD_FLUSH, 0, 0, 0, 0);
	assert_int_equal(rig->fs.flushes, 1);
}

static void test_fua_is_taken_on_every_command(void **state)
{
	struct rig *rig = *state;

	request(rig, NBD_CMD_READ, NBD_CMD_FLAG_FUA, 0, 4096, 0);
	request(rig, NBD_CMD_FLUSH, NBD_CMD_FLAG_FUA, 0, 0, 0);
	request(rig, NBD_CMD_CACHE, NBD_CMD_FLAG_FUA, 0, 4096, 0);
}

static void test_fast_zero_that_keeps_space_is_not_supported(void **state)
{
	request(*state, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO | NBD_CMD_FLAG_NO_HOLE, 0, 4096,
		NBD_ENOTSUP);
}

static void test_ranges_that_leave_the_volume(void **state)
{
	static const uint64_t offs[] = {VOLUME_SIZE - 1, VOLUME_SIZE, VOLUME_SIZE + 1, UINT64_MAX,
					UINT64_MAX - 1};
	struct rig *rig = *state;

	for (size_t i = 0; i < ARRAY_SIZE(offs); i++) {
		request(rig, NBD_CMD_READ, 0, offs[i], 2, NBD_EINVAL);
		request(rig, NBD_CMD_TRIM, 0, offs[i], 2, NBD_EINVAL);
		request(rig, NBD_CMD_CACHE, 0, offs[i], 2, NBD_EINVAL);
		request(rig, NBD_CMD_WRITE_ZEROES, 0, offs[i], 2, NBD_ENOSPC);
	}
	request(rig, NBD_CMD_TRIM, 0, 0, UINT32_MAX, NBD_EINVAL);
	request(rig, NBD_CMD_READ, 0, VOLUME_SIZE - 2, 2, 0);
	assert_int_equal(rig->fs.requests, 1);
}

static void test_unknown_commands_and_flags(void **state)
{
	struct rig *rig = *state;

	request(rig, 8, 0, 0, 16, NBD_EINVAL);
	request(rig, 0xffff, 0, 0, 16, NBD_EINVAL);
	request(rig, NBD_CMD_READ, NBD_CMD_FLAG_NO_HOLE, 0, 16, NBD_EINVAL);
	request(rig, NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 16, NBD_EINVAL);
	request(rig, NBD_CMD_READ, 0x8000, 0, 16, NBD_EINVAL);
	request(rig, NBD_CMD_TRIM, NBD_CMD_FLAG_FAST_ZERO, 0, 16, NBD_EINVAL);
	request(rig, NBD_CMD_CACHE, NBD_CMD_FLAG_DF, 0, 16, NBD_EINVAL);
	request(rig, NBD_CMD_FLUSH, 0, 0, 16, NBD_EINVAL);
	request(rig, NBD_CMD_FLUSH, 0, 16, 0, NBD_EINVAL);
	request(rig, NBD_CMD_BLOCK_STATUS, 0, 0, 16, NBD_EINVAL);
	assert_int_equal(rig->fs.requests, 0);
	request(rig, NBD_CMD_READ, 0, 0, 16, 0);
}

static void test_empty_ranges_do_nothing(void **state)
{
	struct rig *rig = *state;

	for (int type = 0; type <= NBD_CMD_WRITE_ZEROES; type++)
		if (type != NBD_CMD_DISC && type != NBD_CMD_FLUSH)
			request(rig, type, 0, VOLUME_SIZE, 0, 0);
	assert_int_equal(rig->fs.requests, 0);
}

static void test_read_that_is_too_long(void **state)
{
	struct rig *rig = *state;

	request(rig, NBD_CMD_READ, 0, 0, BIG + 1, NBD_EINVAL);
	request(rig, NBD_CMD_READ, 0, 0, UINT32_MAX, NBD_EINVAL);
	request(rig, NBD_CMD_READ, 0, 0, BIG, NBD_EINVAL); /* past the end */
}

/* A refused write's data is thrown away, however it is cut, and the next request is understood. */
static void test_refused_writes_are_drained(void **state)
{
	static const struct {
		uint16_t flags;
		uint64_t off;
		uint32_t len, error;
	} cases[] = {
		{0, VOLUME_SIZE - 10, 100, NBD_ENOSPC},
		{0, UINT64_MAX, 5000, NBD_ENOSPC},
		{NBD_CMD_FLAG_DF, 0, 3, NBD_EINVAL},
		{0x100, 0, 40000, NBD_EINVAL},
		{0, 0, BIG + 1, NBD_EINVAL},
	};
	static uint8_t data[40000];
	struct rig *rig = *state;

	memset(data, 'x', sizeof(data));
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		static struct bytes b;

		b.len = 0;
		add_request(&b, NBD_CMD_WRITE, cases[i].flags, i, cases[i].off, cases[i].len);
		feed(rig, &b);
		for (uint64_t left = cases[i].len; left;) {
			size_t n = min_u64(left, sizeof(data));

			expect_end(rig);
			assert_int_equal(rig_feed(rig, data, n, 7001), n);
			left -= n;
		}
		expect_simple(rig, i, cases[i].error, 0);
		request(rig, NBD_CMD_READ, 0, 0, 16, 0);
	}
	assert_true(fake_fs_is_hole(&rig->fs.volumes[0], 0, VOLUME_SIZE));
}

static void test_engine_errors_become_nbd_errors(void **state)
{
	static const struct {
		int error;
		uint32_t want;
	} cases[] = {
		{-EIO, NBD_EIO},
		{-ENOSPC, NBD_ENOSPC},
		{-EROFS, NBD_EPERM},
		{-ENOMEM, NBD_ENOMEM},
		{-EINVAL, NBD_EINVAL},
		{-EBADMSG, NBD_EIO},
		{-ESHUTDOWN, NBD_ESHUTDOWN},
		{-EPERM, NBD_EPERM},
		{-EDQUOT, NBD_ENOSPC},
		{-ETIMEDOUT, NBD_EIO},
	};
	struct rig *rig = *state;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		rig->fs.fail = cases[i].error;
		request(rig, NBD_CMD_READ, 0, 0, 4096, cases[i].want);
		request(rig, NBD_CMD_TRIM, 0, 0, 4096, cases[i].want);
	}
	rig->fs.fail = 0;
	request(rig, NBD_CMD_READ, 0, 0, 4096, 0);
}

static void test_read_only_export_refuses_changes(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;

	handshake(rig, "frozen", false);
	request(rig, NBD_CMD_TRIM, 0, 0, 4096, NBD_EPERM);
	request(rig, NBD_CMD_WRITE_ZEROES, 0, 0, 4096, NBD_EPERM);
	b.len = 0;
	add_request(&b, NBD_CMD_WRITE, 0, 9, 0, 100);
	add_fill(&b, 'x', 100);
	feed(rig, &b);
	expect_simple(rig, 9, NBD_EPERM, 0);
	request(rig, NBD_CMD_FLUSH, 0, 0, 0, 0);
	request(rig, NBD_CMD_READ, 0, 0, 4096, 0);
}

/* ---- batches, cuts, order --------------------------------------------------- */

static void test_requests_in_one_read_are_one_batch(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;

	b.len = 0;
	for (int i = 0; i < 100; i++)
		add_request(&b, NBD_CMD_READ, 0, i, i * 512, 512);
	feed(rig, &b);
	assert_int_equal(rig->fs.submits, 1);
	assert_int_equal(rig->fs.largest_batch, 100);
	for (int i = 0; i < 100; i++)
		expect_simple(rig, i, 0, 512);
}

/* Script of the next tests: writes of several sizes, a refused one, reads, an unknown command. */
static void add_script(struct bytes *b)
{
	for (int i = 0; i < 4; i++) {
		add_request(b, NBD_CMD_WRITE, 0, i, i * 1000, 100 << i);
		add_fill(b, 'a' + i, 100 << i);
	}
	add_request(b, NBD_CMD_WRITE, 0, 10, VOLUME_SIZE, 33);
	add_fill(b, 'x', 33);
	add_request(b, 99, 0, 11, 0, 50);
	for (int i = 0; i < 4; i++)
		add_request(b, NBD_CMD_READ, 0, 20 + i, i * 1000, 100 << i);
}

/*
 * What needs no engine is answered before the batch: the order depends on the cuts, what is in the replies
 * does not.
 */
static void expect_script(struct rig *rig)
{
	unsigned seen = 0;

	for (int n = 0; n < 10; n++) {
		const struct nbd_simple_reply *rep = (const void *)(rig->out + rig->out_pos);
		uint64_t cookie = be64_to_cpu(rep->cookie);
		size_t len = cookie >= 20 ? 100 << (cookie - 20) : 0;
		const uint8_t *data = expect_simple(rig, cookie,
						    cookie == 10   ? NBD_ENOSPC
						    : cookie == 11 ? NBD_EINVAL
								   : 0,
						    len);

		for (size_t j = 0; j < len; j++)
			assert_int_equal(data[j], 'a' + cookie - 20);
		assert_true(cookie < 24);
		seen |= 1u << cookie;
	}
	assert_int_equal(seen, 0xf00c0f);
	expect_end(rig);
	assert_int_equal(rig->env.bytes, 0);
}

static void test_every_split_gives_the_same_replies(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;

	b.len = 0;
	add_script(&b);
	for (size_t cut = 1; cut < b.len; cut++) {
		assert_int_equal(rig_feed(rig, b.data, cut, cut), cut);
		assert_int_equal(rig_feed(rig, b.data + cut, b.len - cut, SIZE_MAX), b.len - cut);
		expect_script(rig);
		rig->out_len = rig->out_pos = 0;
	}
}

static void test_pieces_of_every_size_give_the_same_replies(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;

	b.len = 0;
	add_script(&b);
	for (size_t piece = 1; piece < 200; piece++) {
		rig->send_max = piece;
		assert_int_equal(rig_feed(rig, b.data, b.len, piece), b.len);
		expect_script(rig);
		rig->out_len = rig->out_pos = 0;
	}
}

/* Cut anywhere, the client vanishes: nothing is left behind, and an incomplete write has not happened. */
static void test_disconnect_at_every_byte(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;

	for (int defer = 0; defer < 2; defer++) {
		b.len = 0;
		add_script(&b);
		for (size_t cut = 0; cut <= b.len; cut++) {
			rig->fs.defer = defer;
			rig_feed(rig, b.data, cut, SIZE_MAX);
			rig_disconnect(rig);
			assert_int_equal(rig->fs.volumes[0].refs, 0);
			rig->fs.defer = false;
			rig->out_len = rig->out_pos = 0;
			rig_connect(rig);
			handshake(rig, "vm1", false);
		}
	}
}

static void test_incomplete_write_is_dropped_and_others_finish(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;

	rig->fs.defer = true;
	b.len = 0;
	add_request(&b, NBD_CMD_WRITE, 0, 1, 0, 3);
	add(&b, "abc", 3);
	add_request(&b, NBD_CMD_WRITE, 0, 2, 8192, 1000);
	add_fill(&b, 'x', 999);
	feed(rig, &b);
	nbd_session_drain(rig->s, "test"); /* the client's side is closed, ours is not */
	assert_false(nbd_session_is_over(rig->s));
	rig_settle(rig);
	expect_simple(rig, 1, 0, 0);
	expect_end(rig);
	assert_true(nbd_session_is_over(rig->s));
	assert_memory_equal(rig->fs.volumes[0].data, "abc", 3);
	assert_int_equal(rig->fs.volumes[0].data[8192], 0);
}

/* The data of a deferred write must still be there when later input has come in. */
static void test_write_data_stays_until_done(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;

	rig->fs.defer = true;
	for (int i = 0; i < 100; i++) {
		b.len = 0;
		add_request(&b, NBD_CMD_WRITE, 0, i, i * 1000, 1000);
		add_fill(&b, i + 1, 1000);
		feed(rig, &b);
	}
	rig_settle(rig);
	for (int i = 0; i < 100 * 1000; i++)
		assert_int_equal(rig->fs.volumes[0].data[i], i / 1000 + 1);
}

static void test_replies_leave_as_requests_finish(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;

	rig->fs.defer = true;
	b.len = 0;
	for (int i = 0; i < 3; i++)
		add_request(&b, NBD_CMD_READ, 0, i, 0, 8);
	add_request(&b, 77, 0, 3, 0, 0); /* needs no engine: first */
	feed(rig, &b);
	expect_simple(rig, 3, NBD_EINVAL, 0);
	expect_end(rig);
	rig_settle(rig);
	for (int i = 2; i >= 0; i--) /* the fake engine answers backwards */
		expect_simple(rig, i, 0, 8);
	expect_end(rig);
}

static void test_large_write_goes_to_its_own_buffer(void **state)
{
	struct rig *rig = *state;
	static uint8_t data[200000];
	static struct bytes b;
	struct iovec iov[2];

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = i * 7;
	b.len = 0;
	add_request(&b, NBD_CMD_WRITE, 0, 5, 100, sizeof(data));
	add(&b, data, 1000);
	feed(rig, &b);
	assert_int_equal(nbd_session_rx(rig->s, iov), 2);
	assert_int_equal(iov[0].iov_len, sizeof(data) - 1000);
	assert_int_equal(rig_feed(rig, data + 1000, sizeof(data) - 1000, 50001), sizeof(data) - 1000);
	expect_simple(rig, 5, 0, 0);
	assert_memory_equal(rig->fs.volumes[0].data + 100, data, sizeof(data));
}

/* ---- ends ------------------------------------------------------------------ */

static void test_disc_answers_what_came_before(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;

	rig->fs.defer = true;
	b.len = 0;
	add_request(&b, NBD_CMD_READ, 0, 1, 0, 8);
	add_request(&b, NBD_CMD_DISC, 0, 2, 0, 0);
	add_request(&b, NBD_CMD_READ, 0, 3, 0, 8);
	feed(rig, &b);
	assert_int_equal(rig->s->state, NBD_CLOSING);
	rig_settle(rig);
	expect_simple(rig, 1, 0, 8);
	expect_end(rig);
	assert_true(nbd_session_is_over(rig->s));
}

static void test_garbage_ends_the_connection_alone(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;

	b.len = 0;
	add_request(&b, NBD_CMD_READ, 0, 1, 0, 8);
	add_fill(&b, 0x55, 100);
	feed(rig, &b);
	expect_simple(rig, 1, 0, 8);
	assert_true(nbd_session_is_over(rig->s));
	rig_disconnect(rig);
	rig_connect(rig);
	handshake(rig, "vm1", false);
	request(rig, NBD_CMD_READ, 0, 0, 8, 0);
}

static void test_half_a_header_holds_no_buffer(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;

	b.len = 0;
	add_request(&b, NBD_CMD_READ, 0, 1, 0, 8);
	assert_int_equal(rig_feed(rig, b.data, 27, 27), 27);
	assert_int_equal(rig->s->under_way, 0);
	assert_int_equal(rig->env.pool.rx->refs, 1);
	assert_int_equal(rig_feed(rig, b.data + 27, 1, 1), 1);
	expect_simple(rig, 1, 0, 8);
}

static void test_no_memory_is_an_error_or_an_end_but_no_crash(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;
	bool all;

	for (uint64_t n = 1;; n++) {
		nbd_session_break(rig->s, "test");
		rig_disconnect(rig);
		buf_pool_fini(&rig->env.pool);
		nbd_request_slabs_free(&rig->env);
		rig_connect(rig);
		handshake(rig, "vm1", false);
		buf_pool_fini(&rig->env.pool);
		nbd_request_slabs_free(&rig->env);
		b.len = 0;
		add_script(&b);
		mem_fail_at(n);
		rig_feed(rig, b.data, b.len, 61);
		all = mem_fail_pending();
		mem_fail_at(0);
		if (all)
			break;
	}
	expect_script(rig);
}

/* ---- structured replies ---------------------------------------------------- */

static void expect_text(const uint8_t *data, uint32_t len, const char *text)
{
	const struct nbd_chunk_error *rep = (const void *)data;

	assert_int_equal(be16_to_cpu(rep->msg_len), strlen(text));
	assert_int_equal(len, sizeof(*rep) + strlen(text));
	assert_memory_equal(rep + 1, text, strlen(text));
}

static void test_structured_read(void **state)
{
	struct rig *rig = *state;
	const uint8_t *data;
	static struct bytes b;
	uint32_t len;

	memcpy(rig->fs.volumes[0].data + 100, "hello", 5);
	b.len = 0;
	add_request(&b, NBD_CMD_READ, NBD_CMD_FLAG_DF, 1, 100, 5);
	add_request(&b, NBD_CMD_READ, 0, 2, VOLUME_SIZE, 5);
	add_request(&b, NBD_CMD_READ, NBD_CMD_FLAG_DF, 3, 0, BIG + 1);
	add_request(&b, NBD_CMD_READ, 0, 4, 0, 0);
	add_request(&b, NBD_CMD_FLUSH, 0, 5, 0, 0);
	rig->fs.defer = false;
	feed(rig, &b);
	data = expect_chunk(rig, 2, NBD_CHUNK_ERROR, &len);
	assert_int_equal(be32_to_cpu(*(const be32 *)data), NBD_EINVAL);
	expect_text(data, len, "READ of 5 bytes at 262144 of 'vm1': it goes beyond the end of the volume");
	data = expect_chunk(rig, 3, NBD_CHUNK_ERROR, &len);
	assert_int_equal(be32_to_cpu(*(const be32 *)data), NBD_EOVERFLOW);
	expect_chunk(rig, 4, NBD_CHUNK_NONE, &len);
	data = expect_chunk(rig, 1, NBD_CHUNK_OFFSET_DATA, &len);
	assert_int_equal(len, 8 + 5);
	assert_int_equal(be64_to_cpu(*(const be64 *)data), 100);
	assert_memory_equal(data + 8, "hello", 5);
	expect_simple(rig, 5, 0, 0);
	expect_end(rig);
}

static void expect_extents(struct rig *rig, uint64_t cookie, const uint32_t (*want)[2], unsigned n)
{
	uint32_t len;
	const uint8_t *data = expect_chunk(rig, cookie, NBD_CHUNK_BLOCK_STATUS, &len);
	const struct nbd_extent *ext = (const void *)(data + 4);

	assert_int_equal(len, 4 + n * sizeof(*ext));
	assert_int_equal(be32_to_cpu(*(const be32 *)data), 1);
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(be32_to_cpu(ext[i].len), want[i][0]);
		assert_int_equal(be32_to_cpu(ext[i].flags), want[i][1]);
	}
}

static void test_block_status(void **state)
{
	static const uint32_t want[][2] = {{8192 - 100, 3}, {4096, 0}, {4096 + 100, 3}};
	struct rig *rig = *state;
	static struct bytes b;

	rig->fs.defer = true;
	rig->fs.volumes[0].data[8192] = 1;
	b.len = 0;
	add_request(&b, NBD_CMD_BLOCK_STATUS, 0, 1, 100, 16384);
	feed(rig, &b);
	expect_end(rig);
	rig_settle(rig);
	expect_extents(rig, 1, want, 3);
	add_request(&b, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, 2, 100, 16384);
	feed(rig, &b);
	rig_settle(rig);
	expect_extents(rig, 2, want, 1);
	expect_end(rig);
}

static void test_block_status_errors(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;
	const uint8_t *data;
	uint32_t len;

	b.len = 0;
	add_request(&b, NBD_CMD_BLOCK_STATUS, 0, 1, 0, 0);
	add_request(&b, NBD_CMD_BLOCK_STATUS, 0, 2, 1, VOLUME_SIZE);
	feed(rig, &b);
	for (int i = 1; i <= 2; i++) {
		data = expect_chunk(rig, i, NBD_CHUNK_ERROR, &len);
		assert_int_equal(be32_to_cpu(*(const be32 *)data), NBD_EINVAL);
	}
	rig->fs.fail = -EIO;
	add_request(&b, NBD_CMD_BLOCK_STATUS, 0, 3, 0, 4096);
	feed(rig, &b);
	rig_settle(rig);
	data = expect_chunk(rig, 3, NBD_CHUNK_ERROR, &len);
	assert_int_equal(be32_to_cpu(*(const be32 *)data), NBD_EIO);
	expect_end(rig);
}

static void test_block_status_of_many_pieces_is_cut(void **state)
{
	struct rig *rig = *state;
	struct fs_volume *vol = fake_fs_add(&rig->fs, "chess", (NBD_EXTENTS_MAX + 10) * FS_BLOCK_SIZE, 0);
	static struct bytes b;
	uint32_t len;

	for (uint64_t i = 0; i < vol->size; i += 2 * FS_BLOCK_SIZE)
		vol->data[i] = 1;
	handshake(rig, "chess", true);
	b.len = 0;
	add_request(&b, NBD_CMD_BLOCK_STATUS, 0, 1, 0, vol->size);
	feed(rig, &b);
	rig_settle(rig);
	expect_chunk(rig, 1, NBD_CHUNK_BLOCK_STATUS, &len);
	assert_int_equal(len, 4 + NBD_EXTENTS_MAX * sizeof(struct nbd_extent));
	expect_end(rig);
}

static void test_disconnect_while_a_worker_looks(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;

	rig->fs.defer = true;
	b.len = 0;
	add_request(&b, NBD_CMD_BLOCK_STATUS, 0, 1, 0, 4096);
	feed(rig, &b);
	nbd_session_break(rig->s, "test");
	assert_false(nbd_session_is_over(rig->s));
	rig_settle(rig);
	assert_true(nbd_session_is_over(rig->s));
}

int main(void)
{
#define S(name) cmocka_unit_test_setup_teardown(name, setup_simple, teardown)
#define X(name) cmocka_unit_test_setup_teardown(name, setup_structured, teardown)
#define N(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		S(test_write_then_read),
		S(test_trim_and_zeroes_read_as_zeros),
		S(test_flags_reach_the_engine),
		S(test_fua_is_taken_on_every_command),
		S(test_fast_zero_that_keeps_space_is_not_supported),
		S(test_ranges_that_leave_the_volume),
		S(test_unknown_commands_and_flags),
		S(test_empty_ranges_do_nothing),
		S(test_read_that_is_too_long),
		S(test_refused_writes_are_drained),
		S(test_engine_errors_become_nbd_errors),
		N(test_read_only_export_refuses_changes),
		S(test_requests_in_one_read_are_one_batch),
		S(test_every_split_gives_the_same_replies),
		S(test_pieces_of_every_size_give_the_same_replies),
		S(test_disconnect_at_every_byte),
		S(test_incomplete_write_is_dropped_and_others_finish),
		S(test_write_data_stays_until_done),
		S(test_replies_leave_as_requests_finish),
		S(test_large_write_goes_to_its_own_buffer),
		S(test_disc_answers_what_came_before),
		S(test_garbage_ends_the_connection_alone),
		S(test_half_a_header_holds_no_buffer),
		S(test_no_memory_is_an_error_or_an_end_but_no_crash),
		X(test_structured_read),
		X(test_block_status),
		X(test_block_status_errors),
		N(test_block_status_of_many_pieces_is_cut),
		X(test_disconnect_while_a_worker_looks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
