//! Default, file, environment, flags: the later wins, and every value remembers where it came from.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use super::{
    Config, LogLevel, Setting, agreement,
    yaml::{self, Place},
};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File(PathBuf, Place),
    /// Name of the environment variable.
    Environment(String),
    /// The flag with its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path, place) => write!(f, "file {}:{place}", path.display()),
            Origin::Environment(variable) => write!(f, "environment variable {variable}"),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// Everything that the effective configuration is made of.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Name and content.
    pub file: Option<(PathBuf, String)>,
    /// Names and values; those that do not begin with `REMORA_` are passed over.
    pub environment: Vec<(String, String)>,
    /// Key and values, each key once; values of lists may hold several words with commas.
    pub flags: Vec<(&'static str, Vec<String>)>,
    /// `-v` more, `-q` less, counted from what the other sources say.
    pub log_steps: i32,
}

/// All that is wrong with the settings; each part names the key, its place and what is allowed.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Error(pub Vec<String>);

/// The settings in force and where each came from.
#[derive(Clone, Debug)]
pub struct Effective {
    pub config: Config,
    origins: BTreeMap<&'static str, Origin>,
}

impl Effective {
    /// # Errors
    /// Every unknown key and every value that is not allowed, all of them at once.
    pub fn merge(sources: &Sources) -> Result<Self, Error> {
        let mut merge = Merge { effective: Self { config: Config::default(), origins: BTreeMap::new() }, wrong: Vec::new() };
        if let Some((path, text)) = &sources.file {
            merge.file(path, text);
        }
        merge.environment(&sources.environment);
        for (key, words) in &sources.flags {
            if let Some(setting) = Setting::by_key(key) {
                merge.set(setting, words, Origin::Flag(format!("--{}", setting.flag)));
            }
        }
        if sources.log_steps != 0 {
            let level: LogLevel = merge.effective.config.log;
            merge.effective.config.log = level.step(sources.log_steps);
            merge.effective.origins.insert("log", Origin::Flag(if sources.log_steps > 0 { "-v" } else { "-q" }.to_owned()));
        }
        merge.wrong.extend(agreement::disagreements(&merge.effective.config));
        if merge.wrong.is_empty() { Ok(merge.effective) } else { Err(Error(merge.wrong)) }
    }

    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }

    /// A file that gives this configuration, with the origin of each value beside it.
    pub fn to_yaml(&self) -> String {
        let mut text = String::new();
        let mut heading = "";
        for setting in Setting::all() {
            if setting.heading != heading {
                let blank = if heading.is_empty() { "" } else { "\n" };
                heading = setting.heading;
                text.push_str(&format!("{blank}# {heading}\n"));
            }
            let words = (setting.words)(&self.config).iter().map(|word| scalar(word)).collect::<Vec<_>>();
            let value = if setting.many { format!("[{}]", words.join(", ")) } else { words.join("") };
            let line = format!("{}: {value}", setting.key);
            text.push_str(&format!("{line:<44}  # {}\n", self.origin(setting.key)));
        }
        text
    }
}

/// Plain where YAML reads it back as the same word, else in double quotes (which JSON strings are).
fn scalar(word: &str) -> String {
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-:".contains(c))
        && !word.is_empty()
        && !word.starts_with(['-', ':', '.'])
        && !word.ends_with(':');
    if plain { word.to_owned() } else { format!("{word:?}") }
}

struct Merge {
    effective: Effective,
    wrong: Vec<String>,
}

impl Merge {
    fn file(&mut self, path: &Path, text: &str) {
        let entries = match yaml::read(text) {
            Ok(entries) => entries,
            Err(malformed) => {
                let place = malformed.place.map_or_else(String::new, |place| format!(":{place}"));
                return self.wrong.push(format!(
                    "{} (file {}{place}); allowed: lines of the form `key: value`",
                    malformed.why,
                    path.display()
                ));
            }
        };
        for entry in entries {
            match Setting::by_key(&entry.key) {
                Some(setting) => self.set(setting, &entry.words, Origin::File(path.to_owned(), entry.words_at)),
                None => {
                    let allowed = Setting::all().iter().map(|it| it.key).collect::<Vec<_>>().join(", ");
                    let origin = Origin::File(path.to_owned(), entry.key_at);
                    self.wrong.push(format!("unknown key {} ({origin}); allowed: {allowed}", entry.key));
                }
            }
        }
    }

    fn environment(&mut self, variables: &[(String, String)]) {
        for (name, value) in variables.iter().filter(|(name, _)| name.starts_with("REMORA_") && name != super::FILE_VARIABLE) {
            let origin = Origin::Environment(name.clone());
            match Setting::all().iter().find(|setting| setting.variable == *name) {
                Some(setting) => self.set(setting, std::slice::from_ref(value), origin),
                // A misspelt setting must not be passed over in silence, so neither can anything else of that prefix.
                None => {
                    let known = Setting::all().iter().map(|setting| setting.variable.as_str()).chain([super::FILE_VARIABLE]);
                    self.wrong.push(format!(
                        "unknown key {name} ({origin}): variables that begin with REMORA_ are settings, so correct it or unset it \
                         (in a Kubernetes pod: enableServiceLinks: false); allowed: {}",
                        known.collect::<Vec<_>>().join(", ")
                    ));
                }
            }
        }
    }

    fn set(&mut self, setting: &'static Setting, texts: &[String], origin: Origin) {
        let words = texts.iter().flat_map(|text| words(setting, text)).collect::<Vec<_>>();
        if (setting.set)(&mut self.effective.config, &words) {
            self.effective.origins.insert(setting.key, origin);
        } else {
            let given = words.join(", ");
            self.wrong.push(format!("{given:?} is not allowed for {} ({origin}); allowed: {}", setting.key, setting.allowed));
        }
    }
}

/// The words of one text: those of lists are separated by commas.
fn words<'a>(setting: &Setting, text: &'a str) -> Vec<&'a str> {
    if setting.many { text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect() } else { vec![text.trim()] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(file: &str, environment: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Sources {
        Sources {
            file: Some((PathBuf::from("r.yaml"), file.to_owned())),
            environment: environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            flags: flags.iter().map(|(key, word)| (*key, vec![word.to_string()])).collect(),
            log_steps: 0,
        }
    }

    fn wrong(sources: &Sources) -> Vec<String> {
        Effective::merge(sources).unwrap_err().0
    }

    #[test]
    fn flag_wins_over_environment_over_file_over_default() {
        let file = "workers: 2\nhooks: socket\nsides: server\n";
        let merged =
            Effective::merge(&sources(file, &[("REMORA_WORKERS", "3"), ("REMORA_HOOKS", "syscalls")], &[("workers", "4")])).unwrap();
        assert_eq!(
            (merged.config.workers, merged.config.hooks, merged.config.sides),
            (4, super::super::Hooks::Syscalls, super::super::Sides::Server)
        );
        assert_eq!(merged.config.max_connections, Config::default().max_connections);
        let origins = ["workers", "hooks", "sides", "btf"].map(|key| merged.origin(key).to_string());
        assert_eq!(origins, ["flag --workers", "environment variable REMORA_HOOKS", "file r.yaml:3:8", "default"]);
    }

    #[test]
    fn errors_name_key_place_and_what_is_allowed_and_come_all_at_once() {
        let found =
            wrong(&sources("worker: 2\nsides: left\n", &[("REMORA_PORT", "80,x"), ("REMORA_X", "1"), ("OTHER", "1")], &[("workers", "0")]));
        assert_eq!(found.len(), 5, "{found:#?}");
        assert!(found[0].starts_with("unknown key worker (file r.yaml:1:1); allowed: hooks, pid, port"), "{}", found[0]);
        assert_eq!(found[1], "\"left\" is not allowed for sides (file r.yaml:2:8); allowed: both, server, client");
        assert!(
            found[2].starts_with("\"80, x\" is not allowed for port (environment variable REMORA_PORT); allowed: a whole"),
            "{}",
            found[2]
        );
        assert!(found[3].starts_with("unknown key REMORA_X (environment variable REMORA_X): "), "{}", found[3]);
        assert!(found[3].contains("unset it") && found[3].contains("; allowed: REMORA_HOOKS, REMORA_PID"), "{}", found[3]);
        assert_eq!(found[4], "\"0\" is not allowed for workers (flag --workers); allowed: a whole number from 1 to 64");
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same_configuration() {
        let config = Config {
            pid: vec![1, 2],
            listen: Some("[::1]:80".parse().unwrap()),
            btf: Some(PathBuf::from("/a b/#c: \"d\\.btf")),
            docker_socket: crate::config::Engine::At(PathBuf::from("/a b/engine.sock")),
            idle_after: std::time::Duration::from_millis(1500),
            ..Config::default()
        };
        let text = Effective { config: config.clone(), origins: BTreeMap::new() }.to_yaml();
        assert_eq!(Effective::merge(&sources(&text, &[], &[])).unwrap().config, config, "{text}");
    }

    #[test]
    fn every_default_is_a_value_that_is_allowed() {
        for setting in Setting::all() {
            let words = (setting.words)(&Config::default());
            let words = words.iter().map(String::as_str).collect::<Vec<_>>();
            assert!((setting.set)(&mut Config::default(), &words), "{}: {words:?}", setting.key);
        }
    }

    #[test]
    fn lists_add_up_within_a_source_and_replace_those_of_a_weaker_one() {
        let ports = |file: &str, flags: Vec<(&'static str, Vec<String>)>| {
            let merged = Effective::merge(&Sources { flags, ..sources(file, &[("REMORA_PID", " 1, 2 ,")], &[]) }).unwrap();
            assert_eq!(merged.config.pid, [1, 2]);
            merged.config.port
        };
        assert_eq!(ports("port: 80, 81\n", vec![]), [80, 81]);
        assert_eq!(ports("port: [80, '81,82']\n", vec![]), [80, 81, 82]);
        assert_eq!(ports("port: 80\n", vec![("port", vec!["1,2".to_owned(), "3".to_owned()])]), [1, 2, 3]);
        assert_eq!(ports("port: []\n", vec![]), [] as [u16; 0]);
    }

    #[test]
    fn verbosity_counts_from_the_level_of_the_other_sources() {
        let mut sources = sources("log: warn\n", &[], &[]);
        sources.log_steps = 2;
        let merged = Effective::merge(&sources).unwrap();
        assert_eq!((merged.config.log, merged.origin("log")), (LogLevel::Debug, &Origin::Flag("-v".to_owned())));
    }
}
