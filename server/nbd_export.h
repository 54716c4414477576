/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server/nbd_export.h: what NBD clients can open: names to volumes, their flags, and the engine's errors in
 * NBD's words.
 */
#ifndef SERVER_NBD_EXPORT_H
#define SERVER_NBD_EXPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fs/fs.h"

struct nbd_export {
	struct fs_volume *vol; /* a reference */
	bool read_only;
};

/* What there is to open. */
struct nbd_exports {
	struct fs *fs;
	const char *default_name; /* the volume that the empty name means; NULL or "": none */
};

/*
 * Opens the export that a client named (`name` has `len` bytes and no final zero). The one place that knows
 * how names map to volumes. -ENOENT, with a line for the client in `err`: there is no export of that name.
 */
int nbd_export_open(const struct nbd_exports *exports, const char *name, size_t len,
		    struct nbd_export *ret_export, struct fs_error *err);
void nbd_export_close(struct nbd_export *export); /* may be called again */

/*
 * Calls fn with the name of each export and what its owner says of it (may be ""); a nonzero return ends the
 * walk and is returned.
 */
int nbd_export_list(struct fs *fs, int (*fn)(void *arg, const char *name, const char *description),
		    void *arg);

/* What a client has asked for beyond simple replies. */
enum nbd_dialect {
	NBD_CHUNKED = 1,  /* replies come in chunks: structured or extended ones */
	NBD_EXTENDED = 2, /* with headers for 64 bits */
	NBD_CONTEXT = 4,  /* BLOCK_STATUS has a context to tell of */
};

/* The 16 bits of transmission flags. `dialect`: enum nbd_dialect. */
uint16_t nbd_export_flags(const struct nbd_export *export, unsigned dialect);

/* The engine's negative errno (or 0) as the error field of a reply. */
uint32_t nbd_error(int error);

#endif
