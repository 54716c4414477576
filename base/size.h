/* SPDX-License-Identifier: BSD-3-Clause */
/* base/size.h: sizes as people type and read them. Units are powers of 1024. */
#ifndef BASE_SIZE_H
#define BASE_SIZE_H

#include <stddef.h>
#include <stdint.h>

/*
 * Reads decimal digits and at most one unit: K, M, G, T or P (either case), as such or as Ki or KiB, or B.
 * With one of K to P there may be a fraction behind a point; what is less than a byte is dropped. Nothing
 * before, between or after. -EINVAL: not such a string ("10GB" is none: it may mean powers of 1000). -ERANGE:
 * does not fit into 64 bits.
 */
int size_parse(const char *s, uint64_t *ret_bytes);

/* Enough for every size_format. */
#define SIZE_FORMAT_MAX 16

/* "0 B", "512 B", "4 KiB", "1.5 GiB": one decimal, none where it would be 0. Cuts at len; returns buf. */
char *size_format(uint64_t bytes, char *buf, size_t len);

#endif
