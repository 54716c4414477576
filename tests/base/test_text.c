/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/text.h"
#include "base/util.h"

static void test_text_takes_utf8(void **state)
{
	static const char *const good[] = {"",		 "plain words, 100 %", "\u00e4\u00a0", "\u65e5\u672c",
					   "\U0001f600", "\U0010ffff"};

	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_true(text_is_plain(good[i], strlen(good[i])));
}

static void test_text_refuses_the_rest(void **state)
{
	static const char *const bad[] = {
		"a\nb",
		"\x1b[0m",
		"\x7f",
		"\xc2\x85", /* controls */
		"\x80",
		"\xc3",
		"\xe6\x97",
		"\xff",
		"\xf8\x88\x80\x80\x80", /* not UTF-8, or cut */
		/* too long, surrogates, too large */
		"\xc0\xaf",
		"\xe0\x80\xaf",
		"\xed\xa0\x80",
		"\xf4\x90\x80\x80",
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(text_is_plain(bad[i], strlen(bad[i])));
	assert_false(text_is_plain("a\0b", 3));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_text_takes_utf8),
		cmocka_unit_test(test_text_refuses_the_rest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
