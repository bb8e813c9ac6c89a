/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The control group of the running task, in the hierarchy by which containers are told apart. */
#ifndef REMORA_CGROUP_H
#define REMORA_CGROUP_H

#include "compat.h"
#include "maps.h"

/*
 * A host of version 1 or of both has a tree for each controller beside that of
 * version 2, and engines need not place a container in the latter. `settings`
 * is constant at load, so that the verifier keeps one way through this.
 */
static __always_inline __u64 current_cgroup_id(void)
{
	struct cgroup_subsys_state **states;
	struct cgroup_subsys_state *state;
	struct task_struct *task;
	struct kernfs_node *node;
	struct css_set *groups;
	struct cgroup *group;
	__u64 place;

	switch (settings.cgroup_controller) {
	case CGROUP_PIDS:
		place = CONTROLLER_PLACE(pids);
		break;
	case CGROUP_MEMORY:
		place = CONTROLLER_PLACE(memory);
		break;
	case CGROUP_DEVICES:
		place = CONTROLLER_PLACE(devices);
		break;
	default:
		return bpf_get_current_cgroup_id();
	}
	task = CURRENT_TASK();
	groups = LOAD(task, cgroups);
	states = (void *)groups + bpf_core_field_offset(struct css_set, subsys);
	if (bpf_probe_read_kernel(&state, sizeof(state), states + place))
		return 0;
	group = LOAD(state, cgroup);
	node = LOAD(group, kn);
	return NODE_NUMBER(node);
}

/* Without a filter this is no code at all. */
static __always_inline bool cgroup_ignored(__u64 id)
{
	return settings.filter_cgroups && bpf_map_lookup_elem(&cgroups, &id);
}

#endif /* REMORA_CGROUP_H */
