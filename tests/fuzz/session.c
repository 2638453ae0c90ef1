/*
 * Both ends of one session, with somebody between them who reads, changes and adds frames, and with
 * local peers that send any bytes and fds: a client and a compositor, or those of a service of
 * unknown protocol. Who is hostile depends on what is done, and to which side (enum operation):
 *
 *   to the guest   FRAME, CARRY_CHANGED, CUT: the host     SAY, MESSAGE, BIND and the like: the client
 *   to the host    the same: the guest                     the compositor, and by ANSWER the GPU's service
 *
 * The first byte says what the session is about (enum mode). Beside what every target checks, budgets are
 * released, nothing of either side stays with a GPU, nobody is given what the sessions use for themselves,
 * and a client gets nothing of the host's: all its fds are copies.
 */

#include <event2/event.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/fdlist.h"
#include "base/scm.h"
#include "channel/input.h"
#include "fdpass/region.h"
#include "fdpass/resolver.h"
#include "protocol/channel.h"
#include "relay/handshake.h"
#include "relay/session.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/gpu.h"
#include "tests/fuzz/stand_ins.h"
#include "tests/fuzz/things.h"
#include "tests/support/pages.h"
#include "tests/support/syncobjs.h"

#define REGION_SIZE  (1u << 20)
#define MAX_MEMORY   (16u << 20)
#define MAX_FDS      64
#define MAX_IDS      1000
#define BYTES_MAX    65536
#define BODY_MAX     600
#define WORDS_MAX    12
#define SECRETS_MAX  12
#define TURNS        2
#define LAST_TURNS   20
#define REGISTRY     2 // which client has made it, if one has
#define GLOBAL_WORDS 20
#define TO_HOST      0x40 // of an operation; else it is done to the guest
#define NO_TURN      0x80 // the sessions see it together with the next one

enum { GUEST, HOST };

enum mode {
	SERVICE = 0x01,
	// Of a service:
	RECORDS = 0x02,   // its sockets
	ON_DEMAND = 0x04, // files of more than a page are not copied
	// Of Wayland's:
	DMABUFS = 0x04, // and by handle; and a region, unless
	PAGES = 0x08,
	TIMELINES = 0x10,
	RESOLVER = 0x20, // handles are found by a service, and the guest has such
	DEVICE = 0x40,   // the guest has one for its clients
	ROWS = 0x80,     // of the region are told, and dma-bufs have ranges
};

static const struct budget_limits limits = {
	.most =
		{
			[BUDGET_MEMORY] = MAX_MEMORY,
			[BUDGET_UNSENT] = 96u << 20,
			[BUDGET_OBJECTS] = MAX_IDS,
			[BUDGET_FDS] = MAX_FDS,
			[BUDGET_STREAMS] = MAX_FDS,
			[BUDGET_POOLS] = MAX_FDS,
			[BUDGET_MAPPED] = UINT64_C(1) << 40,
			[BUDGET_PENDING] = 1024,
			[BUDGET_FLIGHT] = 256,
			[BUDGET_PLANES] = 256,
			[BUDGET_LISTED] = 256,
			[BUDGET_FRAMES] = 1u << 16,
		},
};

enum operation {
	CARRY,
	CARRY_SOME,
	CARRY_CHANGED,
	FRAME,
	SAY,
	MESSAGE,
	LISTEN,
	WRITE,
	READ,
	RESIZE,
	SHUT,
	CLOSE,
	LEAVE,
	CUT,
	GLOBAL,
	BIND,
	SIGNAL,
	ANSWER,
	COUNT,
	OPERATIONS,
};

// What globals are about, so that no input has to spell it.
static const char *const interfaces[] = {
	"wl_compositor",
	"wl_shm",
	"wl_seat",
	"wl_output",
	"wl_data_device_manager",
	"wl_subcompositor",
	"wl_drm",
	"zwp_linux_dmabuf_v1",
	"zwp_linux_explicit_synchronization_v1",
	"wp_linux_drm_syncobj_manager_v1",
	"zwlr_export_dmabuf_manager_v1",
	"zwlr_screencopy_manager_v1",
	"ext_output_image_capture_source_manager_v1",
	"ext_image_copy_capture_manager_v1",
	"weston_screenshooter",
	"wp_presentation",
	"wp_viewporter",
	"xdg_wm_base",
	"zwlr_gamma_control_manager_v1",
	"zwp_virtual_keyboard_manager_v1",
};

#define INTERFACES (sizeof(interfaces) / sizeof(interfaces[0]))

struct side {
	struct budget budget;
	struct session *session;
	int channel, local; // the far ends of the session's two sockets; -1: closed
	unsigned int ends;
};

struct secret {
	dev_t device;
	ino_t number;
};

struct fixture {
	struct event_base *base;
	uint8_t mode;
	struct side sides[2];
	struct things things;
	struct page_world pages;
	struct resolver *resolver; // that asks service; NULL: there is none
	int service;               // -1: likewise
	// What no local peer is ever given.
	struct secret secrets[SECRETS_MAX];
	size_t n_secrets;
};

// ---- what is secret ----

static void keep_secret(struct fixture *fixture, int fd)
{
	struct stat st;
	fuzz_check(fstat(fd, &st) == 0 && fixture->n_secrets < SECRETS_MAX, "a secret is an fd");
	fixture->secrets[fixture->n_secrets++] = (struct secret){st.st_dev, st.st_ino};
}

static void check_received(const struct fixture *fixture, int which, int fd)
{
	struct stat st;
	fuzz_check(fstat(fd, &st) == 0, "an fd that is received is one");
	for (size_t i = 0; i < fixture->n_secrets; i++) {
		const struct secret *secret = &fixture->secrets[i];
		fuzz_check(secret->device != st.st_dev || secret->number != st.st_ino,
			"nobody is given what the sessions use for themselves");
	}
	if (which == GUEST && (fixture->mode & SERVICE) == 0) {
		fuzz_check(!things_have(&fixture->things, fd), "a client is given copies");
	}
}

// ---- the sessions ----

static void handle_ended(void *data, const char *reason)
{
	struct side *side = data;
	(void)reason;
	side->ends++;
}

static uint32_t features_of(const struct fixture *fixture)
{
	uint8_t mode = fixture->mode;
	uint32_t features = 0;
	if ((mode & SERVICE) != 0) {
		return 0;
	}
	features |= (mode & DMABUFS) != 0 ? CHANNEL_FEATURE_DMABUF | CHANNEL_FEATURE_HANDLE : 0;
	features |= (mode & PAGES) != 0 ? CHANNEL_FEATURE_PAGES : 0;
	features |= (mode & TIMELINES) != 0 ? CHANNEL_FEATURE_TIMELINE : 0;
	features |= (mode & ROWS) != 0 ? CHANNEL_FEATURE_REGION_ROWS : 0;
	return features;
}

static void create_side(
	struct fixture *fixture, int which, const struct session_options *common, int local_type)
{
	struct side *side = &fixture->sides[which];
	int channel[2], local[2];
	fuzz_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) == 0 &&
			socketpair(AF_UNIX, local_type | SOCK_CLOEXEC, 0, local) == 0,
		"a connection can be made");
	*side = (struct side){.channel = channel[0], .local = local[0]};
	for (int i = 0; i < 2; i++) {
		keep_secret(fixture, channel[i]);
		keep_secret(fixture, local[i]);
	}
	struct session_options options = *common;
	options.base = fixture->base;
	options.exports = which == GUEST ? WIRE_REQUEST : WIRE_EVENT;
	options.channel_fd = channel[1];
	options.local_fd = local[1];
	options.data = side;
	options.budget = &side->budget;
	side->budget.limits = limits;
	int region_fd = options.region != NULL ? options.region->fd : -1;
	if (which == GUEST) {
		const struct handshake_hello hello = {
			.service = "wayland", .features = features_of(fixture)};
		fuzz_check(
			handshake_welcome(side->channel, &hello, hello.features, region_fd, 0) == 0,
			"WELCOME is sent");
		options.channel_input = channel_input_create_with_fd(options.channel_fd);
		region_destroy(options.region);
		options.region = NULL;
	}
	side->session = session_create(&options);
	fuzz_check(side->session != NULL, "a session can be made");
}

// Those of Wayland's.
static void set_planes(struct fixture *fixture, int which, struct session_options *options)
{
	static const struct dmabuf_device no_device;
	static const struct dmabuf_device device = {
		.number = 1, .implicit_linear = true, .path = "/dev/dri/renderD128"};
	uint8_t mode = fixture->mode;
	bool pages = (mode & PAGES) != 0, timelines = (mode & TIMELINES) != 0;
	bool asks = (mode & RESOLVER) != 0;
	bool shares = (mode & DMABUFS) != 0 && !pages;
	options->dmabufs = (mode & DMABUFS) != 0;
	options->region = shares ? region_create(REGION_SIZE) : NULL;
	if (options->region != NULL && (mode & ROWS) != 0) {
		region_agree(options->region);
	}
	options->timelines = timelines;
	options->node = fixture->things.node;
	if (which == GUEST) {
		options->pinner = &fixture->pages.pinner;
		options->virtgpu = asks ? gpu_of_guest(&fixture->things) : NULL;
		options->device = (mode & DEVICE) != 0 ? device : no_device;
		return;
	}
	options->page_buffers = pages ? &fixture->pages.buffers : NULL;
	options->handles = asks ? fixture->resolver : gpu_resolver();
	options->app_id_prefix = "fuzz.";
	options->title_prefix = "fuzz: ";
}

static void begin(struct fixture *fixture, uint8_t mode, uint8_t rules)
{
	*fixture = (struct fixture){.base = event_base_new(), .mode = mode, .service = -1};
	things_init(&fixture->things);
	page_world_init(&fixture->pages);
	stand_in_count(0);
	if ((mode & RESOLVER) != 0) {
		fixture->resolver = gpu_create_resolver(&fixture->service);
		keep_secret(fixture, fixture->service);
	}
	struct session_options options = {
		.service = (mode & SERVICE) != 0 ? "service" : NULL,
		.rules =
			{
				.shared = rules % 3,
				.unsupported = rules / 3 % 3,
				.max_file_copy = (mode & ON_DEMAND) != 0 ? CHANNEL_PAGE : 0,
			},
		.resolver = gpu_resolver(),
		.ended = handle_ended,
	};
	bool records = (mode & SERVICE) != 0 && (mode & RECORDS) != 0;
	for (int which = GUEST; which <= HOST; which++) {
		struct session_options own = options;
		if (options.service == NULL) {
			set_planes(fixture, which, &own);
		}
		create_side(fixture, which, &own, records ? SOCK_SEQPACKET : SOCK_STREAM);
	}
}

static void turn(struct fixture *fixture)
{
	for (int i = 0; i < TURNS; i++) {
		event_base_loop(fixture->base, EVLOOP_NONBLOCK);
	}
	for (int i = 0; i < 2; i++) {
		fuzz_check(fixture->sides[i].ends <= 1, "a session ends once");
	}
}

static void check_budget(const struct budget *budget)
{
	for (size_t i = 0; i < BUDGET_COUNT; i++) {
		fuzz_check(budget->used[i] == 0, "a budget is released");
	}
}

static void end(struct fixture *fixture)
{
	for (int i = 0; i < 2; i++) {
		things_close(&fixture->sides[i].local);
		things_close(&fixture->sides[i].channel);
	}
	for (int i = 0; i < LAST_TURNS; i++) {
		turn(fixture);
	}
	for (int i = 0; i < 2; i++) {
		session_destroy(fixture->sides[i].session);
		check_budget(&fixture->sides[i].budget);
	}
	things_finish(&fixture->things);
	things_close(&fixture->service);
	resolver_destroy(fixture->resolver);
	page_world_finish(&fixture->pages);
	fuzz_check(syncobjs_left() == 0, "no timeline is left");
	event_base_free(fixture->base);
}

// ---- what is done ----

// The next of these bytes go to the other side; one of them is changed first if change is not 0.
static void carry(struct fixture *fixture, int from, size_t max, uint16_t at, uint8_t change)
{
	static uint8_t bytes[BYTES_MAX];
	int in = fixture->sides[from].channel, out = fixture->sides[1 - from].channel;
	if (in < 0 || out < 0) {
		return;
	}
	ssize_t n = recv(in, bytes, max < BYTES_MAX ? max : BYTES_MAX, MSG_DONTWAIT);
	if (n > 0) {
		bytes[at % (size_t)n] ^= change;
		send(out, bytes, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
	} else if (n == 0) {
		shutdown(out, SHUT_WR);
	}
}

static void do_frame(struct side *side, struct fuzz_input *input)
{
	uint8_t body[BODY_MAX];
	struct channel_header header = {.type = fuzz_take8(input)};
	uint8_t id = fuzz_take8(input);
	header.id = (id & 0x7fu) | ((id & 0x80) != 0 ? CHANNEL_ID_HOST : 0);
	uint8_t arg = fuzz_take8(input);
	header.arg = arg == UINT8_MAX ? fuzz_take32(input) : arg;
	size_t len = fuzz_take16(input) % (BODY_MAX + 1);
	header.length = (uint32_t)len + fuzz_take8(input);
	len = fuzz_take(input, body, len);
	const struct fdlist none = {0};
	const struct iovec iov[] = {
		{.iov_base = &header, .iov_len = sizeof(header)},
		{.iov_base = body, .iov_len = len},
	};
	if (side->channel >= 0) {
		scm_send(side->channel, iov, 2, &none, 0);
	}
}

static void send_local(struct side *side, void *data, size_t len, struct fdlist *fds)
{
	const struct iovec iov = {.iov_base = data, .iov_len = len};
	if (side->local >= 0) {
		scm_send(side->local, &iov, 1, fds, fds->count);
	}
	fdlist_finish(fds);
}

static void do_say(struct fixture *fixture, struct side *side, struct fuzz_input *input)
{
	uint8_t bytes[UINT8_MAX];
	struct fdlist fds;
	things_take(&fixture->things, input, &fds);
	size_t len = fuzz_take(input, bytes, fuzz_take8(input));
	send_local(side, bytes, len, &fds);
}

// Of Wayland, with a length that is right.
static void do_message(struct fixture *fixture, struct side *side, struct fuzz_input *input)
{
	uint32_t words[2 + WORDS_MAX];
	struct fdlist fds;
	things_take(&fixture->things, input, &fds);
	words[0] = fuzz_take8(input);
	uint8_t opcode = fuzz_take8(input);
	uint32_t n = fuzz_take8(input) % (WORDS_MAX + 1);
	for (uint32_t i = 0; i < n; i++) {
		uint8_t word = fuzz_take8(input);
		words[2 + i] = word == UINT8_MAX ? fuzz_take32(input) : word;
	}
	uint32_t len = (2 + n) * (uint32_t)sizeof(words[0]);
	words[1] = len << 16 | opcode;
	send_local(side, words, len, &fds);
}

static void do_listen(struct fixture *fixture, int which)
{
	const struct side *side = &fixture->sides[which];
	static uint8_t bytes[BYTES_MAX];
	struct fdlist fds;
	fdlist_init(&fds);
	if (side->local >= 0) {
		scm_recv(side->local, bytes, sizeof(bytes), &fds);
	}
	while (fds.count > 0) {
		int fd = fdlist_take(&fds);
		check_received(fixture, which, fd);
		things_hold(&fixture->things, fd);
	}
	fdlist_finish(&fds);
}

static void do_write(struct fixture *fixture, struct fuzz_input *input)
{
	uint8_t bytes[UINT8_MAX + 1] = {1}; // at least one count of an eventfd
	int fd = *things_get(&fixture->things, fuzz_take8(input));
	size_t len = fuzz_take8(input);
	if (fd >= 0 && things_ready(fd, POLLOUT)) {
		(void)!write(fd, bytes, len);
	}
}

static void do_read(struct fixture *fixture, struct fuzz_input *input)
{
	static uint8_t bytes[BYTES_MAX];
	int fd = *things_get(&fixture->things, fuzz_take8(input));
	if (fd >= 0 && things_ready(fd, POLLIN)) {
		(void)!read(fd, bytes, sizeof(bytes));
	}
}

// To any small size, or to one of the larger ones.
static void do_resize(struct fixture *fixture, struct fuzz_input *input)
{
	int fd = *things_get(&fixture->things, fuzz_take8(input));
	off_t size = fuzz_take16(input);
	if (fd >= 0) {
		(void)!ftruncate(fd, size < 0x8000 ? size : (size - 0x8000) * 64);
	}
}

static void do_shut(struct fixture *fixture, struct fuzz_input *input)
{
	int fd = *things_get(&fixture->things, fuzz_take8(input));
	shutdown(fd, fuzz_take8(input) % 3);
}

// A string of at most so many words. Their number.
static uint32_t put_string(uint32_t *words, const char *string)
{
	size_t len = strlen(string) + 1;
	words[0] = (uint32_t)len;
	memcpy(&words[1], string, len);
	return 1 + (uint32_t)(len + sizeof(*words) - 1) / (uint32_t)sizeof(*words);
}

// With the interface that is named by a byte, and a version.
static uint32_t put_interface(uint32_t *words, struct fuzz_input *input)
{
	uint32_t n = put_string(words, interfaces[fuzz_take8(input) % INTERFACES]);
	words[n] = fuzz_take8(input);
	return n + 1;
}

static void send_words(struct side *side, uint32_t *words, uint32_t n, uint32_t opcode)
{
	struct fdlist none;
	fdlist_init(&none);
	words[0] = REGISTRY;
	words[1] = n * (uint32_t)sizeof(*words) << 16 | opcode;
	send_local(side, words, n * sizeof(*words), &none);
}

// wl_registry.global(name, interface, version)
static void do_global(struct side *host, struct fuzz_input *input)
{
	uint32_t words[GLOBAL_WORDS] = {0};
	words[2] = fuzz_take8(input);
	send_words(host, words, 3 + put_interface(&words[3], input), 0);
}

// wl_registry.bind(name, id of any interface)
static void do_bind(struct side *guest, struct fuzz_input *input)
{
	uint32_t words[GLOBAL_WORDS] = {0};
	words[2] = fuzz_take8(input);
	uint32_t n = 3 + put_interface(&words[3], input);
	words[n] = fuzz_take8(input);
	send_words(guest, words, n + 1, 0);
}

// Later than what has been, as the kernel wants it.
static void do_signal(struct fixture *fixture, struct fuzz_input *input)
{
	int node = fixture->things.node, fd = *things_get(&fixture->things, fuzz_take8(input));
	uint64_t point = fuzz_take8(input);
	uint32_t handle = fd >= 0 ? syncobj_import(node, fd) : 0;
	if (handle != 0) {
		if (!syncobj_has_signalled(node, handle, point)) {
			syncobj_signal(node, handle, point);
		}
		syncobj_destroy(node, handle);
	}
}

static void do_operation(struct fixture *fixture, struct fuzz_input *input, uint8_t number)
{
	int which = (number & TO_HOST) != 0 ? HOST : GUEST;
	struct side *side = &fixture->sides[which];
	uint16_t at;
	switch ((enum operation)(number % TO_HOST % OPERATIONS)) {
	case CARRY:
		carry(fixture, which, BYTES_MAX, 0, 0);
		break;
	case CARRY_SOME:
		carry(fixture, which, fuzz_take8(input) + 1u, 0, 0);
		break;
	case CARRY_CHANGED:
		at = fuzz_take16(input);
		carry(fixture, which, BYTES_MAX, at, fuzz_take8(input));
		break;
	case FRAME:
		do_frame(side, input);
		break;
	case SAY:
		do_say(fixture, side, input);
		break;
	case MESSAGE:
		do_message(fixture, side, input);
		break;
	case LISTEN:
		do_listen(fixture, which);
		break;
	case WRITE:
		do_write(fixture, input);
		break;
	case READ:
		do_read(fixture, input);
		break;
	case RESIZE:
		do_resize(fixture, input);
		break;
	case SHUT:
		do_shut(fixture, input);
		break;
	case CLOSE:
		things_close(things_get(&fixture->things, fuzz_take8(input)));
		break;
	case LEAVE:
		things_close(&side->local);
		break;
	case CUT:
		things_close(&side->channel);
		break;
	case GLOBAL:
		do_global(&fixture->sides[HOST], input);
		break;
	case BIND:
		do_bind(&fixture->sides[GUEST], input);
		break;
	case SIGNAL:
		do_signal(fixture, input);
		break;
	case ANSWER:
		gpu_answer(fixture->service, &fixture->things, input);
		break;
	case COUNT:
		stand_in_count(fuzz_take8(input));
		break;
	case OPERATIONS:
		break;
	}
}

void fuzz_one(struct fuzz_input *input)
{
	struct fixture fixture;
	uint8_t mode = fuzz_take8(input);
	begin(&fixture, mode, fuzz_take8(input));
	while (input->size > 0) {
		uint8_t number = fuzz_take8(input);
		do_operation(&fixture, input, number & (uint8_t)~NO_TURN);
		if ((number & NO_TURN) == 0) {
			turn(&fixture);
		}
	}
	end(&fixture);
}
