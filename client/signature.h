/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * client/signature.h: what stands on a file or device before a pool is made on it: named, and wiped, with
 * libblkid, so that nobody takes the pool's device for the file system that was there.
 */
#ifndef CLIENT_SIGNATURE_H
#define CLIENT_SIGNATURE_H

#include <stddef.h>

/*
 * 1 and a few words ("an ext4 file system"), 0 when nothing is known there, or a negative errno. The second:
 * all signatures, with the copies that libblkid knows, and a GPT's at the end. Both are called with an open
 * descriptor (fs_create_options).
 */
int signature_describe(void *arg, int fd, char *ret_what, size_t size);
int signature_wipe(void *arg, int fd);

#endif
