/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * client/cli_figures.c: pools, volumes, clients and counters as JSON, by the lists of proto/figure_table.h.
 * The JSON's fields are stable: they may get company, but none is renamed or changes its meaning.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "client/cli.h"
#include "client/cli_figures.h"
#include "proto/figure_table.h"

/* ---- the tables ------------------------------------------------------------ */

#define FIGURES_OF struct byre_pool_info
const struct figure pool_figures[POOL_PLACES] = {POOL_FIGURES(FIGURE_ROW, FIGURE_ROW_OTHER)};
#undef FIGURES_OF

#define FIGURES_OF struct byre_scrub
static const struct figure scrub_figures[] = {SCRUB_FIGURES(FIGURE_ROW)};
#undef FIGURES_OF

#define FIGURES_OF struct byre_stats
#define STATS_ROW(name, unit, key) FIGURE_ROW(name, unit, key, NO_METRIC)
const struct figure stats_figures[STATS_PLACES] = {STATS_FIGURES(STATS_ROW)};
#undef STATS_ROW
#undef FIGURES_OF

#define KIND_NAME(number, name) [BYRE_##number] = #name,
const char *const kind_names[BYRE_OTHER + 1] = {REQUEST_KINDS(KIND_NAME)};
#undef KIND_NAME

/* ---- words ------------------------------------------------------------------ */

const char *uuid_text(const uint8_t uuid[BYRE_UUID_LEN], char buf[UUID_TEXT_MAX])
{
	char *p = buf;

	for (int i = 0; i < BYRE_UUID_LEN; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		p += sprintf(p, "%02x", uuid[i]);
	}
	return buf;
}

uint64_t used_bytes(const struct byre_pool_info *i)
{
	return i->data_bytes + i->volume_reserved_bytes;
}

uint64_t left_bytes(const struct byre_pool_info *i)
{
	return i->free_bytes - min_u64(i->free_bytes, i->host_short_bytes);
}

unsigned used_percent(const struct byre_pool_info *i)
{
	return figure_used_percent(used_bytes(i), left_bytes(i));
}

const char *state_text(const struct byre_pool_info *i, bool idle)
{
	return i->read_only ? "read-only" : idle ? "idle" : "writable";
}

static const char *scrub_state_text(enum byre_scrub_state state)
{
	static const char *const names[] = {"never", "running", "finished", "stopped"};

	return (unsigned)state < ARRAY_SIZE(names) ? names[state] : "unknown";
}

const char *cache_text(uint32_t flags)
{
	return flags & BYRE_VOLUME_WRITEBACK ? "writeback" : "direct";
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

/* ---- JSON ----------------------------------------------------------------- */

static json_t *time_json(int64_t ns)
{
	char when[TIME_MAX];

	return ns ? json_string(time_text(ns, when)) : json_null();
}

static json_t *value_json(const struct figure *f, const void *of)
{
	uint64_t value = figure_value(f, of);

	if (f->unit == FIGURE_FLAG)
		return json_boolean(value);
	if (f->unit == FIGURE_TIME)
		return time_json((int64_t)value);
	return json_integer((json_int_t)min_u64(value, INT64_MAX));
}

/* Puts it at "key", or at "object.key". Takes `value`. */
static void put_at(json_t *obj, const char *path, json_t *value)
{
	const char *point = strchr(path, '.');
	char name[32];

	if (point) {
		snprintf(name, sizeof(name), "%.*s", (int)(point - path), path);
		if (!json_object_get(obj, name))
			json_object_set_new(obj, name, json_object());
		obj = json_object_get(obj, name);
		path = point + 1;
	}
	json_object_set_new(obj, path, value);
}

static void put_figures(json_t *obj, const struct figure *table, size_t n, const void *of)
{
	for (size_t i = 0; i < n; i++)
		if (table[i].key)
			put_at(obj, table[i].key, value_json(&table[i], of));
}

json_t *scrub_json(const struct byre_scrub *s)
{
	json_t *obj = json_object();

	json_object_set_new(obj, "state", json_string(scrub_state_text(s->state)));
	put_figures(obj, scrub_figures, ARRAY_SIZE(scrub_figures), s);
	return obj;
}

/* What is not a figure of its own. */
static json_t *pool_other_json(size_t place, const struct byre_pool_info *i, bool idle)
{
	char uuid[UUID_TEXT_MAX];

	switch (place) {
	case PLACE_uuid: return json_string(uuid_text(i->uuid, uuid));
	case PLACE_state: return json_string(state_text(i, idle));
	case PLACE_used_percent: return json_integer(used_percent(i));
	case PLACE_scrub: return scrub_json(&i->scrub);
	case PLACE_device: return json_string(i->device_kind);
	default: return json_null();
	}
}

json_t *pool_json(const struct byre_pool_info *i, bool idle)
{
	json_t *obj = json_object();

	for (size_t p = 0; p < POOL_PLACES; p++) {
		if (pool_figures[p].unit == FIGURE_OTHER)
			put_at(obj, pool_figures[p].key, pool_other_json(p, i, idle));
		else
			put_figures(obj, &pool_figures[p], 1, i);
	}
	return obj;
}

json_t *volume_json(const struct byre_volume_info *i)
{
	json_t *obj = json_object();
	char uuid[UUID_TEXT_MAX], when[TIME_MAX];

	json_object_set_new(obj, "name", json_string(i->name));
	json_object_set_new(obj, "uuid", json_string(uuid_text(i->uuid, uuid)));
	json_object_set_new(obj, "id", json_integer((json_int_t)i->id));
	json_object_set_new(obj, "size", json_integer((json_int_t)i->size));
	json_object_set_new(obj, "used_bytes", json_integer((json_int_t)i->used_bytes));
	json_object_set_new(obj, "lost_bytes", json_integer((json_int_t)i->lost_bytes));
	json_object_set_new(obj, "reserved", json_boolean(i->flags & BYRE_VOLUME_RESERVED));
	json_object_set_new(obj, "cache", json_string(cache_text(i->flags)));
	json_object_set_new(obj, "read_only", json_boolean(i->flags & BYRE_VOLUME_READ_ONLY));
	json_object_set_new(obj, "comment", json_string(i->comment));
	json_object_set_new(obj, "created", json_string(time_text(i->ctime_ns, when)));
	return obj;
}

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

static json_t *kind_json(const struct byre_kind_figures *k)
{
	json_t *obj = json_object();

#define PUT(name) json_object_set_new(obj, #name, json_integer((json_int_t)k->name));
	KIND_FIGURES(PUT);
#undef PUT
	json_object_set_new(obj, "latency", latencies_json(k));
	return obj;
}

json_t *figures_json(const struct byre_figures *figures)
{
	json_t *obj = json_object();

	for (int i = 0; i <= BYRE_OTHER; i++)
		json_object_set_new(obj, kind_names[i], kind_json(&figures->kind[i]));
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
	json_t *obj = json_object();

	put_figures(obj, stats_figures, ARRAY_SIZE(stats_figures), s);
	json_object_set_new(obj, "nbd", figures_json(&s->nbd));
	json_object_set_new(obj, "commit", times_json(&pool->commit_figures));
	json_object_set_new(obj, "log_group", times_json(&pool->log_figures));
	json_object_set_new(obj, "pool", pool_json(pool, false));
	return obj;
}
