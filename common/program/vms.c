#include "program/vms.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>
#include <wayland-util.h>

#include "base/log.h"
#include "program/leftovers.h"

#define TELL_INTERVAL (UINT64_C(10) * 1000000000) // nanoseconds

// Machines without sessions are remembered for their peaks, but not for ever.
#define IDLE_MAX 64

#define LEFTOVERS_SLOT 0 // of no session

struct vm {
	struct wl_list link; // vms.list, the latest first
	struct vms *vms;
	uint32_t cid; // 0: by UNIX socket
	struct budget_page *page;
	int page_fd;
	struct leftovers leftovers; // of sessions that have ended, in the slot LEFTOVERS_SLOT
	bool *taken;                // by slot
	unsigned int n_slots;
	unsigned int sessions; // slots that are taken
	unsigned int peak;
	_Atomic uint64_t connected_until; // see base/rate.h
	unsigned int untold;  // connections that were turned away, but the log does not say
	uint64_t tell_at;     // not earlier
	uint64_t turned_away; // for their rate
};

struct vms {
	struct vms_options options;
	struct wl_list list; // vm.link
};

struct vms *vms_create(const struct vms_options *options)
{
	struct vms *vms = calloc(1, sizeof(*vms));
	if (vms != NULL) {
		vms->options = *options;
		wl_list_init(&vms->list);
	}
	return vms;
}

static void vm_destroy(struct vm *vm)
{
	wl_list_remove(&vm->link);
	leftovers_finish(&vm->leftovers);
	budget_page_destroy(vm->page);
	close(vm->page_fd);
	free(vm->taken);
	free(vm);
}

void vms_destroy(struct vms *vms)
{
	if (vms == NULL) {
		return;
	}
	struct vm *vm, *next;
	wl_list_for_each_safe (vm, next, &vms->list, link) {
		vm_destroy(vm);
	}
	free(vms);
}

void vms_set_options(struct vms *vms, const struct vms_options *options)
{
	struct vm *vm;
	vms->options = *options;
	wl_list_for_each (vm, &vms->list, link) {
		budget_page_set_limits(vm->page, &options->limits);
	}
}

static struct vm *find(const struct vms *vms, uint32_t cid)
{
	struct vm *vm;
	wl_list_for_each (vm, &vms->list, link) {
		if (vm->cid == cid) {
			return vm;
		}
	}
	return NULL;
}

static bool is_idle(const struct vm *vm)
{
	return vm->sessions == 0 && vm->leftovers.count == 0;
}

static void forget_idle(struct vms *vms)
{
	size_t idle = 0;
	struct vm *vm, *next;
	wl_list_for_each_safe (vm, next, &vms->list, link) {
		idle += is_idle(vm) ? 1 : 0;
		if (is_idle(vm) && idle > IDLE_MAX) {
			vm_destroy(vm);
		}
	}
}

// More than it may have, since that may change, and one for what they leave.
static unsigned int most_slots(const struct vms *vms)
{
	unsigned int max = vms->options.max_sessions;
	return (max > VMS_SLOTS ? max : VMS_SLOTS) + 1;
}

static struct vm *vm_create(struct vms *vms, uint32_t cid)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	if (vm == NULL) {
		return NULL;
	}
	vm->vms = vms;
	vm->cid = cid;
	vm->n_slots = most_slots(vms);
	vm->taken = calloc(vm->n_slots, sizeof(*vm->taken));
	if (vm->taken == NULL) {
		goto err_vm;
	}
	vm->page = budget_page_create(&vms->options.limits, vm->n_slots, &vm->page_fd);
	if (vm->page == NULL) {
		goto err_taken;
	}
	leftovers_init(&vm->leftovers);
	vm->taken[LEFTOVERS_SLOT] = true;
	wl_list_insert(&vms->list, &vm->link);
	forget_idle(vms);
	return vm;

err_taken:
	free(vm->taken);
err_vm:
	free(vm);
	return NULL;
}

// The slots that are in use are below it.
static size_t end_of_slots(const struct vm *vm)
{
	size_t end = vm->n_slots;
	while (end > 0 && !vm->taken[end - 1]) {
		end--;
	}
	return end;
}

static void print_name(const struct vm *vm, char *name, size_t len)
{
	if (vm->cid != 0) {
		snprintf(name, len, "VM with CID %u", vm->cid);
	} else {
		snprintf(name, len, "local guests");
	}
}

static void tell_untold(struct vm *vm, uint64_t now)
{
	char name[32];
	if (vm->untold == 0 || now < vm->tell_at) {
		return;
	}
	print_name(vm, name, sizeof(name));
	log_warn("%s: connections turned away: %u, too many per second (--connection-rate)", name,
		vm->untold);
	vm->untold = 0;
	vm->tell_at = now + TELL_INTERVAL;
}

static bool may_connect(struct vm *vm, uint64_t now)
{
	bool may = rate_take(&vm->connected_until, &vm->vms->options.connections, 1, now);
	if (!may) {
		vm->untold++;
		vm->turned_away++;
	}
	tell_untold(vm, now);
	return may;
}

// NULL with errno. A VM that can have too few slots now, and none is taken, is made anew.
static struct vm *get_vm(struct vms *vms, uint32_t cid)
{
	struct vm *vm = find(vms, cid);
	if (vm != NULL && (!is_idle(vm) || vm->n_slots > vms->options.max_sessions)) {
		return vm;
	}
	uint64_t connected_until = 0;
	if (vm != NULL) {
		connected_until = vm->connected_until;
		vm_destroy(vm);
	}
	vm = vm_create(vms, cid);
	if (vm != NULL) {
		vm->connected_until = connected_until;
	}
	return vm;
}

static bool is_full(const struct vm *vm)
{
	return vm->sessions >= vm->vms->options.max_sessions || vm->sessions == vm->n_slots - 1;
}

struct vm *vms_enter(struct vms *vms, uint32_t cid, uint64_t now, size_t *slot)
{
	struct vm *vm = get_vm(vms, cid);
	if (vm == NULL) {
		return NULL;
	}
	if (!may_connect(vm, now)) {
		errno = EAGAIN;
		return NULL;
	}
	if (is_full(vm) || vm->leftovers.count >= LEFTOVERS_FULL) {
		errno = is_full(vm) ? EDQUOT : ENOBUFS;
		return NULL;
	}
	*slot = 0;
	while (vm->taken[*slot]) {
		(*slot)++;
	}
	vm->taken[*slot] = true;
	vm->sessions++;
	vm->peak = vm->sessions > vm->peak ? vm->sessions : vm->peak;
	budget_page_clear(vm->page, *slot, end_of_slots(vm));
	return vm;
}

void vm_leave(struct vm *vm, size_t slot)
{
	assert(vm->taken[slot]);
	vm->taken[slot] = false;
	vm->sessions--;
	budget_page_clear(vm->page, slot, end_of_slots(vm));
}

bool vm_leave_unread(struct vm *vm, int fd, const uint64_t amounts[BUDGET_COUNT])
{
	bool ok = leftovers_add(&vm->leftovers, fd, amounts);
	budget_page_put(vm->page, LEFTOVERS_SLOT, vm->leftovers.charged);
	return ok;
}

bool vms_look(struct vms *vms)
{
	bool any = false;
	struct vm *vm;
	wl_list_for_each (vm, &vms->list, link) {
		if (vm->leftovers.count > 0) {
			any = leftovers_look(&vm->leftovers) || any;
			budget_page_put(vm->page, LEFTOVERS_SLOT, vm->leftovers.charged);
		}
	}
	return any;
}

int vm_page(const struct vm *vm)
{
	return vm->page_fd;
}

void vms_print(const struct vms *vms, FILE *out, const char *program)
{
	struct vm *vm;
	wl_list_for_each (vm, &vms->list, link) {
		char title[240], name[32];
		print_name(vm, name, sizeof(name));
		snprintf(title, sizeof(title),
			"%s: %s\n  %-15s  %u used, %u at most, limit %u\n"
			"  %-15s  %llu turned away",
			program, name, "sessions", vm->sessions, vm->peak,
			vms->options.max_sessions, "connections",
			(unsigned long long)vm->turned_away);
		budget_page_print(out, title, vm->page);
	}
}
