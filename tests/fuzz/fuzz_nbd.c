/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/fuzz/fuzz_nbd.c: the NBD handshake and transmission against the fake engine, without sockets.
 *
 * The first byte of the input says how: bit 0: the session is past its handshake (with structured replies if
 * bit 1 is set); bit 2: the engine finishes later; bit 3: the client reads a few bytes at a time only; bit 4:
 * it ends its side at the end instead of vanishing; bit 5: memory and places for requests are short; bit 6:
 * with bit 1, extended headers in place of structured replies. The rest is what the client sends, cut into
 * pieces whose lengths come from the data.
 */
#include "base/util.h"
#include "tests/lib/nbd_rig.h"

#define PIECE_MAX 61

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void shake_hands(struct rig *rig, bool chunked, bool extended)
{
	static struct bytes b;

	b.len = 0;
	add_u32(&b, 3);
	if (chunked) {
		add_option(&b, extended ? NBD_OPT_EXTENDED_HEADERS : NBD_OPT_STRUCTURED_REPLY, NULL, 0);
		add_meta(&b, NBD_OPT_SET_META_CONTEXT, "vm1", "base:allocation");
	}
	add_go(&b, NBD_OPT_GO, "vm1");
	rig_feed(rig, b.data, b.len, SIZE_MAX);
	ASSERT(rig->s->state == NBD_TRANSMIT);
}

static void send_all(struct rig *rig, const uint8_t *data, size_t size)
{
	size_t off = 0, stuck = 0;

	while (off < size && stuck < 2) {
		size_t piece = data[off] % 4 ? size - off : 1 + data[off] % PIECE_MAX;
		size_t n = rig_feed(rig, data + off, min_u64(piece, size - off), SIZE_MAX);

		off += n;
		stuck = n ? 0 : stuck + 1;
		if (!n || data[off - 1] % 8 == 0)
			rig_settle(rig);
		rig->out_len = 0;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct rig rig;

	if (size < 1)
		return 0;
	rig_init_with(&rig, data[0] & 32 ? 200 << 10 : 1 << 30);
	if (data[0] & 32)
		rig.env.requests_max = 10;
	rig.fs.volumes[0].data[5000] = 1;
	if (data[0] & 1)
		shake_hands(&rig, data[0] & 2, data[0] & 64);
	rig.fs.defer = data[0] & 4;
	rig.send_max = data[0] & 8 ? 7 : SIZE_MAX;
	send_all(&rig, data + 1, size - 1);
	if (data[0] & 16) {
		nbd_session_drain(rig.s, "test");
		rig_settle(&rig);
		ASSERT(nbd_session_is_over(rig.s));
	}
	rig_fini(&rig);
	return 0;
}
