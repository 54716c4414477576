/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/format/key.h: keys and values of tree nodes, and the one form that keys have: a byte that tells the
 * item's type, and a number, most significant byte first, so that memcmp sorts by type and then by number.
 */
#ifndef FS_FORMAT_KEY_H
#define FS_FORMAT_KEY_H

#include <stdbool.h>
#include <stdint.h>

#define ITEM_KEY_LEN 9u

struct key {
	const uint8_t *data;
	uint16_t len;
};

struct value {
	const void *data;
	uint16_t len;
};

/* memcmp order; a prefix sorts before what it begins. */
int key_cmp(struct key a, struct key b);

void key_pack(uint8_t key[ITEM_KEY_LEN], uint8_t type, uint64_t number);
/* -EUCLEAN: the key does not have that form. */
int key_unpack(struct key key, uint8_t *ret_type, uint64_t *ret_number);
/* The number of a key of this type. -EUCLEAN: it is of another. */
int key_unpack_type(struct key key, uint8_t type, uint64_t *ret_number);
/* The number in a key of any type; `none` where there is no key, or none of that form. */
uint64_t key_number(const struct key *key, uint64_t none);

#endif
