/* SPDX-License-Identifier: BSD-3-Clause */
/* server/limits.h: every bound on what clients can make the daemon hold, in one place. */
#ifndef SERVER_LIMITS_H
#define SERVER_LIMITS_H

#include "fs/fs.h"

/* ---- the daemon ---- */
#define SERVER_FDS_KEPT 16 /* descriptors that connections never take; see conn_limits_init */
#define SERVER_FDS_MIN 4   /* one connection of each kind, and a newcomer before another gives way */
#define SERVER_THREADS_MAX 256
#define SERVER_LISTENERS_MAX 16	   /* of each kind: --nbd, --rpc */
#define SERVER_FORCE_MS 3000	   /* what is under way may take after a second SIGTERM */
#define SERVER_PLACE_MS 1	   /* while somebody gives way to a newcomer */
#define SERVER_ACCEPT_PAUSE_MS 200 /* after accept failed for lack of descriptors or memory */

/*
 * The budget of memory (--memory, server/budget.h). Parts of it are set aside: for connections, for the
 * requests themselves (ours and the engine's), for receive buffers, for spare data buffers; and a reserve for
 * one request of the largest size.
 */
#define SERVER_MEMORY_DEFAULT (256u << 20)
#define SERVER_MEMORY_MIN (64u << 20)
#define SERVER_MEMORY_REQUESTS 8 /* one part in so many */
#define SERVER_MEMORY_CONNECTIONS 8
#define SERVER_MEMORY_RX 16
#define SERVER_MEMORY_SPARE 16

/* ---- connections ---- */
/* more are closed as soon as they are accepted, unless another gives way */
#define NBD_CONNECTIONS_MAX 4096u
#define NBD_HANDSHAKE_TIMEOUT_S 30 /* from accept to the end of option haggling */
#define NBD_LINGER_TIMEOUT_S 10	   /* how long a client that is being disconnected may take no replies */
#define NBD_LAST_MS 1000	   /* how long one that has got all of them may leave the connection open */

/*
 * What a connection is charged with: in its handshake, and after it. And for each request: ours and the
 * engine's.
 */
#define NBD_HANDSHAKE_COST (12u << 10)
#define NBD_SESSION_COST (2u << 10)
#define NBD_REQUEST_COST 1792u
#define NBD_HANDSHAKE_OUT_FREE 4096u /* output of a handshake that is a part of its cost, */
#define NBD_HANDSHAKE_IN_FREE 2048u  /* and input */

/* ---- clients that stall (server/stall.h) ---- */
#define STALL_RATE_MIN 8192u   /* bytes a second of a client that owes something, over the stall time */
#define STALL_SWEEPS 16u       /* looks in a stall time, */
#define STALL_SWEEP_MIN_MS 50u /* not more often than this */
#define STALL_SHORT_FACTOR 10  /* while memory is short, a stall is shorter by this factor */

/* ---- RPC (more in rpc_int.h) ---- */
#define RPC_CONNECTIONS_MAX 256u
#define RPC_SHARE 4 /* it takes at most one part in this many of the first loop's time: server/share.h */

/* ---- HTTP ---- */
#define HTTP_CONNECTIONS_MAX 64u
#define HTTP_SHARE 8
#define HTTP_HEAD_MAX 8192
#define HTTP_TIMEOUT_S 10 /* from accept to the end of the answer */
#define HTTP_LAST_MS 1000 /* how long the client may leave the connection open after that */

/* ---- waiting for room ---- */
#define NBD_WAKE_MAX 8u	  /* waiting connections that are tried again each time something becomes free, */
#define NBD_RETRY_MS 250u /* and all of them this often */

/* ---- handshake ---- */
#define NBD_OPTION_MAX (16u << 10)     /* payload of an option that is read */
#define NBD_OPTION_SKIP_MAX (1u << 20) /* longer payloads end the connection instead of being skipped */
#define NBD_LIST_BYTES_MAX (16u << 20) /* of the answer to LIST */
#define NBD_REFUSAL_MAX 160	       /* of a line for the log */
#define NBD_QUERIES_MAX 64	       /* of one LIST_META_CONTEXT or SET_META_CONTEXT */

/* ---- transmission ---- */
#define NBD_IO_MAX FS_IO_MAX /* data of one READ or WRITE */
#define NBD_BLOCK_PREFERRED 4096u
#define NBD_REQUESTS_MAX 128u	/* under way on one connection */
#define NBD_REQUESTS_RESUME 96u /* input goes on when no more than this many are left */
/* data under way on one connection; one with none may start any request */
#define NBD_CONN_BYTES_MAX (64u << 20)
/* memory for a larger write is taken in steps of this size, as its data comes in */
#define NBD_GRANT_STEP (1u << 20)
#define NBD_PIECE (512u << 10) /* zeros that keep their space, and CACHE, go in pieces of this many bytes, */
#define NBD_PIECE_DIRECT_MAX (256u << 10) /* unless they have no more than this many; */
#define NBD_PIECES_MAX 2u		  /* this many pieces at once on a loop, one of a connection */
#define NBD_PIECE_SHARE 4		  /* of a loop's time (server/share.h), */
#define NBD_PIECE_FACTOR 3		  /* a piece takes this many times what its start took, */
#define NBD_PIECE_MIN_US 128u		  /* and at least this much */
#define NBD_EXTENTS_MAX 2048u		  /* in one answer to BLOCK_STATUS */
#define NBD_PIECES_WALKED_MAX (64u << 10) /* pieces of the map that one BLOCK_STATUS looks at */
#define NBD_ERROR_TEXT_MAX 256		  /* of the text in an error, with its final zero */
#define NBD_TX_IOV 256			  /* pieces of one send; at most IOV_MAX */

/* ---- buffers ---- */
#define NBD_RX_BYTES (256u << 10)    /* one receive buffer */
#define NBD_RX_SPACE_MIN (64u << 10) /* offered to one receive at least */
/* one receive takes no more than its connection may hold, or this much */
#define NBD_RX_FAIR_MIN (4u << 10)
/* buffers from this size on come from the kernel, and go back to it */
#define BUF_POOL_LARGE (128u << 10)
#define BUF_POOL_TRIM (32u << 20) /* after this much was freed, malloc is asked to give back what it keeps */

#endif
