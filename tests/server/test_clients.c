/* SPDX-License-Identifier: BSD-3-Clause */
/* tests/server/test_clients.c: the list of clients, and what counts for whom. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <event2/buffer.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "server/clients.h"
#include "server/metrics.h"
#include "tests/lib/fake/nbd_fs.h"

static unsigned drops;

static void on_drop(struct client *client)
{
	drops += client->id;
}

static struct client *join(struct client_list *list, const char *peer)
{
	struct client *c = calloc(1, sizeof(*c));

	strcpy(c->peer, peer);
	c->drop = on_drop;
	client_join(list, c);
	return c;
}

static void leave(struct client_list *list, struct client *c)
{
	client_leave(list, c);
	free(c);
}

static void test_latencies_land_in_their_buckets(void **state)
{
	static const struct {
		uint64_t us;
		unsigned bucket;
	} cases[] = {{0, 0}, {50, 0}, {51, 1}, {100, 1}, {10000000, 14}, {10000001, 15}, {UINT64_MAX, 15}};
	struct figures_live live = {0};
	struct figures sum = {0};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		sum = (struct figures){0};
		figures_sum(&sum, &live);
		assert_int_equal(sum.kind[FIGURES_WRITE].count, i);
		figures_add(&live, FIGURES_WRITE, 10, cases[i].us, i == 3 ? -EIO : 0);
		for (unsigned b = 0; b < FIGURES_BUCKETS; b++)
			assert_int_equal(atomic_load(&live.kind[FIGURES_WRITE].buckets[b]),
					 sum.kind[FIGURES_WRITE].buckets[b] + (b == cases[i].bucket));
	}
	assert_int_equal(atomic_load(&live.kind[FIGURES_WRITE].errors), 1);
	assert_int_equal(atomic_load(&live.kind[FIGURES_WRITE].bytes), 70);
	assert_int_equal(atomic_load(&live.kind[FIGURES_READ].count), 0);
}

static void test_what_a_client_did_stays_with_its_volume(void **state)
{
	struct fs_volume_info vol = {.id = 300, .name = "vm1"};
	struct client_volume_info vi[4];
	struct client_info ci[4];
	struct client_list list;
	struct client *a, *b;
	struct figures all;
	uint64_t open, total;
	bool more;

	client_list_init(&list);
	a = join(&list, "a");
	b = join(&list, "b");
	client_open(&list, a, &vol, false);
	client_open(&list, b, &vol, true);
	figures_add(&a->figures, FIGURES_READ, 4096, 10, 0);
	figures_add(&b->figures, FIGURES_READ, 100, 10, 0);
	assert_int_equal(client_page(&list, 0, ci, 4, &more), 2);
	assert_int_equal(ci[1].id, 2);
	assert_string_equal(ci[1].volume, "vm1");
	assert_true(ci[1].read_only);
	assert_int_equal(ci[1].figures.kind[FIGURES_READ].bytes, 100);
	leave(&list, a);
	assert_int_equal(client_volume_page(&list, 0, vi, 4, &more), 1);
	assert_int_equal(vi[0].clients, 1);
	assert_int_equal(vi[0].opened, 2);
	assert_int_equal(vi[0].figures.kind[FIGURES_READ].bytes, 4196);
	client_volume_renamed(&list, 300, "vm2");
	client_volume_deleted(&list, 300); /* it is open: it cannot be this one */
	assert_int_equal(client_volume_page(&list, 299, vi, 4, &more), 1);
	assert_string_equal(vi[0].name, "vm2");
	assert_int_equal(client_volume_page(&list, 300, vi, 4, &more), 0);
	leave(&list, b);
	client_volume_deleted(&list, 300);
	assert_int_equal(client_volume_page(&list, 0, vi, 4, &more), 0);
	client_total(&list, &all, &open, &total); /* no counter goes back when a volume is deleted */
	assert_int_equal(all.kind[FIGURES_READ].bytes, 4196);
	assert_int_equal(open, 0);
	assert_int_equal(total, 2);
	client_list_fini(&list);
}

static void test_pages(void **state)
{
	struct client *clients[10];
	struct client_volume_info vi[4];
	struct client_info ci[4];
	struct client_list list;
	uint64_t after = 0;
	unsigned seen = 0, n;
	bool more = true;

	client_list_init(&list);
	for (unsigned i = 0; i < ARRAY_SIZE(clients); i++) {
		struct fs_volume_info vol = {.id = 1000 - i};

		snprintf(vol.name, sizeof(vol.name), "v%u", i);
		clients[i] = join(&list, "x");
		client_open(&list, clients[i], &vol, false);
		figures_add(&clients[i]->figures, FIGURES_FLUSH, 0, i, 0);
	}
	while (more) {
		n = client_page(&list, after, ci, 4, &more);
		for (unsigned i = 0; i < n; i++)
			assert_int_equal(ci[i].id, ++seen);
		after = seen;
	}
	assert_int_equal(seen, 10);
	for (more = true, seen = 0, after = 0; more; after = vi[n - 1].id) {
		n = client_volume_page(&list, after, vi, 4, &more);
		for (unsigned i = 0; i < n; i++, seen++) {
			assert_int_equal(vi[i].id, 991 + seen);
			assert_int_equal(vi[i].figures.kind[FIGURES_FLUSH].us, 9 - seen);
		}
	}
	assert_int_equal(seen, 10);
	assert_int_equal(client_volume_page(&list, UINT64_MAX, vi, 4, &more), 0);
	assert_false(more);
	drops = 0;
	assert_int_equal(client_drop(&list, 7), 0);
	assert_int_equal(drops, 7);
	assert_int_equal(client_drop(&list, 11), -ENOENT);
	for (unsigned i = 0; i < ARRAY_SIZE(clients); i++)
		leave(&list, clients[i]);
	client_list_fini(&list);
}

static void test_metrics_of_volumes_and_clients(void **state)
{
	struct fs_volume_info vol = {.id = 300, .name = "vm1"};
	struct evbuffer *out = evbuffer_new();
	struct client_list list;
	struct client *c;
	struct fs fs = {.count = 0};
	char *text;

	fake_fs_add(&fs, "vm1", 64 << 10, 0);
	client_list_init(&list);
	c = join(&list, "uid 0, pid 1");
	client_open(&list, c, &vol, false);
	figures_add(&c->figures, FIGURES_READ, 4096, 60, 0);
	figures_add(&c->figures, FIGURES_READ, 0, 20000000, -EIO);
	assert_int_equal(metrics_write_clients(out, &fs, &list), 0);
	evbuffer_add(out, "", 1);
	text = (char *)evbuffer_pullup(out, -1);
	assert_non_null(strstr(text, "\nbyre_nbd_request_seconds_bucket{op=\"read\",le=\"5e-05\"} 0\n"));
	assert_non_null(strstr(text, "\nbyre_nbd_request_seconds_bucket{op=\"read\",le=\"0.0001\"} 1\n"));
	assert_non_null(strstr(text, "\nbyre_nbd_request_seconds_bucket{op=\"read\",le=\"10\"} 1\n"));
	assert_non_null(strstr(text, "\nbyre_nbd_request_seconds_bucket{op=\"read\",le=\"+Inf\"} 2\n"));
	assert_non_null(strstr(text, "\nbyre_volume_size_bytes{volume=\"vm1\"} 65536\n"));
	assert_non_null(strstr(text, "\nbyre_volume_clients{volume=\"vm1\"} 1\n"));
	assert_non_null(strstr(text, "\nbyre_volume_request_seconds_count{volume=\"vm1\",op=\"read\"} 2\n"));
	assert_non_null(strstr(text, "\nbyre_volume_errors_total{volume=\"vm1\",op=\"read\"} 1\n"));
	assert_non_null(strstr(
		text,
		"\nbyre_client_bytes_total{client=\"1\",peer=\"uid 0, pid 1\",volume=\"vm1\",op=\"read\"} 4096\n"));
	assert_null(strstr(text, "op=\"write\""));
	evbuffer_free(out);
	leave(&list, c);
	client_list_fini(&list);
	fake_fs_fini(&fs);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_latencies_land_in_their_buckets),
		cmocka_unit_test(test_what_a_client_did_stays_with_its_volume),
		cmocka_unit_test(test_pages),
		cmocka_unit_test(test_metrics_of_volumes_and_clients),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
