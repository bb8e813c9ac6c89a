//! Whether a cluster can be asked, and what it grants: each list and each watch is really begun, and let go at once.

use std::time::Duration;

use anyhow::Context;
use futures_util::future::join_all;
use http::StatusCode;
use kube::{
    Client,
    api::{ListParams, Request, WatchParams},
    client::Body,
};
use tokio::time::Instant;

use super::{
    Options,
    connect::{self, Found},
    health::{Kind, Verb},
};

/// No object has it, so that a watch begins with nothing.
const NOBODY: &str = "metadata.name=remora.asks.for.nothing";

/// How far the way to the cluster goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing leads to one.
    Nowhere,
    /// A service account or kubeconfig that is of no use, and why.
    Unusable(String),
    /// The API server's address, and why no question was answered.
    Unreachable { server: String, why: String },
    /// What was answered to each question, by kind and verb in their order.
    Reached { server: String, answers: Vec<(Kind, Verb, Answer)> },
}

/// What became of one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Granted,
    /// RBAC forbids it.
    Refused,
    /// The account is not known: its token or certificate is not accepted.
    Unknown,
    NotServed,
    /// Another status, or no answer.
    Failed(String),
}

/// Asks within `patience`. Must run on a tokio runtime with I/O and time enabled.
pub async fn access(options: &Options, patience: Duration) -> Access {
    let deadline = Instant::now() + patience;
    let found = match tokio::time::timeout_at(deadline, connect::seek(options)).await {
        Ok(Ok(Some(found))) => found,
        Ok(Ok(None)) => return Access::Nowhere,
        Ok(Err(error)) => return Access::Unusable(format!("{error:#}")),
        Err(_) => return Access::Unusable(format!("not ready within {patience:?}")),
    };
    let Found { client, server } = found;
    let questions = Kind::ALL.into_iter().flat_map(|kind| Verb::ALL.map(|verb| (kind, verb)));
    let asked = questions.map(|(kind, verb)| {
        let client = &client;
        async move {
            let answer = tokio::time::timeout_at(deadline, ask(client, kind, verb)).await;
            (kind, verb, answer.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {patience:?}"))))
        }
    });
    let asked = join_all(asked).await;
    let is_silent = asked.iter().all(|(.., answer)| answer.is_err());
    if let Some(why) = asked.iter().find_map(|(.., answer)| answer.as_ref().err()).filter(|_| is_silent) {
        return Access::Unreachable { server, why: format!("{why:#}") };
    }
    let told = |answer: anyhow::Result<Answer>| answer.unwrap_or_else(|error| Answer::Failed(format!("{error:#}")));
    Access::Reached { server, answers: asked.into_iter().map(|(kind, verb, answer)| (kind, verb, told(answer))).collect() }
}

async fn ask(client: &Client, kind: Kind, verb: Verb) -> anyhow::Result<Answer> {
    let mut answer = Answer::NotServed;
    for path in kind.paths() {
        let request = Request::new(*path);
        let request = match verb {
            Verb::List => request.list(&ListParams::default().limit(1)),
            Verb::Watch => request.watch(&WatchParams::default().fields(NOBODY).timeout(1), ""),
        };
        let request = request.context("asking the API server")?.map(Body::from);
        let status = client.send(request).await.context("asking the API server")?.status();
        answer = match status {
            StatusCode::OK => Answer::Granted,
            StatusCode::UNAUTHORIZED => Answer::Unknown,
            StatusCode::FORBIDDEN => Answer::Refused,
            StatusCode::NOT_FOUND => continue,
            status => Answer::Failed(format!("the API server answered {status}")),
        };
        break;
    }
    Ok(answer)
}
