//! Stands between a client and the API server: slow, cut, or closed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

pub struct Proxy {
    pub port: u16,
    /// Added to each piece from the server.
    pub delay_ms: Arc<AtomicU64>,
    /// From the server, TLS included.
    pub bytes: Arc<AtomicU64>,
    closed: Arc<AtomicBool>,
    cut: watch::Sender<u64>,
}

impl Proxy {
    pub async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cut, cuts) = watch::channel(0);
        let (delay_ms, bytes, closed) = <(Arc<AtomicU64>, Arc<AtomicU64>, Arc<AtomicBool>)>::default();
        let proxy = Self { port, delay_ms: Arc::clone(&delay_ms), bytes: Arc::clone(&bytes), closed: Arc::clone(&closed), cut };
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if closed.load(Ordering::Relaxed) {
                    continue;
                }
                let (delay_ms, bytes, mut cuts) = (Arc::clone(&delay_ms), Arc::clone(&bytes), cuts.clone());
                cuts.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
                    tokio::select! {
                        _ = cuts.changed() => {}
                        () = pass(client, server, &delay_ms, &bytes) => {}
                    }
                });
            }
        });
        proxy
    }

    /// All connections break, and no new one comes about while it is closed.
    pub fn cut(&self, closed: bool) {
        self.closed.store(closed, Ordering::Relaxed);
        self.cut.send_modify(|count| *count += 1);
    }
}

async fn pass(client: TcpStream, server: TcpStream, delay_ms: &AtomicU64, bytes: &AtomicU64) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    };
    let down = async {
        let mut piece = vec![0; 1 << 20];
        while let Ok(length @ 1..) = from_server.read(&mut piece).await {
            bytes.fetch_add(length as u64, Ordering::Relaxed);
            let delay = delay_ms.load(Ordering::Relaxed);
            if delay > 0 {
                tokio::time::sleep(Duration::from_millis(delay)).await;
            }
            if to_client.write_all(&piece[..length]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}
