//! The HTTP port is open to strangers. Whatever they do there, dead workspaces are restarted.

use anyhow::{Result, ensure};
use defib_tests::SOON;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::fleet;

#[tokio::test]
async fn half_sent_requests_that_could_use_up_all_files_keep_nobody_dead_and_are_closed() -> Result<()> {
    let (stage, engine, _pulse) = fleet(3).await?;
    let daemon = stage.run_with_files(256).await?;
    let mut strangers = Vec::new();
    for _ in 0..371 {
        let mut stranger = TcpStream::connect(daemon.address()).await?;
        stranger.write_all(b"GET /metr").await?;
        strangers.push(stranger);
    }
    engine.exit("w00", 137)?;
    stage.db.wait_for_restart("w00", "succeeded", SOON).await?;
    let metrics = daemon.metrics().await?;
    ensure!(metrics.value("defib_database_up")? == 1.0, "the database cannot be reached");
    ensure!(metrics.value("defib_engine_up{engine=\"default\"}")? == 1.0, "the engine cannot be reached");
    for stranger in &mut strangers {
        let mut rest = Vec::new();
        // A connection that was closed and one that was reset have both ended.
        let _ = timeout(SOON, stranger.read_to_end(&mut rest)).await?;
        ensure!(rest.is_empty(), "an answer to half a request: {}", String::from_utf8_lossy(&rest));
    }
    Ok(())
}
