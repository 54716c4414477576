/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NBD connections over real sockets: two loops on threads of their own, each with a fake engine; the test is
 * the client.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <event2/thread.h>
#include <fcntl.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/le.h"
#include "base/util.h"
#include "server/nbd_conn.h"
#include "tests/lib/nbd_rig.h"

#define LOOPS 2
#define VOLUME_SIZE (1u << 20)
#define WAIT_MS 10000

struct bench {
	struct fs fs[LOOPS];
	struct loop loops[LOOPS];
	struct nbd_worker workers[LOOPS];
	struct budget budget;
	sem_t drained;
	bool stopped;
};

static void on_drained(void *arg)
{
	sem_post(arg);
}

struct stop_task {
	struct task task;
	struct loop *loop;
};

static void on_stop(struct task *task)
{
	loop_stop(container_of(task, struct stop_task, task)->loop);
}

static int setup_with(void **state, unsigned handshake_ms)
{
	struct bench *b = calloc(1, sizeof(*b));
	struct nbd_worker_options opt = {
		.budget = &b->budget, .workers = LOOPS, .memory = 64 << 20, .stall_ms = 300};

	budget_init(&b->budget, 32 << 20, 1 << 20);
	signal(SIGPIPE, SIG_IGN);
	evthread_use_pthreads();
	sem_init(&b->drained, 0, 0);
	for (int i = 0; i < LOOPS; i++) {
		fake_fs_add(&b->fs[i], "vm1", VOLUME_SIZE, 0);
		assert_int_equal(loop_init(&b->loops[i], &b->fs[i], i, false), 0);
		opt.fs = &b->fs[i];
		assert_int_equal(nbd_worker_init(&b->workers[i], &b->loops[i], &opt), 0);
		b->workers[i].handshake_timeout = (struct timeval){.tv_sec = handshake_ms / 1000,
								   .tv_usec = handshake_ms % 1000 * 1000};
		b->workers[i].linger_timeout = (struct timeval){.tv_usec = 200000};
	}
	for (int i = 0; i < LOOPS; i++)
		assert_int_equal(loop_start(&b->loops[i]), 0);
	*state = b;
	return 0;
}

static int setup(void **state)
{
	return setup_with(state, 200);
}

static int setup_patient(void **state)
{
	return setup_with(state, 60000);
}

/* Drains and ends the loops: everything that clients left behind must be gone then. */
static void stop(struct bench *b)
{
	struct stop_task stops[LOOPS];

	for (int i = 0; i < LOOPS; i++)
		nbd_worker_drain(&b->workers[i], on_drained, &b->drained);
	for (int i = 0; i < LOOPS; i++) {
		struct timespec until;

		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += WAIT_MS / 1000;
		assert_int_equal(sem_timedwait(&b->drained, &until), 0);
	}
	for (int i = 0; i < LOOPS; i++) {
		stops[i] = (struct stop_task){.task = {.fn = on_stop}, .loop = &b->loops[i]};
		loop_post(&b->loops[i], &stops[i].task);
		loop_join(&b->loops[i]);
		assert_int_equal(b->workers[i].env.stats.connections, 0);
		nbd_worker_fini(&b->workers[i]);
		loop_fini(&b->loops[i]);
		fake_fs_fini(&b->fs[i]);
	}
	budget_fini(&b->budget); /* which asserts that all is back */
	b->stopped = true;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	if (!b->stopped)
		stop(b);
	sem_destroy(&b->drained);
	free(b);
	return 0;
}

/* ---- the client ------------------------------------------------------------ */

static int client_connect(struct bench *b, int loop)
{
	int fds[2];
	struct timeval timeout = {.tv_sec = WAIT_MS / 1000};

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	fcntl(fds[1], F_SETFL, O_NONBLOCK);
	setsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	assert_int_equal(nbd_worker_accept(&b->workers[loop], fds[1]), 0);
	return fds[0];
}

static void client_read(int fd, void *buf, size_t len)
{
	while (len) {
		ssize_t n = read(fd, buf, len);

		assert_true(n > 0);
		buf = (char *)buf + n;
		len -= n;
	}
}

static void client_write(int fd, const void *buf, size_t len)
{
	while (len) {
		ssize_t n = send(fd, buf, len, MSG_NOSIGNAL);

		assert_true(n > 0);
		buf = (const char *)buf + n;
		len -= n;
	}
}

static void client_export_name(int fd)
{
	struct bytes msg = {.len = 0};
	uint8_t reply[10];

	add_u32(&msg, 3);
	add_option(&msg, NBD_OPT_EXPORT_NAME, "vm1", 3);
	client_write(fd, msg.data, msg.len);
	client_read(fd, reply, sizeof(reply));
}

static int client_go(struct bench *b, int loop)
{
	int fd = client_connect(b, loop);
	uint8_t greeting[18];

	client_read(fd, greeting, sizeof(greeting));
	client_export_name(fd);
	return fd;
}

static void client_expect(int fd, uint64_t cookie, uint32_t error)
{
	struct nbd_simple_reply rep;

	client_read(fd, &rep, sizeof(rep));
	assert_int_equal(be32_to_cpu(rep.magic), NBD_SIMPLE_REPLY_MAGIC);
	assert_int_equal(be64_to_cpu(rep.cookie), cookie);
	assert_int_equal(be32_to_cpu(rep.error), error);
}

static void client_expect_end(int fd)
{
	char c;

	assert_int_equal(read(fd, &c, 1), 0);
	close(fd);
}

static void write_and_read_back(int fd, uint64_t off, uint32_t len, uint8_t value)
{
	struct bytes msg = {.len = 0};
	static uint8_t data[sizeof(msg.data)];

	add_request(&msg, NBD_CMD_WRITE, 0, off, off, len);
	add_fill(&msg, value, len);
	client_write(fd, msg.data, msg.len);
	client_expect(fd, off, 0);
	msg.len = 0;
	add_request(&msg, NBD_CMD_READ, 0, 7, off, len);
	client_write(fd, msg.data, msg.len);
	client_expect(fd, 7, 0);
	client_read(fd, data, len);
	for (uint32_t i = 0; i < len; i++)
		assert_int_equal(data[i], value);
}

/* ---- tests ----------------------------------------------------------------- */

static void test_clients_on_both_loops(void **state)
{
	struct bench *b = *state;
	int fds[8];

	for (int i = 0; i < 8; i++)
		fds[i] = client_go(b, i % LOOPS);
	for (int i = 0; i < 8; i++)
		write_and_read_back(fds[i], i * 65536 + 3, 50000, i + 1);
	for (int i = 0; i < 8; i++)
		close(fds[i]);
}

static void test_disc_ends_the_connection(void **state)
{
	struct bytes msg = {.len = 0};
	int fd = client_go(*state, 0);

	add_request(&msg, NBD_CMD_FLUSH, 0, 1, 0, 0);
	add_request(&msg, NBD_CMD_DISC, 0, 2, 0, 0);
	client_write(fd, msg.data, msg.len);
	client_expect(fd, 1, 0);
	client_expect_end(fd);
}

/* The client shuts its side down: what it asked for before is still answered. */
static void test_half_close_is_answered(void **state)
{
	struct bytes msg = {.len = 0};
	int fd = client_go(*state, 0);

	add_request(&msg, NBD_CMD_TRIM, 0, 1, 0, 4096);
	client_write(fd, msg.data, msg.len);
	shutdown(fd, SHUT_WR);
	client_expect(fd, 1, 0);
	client_expect_end(fd);
}

static void test_vanished_client_does_not_disturb_others(void **state)
{
	struct bench *b = *state;
	int other = client_go(b, 0);

	for (int i = 0; i < 50; i++) {
		struct bytes msg = {.len = 0};
		int fd = client_go(b, 0);

		add_request(&msg, NBD_CMD_WRITE, 0, 1, 0, 60000);
		add_fill(&msg, 0xee, i * 1000);
		client_write(fd, msg.data, msg.len);
		close(fd);
		write_and_read_back(other, 100000, 5000, i);
	}
	close(other);
}

static void test_garbage_does_not_disturb_others(void **state)
{
	struct bench *b = *state;
	int other = client_go(b, 0), bad = client_go(b, 0), worse = client_connect(b, 0);
	char junk[1000];

	memset(junk, 0x5a, sizeof(junk));
	client_write(bad, junk, sizeof(junk));
	client_expect_end(bad);
	send(worse, junk, sizeof(junk), MSG_NOSIGNAL);
	write_and_read_back(other, 0, 4096, 9);
	close(worse);
	close(other);
}

static void test_handshake_times_out(void **state)
{
	struct bench *b = *state;
	int slow = client_connect(b, 0), quick = client_go(b, 0);
	uint8_t greeting[18];

	client_read(slow, greeting, sizeof(greeting));
	client_expect_end(slow);
	usleep(300000); /* longer than the handshake may take */
	write_and_read_back(quick, 0, 4096, 1);
	close(quick);
}

/* Far more replies than the socket holds, and nobody who reads them. */
static void fill_up(int fd)
{
	struct bytes msg = {.len = 0};

	for (int i = 0; i < 100; i++)
		add_request(&msg, NBD_CMD_READ, 0, i, 0, VOLUME_SIZE / 2);
	client_write(fd, msg.data, msg.len);
}

static void test_client_that_reads_late_gets_everything(void **state)
{
	static uint8_t data[VOLUME_SIZE / 2];
	int fd = client_go(*state, 0);

	fill_up(fd);
	usleep(50000);
	for (int i = 0; i < 100; i++) {
		client_expect(fd, i, 0);
		client_read(fd, data, sizeof(data));
	}
	close(fd);
}

static void test_client_that_never_reads_and_leaves(void **state)
{
	struct bench *b = *state;
	int fd = client_go(b, 0), other = client_go(b, 0);

	fill_up(fd);
	write_and_read_back(other, 0, 4096, 3);
	close(fd);
	write_and_read_back(other, 0, 4096, 4);
	close(other);
}

static void test_stop_does_not_wait_for_a_client_that_never_reads(void **state)
{
	struct bench *b = *state;
	int fd = client_go(b, 0), idle = client_go(b, 1), shaking = client_connect(b, 1);

	fill_up(fd);
	stop(b);
	close(fd);
	client_expect_end(idle);
	close(shaking);
}

/* Everything that was sent before the stop, in one piece, and has been begun, is answered before the end. */
static void test_stop_answers_what_is_under_way(void **state)
{
	struct bench *b = *state;
	struct nbd_simple_reply rep;
	int fd = client_go(b, 0), n = 0;
	struct bytes msg = {.len = 0};

	for (int i = 0; i < 50; i++)
		add_request(&msg, NBD_CMD_TRIM, 0, i, i * 4096, 4096);
	client_write(fd, msg.data, msg.len);
	client_expect(fd, 0, 0); /* the batch was taken */
	stop(b);
	while (read(fd, &rep, sizeof(rep)) == sizeof(rep)) {
		n++;
		assert_int_equal(be64_to_cpu(rep.cookie), n);
	}
	assert_int_equal(n, 49);
	close(fd);
}

/* The oldest first, one for each place that is asked for; nobody who has a volume, however idle. */
static void test_handshakes_give_way(void **state)
{
	struct bench *b = *state;
	int idle = client_go(b, 0), fds[3];
	uint8_t greeting[18];

	assert_false(nbd_worker_make_place(&b->workers[1]));
	while (nbd_worker_make_place(&b->workers[0])) /* until the loop has seen that the handshake is over */
		usleep(1000);
	for (int i = 0; i < 3; i++) {
		fds[i] = client_connect(b, 0);
		client_read(fds[i], greeting, sizeof(greeting));
	}
	for (int i = 0; i < 2; i++) {
		assert_true(nbd_worker_make_place(&b->workers[0]));
		client_expect_end(fds[i]);
	}
	while (nbd_worker_is_giving(&b->workers[0]))
		usleep(1000);
	assert_int_equal(b->workers[0].env.stats.connections, 2);
	client_export_name(fds[2]);
	write_and_read_back(fds[2], 0, 4096, 7);
	write_and_read_back(idle, 8192, 4096, 8);
	assert_false(nbd_worker_make_place(&b->workers[0]));
	close(fds[2]);
	close(idle);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_clients_on_both_loops),
		T(test_disc_ends_the_connection),
		T(test_half_close_is_answered),
		T(test_vanished_client_does_not_disturb_others),
		T(test_garbage_does_not_disturb_others),
		T(test_handshake_times_out),
		T(test_client_that_reads_late_gets_everything),
		T(test_client_that_never_reads_and_leaves),
		T(test_stop_does_not_wait_for_a_client_that_never_reads),
		T(test_stop_answers_what_is_under_way),
		cmocka_unit_test_setup_teardown(test_handshakes_give_way, setup_patient, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
