/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/format/backing_format.h: the list of spares of a sparse pool: free data blocks that the host has blocks
 * for (backing.h). It is a hint: what it names is used only if it is free and has its blocks. A commit whose
 * list differs from the last one that was written writes it to the place of its generation's lowest bit.
 */
#ifndef FS_FORMAT_BACKING_FORMAT_H
#define FS_FORMAT_BACKING_FORMAT_H

#include <assert.h>
#include <stdint.h>

#include "base/le.h"

struct print;

#define SPARES_MAGIC 0x50535942u     /* "BYSP" */
#define SPARES_OFFSET (128ull << 10) /* and 4 KiB after it */
#define SPARES_BYTES 4096u
#define SPARES_MAX 64u

struct spares_block {
	le32 crc; /* CRC32C of everything after this field */
	le32 magic;
	uint8_t pool[16];
	le64 generation; /* of the commit that wrote it */
	le32 count;
	le32 reserved0;
	le64 addr[SPARES_MAX]; /* logical addresses of blocks */
	uint8_t reserved[SPARES_BYTES - 40 - 8 * SPARES_MAX];
};
static_assert(sizeof(struct spares_block) == SPARES_BYTES, "spares_block");

uint32_t spares_checksum(const struct spares_block *sb);
/* NULL: it is a list; else what is wrong with it. */
const char *spares_fault(const struct spares_block *sb);
/* A record, of any SPARES_BYTES bytes. */
void spares_print(struct print *p, uint64_t offset, const void *block);

#endif
