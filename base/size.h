/* SPDX-License-Identifier: BSD-3-Clause */
/* base/size.h: sizes as people type and read them. Units are powers of 1024. */
#ifndef BASE_SIZE_H
#define BASE_SIZE_H

#include <stddef.h>
#include <stdint.h>

/*
 * Reads decimal digits and at most one of K, M, G, T, P (either case), nothing before, between or after.
 * -EINVAL: not such a string. -ERANGE: does not fit into 64 bits.
 */
int size_parse(const char *s, uint64_t *ret_bytes);

/* Enough for every size_format. */
#define SIZE_FORMAT_MAX 16

/* "0 B", "512 B", "4 KiB", "1.5 GiB": one decimal, none where it would be 0. Cuts at len; returns buf. */
char *size_format(uint64_t bytes, char *buf, size_t len);

#endif
