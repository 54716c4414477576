/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/format/claim_format.h"

#include <string.h>

#include "base/crc32c.h"
#include "base/le.h"
#include "fs/format/print.h"

uint32_t claim_checksum(const struct claim_block *claim)
{
	return crc32c((const char *)claim + sizeof(claim->crc), sizeof(*claim) - sizeof(claim->crc));
}

const char *claim_fault(const struct claim_block *claim)
{
	if (le32_to_cpu(claim->magic) != CLAIM_MAGIC)
		return "there is none";
	return le32_to_cpu(claim->crc) != claim_checksum(claim) ? "its checksum does not match" : NULL;
}

void claim_print(struct print *p, const void *block)
{
	const struct claim_block *claim = block;
	const char *fault = claim_fault(claim);

	print_begin(p, "claim");
	print_number(p, "offset", CLAIM_OFFSET);
	print_bool(p, "valid", !fault);
	if (fault)
		print_text(p, "fault", fault, strlen(fault));
	if (le32_to_cpu(claim->magic) == CLAIM_MAGIC) {
		print_bool(p, "held", claim->held);
		print_uuid(p, "pool", claim->pool);
		print_uuid(p, "session", claim->session);
		print_uuid(p, "boot", claim->boot);
		print_time(p, "since", le64_to_cpu(claim->since_ns));
		print_number(p, "pid", le32_to_cpu(claim->pid));
		print_number(p, "start", le64_to_cpu(claim->start));
		print_text(p, "host", claim->host, strnlen(claim->host, sizeof(claim->host)));
	}
	print_end(p);
}
