//! The agent: from events to outputs. `pipeline` makes every thread; here is what they are made of, and their end.

mod about;
mod drain;
mod early;
mod frames;
mod lines;
mod losses;
mod names;
mod outlet;
mod overheard;
mod parties;
mod peers;
mod pipeline;
mod programs;
mod publish;
pub mod rehearsal;
mod remotes;
mod replay;
mod router;
mod scope;
mod services;
mod surroundings;
mod tape;
mod udp;
mod worker;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, IsTerminal, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, after, never, select};
use tokio::sync::watch;

use crate::{
    attribution::{CgroupPaths, Cluster, Conntrack, ContainerNames, Listeners, Processes, kubernetes, process::PROCESSES_MAX},
    config::{Config, Kubernetes, Output, Raw, Sides},
    export::{
        Name, Published,
        json::{self, ReadyView, SummaryView},
        terminal,
    },
    model::{Protocol, Protocols},
    probes::{
        clock,
        features::{BtfSource, Features},
        health::Trial,
        hooks::{HookFamily, Way, choose_hooks},
        load::{LoadOptions, Probes},
        packet::{Interfaces, PacketOptions, PacketProbes},
        transport::Transport,
    },
    record::{Header, Writer},
    telemetry::{Exit, Failure},
};
use drain::Live;
use frames::Frames;
use losses::Losses;
use names::{Host, Names, Source as NameSource};
use pipeline::{Control, Pipeline, Plan, Source, Tape, Wants};
use programs::Programs;
use publish::Publisher;
use replay::{Input, Tail};
use scope::Scope;
use surroundings::Sources;
use tape::Taped;
use worker::{Options, Worker};

/// How long the end may take: what is in the ring and in the queues is still worth having.
const DRAIN: Duration = Duration::from_secs(2);

/// Watches this host until a signal, the end of `duration`, or the user's leave.
///
/// # Errors
/// [`Exit::Unobservable`] when the kernel or the privileges do not suffice; other errors name what failed.
pub fn run(config: &Config) -> Result<Exit> {
    live(config, None)
}

/// The same, keeping every event in a recording.
pub fn record(config: &Config, file: &Path) -> Result<Exit> {
    live(config, Some(file))
}

/// Loads and attaches one family, and lets go again: what a trial says of each program.
pub fn trial(config: &Config, features: &Features, family: HookFamily) -> Result<Trial> {
    if family == HookFamily::Packet {
        let probes = load_frames(config, features, config.listen)?;
        let _frames = probes.frames()?;
        let _interfaces = attach(&probes, config)?;
        let transport = probes.transport();
        return Ok(Trial { flavour: None, transport, programs: probes.health().to_vec(), verified: BTreeMap::new() });
    }
    let probes = Probes::load(&LoadOptions { measure: true, ..load_options(config, features, family, None) })?;
    let (programs, verified) = (probes.health().to_vec(), probes.verified().clone());
    Ok(Trial { flavour: Some(probes.flavour()), transport: probes.transport(), programs, verified })
}

/// What the kernel offers, and the hooks that may work on it, the first choice first.
fn ground(config: &Config) -> Result<(Features, Vec<HookFamily>)> {
    let features = Features::probe(config.btf.as_deref(), &config.btf_archive, &config.docker_socket.sockets());
    match choose_hooks(&features, config.hooks, config.transport) {
        Ok(families) => Ok((features, families)),
        Err(refusal) => {
            let about_btf =
                features.btf_error.filter(|_| features.btf == BtfSource::None).map_or_else(String::new, |error| format!("; {error}"));
            let refusal = anyhow!("{refusal}{about_btf}; `remora doctor` says what each part costs and what to do");
            Err(Failure::unobservable(refusal).into())
        }
    }
}

/// The first family that the kernel takes.
fn load_any(config: &Config, features: &Features, families: &[HookFamily], own: Option<SocketAddr>) -> Result<(HookFamily, Programs)> {
    let mut failure = anyhow!("there are no hooks to be tried");
    for family in families {
        let loaded = match family {
            HookFamily::Packet => load_frames(config, features, own).map(|probes| Programs::Frames(Box::new(probes))),
            _ => Probes::load(&load_options(config, features, *family, own.map(|own| own.port())))
                .map(|probes| Programs::Sockets(Box::new(probes))),
        };
        match loaded {
            Ok(programs) => {
                tracing::info!("hooks {}: {programs}", family.name());
                return Ok((*family, programs));
            }
            Err(error) => {
                if families.len() > 1 {
                    tracing::warn!("the hooks {} fail although the kernel has all they need: {error:#}", family.name());
                }
                failure = error;
            }
        }
    }
    Err(Failure::unobservable(failure).into())
}

fn load_options(config: &Config, features: &Features, family: HookFamily, own_port: Option<u16>) -> LoadOptions {
    LoadOptions {
        way: Way::new(features, family, config.transport, config.ring_bytes),
        own_port,
        watch_client: config.sides != Sides::Server,
        watch_server: config.sides != Sides::Client,
        pids: config.pid.clone(),
        ports: config.port.clone(),
        cgroups: features.cgroup_hierarchy,
        filter_cgroups: !Scope::new(config).is_whole(),
        capture_len: config.capture_bytes,
        ring_bytes: config.ring_bytes,
        max_connections: config.max_connections,
        measure: false,
    }
}

fn load_frames(config: &Config, features: &Features, own: Option<SocketAddr>) -> Result<PacketProbes> {
    PacketProbes::load(&PacketOptions {
        transport: Transport::choose(config.transport, features.ring_buffer != Some(false), config.ring_bytes),
        addresses: config.address.iter().map(|network| (network.address, network.prefix_len)).collect(),
        ports: config.port.clone(),
        own,
        capture_len: config.capture_bytes,
        ring_bytes: config.ring_bytes,
    })
}

fn attach(probes: &PacketProbes, config: &Config) -> Result<Interfaces> {
    probes.attach(&config.interface).map_err(|error| Failure::unobservable(error).into())
}

fn live(config: &Config, recording: Option<&Path>) -> Result<Exit> {
    let (features, families) = ground(config)?;
    let listener = config.listen.map(bind).transpose()?;
    let own = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    let (start_ns, unix_ns) = (clock::now_ns(), clock::unix_ns());
    let unix_offset_ns = unix_ns as i64 - start_ns as i64;
    // Opened before anything is attached: a file that cannot be written should cost nothing.
    let of_frames = families == [HookFamily::Packet];
    let tape = recording.map(|path| open_tape(path, config, of_frames, unix_ns, unix_offset_ns)).transpose()?;
    let (family, mut programs) = load_any(config, &features, &families, own)?;

    let host = nix::unistd::gethostname().map_or_else(|_| "localhost".to_owned(), |name| name.to_string_lossy().into_owned());
    let losses = Arc::new(Losses::default());
    let containers = Arc::new(ContainerNames::default());
    let kubernetes = kubernetes_options(config, &host);
    let cluster = Arc::new(Cluster::default());
    let proc_root = Path::new("/proc");
    let mut listeners = Listeners::new(proc_root);
    let stop = Arc::new(AtomicBool::new(false));
    let connections = Arc::new(AtomicU64::new(0));

    // After the programs were attached: a group that is made in between is seen twice rather than not at all.
    let mut cgroups = CgroupPaths::find(proc_root, features.cgroup_hierarchy.controller.version1_name());
    // Frames tell of no process: nobody will ask for groups and listening sockets.
    if !of_frames {
        listeners.rescan(start_ns);
        cgroups.walk(start_ns);
    }

    let lines = config.output == Output::Json;
    let mut workers = Vec::new();
    let mut conntrack_error = None;
    for place in 0..config.workers {
        let processes = Processes::new(proc_root, cgroups.clone(), Arc::clone(&containers), PROCESSES_MAX);
        let processes = processes.in_cluster(Arc::clone(&cluster));
        let (containers, cluster) = (Arc::clone(&containers), Arc::clone(&cluster));
        let conntrack = Conntrack::open().map_err(|error| conntrack_error = Some(format!("{error:#}"))).ok();
        let source = NameSource::Host(Box::new(Host { processes, containers, cluster, conntrack }));
        let names = Names::new(source, Listeners::new(proc_root), tape.as_ref().map(|tape| tape.sender.clone()));
        let options = options(config, place, of_frames, unix_offset_ns);
        let wants = match &programs {
            Programs::Sockets(probes) => Some(Wants { wishes: probes.wishes()?, cgroups: probes.cgroup_filter()? }),
            Programs::Frames(_) => None,
        };
        workers.push((Worker::new(options, names, Arc::clone(&losses)), wants));
    }
    if let Some(error) = &conntrack_error {
        tracing::debug!("{error}: connections through rewritten addresses keep these for names");
    }
    let (control, events) = pipeline::control();
    let published = Arc::new(ArcSwap::from_pointee(Published::default()));
    let mut publisher = Publisher::new(Arc::clone(&published), config, host.clone(), family.name(), Arc::clone(&losses), start_ns);
    publisher.ask(Sources {
        engines: config.docker_socket.sockets(),
        containers: Arc::clone(&containers),
        cluster: Arc::clone(&cluster),
        conntrack_error,
    });
    let (tick, stopped, counted) = (config.snapshot_interval, Arc::clone(&stop), Arc::clone(&connections));
    let source = match &mut programs {
        Programs::Sockets(probes) => Source::Live(Box::new(Live {
            events: probes.events()?,
            table: probes.table()?,
            tick,
            stop: stopped,
            connections: counted,
            listeners,
        })),
        Programs::Frames(probes) => Source::Frames(Box::new(Frames {
            // Before the interfaces: frames need room from the first on.
            frames: probes.frames()?,
            interfaces: attach(probes, config)?,
            ports: config.port.clone(),
            max_connections: config.max_connections,
            tick,
            stop: stopped,
            connections: counted,
        })),
    };
    publisher.watch(programs, connections, config.max_connections);

    let (shutdown, shut) = watch::channel(false);
    let services = services::Services {
        listener,
        published: Arc::clone(&published),
        engines: config.docker_socket.sockets(),
        containers,
        kubernetes: (config.kubernetes != Kubernetes::Off).then_some(kubernetes),
        cluster,
        shutdown: shut,
    };
    let mut helpers = vec![pipeline::serve(services, control.clone())?];
    // From here on signals are heard: whoever reads the line may send one.
    if lines {
        ready_line(clock::unix_ns(), &host, family.name())?;
    }
    let plan = Plan { source, workers, lines, losses: Arc::clone(&losses), tape };
    let pipeline = pipeline::start(plan, &control)?;
    publisher.publish(true);

    let table_stop = Arc::new(AtomicBool::new(false));
    if config.output == Output::Table {
        let live = io::stdout().is_terminal();
        helpers.push(pipeline::show(Arc::clone(&published), live, Arc::clone(&table_stop), control.clone())?);
    }

    let deadline = config.duration.map_or_else(never, after);
    let outcome = attend(&events, &pipeline, &mut publisher, &deadline);
    publisher.detach();
    stop.store(true, Ordering::Release);
    finish(&events, &pipeline, &mut publisher)?;
    let elapsed_ns = clock::now_ns().saturating_sub(start_ns);
    publisher.publish(true);
    table_stop.store(true, Ordering::Release);
    let lost = publisher.lost();
    let ending = lost.clone();
    let joined = pipeline.join(move || Taped::End { elapsed_ns, lost: owned(&ending) });
    // The thread of the services is gone with the runtime, or with the process.
    let _ = shutdown.send(true);
    for helper in helpers {
        if helper.join().is_err() {
            tracing::error!("a thread panicked");
        }
    }
    summarise(config, &publisher, &owned(&lost), elapsed_ns)?;
    outcome.and(joined).map(|()| Exit::Done)
}

/// Replays a recording or a capture file through the same workers. Needs no privileges and no kernel.
pub fn replay(config: &Config, file: &Path) -> Result<Exit> {
    let input = Input::open(file)?;
    let (unix_offset_ns, frames) = (input.unix_offset_ns(), input.is_of_frames());
    let losses = Arc::new(Losses::default());
    let lines = config.output == Output::Json;
    let workers = (0..config.workers).map(|place| (replaying(config, place, frames, unix_offset_ns, &losses), None)).collect();
    let (control, events) = pipeline::control();
    let published = Arc::new(ArcSwap::from_pointee(Published::default()));
    let mut publisher = Publisher::new(Arc::clone(&published), config, file.display().to_string(), "replay", Arc::clone(&losses), 0);
    if lines {
        ready_line(clock::unix_ns(), &file.display().to_string(), "replay")?;
    }
    let plan = Plan { source: Source::File(input), workers, lines, losses: Arc::clone(&losses), tape: None };
    let pipeline = pipeline::start(plan, &control)?;
    let (shutdown, shut) = watch::channel(false);
    let services = services::Services {
        listener: None,
        published: Arc::clone(&published),
        engines: Vec::new(),
        containers: Arc::default(),
        kubernetes: None,
        cluster: Arc::default(),
        shutdown: shut,
    };
    let helper = pipeline::serve(services, control)?;
    let mut result = Ok(Tail::default());
    while !publisher.complete() {
        select! {
            recv(pipeline.reports) -> report => match report {
                Ok(report) => publisher.take(report),
                Err(_) => break,
            },
            recv(events) -> event => match event {
                Ok(Control::SourceEnded(tail)) => result = tail,
                Ok(Control::OutputClosed(error)) => result = Err(error),
                Ok(Control::Signal) => return Ok(Exit::Failed),
                _ => {}
            },
        }
    }
    let joined = pipeline.join(|| Taped::End { elapsed_ns: 0, lost: BTreeMap::new() });
    let _ = shutdown.send(true);
    let _ = helper.join();
    if let Ok(Control::SourceEnded(tail)) = events.try_recv() {
        result = tail;
    }
    publisher.publish(false);
    let tail = match result {
        Ok(tail) => tail,
        Err(error) if broken_pipe(&error) => return Ok(Exit::Done),
        Err(error) => {
            // What came before the damage was shown; its summary is as true as it was.
            summarise(config, &publisher, &owned(&publisher.lost()), 0)?;
            return Err(error);
        }
    };
    let mut lost = owned(&publisher.lost());
    for (reason, count) in tail.lost {
        let own = lost.entry(reason).or_default();
        *own = count.max(*own);
    }
    if config.output == Output::Table {
        let table = terminal::plain(&published.load(), None, terminal::Sort::Rate);
        io::stdout().lock().write_all(table.as_bytes()).context("printing the table")?;
    }
    summarise(config, &publisher, &lost, tail.elapsed_ns)?;
    joined.map(|()| Exit::Done)
}

/// A worker that knows of processes what it is told.
fn replaying(config: &Config, place: usize, frames: bool, unix_offset_ns: i64, losses: &Arc<Losses>) -> Worker {
    let names = Names::new(NameSource::Recording(Box::default()), Listeners::new(Path::new("/nonexistent")), None);
    Worker::new(options(config, place, frames, unix_offset_ns), names, Arc::clone(losses))
}

fn options(config: &Config, worker: usize, frames: bool, unix_offset_ns: i64) -> Options {
    Options {
        worker,
        workers: config.workers,
        frames,
        sides: config.sides,
        scope: Scope::new(config),
        detail: config.detail,
        lines: config.output == Output::Json,
        raw: raw(&config.raw),
        unix_offset_ns,
        connections: config.max_connections as usize,
    }
}

fn kubernetes_options(config: &Config, host: &str) -> kubernetes::Options {
    kubernetes::Options {
        kubeconfig: config.kubeconfig.clone(),
        is_required: config.kubernetes == Kubernetes::On,
        // As the kubelet does where nothing else is said.
        node_name: Some(config.node_name.clone().unwrap_or_else(|| host.to_lowercase())),
        pod_labels: config.pod_selector.clone().unwrap_or_default(),
        pod_fields: config.pod_field_selector.clone().unwrap_or_default(),
        labels: config.show_label.clone(),
    }
}

fn raw(chosen: &[Raw]) -> Protocols {
    let protocols = |raw: &Raw| match raw {
        Raw::Http => [Protocol::Http, Protocol::Http2].as_slice(),
        Raw::Grpc => &[Protocol::Grpc],
        Raw::Postgresql => &[Protocol::Postgresql],
        Raw::Mysql => &[Protocol::Mysql],
        Raw::Redis => &[Protocol::Redis],
        Raw::Amqp => &[Protocol::Amqp],
    };
    chosen.iter().flat_map(protocols).copied().collect()
}

fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .with_context(|| format!("listening on {address} (another agent? choose another address with --listen, or --listen none)"))
}

fn open_tape(path: &Path, config: &Config, of_frames: bool, start_unix_ns: u64, monotonic_to_unix_ns: i64) -> Result<Tape> {
    let file = File::create(path).with_context(|| format!("creating the recording {}", path.display()))?;
    let uname = nix::sys::utsname::uname().context("asking for the kernel's name")?;
    let header = Header {
        hostname: uname.nodename().to_string_lossy().into_owned(),
        kernel_release: uname.release().to_string_lossy().into_owned(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        start_unix_ns,
        monotonic_to_unix_ns,
        settings: BTreeMap::from([
            ("sides".to_owned(), serde_json::to_value(config.sides).context("keeping the settings")?),
            (replay::FRAMES.to_owned(), of_frames.into()),
        ]),
    };
    Ok(Tape::new(Writer::new(BufWriter::with_capacity(1 << 20, file), &header)?))
}

/// Publishes until something ends the run. An error is what ended it against the user's will.
fn attend(
    events: &Receiver<Control>,
    pipeline: &Pipeline,
    publisher: &mut Publisher,
    deadline: &Receiver<std::time::Instant>,
) -> Result<()> {
    loop {
        select! {
            recv(pipeline.reports) -> report => match report {
                Ok(report) => {
                    publisher.take(report);
                    publisher.publish(true);
                }
                Err(_) => return Err(anyhow!("all workers are gone")),
            },
            recv(events) -> event => match event {
                Ok(Control::Signal | Control::Left) | Err(_) => return Ok(()),
                Ok(Control::SourceEnded(result)) => return result.map(drop),
                Ok(Control::OutputClosed(error) | Control::TableFailed(error)) if broken_pipe(&error) => return Ok(()),
                Ok(
                    Control::OutputClosed(error)
                    | Control::RecordingFailed(error)
                    | Control::TableFailed(error)
                    | Control::ServicesFailed(error),
                ) => return Err(error),
            },
            recv(deadline) -> _ => return Ok(()),
        }
    }
}

/// Takes what is still on its way, for two seconds at most; a second signal ends the process at once.
fn finish(events: &Receiver<Control>, pipeline: &Pipeline, publisher: &mut Publisher) -> Result<()> {
    let deadline = after(DRAIN);
    while !publisher.complete() {
        select! {
            recv(pipeline.reports) -> report => match report {
                Ok(report) => publisher.take(report),
                Err(_) => return Ok(()),
            },
            recv(events) -> event => match event {
                Ok(Control::Signal) => std::process::exit(Exit::Failed as i32),
                Ok(Control::SourceEnded(Err(error)) | Control::RecordingFailed(error)) => return Err(error),
                Ok(_) => {}
                Err(_) => return Ok(()),
            },
            recv(deadline) -> _ => {
                tracing::warn!("some events were still on their way after {DRAIN:?} and are left out");
                return Ok(());
            }
        }
    }
    Ok(())
}

fn broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn ready_line(unix_nano: u64, host: &str, hooks: &str) -> Result<()> {
    let mut line = Vec::new();
    json::ready(&mut line, &ReadyView { unix_nano, host, hooks });
    let mut out = io::stdout().lock();
    out.write_all(&line).and_then(|()| out.flush()).context("writing to standard output")
}

fn owned(lost: &BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    lost.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
}

/// The last word: a line of JSON on standard output, or a sentence on standard error.
fn summarise(config: &Config, publisher: &Publisher, lost: &BTreeMap<String, u64>, elapsed_ns: u64) -> Result<()> {
    let snapshot = publisher.snapshot();
    if config.output == Output::Json {
        let lost: Vec<(Name, u64)> = lost.iter().map(|(reason, count)| (Name::from(reason.clone()), *count)).collect();
        let mut line = Vec::new();
        json::summary(&mut line, &SummaryView { snapshot: &snapshot, lost: &lost, elapsed_ns });
        let mut out = io::stdout().lock();
        return match out.write_all(&line).and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("writing to standard output"),
            _ => Ok(()),
        };
    }
    let total: u64 = lost.values().sum();
    let reasons: Vec<_> = lost.iter().filter(|(_, count)| **count > 0).map(|(reason, count)| format!("{reason} {count}")).collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    let seconds = elapsed_ns as f64 / 1e9;
    // Standard error may be closed; then nobody wants to know.
    let _ = writeln!(
        io::stderr(),
        "remora: {} exchanges on {} edges in {seconds:.1} s, {total} lost{reasons}",
        snapshot.exchanges,
        snapshot.edges.len()
    );
    Ok(())
}
