//! An unbound of our own with one zone, and names that are known to fail.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use super::{
    free_port,
    netns::Namespace,
    process::{Process, run_within},
    until,
};

/// What the zone `shop.test` holds, as a zone file. The text is a secret: it must never be seen in any output.
const ZONE: &str = "\
$ORIGIN shop.test.
$TTL 300
@ IN SOA ns.shop.test. admin.shop.test. 1 3600 600 86400 60
@ IN NS ns.shop.test.
@ IN MX 10 mail.shop.test.
@ IN TXT \"token=hunter2\"
ns IN A 192.0.2.53
mail IN A 192.0.2.25
web IN A 192.0.2.10
web IN A 192.0.2.11
web 60 IN AAAA 2001:db8::10
www IN CNAME web
shop IN CNAME www
_http._tcp IN SRV 0 5 8080 web.shop.test.
";

/// Answered with NOERROR, NXDOMAIN, REFUSED and SERVFAIL, and not at all.
pub const ZONE_NAME: &str = "shop.test";
pub const MISSING: &str = "missing.shop.test";
pub const REFUSED: &str = "refused.test";
pub const BROKEN: &str = "broken.test";
/// Over TCP the server closes the connection instead of answering.
pub const SILENT: &str = "silent.test";

/// Answers UDP and TCP on one port for as long as it lives.
pub struct Unbound {
    process: Process,
    directory: TempDir,
    pub port: u16,
}

impl Unbound {
    /// On a free port of 127.0.0.1 and ::1.
    pub fn start() -> Self {
        let port = free_port();
        let mut unbound = Self::spawn(Command::new(PROGRAM), &["127.0.0.1", "::1"], port);
        // UDP is bound before TCP is listened on.
        unbound.process.listens(SocketAddr::from(([127, 0, 0, 1], port)));
        unbound
    }

    /// On port 53 of every address of a namespace, where a resolver looks for it. It has one socket for all addresses.
    pub fn start_in(namespace: &Namespace) -> Self {
        let unbound = Self::spawn(namespace.command(PROGRAM), &["0.0.0.0"], 53);
        until("unbound to answer", Duration::from_secs(10), || {
            let mut dig = namespace.command("dig");
            dig.args(["-r", "@127.0.0.1", "+tries=1", "+timeout=1", ZONE_NAME, "SOA"]);
            run_within(&mut dig, Duration::from_secs(10)).status.success().then_some(())
        });
        unbound
    }

    fn spawn(mut unbound: Command, interfaces: &[&str], port: u16) -> Self {
        let directory = TempDir::with_prefix("remora-unbound-").expect("make a directory");
        let zone = directory.path().join("zone");
        std::fs::write(&zone, ZONE).expect("write the zone");
        let settings = settings(directory.path(), &zone, interfaces, port);
        let path = directory.path().join("unbound.conf");
        std::fs::write(&path, settings).expect("write the settings");
        let log = std::fs::File::create(directory.path().join("log")).expect("make the server's log");
        unbound.arg("-d").arg("-c").arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Self { process: Process::spawn(&mut unbound), directory, port }
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// `dig` asking this server once, with what the caller adds: `+tcp`, a name, a type.
    pub fn dig(&self, arguments: &[&str]) -> Command {
        let mut dig = Command::new("dig");
        // Settings of the host's own user are left out.
        dig.args(["-r", "@127.0.0.1", "-p", &self.port.to_string(), "+tries=1"]).args(arguments);
        dig.stdin(Stdio::null());
        dig
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

const PROGRAM: &str = "/usr/sbin/unbound";

fn settings(directory: &Path, zone: &Path, interfaces: &[&str], port: u16) -> String {
    let (directory, zone) = (directory.display(), zone.display());
    let interfaces: String = interfaces.iter().map(|interface| format!("  interface: {interface}\n")).collect();
    format!(
        "server:
{interfaces}  port: {port}
  do-daemonize: no
  chroot: \"\"
  username: \"\"
  pidfile: \"\"
  use-syslog: no
  logfile: \"\"
  directory: \"{directory}\"
  num-threads: 1
  module-config: \"iterator\"
  do-not-query-localhost: no
  access-control: 0.0.0.0/0 allow
  access-control: ::1/128 allow
  incoming-num-tcp: 100
  local-zone: \"test.\" nodefault
  local-zone: \"{REFUSED}.\" refuse
  local-zone: \"{SILENT}.\" deny
auth-zone:
  name: \"{ZONE_NAME}.\"
  for-downstream: yes
  for-upstream: no
  zonefile: \"{zone}\"
# Its zone comes from a primary that nobody is: SERVFAIL at once.
auth-zone:
  name: \"{BROKEN}.\"
  for-downstream: yes
  for-upstream: no
  fallback-enabled: no
  primary: 127.0.0.1@1
remote-control:
  control-enable: no
"
    )
}
