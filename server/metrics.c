/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/metrics.h"

#include <errno.h>
#include <inttypes.h>

#include "base/util.h"
#include "proto/figure_table.h"
#include "server/pool_watch.h"

#define NS_PER_S 1000000000u

#define FIGURES_OF struct fs_info
static const struct figure pool_metrics[] = {POOL_FIGURES(FIGURE_ROW, FIGURE_ROW_OTHER)};
#undef FIGURES_OF

#define FIGURES_OF struct fs_scrub_status
static const struct figure scrub_metrics[] = {SCRUB_FIGURES(FIGURE_ROW)};
#undef FIGURES_OF

/* clang-format off */
#define NBD(name, metric) {FIGURE_COUNT, offsetof(struct metrics_nbd, name), NULL, metric}
static const struct figure nbd_metrics[] = {
	NBD(connections, GAUGE("byre_nbd_connections", "Open NBD connections.")),
	NBD(connections_total, COUNTER("byre_nbd_connections_total", "NBD connections since start.")),
	NBD(reads, COUNTER_BY("byre_nbd_requests_total", "op=\"read\"", "NBD requests answered.")),
	NBD(writes, ALSO("byre_nbd_requests_total", "op=\"write\"")),
	NBD(flushes, ALSO("byre_nbd_requests_total", "op=\"flush\"")),
	NBD(others, ALSO("byre_nbd_requests_total", "op=\"other\"")),
	NBD(errors, COUNTER("byre_nbd_errors_total", "NBD requests answered with an error.")),
	NBD(read_bytes, COUNTER_BY("byre_nbd_bytes_total", "op=\"read\"", "Data of NBD requests.")),
	NBD(written_bytes, ALSO("byre_nbd_bytes_total", "op=\"write\"")),
};
#undef NBD
/* clang-format on */

static uint64_t load(const _Atomic uint64_t *v)
{
	return atomic_load_explicit(v, memory_order_relaxed);
}

void metrics_add(struct metrics_nbd *sum, const struct nbd_stats *stats)
{
	sum->connections += load(&stats->connections);
	sum->connections_total += load(&stats->connections_total);
	sum->reads += load(&stats->reads);
	sum->writes += load(&stats->writes);
	sum->flushes += load(&stats->flushes);
	sum->others += load(&stats->others);
	sum->errors += load(&stats->errors);
	sum->read_bytes += load(&stats->read_bytes);
	sum->written_bytes += load(&stats->written_bytes);
}

/* A value in the unit that metrics have. */
static int write_value(struct evbuffer *out, enum figure_unit unit, uint64_t value)
{
	switch (unit) {
	case FIGURE_MS: return evbuffer_add_printf(out, " %.3f\n", (double)value / 1e3);
	case FIGURE_US: return evbuffer_add_printf(out, " %.6f\n", (double)value / 1e6);
	case FIGURE_TIME: value /= NS_PER_S; break;
	default: break;
	}
	return evbuffer_add_printf(out, " %" PRIu64 "\n", value);
}

static int write_metric(struct evbuffer *out, const struct figure_metric *m, enum figure_unit unit,
			uint64_t value)
{
	if (m->help &&
	    evbuffer_add_printf(out, "# HELP %s %s\n# TYPE %s %s\n", m->name, m->help, m->name, m->type) < 0)
		return -ENOMEM;
	if (evbuffer_add_printf(out, "%s%s", m->name, m->labels) < 0)
		return -ENOMEM;
	return write_value(out, unit, value) < 0 ? -ENOMEM : 0;
}

static int write_figures(struct evbuffer *out, const struct figure *table, size_t n, const void *of)
{
	int r = 0;

	for (size_t i = 0; i < n && !r; i++)
		if (table[i].metric.name)
			r = write_metric(out, &table[i].metric, table[i].unit, figure_value(&table[i], of));
	return r;
}

static int write_latency(struct evbuffer *out, const char *name, const char *help, const struct fs_latency *l)
{
	int r = evbuffer_add_printf(out, "# HELP %s %s\n# TYPE %s histogram\n", name, help, name);
	uint64_t below = 0;

	for (unsigned b = 0; b < FS_LATENCY_BUCKETS - 1 && r >= 0; b++) {
		below += l->buckets[b];
		r = evbuffer_add_printf(out, "%s_bucket{le=\"%g\"} %" PRIu64 "\n", name,
					fs_latency_bounds_us[b] / 1e6, below);
	}
	below += l->buckets[FS_LATENCY_BUCKETS - 1];
	if (r >= 0)
		r = evbuffer_add_printf(out,
					"%s_bucket{le=\"+Inf\"} %" PRIu64 "\n%s_sum %.6f\n%s_count %" PRIu64
					"\n",
					name, below, name, (double)l->us / 1e6, name, below);
	return r < 0 ? -ENOMEM : 0;
}

static int write_latencies(struct evbuffer *out, const struct fs_info *info)
{
	int r = write_latency(out, "byre_commit_seconds", "How long commits took.", &info->commit_latency);

	return r ? r
		 : write_latency(out, "byre_log_group_seconds",
				 "How long groups of the flush log took, which flushes wait for.",
				 &info->log_latency);
}

/* How full the pool is. */
static int write_ratios(struct evbuffer *out, const struct fs_info *info)
{
	double room = (double)pool_used_bytes(info) + (double)pool_left_bytes(info);

	return evbuffer_add_printf(
		       out,
		       "# HELP byre_pool_used_ratio Of what can hold data, how much is used or promised.\n"
		       "# TYPE byre_pool_used_ratio gauge\nbyre_pool_used_ratio %.4f\n"
		       "# HELP byre_pool_provisioned_ratio Sizes of all volumes, of what can hold data.\n"
		       "# TYPE byre_pool_provisioned_ratio gauge\nbyre_pool_provisioned_ratio %.4f\n",
		       figure_used_ratio(pool_used_bytes(info), pool_left_bytes(info)),
		       room > 0 ? (double)info->provisioned_bytes / room : 0.0) < 0
		       ? -ENOMEM
		       : 0;
}

static int write_scrub(struct evbuffer *out, const struct fs_scrub_status *scrub)
{
	static const struct figure_metric running = GAUGE("byre_scrub_running", "1 while one runs.");
	int r = write_metric(out, &running, FIGURE_FLAG, scrub->state == FS_SCRUB_RUNNING);

	return r ? r : write_figures(out, scrub_metrics, ARRAY_SIZE(scrub_metrics), scrub);
}

int metrics_write(struct evbuffer *out, const struct fs_info *info, const struct metrics_nbd *nbd)
{
	int r = write_figures(out, pool_metrics, ARRAY_SIZE(pool_metrics), info);

	if (!r)
		r = write_scrub(out, &info->scrub);
	if (!r)
		r = write_ratios(out, info);
	if (!r)
		r = write_latencies(out, info);
	return r ? r : write_figures(out, nbd_metrics, ARRAY_SIZE(nbd_metrics), nbd);
}
