#include "program/confine.h"

#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <linux/io_uring.h>
#include <linux/sockios.h>
#include <linux/sync_file.h>
#include <linux/udmabuf.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <virtgpu_drm.h>
#include <xf86drm.h>

#include "fdpass/timeline.h"
#include "program/records.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008u // linux/memfd.h since 6.3
#endif
#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76 // asm-generic/socket.h since 6.5
#endif

#define MIN_FDS  65536 // fewer would count what others have under way, too (ETOOMANYREFS)
#define MIN_FILE (UINT64_C(4) << 30)
#define SPACE    (UINT64_C(4) << 30) // beyond budgets
// What services pass, whom we trust, is mapped while it is copied.
#define SERVICE_SPACE (UINT64_C(32) << 30)

static const struct sandbox_rule session_rules[] = {
	// replicas: memory, pipes
	SANDBOX_IF("memfd_create",
		SANDBOX_ARG_ONLY(1, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL)),
	SANDBOX_ALLOW("ftruncate"),
	SANDBOX_ALLOW("ftruncate64"),
	SANDBOX_ALLOW("fstatfs"),
	SANDBOX_ALLOW("fstatfs64"),
	SANDBOX_ALLOW("lseek"),
	SANDBOX_ALLOW("_llseek"),
	SANDBOX_ALLOW("pipe2"),
	SANDBOX_ALLOW("readlink"), // what /proc/self/fd calls an fd
	SANDBOX_ALLOW("readlinkat"),
	SANDBOX_ALLOW("pread64"),
	SANDBOX_ALLOW("pwrite64"),
	SANDBOX_OWN("process_vm_writev"), // copies that may fail
	SANDBOX_ALLOW("timerfd_create"),
	SANDBOX_ALLOW("timerfd_settime"),
	SANDBOX_ALLOW("timerfd_settime64"),
	SANDBOX_IF("fcntl", SANDBOX_ARG(1, F_DUPFD_CLOEXEC)),
	SANDBOX_IF("fcntl", SANDBOX_ARG(1, F_GETFD)),
	SANDBOX_IF("fcntl", SANDBOX_ARG(1, F_SETFD)),
	SANDBOX_IF("fcntl", SANDBOX_ARG(1, F_GETFL)),
	SANDBOX_IF_BOTH("fcntl", SANDBOX_ARG(1, F_SETFL), SANDBOX_ARG_ONLY(2, O_NONBLOCK)),
	SANDBOX_IF("fcntl", SANDBOX_ARG(1, F_GET_SEALS)),
	SANDBOX_IF("fcntl", SANDBOX_ARG(1, F_ADD_SEALS)),
	SANDBOX_IF("fcntl", SANDBOX_ARG(1, F_SETPIPE_SZ)),
	SANDBOX_IF_BOTH("prlimit64", SANDBOX_ARG(0, 0), SANDBOX_ARG(1, RLIMIT_NOFILE)),
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, FIONREAD)), // and SIOCINQ
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, SIOCOUTQ)),
	{0},
};

static const struct sandbox_rule wayland_rules[] = {
	// pools by their pages: what qsort(3) asks for before it takes memory
	SANDBOX_ALLOW("sysinfo"),
	// dma-bufs
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, DMA_BUF_IOCTL_SYNC)),
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, UDMABUF_CREATE)),
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, DMA_HEAP_IOCTL_ALLOC)),
	// their timelines
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, DRM_IOCTL_SYNCOBJ_CREATE)),
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, DRM_IOCTL_SYNCOBJ_DESTROY)),
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD)),
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE)),
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, DRM_IOCTL_SYNCOBJ_QUERY)),
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT)),
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL)),
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, TIMELINE_IOCTL_EVENTFD)),
	{0},
};

static const struct sandbox_rule wayland_guest_rules[] = {
	// pages that are pinned (fdpass/pinner.h): nothing can be submitted to a ring
	SANDBOX_IF("io_uring_register", SANDBOX_ARG(1, IORING_REGISTER_BUFFERS_UPDATE)),
	// which resources of virtio-gpu dma-bufs are (fdpass/virtgpu.h)
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, DRM_IOCTL_PRIME_FD_TO_HANDLE)),
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, DRM_IOCTL_PRIME_HANDLE_TO_FD)),
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, DRM_IOCTL_GEM_CLOSE)),
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, DRM_IOCTL_VIRTGPU_RESOURCE_CREATE)),
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, DRM_IOCTL_VIRTGPU_RESOURCE_INFO)),
	{0},
};

static const struct sandbox_path wayland_paths[] = {
	{"/proc/self/fdinfo", false}, // dma-bufs: who has made one, whether it is still used
	{0},
};

static const struct sandbox_rule service_rules[] = {
	// whether memory is used: leases, whose signal is one that is ignored
	SANDBOX_IF_BOTH("fcntl", SANDBOX_ARG(1, F_SETSIG), SANDBOX_ARG(2, SIGURG)),
	SANDBOX_IF("fcntl", SANDBOX_ARG(1, F_SETLEASE)),
	// whether another session carries a socket: record locks
	SANDBOX_IF("fcntl", SANDBOX_ARG(1, F_SETLK)),
	// sockets as base/scm.h needs them
	SANDBOX_IF_BOTH("setsockopt", SANDBOX_ARG(1, SOL_SOCKET), SANDBOX_ARG(2, SO_PASSCRED)),
	SANDBOX_IF_BOTH("setsockopt", SANDBOX_ARG(1, SOL_SOCKET), SANDBOX_ARG(2, SO_PASSSEC)),
	SANDBOX_IF_BOTH("setsockopt", SANDBOX_ARG(1, SOL_SOCKET), SANDBOX_ARG(2, SO_PASSPIDFD)),
	SANDBOX_IF_BOTH("setsockopt", SANDBOX_ARG(1, SOL_SOCKET), SANDBOX_ARG(2, SO_TIMESTAMP)),
	SANDBOX_IF_BOTH("setsockopt", SANDBOX_ARG(1, SOL_SOCKET), SANDBOX_ARG(2, SO_PEEK_OFF)),
	// sync_files
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, SYNC_IOC_FILE_INFO)),
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, DRM_IOCTL_GET_CAP)),
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, DRM_IOCTL_SYNCOBJ_CREATE)),
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD)),
	// the process beside a session that opens files which are read on demand
	SANDBOX_ALLOW("wait4"),
	SANDBOX_ALLOW("waitpid"),
	{0},
};

static const struct sandbox_path service_paths[] = {
	{"/proc/self/fdinfo", false}, // eventfds: which one, its count
	{"/dev/null", true},
	{"/dev/zero", true},
	{"/dev/full", true},
	{"/dev/random", true},
	{"/dev/urandom", true},
	{"/dev/dri/renderD*", true}, // make sync_files
	{0},
};

static uint64_t at_least(uint64_t value, uint64_t min)
{
	return value > min ? value : min;
}

static void set_limits(struct sandbox_profile *profile, const struct confine_options *options)
{
	uint64_t memory = options->max_memory;
	profile->max_fds = at_least(4 * options->max_fds, MIN_FDS);
	profile->max_file = at_least(memory, MIN_FILE);
	if (options->maps_guest) {
		return;
	}
	// What a pool was before it grew is still mapped while its rows wait.
	uint64_t more = options->any_kind ? SERVICE_SPACE : SPACE;
	profile->max_space = memory > UINT64_MAX / 8 ? UINT64_MAX : 4 * memory + more;
}

static struct sandbox_profile profile_of(bool any_kind, bool strict)
{
	return (struct sandbox_profile){
		.rules = {sandbox_basics, session_rules, any_kind ? service_rules : wayland_rules,
			any_kind || strict ? NULL : wayland_guest_rules},
		.paths = any_kind ? service_paths : wayland_paths,
		.opens = true,
		.strict = strict,
		.report_type = RECORD_VIOLATION,
	};
}

void confine_prepare(struct confine_filters *filters, bool strict)
{
	for (int any_kind = 0; any_kind < 2; any_kind++) {
		const struct sandbox_profile profile = profile_of(any_kind, strict);
		sandbox_filter_init(&filters->filters[any_kind], &profile);
	}
}

void confine_finish(struct confine_filters *filters)
{
	for (int any_kind = 0; any_kind < 2; any_kind++) {
		sandbox_filter_finish(&filters->filters[any_kind]);
	}
}

int confine_session(struct confine_filters *filters, const struct confine_options *options)
{
	struct sandbox_profile profile = profile_of(options->any_kind, options->strict);
	profile.report_fd = options->session_fd;
	if (options->strict) {
		set_limits(&profile, options);
	}
	return sandbox_enter(&profile, &filters->filters[options->any_kind]);
}
