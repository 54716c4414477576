/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * client/cli_top.c: byre top: what happened between two looks at the daemon's figures, volumes and clients
 * with the highest load first. A volume or client that was not there at the first look began at zero.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/size.h"
#include "base/util.h"
#include "client/cli.h"

#define INTERVAL_S 2
#define NAME_WIDTH 24

struct row {
	uint64_t id;
	char name[BYRE_NAME_MAX + 1]; /* of a volume */
	char who[140];		      /* clients: id and peer; volumes: how many clients */
	struct byre_figures figures;
	double load; /* bytes moved and requests, a second */
};

struct rows {
	struct row *rows; /* by id */
	size_t count, size;
};

struct look {
	struct rows volumes, clients;
	struct byre_pool_info pool;
	double at_s;
};

static struct row *row_new(struct rows *rows)
{
	if (rows->count == rows->size) {
		size_t size = rows->size ? 2 * rows->size : 64;
		void *grown = mem_realloc(rows->rows, size * sizeof(*rows->rows));

		if (!grown)
			return NULL;
		rows->rows = grown;
		rows->size = size;
	}
	return memset(&rows->rows[rows->count++], 0, sizeof(*rows->rows));
}

static int add_volume(void *arg, const struct byre_volume_figures *v)
{
	struct row *row = row_new(arg);

	if (!row)
		return -ENOMEM;
	row->id = v->id;
	row->figures = v->figures;
	snprintf(row->name, sizeof(row->name), "%s", v->name);
	snprintf(row->who, sizeof(row->who), "%" PRIu64, v->clients);
	return 0;
}

static int add_client(void *arg, const struct byre_client_info *c)
{
	struct row *row = row_new(arg);

	if (!row)
		return -ENOMEM;
	row->id = c->id;
	row->figures = c->figures;
	snprintf(row->name, sizeof(row->name), "%s", c->volume[0] ? c->volume : "-");
	snprintf(row->who, sizeof(row->who), "%" PRIu64 " %s", c->id, c->peer);
	return 0;
}

static void look_fini(struct look *look)
{
	mem_free(look->volumes.rows);
	mem_free(look->clients.rows);
	*look = (struct look){0};
}

static int rows_copy(const struct rows *from, struct rows *ret_rows)
{
	*ret_rows = (struct rows){.rows = mem_alloc((from->count + 1) * sizeof(*from->rows)),
				  .count = from->count};
	if (!ret_rows->rows)
		return -ENOMEM;
	if (from->count)
		memcpy(ret_rows->rows, from->rows, from->count * sizeof(*from->rows));
	ret_rows->size = from->count;
	return 0;
}

static int look_copy(const struct look *from, struct look *ret_look)
{
	int r;

	*ret_look = (struct look){.pool = from->pool, .at_s = from->at_s};
	r = rows_copy(&from->volumes, &ret_look->volumes);
	if (!r)
		r = rows_copy(&from->clients, &ret_look->clients);
	if (r)
		look_fini(ret_look);
	return r;
}

static int take_look(struct byre *b, struct look *ret_look, struct byre_error *err)
{
	struct timespec ts;
	int r;

	*ret_look = (struct look){0};
	*err = (struct byre_error){.code = -ENOMEM, .text = "top: out of memory"};
	clock_gettime(CLOCK_MONOTONIC, &ts);
	ret_look->at_s = (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
	r = byre_pool_info(b, &ret_look->pool, err);
	if (!r)
		r = byre_volume_figures_list(b, add_volume, &ret_look->volumes, err);
	if (!r)
		r = byre_client_list(b, add_client, &ret_look->clients, err);
	if (r)
		look_fini(ret_look);
	return r;
}

/* ---- what happened between two looks -------------------------------------- */

static int by_id(const void *key, const void *row)
{
	uint64_t a = *(const uint64_t *)key, b = ((const struct row *)row)->id;

	return a < b ? -1 : a > b;
}

static int by_load(const void *pa, const void *pb)
{
	const struct row *a = pa, *b = pb;

	if (a->load != b->load)
		return a->load < b->load ? 1 : -1;
	return a->id < b->id ? -1 : a->id > b->id;
}

static void subtract(struct byre_kind_figures *k, const struct byre_kind_figures *old)
{
	k->count -= min_u64(k->count, old->count);
	k->errors -= min_u64(k->errors, old->errors);
	k->bytes -= min_u64(k->bytes, old->bytes);
	k->us -= min_u64(k->us, old->us);
	for (int i = 0; i < BYRE_LATENCIES; i++)
		k->latency[i] -= min_u64(k->latency[i], old->latency[i]);
}

/* Leaves in `rows` what came since `old`, the highest load first. */
static void rows_since(struct rows *rows, const struct rows *old, double seconds)
{
	for (size_t i = 0; i < rows->count; i++) {
		struct row *row = &rows->rows[i];
		const struct row *was =
			old->count ? bsearch(&row->id, old->rows, old->count, sizeof(*old->rows), by_id)
				   : NULL;

		for (int k = 0; k < BYRE_KINDS_MAX; k++) {
			struct byre_kind_figures *f = &row->figures.kind[k];

			if (was)
				subtract(f, &was->figures.kind[k]);
			row->load += ((double)f->bytes + 4096.0 * (double)f->count) / seconds;
		}
	}
	if (rows->count)
		qsort(rows->rows, rows->count, sizeof(*rows->rows), by_load);
}

/* ---- for people ----------------------------------------------------------- */

static double per_second(const struct row *row, int kind, double seconds)
{
	return (double)row->figures.kind[kind].count / seconds;
}

static void print_row(const struct row *row, double seconds)
{
	const struct byre_kind_figures *rd = &row->figures.kind[BYRE_READ],
				       *wr = &row->figures.kind[BYRE_WRITE];
	char in[SIZE_FORMAT_MAX], out[SIZE_FORMAT_MAX], rlat[SIZE_FORMAT_MAX] = "-",
							wlat[SIZE_FORMAT_MAX] = "-";
	uint64_t errors = 0;

	for (int k = 0; k < BYRE_KINDS_MAX; k++)
		errors += row->figures.kind[k].errors;
	if (rd->count)
		latency_text(rd->us / rd->count, rlat);
	if (wr->count)
		latency_text(wr->us / wr->count, wlat);
	printf("%-*.*s %8.0f %10s %8s %8.0f %10s %8s %7.0f %7.0f %6" PRIu64 "  %s\n", NAME_WIDTH, NAME_WIDTH,
	       row->name, per_second(row, BYRE_READ, seconds),
	       size_format((uint64_t)((double)rd->bytes / seconds), out, sizeof(out)), rlat,
	       per_second(row, BYRE_WRITE, seconds),
	       size_format((uint64_t)((double)wr->bytes / seconds), in, sizeof(in)), wlat,
	       per_second(row, BYRE_FLUSH, seconds), per_second(row, BYRE_FREE, seconds), errors, row->who);
}

static void print_rows(const struct rows *rows, const char *what, const char *who, double seconds, size_t max)
{
	printf("%-*s %8s %10s %8s %8s %10s %8s %7s %7s %6s  %s\n", NAME_WIDTH, what, "READS/s", "BYTES/s",
	       "TIME", "WRITES/s", "BYTES/s", "TIME", "FLUSH/s", "FREE/s", "FAILED", who);
	for (size_t i = 0; i < rows->count && i < max; i++)
		print_row(&rows->rows[i], seconds);
	if (rows->count > max)
		printf("(%zu more)\n", rows->count - max);
}

static void print_look(const struct look *look, double seconds, bool terminal)
{
	char used[SIZE_FORMAT_MAX], size[SIZE_FORMAT_MAX], room[SIZE_FORMAT_MAX];
	struct winsize ws = {.ws_row = 0};
	size_t max = SIZE_MAX;

	if (terminal && !ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) && ws.ws_row)
		max = ws.ws_row > 14 ? (ws.ws_row - 8u) / 2 : 3;
	if (terminal)
		fputs("\033[H\033[J", stdout);
	printf("pool: %s, %s used, %s free, last commit %" PRIu64 " ms%s\n\n",
	       size_format(look->pool.size, size, sizeof(size)),
	       size_format(look->pool.data_bytes + look->pool.metadata_bytes, used, sizeof(used)),
	       size_format(look->pool.free_bytes, room, sizeof(room)), look->pool.last_commit_ms,
	       look->pool.read_only ? ", READ-ONLY" : "");
	print_rows(&look->volumes, "VOLUME", "CLIENTS", seconds, max);
	putchar('\n');
	print_rows(&look->clients, "CLIENT OF", "ID, PEER", seconds, max);
	fflush(stdout);
}

static json_t *rows_json(const struct rows *rows, bool clients)
{
	json_t *list = json_array();

	for (size_t i = 0; i < rows->count; i++) {
		const struct row *row = &rows->rows[i];

		json_array_append_new(list, json_pack("{s:I, s:s, s:s, s:o}", "id", (json_int_t)row->id,
						      "volume", row->name, clients ? "client" : "clients",
						      row->who, "figures", figures_json(&row->figures)));
	}
	return list;
}

static void show(const struct cli *cli, const struct look *look, double seconds, bool terminal)
{
	if (cli->given & CLI_JSON)
		print_json(json_pack("{s:f, s:o, s:o}", "seconds", seconds, "volumes",
				     rows_json(&look->volumes, false), "clients",
				     rows_json(&look->clients, true)));
	else
		print_look(look, seconds, terminal);
}

/* ---- the command ---------------------------------------------------------- */

static int watch(const struct cli *cli, struct byre *b, struct byre_error *err)
{
	bool terminal = isatty(STDOUT_FILENO) && !(cli->given & CLI_JSON);
	unsigned left = cli->count ? cli->count : terminal ? UINT32_MAX : 1;
	struct look old, next, again;
	int r = take_look(b, &old, err);

	if (r)
		return r;
	for (; !r && left; left -= left != UINT32_MAX) {
		sleep(cli->interval_s ? cli->interval_s : INTERVAL_S);
		r = take_look(b, &next, err);
		if (r)
			break;
		/* its rows become differences; the next round needs them as they were */
		r = look_copy(&next, &again);
		if (r) {
			look_fini(&next);
			break;
		}
		rows_since(&next.volumes, &old.volumes, next.at_s - old.at_s);
		rows_since(&next.clients, &old.clients, next.at_s - old.at_s);
		show(cli, &next, next.at_s - old.at_s, terminal);
		look_fini(&next);
		look_fini(&old);
		old = again;
	}
	look_fini(&old);
	return r;
}

enum cli_exit run_top(const struct cli *cli)
{
	struct byre_error err;
	struct byre *b;
	int r;

	if (cli_connect(cli, &b, &err))
		return cli_fail_err(cli, &err);
	r = watch(cli, b, &err);
	byre_close(b);
	return r ? cli_fail_err(cli, &err) : CLI_OK;
}
