/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/format/backing_format.h"

#include <string.h>

#include "base/crc32c.h"
#include "base/le.h"
#include "fs/format/print.h"

uint32_t spares_checksum(const struct spares_block *sb)
{
	return crc32c((const char *)sb + sizeof(sb->crc), sizeof(*sb) - sizeof(sb->crc));
}

const char *spares_fault(const struct spares_block *sb)
{
	if (le32_to_cpu(sb->magic) != SPARES_MAGIC)
		return "there is none";
	if (le32_to_cpu(sb->crc) != spares_checksum(sb))
		return "its checksum does not match";
	return le32_to_cpu(sb->count) > SPARES_MAX ? "it is longer than there is room" : NULL;
}

void spares_print(struct print *p, uint64_t offset, const void *block)
{
	const struct spares_block *sb = block;
	const char *fault = spares_fault(sb);

	print_begin(p, "spares");
	print_number(p, "offset", offset);
	print_bool(p, "valid", !fault);
	if (fault) {
		print_text(p, "fault", fault, strlen(fault));
	} else {
		uint64_t blocks[SPARES_MAX], ones[SPARES_MAX];
		uint32_t n = le32_to_cpu(sb->count);

		for (uint32_t i = 0; i < n; i++) {
			blocks[i] = le64_to_cpu(sb->addr[i]);
			ones[i] = 1;
		}
		print_uuid(p, "pool", sb->pool);
		print_number(p, "generation", le64_to_cpu(sb->generation));
		print_number(p, "count", n);
		print_pairs(p, "blocks", blocks, ones, n);
	}
	print_end(p);
}
