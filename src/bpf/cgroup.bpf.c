/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Control groups come and go: so that a container has a name from its first packet on, and one that is gone keeps it. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "cgroup.h"
#include "transport.h"

/* As it is reserved in the ring; the record's own length says how much of it is used. */
struct cgroup_record {
	struct cgroup_event event;
	__u8 path[CGROUP_PATH_MAX];
};

static __always_inline void report_cgroup(void *ctx, struct cgroup *group, const char *path, __u8 flags)
{
	struct cgroup_root *root = ARGUMENT(group, root);
	struct kernfs_node *node = ARGUMENT(group, kn);
	struct cgroup_record *record;
	__u64 pid_tgid;
	long length;

	if ((__u32)ARGUMENT(root, hierarchy_id) != settings.cgroup_hierarchy)
		return;
	record = event_reserve(sizeof(*record), EVENT_GROUP);
	if (!record)
		return;
	pid_tgid = bpf_get_current_pid_tgid();
	length = bpf_probe_read_kernel_str(record->path, sizeof(record->path), path) - 1;
	/* the end of a path that fills its place is not its end */
	if (length < 0 || length >= CGROUP_PATH_MAX - 1)
		length = 0;
	record->event.header.length = sizeof(record->event) + length;
	record->event.header.flags = flags;
	record->event.header.pid = pid_tgid >> 32;
	record->event.header.tid = pid_tgid;
	record->event.cgroup_id = NODE_NUMBER(node);
	event_submit(ctx, record);
}

TRACEPOINT(cgroup_mkdir)
int BPF_PROG(on_cgroup_mkdir, struct cgroup *group, const char *path)
{
	report_cgroup(ctx, group, path, 0);
	return 0;
}

/* Version 1 only. */
TRACEPOINT(cgroup_rename)
int BPF_PROG(on_cgroup_rename, struct cgroup *group, const char *path)
{
	report_cgroup(ctx, group, path, 0);
	return 0;
}

TRACEPOINT(cgroup_rmdir)
int BPF_PROG(on_cgroup_rmdir, struct cgroup *group, const char *path)
{
	report_cgroup(ctx, group, path, EVENT_REMOVED);
	return 0;
}
