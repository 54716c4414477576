/* SPDX-License-Identifier: BSD-3-Clause */
/* How descriptors are shared out to connections. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/util.h"
#include "server/conn_limits.h"
#include "server/limits.h"

static void test_shares_fit(void **state)
{
	for (unsigned left = 0; left < 20000; left++) {
		struct conn_limits l;

		conn_limits_share(&l, left);
		assert_true(l.nbd >= 1 && l.rpc >= 1 && l.http >= 1);
		assert_true(l.nbd <= NBD_CONNECTIONS_MAX && l.rpc <= RPC_CONNECTIONS_MAX &&
			    l.http <= HTTP_CONNECTIONS_MAX);
		assert_true(l.nbd + l.rpc + l.http <= max_u64(left, 3));
	}
}

/* With so many more it is enough, with one less it is not. */
static void test_what_is_missing_is_told(void **state)
{
	struct rlimit before, lim;
	struct conn_limits l;
	unsigned missing;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	lim = before;
	lim.rlim_cur = 20;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &lim), 0);
	conn_limits_init(&l, 5);
	assert_true(l.missing > 0 && l.missing < 40);
	assert_int_equal(l.nbd + l.rpc + l.http, 3);
	missing = l.missing;
	conn_limits_init(&l, 6);
	assert_int_equal(l.missing, missing + 1);
	lim.rlim_cur = 20 + missing;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &lim), 0);
	conn_limits_init(&l, 5);
	assert_int_equal(l.missing, 0);
	lim.rlim_cur--;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &lim), 0);
	conn_limits_init(&l, 5);
	assert_int_equal(l.missing, 1);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
}

/* Those that are open now count, and looking leaves none open. */
static void test_open_descriptors_count(void **state)
{
	struct rlimit before, lim;
	struct conn_limits l;
	unsigned missing;
	int fds[5];

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	lim = before;
	lim.rlim_cur = 30;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &lim), 0);
	conn_limits_init(&l, 20);
	missing = l.missing;
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		assert_true((fds[i] = dup(0)) >= 0);
	conn_limits_init(&l, 20);
	assert_int_equal(l.missing, missing + ARRAY_SIZE(fds));
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
	conn_limits_init(&l, 20);
	assert_int_equal(l.missing, missing);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shares_fit),
		cmocka_unit_test(test_what_is_missing_is_told),
		cmocka_unit_test(test_open_descriptors_count),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
