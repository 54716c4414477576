/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/config.h: byred's settings, from its command line, a file (--config), and defaults. The command line
 * overrides the file; a list given there (--nbd, --rpc) replaces the file's.
 */
#ifndef SERVER_CONFIG_H
#define SERVER_CONFIG_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/log.h"
#include "fs/fs.h"
#include "server/limits.h"

#define CONFIG_ERROR_MAX 512
#define CONFIG_WARN_FULL_MAX 8
#define CONFIG_COMMIT_INTERVAL_MAX_S 3600
#define CONFIG_SCRUB_INTERVAL_MAX_DAYS 3650
#define CONFIG_SCRUB_INTERVAL_DEFAULT_DAYS 30
#define CONFIG_TIMEOUT_MAX_S 86400
#define CONFIG_STALL_DEFAULT_S 60
#define CONFIG_STOP_DEFAULT_S 10

enum config_source { CONFIG_UNSET, CONFIG_FROM_FILE, CONFIG_FROM_ARGS };

struct config_list {
	enum config_source source;
	unsigned count;
	struct addr addrs[SERVER_LISTENERS_MAX];
};

struct config {
	char pool[PATH_MAX];
	char file[PATH_MAX];		   /* --config; empty: none */
	struct config_list nbd, rpc, http; /* http: one at most */
	uint64_t cache_bytes;		   /* 0: the engine's default */
	uint64_t memory_bytes;		   /* what clients can make the daemon hold */
	unsigned commit_interval_ms;	   /* 0: likewise */
	unsigned threads;		   /* 0: one a core */
	unsigned stall_timeout_s, stop_timeout_s;
	unsigned scrub_interval_days; /* 0: none starts by itself */
	uint64_t scrub_rate;	      /* bytes a second; 0: the engine's default */
	enum fs_discard discard;
	struct addr_access sockets; /* of unix sockets */
	enum log_level log_level;
	bool read_only;
	unsigned warn_full[CONFIG_WARN_FULL_MAX], warn_full_count; /* percent, ascending */
	char write_log[PATH_MAX];				   /* empty: none */
	char default_export[FS_NAME_MAX + 1]; /* the volume that NBD's empty name means; empty: none */

	/* Where each single value came from. */
	enum config_source pool_source, cache_source, commit_source, threads_source, level_source,
		write_log_source, stall_source, stop_source, memory_source, mode_source, owner_source,
		group_source, scrub_interval_source, scrub_rate_source, discard_source, read_only_source,
		warn_full_source, default_export_source;
};

struct config_error {
	char msg[CONFIG_ERROR_MAX];
};

/* Sets all defaults except the addresses (see config_default_addrs). */
void config_init(struct config *c);

/*
 * Sets one value by its name (that of the long option, without dashes) from `source`; a value that a stronger
 * source has set stays. -EINVAL: unknown name or wrong value, as `err` says.
 */
int config_set(struct config *c, const char *name, const char *value, enum config_source source,
	       struct config_error *err);

/*
 * Reads an INI file: `name = value` lines under [byred], `nbd` and `rpc` may repeat; comments start with # or
 * ;. -EINVAL: a line is wrong, as `err` says; other errors: it cannot be read. Waits.
 */
int config_read_file(struct config *c, const char *path, struct config_error *err);

/*
 * Default addresses for those that were not set: NBD unix:$DIR/nbd.sock, RPC unix:$DIR/rpc.sock. TCP only
 * when asked for. $DIR is `runtime_dir` (systemd's $RUNTIME_DIRECTORY; NULL: not set), else the pool's
 * folder, and for a block device /run/byre. -ENAMETOOLONG: $DIR does not fit a unix socket's name.
 */
int config_default_addrs(struct config *c, const char *runtime_dir, bool block_device,
			 struct config_error *err);

/*
 * Names, separated by spaces, of the settings that differ between two configurations and need a restart to
 * change.
 */
void config_diff(const struct config *a, const struct config *b, char *buf, size_t size);

#endif
