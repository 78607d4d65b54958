//! A proxy before a Docker engine that decides for each request whether the engine sees it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

/// Heads of requests of a Docker client have some hundred bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// The engine gets it.
    Pass,
    /// The client gets this answer.
    Answer(&'static [u8]),
    /// The connection ends without a word.
    CutOff,
}

/// The proxy. It ends with its value.
#[derive(Debug)]
pub struct Relay {
    url: String,
    server: JoinHandle<()>,
}

impl Relay {
    /// In front of the engine at `unix://…`. `decide` is given the method and the path with its query.
    pub async fn before(engine: &str, decide: impl Fn(&str, &str) -> Handling + Send + Sync + 'static) -> Result<Self> {
        let socket = engine.strip_prefix("unix://").context("the engine has no unix socket")?.to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen")?;
        let url = format!("tcp://{}", listener.local_addr()?);
        let decide = Arc::new(decide);
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (socket, decide) = (socket.clone(), Arc::clone(&decide));
                connections.spawn(async move { relay(client, &socket, &*decide).await });
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

impl Drop for Relay {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// One request: the engine is told to close the connection after it, so that no second request passes unseen on the same connection.
async fn relay(
    mut client: TcpStream,
    socket: &str,
    decide: &(dyn Fn(&str, &str) -> Handling + Send + Sync),
) -> Result<()> {
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
    let line = String::from_utf8_lossy(&head[..line_end]).into_owned();
    let mut words = line.split(' ');
    match decide(words.next().unwrap_or_default(), words.next().unwrap_or_default()) {
        Handling::CutOff => return Ok(()),
        Handling::Answer(answer) => return Ok(client.write_all(answer).await?),
        Handling::Pass => {}
    }
    let mut engine = UnixStream::connect(socket).await?;
    engine.write_all(&head[..line_end]).await?;
    engine.write_all(b"\r\nConnection: close").await?;
    engine.write_all(&head[line_end..]).await?;
    copy_bidirectional(&mut client, &mut engine).await?;
    Ok(())
}
