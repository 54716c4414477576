/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/fs.h: the one public header of the engine.
 *
 * One `struct fs` is one open pool. It owns a commit thread and a small pool of
 * worker threads. Data requests enter through a *context* (`struct fs_ctx`), of
 * which every event loop has one: a context owns a device queue, a run of free
 * space of its own, and the list of its finished requests.
 *
 * Threads: an fs_ctx is used by one thread at a time. Every other call may come
 * from any thread. Calls marked "waits" may do I/O or wait for a commit and must
 * not be made from an event loop; hand them to fs_work().
 *
 * Errors: 0 or a negative errno value. Calls with an `err` argument also fill it
 * in with one line for people; `err` may be NULL.
 */
#ifndef FS_FS_H
#define FS_FS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fs;
struct fs_ctx;
struct fs_volume;
struct device;

#define FS_BLOCK_SIZE 4096u
#define FS_NAME_MAX 255
#define FS_UUID_LEN 16
/* The largest request with data that fs_submit takes; TRIM and ZERO are bounded only by the volume. */
#define FS_IO_MAX (32u << 20)
#define FS_VOLUME_SIZE_MAX ((uint64_t)INT64_MAX & ~(uint64_t)4095)
#define FS_POOL_SIZE_MIN (16u << 20)

/* One line that says what failed, on what, why and what to do. */
struct fs_error {
	char msg[512];
};

/* ---- pools ---------------------------------------------------------------- */

enum fs_log_level {
	FS_LOG_ERROR = 3,
	FS_LOG_WARNING = 4,
	FS_LOG_NOTICE = 5,
	FS_LOG_INFO = 6,
	FS_LOG_DEBUG = 7
};

struct fs_create_options {
	uint64_t size_bytes; /* of the file; ignored for a block device (all of it is taken) */
	bool sparse;	     /* do not preallocate the file */
	bool force;	     /* overwrite a file or a device that already holds something */
	/* May be NULL: called while the file is preallocated. */
	void (*progress)(void *arg, uint64_t done, uint64_t total);
	void *progress_arg;
	/*
	 * May be NULL. describe says what a file or device holds: 1 and a few words ("an ext4 file system"),
	 * 0 if it knows nothing there, or a negative errno. wipe removes that before a pool is written over
	 * it. Both run with the lock held.
	 */
	int (*describe)(void *arg, int fd, char *ret_what, size_t size);
	int (*wipe)(void *arg, int fd);
	void *signature_arg;
};

/* Makes a pool. Waits. -EEXIST: the path holds something and `force` is not set. */
int fs_create(const char *path, const struct fs_create_options *opt, struct fs_error *err);

enum fs_device_kind {
	FS_DEVICE_AUTO, /* io_uring, threads where it is not allowed */
	FS_DEVICE_URING,
	FS_DEVICE_THREADS,
};

/*
 * Whether what is freed goes back to the host's file system, or is discarded on the device. AUTO: sparse
 * files, devices that can.
 */
enum fs_discard { FS_DISCARD_AUTO, FS_DISCARD_ON, FS_DISCARD_OFF };

struct fs_options {
	uint64_t cache_bytes;	     /* nodes and data together; 0: a default */
	unsigned commit_interval_ms; /* 0: the default, 5000 */
	unsigned workers;	     /* 0: a default */
	enum fs_device_kind device_kind;
	bool read_only;
	bool scrub_goes_on; /* one that was under way when the pool was closed is continued */
	/* a scrub starts this long after the last one ended (or the pool was made); 0: never */
	uint64_t scrub_interval_s;
	uint64_t scrub_rate;	 /* bytes a second, of those that start by themselves; 0: the default */
	enum fs_discard discard; /* ON: a preallocated file is a sparse one for as long as it is open */
	/* tests: treats a sparse file as a device of that size, with room for all of it */
	bool as_device;
	/* Records every write and flush of the device to this file (tests; NULL: not). */
	const char *write_log;
	/*
	 * May be NULL. Called from any thread, perhaps with locks of the engine held: it must not call the
	 * engine, nor wait for anyone who does.
	 */
	void (*log)(void *arg, enum fs_log_level level, const char *msg);
	void *log_arg;
};

/*
 * Opens a pool: reads the superblock, the block groups and the volumes, replays the flush log. Waits. -EBUSY:
 * another process holds the pool; `err` has its pid.
 */
int fs_open(const char *path, const struct fs_options *opt, struct fs **ret_fs, struct fs_error *err);

/*
 * Commits, stops the threads, closes the device. No context and no volume handle may be left. Waits. Accepts
 * NULL. -EROFS: an error had turned the pool read-only; what was flushed is safe, and the pool is closed all
 * the same.
 */
int fs_close(struct fs *fs);

/* Commits everything that completed before the call. Waits. */
int fs_commit(struct fs *fs);

/*
 * Grows the pool to new_size bytes (the file is extended, and preallocated if the pool was); 0: to all of its
 * device, or of its file if that has been made larger. Waits.
 */
int fs_grow(struct fs *fs, uint64_t new_size, struct fs_error *err);

/* ---- scrub ---------------------------------------------------------------- */

enum fs_scrub_state {
	FS_SCRUB_NEVER, /* since the pool was made */
	FS_SCRUB_RUNNING,
	FS_SCRUB_FINISHED,
	FS_SCRUB_STOPPED, /* by fs_scrub_stop; fs_scrub_start goes on */
};

struct fs_scrub_status {
	enum fs_scrub_state state;
	int64_t started_ns, ended_ns;	  /* since 1970, UTC; 0: not yet */
	uint64_t rate;			  /* bytes a second, at the most */
	uint64_t bytes_done, bytes_total; /* read, copies too; the total is an estimate made at the start */
	uint64_t found, mended;		  /* bad copies and blocks; those that are good again */
	uint64_t damaged_bytes;		  /* bytes of volumes that cannot be read */
};

enum fs_scrub_damage_kind {
	FS_SCRUB_DAMAGED, /* data whose checksum does not match, or that the device cannot read */
	FS_SCRUB_LOST,	  /* no copy is left of the node that says where the data is */
};

/* A range of a volume that cannot be read until it is overwritten or trimmed. */
struct fs_scrub_damage {
	char volume[FS_NAME_MAX + 1]; /* its name when the damage was found */
	uint64_t volume_id;
	uint64_t off, len;
	enum fs_scrub_damage_kind kind;
};

/*
 * Starts reading everything that is allocated, in the background. Continues a scrub that was stopped, unless
 * `restart` is set. rate: bytes a second, 0: the default. -EBUSY: one runs. Does not wait for it to end.
 */
int fs_scrub_start(struct fs *fs, uint64_t rate, bool restart, struct fs_error *err);
/* -ENOENT: none runs. Waits until it has ended. */
int fs_scrub_stop(struct fs *fs, struct fs_error *err);
void fs_scrub_get_status(struct fs *fs, struct fs_scrub_status *ret_status);
/*
 * Copies up to max ranges that this scrub or the last one found since the pool was opened; returns how many
 * there are.
 */
size_t fs_scrub_get_damage(struct fs *fs, struct fs_scrub_damage *ret_damage, size_t max);

/*
 * Discards everything that is free, in the background; trim_left_bytes in struct fs_info says how much is
 * left to do. In a pool with reserved volumes data groups keep their space. Waits for a commit. -EROFS,
 * -ENOTSUP, -EINVAL (a preallocated file).
 */
int fs_trim(struct fs *fs, struct fs_error *err);

/* ---- figures --------------------------------------------------------------- */

#define FS_LATENCY_BUCKETS 16
/*
 * Microseconds; of all buckets but the last. A time counts in the first bucket whose bound it does not
 * exceed.
 */
extern const uint32_t fs_latency_bounds_us[FS_LATENCY_BUCKETS - 1];

struct fs_latency {
	uint64_t us, buckets[FS_LATENCY_BUCKETS]; /* since start */
};

struct fs_info {
	uint8_t uuid[FS_UUID_LEN];
	uint64_t size, data_bytes, metadata_bytes, reserved_bytes, pinned_bytes, free_bytes;
	uint64_t generation;
	uint64_t groups_data, groups_metadata, groups_system;
	uint64_t unallocated_bytes; /* device space that belongs to no block group */
	uint64_t global_reserve_bytes;
	uint64_t volume_reserved_bytes; /* promised to reserved volumes and not yet used */
	/* free-space cache: groups since start; bytes and time of the last write-out */
	uint64_t cache_loaded, cache_written, cache_rebuilt, cache_last_bytes, cache_last_us;
	/* of caches, and of whole commits, since start */
	uint64_t cache_bytes, cache_us, commit_bytes, commit_us;
	uint64_t last_commit_ms;		       /* how long the last commit took */
	struct fs_latency commit_latency, log_latency; /* of commits; of groups written to the flush log */
	uint64_t commits, flushes, log_groups, log_bytes, device_flushes;
	uint64_t reclaim_commits, reclaim_groups, enospc; /* steps of reclaim, and refusals */
	uint64_t node_cache_hits, node_cache_misses;
	uint64_t data_cache_hits, data_cache_misses;
	uint64_t volumes, snapshots, objects;
	uint64_t provisioned_bytes; /* sizes of all volumes together; UINT64_MAX: that or more */
	uint64_t errors_corrected, errors_checksum, errors_io;
	uint64_t discarded_bytes; /* given back to the host since start */
	/*
	 * bytes of volumes that cannot be read until they are overwritten, because a node could not be read
	 */
	uint64_t lost_bytes;
	/*
	 * acknowledged flushes lost since the pool was made because a record of the flush log had rotted: at
	 * least this many
	 */
	uint64_t log_lost_flushes;
	int64_t log_lost_ns;	      /* when that was last noticed; 0: never */
	struct fs_scrub_status scrub; /* the one that runs, or the last one */
	/* writes take blocks of the host's file system, which may be full: */
	bool sparse;
	bool host_full;		  /* it was full when last asked; new data is refused */
	uint64_t host_free_bytes; /* what it has left for anybody */
	/*
	 * how much of free_bytes (the pool's own figure, as if the host had room) the host has no room for
	 * now
	 */
	uint64_t host_short_bytes;
	/* what is freed goes back to the host, or is discarded on the device, by itself */
	bool discard;
	/* bytes that fs_trim still has to look at, and had to look at; 0: none runs */
	uint64_t trim_left_bytes, trim_total_bytes;
	bool read_only;		 /* opened so, or turned so by an error */
	const char *device_kind; /* "io_uring", "threads", "simulated" */
	bool direct_io;
};

void fs_get_info(struct fs *fs, struct fs_info *ret_info);

/* What can be done about a finding. */
enum fs_cure {
	FS_CURE_DONE,	/* nothing: this check has repaired it */
	FS_CURE_REPAIR, /* a check with `repair` repairs it */
	/* this range of a volume is lost until it is written or trimmed. Everything else is good */
	FS_CURE_OVERWRITE,
	FS_CURE_RESTORE, /* nothing here repairs it */
	FS_CURES,
};

/* One thing that is wrong; neighbours of one kind are one finding. Strings are valid during the call. */
struct fs_finding {
	enum fs_cure cure;
	const char *text;   /* what, and where */
	const char *advice; /* what to do */
	const char *volume; /* its name; NULL: it is not a range of a volume */
	uint64_t off, len;  /* in the volume */
};

/*
 * Reads a whole pool that no process has open and verifies every invariant. `finding` gets one line for each
 * thing that is wrong, `detail` the same in parts, `note` lines worth knowing that are not faults. Each may
 * be NULL. Returns 0 when the check ran (look at *ret_findings), negative when it could not. `repair`
 * rewrites what can be derived from the trees.
 */
struct fs_check_options {
	bool repair;
	void (*finding)(void *arg, const char *line);
	void (*detail)(void *arg, const struct fs_finding *finding);
	void (*note)(void *arg, const char *line);
	void (*progress)(void *arg, uint64_t done, uint64_t total);
	void *arg;
};
int fs_check(const char *path, const struct fs_check_options *opt, uint64_t *ret_findings,
	     struct fs_error *err);

/* ---- dump ----------------------------------------------------------------- */

enum fs_dump_part {
	FS_DUMP_SUPERBLOCK = 1, /* its copies, what they differ in, system groups, the scrub's position */
	FS_DUMP_CLAIM = 2,
	FS_DUMP_SPARES = 4,
	FS_DUMP_GROUPS = 8,
	FS_DUMP_VOLUMES = 16, /* and deleted ones, as of the last commit */
	FS_DUMP_LOG = 32,     /* records, items, and which would be replayed */
	FS_DUMP_CACHES = 64,
	FS_DUMP_CACHE_ENTRIES = 128, /* with FS_DUMP_CACHES: what is in them */
};

struct fs_dump_options {
	uint32_t parts;	       /* enum fs_dump_part */
	const char *volume;    /* the extents of this one; NULL */
	const uint64_t *nodes; /* the nodes at these logical addresses */
	size_t nr_nodes;
	uint64_t max_items; /* of each list; 0: all of them */
	bool json;	    /* each line is a JSON object with the member `record`; else words for people */
	void (*line)(void *arg, const char *text); /* without a newline */
	void *arg;
};

/*
 * Prints what stands in a pool that no process has open, however damaged it is. Writes nothing to it. Returns
 * 0 when the dump ran; *ret_problems counts lines that say what cannot be read or makes no sense. Waits.
 */
int fs_dump(const char *path, const struct fs_dump_options *opt, uint64_t *ret_problems,
	    struct fs_error *err);

/* ---- volumes -------------------------------------------------------------- */

enum fs_volume_flags { FS_VOLUME_RESERVED = 1, FS_VOLUME_WRITEBACK = 2, FS_VOLUME_READ_ONLY = 4 };

#define FS_COMMENT_MAX 255

struct fs_volume_info {
	uint64_t id;
	char name[FS_NAME_MAX + 1];
	uint64_t size;
	/*
	 * As of the last commit, plus what was written since; overwrites count twice until the next commit. A
	 * lower bound where nodes were lost.
	 */
	uint64_t used_bytes;
	uint64_t lost_bytes; /* cannot be read until they are overwritten */
	uint32_t flags;
	int64_t ctime_ns; /* since 1970, UTC */
	uint8_t uuid[FS_UUID_LEN];
	char comment[FS_COMMENT_MAX + 1];
};

/* What fs_volume_set changes. */
struct fs_volume_change {
	uint32_t set, clear; /* of RESERVED and READ_ONLY */
	/* NULL: unchanged; "": removed. UTF-8 without control characters, at most FS_COMMENT_MAX bytes */
	const char *comment;
};

/* True for 1 to 255 bytes of letters, digits, '.', '_', '-' that do not start with '.' or '-'. */
bool fs_name_is_valid(const char *name);

/*
 * Each of these is durable when it returns 0. Waits. Sizes: rounded up to 4 KiB by the caller, else -EINVAL.
 */
int fs_volume_create(struct fs *fs, const char *name, uint64_t size, uint32_t flags, struct fs_error *err);
/* -EBUSY while a handle is open */
int fs_volume_delete(struct fs *fs, const char *name, struct fs_error *err);
int fs_volume_rename(struct fs *fs, const char *from, const char *to, struct fs_error *err);
/* For tests. */
int fs_volume_resize(struct fs *fs, const char *name, uint64_t size, struct fs_error *err);
/*
 * As fs_volume_resize, but it shrinks a volume only with `may_shrink` (else -EINVAL), and only while nobody
 * has a handle (else -EBUSY). Nobody gets a handle until it is done.
 */
int fs_volume_set_size(struct fs *fs, const char *name, uint64_t size, bool may_shrink, struct fs_error *err);

/*
 * RESERVED: -ENOSPC when the volume's space cannot be promised. READ_ONLY holds from the next request on;
 * clients that have the volume open learn of it when they open it again.
 */
int fs_volume_set(struct fs *fs, const char *name, const struct fs_volume_change *change,
		  struct fs_error *err);

/*
 * The same operations for callers that do not wait for the device. start returns when the operation has its
 * place in the order of all changes; `done` runs when it is durable, or has failed. Operations under way
 * together share a write of the flush log. start may wait for space, and for another operation on the same
 * volume. The strings are the caller's until then, the struct until done.
 */
enum fs_volume_op_kind {
	FS_VOLUME_CREATE,
	FS_VOLUME_DELETE,
	FS_VOLUME_RENAME,
	FS_VOLUME_RESIZE,
	FS_VOLUME_SET
};

struct fs_volume_op {
	enum fs_volume_op_kind kind;
	const char *name;
	const char *to;					  /* RENAME */
	uint64_t size;					  /* CREATE, RESIZE */
	uint32_t flags;					  /* CREATE: enum fs_volume_flags */
	bool ask;					  /* RESIZE: as fs_volume_set_size, with */
	bool may_shrink;				  /* this */
	struct fs_volume_change change;			  /* SET */
	void (*done)(struct fs_volume_op *op, int error); /* any thread; perhaps before start returns */
	struct fs_error err;				  /* one line, when there was an error */
};
void fs_volume_op_start(struct fs *fs, struct fs_volume_op *op);

/*
 * Calls fn for each volume in order of name, from a copy: fn may call the engine. fn's nonzero return ends
 * the walk and is returned.
 */
int fs_volume_list(struct fs *fs, int (*fn)(void *arg, const struct fs_volume_info *info), void *arg);
/* The same for names after `after`, at a cost that does not depend on the volumes before it: for pages. */
int fs_volume_list_from(struct fs *fs, const char *after,
			int (*fn)(void *arg, const struct fs_volume_info *info), void *arg);

/* A volume's figures, without a handle. Does not wait. -ENOENT. */
int fs_volume_find_info(struct fs *fs, const char *name, struct fs_volume_info *ret_info);

/* A reference to a volume. Does not wait. -ENOENT; -EBUSY while it shrinks. */
int fs_volume_get(struct fs *fs, const char *name, struct fs_volume **ret_vol);
void fs_volume_put(struct fs_volume *vol);
void fs_volume_get_info(struct fs_volume *vol, struct fs_volume_info *ret_info);
uint64_t fs_volume_size(const struct fs_volume *vol);

/*
 * Allocated ranges, for NBD's block status: calls fn for consecutive pieces of [off, off+len) in order;
 * `hole` pieces read as zeros and have no space. Ends when fn returns nonzero, which is returned. Waits.
 */
int fs_volume_map(struct fs_volume *vol, uint64_t off, uint64_t len,
		  int (*fn)(void *arg, uint64_t off, uint64_t len, bool hole), void *arg);

/* ---- requests ------------------------------------------------------------- */

enum fs_op { FS_READ, FS_WRITE, FS_FLUSH, FS_TRIM, FS_ZERO, FS_CACHE };
enum fs_io_flags { FS_FUA = 1, FS_NO_HOLE = 2 };

/*
 * One request. The caller fills in the first part and keeps the struct and the buffer untouched until `done`
 * runs. off and len may have any alignment and must lie within the volume (-EINVAL for reads, -ENOSPC for the
 * rest). A FLUSH covers every request on any volume that completed before it was submitted.
 */
struct fs_io {
	enum fs_op op;
	uint32_t flags;
	struct fs_volume *vol; /* a reference that the caller holds until done */
	uint64_t off;
	uint64_t len;
	void *buf;			/* READ: filled in; WRITE: taken from. Any alignment. */
	void (*done)(struct fs_io *io); /* runs on the context's thread, inside fs_submit or fs_ctx_run */
	void *arg;			/* the caller's */
	int error;			/* 0 or negative errno, valid in done */

	/* The engine's; do not touch. */
	struct {
		struct fs_io *next;
		struct fs_ctx *ctx;
		void *priv;
	} e;
};

/* A context for the calling event loop. fs_ctx_fd polls readable when fs_ctx_run has work. */
int fs_ctx_new(struct fs *fs, struct fs_ctx **ret_ctx);
void fs_ctx_free(struct fs_ctx *ctx); /* no request may be under way; accepts NULL */
int fs_ctx_fd(struct fs_ctx *ctx);

/*
 * Starts n requests as one batch (they have no order among each other). Never waits. Requests that need no
 * I/O finish inside the call.
 */
void fs_submit(struct fs_ctx *ctx, struct fs_io *const *ios, size_t n);

/* Runs what is ready: device completions, and requests that had to wait. Never waits. */
void fs_ctx_run(struct fs_ctx *ctx);

/*
 * For threads without an event loop (plugin, tests, tools): submits one request on a private context
 * and waits for it. Returns its error.
 */
int fs_io_wait(struct fs *fs, struct fs_io *io);

/* Runs fn(arg) on a worker thread. Does not wait. For calls marked "waits". */
struct fs_work {
	void (*fn)(struct fs_work *work);
	struct fs_work *next;
};
void fs_work(struct fs *fs, struct fs_work *work);

#endif
