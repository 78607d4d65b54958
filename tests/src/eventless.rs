//! A real engine behind a proxy that cuts every event stream off: what is left is polling and suspicions.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

/// Request heads of a Docker client have some hundred bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The proxy. It ends with its value.
#[derive(Debug)]
pub struct EventlessEngine {
    url: String,
    server: JoinHandle<()>,
}

impl EventlessEngine {
    /// In front of the engine at `unix://…`.
    pub async fn before(engine: &str) -> Result<Self> {
        let socket = engine.strip_prefix("unix://").context("the engine has no unix socket")?.to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen")?;
        let url = format!("tcp://{}", listener.local_addr()?);
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let socket = socket.clone();
                connections.spawn(async move { relay(client, &socket).await });
            }
        });
        Ok(Self { url, server })
    }

    /// The address, as defib takes it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for EventlessEngine {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// One request: the engine is told to close the connection after it, so that none comes in unseen behind it.
async fn relay(mut client: TcpStream, socket: &str) -> Result<()> {
    let mut head = Vec::new();
    let line_end = loop {
        let mut chunk = [0; 1024];
        let read = client.read(&mut chunk).await?;
        head.extend_from_slice(&chunk[..read]);
        if let Some(end) = head.windows(2).position(|pair| pair == b"\r\n") {
            break end;
        }
        if read == 0 || head.len() > HEAD_BYTES_MAX {
            return Ok(());
        }
    };
    if head[..line_end].windows(7).any(|part| part == b"/events") {
        return Ok(()); // the connection ends without a word
    }
    let mut engine = UnixStream::connect(socket).await?;
    engine.write_all(&head[..line_end]).await?;
    engine.write_all(b"\r\nConnection: close").await?;
    engine.write_all(&head[line_end..]).await?;
    copy_bidirectional(&mut client, &mut engine).await?;
    Ok(())
}
