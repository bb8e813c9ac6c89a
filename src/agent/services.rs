//! Everything of the agent that waits on sockets and signals: one thread, one tokio runtime.

use std::{net::TcpListener, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use crossbeam_channel::Sender;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::pipeline::Control;
use crate::{
    attribution::{self, Cluster, ContainerNames, kubernetes},
    export::{Published, http},
    telemetry::Exit,
};

/// What is to be served until `shutdown` turns true.
pub struct Services {
    /// The HTTP server's socket, bound already.
    pub listener: Option<TcpListener>,
    pub published: Arc<ArcSwap<Published>>,
    /// Sockets where an engine may listen that names containers.
    pub engines: Vec<PathBuf>,
    pub containers: Arc<ContainerNames>,
    /// `None` where no cluster is asked.
    pub kubernetes: Option<kubernetes::Options>,
    pub cluster: Arc<Cluster>,
    pub shutdown: watch::Receiver<bool>,
}

/// Runs until the shutdown; says on `catching` when signals are caught.
pub fn run(services: Services, control: &Sender<Control>, catching: &Sender<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let Services { listener, published, engines, containers, kubernetes, cluster, shutdown } = services;
    runtime.block_on(async {
        let ended = |mut shutdown: watch::Receiver<bool>| async move {
            // An error means that the sender is gone: that is an end, too.
            let _ = shutdown.wait_for(|ended| *ended).await;
        };
        let http = async {
            let Some(listener) = listener else { return Ok(()) };
            listener.set_nonblocking(true).context("preparing the HTTP server's socket")?;
            let listener = tokio::net::TcpListener::from_std(listener).context("preparing the HTTP server's socket")?;
            http::serve(listener, published, ended(shutdown.clone())).await.context("serving HTTP")
        };
        let names = async {
            if !engines.is_empty() {
                attribution::container::watch(engines, containers, ended(shutdown.clone())).await;
            }
            Ok(())
        };
        let pods = async {
            match kubernetes {
                Some(options) => kubernetes::watch(options, cluster, ended(shutdown.clone())).await,
                None => Ok(()),
            }
        };
        let serving = async {
            tokio::try_join!(http, names, pods)?;
            ended(shutdown.clone()).await;
            Ok(())
        };
        tokio::select! {
            result = serving => result,
            result = signals(control, catching) => result,
        }
    })
}

/// Passes on the first SIGINT or SIGTERM; the second ends the process, whatever its other threads wait for.
async fn signals(control: &Sender<Control>, catching: &Sender<()>) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("catching SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("catching SIGTERM")?;
    let _ = catching.try_send(());
    let mut again = false;
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if std::mem::replace(&mut again, true) {
            std::process::exit(Exit::Failed as i32);
        }
        let _ = control.try_send(Control::Signal);
    }
}
