/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fs/check/test_fuzzed_image.c: what the fuzzer of pool images does (tests/fuzz/fuzz_image.c), with the
 * inputs of its corpus and a few random ones: so that it runs with every compiler, sanitizer and check.
 */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/fuzz/fuzz_image.c"
#include "fs/device/device.h"

#define CORPUS "tests/fuzz/corpus/fuzz_image"
#define RANDOM_RUNS 60u

static int make(void **state)
{
	return LLVMFuzzerInitialize(NULL, NULL);
}

static int drop(void **state)
{
	for (unsigned i = 0; i < 2; i++)
		device_close(bases[i].dev);
	return 0;
}

static void test_fuzzed_image_corpus(void **state)
{
	DIR *dir = opendir(CORPUS);
	unsigned n = 0;

	assert_non_null(dir);
	for (struct dirent *de = readdir(dir); de; de = readdir(dir)) {
		uint8_t data[EDITS_MAX * sizeof(struct edit)];
		char path[512];
		FILE *f;

		snprintf(path, sizeof(path), CORPUS "/%s", de->d_name);
		f = de->d_name[0] == '.' ? NULL : fopen(path, "r");
		if (!f)
			continue;
		print_message("%s\n", de->d_name);
		(void)LLVMFuzzerTestOneInput(data, fread(data, 1, sizeof(data), f));
		fclose(f);
		n++;
	}
	closedir(dir);
	assert_true(n > 10);
}

static void test_fuzzed_image_random(void **state)
{
	const char *env = getenv("SEED");
	unsigned seed = env ? (unsigned)strtoul(env, NULL, 0) : 1;
	uint8_t data[EDITS_MAX * sizeof(struct edit)];
	size_t size = 0;

	print_message("SEED=%u\n", seed);
	for (unsigned i = 0; i < RANDOM_RUNS; i++) {
		size = LLVMFuzzerCustomMutator(data, size, sizeof(data), seed * RANDOM_RUNS + i);
		(void)LLVMFuzzerTestOneInput(data, size);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fuzzed_image_corpus),
		cmocka_unit_test(test_fuzzed_image_random),
	};

	return cmocka_run_group_tests(tests, make, drop);
}
