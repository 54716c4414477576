/* SPDX-License-Identifier: BSD-3-Clause */
/* tests/base/test_size.c: sizes as people type and read them. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/size.h"
#include "base/util.h"

static void test_size_parse_takes_bytes_and_units(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} cases[] = {
		{"0", 0},
		{"1", 1},
		{"4096", 4096},
		{"007", 7},
		{"1K", 1024},
		{"1k", 1024},
		{"3M", 3u << 20},
		{"10G", 10ull << 30},
		{"2T", 2ull << 40},
		{"8191P", 8191ull << 50},
		{"16383P", 16383ull << 50},
		{"18446744073709551615", UINT64_MAX},
		{"10GiB", 10ull << 30},
		{"10Gi", 10ull << 30},
		{"4kiB", 4096},
		{"512B", 512},
		{"1.5G", 3ull << 29},
		{"0.5K", 512},
		{"1.25TiB", 5ull << 38},
		{"1.0000000009K", 1024},
		{"2.999999999P", (3ull << 50) - 1125900},
		{"16383.999999999P", UINT64_MAX - 1125899},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t v = 99;

		assert_int_equal(size_parse(cases[i].text, &v), 0);
		assert_int_equal(v, cases[i].bytes);
	}
}

static void test_size_parse_refuses_the_rest(void **state)
{
	static const char *const bad[] = {"",	   " ",	   "K",	    "-1",   "+1",  " 1",  "1 ",	   "1 K",
					  "1KB",   "1Kib", "1KiBs", "1.5",  "1.G", ".5G", "1..5G", "1.5B",
					  "1.5 G", "1,5G", "B",	    "0x10", "1E",  "10X", "1\n"};
	static const char *const large[] = {"18446744073709551616", "16384P", "99999999999999999999999",
					    "18014398509481984K"};
	uint64_t v = 99;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(size_parse(bad[i], &v), -EINVAL);
	for (size_t i = 0; i < ARRAY_SIZE(large); i++)
		assert_int_equal(size_parse(large[i], &v), -ERANGE);
	assert_int_equal(v, 99); /* untouched */
}

static void test_size_format_reads_well(void **state)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} cases[] = {
		{0, "0 B"},
		{1023, "1023 B"},
		{1024, "1 KiB"},
		{1536, "1.5 KiB"},
		{4096, "4 KiB"},
		{(1u << 20) - 1, "1023.9 KiB"},
		{1u << 20, "1 MiB"},
		{16ull << 30, "16 GiB"},
		{3ull << 39, "1.5 TiB"},
		{1ull << 50, "1 PiB"},
		{UINT64_MAX, "15.9 EiB"},
	};
	char buf[SIZE_FORMAT_MAX];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_string_equal(size_format(cases[i].bytes, buf, sizeof(buf)), cases[i].text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_size_parse_takes_bytes_and_units),
		cmocka_unit_test(test_size_parse_refuses_the_rest),
		cmocka_unit_test(test_size_format_reads_well),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
