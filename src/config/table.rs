//! From one table to a struct, its default, and a list of [`Setting`]s without types.

use std::sync::LazyLock;

use super::{Config, kind::Kind};

type Set = Box<dyn Fn(&mut Config, &[&str]) -> bool + Send + Sync>;
type Words = Box<dyn Fn(&Config) -> Vec<String> + Send + Sync>;

/// A setting as flags, environment, file and help see it: words in, words out.
pub struct Setting {
    /// The key in the file; the names of flag and variable follow from it.
    pub key: &'static str,
    /// Without the dashes in front: `capture-bytes`.
    pub flag: String,
    /// `REMORA_CAPTURE_BYTES`.
    pub variable: String,
    pub heading: &'static str,
    pub help: &'static str,
    pub placeholder: &'static str,
    /// What is allowed, in words.
    pub allowed: String,
    /// Takes several values.
    pub many: bool,
    /// False, and nothing set, when the words are not allowed.
    pub set: Set,
    /// The value as a user would write it; lists have any number of words.
    pub words: Words,
}

impl Setting {
    /// All of them, in the order of the table.
    pub fn all() -> &'static [Setting] {
        static ALL: LazyLock<Vec<Setting>> = LazyLock::new(Config::settings);
        &ALL
    }

    pub fn by_key(key: &str) -> Option<&'static Setting> {
        Self::all().iter().find(|setting| setting.key == key)
    }

    pub(super) fn new<T: 'static>(
        [key, heading, help, placeholder]: [&'static str; 4],
        kind: Kind<T>,
        get: fn(&Config) -> &T,
        get_mut: fn(&mut Config) -> &mut T,
    ) -> Self {
        let Kind { allowed, many, read, write } = kind;
        let set = move |config: &mut Config, words: &[&str]| match read(words) {
            Some(value) => {
                *get_mut(config) = value;
                true
            }
            None => false,
        };
        let words = move |config: &Config| write(get(config));
        let (flag, variable) = (key.replace('_', "-"), format!("REMORA_{}", key.to_uppercase()));
        let (set, words) = (Box::new(set), Box::new(words));
        Self { key, flag, variable, heading, help: help.trim(), placeholder, allowed, many, set, words }
    }
}

/// `/// help` `key: Type = default, kind, "PLACEHOLDER";` under `"Heading" { … }`.
macro_rules! settings {
    (
        $(#[$doc:meta])*
        pub struct $config:ident;
        $($heading:literal { $(#[doc = $help:literal] $key:ident: $type:ty = $default:expr, $kind:expr, $placeholder:literal;)* })*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize)]
        pub struct $config {
            $($(#[doc = $help] pub $key: $type,)*)*
        }

        impl Default for $config {
            fn default() -> Self {
                Self { $($($key: $default,)*)* }
            }
        }

        impl $config {
            fn settings() -> Vec<table::Setting> {
                vec![$($(table::Setting::new(
                    [stringify!($key), $heading, $help, $placeholder],
                    $kind,
                    |config| &config.$key,
                    |config| &mut config.$key,
                ),)*)*]
            }
        }
    };
}
pub(super) use settings;
