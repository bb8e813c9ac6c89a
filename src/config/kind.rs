//! Kinds of values: how a text becomes a value, how a value is written, and what is allowed, in words.

use std::{
    fmt::{self, Display},
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::ValueEnum;
use serde::Serialize;

/// Kernel hooks that carry the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Hooks {
    Auto,
    Socket,
    Fentry,
    Kprobe,
    Syscalls,
    Packet,
}

/// What records travel in from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Auto,
    Ring,
    Perf,
}

/// A network: an address, and how many of its first bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct Network {
    pub address: IpAddr,
    pub prefix_len: u8,
}

impl Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl FromStr for Network {
    type Err = ();

    /// `10.0.0.0/8`, `2001:db8::/32`; a bare address is a network of itself.
    fn from_str(word: &str) -> Result<Self, ()> {
        let (address, prefix_len) = word.split_once('/').map_or((word, None), |(address, prefix_len)| (address, Some(prefix_len)));
        let address = IpAddr::from_str(address).map_err(drop)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix_len = prefix_len.map_or(Ok(bits), |digits| digits.parse().map_err(drop))?;
        if prefix_len <= bits { Ok(Self { address, prefix_len }) } else { Err(()) }
    }
}

/// What goes to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    Table,
    Json,
    None,
}

/// Which sockets of a same-host connection are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Sides {
    Both,
    Server,
    Client,
}

/// Protocols whose values may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Raw {
    /// HTTP of all versions: query strings.
    Http,
    /// The message that goes with a status.
    Grpc,
    /// SQL as it was sent.
    Postgresql,
    Mysql,
    /// Keys.
    Redis,
    /// Names that a server made up.
    Amqp,
}

/// Whether a Kubernetes cluster is asked for names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kubernetes {
    /// Where there is a service account or a kubeconfig.
    Auto,
    /// There must be one.
    On,
    Off,
}

/// What edges tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Detail {
    Workload,
    Pod,
}

/// Where the engine listens that names containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum Engine {
    /// Docker, else podman, wherever one is there.
    Auto,
    None,
    At(PathBuf),
}

impl Engine {
    /// The sockets to look at, in this order.
    pub fn sockets(&self) -> Vec<PathBuf> {
        match self {
            Engine::Auto => ["/var/run/docker.sock", "/run/podman/podman.sock"].map(PathBuf::from).into(),
            Engine::None => Vec::new(),
            Engine::At(path) => vec![path.clone()],
        }
    }
}

impl From<Engine> for String {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Auto => "auto".to_owned(),
            Engine::None => "none".to_owned(),
            Engine::At(path) => path.display().to_string(),
        }
    }
}

/// Where BTF of kernels that carry none is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum BtfArchive {
    /// The paths of [`BtfArchive::paths`], then what is inside the program.
    Auto,
    None,
    At(PathBuf),
}

impl BtfArchive {
    /// The directories and archives to look at, in this order: that of a package or an image layer, then that of the administrator.
    pub fn paths(&self) -> Vec<PathBuf> {
        match self {
            BtfArchive::Auto => ["/usr/share/remora/btf", "/etc/remora/btf"].map(PathBuf::from).into(),
            BtfArchive::None => Vec::new(),
            BtfArchive::At(path) => vec![path.clone()],
        }
    }
}

impl From<BtfArchive> for String {
    fn from(archive: BtfArchive) -> Self {
        match archive {
            BtfArchive::Auto => "auto".to_owned(),
            BtfArchive::None => "none".to_owned(),
            BtfArchive::At(path) => path.display().to_string(),
        }
    }
}

/// From this level on messages are logged; ordered from silent to talkative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// As tracing's `LevelFilter` reads it.
    pub fn name(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }

    /// `steps` more (or less, when negative) talkative, as far as there are levels.
    pub fn step(self, steps: i32) -> Self {
        let levels = Self::value_variants();
        let last = levels.len() as i32 - 1;
        levels[(self as i32).saturating_add(steps).clamp(0, last) as usize]
    }
}

type Read<T> = Box<dyn Fn(&[&str]) -> Option<T> + Send + Sync>;
type Write<T> = Box<dyn Fn(&T) -> Vec<String> + Send + Sync>;

/// A kind of value. `read` gets the words given: one, or for lists any number.
pub struct Kind<T> {
    /// What is allowed, to stand after "allowed:".
    pub allowed: String,
    pub many: bool,
    pub read: Read<T>,
    /// The words of the value as a user would write them.
    pub write: Write<T>,
}

fn single<T: 'static>(
    allowed: impl Into<String>,
    read: impl Fn(&str) -> Option<T> + Send + Sync + 'static,
    write: impl Fn(&T) -> String + Send + Sync + 'static,
) -> Kind<T> {
    Kind {
        allowed: allowed.into(),
        many: false,
        read: Box::new(move |words| match words {
            [word] => read(word),
            _ => None,
        }),
        write: Box::new(move |value| vec![write(value)]),
    }
}

/// One word of an enumeration.
pub fn choice<T: ValueEnum + 'static>() -> Kind<T> {
    let name = |value: &T| value.to_possible_value().map_or(String::new(), |possible| possible.get_name().to_owned());
    let names = T::value_variants().iter().map(name).collect::<Vec<_>>();
    single(names.join(", "), |word| T::from_str(word, false).ok(), name)
}

fn within<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(u64) -> Option<T> + Send + Sync {
    move |number| range.contains(&number).then(|| T::try_from(number).ok()).flatten()
}

/// A whole number.
pub fn number<T: TryFrom<u64> + Display + 'static>(range: RangeInclusive<u64>) -> Kind<T> {
    let allowed = format!("a whole number from {} to {}", range.start(), range.end());
    let within = within(range);
    single(allowed, move |word| word.parse().ok().and_then(&within), T::to_string)
}

/// Bytes: `4096`, `64KiB`, `8MiB`, `1GiB`.
pub fn size<T: TryFrom<u64> + Copy + Into<u64> + 'static>(range: RangeInclusive<u64>) -> Kind<T> {
    let allowed = format!("a size from {} to {}, as in 4096, 64KiB, 8MiB", written_size(*range.start()), written_size(*range.end()));
    let within = within(range);
    single(allowed, move |word| read_size(word).and_then(&within), |&bytes: &T| written_size(bytes.into()))
}

/// Narrows a size to powers of two.
pub fn power_of_two(size: Kind<u32>) -> Kind<u32> {
    let allowed = format!("a power of two: {}", size.allowed);
    let read = move |words: &[&str]| (size.read)(words).filter(|bytes| bytes.is_power_of_two());
    Kind { allowed, many: false, read: Box::new(read), write: size.write }
}

const SIZES: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

fn read_size(word: &str) -> Option<u64> {
    let (digits, unit) = split_unit(word);
    let bytes = match unit {
        "" | "B" => 1,
        _ => SIZES.iter().find(|(name, _)| *name == unit)?.1,
    };
    digits.parse::<u64>().ok()?.checked_mul(bytes)
}

fn written_size(bytes: u64) -> String {
    match SIZES.iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

/// A time above zero: `500ms`, `10s`, `5m`, `1h`; a bare number is seconds.
pub fn duration() -> Kind<Duration> {
    single("a time above zero, as in 500ms, 10s, 5m, 1h", read_duration, written_duration)
}

const DURATIONS: [(&str, u64); 5] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("", 1000), ("ms", 1)];

fn read_duration(word: &str) -> Option<Duration> {
    let (digits, unit) = split_unit(word);
    let (_, unit_ms) = DURATIONS.iter().find(|(name, _)| *name == unit)?;
    let milliseconds = digits.parse::<u64>().ok()?.checked_mul(*unit_ms)?;
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
}

fn written_duration(time: &Duration) -> String {
    let milliseconds = time.as_millis() as u64;
    let fits = |(name, unit): &&(&str, u64)| !name.is_empty() && milliseconds.is_multiple_of(*unit);
    DURATIONS.iter().find(fits).map_or_else(|| format!("{milliseconds}ms"), |(name, unit)| format!("{}{name}", milliseconds / unit))
}

fn split_unit(word: &str) -> (&str, &str) {
    word.split_at(word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len()))
}

/// An address and a port, `127.0.0.1:7117`, `[::1]:7117`; a bare `:7117` means every address.
pub fn socket_address() -> Kind<SocketAddr> {
    let read = |word: &str| match word.strip_prefix(':') {
        Some(port) => Some(SocketAddr::from(([0, 0, 0, 0], port.parse().ok()?))),
        None => SocketAddr::from_str(word).ok(),
    };
    single("an address and a port, as in 127.0.0.1:7117, [::1]:7117", read, SocketAddr::to_string)
}

/// Any text.
pub fn text() -> Kind<String> {
    single("a text that is not empty", |word| (!word.is_empty()).then(|| word.to_owned()), String::clone)
}

/// The name of a network interface; whether it is there is asked when it is used.
pub fn interface() -> Kind<String> {
    // dev_valid_name of the kernel.
    let is_name = |word: &str| {
        (1..=15).contains(&word.len()) && ![".", ".."].contains(&word) && !word.contains(|c: char| c.is_whitespace() || "/:".contains(c))
    };
    single("the name of a network interface, of at most 15 bytes", move |word| is_name(word).then(|| word.to_owned()), String::clone)
}

/// A network, or an address.
pub fn network() -> Kind<Network> {
    single("a network or an address, as in 10.0.0.0/8, 2001:db8::/32, 10.1.2.3", |word| word.parse().ok(), Network::to_string)
}

/// The path of a file; whether it is there is asked when it is used.
pub fn path() -> Kind<PathBuf> {
    single("a path", |word| (!word.is_empty()).then(|| PathBuf::from(word)), |path| path.display().to_string())
}

/// The socket of a container engine.
pub fn engine() -> Kind<Engine> {
    let read = |word: &str| match word {
        "" => None,
        "auto" => Some(Engine::Auto),
        "none" => Some(Engine::None),
        path => Some(Engine::At(PathBuf::from(path))),
    };
    single("auto, none, or a path", read, |engine| engine.clone().into())
}

/// A place where BTF is kept.
pub fn btf_archive() -> Kind<BtfArchive> {
    let read = |word: &str| match word {
        "" => None,
        "auto" => Some(BtfArchive::Auto),
        "none" => Some(BtfArchive::None),
        path => Some(BtfArchive::At(PathBuf::from(path))),
    };
    single("auto, none, or a path", read, |archive| archive.clone().into())
}

/// A value, or a word for its absence.
pub fn optional<T: 'static>(absent: &'static str, kind: Kind<T>) -> Kind<Option<T>> {
    let Kind { allowed, many, read, write } = kind;
    Kind {
        allowed: format!("{allowed}, or {absent}"),
        many,
        read: Box::new(move |words| if words == [absent] { Some(None) } else { read(words).map(Some) }),
        write: Box::new(move |value| value.as_ref().map_or_else(|| vec![absent.to_owned()], &write)),
    }
}

/// Any number of values, none included.
pub fn list<T: 'static>(each: Kind<T>) -> Kind<Vec<T>> {
    let Kind { allowed, read, write, .. } = each;
    Kind {
        allowed: format!("{allowed}; several with commas"),
        many: true,
        read: Box::new(move |words| words.iter().map(|word| read(&[word])).collect()),
        write: Box::new(move |values| values.iter().flat_map(&write).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_unit_and_written_in_the_largest() {
        for (word, bytes) in [("4096", 4096), ("64KiB", 65536), ("8MiB", 8 << 20), ("1GiB", 1 << 30), ("7B", 7)] {
            assert_eq!(read_size(word), Some(bytes), "{word}");
        }
        for word in ["", "KiB", "8mb", "-1", "1.5MiB", "99999999999GiB", "8 MiB"] {
            assert_eq!(read_size(word), None, "{word}");
        }
        assert_eq!([0, 1000, 1536, 8 << 20].map(written_size), ["0", "1000", "1536", "8MiB"]);
    }

    #[test]
    fn durations_are_read_and_written_in_the_same_units() {
        for word in ["1ms", "500ms", "10s", "90s", "5m", "1h", "25h"] {
            assert_eq!(written_duration(&read_duration(word).unwrap()), word);
        }
        assert_eq!(read_duration("10"), Some(Duration::from_secs(10)));
        for word in ["", "0", "0s", "s", "10 s", "1.5s", "5min", "-1s", "99999999999999999999h", "9999999999999999h"] {
            assert_eq!(read_duration(word), None, "{word}");
        }
    }

    #[test]
    fn numbers_are_held_to_their_range_and_type() {
        let ports = list(number::<u16>(1..=65535));
        assert_eq!((ports.read)(&["80", "443"]), Some(vec![80, 443]));
        assert_eq!((ports.read)(&["80", "65536"]), None);
        assert_eq!((ports.read)(&["0"]), None);
        let ring = power_of_two(size(4096..=1 << 20));
        assert_eq!((ring.read)(&["8KiB"]), Some(8192));
        assert_eq!((ring.read)(&["12KiB"]), None);
    }

    #[test]
    fn an_absent_value_has_a_word() {
        let listen = optional("none", socket_address());
        assert_eq!((listen.read)(&["none"]), Some(None));
        assert_eq!((listen.read)(&[":80"]), Some(Some(SocketAddr::from(([0, 0, 0, 0], 80)))));
        assert_eq!((listen.read)(&["localhost"]), None);
        assert_eq!((listen.write)(&None), ["none"]);
    }

    #[test]
    fn networks_have_no_more_bits_than_their_addresses() {
        for (word, written) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!((network().read)(&[word]).map(|network| network.to_string()).as_deref(), Some(written));
        }
        for word in ["", "/8", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "10.0.0/8", "ten", "10.0.0.0/8/8"] {
            assert_eq!((network().read)(&[word]), None, "{word}");
        }
    }

    #[test]
    fn interfaces_have_names_that_the_kernel_would_take() {
        for (word, is_name) in
            [("cni0", true), ("eth0.100", true), ("a2345678901234567", false), ("a/b", false), ("eth0:1", false), (".", false)]
        {
            assert_eq!((interface().read)(&[word]).is_some(), is_name, "{word}");
        }
    }

    #[test]
    fn an_engine_is_a_path_or_one_of_two_words() {
        for (word, engine) in [("auto", Engine::Auto), ("none", Engine::None), ("/a/b.sock", Engine::At("/a/b.sock".into()))] {
            assert_eq!(
                (engine.clone(), (super::engine().write)(&engine)),
                ((super::engine().read)(&[word]).unwrap(), vec![word.to_owned()])
            );
        }
        assert_eq!((super::engine().read)(&[""]), None);
        assert!(Engine::None.sockets().is_empty());
        assert_eq!(Engine::Auto.sockets()[0], PathBuf::from("/var/run/docker.sock"), "Docker first");
    }

    #[test]
    fn log_levels_stop_at_both_ends() {
        assert_eq!(LogLevel::Info.step(1), LogLevel::Debug);
        assert_eq!(LogLevel::Info.step(9), LogLevel::Trace);
        assert_eq!(LogLevel::Info.step(-1), LogLevel::Warn);
        assert_eq!(LogLevel::Info.step(-9), LogLevel::Error);
    }
}
