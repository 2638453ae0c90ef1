#ifndef PROGRAM_VMS_H
#define PROGRAM_VMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/budget.h"
#include "base/rate.h"

/**
 * The virtual machines that have sessions, and what all sessions of each may take together. A machine
 * is a CID; whoever comes by a UNIX socket is of one machine.
 */

struct vm;
struct vms;

struct vms_options {
	struct budget_limits limits; // of the sessions of a VM together
	unsigned int max_sessions;   // of a VM
	struct rate connections;     // of a VM
};

// NULL with errno. options is copied.
struct vms *vms_create(const struct vms_options *options);
void vms_destroy(struct vms *vms); // when no session is left; NULL is fine

// From now on. Sessions that run keep the limits that they have begun with, and a VM that has sessions the
// most that it could have when the first of them came, or VMS_SLOTS if that is more. Copied.
void vms_set_options(struct vms *vms, const struct vms_options *options);

#define VMS_SLOTS 1024

// A session of the VM begins now (CLOCK_MONOTONIC, nanoseconds): its VM and its slot in the VM's page.
// NULL with errno: EDQUOT if the VM has as many as it may; EAGAIN if it connects more often than it may,
// which is logged once in a while; ENOBUFS
// if its sessions have left too much that nobody has read.
struct vm *vms_enter(struct vms *vms, uint32_t cid, uint64_t now, size_t *slot);
// That session is gone, in whatever way: what it was charged is given back.
void vm_leave(struct vm *vm, size_t slot);
// What a session that ends was charged for, and nobody has read from fd, which is taken: it stays charged to
// the VM until vms_look finds it read. False: that is no such socket.
bool vm_leave_unread(struct vm *vm, int fd, const uint64_t amounts[BUDGET_COUNT]);
// False: nothing is left of any VM, until vm_leave_unread.
bool vms_look(struct vms *vms);
// For the session's process; borrowed.
int vm_page(const struct vm *vm);

// What the sessions of each VM have now, and had at most.
void vms_print(const struct vms *vms, FILE *out, const char *program);

#endif
