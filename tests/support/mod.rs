//! What the tests on a real kernel share: the agent as a child, real servers, and the questions asked of its output.
//! Every process started here is stopped here, by its own pid.

pub mod agent;
pub mod capture;
pub mod cgroup;
pub mod dns;
pub mod exchange;
pub mod grpc;
pub mod http;
pub mod http2;
pub mod mysql;
pub mod netns;
pub mod nginx;
pub mod postgres;
pub mod process;
pub mod rabbitmq;
pub mod redis;
pub mod tls;
pub mod websocket;

use std::{
    net::TcpListener,
    path::PathBuf,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

static MACHINE: Mutex<()> = Mutex::new(());

/// The whole machine for one test: the agent sees everything on it, so tests take turns.
pub fn machine() -> MutexGuard<'static, ()> {
    assert!(nix::unistd::geteuid().is_root(), "the kernel tests load BPF programs and need root: run them as root (`make test`)");
    // A test that failed while it had the machine has stopped its processes on the way out.
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A TCP port of 127.0.0.1 that nobody listened on a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind a free port");
    listener.local_addr().expect("address of a bound socket").port()
}

/// Waits for a condition that nothing reports by itself, looking every few milliseconds.
pub fn until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < patience, "waited {patience:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_nanos() as u64
}

/// Path of one of the programs of `examples/`, built in the profile of this test.
///
/// Cargo builds examples for a bare `cargo test` only, not for `--tests` or `--test kernel`, so it is asked here.
pub fn program(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let directory = BUILT.get_or_init(|| {
        let test = std::env::current_exe().expect("path of this test");
        let profile = test.parent().and_then(|deps| deps.parent()).expect("a test lies in target/PROFILE/deps");
        if let Some(cargo) = std::env::var_os("CARGO") {
            let mut build = std::process::Command::new(cargo);
            build.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet", "--examples"]);
            if profile.ends_with("release") {
                build.arg("--release");
            }
            assert!(build.status().expect("run cargo").success(), "cargo build --examples failed");
        }
        profile.join("examples")
    });
    let path = directory.join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --examples` in the same profile", path.display());
    path
}
