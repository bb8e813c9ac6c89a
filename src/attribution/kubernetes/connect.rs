//! Finds the cluster: the service account of a pod, or a kubeconfig. No cluster is no error, unless one is demanded.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use super::Options;

const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// A way to the API server.
pub struct Found {
    pub client: Client,
    /// As it is shown: `https://10.96.0.1:443`.
    pub server: String,
}

/// What leads to a cluster.
#[derive(Debug, PartialEq)]
enum Lead {
    ServiceAccount,
    File(PathBuf),
    /// The files that `KUBECONFIG` names.
    Variable,
}

/// `None` where nothing leads to a cluster, or where what does is of no use and none is demanded: that is logged.
///
/// # Errors
/// A cluster is demanded or named, and cannot be asked.
pub async fn find(options: &Options) -> Result<Option<Found>> {
    match seek(options).await {
        Ok(None) if options.is_required => Err(anyhow!(
            "no Kubernetes cluster to ask: there is neither a service account nor a kubeconfig (name one with --kubeconfig, or leave \
             it at --kubernetes auto)"
        )),
        Err(error) if !options.is_required && options.kubeconfig.is_none() => {
            tracing::warn!("{error:#}: names of pods and services are missing");
            Ok(None)
        }
        found => found,
    }
}

/// `None` where nothing leads to a cluster.
///
/// # Errors
/// What leads to one cannot be read, or makes no sense.
pub async fn seek(options: &Options) -> Result<Option<Found>> {
    let Some(lead) = lead(options, Path::new(TOKEN)) else { return Ok(None) };
    open(&lead).await.with_context(|| lead.describe()).map(Some)
}

fn lead(options: &Options, token: &Path) -> Option<Lead> {
    if let Some(path) = &options.kubeconfig {
        return Some(Lead::File(path.clone()));
    }
    if token.exists() {
        return Some(Lead::ServiceAccount);
    }
    if env::var_os("KUBECONFIG").is_some_and(|paths| env::split_paths(&paths).any(|path| path.is_file())) {
        return Some(Lead::Variable);
    }
    let home = PathBuf::from(env::var_os("HOME")?).join(".kube/config");
    home.is_file().then_some(Lead::File(home))
}

impl Lead {
    fn describe(&self) -> String {
        match self {
            Self::ServiceAccount => "using the service account of the pod".to_owned(),
            Self::File(path) => format!("using the kubeconfig {}", path.display()),
            Self::Variable => "using the kubeconfig that KUBECONFIG names".to_owned(),
        }
    }
}

async fn open(lead: &Lead) -> Result<Found> {
    let config = match lead {
        Lead::ServiceAccount => Config::incluster_env()?,
        Lead::File(path) => of_kubeconfig(Kubeconfig::read_from(path)?).await?,
        Lead::Variable => of_kubeconfig(Kubeconfig::from_env()?.unwrap_or_default()).await?,
    };
    of_config(config)
}

async fn of_kubeconfig(kubeconfig: Kubeconfig) -> Result<Config> {
    let context = kubeconfig.current_context.as_ref();
    let context = kubeconfig.contexts.iter().find(|named| Some(&named.name) == context).and_then(|named| named.context.as_ref());
    let cluster = kubeconfig.clusters.iter().find(|named| Some(&named.name) == context.map(|context| &context.cluster));
    let has_proxy = cluster.and_then(|named| named.cluster.as_ref()).is_some_and(|cluster| cluster.proxy_url.is_some());
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    if !has_proxy {
        // The environment's proxies are meant for the way out.
        config.proxy_url = None;
    }
    Ok(config)
}

pub(super) fn of_config(mut config: Config) -> Result<Found> {
    config.connect_timeout = Some(Duration::from_secs(10));
    // Both are the watch's own affair.
    config.read_timeout = None;
    config.default_retry = false;
    let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let client = Client::try_from(config).with_context(|| format!("preparing connections to {server}"))?;
    Ok(Found { client, server })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_kubeconfig_comes_before_the_service_account() {
        let directory = tempfile::tempdir().unwrap();
        let token = directory.path().join("token");
        std::fs::write(&token, "secret").unwrap();
        let named = Options { kubeconfig: Some("/etc/cluster".into()), ..Options::default() };
        assert_eq!(lead(&named, &token), Some(Lead::File("/etc/cluster".into())));
        assert_eq!(lead(&Options::default(), &token), Some(Lead::ServiceAccount));
    }

    #[tokio::test]
    async fn a_kubeconfig_that_cannot_be_read_is_named_in_the_error() {
        let options = Options { kubeconfig: Some("/nonexistent/config".into()), ..Options::default() };
        let error = find(&options).await.err().unwrap();
        assert!(format!("{error:#}").contains("/nonexistent/config"), "{error:#}");
    }
}
