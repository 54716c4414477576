/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * byre.h: libbyre, the C client library of the Byre storage server.
 *
 * *	struct byre_error err;
 * *	struct byre *b;
 *
 * *	if (byre_connect(NULL, &b, &err) || byre_volume_create(b, "vm1", 10ull << 30, 0, &err))
 * *		fprintf(stderr, "%s\n", err.text);
 * *	byre_close(b);
 *
 * Threads: a `struct byre` is one connection and is used by one thread at a time; different ones are
 * independent. Calls block until the daemon has answered, or the time is over (byre_set_timeout). No call
 * changes signals or other process-wide state.
 *
 * Errors: 0 or a negative errno value. `err`, which may be NULL, is filled in on failure with the same value
 * and one line for people; results are untouched then. What the daemon refuses leaves the connection usable;
 * after a failure of the connection itself every further call fails with -ENOTCONN.
 *
 * Growth: structs get new fields at their ends only. A program tells the library how large the ones are that
 * it knows (the calls that end in _sized; the plain ones do it for you): a newer library fills in those
 * fields and no more, an older one sets what it does not know to zero. So a program runs with any version of
 * libbyre.so.0. struct byre_error stays as it is.
 *
 * Sizes are bytes. Names are 1 to 255 bytes of letters, digits, '.', '_' and '-' that begin with neither '.'
 * nor '-'.
 */
#ifndef CLIENT_BYRE_H
#define CLIENT_BYRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BYRE_NAME_MAX 255
#define BYRE_UUID_LEN 16
#define BYRE_COMMENT_MAX 255
/* Volume sizes are multiples of this. */
#define BYRE_BLOCK_SIZE 4096
#define BYRE_VOLUME_SIZE_MAX ((uint64_t)INT64_MAX & ~(uint64_t)4095)
#define BYRE_DEFAULT_ADDRESS "unix:/run/byre/rpc.sock"

struct byre;

struct byre_error {
	int code; /* a negative errno value */
	char text[512];
};

/* The library's version, such as "0.1.0". */
const char *byre_version(void);

/* Where clients look for the daemon: $BYRE_CONNECT if it is set and not empty, else BYRE_DEFAULT_ADDRESS. */
const char *byre_default_address(void);

bool byre_name_is_valid(const char *name);

/*
 * Connects to a daemon: `unix:PATH` or `tcp:HOST:PORT` (IPv6 in brackets); NULL: byre_default_address().
 * -EINVAL: no such form of address; -EPROTO: what answers there is no Byre daemon; else what connecting
 * failed with.
 */
int byre_connect(const char *address, struct byre **ret_byre, struct byre_error *err);

/*
 * As byre_connect, with a bound: connecting, and each call later on, ends with -ETIMEDOUT when it takes
 * longer. 0: calls have no bound; connecting has one of 10 s, in both.
 */
int byre_connect_timeout(const char *address, unsigned timeout_ms, struct byre **ret_byre,
			 struct byre_error *err);

/*
 * From now on each call ends with -ETIMEDOUT after so long (0: never). What was asked for may have been done,
 * or be done later; the connection is lost.
 */
void byre_set_timeout(struct byre *b, unsigned timeout_ms);

/* Accepts NULL. */
void byre_close(struct byre *b);

/* ---- scrubs ------------------------------------------------------------------- */

enum byre_scrub_state { BYRE_SCRUB_NEVER, BYRE_SCRUB_RUNNING, BYRE_SCRUB_FINISHED, BYRE_SCRUB_STOPPED };

/* The scrub that runs, or the last one. */
struct byre_scrub {
	enum byre_scrub_state state;
	int64_t started_ns, ended_ns;	  /* since 1970, UTC; 0: not yet */
	uint64_t rate;			  /* bytes a second, at the most */
	uint64_t bytes_done, bytes_total; /* the total is an estimate */
	uint64_t found, mended;		  /* bad copies and blocks; those that are good again */
	uint64_t damaged_bytes;		  /* of volumes, that cannot be read */
};

/* A range of a volume that cannot be read until it is overwritten or trimmed. */
struct byre_scrub_damage {
	char volume[BYRE_NAME_MAX + 1]; /* as it was called when this was found */
	uint64_t volume_id;
	uint64_t off, len;
	bool lost; /* it is not the data that is damaged, but what says where it stands */
};

/* ---- the daemon and its pool ------------------------------------------------ */

/*
 * What clients asked for and got. `latency` counts requests by how long they took from arrival to answer:
 * latency[i] those of at most byre_latency_bound_us(i) that are in none before it. These two structs do not
 * grow.
 */
#define BYRE_LATENCIES 16
enum byre_kind { BYRE_READ, BYRE_WRITE, BYRE_FLUSH, BYRE_FREE, BYRE_OTHER, BYRE_KINDS_MAX = 8 };
struct byre_kind_figures {
	uint64_t count, errors, bytes, us; /* us: how long they took, altogether */
	uint64_t latency[BYRE_LATENCIES];
};
struct byre_figures {
	struct byre_kind_figures kind[BYRE_KINDS_MAX]; /* by enum byre_kind; FREE: trims and zeroes */
};
/* UINT64_MAX for the last one and behind. */
uint64_t byre_latency_bound_us(unsigned i);

struct byre_pool_info {
	uint8_t uuid[BYRE_UUID_LEN];
	uint64_t size, data_bytes, metadata_bytes;
	uint64_t reserved_bytes; /* for writes under way */
	uint64_t pinned_bytes;	 /* freed, usable after the next commit */
	uint64_t free_bytes;	 /* what new data can use */
	uint64_t generation;
	uint64_t groups_data, groups_metadata, groups_system; /* block groups */
	uint64_t unallocated_bytes;			      /* in no block group */
	uint64_t global_reserve_bytes;
	uint64_t volume_reserved_bytes; /* promised to reserved volumes and not yet used */
	/* The free-space cache: block groups since start, and its last writing. */
	uint64_t cache_loaded, cache_written, cache_rebuilt, cache_last_bytes, cache_last_us;
	uint64_t cache_bytes, cache_us, commit_bytes, commit_us; /* since start */
	uint64_t last_commit_ms;				 /* how long it took */
	/* Counted since start. */
	uint64_t commits, flushes, log_groups, log_bytes, device_flushes;
	uint64_t reclaim_commits, reclaim_groups, enospc;
	uint64_t node_cache_hits, node_cache_misses, data_cache_hits, data_cache_misses;
	uint64_t volumes, snapshots, objects;
	uint64_t errors_corrected, errors_checksum, errors_io;
	/* since the pool was made: at least so many, by records of the flush log that had rotted */
	uint64_t log_lost_flushes;
	int64_t log_lost_ns; /* when that was last noticed, since 1970, UTC; 0: never */
	bool read_only;
	bool direct_io;
	char device_kind[32];	    /* "io_uring", "threads", ... */
	uint64_t provisioned_bytes; /* sizes of all volumes together; UINT64_MAX: that or more */
	/* of volumes: cannot be read until they are overwritten, since nodes were lost */
	uint64_t lost_bytes;
	struct byre_scrub scrub;
	bool sparse;	/* what is written takes blocks of the host's file system: */
	bool host_full; /* it had no room when last asked; new data is refused */
	bool discard;	/* what is freed is given back, or discarded on the device, by itself */
	uint64_t host_free_bytes;
	uint64_t discarded_bytes; /* since start */
	/* of the pool, that a trim still has to look at, and had to; 0: none runs */
	uint64_t trim_left_bytes, trim_total_bytes;
	/*
	 * Since start, without errors and bytes: commits; groups written to the flush log, which flushes wait
	 * for.
	 */
	struct byre_kind_figures commit_figures, log_figures;
	uint64_t host_short_bytes; /* of free_bytes, what the host of a sparse pool has no room for now */
};

int byre_pool_info_sized(struct byre *b, struct byre_pool_info *ret_info, size_t size,
			 struct byre_error *err);
static inline int byre_pool_info(struct byre *b, struct byre_pool_info *ret_info, struct byre_error *err)
{
	return byre_pool_info_sized(b, ret_info, sizeof(*ret_info), err);
}

/* To new_size bytes, a multiple of BYRE_BLOCK_SIZE; 0: to all of its device. */
int byre_pool_grow(struct byre *b, uint64_t new_size, struct byre_error *err);

/*
 * Discards all that is free, in the background: it is done when trim_left_bytes of struct byre_pool_info is
 * 0.
 */
int byre_pool_trim(struct byre *b, struct byre_error *err);

/* Of the daemon; byre_pool_info has the pool's. */
struct byre_stats {
	uint64_t uptime_ms;
	uint64_t rpc_connections; /* open now */
	uint64_t rpc_connections_total, rpc_requests, rpc_errors, rpc_bad_frames;
	uint64_t nbd_connections; /* open now */
	uint64_t nbd_connections_total;
	struct byre_figures nbd; /* of all NBD clients, those that are gone too */
};

int byre_stats_sized(struct byre *b, struct byre_stats *ret_stats, size_t size, struct byre_error *err);
static inline int byre_stats(struct byre *b, struct byre_stats *ret_stats, struct byre_error *err)
{
	return byre_stats_sized(b, ret_stats, sizeof(*ret_stats), err);
}

/*
 * Starts reading all that is allocated, in the background, at most `rate` bytes a second (0: the daemon's
 * default). It goes on with one that was stopped, unless `restart` is set. -EBUSY: one runs.
 */
int byre_scrub_start(struct byre *b, uint64_t rate, bool restart, struct byre_error *err);
/* Returns when it has stopped. -ENOENT: none runs. */
int byre_scrub_stop(struct byre *b, struct byre_error *err);

typedef int (*byre_scrub_damage_fn)(void *arg, const struct byre_scrub_damage *damage);
/*
 * fn (may be NULL) gets the ranges that are damaged, in order; it ends by returning nonzero, which is
 * returned. *ret_more (may be NULL): there are others that the daemon has no room for.
 */
int byre_scrub_status_sized(struct byre *b, struct byre_scrub *ret_scrub, size_t size,
			    byre_scrub_damage_fn fn, void *arg, bool *ret_more, struct byre_error *err);
static inline int byre_scrub_status(struct byre *b, struct byre_scrub *ret_scrub, byre_scrub_damage_fn fn,
				    void *arg, bool *ret_more, struct byre_error *err)
{
	return byre_scrub_status_sized(b, ret_scrub, sizeof(*ret_scrub), fn, arg, ret_more, err);
}

/* Makes everything durable in a new generation, whose number *ret_generation (NULL: not wanted) becomes. */
int byre_commit(struct byre *b, uint64_t *ret_generation, struct byre_error *err);

/*
 * Asks the daemon to stop: it finishes what is under way, commits and exits. Returns when it has agreed, not
 * when it is gone.
 */
int byre_shutdown(struct byre *b, struct byre_error *err);

/* ---- volumes ---------------------------------------------------------------- */

enum byre_volume_flags {
	BYRE_VOLUME_RESERVED = 1,  /* writes cannot fail for space */
	BYRE_VOLUME_WRITEBACK = 2, /* else direct */
	BYRE_VOLUME_READ_ONLY = 4, /* reported only */
};

struct byre_volume_info {
	uint64_t id;
	char name[BYRE_NAME_MAX + 1];
	uint64_t size;
	uint64_t used_bytes; /* overwrites of the last seconds count twice */
	uint32_t flags;
	int64_t ctime_ns; /* since 1970, UTC */
	uint8_t uuid[BYRE_UUID_LEN];
	uint64_t lost_bytes; /* cannot be read until they are overwritten, since nodes were lost */
	char comment[BYRE_COMMENT_MAX + 1];
};

/*
 * Each change is durable when it returns 0. Sizes: a multiple of BYRE_BLOCK_SIZE from one to
 * BYRE_VOLUME_SIZE_MAX.
 */
int byre_volume_create(struct byre *b, const char *name, uint64_t size, uint32_t flags,
		       struct byre_error *err);
int byre_volume_info_sized(struct byre *b, const char *name, struct byre_volume_info *ret_info, size_t size,
			   struct byre_error *err);
static inline int byre_volume_info(struct byre *b, const char *name, struct byre_volume_info *ret_info,
				   struct byre_error *err)
{
	return byre_volume_info_sized(b, name, ret_info, sizeof(*ret_info), err);
}

enum byre_resize_flags {
	BYRE_RESIZE_SHRINK = 1, /* the size may be less than it is, and what lies behind it is lost */
};
/*
 * -EINVAL: the volume would get smaller and the flag is not set; -EBUSY: it would, and a client has it open.
 */
int byre_volume_resize(struct byre *b, const char *name, uint64_t size, uint32_t flags,
		       struct byre_error *err);

enum byre_set_flags {
	BYRE_SET_RESERVED = 1, /* -ENOSPC when the space is not there */
	BYRE_SET_THIN = 2,
	BYRE_SET_READ_ONLY = 4, /* at once, for clients that have it open too */
	BYRE_SET_WRITABLE = 8,	/* clients that have it open see it when they connect again */
};
/* comment: one line of UTF-8 of at most BYRE_COMMENT_MAX bytes; "": none any more; NULL: as it is. */
int byre_volume_set(struct byre *b, const char *name, uint32_t flags, const char *comment,
		    struct byre_error *err);
int byre_volume_rename(struct byre *b, const char *from, const char *to, struct byre_error *err);
int byre_volume_delete(struct byre *b, const char *name, struct byre_error *err);

typedef int (*byre_volume_fn)(void *arg, const struct byre_volume_info *info);

/*
 * Calls fn for each volume in bytewise order of the names; fn may not use `b`. A nonzero return of fn ends
 * the walk and is returned (with err untouched). Fetched in pages: volumes that come or go meanwhile may be
 * seen or not.
 */
int byre_volume_list_sized(struct byre *b, byre_volume_fn fn, size_t size, void *arg, struct byre_error *err);
static inline int byre_volume_list(struct byre *b, byre_volume_fn fn, void *arg, struct byre_error *err)
{
	return byre_volume_list_sized(b, fn, sizeof(struct byre_volume_info), arg, err);
}

/* ---- NBD clients ------------------------------------------------------------- */

struct byre_client_info {
	uint64_t id;			/* never used again while the daemon runs */
	char peer[128];			/* for people: "tcp:10.0.0.7:4711", "uid 1000, pid 4242" */
	char volume[BYRE_NAME_MAX + 1]; /* empty: none yet */
	int64_t since_ns;		/* since 1970, UTC */
	bool read_only;
	struct byre_figures figures;
};

typedef int (*byre_client_fn)(void *arg, const struct byre_client_info *info);

/* As byre_volume_list, in order of the ids. */
int byre_client_list_sized(struct byre *b, byre_client_fn fn, size_t size, void *arg, struct byre_error *err);
static inline int byre_client_list(struct byre *b, byre_client_fn fn, void *arg, struct byre_error *err)
{
	return byre_client_list_sized(b, fn, sizeof(struct byre_client_info), arg, err);
}

/* Cuts a client's connection. What it was not answered for may have been done. -ENOENT. */
int byre_client_drop(struct byre *b, uint64_t id, struct byre_error *err);

/* What clients have done to a volume since the daemon started. */
struct byre_volume_figures {
	uint64_t id; /* as in struct byre_volume_info */
	char name[BYRE_NAME_MAX + 1];
	uint64_t clients; /* that have it open now */
	uint64_t opened;  /* how often it was */
	struct byre_figures figures;
};

typedef int (*byre_volume_figures_fn)(void *arg, const struct byre_volume_figures *figures);

/* The same for volumes that were opened since the daemon started, in order of their ids. */
int byre_volume_figures_list_sized(struct byre *b, byre_volume_figures_fn fn, size_t size, void *arg,
				   struct byre_error *err);
static inline int byre_volume_figures_list(struct byre *b, byre_volume_figures_fn fn, void *arg,
					   struct byre_error *err)
{
	return byre_volume_figures_list_sized(b, fn, sizeof(struct byre_volume_figures), arg, err);
}

#ifdef __cplusplus
}
#endif

#endif
