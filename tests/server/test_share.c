/* SPDX-License-Identifier: BSD-3-Clause */
/* A share of a loop's time: over a while it is no more than that, and who asks for little is not held up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/share.h"

/* Works whenever it may, now for long and now not. */
static void test_share_is_kept(void **state)
{
	uint64_t now = 12345, begin = now, worked = 0;
	struct share s;

	share_init(&s, 4, now);
	for (unsigned i = 0; i < 100000; i++) {
		uint64_t piece = i % 7 * 100 + i % 3;

		now += i % 5;
		if (!share_begin(&s, now))
			continue;
		now += piece;
		worked += piece;
		share_end(&s, now, 0);
		assert_true(worked <= (now - begin) / 4 + SHARE_BURST_US + 700);
	}
	assert_true(worked >= (now - begin) / 5); /* and it gets it */
}

static void test_little_work_is_not_held_up(void **state)
{
	uint64_t now = 1;
	struct share s;

	share_init(&s, 4, now);
	for (unsigned i = 0; i < 10000; i++) {
		assert_true(share_begin(&s, now));
		now += 50;
		share_end(&s, now, SHARE_BYTES_PER_US * 10);
		now += 250;
	}
}

/* After a long pause there is one burst, not one for each second of it. */
static void test_pauses_are_not_saved_up(void **state)
{
	struct share s;

	share_init(&s, 8, 1);
	assert_true(share_begin(&s, 3600000000));
	assert_int_equal(s.left_us, SHARE_BURST_US);
	share_charge(&s, (size_t)2 * SHARE_BURST_US * SHARE_BYTES_PER_US);
	assert_false(share_begin(&s, 3600000001));
	assert_true(share_begin(&s, 3600000001 + 9 * SHARE_BURST_US));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_share_is_kept),
		cmocka_unit_test(test_little_work_is_not_held_up),
		cmocka_unit_test(test_pauses_are_not_saved_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
