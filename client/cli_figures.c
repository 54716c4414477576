/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * client/cli_figures.c: pools, volumes, clients and counters, for people and as JSON. The JSON's fields are
 * stable: they may get company, but none is renamed or changes its meaning.
 */
#include <inttypes.h>
#include <stdio.h>

#include "base/size.h"
#include "base/util.h"
#include "client/cli.h"

#define UUID_TEXT_MAX 37

static const char *uuid_text(const uint8_t uuid[BYRE_UUID_LEN], char buf[UUID_TEXT_MAX])
{
	char *p = buf;

	for (int i = 0; i < BYRE_UUID_LEN; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		p += sprintf(p, "%02x", uuid[i]);
	}
	return buf;
}

/* ---- JSON ----------------------------------------------------------------- */

static void put_number(json_t *obj, const char *key, uint64_t value)
{
	json_object_set_new(obj, key, json_integer((json_int_t)value));
}

static json_t *block_groups_json(const struct byre_pool_info *i)
{
	json_t *obj = json_object();

	put_number(obj, "data", i->groups_data);
	put_number(obj, "metadata", i->groups_metadata);
	put_number(obj, "system", i->groups_system);
	return obj;
}

static json_t *free_space_cache_json(const struct byre_pool_info *i)
{
	json_t *obj = json_object();

	put_number(obj, "loaded", i->cache_loaded);
	put_number(obj, "written", i->cache_written);
	put_number(obj, "rebuilt", i->cache_rebuilt);
	put_number(obj, "last_bytes", i->cache_last_bytes);
	put_number(obj, "last_us", i->cache_last_us);
	put_number(obj, "bytes", i->cache_bytes);
	put_number(obj, "us", i->cache_us);
	return obj;
}

/* What can hold data: used, promised and free. */
static uint64_t room(const struct byre_pool_info *i)
{
	return i->data_bytes + i->volume_reserved_bytes + i->free_bytes;
}

static unsigned used_percent(const struct byre_pool_info *i)
{
	return room(i) ? (unsigned)(100.0 * (double)(room(i) - i->free_bytes) / (double)room(i)) : 0;
}

static const char *state_text(const struct byre_pool_info *i, bool idle)
{
	return i->read_only ? "read-only" : idle ? "idle" : "writable";
}

static const char *scrub_state_text(enum byre_scrub_state state)
{
	static const char *const names[] = {"never", "running", "finished", "stopped"};

	return (unsigned)state < ARRAY_SIZE(names) ? names[state] : "unknown";
}

static json_t *time_json(int64_t ns)
{
	char when[TIME_MAX];

	return ns ? json_string(time_text(ns, when)) : json_null();
}

json_t *scrub_json(const struct byre_scrub *s)
{
	json_t *obj = json_object();

	json_object_set_new(obj, "state", json_string(scrub_state_text(s->state)));
	json_object_set_new(obj, "started", time_json(s->started_ns));
	json_object_set_new(obj, "ended", time_json(s->ended_ns));
	put_number(obj, "rate", s->rate);
	put_number(obj, "bytes_done", s->bytes_done);
	put_number(obj, "bytes_total", s->bytes_total);
	put_number(obj, "found", s->found);
	put_number(obj, "mended", s->mended);
	put_number(obj, "damaged_bytes", s->damaged_bytes);
	return obj;
}

const char *scrub_text(const struct byre_scrub *s, char buf[SCRUB_TEXT_MAX])
{
	uint64_t percent = s->bytes_total ? s->bytes_done * 100 / s->bytes_total : 0;
	char when[TIME_MAX], found[128] = "nothing was wrong";

	if (s->found || s->damaged_bytes)
		snprintf(found, sizeof(found),
			 "%" PRIu64 " bad, %" PRIu64 " mended, %" PRIu64 " bytes of volumes damaged",
			 s->found, s->mended, s->damaged_bytes);
	if (s->state == BYRE_SCRUB_NEVER)
		snprintf(buf, SCRUB_TEXT_MAX, "never");
	else if (s->state == BYRE_SCRUB_RUNNING)
		snprintf(buf, SCRUB_TEXT_MAX, "running since %s, %" PRIu64 " %%, %s",
			 time_text(s->started_ns, when), percent, found);
	else
		snprintf(buf, SCRUB_TEXT_MAX, "%s %s, %s", scrub_state_text(s->state),
			 time_text(s->ended_ns, when), found);
	return buf;
}

/* Long and flat: one line a field. */
json_t *pool_json(const struct byre_pool_info *i, bool idle)
{
	json_t *obj = json_object();
	char uuid[UUID_TEXT_MAX], when[TIME_MAX];

	json_object_set_new(obj, "uuid", json_string(uuid_text(i->uuid, uuid)));
	json_object_set_new(obj, "state", json_string(state_text(i, idle)));
	put_number(obj, "size", i->size);
	put_number(obj, "data_bytes", i->data_bytes);
	put_number(obj, "metadata_bytes", i->metadata_bytes);
	put_number(obj, "reserved_bytes", i->reserved_bytes);
	put_number(obj, "pinned_bytes", i->pinned_bytes);
	put_number(obj, "free_bytes", i->free_bytes);
	put_number(obj, "unallocated_bytes", i->unallocated_bytes);
	put_number(obj, "global_reserve_bytes", i->global_reserve_bytes);
	put_number(obj, "volume_reserved_bytes", i->volume_reserved_bytes);
	put_number(obj, "provisioned_bytes", min_u64(i->provisioned_bytes, INT64_MAX));
	put_number(obj, "used_percent", used_percent(i));
	put_number(obj, "generation", i->generation);
	json_object_set_new(obj, "block_groups", block_groups_json(i));
	json_object_set_new(obj, "free_space_cache", free_space_cache_json(i));
	put_number(obj, "last_commit_ms", i->last_commit_ms);
	put_number(obj, "commit_bytes", i->commit_bytes);
	put_number(obj, "commit_us", i->commit_us);
	put_number(obj, "volumes", i->volumes);
	put_number(obj, "snapshots", i->snapshots);
	put_number(obj, "objects", i->objects);
	put_number(obj, "commits", i->commits);
	put_number(obj, "flushes", i->flushes);
	put_number(obj, "log_groups", i->log_groups);
	put_number(obj, "log_bytes", i->log_bytes);
	put_number(obj, "device_flushes", i->device_flushes);
	put_number(obj, "reclaim_commits", i->reclaim_commits);
	put_number(obj, "reclaim_groups", i->reclaim_groups);
	put_number(obj, "enospc", i->enospc);
	put_number(obj, "node_cache_hits", i->node_cache_hits);
	put_number(obj, "node_cache_misses", i->node_cache_misses);
	put_number(obj, "data_cache_hits", i->data_cache_hits);
	put_number(obj, "data_cache_misses", i->data_cache_misses);
	put_number(obj, "log_lost_flushes", i->log_lost_flushes);
	json_object_set_new(obj, "sparse", json_boolean(i->sparse));
	json_object_set_new(obj, "host_full", json_boolean(i->host_full));
	put_number(obj, "host_free_bytes", min_u64(i->host_free_bytes, INT64_MAX));
	json_object_set_new(obj, "discard", json_boolean(i->discard));
	put_number(obj, "discarded_bytes", i->discarded_bytes);
	put_number(obj, "trim_left_bytes", i->trim_left_bytes);
	json_object_set_new(obj, "log_lost_at",
			    i->log_lost_ns ? json_string(time_text(i->log_lost_ns, when)) : json_null());
	put_number(obj, "errors_corrected", i->errors_corrected);
	put_number(obj, "errors_checksum", i->errors_checksum);
	put_number(obj, "errors_io", i->errors_io);
	put_number(obj, "lost_bytes", i->lost_bytes);
	json_object_set_new(obj, "scrub", scrub_json(&i->scrub));
	json_object_set_new(obj, "read_only", json_boolean(i->read_only));
	json_object_set_new(obj, "device", json_string(i->device_kind));
	json_object_set_new(obj, "direct_io", json_boolean(i->direct_io));
	return obj;
}

static const char *cache_text(uint32_t flags)
{
	return flags & BYRE_VOLUME_WRITEBACK ? "writeback" : "direct";
}

json_t *volume_json(const struct byre_volume_info *i)
{
	json_t *obj = json_object();
	char uuid[UUID_TEXT_MAX], when[TIME_MAX];

	json_object_set_new(obj, "name", json_string(i->name));
	json_object_set_new(obj, "uuid", json_string(uuid_text(i->uuid, uuid)));
	put_number(obj, "id", i->id);
	put_number(obj, "size", i->size);
	put_number(obj, "used_bytes", i->used_bytes);
	put_number(obj, "lost_bytes", i->lost_bytes);
	json_object_set_new(obj, "reserved", json_boolean(i->flags & BYRE_VOLUME_RESERVED));
	json_object_set_new(obj, "cache", json_string(cache_text(i->flags)));
	json_object_set_new(obj, "read_only", json_boolean(i->flags & BYRE_VOLUME_READ_ONLY));
	json_object_set_new(obj, "comment", json_string(i->comment));
	json_object_set_new(obj, "created", json_string(time_text(i->ctime_ns, when)));
	return obj;
}

const char *const kind_names[BYRE_OTHER + 1] = {"read", "write", "flush", "free", "other"};

/*
 * Of each bucket that has something: what its requests took at most, in microseconds (null: any time), and
 * how many.
 */
static json_t *latencies_json(const struct byre_kind_figures *k)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < BYRE_LATENCIES; i++) {
		uint64_t bound = byre_latency_bound_us(i);

		if (k->latency[i])
			json_array_append_new(list,
					      json_pack("{s:o, s:I}", "up_to_us",
							bound == UINT64_MAX ? json_null()
									    : json_integer((json_int_t)bound),
							"count", (json_int_t)k->latency[i]));
	}
	return list;
}

static json_t *times_json(const struct byre_kind_figures *k)
{
	return json_pack("{s:I, s:I, s:o}", "count", (json_int_t)k->count, "us", (json_int_t)k->us, "latency",
			 latencies_json(k));
}

json_t *figures_json(const struct byre_figures *figures)
{
	json_t *obj = json_object();

	for (int i = 0; i <= BYRE_OTHER; i++) {
		const struct byre_kind_figures *k = &figures->kind[i];

		json_object_set_new(obj, kind_names[i],
				    json_pack("{s:I, s:I, s:I, s:I, s:o}", "count", (json_int_t)k->count,
					      "errors", (json_int_t)k->errors, "bytes", (json_int_t)k->bytes,
					      "us", (json_int_t)k->us, "latency", latencies_json(k)));
	}
	return obj;
}

json_t *client_json(const struct byre_client_info *i)
{
	char when[TIME_MAX];

	return json_pack("{s:I, s:s, s:s?, s:b, s:s, s:o}", "id", (json_int_t)i->id, "peer", i->peer,
			 "volume", i->volume[0] ? i->volume : NULL, "read_only", i->read_only, "since",
			 time_text(i->since_ns, when), "figures", figures_json(&i->figures));
}

json_t *stats_json(const struct byre_stats *s, const struct byre_pool_info *pool)
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

/* ---- for people ----------------------------------------------------------- */

static void show(const char *label, const char *value)
{
	printf("%-20s %s\n", label, value);
}

static void show_size(const char *label, uint64_t bytes)
{
	char buf[SIZE_FORMAT_MAX];

	show(label, size_format(bytes, buf, sizeof(buf)));
}

static void show_number(const char *label, uint64_t value)
{
	char buf[24];

	snprintf(buf, sizeof(buf), "%" PRIu64, value);
	show(label, buf);
}

static void show_block_groups(const struct byre_pool_info *i)
{
	printf("%-20s %" PRIu64 " data, %" PRIu64 " metadata, %" PRIu64 " system\n", "block groups",
	       i->groups_data, i->groups_metadata, i->groups_system);
	printf("%-20s %" PRIu64 " loaded, %" PRIu64 " written, %" PRIu64 " rebuilt\n", "free-space cache",
	       i->cache_loaded, i->cache_written, i->cache_rebuilt);
}

/* More than 1: thin volumes may come to need more than there is. */
static void show_provisioned(const struct byre_pool_info *i)
{
	char buf[SIZE_FORMAT_MAX];

	printf("%-20s %s%s", "volumes' sizes", i->provisioned_bytes == UINT64_MAX ? "more than " : "",
	       size_format(i->provisioned_bytes, buf, sizeof(buf)));
	if (room(i))
		printf(", %.2f times the room", (double)i->provisioned_bytes / (double)room(i));
	putchar('\n');
}

static void show_host(const struct byre_pool_info *i)
{
	char left[SIZE_FORMAT_MAX], given[SIZE_FORMAT_MAX];

	if (i->sparse)
		printf("%-20s %s free%s\n", "file system",
		       size_format(i->host_free_bytes, left, sizeof(left)),
		       i->host_full ? ": FULL: new data is refused until it has room" : "");
	if (i->discard || i->discarded_bytes)
		printf("%-20s %s%s\n", "given back", size_format(i->discarded_bytes, given, sizeof(given)),
		       i->discard ? " since start" : "; --discard is off");
}

void print_pool(const struct byre_pool_info *i, bool idle)
{
	char uuid[UUID_TEXT_MAX], when[TIME_MAX], scrub[SCRUB_TEXT_MAX];

	show("pool", uuid_text(i->uuid, uuid));
	show("state", state_text(i, idle));
	show_size("size", i->size);
	show_size("free", i->free_bytes);
	printf("%-20s %u %%\n", "used", used_percent(i));
	show_size("data", i->data_bytes);
	show_size("metadata", i->metadata_bytes);
	show_size("reserved", i->reserved_bytes);
	show_size("volume reservations", i->volume_reserved_bytes);
	show_size("pinned", i->pinned_bytes);
	show_size("unallocated", i->unallocated_bytes);
	show_host(i);
	show_block_groups(i);
	show_number("volumes", i->volumes);
	show_provisioned(i);
	show_number("snapshots", i->snapshots);
	show_number("objects", i->objects);
	show_number("generation", i->generation);
	printf("%-20s %" PRIu64 " ms\n", "last commit took", i->last_commit_ms);
	printf("%-20s %" PRIu64 " checksum, %" PRIu64 " I/O, %" PRIu64 " corrected\n", "errors",
	       i->errors_checksum, i->errors_io, i->errors_corrected);
	if (i->lost_bytes)
		show_size("lost", i->lost_bytes);
	if (i->log_lost_flushes)
		printf("%-20s at least %" PRIu64 ", by a damaged flush log, noticed %s\n", "lost flushes",
		       i->log_lost_flushes, time_text(i->log_lost_ns, when));
	show("scrub", scrub_text(&i->scrub, scrub));
	printf("%-20s %s, %s\n", "device", i->device_kind, i->direct_io ? "direct" : "buffered");
}

void print_volume(const struct byre_volume_info *i)
{
	char uuid[UUID_TEXT_MAX], when[TIME_MAX];

	show("volume", i->name);
	show("uuid", uuid_text(i->uuid, uuid));
	show_size("size", i->size);
	show_size("used", i->used_bytes);
	if (i->lost_bytes)
		show_size("lost", i->lost_bytes);
	show("space", i->flags & BYRE_VOLUME_RESERVED ? "reserved" : "thin");
	show("cache", cache_text(i->flags));
	if (i->flags & BYRE_VOLUME_READ_ONLY)
		show("access", "read-only");
	show("created", time_text(i->ctime_ns, when));
	if (i->comment[0])
		show("comment", i->comment);
}

static void show_count(const char *label, uint64_t value)
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

void print_stats(const struct byre_stats *s, const struct byre_pool_info *p)
{
	char buf[SIZE_FORMAT_MAX];

	printf("%-24s %" PRIu64 ".%" PRIu64 " s\n", "uptime", s->uptime_ms / 1000, s->uptime_ms % 1000 / 100);
	show_times("commits", &p->commit_figures);
	show_count("flushes", p->flushes);
	show_times("flush log groups", &p->log_figures);
	printf("%-24s %s\n", "flush log written", size_format(p->log_bytes, buf, sizeof(buf)));
	show_count("device flushes", p->device_flushes);
	show_hits("node cache", p->node_cache_hits, p->node_cache_misses);
	show_hits("data cache", p->data_cache_hits, p->data_cache_misses);
	show_count("reclaim: commits", p->reclaim_commits);
	show_count("reclaim: block groups", p->reclaim_groups);
	show_count("refused for space", p->enospc);
	show_count("bytes given back", p->discarded_bytes);
	show_count("checksum errors", p->errors_checksum);
	show_count("I/O errors", p->errors_io);
	show_count("errors corrected", p->errors_corrected);
	show_count("nbd: connections", s->nbd_connections);
	show_count("nbd: connections, total", s->nbd_connections_total);
	for (int k = 0; k <= BYRE_OTHER; k++)
		show_kind(kind_names[k], &s->nbd.kind[k]);
	show_count("rpc: connections", s->rpc_connections);
	show_count("rpc: connections, total", s->rpc_connections_total);
	show_count("rpc: requests", s->rpc_requests);
	show_count("rpc: failed requests", s->rpc_errors);
	show_count("rpc: bad frames", s->rpc_bad_frames);
}

int cli_volume_table_init(struct table *t)
{
	static const char *const headings[] = {"NAME", "SIZE", "USED", "SPACE", "CACHE", "CREATED"};

	return table_init(t, ARRAY_SIZE(headings), 1u << 1 | 1u << 2, headings);
}

int volume_table_add(struct table *t, const struct byre_volume_info *i)
{
	char size[SIZE_FORMAT_MAX], used[SIZE_FORMAT_MAX], when[TIME_MAX];
	const char *cells[] = {
		i->name,
		size_format(i->size, size, sizeof(size)),
		size_format(i->used_bytes, used, sizeof(used)),
		i->flags & BYRE_VOLUME_RESERVED ? "reserved" : "thin",
		cache_text(i->flags),
		time_text(i->ctime_ns, when),
	};

	return table_add(t, cells);
}
