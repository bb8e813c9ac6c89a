//! The requests of one kind: lists, streaming lists, watches; and what their answers say.

use std::{collections::HashSet, sync::atomic::Ordering, time::Duration};

use anyhow::{Context, Result, anyhow};
use kube::{
    api::{ListParams, Request, WatchParams},
    client::Body,
};
use tracing::warn;

use super::{AT_ONCE, Answered, Failure, Followed, Follower, INITIAL_END, PAGE_BYTES_MAX, TURN, WATCH_S};
use crate::attribution::kubernetes::{
    answer::{Answer, Bare, Bookmark, Event, Line, Lines, Page, PageMeta, Quiet, Status},
    health::{Kind, Verb},
    store::uid_key,
    writer::{Moment, Writer},
};
use crate::attribution::pauses::chance;

impl<'a> Follower<'a> {
    /// All objects in pages; the watch begins where the list ends.
    pub(super) async fn list<T: Followed>(&mut self) -> Result<bool, Failure> {
        let mut listed = HashSet::new();
        let mut rest = None;
        loop {
            let parameters = ListParams {
                label_selector: self.labels.clone(),
                field_selector: self.fields.clone(),
                limit: Some(self.page),
                continue_token: rest,
                ..ListParams::default()
            };
            let request = Request::new(self.path()).list(&parameters).context("asking for a list")?;
            let mut answer = self.ask(request, Verb::List, self.server.pace.answer).await?;
            let Some(body) = answer.whole(PAGE_BYTES_MAX).await.context("reading a list")? else {
                return Err(if self.page > 1 {
                    Failure::Oversized
                } else {
                    anyhow!("one object of more than {PAGE_BYTES_MAX} bytes").into()
                });
            };
            let (items, meta) = self.page::<T>(&body)?;
            drop(body);
            let mut items = items.into_iter();
            while items.len() > 0 {
                self.server.write(|writer, now| {
                    for item in items.by_ref().take(TURN) {
                        self.put(writer, &item, now);
                        listed.extend(uid_key(&item.meta().uid));
                    }
                    writer.settle(now);
                });
                tokio::task::yield_now().await;
            }
            rest = meta.rest.filter(|rest| !rest.is_empty());
            if rest.is_none() {
                self.listed(&listed);
                self.version = Some(meta.resource_version);
                return Ok(false);
            }
        }
    }

    /// A page whose objects are not all understood is read a second time, one by one.
    fn page<T: Followed>(&self, body: &[u8]) -> Result<(Vec<T>, PageMeta), Failure> {
        if let Ok(page) = serde_json::from_slice::<Page<T>>(body) {
            return Ok((page.items.unwrap_or_default(), page.metadata));
        }
        let page: Page<serde_json::Value> = serde_json::from_slice(body).context("reading a list")?;
        let read = |item| match serde_json::from_value(item) {
            Ok(item) => Some(item),
            Err(error) => {
                self.malformed(&error.to_string());
                None
            }
        };
        Ok((page.items.unwrap_or_default().into_iter().filter_map(read).collect(), page.metadata))
    }

    /// The same as a list and a watch by one request (1.27 and later). An older server refuses it, or passes over what it does not
    /// know and never marks the end.
    pub(super) async fn stream<T: Followed>(&mut self) -> Result<bool, Failure> {
        let parameters = WatchParams { send_initial_events: true, ..self.watch_parameters() };
        let request = Request::new(self.path()).watch(&parameters, "").context("asking for a watch")?;
        let answer = match self.ask(request, Verb::Watch, self.server.pace.streaming).await {
            Err(Failure::Other(error)) if matches!(error.downcast_ref(), Some(Answered::Refused(_))) => return Err(Failure::NotStreaming),
            answer => answer?,
        };
        let mut lines = Lines::new(answer);
        let mut listed = HashSet::new();
        let mut turn = 0;
        loop {
            let line = match lines.next().await {
                Err(error) if error.is::<Quiet>() => return Err(Failure::NotStreaming),
                line => line.context("reading a streaming list")?,
            };
            match self.event::<T>(line)? {
                Told::End => return Err(anyhow!("the streaming list broke off").into()),
                Told::Object(uid) => listed.extend(uid),
                Told::Bookmark { ends_list: false } => return Err(Failure::NotStreaming),
                Told::Bookmark { ends_list: true } => break,
                Told::Nothing => {}
            }
            turn += 1;
            if turn % TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        self.listed(&listed);
        drop(listed);
        lines.answer.patience = self.server.pace.quiet;
        self.read::<T>(lines).await
    }

    pub(super) async fn watch<T: Followed>(&mut self, version: String) -> Result<bool, Failure> {
        let request = Request::new(self.path()).watch(&self.watch_parameters(), &version).context("asking for a watch")?;
        let answer = self.ask(request, Verb::Watch, self.server.pace.quiet).await?;
        let mut lines = Lines::new(answer);
        // A server that forgot where the watch stood says so at once.
        if let Ok(line) = tokio::time::timeout(AT_ONCE, lines.next()).await
            && let Told::End = self.event::<T>(line.context("reading a watch")?)?
        {
            return Ok(true);
        }
        self.synced();
        self.read::<T>(lines).await
    }

    async fn read<T: Followed>(&mut self, mut lines: Lines<'_>) -> Result<bool, Failure> {
        let mut turn = 0;
        loop {
            let line = lines.next().await.context("reading a watch")?;
            if let Told::End = self.event::<T>(line)? {
                return Ok(true);
            }
            turn += 1;
            if turn % TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn watch_parameters(&self) -> WatchParams {
        WatchParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            // Not all at once, after they began at once.
            timeout: Some(WATCH_S + chance(WATCH_S / 5)),
            ..WatchParams::default()
        }
    }

    /// The answer, if it is one of success. Of some kinds the metadata is enough.
    async fn ask(&self, mut request: http::Request<Vec<u8>>, verb: Verb, patience: Duration) -> Result<Answer<'a>, Failure> {
        if matches!(self.kind, Kind::ReplicaSets | Kind::Jobs) {
            let partial = match verb {
                Verb::List => "PartialObjectMetadataList",
                Verb::Watch => "PartialObjectMetadata",
            };
            let accept = format!("application/json;as={partial};g=meta.k8s.io;v=v1,application/json");
            request.headers_mut().insert(http::header::ACCEPT, accept.parse().context("asking for metadata")?);
        }
        let sent = tokio::time::timeout(self.server.pace.answer, self.server.client.send(request.map(Body::from))).await;
        let answer = sent.map_err(|_| anyhow!("no answer within {:?}", self.server.pace.answer))?.context("asking the API server")?;
        let code = answer.status().as_u16();
        let mut answer = Answer { body: answer.into_body(), patience, bytes: &self.counters().bytes };
        if code == 200 {
            return Ok(answer);
        }
        let body = answer.whole(64 << 10).await.ok().flatten().unwrap_or_default();
        let status: Status = serde_json::from_slice(&body).unwrap_or_default();
        let message = if status.message.is_empty() { format!("status {code}") } else { status.message };
        Err(match code {
            401 => Failure::Other(Answered::Unknown(message).into()),
            403 => Failure::Forbidden(verb, message),
            404 => Failure::NotServed,
            410 => Failure::Expired,
            400 | 406 | 422 => Failure::Other(Answered::Refused(message).into()),
            _ => Failure::Other(Answered::Status(code, message).into()),
        })
    }

    fn event<T: Followed>(&mut self, line: Line<'_>) -> Result<Told, Failure> {
        let text = match line {
            Line::Text(text) => text,
            Line::Oversized => {
                self.malformed("an event of too many bytes");
                return Ok(Told::Nothing);
            }
            Line::End => return Ok(Told::End),
        };
        let event = match serde_json::from_slice::<Event<T>>(text) {
            Ok(event) => event,
            Err(error) => {
                let bare: Event<Bare> = serde_json::from_slice(text).context("reading an event")?;
                // Its object is a Status, whose own `status` is a text.
                if bare.kind == "ERROR" {
                    return Err(refusal(text));
                }
                self.malformed(&error.to_string());
                self.advance(&bare.object.metadata.resource_version);
                return Ok(Told::Nothing);
            }
        };
        match event.kind.as_str() {
            "ADDED" | "MODIFIED" => {
                self.server.write(|writer, now| {
                    self.put(writer, &event.object, now);
                    writer.settle(now);
                });
            }
            "DELETED" => {
                self.counters().events.fetch_add(1, Ordering::Relaxed);
                if let Some(uid) = uid_key(&event.object.meta().uid) {
                    self.server.write(|writer, now| {
                        writer.remove(self.kind, uid, now);
                        writer.settle(now);
                    });
                }
            }
            "BOOKMARK" => {
                let bookmark: Event<Bookmark> = serde_json::from_slice(text).context("reading a bookmark")?;
                let meta = bookmark.object.metadata;
                let ends_list = meta.annotations.get(INITIAL_END).is_some_and(|value| value == "true");
                if ends_list {
                    self.version = Some(meta.resource_version);
                } else {
                    self.advance(&meta.resource_version);
                }
                return Ok(Told::Bookmark { ends_list });
            }
            "ERROR" => return Err(refusal(text)),
            _ => self.malformed("an event of a kind that is not known"),
        }
        let meta = event.object.meta();
        self.advance(&meta.resource_version);
        Ok(Told::Object(uid_key(&meta.uid)))
    }

    /// Within a streaming list versions are in no order, and there is none yet.
    fn advance(&mut self, version: &str) {
        if let Some(own) = self.version.as_mut().filter(|_| !version.is_empty()) {
            version.clone_into(own);
        }
    }

    pub(super) fn put<T: Followed>(&self, writer: &mut Writer, object: &T, now: Moment) {
        self.counters().events.fetch_add(1, Ordering::Relaxed);
        if !object.put(self.kind, writer, now) {
            self.malformed("it has no uid, or no name");
        }
    }

    pub(super) fn malformed(&self, why: &str) {
        if self.counters().malformed.fetch_add(1, Ordering::Relaxed) == 0 {
            warn!("{}: an object of the API server is not understood and left out: {why}", self.kind.name());
        }
    }
}

/// What an event of the kind ERROR says.
fn refusal(text: &[u8]) -> Failure {
    let status = match serde_json::from_slice::<Event<Status>>(text).context("reading an error") {
        Ok(event) => event.object,
        Err(error) => return error.into(),
    };
    let Status { code, message, reason } = status;
    let is_expired = code == 410 || matches!(reason.as_str(), "Expired" | "Gone");
    if is_expired { Failure::Expired } else { Failure::Other(Answered::Status(code, message).into()) }
}

/// What a line told.
enum Told {
    Object(Option<u128>),
    Bookmark { ends_list: bool },
    Nothing,
    End,
}
