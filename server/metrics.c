/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/metrics.h"

#include <errno.h>
#include <inttypes.h>

#include "base/util.h"

#define GAUGE "gauge"
#define COUNTER "counter"

struct metric {
	const char *name, *type, *help;
	const char *labels; /* "" or {...}; metrics of one name follow each other, the first has the help */
	size_t offset;	    /* of a uint64_t */
};

#define FS(field) offsetof(struct fs_info, field)
static const struct metric fs_metrics[] = {
	{"byre_pool_size_bytes", GAUGE, "Size of the pool.", "", FS(size)},
	{"byre_pool_used_bytes", GAUGE, "Space in use.", "{kind=\"data\"}", FS(data_bytes)},
	{"byre_pool_used_bytes", GAUGE, NULL, "{kind=\"metadata\"}", FS(metadata_bytes)},
	{"byre_pool_free_bytes", GAUGE, "What new data can really use.", "", FS(free_bytes)},
	{"byre_pool_reserved_bytes", GAUGE, "Reserved for writes under way.", "", FS(reserved_bytes)},
	{"byre_pool_pinned_bytes", GAUGE, "Freed, usable after the next commit.", "", FS(pinned_bytes)},
	{"byre_pool_unallocated_bytes", GAUGE, "In no block group.", "", FS(unallocated_bytes)},
	{"byre_pool_global_reserve_bytes", GAUGE, "Kept so that frees always work.", "",
	 FS(global_reserve_bytes)},
	{"byre_volume_reserved_bytes", GAUGE, "Promised to reserved volumes.", "", FS(volume_reserved_bytes)},
	{"byre_block_groups", GAUGE, "Block groups.", "{kind=\"data\"}", FS(groups_data)},
	{"byre_block_groups", GAUGE, NULL, "{kind=\"metadata\"}", FS(groups_metadata)},
	{"byre_block_groups", GAUGE, NULL, "{kind=\"system\"}", FS(groups_system)},
	{"byre_generation", GAUGE, "Generation of the last commit.", "", FS(generation)},
	{"byre_commits_total", COUNTER, "Commits since start.", "", FS(commits)},
	{"byre_commit_bytes_total", COUNTER, "Bytes that commits have written, data not counted.", "",
	 FS(commit_bytes)},
	{"byre_flushes_total", COUNTER, "Flushes that were asked for.", "", FS(flushes)},
	{"byre_log_groups_total", COUNTER, "Groups written to the flush log.", "", FS(log_groups)},
	{"byre_log_bytes_total", COUNTER, "Bytes written to the flush log.", "", FS(log_bytes)},
	{"byre_device_flushes_total", COUNTER, "Flushes of the device.", "", FS(device_flushes)},
	{"byre_reclaim_commits_total", COUNTER, "Commits that were made for space.", "", FS(reclaim_commits)},
	{"byre_reclaim_groups_total", COUNTER, "Block groups taken back.", "", FS(reclaim_groups)},
	{"byre_discarded_bytes_total", COUNTER,
	 "Bytes given back to the file system under a sparse pool, or discarded on the device.", "",
	 FS(discarded_bytes)},
	{"byre_host_free_bytes", GAUGE,
	 "What the file system under a sparse pool has left; 0 for other pools.", "", FS(host_free_bytes)},
	{"byre_enospc_total", COUNTER, "Requests refused for want of space.", "", FS(enospc)},
	{"byre_free_space_cache_groups_total", COUNTER, "Free-space caches.", "{how=\"loaded\"}",
	 FS(cache_loaded)},
	{"byre_free_space_cache_groups_total", COUNTER, NULL, "{how=\"written\"}", FS(cache_written)},
	{"byre_free_space_cache_groups_total", COUNTER, NULL, "{how=\"rebuilt\"}", FS(cache_rebuilt)},
	{"byre_cache_lookups_total", COUNTER, "Look-ups in memory.", "{kind=\"node\",found=\"yes\"}",
	 FS(node_cache_hits)},
	{"byre_cache_lookups_total", COUNTER, NULL, "{kind=\"node\",found=\"no\"}", FS(node_cache_misses)},
	{"byre_cache_lookups_total", COUNTER, NULL, "{kind=\"data\",found=\"yes\"}", FS(data_cache_hits)},
	{"byre_cache_lookups_total", COUNTER, NULL, "{kind=\"data\",found=\"no\"}", FS(data_cache_misses)},
	{"byre_volumes", GAUGE, "Volumes.", "", FS(volumes)},
	{"byre_snapshots", GAUGE, "Snapshots.", "", FS(snapshots)},
	{"byre_objects", GAUGE, "Objects.", "", FS(objects)},
	{"byre_lost_bytes", GAUGE,
	 "Bytes of volumes that cannot be read until they are overwritten, since nodes were lost.", "",
	 FS(lost_bytes)},
	{"byre_errors_total", COUNTER, "Errors of the device.", "{kind=\"corrected\"}", FS(errors_corrected)},
	{"byre_errors_total", COUNTER, NULL, "{kind=\"checksum\"}", FS(errors_checksum)},
	{"byre_errors_total", COUNTER, NULL, "{kind=\"io\"}", FS(errors_io)},
	{"byre_log_lost_flushes_total", COUNTER,
	 "Answered flushes lost by damage to the flush log, since the pool was made.", "",
	 FS(log_lost_flushes)},
	{"byre_scrub_read_bytes", GAUGE, "Read by the scrub that runs, or by the last one.", "",
	 FS(scrub.bytes_done)},
	{"byre_scrub_expected_bytes", GAUGE, "What it will read, as was estimated when it began.", "",
	 FS(scrub.bytes_total)},
	{"byre_scrub_errors", GAUGE, "Bad copies and blocks, of the scrub that runs, or of the last one.",
	 "{kind=\"found\"}", FS(scrub.found)},
	{"byre_scrub_errors", GAUGE, NULL, "{kind=\"mended\"}", FS(scrub.mended)},
	{"byre_scrub_damaged_bytes", GAUGE, "Of volumes, that cannot be read.", "", FS(scrub.damaged_bytes)},
};
#undef FS

#define NBD(field) offsetof(struct metrics_nbd, field)
static const struct metric nbd_metrics[] = {
	{"byre_nbd_connections", GAUGE, "Open NBD connections.", "", NBD(connections)},
	{"byre_nbd_connections_total", COUNTER, "NBD connections since start.", "", NBD(connections_total)},
	{"byre_nbd_requests_total", COUNTER, "NBD requests answered.", "{op=\"read\"}", NBD(reads)},
	{"byre_nbd_requests_total", COUNTER, NULL, "{op=\"write\"}", NBD(writes)},
	{"byre_nbd_requests_total", COUNTER, NULL, "{op=\"flush\"}", NBD(flushes)},
	{"byre_nbd_requests_total", COUNTER, NULL, "{op=\"other\"}", NBD(others)},
	{"byre_nbd_errors_total", COUNTER, "NBD requests answered with an error.", "", NBD(errors)},
	{"byre_nbd_bytes_total", COUNTER, "Data of NBD requests.", "{op=\"read\"}", NBD(read_bytes)},
	{"byre_nbd_bytes_total", COUNTER, NULL, "{op=\"write\"}", NBD(written_bytes)},
};
#undef NBD

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

static int write_metric(struct evbuffer *out, const struct metric *m, uint64_t value)
{
	if (m->help &&
	    evbuffer_add_printf(out, "# HELP %s %s\n# TYPE %s %s\n", m->name, m->help, m->name, m->type) < 0)
		return -ENOMEM;
	return evbuffer_add_printf(out, "%s%s %" PRIu64 "\n", m->name, m->labels, value) < 0 ? -ENOMEM : 0;
}

static int write_table(struct evbuffer *out, const struct metric *table, size_t n, const void *values)
{
	int r = 0;

	for (size_t i = 0; i < n && !r; i++)
		r = write_metric(out, &table[i], *(const uint64_t *)((const char *)values + table[i].offset));
	return r;
}

static int write_seconds(struct evbuffer *out, const struct fs_info *info)
{
	return evbuffer_add_printf(
		       out,
		       "# HELP byre_last_commit_seconds How long the last commit took.\n"
		       "# TYPE byre_last_commit_seconds gauge\nbyre_last_commit_seconds %.3f\n"
		       "# HELP byre_commit_seconds_total How long all commits took.\n"
		       "# TYPE byre_commit_seconds_total counter\nbyre_commit_seconds_total %.6f\n",
		       (double)info->last_commit_ms / 1e3, (double)info->commit_us / 1e6) < 0
		       ? -ENOMEM
		       : 0;
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

#define NS_PER_S 1000000000

static int write_scrub(struct evbuffer *out, const struct fs_scrub_status *scrub)
{
	struct metric running = {"byre_scrub_running", GAUGE, "1 while one runs.", "", 0};
	struct metric ended = {"byre_scrub_last_end_timestamp_seconds", GAUGE,
			       "When the last scrub ended; 0: there was none.", "", 0};
	int r = write_metric(out, &running, scrub->state == FS_SCRUB_RUNNING);

	return r ? r : write_metric(out, &ended, (uint64_t)scrub->ended_ns / NS_PER_S);
}

int metrics_write(struct evbuffer *out, const struct fs_info *info, const struct metrics_nbd *nbd)
{
	struct metric read_only = {"byre_pool_read_only", GAUGE, "1 when nothing can be written.", "", 0};
	int r = write_table(out, fs_metrics, ARRAY_SIZE(fs_metrics), info);

	if (!r)
		r = write_metric(out, &read_only, info->read_only);
	if (!r)
		r = write_seconds(out, info);
	if (!r)
		r = write_scrub(out, &info->scrub);
	if (!r)
		r = write_latencies(out, info);
	return r ? r : write_table(out, nbd_metrics, ARRAY_SIZE(nbd_metrics), nbd);
}
