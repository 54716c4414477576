/* SPDX-License-Identifier: BSD-3-Clause */
/* base/crc32c.h: CRC32C (Castagnoli), as iSCSI, btrfs and ext4 use it; computed by ISA-L. */
#ifndef BASE_CRC32C_H
#define BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* crc32c("123456789") is 0xe3069283. */
uint32_t crc32c(const void *buf, size_t len);

#endif
