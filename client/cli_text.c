/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * client/cli_text.c: pools, volumes and counters for people: which figures are shown, in what order, and how.
 */
#include <inttypes.h>
#include <stdio.h>

#include "base/size.h"
#include "base/util.h"
#include "client/cli.h"
#include "client/cli_figures.h"

#define POOL_WIDTH 20
#define STATS_WIDTH 24

/*
 * A line of text: a label, and up to three figures, each with a word behind it; or what `show` makes of it.
 */
struct line {
	const char *label;
	const struct figure *figure[3];
	const char *word[3];
	bool unless_zero; /* the first figure is 0: no line */
	bool plain;	  /* a number as it is */
	void (*show)(const char *label, const void *of);
};

static const char *value_text(const struct figure *f, const void *of, bool plain, char buf[SIZE_FORMAT_MAX])
{
	uint64_t value = figure_value(f, of);

	if (f->unit == FIGURE_BYTES && !plain)
		return size_format(value, buf, SIZE_FORMAT_MAX);
	snprintf(buf, SIZE_FORMAT_MAX, "%" PRIu64 "%s", value, f->unit == FIGURE_MS ? " ms" : "");
	return buf;
}

static void print_line(const struct line *l, int width, const void *of)
{
	char buf[SIZE_FORMAT_MAX];

	if (l->show) {
		l->show(l->label, of);
		return;
	}
	if (l->unless_zero && !figure_value(l->figure[0], of))
		return;
	printf("%-*s", width, l->label);
	for (unsigned i = 0; i < ARRAY_SIZE(l->figure) && l->figure[i]; i++)
		printf("%s %s%s%s", i ? "," : "", value_text(l->figure[i], of, l->plain, buf),
		       l->word[i] ? " " : "", l->word[i] ? l->word[i] : "");
	putchar('\n');
}

static void print_lines(const struct line *lines, size_t n, int width, const void *of)
{
	for (size_t i = 0; i < n; i++)
		print_line(&lines[i], width, of);
}

static void show(const char *label, const char *value)
{
	printf("%-*s %s\n", POOL_WIDTH, label, value);
}

static void show_size(const char *label, uint64_t bytes)
{
	char buf[SIZE_FORMAT_MAX];

	show(label, size_format(bytes, buf, sizeof(buf)));
}

static void show_used(const char *label, const void *of)
{
	printf("%-*s %u %%\n", POOL_WIDTH, label, used_percent(of));
}

static void show_host(const char *label, const void *of)
{
	const struct byre_pool_info *i = of;
	char left[SIZE_FORMAT_MAX], lacks[SIZE_FORMAT_MAX];

	if (!i->sparse)
		return;
	printf("%-*s %s free", POOL_WIDTH, label, size_format(i->host_free_bytes, left, sizeof(left)));
	if (i->host_full)
		printf(": FULL: new data is refused until it has room");
	else if (i->host_short_bytes)
		printf(": no room for %s of the pool's free space",
		       size_format(i->host_short_bytes, lacks, sizeof(lacks)));
	putchar('\n');
}

static void show_given_back(const char *label, const void *of)
{
	const struct byre_pool_info *i = of;
	char given[SIZE_FORMAT_MAX];

	if (i->discard || i->discarded_bytes)
		printf("%-*s %s%s\n", POOL_WIDTH, label,
		       size_format(i->discarded_bytes, given, sizeof(given)),
		       i->discard ? " since start" : "; --discard is off");
}

/* More than 1: thin volumes may come to need more than there is. */
static void show_provisioned(const char *label, const void *of)
{
	const struct byre_pool_info *i = of;
	double room = (double)used_bytes(i) + (double)left_bytes(i);
	char buf[SIZE_FORMAT_MAX];

	printf("%-*s %s%s", POOL_WIDTH, label, i->provisioned_bytes == UINT64_MAX ? "more than " : "",
	       size_format(i->provisioned_bytes, buf, sizeof(buf)));
	if (room > 0)
		printf(", %.2f times the room", (double)i->provisioned_bytes / room);
	putchar('\n');
}

static void show_lost_flushes(const char *label, const void *of)
{
	const struct byre_pool_info *i = of;
	char when[TIME_MAX];

	if (i->log_lost_flushes)
		printf("%-*s at least %" PRIu64 ", by a damaged flush log, noticed %s\n", POOL_WIDTH, label,
		       i->log_lost_flushes, time_text(i->log_lost_ns, when));
}

static void show_scrub(const char *label, const void *of)
{
	const struct byre_pool_info *i = of;
	char scrub[SCRUB_TEXT_MAX];

	show(label, scrub_text(&i->scrub, scrub));
}

static void show_device(const char *label, const void *of)
{
	const struct byre_pool_info *i = of;

	printf("%-*s %s, %s\n", POOL_WIDTH, label, i->device_kind, i->direct_io ? "direct" : "buffered");
}

void print_pool(const struct byre_pool_info *i, bool idle)
{
	static const struct line lines[] = {
		{"size", .figure = {POOL(size)}},
		{"free", .figure = {POOL(free_bytes)}},
		{"used", .show = show_used},
		{"data", .figure = {POOL(data_bytes)}},
		{"metadata", .figure = {POOL(metadata_bytes)}},
		{"reserved", .figure = {POOL(reserved_bytes)}},
		{"volume reservations", .figure = {POOL(volume_reserved_bytes)}},
		{"pinned", .figure = {POOL(pinned_bytes)}},
		{"unallocated", .figure = {POOL(unallocated_bytes)}},
		{"file system", .show = show_host},
		{"given back", .show = show_given_back},
		{"block groups", .figure = {POOL(groups_data), POOL(groups_metadata), POOL(groups_system)},
		 .word = {"data", "metadata", "system"}},
		{"free-space cache", .figure = {POOL(cache_loaded), POOL(cache_written), POOL(cache_rebuilt)},
		 .word = {"loaded", "written", "rebuilt"}},
		{"volumes", .figure = {POOL(volumes)}},
		{"volumes' sizes", .show = show_provisioned},
		{"snapshots", .figure = {POOL(snapshots)}},
		{"objects", .figure = {POOL(objects)}},
		{"generation", .figure = {POOL(generation)}},
		{"last commit took", .figure = {POOL(last_commit_ms)}},
		{"errors", .figure = {POOL(errors_checksum), POOL(errors_io), POOL(errors_corrected)},
		 .word = {"checksum", "I/O", "corrected"}},
		{"lost", .figure = {POOL(lost_bytes)}, .unless_zero = true},
		{"lost flushes", .show = show_lost_flushes},
		{"scrub", .show = show_scrub},
		{"device", .show = show_device},
	};
	char uuid[UUID_TEXT_MAX];

	show("pool", uuid_text(i->uuid, uuid));
	show("state", state_text(i, idle));
	print_lines(lines, ARRAY_SIZE(lines), POOL_WIDTH, i);
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

/* ---- the daemon's counters --------------------------------------------------- */

static void show_hits(const char *label, uint64_t hits, uint64_t misses)
{
	uint64_t total = hits + misses;

	printf("%-*s %" PRIu64 " hits, %" PRIu64 " misses", STATS_WIDTH, label, hits, misses);
	if (total)
		printf(" (%.1f %%)", 100.0 * (double)hits / (double)total);
	putchar('\n');
}

static void show_node_cache(const char *label, const void *of)
{
	const struct byre_pool_info *p = of;

	show_hits(label, p->node_cache_hits, p->node_cache_misses);
}

static void show_data_cache(const char *label, const void *of)
{
	const struct byre_pool_info *p = of;

	show_hits(label, p->data_cache_hits, p->data_cache_misses);
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

	printf("%-*s %" PRIu64, STATS_WIDTH, label, k->count);
	if (k->count)
		printf(", %s on average, 99 %% within %s", latency_text(k->us / k->count, mean),
		       p99 == UINT64_MAX ? "more than 10 s" : latency_text(p99, slow));
	putchar('\n');
}

static void show_commits(const char *label, const void *of)
{
	show_times(label, &((const struct byre_pool_info *)of)->commit_figures);
}

static void show_log_groups(const char *label, const void *of)
{
	show_times(label, &((const struct byre_pool_info *)of)->log_figures);
}

static void show_kind(const char *name, const struct byre_kind_figures *k)
{
	char label[32], bytes[SIZE_FORMAT_MAX], mean[SIZE_FORMAT_MAX], slow[SIZE_FORMAT_MAX];
	uint64_t p99 = latency_at(k, 990);

	if (!k->count)
		return;
	snprintf(label, sizeof(label), "nbd: %s", name);
	printf("%-*s %" PRIu64 " (%" PRIu64 " failed), %s, %s on average, 99 %% within %s\n", STATS_WIDTH,
	       label, k->count, k->errors, size_format(k->bytes, bytes, sizeof(bytes)),
	       latency_text(k->us / k->count, mean),
	       p99 == UINT64_MAX ? "more than 10 s" : latency_text(p99, slow));
}

void print_stats(const struct byre_stats *s, const struct byre_pool_info *p)
{
	static const struct line pool_lines[] = {
		{"commits", .show = show_commits},
		{"flushes", .figure = {POOL(flushes)}},
		{"flush log groups", .show = show_log_groups},
		{"flush log written", .figure = {POOL(log_bytes)}},
		{"device flushes", .figure = {POOL(device_flushes)}},
		{"node cache", .show = show_node_cache},
		{"data cache", .show = show_data_cache},
		{"reclaim: commits", .figure = {POOL(reclaim_commits)}},
		{"reclaim: block groups", .figure = {POOL(reclaim_groups)}},
		{"refused for space", .figure = {POOL(enospc)}},
		{"bytes given back", .figure = {POOL(discarded_bytes)}, .plain = true},
		{"checksum errors", .figure = {POOL(errors_checksum)}},
		{"I/O errors", .figure = {POOL(errors_io)}},
		{"errors corrected", .figure = {POOL(errors_corrected)}},
	};
	static const struct line nbd_lines[] = {
		{"nbd: connections", .figure = {STATS(nbd_connections)}},
		{"nbd: connections, total", .figure = {STATS(nbd_connections_total)}},
	};
	static const struct line rpc_lines[] = {
		{"rpc: connections", .figure = {STATS(rpc_connections)}},
		{"rpc: connections, total", .figure = {STATS(rpc_connections_total)}},
		{"rpc: requests", .figure = {STATS(rpc_requests)}},
		{"rpc: failed requests", .figure = {STATS(rpc_errors)}},
		{"rpc: bad frames", .figure = {STATS(rpc_bad_frames)}},
	};

	printf("%-*s %" PRIu64 ".%" PRIu64 " s\n", STATS_WIDTH, "uptime", s->uptime_ms / 1000,
	       s->uptime_ms % 1000 / 100);
	print_lines(pool_lines, ARRAY_SIZE(pool_lines), STATS_WIDTH, p);
	print_lines(nbd_lines, ARRAY_SIZE(nbd_lines), STATS_WIDTH, s);
	for (int k = 0; k <= BYRE_OTHER; k++)
		show_kind(kind_names[k], &s->nbd.kind[k]);
	print_lines(rpc_lines, ARRAY_SIZE(rpc_lines), STATS_WIDTH, s);
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
