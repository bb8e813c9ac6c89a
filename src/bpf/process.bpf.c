/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Processes come and go: so that one that is gone can still be named. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "cgroup.h"
#include "transport.h"

TRACEPOINT(sched_process_exec)
int BPF_PROG(on_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct exec_event *event = event_reserve(sizeof(*event), EVENT_EXEC);

	if (!event)
		return 0;
	event->header.pid = pid_tgid >> 32;
	event->header.tid = pid_tgid;
	event->cgroup_id = current_cgroup_id();
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	__builtin_memset(event->filename, 0, sizeof(event->filename));
	__builtin_memset(event->argv0, 0, sizeof(event->argv0));
	bpf_probe_read_kernel_str(event->filename, sizeof(event->filename), BPF_CORE_READ(bprm, filename));
	bpf_probe_read_user_str(event->argv0, sizeof(event->argv0), (void *)BPF_CORE_READ(task, mm, arg_start));
	event_submit(ctx, event);
	return 0;
}

TRACEPOINT(sched_process_exit)
int BPF_PROG(on_exit, struct task_struct *task)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct exit_event *event;

	if (BPF_CORE_READ(task, signal, live.counter))
		return 0; /* other threads go on */
	event = event_reserve(sizeof(*event), EVENT_EXIT);
	if (!event)
		return 0;
	event->header.pid = pid_tgid >> 32;
	event->header.tid = pid_tgid;
	event_submit(ctx, event);
	return 0;
}

TRACEPOINT(sched_process_fork)
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	struct fork_event *event;

	if (ARGUMENT(child, pid) != ARGUMENT(child, tgid))
		return 0; /* a thread */
	event = event_reserve(sizeof(*event), EVENT_FORK);
	if (!event)
		return 0;
	event->header.pid = ARGUMENT(parent, tgid);
	event->header.tid = ARGUMENT(parent, pid);
	event->child = ARGUMENT(child, tgid);
	event->_pad = 0;
	event_submit(ctx, event);
	return 0;
}

/* Puts every record's type into the object's BTF, and so into the generated skeleton. */
union any_event {
	struct open_event open;
	struct owner_event owner;
	struct close_event close;
	struct fail_event fail;
	struct listen_event listen;
	struct data_event data;
	struct exec_event exec;
	struct exit_event exit;
	struct fork_event fork;
	struct counters_event counters;
	struct sweep_event sweep;
	struct udp_open_event udp_open;
	struct datagram_event datagram;
	struct cgroup_event cgroup;
};

union any_event any_event;
enum event_kind any_kind;
enum event_flag any_flag;
enum conn_role any_role;
enum close_reason any_reason;
enum tally any_stat;
enum wake any_wake;
enum cgroup_controller any_controller;
enum processor_holder any_holder;
