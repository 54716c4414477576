/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/device/device.c: what the device implementations share.
 *
 * Locking a pool
 * 1. The truth is one OFD lock on [0, LOCK_PID_BYTE): exclusive for a writer, shared for a reader. It belongs
 *    to the open file, so it survives whatever else this process opens and closes, and ends with the last
 *    reference to it.
 * 2. OFD locks have no pid. So the holder also has a classic lock on LOCK_PID_BYTE, which only tells its pid.
 *    Losing it (this process closed the file elsewhere) costs the pid in a message and nothing else.
 * 3. When a process is killed, its classic locks go at once, but io_uring may keep the open file for a
 *    moment. So an OFD lock without a classic one is waited for, LOCK_WAIT_MS at most.
 * 4. A block device is opened with O_EXCL by a writer: mounts and other device nodes of the same disk exclude
 *    each other.
 * 5. Of a loop device the file behind it is locked as well, so that the file and the device exclude each
 *    other.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/util.h"
#include "fs/core/fault.h"
#include "fs/device/device_int.h"
#include "fs/device/device.h"

#define LOCK_PID_BYTE ((off_t)1 << 62)
#define LOCK_WAIT_MS 1000
#define LOCK_STEP_MS 5
#define IOV_COUNT_MAX 1024
#define ZERO_CHUNK (1u << 20)
#define ALLOCATE_PIECE (16ull << 20)
#define FIEMAP_EXTENTS 64u

/* ---- requests -------------------------------------------------------------------- */

struct sync_io {
	struct device_io io;
	bool done;
};

static void sync_done(struct device_io *io)
{
	container_of(io, struct sync_io, io)->done = true;
}

int device_sync(struct device_queue *q, enum device_op op, uint64_t off, void *buf, uint64_t len)
{
	struct sync_io sync = {.io = {.op = op, .off = off, .len = len, .buf = buf, .done = sync_done}};

	q->dev->ops->submit(q, &sync.io);
	q->dev->ops->kick(q);
	while (!sync.done)
		q->dev->ops->wait(q);
	return sync.io.error;
}

int device_flush_result(const struct device *dev, int error)
{
	return error == 0 && device_flush_failed(dev) && !FAULT(FAULT_FLUSH_ERROR) ? -EIO : error;
}

int device_flush(struct device_queue *q)
{
	return device_flush_result(q->dev, device_sync(q, DEVICE_FLUSH, 0, NULL, 0));
}

int device_check(const struct device *dev, const struct device_io *io)
{
	uint64_t size = device_size(dev);

	if (io->op == DEVICE_FLUSH)
		return 0;
	if (io->op != DEVICE_READ && !dev->writable)
		return -EROFS;
	if ((io->off | io->len) % DEVICE_ALIGN || io->off > size || io->len > size - io->off)
		return -EINVAL;
	if (io->op != DEVICE_DISCARD && (io->iovcnt < 0 || io->iovcnt > IOV_COUNT_MAX))
		return -EINVAL;
	return 0;
}

struct iovec *device_iov_rest(struct device_io *io, int *ret_cnt)
{
	int i = 0;

	while (i < io->iovcnt - 1 && io->iov[i].iov_len == 0)
		i++;
	*ret_cnt = io->iovcnt - i;
	return io->iov + i;
}

void device_iov_advance(struct device_io *io, uint64_t n)
{
	for (int i = 0; n && i < io->iovcnt; i++) {
		uint64_t take = min_u64(n, io->iov[i].iov_len);

		io->iov[i].iov_base = (char *)io->iov[i].iov_base + take;
		io->iov[i].iov_len -= take;
		n -= take;
	}
}

struct device_io *flush_batch_start(struct flush_batch *batch)
{
	if (batch->leader)
		return NULL;
	batch->leader = io_list_pop(&batch->waiting);
	io_list_splice(&batch->followers, &batch->waiting);
	return batch->leader;
}

struct io_list flush_batch_end(struct flush_batch *batch, struct device *dev, int error)
{
	struct io_list all = {0};

	io_list_append(&all, batch->leader);
	io_list_splice(&all, &batch->followers);
	batch->leader = NULL;
	for (struct device_io *io = all.head; io; io = io->next)
		io->error = error;
	if (error)
		device_set_flush_failed(dev);
	else
		__atomic_fetch_add(&dev->flushes, 1, __ATOMIC_RELAXED);
	return all;
}

/* ---- locks ------------------------------------------------------------------------- */

static int lock_range(int fd, int cmd, short type, off_t start, off_t len)
{
	struct flock fl = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};

	return fcntl(fd, cmd, &fl) ? -errno : 0;
}

/* Tells who we are. Failing costs only the pid in someone's message. */
static void lock_show_pid(int fd, bool writable)
{
	lock_range(fd, F_SETLK, writable ? F_WRLCK : F_RDLCK, LOCK_PID_BYTE, 1);
}

/* Whether a holder shows itself, and its pid: 0 when it is in a pid namespace that we do not see. */
static bool lock_holder(int fd, int *ret_pid)
{
	/* Asked as an OFD lock, so that a holder in this very process is found too. */
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LOCK_PID_BYTE, .l_len = 1};

	if (fcntl(fd, F_OFD_GETLK, &fl) || fl.l_type == F_UNLCK)
		return false;
	*ret_pid = fl.l_pid > 0 ? fl.l_pid : 0;
	return true;
}

/* Opens and locks once. -EBUSY: *ret_shown says whether the holder showed itself, as *ret_pid. */
static int open_locked_once(const char *path, int flags, bool writable, int *ret_fd, bool *ret_shown,
			    int *ret_pid)
{
	int fd = open(path, flags);
	int err = fd < 0 ? -errno
			 : lock_range(fd, F_OFD_SETLK, writable ? F_WRLCK : F_RDLCK, 0, LOCK_PID_BYTE);

	if (!err) {
		lock_show_pid(fd, writable);
		*ret_fd = fd;
		return 0;
	}
	if (fd < 0 && err == -EBUSY)
		fd = open(path, O_RDONLY | O_CLOEXEC);
	if (err == -EAGAIN || err == -EACCES)
		err = fd < 0 ? err : -EBUSY;
	if (err == -EBUSY)
		*ret_shown = fd >= 0 && lock_holder(fd, ret_pid);
	if (fd >= 0)
		close(fd);
	return err;
}

static int open_locked(const char *path, int flags, bool writable, int *ret_fd, int *ret_holder)
{
	const struct timespec step = {.tv_nsec = LOCK_STEP_MS * 1000000L};
	bool shown = false;
	int pid = 0, err;

	for (int waited = 0;; waited += LOCK_STEP_MS) {
		err = open_locked_once(path, flags, writable, ret_fd, &shown, &pid);
		if (err != -EBUSY || shown || waited >= LOCK_WAIT_MS)
			break;
		nanosleep(&step, NULL);
	}
	if (err == -EBUSY && ret_holder)
		*ret_holder = shown ? pid : 0;
	return err;
}

/* ---- probing ------------------------------------------------------------------------ */

static int measure(int fd, bool *ret_block, uint64_t *ret_size)
{
	struct stat st;
	uint64_t size;
	int sector;

	if (fstat(fd, &st))
		return -errno;
	if (S_ISREG(st.st_mode)) {
		size = (uint64_t)st.st_size;
	} else if (S_ISBLK(st.st_mode)) {
		if (ioctl(fd, BLKGETSIZE64, &size) || ioctl(fd, BLKSSZGET, &sector))
			return -errno;
		if ((unsigned)sector > DEVICE_ALIGN)
			return -EOPNOTSUPP;
	} else {
		return -EINVAL;
	}
	*ret_block = S_ISBLK(st.st_mode);
	*ret_size = round_down_u64(size, DEVICE_ALIGN);
	return 0;
}

/* Some file systems take O_DIRECT at open and refuse it at the first read. */
static int probe_direct(int fd, bool *ret_direct)
{
	int flags = fcntl(fd, F_GETFL);
	void *buf;

	if (flags < 0)
		return -errno;
	if (!(flags & O_DIRECT)) {
		*ret_direct = false;
		return 0;
	}
	buf = mem_alloc_aligned(DEVICE_ALIGN, DEVICE_ALIGN);
	if (!buf)
		return -ENOMEM;
	*ret_direct = pread(fd, buf, DEVICE_ALIGN, 0) >= 0 || errno != EINVAL;
	mem_free(buf);
	if (!*ret_direct && fcntl(fd, F_SETFL, flags & ~O_DIRECT))
		return -errno;
	return 0;
}

static unsigned long long sysfs_number(dev_t rdev, const char *name)
{
	char path[128];
	unsigned long long val = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s", major(rdev), minor(rdev), name);
	f = fopen(path, "re");
	if (!f)
		return 0;
	if (fscanf(f, "%llu", &val) != 1)
		val = 0;
	fclose(f);
	return val;
}

/* Of a disk, or of the one that this is a partition of. */
static void probe_discard_unit(struct device_file *file)
{
	struct stat st;
	uint64_t unit, shift;

	if (!file->dev.block_device || fstat(file->fd, &st))
		return;
	unit = sysfs_number(st.st_rdev, "queue/discard_granularity");
	if (!unit)
		unit = sysfs_number(st.st_rdev, "../queue/discard_granularity");
	shift = sysfs_number(st.st_rdev, "discard_alignment");
	if (unit % DEVICE_ALIGN || shift % DEVICE_ALIGN || shift >= unit) /* nothing that we could keep to */
		return;
	file->dev.discard_unit = unit;
	file->dev.discard_shift = shift;
}

static bool probe_discard(int fd, bool block)
{
	struct stat st;

	if (fstat(fd, &st))
		return false;
	if (block)
		return sysfs_number(st.st_rdev, "queue/discard_max_bytes") ||
		       sysfs_number(st.st_rdev, "../queue/discard_max_bytes");
	/* Behind the end there is nothing to lose. */
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 (off_t)round_up_u64((uint64_t)st.st_size, DEVICE_ALIGN), DEVICE_ALIGN) == 0;
}

/*
 * Whether the file has holes; and whether a write into one may say that it succeeded and fail when it is
 * flushed. With O_DIRECT blocks are found when a write is carried out, and in tmpfs there is nothing to
 * flush.
 */
static void probe_holes(struct device_file *file)
{
	struct statfs sfs;
	struct stat st;

	if (file->dev.block_device || fstat(file->fd, &st))
		return;
	file->dev.sparse = (uint64_t)st.st_blocks * 512 < file->dev.size;
	file->dev.writes_late = file->dev.sparse && !file->dev.direct &&
				(fstatfs(file->fd, &sfs) || sfs.f_type != TMPFS_MAGIC);
}

static int probe(struct device_file *file)
{
	int err = measure(file->fd, &file->dev.block_device, &file->dev.size);

	if (!err)
		err = probe_direct(file->fd, &file->dev.direct);
	if (!err)
		probe_holes(file);
	if (!err)
		file->dev.discard = file->dev.writable && probe_discard(file->fd, file->dev.block_device);
	if (!err)
		probe_discard_unit(file);
	return err;
}

/* ---- block devices --------------------------------------------------------------------- */

/* Where the kernel refuses to open it for writing because of that. */
static bool is_read_only_device(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY), ro = 0;
	bool is = fd >= 0 && ioctl(fd, BLKROGET, &ro) == 0 && ro;

	if (fd >= 0)
		close(fd);
	return is;
}

/*
 * The file behind a loop device, or behind the one that this is a partition of. False: it is neither, or the
 * file cannot be found.
 */
static bool file_behind(int fd, char *ret_path, size_t size)
{
	static const char *const names[] = {"loop/backing_file", "../loop/backing_file"};
	struct stat st;
	bool found = false;

	if (fstat(fd, &st))
		return false;
	for (unsigned i = 0; !found && i < ARRAY_SIZE(names); i++) {
		char path[128];
		FILE *f;

		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s", major(st.st_rdev), minor(st.st_rdev),
			 names[i]);
		f = fopen(path, "re");
		found = f && fgets(ret_path, (int)size, f);
		if (f)
			fclose(f);
	}
	if (found)
		ret_path[strcspn(ret_path, "\n")] = 0;
	return found;
}

/* Locks the file behind a loop device as the pool itself would be. What cannot be opened is left alone. */
static int lock_behind(struct device_file *file, int *ret_holder)
{
	char path[PATH_MAX];
	struct stat st;
	bool writable = file->dev.writable;
	int err;

	if (!file_behind(file->fd, path, sizeof(path)) || stat(path, &st) || !S_ISREG(st.st_mode))
		return 0;
	err = open_locked(path, O_CLOEXEC | O_NOCTTY | (writable ? O_RDWR : O_RDONLY), writable,
			  &file->behind_fd, ret_holder);
	return err == -EBUSY ? err : 0;
}

static int check_device(struct device_file *file, int *ret_holder)
{
	int ro = 0;

	if (file->dev.writable && ioctl(file->fd, BLKROGET, &ro) == 0 && ro)
		return -EROFS;
	return lock_behind(file, ret_holder);
}

/* ---- open, grow, discard --------------------------------------------------------------- */

int device_file_open(struct device_file *file, const char *path, bool writable, int *ret_holder)
{
	int flags = O_CLOEXEC | O_NOCTTY | (writable ? O_RDWR : O_RDONLY);
	struct stat st;
	int err;

	/* Looked at first: opening a FIFO would wait. */
	if (stat(path, &st))
		return -errno;
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return -EINVAL;
	if (S_ISBLK(st.st_mode) && writable)
		flags |= O_EXCL;
	*file = (struct device_file){.fd = -1, .behind_fd = -1, .dev = {.writable = writable}};
	err = open_locked(path, flags | O_DIRECT, writable, &file->fd, ret_holder);
	if (err == -EINVAL)
		err = open_locked(path, flags, writable, &file->fd, ret_holder);
	if (err == -EACCES && S_ISBLK(st.st_mode) && is_read_only_device(path))
		err = -EROFS;
	if (err)
		return err;
	if (S_ISBLK(st.st_mode))
		err = check_device(file, ret_holder);
	if (!err)
		err = probe(file);
	if (err)
		device_file_close(file);
	return err;
}

void device_file_close(struct device_file *file)
{
	/* Said aloud, because a ring that is being torn down may hold the file for longer than close. */
	lock_range(file->fd, F_OFD_SETLK, F_UNLCK, 0, LOCK_PID_BYTE);
	close(file->fd);
	if (file->behind_fd >= 0)
		close(file->behind_fd);
	file->fd = file->behind_fd = -1;
}

int device_file_queue_fd(struct device_file *file)
{
	char path[64];
	int fd;

	if (file->dev.direct)
		return file->fd;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file->fd);
	fd = open(path, O_CLOEXEC | O_NOCTTY | (file->dev.writable ? O_RDWR : O_RDONLY));
	return fd < 0 ? -errno : fd;
}

void device_file_queue_fd_close(struct device_file *file, int fd)
{
	if (fd == file->fd || fd < 0)
		return;
	close(fd);
	lock_show_pid(file->fd, file->dev.writable); /* close has dropped it */
}

/* For host file systems without fallocate. */
static int write_zeros(int fd, uint64_t off, uint64_t end)
{
	void *buf = mem_alloc_aligned(DEVICE_ALIGN, ZERO_CHUNK);
	int err = buf ? 0 : -ENOMEM;

	if (buf)
		memset(buf, 0, ZERO_CHUNK);
	while (!err && off < end) {
		ssize_t n = pwrite(fd, buf, min_u64(ZERO_CHUNK, end - off), (off_t)off);

		if (n > 0)
			off += (uint64_t)n;
		else if (n == 0 || errno != EINTR)
			err = n == 0 ? -EIO : -errno;
	}
	mem_free(buf);
	return err;
}

static int preallocate_range(int fd, uint64_t off, uint64_t end)
{
	int err;

	do
		err = fallocate(fd, 0, (off_t)off, (off_t)(end - off)) ? -errno : 0;
	while (err == -EINTR);
	return err == -EOPNOTSUPP ? write_zeros(fd, off, end) : err;
}

int device_host_error(int err)
{
	return err == -EDQUOT ? -ENOSPC : err;
}

/*
 * Whether the range has blocks already, all of it. XFS asks for room before it looks, and then says that it
 * is full.
 */
static bool has_blocks(int fd, uint64_t off, uint64_t end)
{
	struct {
		struct fiemap map;
		struct fiemap_extent extent[FIEMAP_EXTENTS];
	} fm;

	while (off < end) {
		uint64_t from = off;

		memset(&fm.map, 0, sizeof(fm.map));
		fm.map.fm_start = off;
		fm.map.fm_length = end - off;
		fm.map.fm_extent_count = FIEMAP_EXTENTS;
		if (ioctl(fd, FS_IOC_FIEMAP, &fm))
			return false;
		for (uint32_t i = 0; i < fm.map.fm_mapped_extents; i++) {
			const struct fiemap_extent *fe = &fm.extent[i];

			if (fe->fe_logical > off ||
			    fe->fe_flags & (FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC))
				return false;
			off = max_u64(off, fe->fe_logical + fe->fe_length);
		}
		if (off == from)
			return false;
	}
	return true;
}

static int allocate_piece(struct device_file *file, uint64_t off, uint64_t len, bool fresh)
{
	int err;

	do
		err = fallocate(file->fd, FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len) ? -errno : 0;
	while (err == -EINTR);
	if (err == -EOPNOTSUPP || err == -ENOSYS)
		err = fresh ? write_zeros(file->fd, off, off + len) : 0;
	err = device_host_error(err);
	return err == -ENOSPC && has_blocks(file->fd, off, off + len) ? 0 : err;
}

int device_file_allocate(struct device_file *file, uint64_t off, uint64_t len, bool fresh)
{
	int err = 0;

	if (file->dev.block_device)
		return 0;
	if (!file->dev.writable)
		return -EROFS;
	/* writers wait for the file meanwhile */
	for (uint64_t end = off + len, n; err == 0 && off < end; off += n) {
		n = min_u64(end - off, ALLOCATE_PIECE);
		err = allocate_piece(file, off, n, fresh);
	}
	return err;
}

/* The file has `have` bytes (or a few more), of which the device uses `old`. */
static int extend(int fd, uint64_t old, uint64_t have, uint64_t size, bool preallocate)
{
	int err = 0;

	if (size > have && ftruncate(fd, (off_t)size))
		return -errno;
	if (preallocate)
		err = preallocate_range(fd, old, size);
	if (!err && fsync(fd))
		err = -errno;
	/* The first error is the one to tell. */
	if (err && size > have && ftruncate(fd, (off_t)have))
		return err;
	return err;
}

int device_file_grow(struct device_file *file, uint64_t size, bool preallocate)
{
	uint64_t old, have = 0;
	bool block = false;
	int err = measure(file->fd, &block, &have);

	if (err)
		return err;
	old = device_size(&file->dev);
	if (size == 0) {
		size = round_down_u64(have, DEVICE_ALIGN);
		if (size <= old)
			return -EALREADY;
	}
	if (size % DEVICE_ALIGN || size < old || size > INT64_MAX)
		return -EINVAL;
	if (!file->dev.writable)
		return -EROFS;
	if (block) {
		if (size > have)
			return -ENOSPC;
	} else if (size > old) {
		err = extend(file->fd, old, have, size, preallocate);
		if (err)
			return err;
	}
	__atomic_store_n(&file->dev.size, size, __ATOMIC_RELAXED);
	return 0;
}

int device_discard_result(struct device *dev, int error)
{
	if (error != -EOPNOTSUPP && error != -ENOSYS)
		return error;
	__atomic_store_n(&dev->discard, false, __ATOMIC_RELAXED);
	return 0;
}

int device_file_discard(struct device_file *file, uint64_t off, uint64_t len)
{
	uint64_t range[2] = {off, len};
	int err;

	do {
		if (file->dev.block_device)
			err = ioctl(file->fd, BLKDISCARD, range) ? -errno : 0;
		else
			err = fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off,
					(off_t)len)
				      ? -errno
				      : 0;
	} while (err == -EINTR || err == -EAGAIN);
	return device_discard_result(&file->dev, err);
}
