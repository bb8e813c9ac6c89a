//! The programs of one family, loaded as the agent does it, with a thread that reads their records; and a program that does nothing.
#![allow(unsafe_code, reason = "libbpf's calls for a program without an object have no safe wrapper")]

use std::{
    fs,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use crossbeam_channel::{Receiver, bounded};
use libbpf_rs::libbpf_sys;
use nix::{
    errno::Errno,
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use remora::{
    event::{Body, Event},
    model::{ConnectionId, Wish},
    probes::{
        features::Features,
        hooks::{HookFamily, Way},
        load::{LoadOptions, Probes},
        programs::{self, Part},
        table::Wishes,
        transport::{Reader, Sleep},
    },
};

use super::support::kernel::ProgramRuns;

pub const RING_BYTES: u32 = 8 << 20;
/// The agent's, while there is traffic.
const READING_PAUSE: Duration = Duration::from_millis(10);
/// Far beyond what a guest without hardware support needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// The loaded programs of a family, until dropped.
pub struct Watch {
    family: HookFamily,
    pub probes: Probes,
    wishes: Wishes,
    opened: Receiver<(u32, ConnectionId)>,
    end: Arc<AtomicBool>,
    reading: Option<JoinHandle<Result<()>>>,
}

impl Watch {
    /// `processor`: where records are read.
    pub fn start(features: &Features, way: &Way, processor: usize) -> Result<Self> {
        let options = LoadOptions {
            way: way.clone(),
            own_port: None,
            watch_client: true,
            watch_server: true,
            pids: vec![],
            ports: vec![],
            cgroups: features.cgroup_hierarchy,
            filter_cgroups: false,
            capture_len: 1024,
            ring_bytes: RING_BYTES,
            max_connections: 4096,
            measure: false,
        };
        let mut probes = Probes::load(&options)?;
        let (wishes, mut events) = (probes.wishes()?, probes.events()?);
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let (open, opened) = bounded(4096);
        let read = move || {
            let mut here = CpuSet::new();
            here.set(processor)?;
            sched_setaffinity(Pid::from_raw(0), &here).context("reading on one processor")?;
            let mut reader = Reader::new(&mut events, |record| {
                if let Ok(event) = Event::decode(record)
                    && let Body::Open { .. } = event.body
                {
                    // Of the many that others on the machine open some may be lost.
                    let _ = open.try_send((event.header.pid, event.header.connection));
                }
            })?;
            while !ended.load(Ordering::Relaxed) {
                if reader.consume()?.until_ns.is_some() {
                    reader.sleep(Sleep::Moment(READING_PAUSE))?;
                }
            }
            Ok(())
        };
        let reading = thread::Builder::new().name("reader".to_owned()).spawn(read).context("starting the reader")?;
        Ok(Self { family: way.family, probes, wishes, opened, end, reading: Some(reading) })
    }

    /// Forgets the connections of before.
    pub fn forget(&self) {
        self.opened.try_iter().for_each(drop);
    }

    /// Waits until both ends of a connection of this process are known; with `counted_only` nothing of them is captured from here on.
    pub fn meet(&self, pid: u32, counted_only: bool) -> Result<()> {
        let mut met = 0;
        while met < 2 {
            let (of, id) =
                self.opened.recv_timeout(PATIENCE).with_context(|| format!("{met} of 2 ends of the connection were reported"))?;
            if of == pid {
                met += 1;
                if counted_only {
                    self.wishes.set(id, Wish::NOTHING)?;
                }
            }
        }
        Ok(())
    }

    /// Of the programs that carry the family's data, so far; zero unless the kernel keeps statistics.
    pub fn runs(&self) -> ProgramRuns {
        let of_data =
            |name: &str| programs::of_family(self.family).any(|program| program.name == name && matches!(program.part, Part::Data(_)));
        let run_times = self.probes.run_times();
        run_times
            .iter()
            .filter(|run_time| of_data(&run_time.name))
            .fold(ProgramRuns::default(), |all, one| ProgramRuns { count: all.count + one.runs, time_ns: all.time_ns + one.nanoseconds })
    }

    /// Ends the reading; an error if it failed before.
    pub fn stop(mut self) -> Result<()> {
        self.end.store(true, Ordering::Relaxed);
        self.reading.take().map_or(Ok(()), |reading| reading.join().map_err(|_| anyhow!("the reader panicked"))?)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(reading) = self.reading.take() {
            drop(reading.join());
        }
    }
}

/// A program that does nothing, at the end of every system call: what the kernel's statistics show of it they cost themselves.
pub struct Empty {
    program: OwnedFd,
    _link: OwnedFd,
}

impl Empty {
    pub fn attach() -> Result<Self> {
        const INSTRUCTIONS: [[u8; 8]; 2] = [
            [0xb7, 0x00, 0, 0, 0, 0, 0, 0], // r0 = 0
            [0x95, 0x00, 0, 0, 0, 0, 0, 0], // exit
        ];
        let kind = libbpf_sys::BPF_PROG_TYPE_RAW_TRACEPOINT;
        // SAFETY: a pointer to as many whole instructions as are told and a text that ends with a NUL, both static, and nulls for no name
        // and no options; the call copies them.
        let program = unsafe {
            libbpf_sys::bpf_prog_load(
                kind,
                ptr::null(),
                c"GPL".as_ptr(),
                INSTRUCTIONS.as_ptr().cast(),
                INSTRUCTIONS.len() as _,
                ptr::null_mut(),
            )
        };
        let program = owned(program).context("loading an empty program")?;
        // SAFETY: a static text that ends with a NUL, and an open descriptor.
        let link = unsafe { libbpf_sys::bpf_raw_tracepoint_open(c"sys_exit".as_ptr(), program.as_raw_fd()) };
        Ok(Self { _link: owned(link).context("attaching an empty program")?, program })
    }

    pub fn runs(&self) -> Result<ProgramRuns> {
        let fdinfo = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.program.as_raw_fd())).context("reading statistics")?;
        let number = |key: &str| fdinfo.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
        let runs = ProgramRuns { count: number("run_cnt:").unwrap_or(0), time_ns: number("run_time_ns:").unwrap_or(0) };
        ensure!(runs.count > 0, "the kernel keeps no statistics of programs");
        Ok(runs)
    }
}

/// A descriptor, or libbpf's negative error.
fn owned(result: i32) -> Result<OwnedFd, Errno> {
    if result < 0 {
        return Err(Errno::from_raw(-result));
    }
    // SAFETY: libbpf just made it and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}
