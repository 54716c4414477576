/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tests/crash/sim/model.h: what the volumes may hold, without any of the engine's code.
 *
 * For each block the model keeps its *versions*: every content that it may have had at some moment since what
 * is known to be durable. Requests under way on different loops have no order among each other, so each of
 * them doubles what is possible, until it ends; what was possible only without it is then dead from that
 * moment on.
 *
 * The rules
 * 1. A read may return, for each block, a version that lived at some moment between its submission and its
 *    end.
 * 2. After a crash a block has a version that lived at or after its last durable moment: the submission of
 *    the last flush that ended without error, or the end of a FUA request on this block.
 * 3. A request that failed may have been done or not; what failed before is as if it stayed under way no
 *    longer.
 * 4. What a crash has left is durable.
 * 5. Changes of one block that were sent to one loop are made in the order in which they were sent.
 *
 * Blocks are compared by 64-bit hashes of their 4 KiB. Moments are counted in events of the model.
 */
#ifndef TESTS_CRASH_SIM_MODEL_H
#define TESTS_CRASH_SIM_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#define MODEL_BLOCK 4096u
#define MODEL_OPS_MAX 32    /* that change something, under way at a time */
#define MODEL_OVERLAP_MAX 3 /* of these, on one block */
#define MODEL_VOLUMES_MAX 6
#define MODEL_NAME_MAX 16

struct version;

struct model_block {
	struct version *v; /* none: zeros since ever */
	uint16_t count, room;
	uint16_t under_way;
	uint64_t durable_at; /* by FUA */
	uint64_t changed_at; /* when a request on it was last submitted or ended */
	uint64_t mixed_at;   /* when one was last submitted while another was under way */
	bool rotten;	     /* its data was damaged on the device: reads may fail */
};

struct model_volume {
	bool exists;
	char name[MODEL_NAME_MAX], comment[MODEL_NAME_MAX];
	uint32_t tag; /* in the data: never used twice */
	uint64_t blocks;
	bool reserved; /* its writes cannot fail for space */
	bool end_lost; /* the last node of its tree was, at some time; a commit may still have to find that */
	struct model_block *block;
};

enum model_op_kind { MODEL_READ, MODEL_WRITE, MODEL_ZERO, MODEL_FLUSH };

struct model_op {
	enum model_op_kind kind;
	struct model_volume *vol;
	uint64_t off, len;
	uint32_t number; /* WRITE: of its data */
	bool fua;
	unsigned loop; /* where it was sent */
	/* the model's: */
	uint64_t submitted_at;
	unsigned bit;
};

struct model {
	struct model_volume volume[MODEL_VOLUMES_MAX];
	uint64_t now, durable_at;
	uint32_t last_number, last_tag;
	struct model_op *op[MODEL_OPS_MAX];
	unsigned ops; /* in op */
};

struct model *model_new(void);
void model_free(struct model *m);

/* Volumes: contents are zeros. resize: blocks behind the new end are forgotten. */
struct model_volume *model_volume_add(struct model *m, const char *name, uint64_t blocks);
void model_volume_remove(struct model *m, struct model_volume *vol);
void model_volume_resize(struct model *m, struct model_volume *vol, uint64_t blocks);
struct model_volume *model_volume_find(struct model *m, const char *name);

/* Whether one more change may overlap what is under way there. */
bool model_may_submit(const struct model *m, const struct model_volume *vol, uint64_t off, uint64_t len);

/* The bytes of a WRITE. number is set here. */
void model_fill(struct model *m, struct model_op *op, void *buf);

/* The moments of a request. For a READ `data` is what came, if error is 0; a mismatch ends the program. */
void model_submit(struct model *m, struct model_op *op);
void model_end(struct model *m, struct model_op *op, int error, const void *data);

/* A commit that was asked for at that moment has succeeded: as a flush. */
static inline uint64_t model_now(struct model *m)
{
	return ++m->now;
}
void model_durable(struct model *m, uint64_t since);

/*
 * A crash: nothing is under way any more. Then every block of every volume is shown to the model, which ends
 * the program if this content is not allowed. Later blocks' versions start from it. `error`: the read failed
 * (allowed when rotten).
 */
void model_crash(struct model *m);
void model_recovered(struct model *m, struct model_volume *vol, uint64_t blk, const void *data);

/*
 * From now on the block may be lost: an error when it is read, until it is written as a whole. Nothing is
 * under way.
 */
void model_may_lose(struct model *m, struct model_volume *vol, uint64_t blk);
/* Whether some block of the range may have been lost at some moment since. */
bool model_may_be_lost(const struct model *m, const struct model_op *op);
/* As model_recovered, of a block that cannot be read. */
void model_recovered_lost(struct model *m, struct model_volume *vol, uint64_t blk);

/* True when the block certainly holds something but zeros. */
bool model_is_data(const struct model *m, const struct model_volume *vol, uint64_t blk);

#endif
