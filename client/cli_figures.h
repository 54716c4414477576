/* SPDX-License-Identifier: BSD-3-Clause */
/* client/cli_figures.h: the tables of figures, and words for them, for JSON and text. */
#ifndef CLIENT_CLI_FIGURES_H
#define CLIENT_CLI_FIGURES_H

#include "client/byre.h"
#include "proto/figure_table.h"

/* The places of figures in their tables. */
#define PLACE(name, ...) PLACE_##name,
enum { POOL_FIGURES(PLACE, PLACE) POOL_PLACES };
enum { STATS_FIGURES(PLACE) STATS_PLACES };
#undef PLACE

extern const struct figure pool_figures[POOL_PLACES];	/* of struct byre_pool_info */
extern const struct figure stats_figures[STATS_PLACES]; /* of struct byre_stats */

#define POOL(name) &pool_figures[PLACE_##name]
#define STATS(name) &stats_figures[PLACE_##name]

extern const char *const kind_names[BYRE_OTHER + 1];

#define UUID_TEXT_MAX 37
/* Into buf, which it returns. */
const char *uuid_text(const uint8_t uuid[BYRE_UUID_LEN], char buf[UUID_TEXT_MAX]);

/* What is used or promised, and what can be written now. */
uint64_t used_bytes(const struct byre_pool_info *i);
uint64_t left_bytes(const struct byre_pool_info *i);
unsigned used_percent(const struct byre_pool_info *i);

const char *state_text(const struct byre_pool_info *i, bool idle);
const char *cache_text(uint32_t flags);

#endif
