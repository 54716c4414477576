/* SPDX-License-Identifier: BSD-3-Clause */
/* tests/server/test_pool_watch.c: how full the pool is, told once for each change. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "server/pool_watch.h"

struct fixture {
	struct config config;
	struct log log;
	struct pool_watch w;
	int fds[2];
};

static void setup_fixture(struct fixture *fx)
{
	assert_int_equal(pipe(fx->fds), 0);
	config_init(&fx->config);
	strcpy(fx->config.pool, "/p");
	log_init(&fx->log, "prog", LOG_LEVEL_INFO);
	fx->log.fd = fx->fds[1];
	fx->w = (struct pool_watch){.log = &fx->log, .config = &fx->config};
}

/* What was said since the last call; "" for nothing. */
static const char *look(struct fixture *fx, unsigned percent, uint64_t enospc, uint64_t now_ms)
{
	static char buf[2048];
	struct fs_info info = {.data_bytes = percent * 10ull,
			       .free_bytes = (100 - percent) * 10ull,
			       .enospc = enospc,
			       .provisioned_bytes = 5000};
	ssize_t n;

	pool_watch_look(&fx->w, &info, now_ms);
	assert_int_equal(write(fx->fds[1], "!", 1), 1);
	n = read(fx->fds[0], buf, sizeof(buf) - 1);
	assert_true(n > 0 && buf[n - 1] == '!');
	buf[n - 1] = 0;
	return buf;
}

static void test_each_threshold_is_told_once(void **state)
{
	struct fixture fx;

	setup_fixture(&fx);
	assert_string_equal(look(&fx, 79, 0, 0), "");
	assert_string_equal(
		look(&fx, 80, 0, 0),
		"prog: warning: /p: the pool is nearly full: 80 % used, 200 B free; volumes have 4.8 KiB altogether: grow the pool, or delete, trim or shrink volumes\n");
	assert_string_equal(look(&fx, 81, 0, 0), "");
	assert_string_equal(look(&fx, 79, 0, 0), "");
	assert_string_equal(look(&fx, 80, 0, 0), ""); /* at the edge it stays quiet */
	assert_non_null(strstr(look(&fx, 96, 0, 0), "96 % used"));
	assert_int_equal(fx.w.level, 3);
	assert_non_null(strstr(look(&fx, 90, 0, 0), "less full again: 90 %"));
	assert_int_equal(fx.w.level, 2);
	assert_non_null(strstr(look(&fx, 10, 0, 0), "less full"));
	assert_int_equal(fx.w.level, 0);
}

static void test_full_begins_and_ends(void **state)
{
	struct fixture fx;

	setup_fixture(&fx);
	fx.config.warn_full_count = 0;
	assert_non_null(strstr(look(&fx, 100, 3, 1000), "refused for lack of space"));
	assert_string_equal(look(&fx, 100, 900, 6000), "");
	assert_string_equal(look(&fx, 50, 900, 65999), "");
	assert_non_null(strstr(look(&fx, 50, 900, 66000), "no longer full"));
	assert_string_equal(look(&fx, 50, 900, 99000), "");
	assert_non_null(strstr(look(&fx, 50, 901, 100000), "full"));
}

static void test_percentages(void **state)
{
	struct fs_info info = {.data_bytes = UINT64_MAX / 4,
			       .volume_reserved_bytes = UINT64_MAX / 4,
			       .free_bytes = UINT64_MAX / 4};

	assert_int_equal(pool_used_percent(&info), 66);
	assert_int_equal(pool_used_percent(&(struct fs_info){0}), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_threshold_is_told_once),
		cmocka_unit_test(test_full_begins_and_ends),
		cmocka_unit_test(test_percentages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
