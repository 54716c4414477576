/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * proto/figure_table.h: what is known of a pool, its volumes and its clients, each figure once. From these
 * lists come: the messages (server), libbyre's structs, what the command line reads of a pool file, JSON, and
 * metrics.
 *
 * 1. A figure has one name in the engine's struct (fs/fs.h), in its message (byre.proto) and in libbyre's
 *    struct (byre.h). To add one: a field in each of the three, set by the engine, and a line here. Where
 *    people shall see it too: a line in a text of client/cli_figures.c.
 * 2. The order of POOL_FIGURES is that of the keys in JSON. Lines of one metric stand together, and the first
 *    of them has its help.
 * 3. Names of JSON keys and metrics never change: programs rely on them.
 *
 * The lists are macros that take a macro, F, for each of their lines, so that copying from one struct to
 * another is written once and checked by the compiler.
 */
#ifndef PROTO_FIGURE_TABLE_H
#define PROTO_FIGURE_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum figure_unit {
	FIGURE_COUNT,
	FIGURE_BYTES,
	FIGURE_MS,   /* in metrics: seconds, with three digits behind the point */
	FIGURE_US,   /* in metrics: seconds, with six */
	FIGURE_TIME, /* int64_t, nanoseconds since 1970, UTC; 0: never. In metrics: whole seconds */
	FIGURE_FLAG, /* bool */
	FIGURE_OTHER /* not a number: its place among the keys of JSON */
};

struct figure_metric {
	const char *name, *type;
	const char *labels; /* "" or {...} */
	const char *help;   /* NULL: as the line before */
};

struct figure {
	enum figure_unit unit;
	size_t offset;		     /* in the struct that the table is of */
	const char *key;	     /* "a", or "a.b" for a key of an object inside; NULL: not in JSON */
	struct figure_metric metric; /* name NULL: none */
};

#define GAUGE(name, help)               \
	{                               \
		name, "gauge", "", help \
	}
#define COUNTER(name, help)               \
	{                                 \
		name, "counter", "", help \
	}
/* The first line, and another, of a metric with labels. */
#define GAUGE_BY(name, labels, help)                \
	{                                           \
		name, "gauge", "{" labels "}", help \
	}
#define COUNTER_BY(name, labels, help)                \
	{                                             \
		name, "counter", "{" labels "}", help \
	}
#define ALSO(name, labels)                       \
	{                                        \
		name, NULL, "{" labels "}", NULL \
	}
#define NO_METRIC                      \
	{                              \
		NULL, NULL, NULL, NULL \
	}

/* F(name, unit, key, metric), and OTHER(key) for what is not copied. */
/* clang-format off */
#define POOL_FIGURES(F, OTHER)										\
	OTHER(uuid)											\
	OTHER(state)											\
	F(size, BYTES, "size", GAUGE("byre_pool_size_bytes", "Size of the pool."))			\
	F(data_bytes, BYTES, "data_bytes",								\
	  GAUGE_BY("byre_pool_used_bytes", "kind=\"data\"", "Space in use."))				\
	F(metadata_bytes, BYTES, "metadata_bytes", ALSO("byre_pool_used_bytes", "kind=\"metadata\""))	\
	F(reserved_bytes, BYTES, "reserved_bytes",							\
	  GAUGE("byre_pool_reserved_bytes", "Reserved for writes under way."))				\
	F(pinned_bytes, BYTES, "pinned_bytes",								\
	  GAUGE("byre_pool_pinned_bytes", "Freed, usable after the next commit."))			\
	F(free_bytes, BYTES, "free_bytes",								\
	  GAUGE("byre_pool_free_bytes", "What new data can really use."))				\
	F(unallocated_bytes, BYTES, "unallocated_bytes",						\
	  GAUGE("byre_pool_unallocated_bytes", "In no block group."))					\
	F(global_reserve_bytes, BYTES, "global_reserve_bytes",						\
	  GAUGE("byre_pool_global_reserve_bytes", "Kept so that frees always work."))			\
	F(volume_reserved_bytes, BYTES, "volume_reserved_bytes",					\
	  GAUGE("byre_volume_reserved_bytes", "Promised to reserved volumes."))				\
	F(provisioned_bytes, BYTES, "provisioned_bytes", NO_METRIC)					\
	OTHER(used_percent)										\
	F(generation, COUNT, "generation", GAUGE("byre_generation", "Generation of the last commit."))	\
	F(groups_data, COUNT, "block_groups.data",							\
	  GAUGE_BY("byre_block_groups", "kind=\"data\"", "Block groups."))				\
	F(groups_metadata, COUNT, "block_groups.metadata",						\
	  ALSO("byre_block_groups", "kind=\"metadata\""))						\
	F(groups_system, COUNT, "block_groups.system", ALSO("byre_block_groups", "kind=\"system\""))	\
	F(cache_loaded, COUNT, "free_space_cache.loaded",						\
	  COUNTER_BY("byre_free_space_cache_groups_total", "how=\"loaded\"", "Free-space caches."))	\
	F(cache_written, COUNT, "free_space_cache.written",						\
	  ALSO("byre_free_space_cache_groups_total", "how=\"written\""))				\
	F(cache_rebuilt, COUNT, "free_space_cache.rebuilt",						\
	  ALSO("byre_free_space_cache_groups_total", "how=\"rebuilt\""))				\
	F(cache_last_bytes, BYTES, "free_space_cache.last_bytes", NO_METRIC)				\
	F(cache_last_us, US, "free_space_cache.last_us", NO_METRIC)					\
	F(cache_bytes, BYTES, "free_space_cache.bytes", NO_METRIC)					\
	F(cache_us, US, "free_space_cache.us", NO_METRIC)						\
	F(last_commit_ms, MS, "last_commit_ms",								\
	  GAUGE("byre_last_commit_seconds", "How long the last commit took."))				\
	F(commit_bytes, BYTES, "commit_bytes",								\
	  COUNTER("byre_commit_bytes_total", "Bytes that commits have written, data not counted."))	\
	F(commit_us, US, "commit_us",									\
	  COUNTER("byre_commit_seconds_total", "How long all commits took."))				\
	F(volumes, COUNT, "volumes", GAUGE("byre_volumes", "Volumes."))					\
	F(snapshots, COUNT, "snapshots", GAUGE("byre_snapshots", "Snapshots."))				\
	F(objects, COUNT, "objects", GAUGE("byre_objects", "Objects."))					\
	F(commits, COUNT, "commits", COUNTER("byre_commits_total", "Commits since start."))		\
	F(flushes, COUNT, "flushes", COUNTER("byre_flushes_total", "Flushes that were asked for."))	\
	F(log_groups, COUNT, "log_groups",								\
	  COUNTER("byre_log_groups_total", "Groups written to the flush log."))				\
	F(log_bytes, BYTES, "log_bytes",								\
	  COUNTER("byre_log_bytes_total", "Bytes written to the flush log."))				\
	F(device_flushes, COUNT, "device_flushes",							\
	  COUNTER("byre_device_flushes_total", "Flushes of the device."))				\
	F(reclaim_commits, COUNT, "reclaim_commits",							\
	  COUNTER("byre_reclaim_commits_total", "Commits that were made for space."))			\
	F(reclaim_groups, COUNT, "reclaim_groups",							\
	  COUNTER("byre_reclaim_groups_total", "Block groups taken back."))				\
	F(enospc, COUNT, "enospc", COUNTER("byre_enospc_total", "Requests refused for want of space."))	\
	F(node_cache_hits, COUNT, "node_cache_hits",							\
	  COUNTER_BY("byre_cache_lookups_total", "kind=\"node\",found=\"yes\"", "Look-ups in memory."))	\
	F(node_cache_misses, COUNT, "node_cache_misses",						\
	  ALSO("byre_cache_lookups_total", "kind=\"node\",found=\"no\""))				\
	F(data_cache_hits, COUNT, "data_cache_hits",							\
	  ALSO("byre_cache_lookups_total", "kind=\"data\",found=\"yes\""))				\
	F(data_cache_misses, COUNT, "data_cache_misses",						\
	  ALSO("byre_cache_lookups_total", "kind=\"data\",found=\"no\""))				\
	F(log_lost_flushes, COUNT, "log_lost_flushes",							\
	  COUNTER("byre_log_lost_flushes_total",							\
		  "Answered flushes lost by damage to the flush log, since the pool was made."))	\
	F(sparse, FLAG, "sparse", NO_METRIC)								\
	F(host_full, FLAG, "host_full", NO_METRIC)							\
	F(host_free_bytes, BYTES, "host_free_bytes",							\
	  GAUGE("byre_host_free_bytes",									\
		"What the file system under a sparse pool has left; 0 for other pools."))		\
	F(host_short_bytes, BYTES, "host_short_bytes",							\
	  GAUGE("byre_host_short_bytes",								\
		"Of byre_pool_free_bytes, what the file system under a sparse pool has no room for."))	\
	F(discard, FLAG, "discard", NO_METRIC)								\
	F(discarded_bytes, BYTES, "discarded_bytes",							\
	  COUNTER("byre_discarded_bytes_total",								\
		  "Bytes given back to the file system under a sparse pool, or discarded on the device."))\
	F(trim_left_bytes, BYTES, "trim_left_bytes", NO_METRIC)						\
	F(trim_total_bytes, BYTES, NULL, NO_METRIC)							\
	F(log_lost_ns, TIME, "log_lost_at", NO_METRIC)							\
	F(errors_corrected, COUNT, "errors_corrected",							\
	  COUNTER_BY("byre_errors_total", "kind=\"corrected\"", "Errors of the device."))		\
	F(errors_checksum, COUNT, "errors_checksum", ALSO("byre_errors_total", "kind=\"checksum\""))	\
	F(errors_io, COUNT, "errors_io", ALSO("byre_errors_total", "kind=\"io\""))			\
	F(lost_bytes, BYTES, "lost_bytes",								\
	  GAUGE("byre_lost_bytes",									\
		"Bytes of volumes that cannot be read until they are overwritten, since nodes were lost."))\
	OTHER(scrub)											\
	F(read_only, FLAG, "read_only", GAUGE("byre_pool_read_only", "1 when nothing can be written."))	\
	OTHER(device)											\
	F(direct_io, FLAG, "direct_io", NO_METRIC)

/* Of the scrub that runs, or the last one; its state is not among them. */
#define SCRUB_FIGURES(F)										\
	F(started_ns, TIME, "started", NO_METRIC)							\
	F(ended_ns, TIME, "ended",									\
	  GAUGE("byre_scrub_last_end_timestamp_seconds", "When the last scrub ended; 0: there was none."))\
	F(rate, BYTES, "rate", NO_METRIC)								\
	F(bytes_done, BYTES, "bytes_done",								\
	  GAUGE("byre_scrub_read_bytes", "Read by the scrub that runs, or by the last one."))		\
	F(bytes_total, BYTES, "bytes_total",								\
	  GAUGE("byre_scrub_expected_bytes", "What it will read, as was estimated when it began."))	\
	F(found, COUNT, "found",									\
	  GAUGE_BY("byre_scrub_errors", "kind=\"found\"",						\
		   "Bad copies and blocks, of the scrub that runs, or of the last one."))		\
	F(mended, COUNT, "mended", ALSO("byre_scrub_errors", "kind=\"mended\""))			\
	F(damaged_bytes, BYTES, "damaged_bytes",							\
	  GAUGE("byre_scrub_damaged_bytes", "Of volumes, that cannot be read."))

/* Counters of the daemon: F(name, unit, key). */
#define STATS_FIGURES(F)										\
	F(uptime_ms, MS, "uptime_ms")									\
	F(rpc_connections, COUNT, "rpc_connections")							\
	F(rpc_connections_total, COUNT, "rpc_connections_total")					\
	F(rpc_requests, COUNT, "rpc_requests")								\
	F(rpc_errors, COUNT, "rpc_errors")								\
	F(rpc_bad_frames, COUNT, "rpc_bad_frames")							\
	F(nbd_connections, COUNT, "nbd_connections")							\
	F(nbd_connections_total, COUNT, "nbd_connections_total")

/* Of volumes: F(name), and F(flag, name) for bits of `flags` that are fields of the message. */
#define VOLUME_FIGURES(F) F(id) F(size) F(used_bytes) F(lost_bytes) F(ctime_ns)
#define VOLUME_FLAGS(F) F(RESERVED, reserved) F(WRITEBACK, writeback) F(READ_ONLY, read_only)

/* Of requests of one kind, beside their latencies: F(name). */
#define KIND_FIGURES(F) F(count) F(errors) F(bytes) F(us)
/* The kinds, in the order of their numbers: F(NUMBER, name). */
#define REQUEST_KINDS(F) F(READ, read) F(WRITE, write) F(FLUSH, flush) F(FREE, free) F(OTHER, other)
/* clang-format on */

/* For assignments: `to` and `from` are structs of any of the three sides. */
#define FIGURE_COPY(name, ...) to->name = from->name;
#define FIGURE_SKIP(...)

/*
 * For arrays of struct figure, of the struct that FIGURES_OF is defined as:
 *	static const struct figure figures[] = {POOL_FIGURES(FIGURE_ROW, FIGURE_ROW_OTHER)};
 */
#define FIGURE_ROW(name, unit, key, metric) {FIGURE_##unit, offsetof(FIGURES_OF, name), key, metric},
#define FIGURE_ROW_OTHER(key) {FIGURE_OTHER, 0, #key, NO_METRIC},

/* The value of a figure of `of`; not of OTHER. */
static inline uint64_t figure_value(const struct figure *f, const void *of)
{
	const void *at = (const char *)of + f->offset;

	return f->unit == FIGURE_FLAG ? *(const bool *)at : *(const uint64_t *)at;
}

/*
 * How full a pool is: of what can hold data, what is used or promised. `left` is what can be written now:
 * free_bytes without host_short_bytes. All that says how full a pool is goes by this.
 */
static inline double figure_used_ratio(uint64_t used, uint64_t left)
{
	double room = (double)used + (double)left;

	return room > 0 ? (double)used / room : 0;
}

/* 0 to 100, rounded down. */
static inline unsigned figure_used_percent(uint64_t used, uint64_t left)
{
	double room = (double)used + (double)left;

	return room > 0 ? (unsigned)((double)used * 100 / room) : 0;
}

#endif
