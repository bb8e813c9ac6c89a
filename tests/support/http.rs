//! Just enough of an HTTP client to ask the agent about itself.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

pub struct Response {
    pub status: u16,
    pub body: String,
}

pub fn get(address: SocketAddr, path: &str) -> std::io::Result<Response> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| std::io::Error::other("an answer without a head's end"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Response { status: status.ok_or_else(|| std::io::Error::other("an answer without a status"))?, body: body.to_owned() })
}

/// A scrape of `/metrics`.
#[derive(Debug)]
pub struct Metrics {
    samples: Vec<(String, f64)>,
}

impl Metrics {
    pub fn parse(text: &str) -> Self {
        let sample = |line: &str| {
            // A value follows the last blank: exemplars and timestamps are not written.
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        };
        Self { samples: text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect() }
    }

    /// Sum of the series of a family whose labels contain all of `labels`, each written as `name="value"`.
    pub fn sum(&self, family: &str, labels: &[&str]) -> f64 {
        self.matching(family, labels).map(|(_, value)| value).sum()
    }

    /// As [`Metrics::sum`]; the family must be there.
    #[track_caller]
    pub fn get(&self, family: &str, labels: &[&str]) -> f64 {
        assert!(self.matching(family, labels).next().is_some(), "no {family}{{{}}} in {:#?}", labels.join(","), self.samples);
        self.sum(family, labels)
    }

    pub fn with_prefix(&self, prefix: &str) -> Vec<(&str, f64)> {
        self.samples.iter().filter(|(series, _)| series.starts_with(prefix)).map(|(series, value)| (series.as_str(), *value)).collect()
    }

    fn matching<'a>(&'a self, family: &'a str, labels: &'a [&'a str]) -> impl Iterator<Item = (&'a str, f64)> {
        self.samples.iter().filter_map(move |(series, value)| {
            let rest = series.strip_prefix(family)?;
            let of_family = rest.is_empty() || rest.starts_with('{');
            (of_family && labels.iter().all(|label| rest.contains(label))).then_some((series.as_str(), *value))
        })
    }
}
