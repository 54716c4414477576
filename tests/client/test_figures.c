/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/client/test_figures.c: a figure's whole way, from the engine's struct to each place where users see
 * it: the message, the library's struct, JSON, text, metrics. What they see is kept in the files of the
 * folder `figures` beside this file; with FIGURES_WRITE=1 in the environment the test writes them anew.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <event2/buffer.h>

#include "server/metrics.h"
#include "server/pool_watch.h"
#include "tests/lib/rpc_fixture.h"

/* NOLINTBEGIN(bugprone-suspicious-include): the units under test */
#include "client/backend.c"
#include "client/cli_figures.c"
#include "client/cli_output.c"
#include "client/cli_text.c"
/* NOLINTEND(bugprone-suspicious-include) */

#include "client/libbyre_int.h"

int cli_connect(const struct cli *cli, struct byre **ret_byre, struct byre_error *err)
{
	return -ENOTCONN;
}

int fs_open(const char *path, const struct fs_options *opt, struct fs **ret_fs, struct fs_error *err)
{
	return -ENOENT;
}

int fs_close(struct fs *fs)
{
	return 0;
}

/* No two alike, and each where it should be. */
static const struct fs_info engine = {
	.uuid = {0x10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
	.size = 1ull << 40,
	.data_bytes = 300ull << 30,
	.metadata_bytes = 3ull << 30,
	.reserved_bytes = 5ull << 20,
	.pinned_bytes = 6ull << 20,
	.free_bytes = 500ull << 30,
	.generation = 107,
	.groups_data = 108,
	.groups_metadata = 109,
	.groups_system = 110,
	.unallocated_bytes = 111ull << 20,
	.global_reserve_bytes = 112ull << 20,
	.volume_reserved_bytes = 13ull << 30,
	.cache_loaded = 114,
	.cache_written = 115,
	.cache_rebuilt = 116,
	.cache_last_bytes = 117,
	.cache_last_us = 118,
	.cache_bytes = 119,
	.cache_us = 120,
	.commit_bytes = 121,
	.commit_us = 122,
	.last_commit_ms = 123,
	.commit_latency = {.us = 9000, .buckets = {[0] = 1, [3] = 20, [15] = 2}},
	.log_latency = {.us = 400, .buckets = {[1] = 4, [14] = 1}},
	.commits = 124,
	.flushes = 125,
	.log_groups = 126,
	.log_bytes = 127,
	.device_flushes = 128,
	.reclaim_commits = 129,
	.reclaim_groups = 130,
	.enospc = 131,
	.node_cache_hits = 132,
	.node_cache_misses = 133,
	.data_cache_hits = 134,
	.data_cache_misses = 135,
	.volumes = 136,
	.provisioned_bytes = 200ull << 30,
	.snapshots = 137,
	.objects = 138,
	.errors_corrected = 139,
	.errors_checksum = 140,
	.errors_io = 141,
	.discarded_bytes = 142ull << 20,
	.lost_bytes = 143ull << 12,
	.log_lost_flushes = 144,
	.log_lost_ns = 1700000001000000000,
	.scrub = {.state = FS_SCRUB_FINISHED,
		  .started_ns = 1700000002000000000,
		  .ended_ns = 1700000003000000000,
		  .rate = 145,
		  .bytes_done = 146,
		  .bytes_total = 147,
		  .found = 148,
		  .mended = 149,
		  .damaged_bytes = 150},
	.sparse = true,
	.host_full = true,
	.host_free_bytes = 700ull << 30,
	.host_short_bytes = 0,
	.discard = true,
	.trim_left_bytes = 152,
	.trim_total_bytes = 153,
	.read_only = false,
	.device_kind = "io_uring",
	.direct_io = true,
};

/* ---- the kept files -------------------------------------------------------- */

static char *golden_path(const char *name, char *buf, size_t len)
{
	const char *file = __FILE__;

	snprintf(buf, len, "%.*sfigures/%s", (int)(strrchr(file, '/') + 1 - file), file, name);
	return buf;
}

/* Takes `got`, which the caller has from malloc. */
static void assert_golden(const char *name, char *got)
{
	bool write = getenv("FIGURES_WRITE") != NULL;
	char path[256], want[32768];
	FILE *f = fopen(golden_path(name, path, sizeof(path)), write ? "w" : "r");
	size_t n;

	if (!f)
		fail_msg("%s: %s", path, strerror(errno));
	if (write) {
		fputs(got, f);
	} else {
		n = fread(want, 1, sizeof(want) - 1, f);
		want[n] = '\0';
		if (strcmp(got, want))
			print_error("what differs from %s:\n%s\n", path, got);
		assert_string_equal(got, want);
	}
	fclose(f);
	free(got);
}

static void assert_golden_json(const char *name, json_t *got)
{
	assert_golden(name, json_dumps(got, JSON_INDENT(2)));
	json_decref(got);
}

/* What is written to standard output between the two. */
static FILE *real_stdout;
static char *captured;
static size_t captured_len;

static void capture_begin(void)
{
	real_stdout = stdout;
	stdout = open_memstream(&captured, &captured_len);
	assert_non_null(stdout);
}

static char *capture_end(void)
{
	fclose(stdout);
	stdout = real_stdout;
	return captured;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Families in order of their names: whatever order they are written in. */
static char *families(struct evbuffer *out)
{
	static const char head[] = "# HELP ";
	size_t n = 0, len = evbuffer_get_length(out);
	char *text = malloc(len + 1), *sorted = calloc(1, len + 1), *at[256];

	assert_true(text && sorted);
	evbuffer_remove(out, text, len);
	text[len] = '\0';
	for (char *p = text; (p = strstr(p, head)); p += sizeof(head) - 1) {
		assert_true(n < ARRAY_SIZE(at));
		at[n++] = p + sizeof(head) - 1;
	}
	for (size_t i = 0; i < n; i++)
		at[i][-(ptrdiff_t)sizeof(head) + 1] = '\0';
	qsort(at, n, sizeof(at[0]), by_text);
	for (size_t i = 0; i < n; i++)
		strcat(strcat(sorted, head), at[i]);
	free(text);
	return sorted;
}

/* ---- the message and the library's struct ---------------------------------- */

static void dump_message(FILE *out, const ProtobufCMessage *m, const char *prefix);

static void dump_field(FILE *out, const ProtobufCFieldDescriptor *f, const char *at, const char *name)
{
	const ProtobufCMessage *sub;

	switch (f->type) {
	case PROTOBUF_C_TYPE_UINT64: fprintf(out, "%" PRIu64, *(const uint64_t *)at); break;
	case PROTOBUF_C_TYPE_INT64: fprintf(out, "%" PRId64, *(const int64_t *)at); break;
	case PROTOBUF_C_TYPE_BOOL: fputs(*(const protobuf_c_boolean *)at ? "true" : "false", out); break;
	case PROTOBUF_C_TYPE_ENUM: fprintf(out, "%d", *(const int *)at); break;
	case PROTOBUF_C_TYPE_STRING: fprintf(out, "\"%s\"", *(char *const *)at); break;
	case PROTOBUF_C_TYPE_BYTES: fprintf(out, "%zu bytes", ((const ProtobufCBinaryData *)at)->len); break;
	case PROTOBUF_C_TYPE_MESSAGE:
		sub = *(ProtobufCMessage *const *)at;
		fputs(sub ? "{" : "none", out);
		if (sub) {
			fputc('\n', out);
			dump_message(out, sub, name);
			fputs("}", out);
		}
		break;
	default: fail_msg("%s has a type that is not known here", name);
	}
}

/* A line for each field: number, name, value. */
static void dump_message(FILE *out, const ProtobufCMessage *m, const char *prefix)
{
	for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
		const char *at = (const char *)m + f->offset;
		char name[128];

		snprintf(name, sizeof(name), "%s%s%s", prefix, *prefix ? "." : "", f->name);
		fprintf(out, "%u %s = ", f->id, name);
		if (f->label == PROTOBUF_C_LABEL_REPEATED) {
			size_t n = *(const size_t *)((const char *)m + f->quantifier_offset);

			for (size_t k = 0; k < n; k++)
				fprintf(out, "%s%" PRIu64, k ? " " : "", (*(uint64_t *const *)at)[k]);
		} else {
			dump_field(out, f, at, name);
		}
		fputc('\n', out);
	}
}

static char *message_text(const ProtobufCMessage *m)
{
	size_t len;
	char *text;
	FILE *out = open_memstream(&text, &len);

	assert_non_null(out);
	dump_message(out, m, "");
	fclose(out);
	return text;
}

static void ask_pool(struct fixture *fx, struct byre_pool_info *ret_info)
{
	struct byre_error err;
	struct byre *b;

	fx->fs->info = &engine;
	assert_int_equal(fs_volume_create(fx->fs, "vm1", 200ull << 30, 0, NULL), 0);
	assert_int_equal(byre_connect(fx->address, &b, &err), 0);
	assert_int_equal(byre_pool_info(b, ret_info, &err), 0);
	byre_close(b);
}

static void test_figures_message(void **state)
{
	static const Byre__Empty none = BYRE__EMPTY__INIT;
	struct fixture *fx = *state;
	struct byre_error err;
	ProtobufCMessage *reply;
	struct byre *b;

	fx->fs->info = &engine;
	assert_int_equal(fs_volume_create(fx->fs, "vm1", 200ull << 30, 0, NULL), 0);
	assert_int_equal(byre_connect(fx->address, &b, &err), 0);
	assert_int_equal(libbyre_call(b, BYRE__METHOD__METHOD_POOL_INFO, "pool info", &none.base,
				      &byre__pool_info_reply__descriptor, &reply, &err),
			 0);
	assert_golden("pool.message", message_text(&((Byre__PoolInfoReply *)reply)->pool->base));
	libbyre_free(reply);
	assert_int_equal(libbyre_call(b, BYRE__METHOD__METHOD_VOLUME_LIST, "volume list", &none.base,
				      &byre__volume_list_reply__descriptor, &reply, &err),
			 0);
	assert_golden("volume.message", message_text(&((Byre__VolumeListReply *)reply)->volumes[0]->base));
	libbyre_free(reply);
	byre_close(b);
}

/* What the command line sees of a pool: through the daemon, and of a file. */
static void test_figures_pool(void **state)
{
	struct fixture *fx = *state;
	struct backend file = {.fs = fx->fs};
	struct byre_pool_info info, direct;

	ask_pool(fx, &info);
	assert_golden_json("pool.json", pool_json(&info, false));
	capture_begin();
	print_pool(&info, false);
	assert_golden("pool.text", capture_end());

	assert_int_equal(file_pool_info(&file, &direct, NULL), 0);
	assert_golden_json("pool.json", pool_json(&direct, false));
	capture_begin();
	print_pool(&direct, false);
	assert_golden("pool.text", capture_end());
}

/* On a host that has room for little, all that says how full the pool is says the same. */
static void test_figures_of_use_have_one_basis(void **state)
{
	struct fixture *fx = *state;
	struct backend file = {.fs = fx->fs};
	struct fs_info small = engine;
	struct byre_pool_info info;
	struct metrics_nbd nbd = {0};
	struct evbuffer *out = evbuffer_new();
	struct byre *b;
	json_t *json;
	char *text;

	small.host_full = false;
	small.host_short_bytes = 400ull << 30;
	fx->fs->info = &small;
	assert_int_equal(pool_used_percent(&small), 75); /* 313 of 413 GiB */
	assert_int_equal(byre_connect(fx->address, &b, NULL), 0);
	for (unsigned i = 0; i < 2; i++) { /* of a daemon, and of a file */
		assert_int_equal(i ? file_pool_info(&file, &info, NULL) : byre_pool_info(b, &info, NULL), 0);
		json = pool_json(&info, false);
		assert_int_equal(json_integer_value(json_object_get(json, "used_percent")), 75);
		assert_int_equal(json_integer_value(json_object_get(json, "host_short_bytes")), 400ull << 30);
		json_decref(json);
		capture_begin();
		print_pool(&info, false);
		text = capture_end();
		assert_non_null(strstr(text, "\nused                 75 %\n"));
		assert_non_null(strstr(text, ", 0.48 times the room\n"));
		assert_non_null(strstr(text, "700 GiB free: no room for 400 GiB of the pool's free space\n"));
		free(text);
	}
	byre_close(b);
	assert_int_equal(metrics_write(out, &small, &nbd), 0);
	text = families(out);
	assert_non_null(strstr(text, "\nbyre_pool_used_ratio 0.7579\n"));
	assert_non_null(strstr(text, "\nbyre_pool_provisioned_ratio 0.4843\n"));
	free(text);
	evbuffer_free(out);
}

/* Whoever adds a field to the message is told of the table. */
static void test_figures_of_the_message_are_in_the_table(void **state)
{
	static const char *const others[] = {"uuid", "device_kind", "scrub", "commit", "log_group"};
#define NAME(name, ...) #name,
	static const char *const table[] = {POOL_FIGURES(NAME, FIGURE_SKIP)};
#undef NAME
	const ProtobufCMessageDescriptor *d = &byre__pool_info__descriptor;
	size_t found = 0;

	for (unsigned i = 0; i < d->n_fields; i++) {
		for (size_t k = 0; k < ARRAY_SIZE(table); k++)
			found += !strcmp(d->fields[i].name, table[k]);
		for (size_t k = 0; k < ARRAY_SIZE(others); k++)
			found += !strcmp(d->fields[i].name, others[k]);
		if (found != i + 1)
			fail_msg("%s is in no line of proto/figure_table.h", d->fields[i].name);
	}
}

static void fill_figures(struct byre_figures *f)
{
	for (unsigned k = 0; k <= BYRE_OTHER; k++)
		f->kind[k] = (struct byre_kind_figures){.count = 10 + k,
							.errors = 20 + k,
							.bytes = (30ull + k) << 20,
							.us = 40000 + k,
							.latency = {[1] = 9, [4] = 1 + k}};
}

static void test_figures_stats(void **state)
{
	struct byre_stats stats = {.uptime_ms = 12345,
				   .rpc_connections = 2,
				   .rpc_connections_total = 3,
				   .rpc_requests = 4,
				   .rpc_errors = 5,
				   .rpc_bad_frames = 6,
				   .nbd_connections = 7,
				   .nbd_connections_total = 8};
	struct byre_pool_info info;

	ask_pool(*state, &info);
	fill_figures(&stats.nbd);
	assert_golden_json("stats.json", stats_json(&stats, &info));
	capture_begin();
	print_stats(&stats, &info);
	assert_golden("stats.text", capture_end());
}

static const struct fs_volume_info volume = {
	.id = 301,
	.name = "vm7",
	.size = 302ull << 30,
	.used_bytes = 303ull << 20,
	.lost_bytes = 304ull << 12,
	.flags = FS_VOLUME_RESERVED | FS_VOLUME_WRITEBACK | FS_VOLUME_READ_ONLY,
	.ctime_ns = 1700000004000000000,
	.uuid = {0x20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
	.comment = "the seventh",
};

static void test_figures_volume(void **state)
{
	struct fixture *fx = *state;
	struct byre_volume_info info, direct;
	struct byre_error err;
	struct byre *b;

	fx->fs->volumes[0] = volume;
	fx->fs->nr_volumes = 1;
	assert_int_equal(byre_connect(fx->address, &b, &err), 0);
	assert_int_equal(byre_volume_info(b, "vm7", &info, &err), 0);
	byre_close(b);
	assert_golden_json("volume.json", volume_json(&info));
	capture_begin();
	print_volume(&info);
	assert_golden("volume.text", capture_end());
	volume_from_fs(&volume, &direct);
	assert_golden_json("volume.json", volume_json(&direct));
}

static void test_figures_client(void **state)
{
	struct byre_client_info info = {.id = 5,
					.peer = "uid 1000, pid 4242",
					.volume = "vm7",
					.since_ns = 1700000005000000000,
					.read_only = true};

	fill_figures(&info.figures);
	assert_golden_json("client.json", client_json(&info));
}

/* ---- metrics ----------------------------------------------------------------- */

static void test_figures_metrics(void **state)
{
	struct metrics_nbd nbd = {.connections = 201,
				  .connections_total = 202,
				  .reads = 203,
				  .writes = 204,
				  .flushes = 205,
				  .others = 206,
				  .errors = 207,
				  .read_bytes = 208,
				  .written_bytes = 209};
	struct fixture *fx = *state;
	struct evbuffer *out = evbuffer_new();
	struct client client = {.peer = "tcp:10.0.0.7:4711"};
	struct client_list clients;
	struct fs_info info = engine;

	fx->fs->volumes[0] = volume;
	fx->fs->nr_volumes = 1;
	info.provisioned_bytes = 1ull << 41;
	client_list_init(&clients);
	client_join(&clients, &client);
	client_open(&clients, &client, &volume, false);
	figures_add(&client.figures, FIGURES_READ, 4096, 77, 0);
	figures_add(&client.figures, FIGURES_WRITE, 8192, 20000000, 1);
	assert_int_equal(metrics_write(out, &info, &nbd), 0);
	assert_int_equal(metrics_write_clients(out, fx->fs, &clients), 0);
	assert_golden("metrics", families(out));
	client_leave(&clients, &client);
	client_list_fini(&clients);
	evbuffer_free(out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_figures_message, fx_setup, fx_teardown),
		cmocka_unit_test_setup_teardown(test_figures_pool, fx_setup, fx_teardown),
		cmocka_unit_test_setup_teardown(test_figures_of_use_have_one_basis, fx_setup, fx_teardown),
		cmocka_unit_test(test_figures_of_the_message_are_in_the_table),
		cmocka_unit_test_setup_teardown(test_figures_stats, fx_setup, fx_teardown),
		cmocka_unit_test_setup_teardown(test_figures_volume, fx_setup, fx_teardown),
		cmocka_unit_test(test_figures_client),
		cmocka_unit_test_setup_teardown(test_figures_metrics, fx_setup, fx_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
