/* SPDX-License-Identifier: BSD-3-Clause */
/* tests/client/test_cli_output.c: the JSON that scripts rely on, and tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>
#include <malloc.h>

/* NOLINTBEGIN(bugprone-suspicious-include): the units under test */
#include "client/cli_figures.c"
#include "client/cli_output.c"
#include "client/cli_text.c"
/* NOLINTEND(bugprone-suspicious-include) */

static void test_output_pool_json_has_the_promised_fields(void **state)
{
	static const char *const numbers[] = {
		"size",		"data_bytes", "metadata_bytes", "reserved_bytes",
		"pinned_bytes", "free_bytes", "generation",	"last_commit_ms",
		"volumes",	"snapshots",  "objects",
	};
	struct byre_pool_info info = {
		.size = 1ull << 62, .groups_metadata = 4, .cache_rebuilt = 2, .generation = 9};
	json_t *obj = pool_json(&info, true);

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		assert_true(json_is_integer(json_object_get(obj, numbers[i])));
	assert_int_equal(json_integer_value(json_object_get(obj, "size")), 1ull << 62);
	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(obj, "block_groups"), "metadata")), 4);
	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(obj, "free_space_cache"), "rebuilt")), 2);
	assert_true(json_is_integer(json_object_get(json_object_get(obj, "free_space_cache"), "loaded")));
	assert_true(json_is_integer(json_object_get(json_object_get(obj, "free_space_cache"), "written")));
	assert_string_equal(json_string_value(json_object_get(obj, "uuid")),
			    "00000000-0000-0000-0000-000000000000");
	assert_string_equal(json_string_value(json_object_get(obj, "state")), "idle");
	json_decref(obj);
}

static void test_output_volume_json(void **state)
{
	struct byre_volume_info info = {
		.name = "vm1",
		.size = 4096,
		.flags = BYRE_VOLUME_WRITEBACK,
		.ctime_ns = 1700000000999999999,
		.uuid = {0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 1, 2, 3, 4, 5, 6, 7, 8},
	};
	json_t *obj = volume_json(&info);

	assert_string_equal(json_string_value(json_object_get(obj, "name")), "vm1");
	assert_string_equal(json_string_value(json_object_get(obj, "cache")), "writeback");
	assert_string_equal(json_string_value(json_object_get(obj, "created")), "2023-11-14T22:13:20Z");
	assert_string_equal(json_string_value(json_object_get(obj, "uuid")),
			    "12345678-9abc-def0-0102-030405060708");
	assert_true(json_is_false(json_object_get(obj, "reserved")));
	assert_true(json_is_false(json_object_get(obj, "read_only")));
	json_decref(obj);
}

static void test_output_table_is_aligned(void **state)
{
	static const char want[] = "NAME        SIZE   USED  SPACE     CACHE   CREATED\n"
				   "a          4 KiB    0 B  thin      direct  1970-01-01T00:00:00Z\n"
				   "long.name  1 GiB  1 MiB  reserved  direct  1970-01-01T00:00:00Z\n";
	struct byre_volume_info small = {.name = "a", .size = 4096};
	struct byre_volume_info large = {
		.name = "long.name", .size = 1 << 30, .used_bytes = 1 << 20, .flags = BYRE_VOLUME_RESERVED};
	char got[512];
	struct table t;
	int fds[2], saved = dup(1);
	ssize_t n;

	assert_int_equal(cli_volume_table_init(&t), 0);
	assert_int_equal(volume_table_add(&t, &small), 0);
	assert_int_equal(volume_table_add(&t, &large), 0);
	assert_int_equal(pipe(fds), 0);
	fflush(stdout);
	dup2(fds[1], 1);
	table_print(&t);
	fflush(stdout);
	dup2(saved, 1);
	n = read(fds[0], got, sizeof(got) - 1);
	got[n] = '\0';
	close(fds[0]);
	close(fds[1]);
	close(saved);
	table_fini(&t);

	assert_string_equal(got, want);
}

/* A pool may have 100,000 volumes. */
static void test_output_table_takes_what_its_words_take(void **state)
{
	static const char *const headings[] = {"A", "B", "C", "D", "E", "F"};
	const char *cells[] = {"volume-000001", "10 GiB", "1 GiB", "thin", "direct", "1970-01-01T00:00:00Z"};
	size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
	struct table t;

	assert_int_equal(table_init(&t, 6, 0, headings), 0);
	for (int i = 0; i < 100000; i++)
		assert_int_equal(table_add(&t, cells), 0);
	/* 0 with an allocator that does not count */
	assert_true(mallinfo2().uordblks + mallinfo2().hblkhd <= before + (16u << 20));
	table_fini(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_output_pool_json_has_the_promised_fields),
		cmocka_unit_test(test_output_volume_json),
		cmocka_unit_test(test_output_table_is_aligned),
		cmocka_unit_test(test_output_table_takes_what_its_words_take),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
