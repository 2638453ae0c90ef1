#include "program/vms.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>
#include <wayland-util.h>

// Machines without sessions are remembered for their peaks, but not for ever.
#define IDLE_MAX 64

struct vm {
	struct wl_list link; // vms.list, the latest first
	struct vms *vms;
	uint32_t cid; // 0: by UNIX socket
	struct budget_page *page;
	int page_fd;
	bool *taken;           // by slot
	unsigned int sessions; // slots that are taken
	unsigned int peak;
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

static void forget_idle(struct vms *vms)
{
	size_t idle = 0;
	struct vm *vm, *next;
	wl_list_for_each_safe (vm, next, &vms->list, link) {
		idle += vm->sessions == 0 ? 1 : 0;
		if (vm->sessions == 0 && idle > IDLE_MAX) {
			vm_destroy(vm);
		}
	}
}

static struct vm *vm_create(struct vms *vms, uint32_t cid)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	if (vm == NULL) {
		return NULL;
	}
	vm->vms = vms;
	vm->cid = cid;
	vm->taken = calloc(vms->options.max_sessions, sizeof(*vm->taken));
	if (vm->taken == NULL) {
		goto err_vm;
	}
	vm->page =
		budget_page_create(&vms->options.limits, vms->options.max_sessions, &vm->page_fd);
	if (vm->page == NULL) {
		goto err_taken;
	}
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
	size_t end = vm->vms->options.max_sessions;
	while (end > 0 && !vm->taken[end - 1]) {
		end--;
	}
	return end;
}

struct vm *vms_enter(struct vms *vms, uint32_t cid, size_t *slot)
{
	struct vm *vm = find(vms, cid);
	if (vm == NULL) {
		vm = vm_create(vms, cid);
	}
	if (vm == NULL) {
		return NULL;
	}
	if (vm->sessions == vms->options.max_sessions) {
		errno = EDQUOT;
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

int vm_page(const struct vm *vm)
{
	return vm->page_fd;
}

void vms_print(const struct vms *vms, FILE *out, const char *program)
{
	struct vm *vm;
	wl_list_for_each (vm, &vms->list, link) {
		char title[160], name[32] = "local guests";
		if (vm->cid != 0) {
			snprintf(name, sizeof(name), "VM with CID %u", vm->cid);
		}
		snprintf(title, sizeof(title), "%s: %s\n  %-15s  %u used, %u at most, limit %u",
			program, name, "sessions", vm->sessions, vm->peak,
			vms->options.max_sessions);
		budget_page_print(out, title, vm->page);
	}
}
