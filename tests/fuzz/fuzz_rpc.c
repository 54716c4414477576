/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fuzz/fuzz_rpc.c: the RPC frame parser, and the unpacking of every message that a peer may send. The
 * first byte says how the rest is cut into pieces; the same frames must come out as when it is fed at once.
 */
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/util.h"
#include "proto/byre.pb-c.h"
#include "proto/rpc_fields.h"
#include "proto/rpc_frame.h"
#include "proto/rpc_status.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const ProtobufCMessageDescriptor *const messages[] = {
	&byre__error__descriptor,
	&byre__empty__descriptor,
	&byre__hello_request__descriptor,
	&byre__hello_reply__descriptor,
	&byre__pool_info_reply__descriptor,
	&byre__pool_grow_request__descriptor,
	&byre__stats_reply__descriptor,
	&byre__commit_reply__descriptor,
	&byre__volume_create_request__descriptor,
	&byre__volume_list_request__descriptor,
	&byre__volume_list_reply__descriptor,
	&byre__volume_info_request__descriptor,
	&byre__volume_info_reply__descriptor,
	&byre__volume_resize_request__descriptor,
	&byre__volume_rename_request__descriptor,
	&byre__volume_delete_request__descriptor,
	&byre__volume_set_request__descriptor,
	&byre__volume_figures_request__descriptor,
	&byre__volume_figures_reply__descriptor,
	&byre__client_list_request__descriptor,
	&byre__client_list_reply__descriptor,
	&byre__client_drop_request__descriptor,
};

/*
 * What unpacks can be packed, in the bytes reckoned for it. (protobuf-c keeps unknown fields, some of which
 * it would not take back.)
 */
static void unpack(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t len)
{
	ProtobufCMessage *msg = protobuf_c_message_unpack(type, NULL, len, data);
	uint8_t *packed;
	size_t n;

	if (!msg)
		return;
	ASSERT(rpc_fields_count(data, len, UINT_MAX / 2) >= 0); /* what can be unpacked can be counted */
	n = protobuf_c_message_get_packed_size(msg);
	packed = malloc(n + 1);
	ASSERT(packed && protobuf_c_message_pack(msg, packed) == n);
	protobuf_c_message_free_unpacked(msg, NULL);
	free(packed);
}

/* A sum over what one frame says. */
static uint64_t use_frame(const struct rpc_frame *f)
{
	uint64_t sum = f->id + f->kind * 3 + f->flags * 5 + f->method * 7 + f->status * 11 + f->credit * 13;
	struct rpc_header h;
	struct rpc_frame back;

	ASSERT(f->message_len <= RPC_MESSAGE_MAX && f->bulk_len <= RPC_BULK_MAX);
	rpc_frame_encode(f, &h);
	ASSERT(rpc_frame_decode(&h, &back, NULL) == 0);
	ASSERT(back.id == f->id && back.message_len == f->message_len && back.bulk_len == f->bulk_len);
	ASSERT(rpc_status_to_errno(f->status) <= 0);

	for (uint32_t i = 0; i < f->message_len; i++)
		sum = sum * 31 + f->message[i];
	for (uint32_t i = 0; i < f->bulk_len; i++)
		sum = sum * 31 + f->bulk[i];
	for (size_t i = 0; i < ARRAY_SIZE(messages); i++)
		unpack(messages[i], f->message, f->message_len);
	return sum;
}

/* Feeds everything in pieces of at most `piece`. */
static uint64_t parse(const uint8_t *data, size_t size, size_t piece, unsigned *ret_frames)
{
	struct rpc_parser p;
	uint64_t sum = 0;
	size_t at = 0;

	*ret_frames = 0;
	rpc_parser_init(&p);
	while (at < size) {
		size_t used, len = min_u64(piece, size - at);
		struct rpc_frame f;
		int r;

		ASSERT(rpc_parser_wants(&p) > 0);
		r = rpc_parser_feed(&p, data + at, len, &used, &f);
		if (r < 0) {
			ASSERT(p.why && rpc_parser_feed(&p, data, 1, &used, &f) == r);
			break;
		}
		ASSERT(used <= len && (r || used == len));
		at += used;
		if (!r)
			continue;
		sum = sum * 33 + use_frame(&f);
		if (++*ret_frames % 3 == 0)
			mem_free(rpc_parser_take(&p));
	}
	rpc_parser_fini(&p);
	return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned frames, frames_cut;
	uint64_t sum;

	if (!size)
		return 0;
	sum = parse(data + 1, size - 1, size, &frames);
	ASSERT(parse(data + 1, size - 1, 1u + data[0], &frames_cut) == sum);
	ASSERT(frames == frames_cut);
	for (size_t i = 0; i < ARRAY_SIZE(messages); i++)
		unpack(messages[i], data + 1, size - 1);
	return 0;
}
