//! A private Postgres and a private dockerd to play with: prints their addresses as shell assignments, and keeps them
//! until it is told to stop. Whatever way it ends, they end with it.

use anyhow::Result;
use defib_testkit::{PrivateDockerd, PrivatePostgres};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<()> {
    let (postgres, dockerd) = tokio::try_join!(PrivatePostgres::start(), PrivateDockerd::start())?;
    println!("export DEFIB_DATABASE_URL={}", postgres.create_database().await?);
    println!("export DOCKER_HOST={}", dockerd.url());
    if std::env::args().any(|argument| argument == "--workspace") {
        let workspace = defib_testkit::WorkspaceContainer::new("w1").label("defib.workspace", "w1");
        println!("# container {}", dockerd.run_workspace(workspace).await?);
    }
    println!("# ready; Ctrl-C ends both");
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
