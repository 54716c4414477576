/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a session holds, and what it waits for: back-pressure, memory that is short, requests that go in
 * pieces.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "tests/lib/nbd_transmit_rig.h"

/* ---- back-pressure --------------------------------------------------------- */

static void test_too_many_requests_stop_the_input(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;
	struct iovec iov[2];

	rig->fs.defer = true;
	b.len = 0;
	for (unsigned i = 0; i < 2 * NBD_REQUESTS_MAX; i++)
		add_request(&b, NBD_CMD_READ, 0, i, 0, 16);
	assert_int_equal(rig_feed(rig, b.data, b.len, SIZE_MAX), b.len);
	assert_int_equal(rig->s->under_way, NBD_REQUESTS_MAX);
	assert_int_equal(nbd_session_rx(rig->s, iov), 0);
	rig_settle(rig);
	assert_int_equal(rig->out_len - rig->out_pos, 2 * NBD_REQUESTS_MAX * (16 + 16));
	assert_int_equal(rig->s->under_way, 0);
	assert_true(nbd_session_rx(rig->s, iov) > 0);
}

static void test_client_that_takes_no_replies_is_not_served_for_ever(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;
	struct iovec iov[2];

	rig->send_max = 0;
	b.len = 0;
	for (unsigned i = 0; i < 2 * NBD_REQUESTS_MAX; i++)
		add_request(&b, NBD_CMD_READ, 0, i, 0, 1000);
	rig_feed(rig, b.data, b.len, SIZE_MAX);
	assert_int_equal(rig->s->under_way, NBD_REQUESTS_MAX);
	assert_int_equal(nbd_session_rx(rig->s, iov), 0);
	rig->send_max = 777;
	rig_pump(rig);
	assert_int_equal(rig->out_len - rig->out_pos, 2 * NBD_REQUESTS_MAX * (16 + 1000));
}

static void test_bytes_under_way_are_bounded(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;

	fake_fs_add(&rig->fs, "large", NBD_IO_MAX, 0);
	handshake(rig, "large", false);
	rig->send_max = 0;
	b.len = 0;
	for (unsigned i = 0; i < 5; i++)
		add_request(&b, NBD_CMD_READ, 0, i, 0, NBD_IO_MAX);
	rig_feed(rig, b.data, b.len, SIZE_MAX);
	assert_int_equal(rig->env.bytes, NBD_CONN_BYTES_MAX);
	assert_int_equal(rig->s->under_way, NBD_CONN_BYTES_MAX / NBD_IO_MAX);
	rig->send_max = SIZE_MAX;
	rig_pump(rig);
	for (unsigned i = 0; i < 5; i++)
		expect_simple(rig, i, 0, NBD_IO_MAX);
	expect_end(rig);
	assert_int_equal(rig->env.bytes, 0);
}

/* ---- memory that is short ---------------------------------------------------- */

#define SMALL (4u << 20)

/* A budget that one large request does not fit, and a volume for large requests. */
static int setup_short(void **state)
{
	struct rig *rig = malloc(sizeof(*rig));

	rig_init_with(rig, SMALL);
	fake_fs_add(&rig->fs, "large", NBD_IO_MAX, 0);
	handshake(rig, "large", false);
	*state = rig;
	return 0;
}

/* One more client of the same loop; the one before is in *ret_other. */
static void connect_another(struct rig *rig, struct nbd_session **ret_other)
{
	*ret_other = rig->s;
	rig_connect(rig);
	handshake(rig, "large", false);
}

static void end_session(struct nbd_session *s)
{
	nbd_session_break(s, "test");
	assert_true(nbd_session_is_over(s));
	nbd_session_free(s);
}

static void send_header(struct rig *rig, uint16_t type, uint32_t len)
{
	static struct bytes b;

	b.len = 0;
	add_request(&b, type, 0, 7, 0, len);
	feed(rig, &b);
}

/* A header takes next to nothing, and data what it needs: until the reserve has to help. */
static void test_large_write_is_paid_for_as_its_data_comes(void **state)
{
	struct rig *rig = *state;
	uint8_t *data = calloc(1, NBD_IO_MAX);

	send_header(rig, NBD_CMD_WRITE, NBD_IO_MAX);
	assert_int_equal(rig->s->account.held, NBD_GRANT_STEP);
	assert_int_equal(rig_feed(rig, data, NBD_GRANT_STEP, SIZE_MAX), NBD_GRANT_STEP);
	assert_int_equal(rig_feed(rig, data, 1, 1), 1);
	assert_int_equal(rig->s->account.held, 2 * NBD_GRANT_STEP);
	assert_false(rig->s->reserve_used);
	assert_int_equal(rig_feed(rig, data, NBD_IO_MAX - NBD_GRANT_STEP - 1, SIZE_MAX),
			 NBD_IO_MAX - NBD_GRANT_STEP - 1);
	expect_simple(rig, 7, 0, 0);
	assert_int_equal(rig->s->account.held, 0);
	assert_false(rig->s->reserve_used);
	free(data);
}

/* Three writes that each hold a part of the memory: none holds up the others for good. */
static void test_half_writes_do_not_hold_each_other_up(void **state)
{
	struct nbd_session *s[3];
	struct rig *rig = *state;
	uint8_t *data = calloc(1, NBD_IO_MAX);
	size_t done[3];

	for (int i = 0; i < 3; i++) {
		if (i)
			connect_another(rig, &s[i - 1]);
		s[i] = rig->s;
		send_header(rig, NBD_CMD_WRITE, NBD_IO_MAX);
		done[i] = rig_feed(rig, data, NBD_IO_MAX - 1, SIZE_MAX);
	}
	assert_int_equal(done[0], NBD_IO_MAX - 1); /* it has the reserve */
	assert_true(done[1] < NBD_IO_MAX / 2 && done[2] < NBD_IO_MAX / 2);
	rig->s = s[2];
	assert_int_equal(rig_feed(rig, data, 1, 1), 0); /* starved, and not spinning */
	rig->s = s[0];
	rig_feed(rig, data, 1, 1);
	for (int i = 1; i < 3; i++) {
		rig->s = s[i];
		assert_int_equal(rig_feed(rig, data, NBD_IO_MAX - done[i], SIZE_MAX), NBD_IO_MAX - done[i]);
	}
	for (int i = 0; i < 3; i++)
		expect_simple(rig, 7, 0, 0);
	for (int i = 1; i < 3; i++)
		end_session(s[i]);
	rig->s = s[0];
	free(data);
}

/*
 * Replies that nobody reads hold memory: another client's request waits, does not spin, and goes on when that
 * is back.
 */
static void test_read_waits_for_memory_that_another_session_holds(void **state)
{
	struct nbd_session *mute, *good;
	struct rig *rig = *state;

	rig->send_max = 0;
	send_header(rig, NBD_CMD_READ, 2 << 20);
	send_header(rig, NBD_CMD_READ, NBD_IO_MAX); /* with the reserve */
	assert_int_equal(rig->s->under_way, 2);
	rig->send_max = SIZE_MAX;
	connect_another(rig, &mute);
	good = rig->s;
	send_header(rig, NBD_CMD_READ, 2 << 20);
	assert_int_equal(good->under_way, 0);
	assert_true(good->waiting && good->stalled);
	assert_false(nbd_session_resume(good));	     /* or the loop would spin for ever */
	assert_int_equal(rig->env.pool.rx->refs, 1); /* what waits is no longer in the receive buffer */
	expect_end(rig);
	end_session(mute);
	rig_pump(rig);
	expect_simple(rig, 7, 0, 2 << 20);
	expect_end(rig);
}

static void test_read_larger_than_the_budget_passes(void **state)
{
	struct rig *rig = *state;

	for (int i = 0; i < 3; i++) {
		send_header(rig, NBD_CMD_READ, NBD_IO_MAX);
		expect_simple(rig, 7, 0, NBD_IO_MAX);
	}
	assert_int_equal(rig->s->account.held, 0);
}

/* What a slow reader has taken is given back while the rest still waits. */
static void test_reply_gives_memory_back_as_it_is_sent(void **state)
{
	struct rig *rig = *state;
	struct iovec iov[NBD_TX_IOV];
	struct nbd_session *slow;
	uint64_t before;

	rig->send_max = 0;
	send_header(rig, NBD_CMD_READ, 2 << 20);
	before = rig->s->account.held;
	assert_int_equal(before, 2 << 20);
	send_header(rig, NBD_CMD_READ, NBD_IO_MAX); /* takes the reserve */
	assert_true(nbd_session_tx(rig->s, iov, NBD_TX_IOV) > 0);
	nbd_session_sent(rig->s, (1 << 20) + 100);
	assert_int_equal(rig->s->account.held, before);
	rig->send_max = SIZE_MAX;
	connect_another(rig, &slow);
	send_header(rig, NBD_CMD_READ, NBD_IO_MAX); /* has to wait: now memory is short */
	assert_int_equal(rig->s->under_way, 0);
	nbd_session_sent(slow, 100);
	assert_int_equal(slow->account.held, before - (1 << 20));
	end_session(slow);
	rig_pump(rig);
	expect_simple(rig, 7, 0, NBD_IO_MAX);
}

static void test_requests_of_a_loop_are_shared_out(void **state)
{
	struct rig *rig = *state;
	struct nbd_session *greedy;
	static struct bytes b;

	rig->env.requests_max = 40;
	rig->fs.defer = true;
	b.len = 0;
	for (unsigned i = 0; i < 100; i++)
		add_request(&b, NBD_CMD_TRIM, 0, i, 0, 4096);
	rig_feed(rig, b.data, b.len, SIZE_MAX);
	assert_int_equal(rig->s->under_way, 20);
	connect_another(rig, &greedy);
	rig_feed(rig, b.data, b.len, SIZE_MAX);
	assert_int_equal(rig->s->under_way, 10);
	rig_settle(rig);
	assert_int_equal(rig->s->under_way, 0);
	while (rig->ctx->pending || greedy->stalled) {
		struct nbd_session *other = rig->s;

		rig->s = greedy;
		rig_settle(rig);
		rig->s = other;
	}
	assert_int_equal(rig->env.requests, 0);
	assert_int_equal(rig->out_len - rig->out_pos, 200 * sizeof(struct nbd_simple_reply));
	end_session(greedy);
}

/* ---- zeros that keep their space -------------------------------------------- */

#define ZEROS (4u * NBD_PIECE)

static void ask_for_zeros(struct rig *rig, unsigned n, uint16_t flags)
{
	static struct bytes b;

	fake_fs_add(&rig->fs, "zeros", ZEROS + 4096, 0);
	memset(rig->fs.volumes[rig->fs.count - 1].data, 0xee, ZEROS + 4096);
	handshake(rig, "zeros", false);
	rig->fs.defer = true;
	b.len = 0;
	for (unsigned i = 0; i < n; i++)
		add_request(&b, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE | flags, i, 100, ZEROS);
	feed(rig, &b);
}

/*
 * However many are asked for, the engine has one piece of a connection at a time; FUA comes with the last
 * piece.
 */
static void test_zeros_are_written_piece_by_piece(void **state)
{
	struct rig *rig = *state;
	const uint8_t *data;

	ask_for_zeros(rig, 3, NBD_CMD_FLAG_FUA);
	data = rig->fs.volumes[rig->fs.count - 1].data;
	for (unsigned i = 0; i < 3 * 5; i++) {
		assert_int_equal(rig->fs.under_way, 1);
		assert_int_equal(rig->fs.last_flags, FS_NO_HOLE | (i % 5 == 4 ? FS_FUA : 0));
		fs_ctx_run(rig->ctx);
	}
	rig_settle(rig);
	for (unsigned i = 0; i < 3; i++)
		expect_simple(rig, i, 0, 0);
	expect_end(rig);
	assert_int_equal(data[99], 0xee);
	assert_true(fake_fs_is_hole(&rig->fs.volumes[rig->fs.count - 1], 100, ZEROS));
	assert_int_equal(data[100 + ZEROS], 0xee);
}

/* CACHE asks for as much with as little. */
static void test_long_cache_requests_go_in_pieces(void **state)
{
	struct rig *rig = *state;
	static struct bytes b;

	fake_fs_add(&rig->fs, "large", 8 * NBD_PIECE, 0);
	handshake(rig, "large", false);
	rig->fs.defer = true;
	b.len = 0;
	for (unsigned i = 0; i < 10; i++)
		add_request(&b, NBD_CMD_CACHE, 0, i, 0, 8 * NBD_PIECE);
	feed(rig, &b);
	for (unsigned i = 0; i < 10 * 8; i++) {
		assert_int_equal(rig->fs.under_way, 1);
		assert_int_equal(rig->fs.last_flags, 0);
		fs_ctx_run(rig->ctx);
	}
	rig_settle(rig);
	for (unsigned i = 0; i < 10; i++)
		expect_simple(rig, i, 0, 0);
	expect_end(rig);
}

static void test_zeros_end_with_their_client(void **state)
{
	struct rig *rig = *state;

	ask_for_zeros(rig, NBD_REQUESTS_MAX, 0);
	nbd_session_break(rig->s, "test");
	fs_ctx_run(rig->ctx);
	assert_int_equal(rig->fs.requests, 1);
	assert_true(nbd_session_is_over(rig->s));
}

static void test_zeros_are_called_off_when_the_server_stops(void **state)
{
	struct rig *rig = *state;

	ask_for_zeros(rig, 3, 0);
	nbd_session_stop(rig->s, "test");
	rig_settle(rig);
	assert_int_equal(rig->fs.requests, 1);
	assert_true(nbd_session_is_over(rig->s));
	expect_simple(rig, 1, NBD_ESHUTDOWN, 0);
	expect_simple(rig, 2, NBD_ESHUTDOWN, 0);
	expect_simple(rig, 0, NBD_ESHUTDOWN, 0);
	expect_end(rig);
}

/* A client that says goodbye is still owed what it asked for. */
static void test_zeros_are_finished_after_a_goodbye(void **state)
{
	struct rig *rig = *state;

	ask_for_zeros(rig, 2, 0);
	nbd_session_drain(rig->s, "test");
	rig_settle(rig);
	expect_simple(rig, 0, 0, 0);
	expect_simple(rig, 1, 0, 0);
	expect_end(rig);
	assert_true(nbd_session_is_over(rig->s));
}

int main(void)
{
#define S(name) cmocka_unit_test_setup_teardown(name, setup_simple, teardown)
#define L(name) cmocka_unit_test_setup_teardown(name, setup_short, teardown)
#define N(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		S(test_too_many_requests_stop_the_input),
		S(test_client_that_takes_no_replies_is_not_served_for_ever),
		N(test_bytes_under_way_are_bounded),
		L(test_large_write_is_paid_for_as_its_data_comes),
		L(test_half_writes_do_not_hold_each_other_up),
		L(test_read_waits_for_memory_that_another_session_holds),
		L(test_read_larger_than_the_budget_passes),
		L(test_reply_gives_memory_back_as_it_is_sent),
		L(test_requests_of_a_loop_are_shared_out),
		N(test_zeros_are_written_piece_by_piece),
		N(test_long_cache_requests_go_in_pieces),
		N(test_zeros_end_with_their_client),
		N(test_zeros_are_called_off_when_the_server_stops),
		N(test_zeros_are_finished_after_a_goodbye),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
