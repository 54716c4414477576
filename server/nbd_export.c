/* SPDX-License-Identifier: BSD-3-Clause */
#include "server/nbd_export.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "proto/nbd-protocol.h"

static int refuse(struct fs_error *err, const char *name, size_t len)
{
	if (!len)
		snprintf(err->msg, sizeof(err->msg),
			 "there is no default export; name a volume, or set default-export for byred");
	else
		snprintf(err->msg, sizeof(err->msg), "there is no volume '%.*s'", (int)len, name);
	return -ENOENT;
}

static bool is_read_only(struct fs *fs, struct fs_volume *vol)
{
	struct fs_volume_info vi;
	struct fs_info info;

	fs_volume_get_info(vol, &vi);
	fs_get_info(fs, &info);
	return (vi.flags & FS_VOLUME_READ_ONLY) || info.read_only;
}

static int refuse_default(struct fs_error *err, const char *name)
{
	snprintf(err->msg, sizeof(err->msg), "the default export is the volume '%s', which does not exist",
		 name);
	return -ENOENT;
}

int nbd_export_open(const struct nbd_exports *exports, const char *name, size_t len,
		    struct nbd_export *ret_export, struct fs_error *err)
{
	bool by_default = !len && exports->default_name;
	struct fs *fs = exports->fs;
	char text[FS_NAME_MAX + 1];
	struct fs_volume *vol;
	int r;

	if (by_default) {
		name = exports->default_name;
		len = strlen(name);
	}
	if (!len || len > FS_NAME_MAX || memchr(name, 0, len))
		return refuse(err, name, len > FS_NAME_MAX ? FS_NAME_MAX : len);
	memcpy(text, name, len);
	text[len] = 0;
	if (!fs_name_is_valid(text))
		return refuse(err, name, len);
	r = fs_volume_get(fs, text, &vol);
	if (r == -ENOENT)
		return by_default ? refuse_default(err, text) : refuse(err, name, len);
	if (r < 0) {
		snprintf(err->msg, sizeof(err->msg), "cannot open the volume '%s': %s", text, strerror(-r));
		return r;
	}
	*ret_export = (struct nbd_export){.vol = vol, .read_only = is_read_only(fs, vol)};
	return 0;
}

void nbd_export_close(struct nbd_export *export)
{
	if (export->vol)
		fs_volume_put(export->vol);
	export->vol = NULL;
}

struct list_walk {
	int (*fn)(void *arg, const char *name, const char *description);
	void *arg;
};

static int list_one(void *arg, const struct fs_volume_info *info)
{
	struct list_walk *walk = arg;

	return walk->fn(walk->arg, info->name, info->comment);
}

int nbd_export_list(struct fs *fs, int (*fn)(void *arg, const char *name, const char *description), void *arg)
{
	return fs_volume_list(fs, list_one, &(struct list_walk){fn, arg});
}

uint16_t nbd_export_flags(const struct nbd_export *export, unsigned dialect)
{
	uint16_t flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM |
			 NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO | NBD_FLAG_CAN_MULTI_CONN |
			 NBD_FLAG_SEND_CACHE;

	if (export->read_only)
		flags |= NBD_FLAG_READ_ONLY;
	if (dialect & NBD_CHUNKED)
		flags |= NBD_FLAG_SEND_DF;
	if ((dialect & NBD_EXTENDED) && (dialect & NBD_CONTEXT))
		flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;
	return flags;
}

uint32_t nbd_error(int error)
{
	switch (-error) {
	case 0: return 0;
	case EPERM:
	case EACCES:
	case EROFS: return NBD_EPERM;
	case ENOMEM: return NBD_ENOMEM;
	case EINVAL:
	case ENOENT: /* the volume was deleted under the client */ return NBD_EINVAL;
	case ENOSPC:
	case EDQUOT:
	case EFBIG: return NBD_ENOSPC;
	case EOVERFLOW: return NBD_EOVERFLOW;
	case EOPNOTSUPP: return NBD_ENOTSUP;
	case ESHUTDOWN: return NBD_ESHUTDOWN;
	default: return NBD_EIO;
	}
}
