/* SPDX-License-Identifier: BSD-3-Clause */
/* client/cli_daemon.c: the commands that talk to the daemon about itself: stats, commit, shutdown. */
#include <inttypes.h>
#include <stdio.h>

#include "base/size.h"
#include "client/cli.h"

static json_t *stats_json(const struct byre_stats *s, const struct byre_pool_info *pool)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o}", "uptime_ms",
			 (json_int_t)s->uptime_ms, "rpc_connections", (json_int_t)s->rpc_connections,
			 "rpc_connections_total", (json_int_t)s->rpc_connections_total, "rpc_requests",
			 (json_int_t)s->rpc_requests, "rpc_errors", (json_int_t)s->rpc_errors,
			 "rpc_bad_frames", (json_int_t)s->rpc_bad_frames, "nbd_connections",
			 (json_int_t)s->nbd_connections, "nbd_connections_total",
			 (json_int_t)s->nbd_connections_total, "nbd", figures_json(&s->nbd), "commit",
			 times_json(&pool->commit_figures), "log_group", times_json(&pool->log_figures),
			 "pool", pool_json(pool, false));
}

static void show(const char *label, uint64_t value)
{
	printf("%-24s %" PRIu64 "\n", label, value);
}

static void show_hits(const char *label, uint64_t hits, uint64_t misses)
{
	uint64_t total = hits + misses;

	printf("%-24s %" PRIu64 " hits, %" PRIu64 " misses", label, hits, misses);
	if (total)
		printf(" (%.1f %%)", 100.0 * (double)hits / (double)total);
	putchar('\n');
}

/* The bound of the bucket in which the slowest of `permille` of all are. */
static uint64_t latency_at(const struct byre_kind_figures *k, unsigned permille)
{
	uint64_t total = 0, below = 0;
	unsigned i;

	for (i = 0; i < BYRE_LATENCIES; i++)
		total += k->latency[i];
	for (i = 0; i < BYRE_LATENCIES - 1; i++) {
		below += k->latency[i];
		if ((double)below * 1000 >= (double)total * permille)
			break;
	}
	return byre_latency_bound_us(i);
}

static void show_times(const char *label, const struct byre_kind_figures *k)
{
	char mean[SIZE_FORMAT_MAX], slow[SIZE_FORMAT_MAX];
	uint64_t p99 = latency_at(k, 990);

	printf("%-24s %" PRIu64, label, k->count);
	if (k->count)
		printf(", %s on average, 99 %% within %s", latency_text(k->us / k->count, mean),
		       p99 == UINT64_MAX ? "more than 10 s" : latency_text(p99, slow));
	putchar('\n');
}

static void show_kind(const char *name, const struct byre_kind_figures *k)
{
	char label[32], bytes[SIZE_FORMAT_MAX], mean[SIZE_FORMAT_MAX], slow[SIZE_FORMAT_MAX];
	uint64_t p99 = latency_at(k, 990);

	if (!k->count)
		return;
	snprintf(label, sizeof(label), "nbd: %s", name);
	printf("%-24s %" PRIu64 " (%" PRIu64 " failed), %s, %s on average, 99 %% within %s\n", label,
	       k->count, k->errors, size_format(k->bytes, bytes, sizeof(bytes)),
	       latency_text(k->us / k->count, mean),
	       p99 == UINT64_MAX ? "more than 10 s" : latency_text(p99, slow));
}

static void print_stats(const struct byre_stats *s, const struct byre_pool_info *p)
{
	char buf[SIZE_FORMAT_MAX];

	printf("%-24s %" PRIu64 ".%" PRIu64 " s\n", "uptime", s->uptime_ms / 1000, s->uptime_ms % 1000 / 100);
	show_times("commits", &p->commit_figures);
	show("flushes", p->flushes);
	show_times("flush log groups", &p->log_figures);
	printf("%-24s %s\n", "flush log written", size_format(p->log_bytes, buf, sizeof(buf)));
	show("device flushes", p->device_flushes);
	show_hits("node cache", p->node_cache_hits, p->node_cache_misses);
	show_hits("data cache", p->data_cache_hits, p->data_cache_misses);
	show("reclaim: commits", p->reclaim_commits);
	show("reclaim: block groups", p->reclaim_groups);
	show("refused for space", p->enospc);
	show("bytes given back", p->discarded_bytes);
	show("checksum errors", p->errors_checksum);
	show("I/O errors", p->errors_io);
	show("errors corrected", p->errors_corrected);
	show("nbd: connections", s->nbd_connections);
	show("nbd: connections, total", s->nbd_connections_total);
	for (int k = 0; k <= BYRE_OTHER; k++)
		show_kind(kind_names[k], &s->nbd.kind[k]);
	show("rpc: connections", s->rpc_connections);
	show("rpc: connections, total", s->rpc_connections_total);
	show("rpc: requests", s->rpc_requests);
	show("rpc: failed requests", s->rpc_errors);
	show("rpc: bad frames", s->rpc_bad_frames);
}

enum cli_exit run_stats(const struct cli *cli)
{
	struct byre_pool_info pool;
	struct byre_stats stats;
	struct byre_error err;
	struct byre *b;
	int r;

	if (cli_connect(cli, &b, &err))
		return cli_fail_err(cli, &err);
	r = byre_stats(b, &stats, &err);
	if (!r)
		r = byre_pool_info(b, &pool, &err);
	byre_close(b);
	if (r)
		return cli_fail_err(cli, &err);

	if (cli->given & CLI_JSON)
		print_json(stats_json(&stats, &pool));
	else
		print_stats(&stats, &pool);
	return CLI_OK;
}

enum cli_exit run_commit(const struct cli *cli)
{
	struct byre_error err;
	uint64_t generation;
	struct byre *b;
	int r;

	if (cli_connect(cli, &b, &err))
		return cli_fail_err(cli, &err);
	r = byre_commit(b, &generation, &err);
	byre_close(b);
	if (r)
		return cli_fail_err(cli, &err);
	if (cli->given & CLI_JSON)
		print_json(json_pack("{s:I}", "generation", (json_int_t)generation));
	return CLI_OK;
}

enum cli_exit run_shutdown(const struct cli *cli)
{
	struct byre_error err;
	struct byre *b;
	int r;

	if (cli_connect(cli, &b, &err))
		return cli_fail_err(cli, &err);
	r = byre_shutdown(b, &err);
	byre_close(b);
	if (r)
		return cli_fail_err(cli, &err);
	if (cli->given & CLI_JSON)
		print_json(json_pack("{s:b}", "stopping", 1));
	return CLI_OK;
}
