//! The chart, rendered by a small program made of Helm's own libraries (`support/chart.go`), and by Helm itself where it is installed.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Output},
    sync::OnceLock,
};

use super::objects::{Objects, differences, objects};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/helm/remora");

pub struct Chart {
    renderer: PathBuf,
    helm: Option<PathBuf>,
}

impl Chart {
    /// Builds the renderer once a run.
    pub fn get() -> &'static Self {
        static BUILT: OnceLock<Chart> = OnceLock::new();
        BUILT.get_or_init(|| {
            let renderer = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("chart");
            let mut go = Command::new("go");
            go.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode").args(["build", "-o"]).arg(&renderer);
            let output = go.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/chart.go")).output().unwrap();
            assert!(output.status.success(), "`make deps-test` installs what is needed: {}", String::from_utf8_lossy(&output.stderr));
            let path = env::var_os("PATH").unwrap_or_default();
            let helm = env::split_paths(&path).map(|folder| folder.join("helm")).find(|program| program.is_file());
            Chart { renderer, helm }
        })
    }

    /// What the chart makes of `values` (YAML, over the defaults) in a release of the namespace `elsewhere`.
    pub fn objects(&self, values: &str) -> Objects {
        let rendered = objects(&self.render(values, "elsewhere").unwrap_or_else(|refusal| panic!("{refusal}")));
        if let Some(helm) = &self.helm {
            let file = values_file(values);
            let mut command = Command::new(helm);
            command.args(["template", "remora", FOLDER, "--namespace", "elsewhere", "--values"]).arg(file.path());
            let helms = objects(&said(&command.output().unwrap()).unwrap_or_else(|refusal| panic!("helm: {refusal}")));
            assert_eq!(differences(&rendered, &helms), "", "Helm renders the chart differently");
        }
        rendered
    }

    /// Manifests, or why not.
    pub fn render(&self, values: &str, namespace: &str) -> Result<String, String> {
        let file = values_file(values);
        said(&Command::new(&self.renderer).args([FOLDER, namespace]).arg(file.path()).output().unwrap())
    }
}

fn values_file(values: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), values).unwrap();
    file
}

fn said(output: &Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
