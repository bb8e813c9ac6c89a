//! Network namespaces of our own, gone with the test.

use std::process::Command;

use super::process::run;

pub struct Namespace {
    pub name: String,
}

impl Namespace {
    /// With its loopback up.
    pub fn new(suffix: &str) -> Self {
        let name = format!("remora-{}-{suffix}", std::process::id());
        ip(&["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// `ip` with these arguments inside.
    pub fn ip(&self, arguments: &[&str]) {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments));
    }

    /// Starts a command inside: `ip` becomes the program, so the pid is the program's own.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// What `act` returns, called in a thread that is inside: sockets made there stay there.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.name);
        let enter = move || {
            let namespace = std::fs::File::open(path).expect("open the namespace");
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("enter the namespace");
            act()
        };
        std::thread::scope(|scope| scope.spawn(enter).join().expect("the thread inside"))
    }

    pub fn set(&self, sysctl: &str, value: &str) {
        run(self.command("sysctl").args(["-q", "-w", &format!("{sysctl}={value}")]));
    }

    /// Joins two namespaces by a veth pair; each side gets its address (`10.9.0.1/24`).
    pub fn join(left: (&Namespace, &str), right: (&Namespace, &str)) {
        let (left, left_address) = left;
        let (right, right_address) = right;
        ip(&["-n", &left.name, "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", &right.name]);
        for (namespace, address) in [(left, left_address), (right, right_address)] {
            namespace.ip(&["address", "add", address, "dev", "veth0"]);
            namespace.ip(&["link", "set", "veth0", "up"]);
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Takes the devices inside with it.
        Command::new("ip").args(["netns", "delete", &self.name]).status().ok();
    }
}

fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments));
}
