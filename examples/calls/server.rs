//! Answers what the path asks for, and says from when to when it was at it.

use std::{
    io::{IoSlice, IoSliceMut, Write},
    net::{SocketAddr, TcpListener},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::{
        socket::{AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair},
        wait::waitpid,
    },
    unistd::{ForkResult, Pid, fork},
};
use serde_json::{Value, json};

use crate::{
    between,
    channel::{Channel, Head},
    ways::{Manner, WAYS, Way, body, delay_ms, status_of},
};

pub fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    let passing = WAYS.iter().filter(|way| way.manner == Manner::Passed);
    // Before any connection is there, so that the worker can have it from nowhere but the message.
    let workers = passing.map(worker).collect::<Result<Vec<_>>>()?;
    let mut workers = workers.into_iter();
    println!("{}", json!({ "listening": listener.local_addr()?.port() }));
    for way in WAYS {
        let (stream, _) = listener.accept()?;
        let socket: OwnedFd = stream.into();
        match way.manner {
            Manner::Passed => {
                let (channel, pid) = workers.next().context("a worker for every passed descriptor")?;
                pass(&channel, &socket)?;
                drop(socket);
                waitpid(pid, None)?;
            }
            Manner::Forked => {
                let child = in_child(|| handle(socket.try_clone()?, way))?;
                drop(socket);
                waitpid(child, None)?;
            }
            _ => handle(socket, way).with_context(|| format!("the way {}", way.name))?,
        }
    }
    Ok(())
}

/// A process that waits for one descriptor and serves it.
fn worker(way: &Way) -> Result<(OwnedFd, Pid)> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
    let pid = in_child(|| handle(take(&theirs)?, way))?;
    Ok((ours, pid))
}

fn pass(channel: &OwnedFd, socket: &OwnedFd) -> Result<()> {
    let descriptors = [socket.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(channel.as_raw_fd(), &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None).context("pass a descriptor")?;
    Ok(())
}

fn take(channel: &OwnedFd) -> Result<OwnedFd> {
    let mut byte = [0];
    let mut slices = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(RawFd);
    let message = recvmsg::<()>(channel.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty()).context("receive a descriptor")?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            let descriptor = *descriptors.first().context("a message with a descriptor")?;
            // SAFETY: the kernel made this descriptor for us with the message, and nothing else in this process knows it.
            #[allow(unsafe_code, reason = "a descriptor arrives as a number")]
            return Ok(unsafe { OwnedFd::from_raw_fd(descriptor) });
        }
    }
    bail!("a message without a descriptor")
}

/// Does the work in a child that ends with it.
fn in_child(work: impl FnOnce() -> Result<()>) -> Result<Pid> {
    // SAFETY: this program has one thread here (those of `Manner::Threads` are joined), so the child finds no lock held.
    #[allow(unsafe_code, reason = "forking is what is tested")]
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let ended = work();
            if let Err(error) = &ended {
                eprintln!("{error:#}");
            }
            std::process::exit(i32::from(ended.is_err()));
        }
    }
}

/// Serves a connection to its end, then writes all lines at once: other processes write to the same pipe.
fn handle(socket: OwnedFd, way: &Way) -> Result<()> {
    let channel = Channel::new(socket, *way)?;
    let lines = if way.manner == Manner::Threads { with_two_threads(channel, way)? } else { in_turn(channel, way)? };
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn in_turn(mut channel: Channel, way: &Way) -> Result<Vec<Value>> {
    let mut lines = Vec::new();
    while let Some(head) = channel.head()? {
        channel.skip_body(head.body_length()?)?;
        lines.push(respond(&mut channel, way, &head)?);
    }
    Ok(lines)
}

fn with_two_threads(channel: Channel, way: &Way) -> Result<Vec<Value>> {
    let (mut receiving, mut sending) = channel.split()?;
    let (heads, work) = mpsc::sync_channel::<Head>(1024);
    thread::scope(|scope| {
        let read = move || -> Result<()> {
            while let Some(head) = receiving.head()? {
                receiving.skip_body(head.body_length()?)?;
                heads.send(head).context("the writer is gone")?;
            }
            Ok(())
        };
        let reader = thread::Builder::new().name("calls-reader".into()).spawn_scoped(scope, read)?;
        let write = move || work.into_iter().map(|head| respond(&mut sending, way, &head)).collect::<Result<Vec<_>>>();
        let writer = thread::Builder::new().name("calls-writer".into()).spawn_scoped(scope, write)?;
        reader.join().expect("the reader panicked")?;
        writer.join().expect("the writer panicked")
    })
}

fn respond(channel: &mut Channel, way: &Way, head: &Head) -> Result<Value> {
    let path = head.word(1)?.to_owned();
    let number: u64 = path.rsplit('/').next().context("a path ends with a number")?.parse()?;
    if !path.starts_with(&format!("/call/{}/", way.name)) {
        bail!("{path} came over the connection of {}", way.name);
    }
    let status = status_of(number);
    let delay = delay_ms(way, number);
    if delay > 0 {
        thread::sleep(Duration::from_millis(delay));
    }
    let body = body(way.response_body(number));
    channel.send(&format!("HTTP/1.1 {status} Told\r\nContent-Length: {}\r\n\r\n", body.len()), &body)?;
    Ok(json!({
        "path": path,
        "status": status,
        "pid": std::process::id(),
        "delay_ns": delay * 1_000_000,
        "within_ns": between(head.since, Instant::now()),
    }))
}
