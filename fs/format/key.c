/* SPDX-License-Identifier: BSD-3-Clause */
#include "fs/format/key.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

int key_cmp(struct key a, struct key b)
{
	int c = memcmp(a.data, b.data, a.len < b.len ? a.len : b.len);

	return c ? c : (int)a.len - (int)b.len;
}

void key_pack(uint8_t key[ITEM_KEY_LEN], uint8_t type, uint64_t number)
{
	uint64_t be = htobe64(number);

	key[0] = type;
	memcpy(key + 1, &be, sizeof(be));
}

int key_unpack(struct key key, uint8_t *ret_type, uint64_t *ret_number)
{
	uint64_t be;

	if (key.len != ITEM_KEY_LEN)
		return -EUCLEAN;
	memcpy(&be, key.data + 1, sizeof(be));
	*ret_type = key.data[0];
	*ret_number = be64toh(be);
	return 0;
}

int key_unpack_type(struct key key, uint8_t type, uint64_t *ret_number)
{
	uint64_t number;
	uint8_t is;

	if (key_unpack(key, &is, &number) || is != type)
		return -EUCLEAN;
	*ret_number = number;
	return 0;
}

uint64_t key_number(const struct key *key, uint64_t none)
{
	uint64_t number;
	uint8_t type;

	return key && key_unpack(*key, &type, &number) == 0 ? number : none;
}
