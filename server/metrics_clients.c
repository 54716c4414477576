/* SPDX-License-Identifier: BSD-3-Clause */
/* server/metrics_clients.c: figures of volumes and clients, in Prometheus' text format. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/util.h"
#include "server/metrics.h"

#define LABELS_MAX (FS_NAME_MAX + CLIENT_PEER_MAX + 64)
#define NUMBER_BYTES 48				    /* of a line behind its labels, with its bound */
#define LINE_BYTES (LABELS_MAX + NUMBER_BYTES + 80) /* 80: a metric's name, `op` and `le` */

/*
 * The labels of one series but `op` and `le`, with a comma behind them, and its figures. Names need no
 * escapes.
 */
struct series {
	char labels[LABELS_MAX];
	const struct figures *figures;
};

static int head(struct evbuffer *out, const char *name, const char *type, const char *help)
{
	return evbuffer_add_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type) < 0 ? -ENOMEM
												    : 0;
}

/*
 * In one piece, and without formatting what is the same in each line: a thousand volumes have 70,000 lines.
 */
static int write_histogram(struct evbuffer *out, const char *name, const struct series *s, int kind)
{
	const struct figures_kind_sum *sum = &s->figures->kind[kind];
	const char *op = figures_kind_names[kind];
	char buf[(FIGURES_BUCKETS + 2) * LINE_BYTES], bucket[LINE_BYTES], *p = buf;
	uint64_t below = 0;
	size_t n;

	if (!sum->count)
		return 0;
	n = (size_t)snprintf(bucket, sizeof(bucket), "%s_bucket{%sop=\"%s\",le=\"", name, s->labels, op);
	ASSERT(n + NUMBER_BYTES < LINE_BYTES);
	for (int b = 0; b < FIGURES_BUCKETS; b++) {
		below += sum->buckets[b];
		memcpy(p, bucket, n);
		p += n;
		p += snprintf(p, NUMBER_BYTES, "%s\"} %" PRIu64 "\n", figures_bounds_text[b], below);
	}
	/* `below`, not `count`: the two may be of different moments */
	p += snprintf(p, 2 * LINE_BYTES,
		      "%s_sum{%sop=\"%s\"} %.6f\n"
		      "%s_count{%sop=\"%s\"} %" PRIu64 "\n",
		      name, s->labels, op, (double)sum->us / 1e6, name, s->labels, op, below);
	return evbuffer_add(out, buf, (size_t)(p - buf)) < 0 ? -ENOMEM : 0;
}

static int histograms(struct evbuffer *out, const char *name, const char *help, const struct series *s,
		      unsigned n)
{
	int r = n ? head(out, name, "histogram", help) : 0;

	for (unsigned i = 0; i < n && !r; i++)
		for (int k = 0; k < FIGURES_KINDS && !r; k++)
			r = write_histogram(out, name, &s[i], k);
	return r;
}

enum what { REQUESTS, ERRORS, BYTES };

static uint64_t value_of(const struct figures_kind_sum *sum, enum what what)
{
	return what == REQUESTS ? sum->count : what == ERRORS ? sum->errors : sum->bytes;
}

static int counters(struct evbuffer *out, const char *name, const char *help, enum what what,
		    const struct series *s, unsigned n)
{
	int r = n ? head(out, name, "counter", help) : 0;

	for (unsigned i = 0; i < n && r >= 0; i++)
		for (int k = 0; k < FIGURES_KINDS && r >= 0; k++)
			if (s[i].figures->kind[k].count)
				r = evbuffer_add_printf(out, "%s{%sop=\"%s\"} %" PRIu64 "\n", name,
							s[i].labels, figures_kind_names[k],
							value_of(&s[i].figures->kind[k], what));
	return r < 0 ? -ENOMEM : 0;
}

/* ---- volumes -------------------------------------------------------------- */

struct volume_sizes {
	struct evbuffer *size, *used;
	unsigned count;
};

static int add_sizes(void *arg, const struct fs_volume_info *info)
{
	struct volume_sizes *sizes = arg;

	if (sizes->count++ == METRICS_VOLUMES_MAX)
		return 1;
	if (evbuffer_add_printf(sizes->size, "byre_volume_size_bytes{volume=\"%s\"} %" PRIu64 "\n",
				info->name, info->size) < 0 ||
	    evbuffer_add_printf(sizes->used, "byre_volume_used_bytes{volume=\"%s\"} %" PRIu64 "\n",
				info->name, info->used_bytes) < 0)
		return -ENOMEM;
	return 0;
}

static int write_sizes(struct evbuffer *out, struct fs *fs)
{
	struct volume_sizes sizes = {.size = evbuffer_new(), .used = evbuffer_new()};
	int r = sizes.size && sizes.used ? 0 : -ENOMEM;

	if (!r)
		r = head(sizes.size, "byre_volume_size_bytes", "gauge", "Size of a volume.");
	if (!r)
		r = head(sizes.used, "byre_volume_used_bytes", "gauge",
			 "Data of a volume, as of the last commit.");
	if (!r)
		r = fs_volume_list(fs, add_sizes, &sizes);
	if (r > 0) /* there are more, which are left out */
		r = 0;
	if (!r && sizes.count &&
	    (evbuffer_add_buffer(out, sizes.size) < 0 || evbuffer_add_buffer(out, sizes.used) < 0))
		r = -ENOMEM;
	if (sizes.size)
		evbuffer_free(sizes.size);
	if (sizes.used)
		evbuffer_free(sizes.used);
	return r;
}

static int write_connections(struct evbuffer *out, const struct client_volume_info *infos, unsigned n)
{
	int r = n ? head(out, "byre_volume_clients", "gauge", "NBD connections to a volume.") : 0;

	for (unsigned i = 0; i < n && r >= 0; i++)
		r = evbuffer_add_printf(out, "byre_volume_clients{volume=\"%s\"} %u\n", infos[i].name,
					infos[i].clients);
	return r < 0 ? -ENOMEM : 0;
}

static int write_volumes(struct evbuffer *out, struct client_list *clients)
{
	struct client_volume_info *infos = mem_alloc(METRICS_VOLUMES_MAX * sizeof(*infos));
	struct series *s = mem_alloc(METRICS_VOLUMES_MAX * sizeof(*s));
	unsigned n = 0;
	bool more;
	int r = infos && s ? 0 : -ENOMEM;

	if (!r)
		n = client_volume_page(clients, 0, infos, METRICS_VOLUMES_MAX, &more);
	for (unsigned i = 0; i < n; i++) {
		snprintf(s[i].labels, LABELS_MAX, "volume=\"%s\",", infos[i].name);
		s[i].figures = &infos[i].figures;
	}
	if (!r)
		r = write_connections(out, infos, n);
	if (!r)
		r = histograms(out, "byre_volume_request_seconds", "How long requests to a volume took.", s,
			       n);
	if (!r)
		r = counters(out, "byre_volume_errors_total", "Requests to a volume that failed.", ERRORS, s,
			     n);
	if (!r)
		r = counters(out, "byre_volume_bytes_total", "Data of requests to a volume.", BYTES, s, n);
	mem_free(s);
	mem_free(infos);
	return r;
}

/* ---- clients -------------------------------------------------------------- */

static int write_clients(struct evbuffer *out, struct client_list *clients)
{
	struct client_info *infos = mem_alloc(METRICS_CLIENTS_MAX * sizeof(*infos));
	struct series *s = mem_alloc(METRICS_CLIENTS_MAX * sizeof(*s));
	unsigned n = 0;
	bool more;
	int r = infos && s ? 0 : -ENOMEM;

	if (!r)
		n = client_page(clients, 0, infos, METRICS_CLIENTS_MAX, &more);
	for (unsigned i = 0; i < n; i++) {
		snprintf(s[i].labels, LABELS_MAX, "client=\"%" PRIu64 "\",peer=\"%s\",volume=\"%s\",",
			 infos[i].id, infos[i].peer, infos[i].volume);
		s[i].figures = &infos[i].figures;
	}
	if (!r)
		r = counters(out, "byre_client_requests_total", "Requests of a client that is connected.",
			     REQUESTS, s, n);
	if (!r)
		r = counters(out, "byre_client_errors_total", "Those that failed.", ERRORS, s, n);
	if (!r)
		r = counters(out, "byre_client_bytes_total", "Their data.", BYTES, s, n);
	mem_free(s);
	mem_free(infos);
	return r;
}

int metrics_write_clients(struct evbuffer *out, struct fs *fs, struct client_list *clients)
{
	uint64_t open, total;
	struct figures all;
	struct series s = {.labels = "", .figures = &all};
	int r;

	client_total(clients, &all, &open, &total);
	r = histograms(out, "byre_nbd_request_seconds", "How long NBD requests took, from arrival to answer.",
		       &s, 1);
	if (!r)
		r = write_sizes(out, fs);
	if (!r)
		r = write_volumes(out, clients);
	return r ? r : write_clients(out, clients);
}
