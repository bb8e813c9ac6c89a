//! A process of its own that does nothing but watch a cluster, so that its memory and CPU are the watch's alone. The test asks it over
//! its standard input.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
};

use remora::{
    attribution::{
        Cluster,
        kubernetes::{self, Options},
    },
    model::Endpoint,
};

const KUBECONFIG: &str = "REMORA_TEST_BYSTANDER";

/// The process, as the test holds it.
pub struct Bystander {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

/// What one kind is at.
#[derive(Debug)]
#[allow(dead_code, reason = "all of it is shown where a test fails")]
pub struct KindLine {
    pub kind: String,
    pub state: String,
    pub objects: u64,
    pub events: u64,
    pub lists: u64,
    pub failures: u64,
    pub malformed: u64,
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub resident_bytes: u64,
    pub cpu_ms: u64,
}

impl Bystander {
    pub fn start(kubeconfig: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "bystander::stands_by", "--ignored", "--nocapture"]).env(KUBECONFIG, kubeconfig);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, to, from }
    }

    fn ask(&mut self, question: &str) -> String {
        writeln!(self.to, "{question}").unwrap();
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(self.from.read_line(&mut line).unwrap(), 0, "the bystander is gone");
            if let Some((_, answer)) = line.trim_end().split_once("> ") {
                return answer.to_owned();
            }
        }
    }

    /// Lets it begin to watch.
    pub fn watch(&mut self) {
        self.ask("watch");
    }

    /// The pod that has the address now, and its workload: `pod-1 deployment/web`. For an address of a Service only the latter.
    pub fn who(&mut self, address: &str, port: u16) -> Option<String> {
        Some(self.ask(&format!("who {address} {port}"))).filter(|answer| answer != "nobody")
    }

    pub fn usage(&mut self) -> Usage {
        let numbers = self.ask("usage");
        let (resident, cpu) = numbers.split_once(' ').unwrap();
        Usage { resident_bytes: resident.parse().unwrap(), cpu_ms: cpu.parse().unwrap() }
    }

    pub fn health(&mut self) -> Vec<KindLine> {
        let line = |text: &str| {
            let words: Vec<_> = text.split(' ').collect();
            let number = |at: usize| words[at].parse().unwrap();
            KindLine {
                kind: words[0].to_owned(),
                state: words[1].to_owned(),
                objects: number(2),
                events: number(3),
                lists: number(4),
                failures: number(5),
                malformed: number(6),
                bytes: number(7),
            }
        };
        self.ask("health").split(';').map(line).collect()
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process itself: no test, unless it was started as one.
#[test]
#[ignore = "a part of other tests"]
fn stands_by() {
    let Some(kubeconfig) = std::env::var_os(KUBECONFIG) else { return };
    let options = Options { kubeconfig: Some(kubeconfig.into()), labels: vec!["app.kubernetes.io/*".into()], ..Options::default() };
    let cluster = Arc::new(Cluster::default());
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<_> = line.split(' ').collect();
        let answer = match *words {
            ["watch"] => {
                let (options, cluster) = (options.clone(), Arc::clone(&cluster));
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(kubernetes::watch(options, cluster, std::future::pending())).unwrap();
                });
                "begins".to_owned()
            }
            ["who", address, port] => who(&cluster, Endpoint { address: address.parse().unwrap(), port: port.parse().unwrap() }),
            ["health"] => health(&cluster),
            ["usage"] => usage(),
            _ => panic!("{line}"),
        };
        println!("> {answer}");
    }
}

fn who(cluster: &Cluster, end: Endpoint) -> String {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    let now_ns = now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64;
    let Some(remote) = cluster.remote(end, false, now_ns) else { return "nobody".to_owned() };
    let workload = format!("{}/{}", remote.workload.kind.name(), remote.workload.name);
    remote.pod.as_ref().map_or_else(|| workload.clone(), |pod| format!("{} {workload}", pod.name))
}

fn health(cluster: &Cluster) -> String {
    let kinds = cluster.health();
    let line = |kind: &kubernetes::KindHealth| {
        let numbers = [kind.objects, kind.events, kind.lists, kind.failures, kind.malformed, kind.bytes].map(|number| number.to_string());
        format!("{} {} {}", kind.kind.name(), kind.state.name(), numbers.join(" "))
    };
    kinds.iter().map(line).collect::<Vec<_>>().join(";")
}

fn usage() -> String {
    // Without the pages of the program itself, which grow with what was first used.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let kib: u64 = anonymous.trim().trim_end_matches(" kB").parse().unwrap();
    let cpu = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap();
    format!("{} {}", kib << 10, cpu.tv_sec() * 1_000 + cpu.tv_nsec() / 1_000_000)
}
