/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/crash/sim/world.h: one run: the pool under test on its simulated device, the loops that send
 * requests, the client that does what waits, and the model of it all.
 *
 * The parts: world.c opens and closes and carries requests; client.c does operations on volumes, and commits;
 * burst.c several at once; recover.c takes crash images, checks, damages and compares; books.c looks at the
 * engine's books when it is idle; step.c carries out a history.
 */
#ifndef TESTS_CRASH_SIM_WORLD_H
#define TESTS_CRASH_SIM_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "fs/fs.h"
#include "tests/crash/sim/history.h"
#include "tests/crash/sim/model.h"

struct device;
struct fs;
struct fs_ctx;
struct fs_volume;

struct world;
struct fiber;

#define LOOPS_MAX 2
#define READ_CHUNK_BLOCKS 256u
#define ROTTEN_MAX 16

struct request {
	struct fs_io io;
	struct model_op op;
	struct world *w;
	struct request *next;
	unsigned vol; /* index, for those under way */
	bool raw;     /* not the model's */
	bool *ended;  /* may be NULL */
	int *error;
	void *buf;
};

/* An event loop: a context and who runs it. */
struct loop {
	struct world *w;
	struct fs_ctx *ctx;
	struct fiber *fiber;
	struct request *first, **tail;
	bool stop;
};

enum client_kind {
	CLIENT_NONE,
	CLIENT_COMMIT,
	CLIENT_CREATE,
	CLIENT_DELETE,
	CLIENT_RENAME,
	CLIENT_RESIZE,
	CLIENT_GROW,
	CLIENT_SET,
	CLIENT_BURST
};

/* What waits: one at a time. */
struct client {
	enum client_kind kind; /* NONE: idle */
	struct fiber *fiber;
	struct model_volume *vol;
	char name[MODEL_NAME_MAX]; /* SET: the comment */
	uint64_t blocks;	   /* GROW: of the pool; BURST: a random number */
	bool reserved;
};

/* A page that was damaged and is to be put right. */
struct rotten {
	uint64_t off;
	uint8_t good[4096], bad[4096];
};

struct world {
	const struct history *history;
	const struct setting *set;
	struct model *model;
	struct device *sim;
	struct fs *fs; /* NULL: closed */
	struct loop loop[LOOPS_MAX];
	struct fs_volume *handle[MODEL_VOLUMES_MAX];
	unsigned under_way[MODEL_VOLUMES_MAX]; /* requests */
	bool blocked[MODEL_VOLUMES_MAX];       /* nothing new: the client works on it */
	/* blocks that requests may touch, while it is resized; 0: all */
	uint64_t limit[MODEL_VOLUMES_MAX];
	unsigned requests;
	struct client client;
	struct burst *burst; /* the last one, or NULL */
	/* failed in a pool that then died or became read-only: it may show up after the crash */
	struct client unsure;

	uint64_t rng; /* of the step */
	size_t step;
	bool verbose;
	bool tolerant; /* since the pool was opened something was made to fail */
	/* slots were damaged, and not all are known to be rebuilt: the check may say so */
	bool cache_damaged;
	bool rebuild_is_fine; /* caches may be missing, for that or for an error that was made to happen */
	/* ever: a bad copy of a slot stays as long as its twin is good and nobody writes */
	bool slots_damaged;
	bool host_full; /* under a sparse pool: what is new may be refused, everything else works */
	/*
	 * nodes were lost: what they referred to stays taken until a repair, and is owed to reserved volumes
	 * again
	 */
	bool leaked;
	bool data_rotten; /* reads may fail */
	uint64_t rebuilt; /* caches since the pool was opened, as far as they were expected */
	struct rotten *rotten;
	unsigned rottens;
	struct device *old_image; /* an earlier moment, for slots of an older generation; NULL: none yet */
	unsigned long long crashes, opens, ops, enospc, errors, mounts_read_only;
	uint64_t trace; /* a sum over everything that happened: equal for equal runs */
};

/* ---- world.c ------------------------------------------------------------------- */

void world_log(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

bool world_is_dead(struct world *w);
bool world_is_read_only(struct world *w);
/* Nothing has been made to go wrong: every error and every complaint of the engine is a bug. */
bool world_is_strict(struct world *w);

/*
 * Opens the pool on w->sim, with loops and handles (for the volumes that it has). Returns pool_open's error.
 */
int world_open(struct world *w);
/* Waits for all requests and the client. */
void world_drain(struct world *w);
/* Gives up loops and handles. Drained. */
void world_let_go(struct world *w);
void world_get_handle(struct world *w, struct model_volume *vol);

/* Puts a request that the caller has filled in (op, flags) on a loop; it is freed when it has ended. */
struct request *request_new(struct world *w, struct model_volume *vol, enum fs_op op, uint64_t off,
			    uint64_t len);
void request_send(struct world *w, unsigned loop, struct request *req);
/* One raw read, waited for. */
int world_read(struct world *w, struct model_volume *vol, uint64_t blk, uint64_t n, void *buf);

/* ---- client.c ------------------------------------------------------------------ */

void client_wait(struct world *w);
/* Each waits for the client to be idle, then starts it. False: there is nothing to do it on. */
bool client_commit(struct world *w);
bool client_create(struct world *w);
bool client_delete(struct world *w);
bool client_rename(struct world *w);
bool client_resize(struct world *w);
bool client_grow(struct world *w);
bool client_burst(struct world *w);
/* Applies what the client was doing to the model. */
void client_apply(struct world *w, const struct client *c);

/* ---- burst.c ------------------------------------------------------------------- */

/* On the client's fiber: several operations on volumes, together. */
void burst_run(struct world *w);
/*
 * After a crash: finds out how many of them have happened, and does the same to the model. False: the volumes
 * are none of what they may be.
 */
bool burst_recovered(struct world *w, const struct fs_volume_info *info, unsigned count);
/* Whether the volumes are those of the model. */
bool shapes_are_seen(const struct model *m, const struct fs_volume_info *info, unsigned count);

/* ---- recover.c ----------------------------------------------------------------- */

/* From a dead or living pool to one that was opened again after a crash, and compared. */
void world_crash(struct world *w);
/* Clean: closed, checked, opened, compared. */
void world_reopen(struct world *w, bool open);
/* First open of a new pool. */
void world_first_open(struct world *w);
/* check_device; findings end the program. */
void world_check(struct world *w, struct device *dev, const char *when);

/* ---- books.c ------------------------------------------------------------------- */

/*
 * Drains, commits, waits until everything is idle, and checks the engine's books. False: the pool died or is
 * read-only.
 */
bool world_settle(struct world *w);

/* ---- step.c -------------------------------------------------------------------- */

/* Runs it all in this process; ends it through sim_fail when something is wrong. */
void history_run(const struct history *h, bool verbose);
/* The same for a run of its own, and every prefix of its log of writes. */
void history_prefixes(uint64_t seed, bool verbose);

/* ---- prefix.c ------------------------------------------------------------------ */

/* On a pool that was just made. */
void prefixes_run(struct world *w);

#endif
