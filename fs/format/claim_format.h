/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/format/claim_format.h: who has the pool open for writing. One block, written when a pool is opened and
 * when it is closed; everything used is in its first 512 bytes.
 */
#ifndef FS_FORMAT_CLAIM_FORMAT_H
#define FS_FORMAT_CLAIM_FORMAT_H

#include <assert.h>
#include <stdint.h>

#include "base/le.h"

struct print;

#define CLAIM_MAGIC 0x4c435942u /* "BYCL" */
#define CLAIM_OFFSET (192ull << 10)
#define CLAIM_BYTES 4096u
#define CLAIM_HOST_MAX 64u

struct claim_block {
	le32 crc; /* CRC32C of everything after this field */
	le32 magic;
	uint8_t pool[16];
	uint8_t session[16]; /* drawn when the pool was opened */
	uint8_t boot[16];    /* of the kernel that it was opened under: its boot id */
	le64 since_ns;	     /* since 1970, UTC */
	le64 start;	     /* of the process, in the kernel's ticks since boot; 0: unknown */
	le32 pid;	     /* as the process sees itself */
	uint8_t held;	     /* 0: it was closed */
	uint8_t reserved0[3];
	char host[CLAIM_HOST_MAX]; /* its name, filled up with zeros */
	uint8_t reserved[CLAIM_BYTES - 144];
};
static_assert(sizeof(struct claim_block) == CLAIM_BYTES, "claim_block");

uint32_t claim_checksum(const struct claim_block *claim);
/* NULL: it is a claim; else what is wrong with it. */
const char *claim_fault(const struct claim_block *claim);
/* A record, of any CLAIM_BYTES bytes. */
void claim_print(struct print *p, const void *block);

#endif
