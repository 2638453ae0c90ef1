#include "base/budget.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/rate.h"

#define SECOND    1000000000u             // nanoseconds
#define PAUSE_MAX (UINT64_C(10) * SECOND) // less than any peer waits for an answer

static const struct {
	const char *name;
	const char *option; // --max-NAME and --max-vm-NAME
} kinds[BUDGET_COUNT] = {
	[BUDGET_FDS] = {"fds", "fds"},
	[BUDGET_MEMORY] = {"bytes of memory", "memory"},
	[BUDGET_UNSENT] = {"unsent bytes", "unsent"},
	[BUDGET_OBJECTS] = {"objects", "objects"},
	[BUDGET_STREAMS] = {"streams", "streams"},
	[BUDGET_PENDING] = {"pending fds", "pending-fds"},
	[BUDGET_POOLS] = {"pools", "pools"},
	[BUDGET_MAPPED] = {"mapped bytes", "mapped"},
	[BUDGET_FRAMES] = {"waiting frames", "frames"},
	[BUDGET_FLIGHT] = {"fds in flight", "fds-in-flight"},
	[BUDGET_PLANES] = {"dma-buf planes", "planes"},
	[BUDGET_LISTED] = {"listed objects", "listed"},
};

struct slot {
	_Alignas(64) _Atomic uint64_t used[BUDGET_COUNT];
};
static_assert(sizeof(struct slot) % 64 == 0, "sessions do not share cache lines");

// What is shared. Any process that has it may write anything to it.
struct shared {
	struct budget_limits limits;
	_Atomic uint64_t peak[BUDGET_COUNT];
	_Atomic uint64_t messages_until, bytes_until, told_until[BUDGET_HEARERS];
	_Atomic uint64_t n_used; // slots from there on are not in use
	struct slot slots[];
};

struct budget_page {
	struct shared *shared;
	size_t n_slots;
	struct budget_limits limits;
};

static size_t page_size(size_t n_slots)
{
	return sizeof(struct shared) + n_slots * sizeof(struct slot);
}

static uint64_t sum(const struct budget_page *page, enum budget_kind kind)
{
	uint64_t total = 0, n = page->shared->n_used;
	for (size_t i = 0; i < n && i < page->n_slots; i++) {
		uint64_t used = page->shared->slots[i].used[kind];
		total = used < UINT64_MAX - total ? total + used : UINT64_MAX;
	}
	return total;
}

static void raise_peak(_Atomic uint64_t *peak, uint64_t value)
{
	uint64_t old = *peak;
	while (old < value && !atomic_compare_exchange_weak(peak, &old, value)) {
	}
}

static void tell(
	struct budget *budget, bool vm, const char *name, const char *option, uint64_t limit)
{
	snprintf(budget->exceeded, sizeof(budget->exceeded),
		"over the %s's budget of %s: %" PRIu64 " (--max-%s%s)", vm ? "VM" : "session", name,
		limit, vm ? "vm-" : "", option);
}

/* What this session has now is known to the others before their sums are looked at. */
static bool fits_vm(struct budget *budget, enum budget_kind kind)
{
	struct budget_page *page = budget->page;
	if (page == NULL) {
		return true;
	}
	page->shared->slots[budget->slot].used[kind] = budget->used[kind];
	uint64_t total = sum(page, kind);
	if (total > page->limits.most[kind]) {
		tell(budget, true, kinds[kind].name, kinds[kind].option, page->limits.most[kind]);
		return false;
	}
	raise_peak(&page->shared->peak[kind], total);
	return true;
}

static void put(struct budget *budget, enum budget_kind kind, uint64_t used)
{
	budget->used[kind] = used;
	if (budget->page != NULL) {
		budget->page->shared->slots[budget->slot].used[kind] = used;
	}
}

static bool fits(struct budget *budget, enum budget_kind kind)
{
	if (!fits_vm(budget, kind)) {
		return false;
	}
	if (budget->used[kind] > budget->peak[kind]) {
		budget->peak[kind] = budget->used[kind];
	}
	return true;
}

static bool try_charge(struct budget *budget, enum budget_kind kind, uint64_t amount)
{
	uint64_t used = budget->used[kind], most = budget->limits.most[kind];
	if (used > most || amount > most - used) {
		tell(budget, false, kinds[kind].name, kinds[kind].option, most);
		return false;
	}
	budget->used[kind] = used + amount;
	if (!fits(budget, kind)) {
		put(budget, kind, used);
		return false;
	}
	return true;
}

bool budget_charge(struct budget *budget, enum budget_kind kind, uint64_t amount)
{
	bool ok = try_charge(budget, kind, amount);
	if (!ok && budget->reclaim != NULL) {
		budget->reclaim(budget->reclaim_data);
		budget_forget(budget);
		ok = try_charge(budget, kind, amount);
	}
	return ok;
}

void budget_release(struct budget *budget, enum budget_kind kind, uint64_t amount)
{
	assert(amount <= budget->used[kind]);
	put(budget, kind, budget->used[kind] - amount);
}

bool budget_set(struct budget *budget, enum budget_kind kind, uint64_t amount)
{
	uint64_t most = budget->limits.most[kind];
	if (amount == budget->used[kind]) {
		return amount <= most;
	}
	bool more = amount > budget->used[kind];
	put(budget, kind, amount);
	if (amount > most) {
		tell(budget, false, kinds[kind].name, kinds[kind].option, most);
		return false;
	}
	return !more || fits(budget, kind);
}

uint64_t budget_total(const struct budget *budget, enum budget_kind kind)
{
	return budget->page != NULL ? sum(budget->page, kind) : budget->used[kind];
}

static uint64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
	return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

static bool take_messages(
	_Atomic uint64_t *until, const struct budget_limits *limits, uint64_t n, uint64_t time)
{
	const struct rate rate = {.per_second = limits->rate, .burst = limits->burst};
	return rate_take(until, &rate, n, time);
}

bool budget_messages(struct budget *budget, uint64_t n)
{
	struct budget_page *page = budget->page;
	bool vm_limits = page != NULL && page->limits.rate != 0;
	if (budget->limits.rate == 0 && !vm_limits) {
		return true;
	}
	uint64_t time = now();
	if (budget->limits.rate != 0) {
		_Atomic uint64_t until = budget->messages_until;
		if (!take_messages(&until, &budget->limits, n, time)) {
			tell(budget, false, "messages per second", "rate", budget->limits.rate);
			return false;
		}
		budget->messages_until = until;
	}
	if (vm_limits && !take_messages(&page->shared->messages_until, &page->limits, n, time)) {
		tell(budget, true, "messages per second", "rate", page->limits.rate);
		return false;
	}
	return true;
}

static uint64_t cut(const struct budget_limits *limits, uint64_t n)
{
	return limits->rate != 0 && limits->burst < n ? limits->burst : n;
}

uint64_t budget_burst(const struct budget *budget, uint64_t n)
{
	n = cut(&budget->limits, n);
	return budget->page != NULL ? cut(&budget->page->limits, n) : n;
}

/* Whoever has the page of a VM may write anything to it. */
static uint64_t add_bytes(_Atomic uint64_t *until, uint64_t throughput, uint64_t n, uint64_t time)
{
	const struct rate rate = {.per_second = throughput, .burst = throughput};
	uint64_t pause = throughput == 0 ? 0 : rate_add(until, &rate, n, time);
	return pause < PAUSE_MAX ? pause : PAUSE_MAX;
}

uint64_t budget_bytes(struct budget *budget, uint64_t n)
{
	struct budget_page *page = budget->page;
	uint64_t of_vm = page != NULL ? page->limits.throughput : 0;
	if (budget->limits.throughput == 0 && of_vm == 0) {
		return 0;
	}
	uint64_t time = now();
	_Atomic uint64_t until = budget->bytes_until;
	uint64_t pause = add_bytes(&until, budget->limits.throughput, n, time);
	budget->bytes_until = until;
	if (of_vm != 0) {
		uint64_t longer = add_bytes(&page->shared->bytes_until, of_vm, n, time);
		pause = longer > pause ? longer : pause;
	}
	budget->paused += pause;
	return pause;
}

static bool take_told(_Atomic uint64_t *until, uint64_t told, uint64_t n, uint64_t time)
{
	const struct rate rate = {.per_second = told, .burst = told};
	return told == 0 || rate_take(until, &rate, n < told ? n : told, time);
}

uint64_t budget_tell(struct budget *budget, enum budget_hearer hearer, uint64_t n)
{
	struct budget_page *page = budget->page;
	uint64_t of_vm = page != NULL ? page->limits.told : 0;
	uint64_t least = budget->limits.told != 0 ? budget->limits.told : of_vm;
	if (least == 0) {
		return 0;
	}
	uint64_t time = now();
	_Atomic uint64_t until = budget->told_until[hearer];
	if (!take_told(&until, budget->limits.told, n, time) ||
		(of_vm != 0 && !take_told(&page->shared->told_until[hearer], of_vm, n, time))) {
		return n < least ? n * SECOND / least : SECOND;
	}
	budget->told_until[hearer] = until;
	return 0;
}

const char *budget_exceeded(const struct budget *budget)
{
	return budget->exceeded[0] != '\0' ? budget->exceeded : NULL;
}

void budget_forget(struct budget *budget)
{
	budget->exceeded[0] = '\0';
}

/* ---- what several keep ---- */

struct charge {
	struct budget *budget;
	enum budget_kind kind;
	uint64_t amount;
	unsigned int refs;
};

struct charge *charge_create_of(struct budget *budget, enum budget_kind kind, uint64_t amount)
{
	struct charge *charge = calloc(1, sizeof(*charge));
	if (charge == NULL || !budget_charge(budget, kind, amount)) {
		free(charge);
		return NULL;
	}
	*charge = (struct charge){.budget = budget, .kind = kind, .amount = amount, .refs = 1};
	return charge;
}

struct charge *charge_create(struct budget *budget, uint64_t bytes)
{
	return charge_create_of(budget, BUDGET_MEMORY, bytes);
}

struct charge *charge_ref(struct charge *charge)
{
	charge->refs++;
	return charge;
}

void charge_unref(struct charge *charge)
{
	if (charge == NULL) {
		return;
	}
	assert(charge->refs > 0);
	if (--charge->refs == 0) {
		budget_release(charge->budget, charge->kind, charge->amount);
		free(charge);
	}
}

bool charge_grow(struct charge *charge, uint64_t amount)
{
	if (amount <= charge->amount) {
		return true;
	}
	if (!budget_charge(charge->budget, charge->kind, amount - charge->amount)) {
		return false;
	}
	charge->amount = amount;
	return true;
}

/* ---- the page of a VM ---- */

// Takes fd.
static struct budget_page *map(int fd, size_t n_slots)
{
	struct budget_page *page = calloc(1, sizeof(*page));
	void *shared = mmap(NULL, page_size(n_slots), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	int saved = errno;
	close(fd);
	if (page == NULL || shared == MAP_FAILED) {
		if (shared != MAP_FAILED) {
			munmap(shared, page_size(n_slots));
		}
		free(page);
		errno = saved;
		return NULL;
	}
	page->shared = shared;
	page->n_slots = n_slots;
	return page;
}

bool budget_join(struct budget *budget, int fd, size_t slot)
{
	struct stat st;
	if (fstat(fd, &st) < 0 || (uint64_t)st.st_size < page_size(slot + 1)) {
		close(fd);
		errno = EINVAL;
		return false;
	}
	size_t n_slots = ((size_t)st.st_size - page_size(0)) / sizeof(struct slot);
	budget->page = map(fd, n_slots);
	budget->slot = slot;
	if (budget->page != NULL) {
		budget->page->limits = budget->page->shared->limits;
	}
	return budget->page != NULL;
}

void budget_leave(struct budget *budget)
{
	budget_page_destroy(budget->page);
	budget->page = NULL;
}

// Its size is fixed, so that nobody who has it can take it away from the others.
static int create_memory(size_t size)
{
	int fd = memfd_create("fdferry-budget", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd >= 0 &&
		(ftruncate(fd, (off_t)size) < 0 ||
			fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)) {
		int saved = errno;
		close(fd);
		errno = saved;
		return -1;
	}
	return fd;
}

void budget_page_set_limits(struct budget_page *page, const struct budget_limits *limits)
{
	page->limits = page->shared->limits = *limits;
}

struct budget_page *budget_page_create(const struct budget_limits *limits, size_t n_slots, int *fd)
{
	*fd = create_memory(page_size(n_slots));
	int mapped = *fd < 0 ? -1 : fcntl(*fd, F_DUPFD_CLOEXEC, 0);
	struct budget_page *page = mapped < 0 ? NULL : map(mapped, n_slots);
	if (page == NULL) {
		int saved = errno;
		if (*fd >= 0) {
			close(*fd);
		}
		*fd = -1;
		errno = saved;
		return NULL;
	}
	budget_page_set_limits(page, limits);
	return page;
}

void budget_page_destroy(struct budget_page *page)
{
	if (page != NULL) {
		munmap(page->shared, page_size(page->n_slots));
		free(page);
	}
}

void budget_page_clear(struct budget_page *page, size_t slot, size_t n_used)
{
	assert(slot < page->n_slots && n_used <= page->n_slots);
	for (size_t i = 0; i < BUDGET_COUNT; i++) {
		page->shared->slots[slot].used[i] = 0;
	}
	page->shared->n_used = n_used;
}

void budget_page_put(struct budget_page *page, size_t slot, const uint64_t used[BUDGET_COUNT])
{
	assert(slot < page->n_slots);
	for (size_t i = 0; i < BUDGET_COUNT; i++) {
		page->shared->slots[slot].used[i] = used[i];
	}
}

uint64_t budget_page_used(const struct budget_page *page, enum budget_kind kind)
{
	return sum(page, kind);
}

/* ---- for people ---- */

struct amounts {
	uint64_t used[BUDGET_COUNT], peak[BUDGET_COUNT];
};

static void print(FILE *out, const char *title, const struct amounts *amounts,
	const struct budget_limits *limits, const char *more)
{
	char text[2048];
	int len = snprintf(text, sizeof(text), "%s\n", title);
	for (size_t i = 0; i < BUDGET_COUNT && len < (int)sizeof(text); i++) {
		len += snprintf(text + len, sizeof(text) - (size_t)len,
			"  %-15s  %" PRIu64 " used, %" PRIu64 " at most, limit %" PRIu64 "\n",
			kinds[i].name, amounts->used[i], amounts->peak[i], limits->most[i]);
	}
	if (len < (int)sizeof(text)) {
		snprintf(text + len, sizeof(text) - (size_t)len, "%s", more);
	}
	fputs(text, out); // one write, so that the lines of several processes do not mix
	fflush(out);
}

void budget_print(FILE *out, const char *title, const struct budget *budget)
{
	struct amounts amounts;
	memcpy(amounts.used, budget->used, sizeof(amounts.used));
	memcpy(amounts.peak, budget->peak, sizeof(amounts.peak));
	char more[48] = "";
	if (budget->paused > 0) {
		snprintf(more, sizeof(more), "  paused           %" PRIu64 " ms\n",
			budget->paused / 1000000);
	}
	print(out, title, &amounts, &budget->limits, more);
}

void budget_page_print(FILE *out, const char *title, const struct budget_page *page)
{
	struct amounts amounts;
	for (size_t i = 0; i < BUDGET_COUNT; i++) {
		amounts.used[i] = sum(page, (enum budget_kind)i);
		amounts.peak[i] = page->shared->peak[i];
	}
	print(out, title, &amounts, &page->limits, "");
}
