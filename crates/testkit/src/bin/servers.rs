//! A private Postgres (with a pgbouncer before it) and a private dockerd to play with: prints their addresses as shell assignments, and keeps them
//! until it is told to stop. Whatever way it ends, they end with it.

use anyhow::Result;
use defib_testkit::{PgBouncer, PrivateDockerd, PrivatePostgres};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<()> {
    let (postgres, dockerd) = tokio::try_join!(PrivatePostgres::start(), PrivateDockerd::start())?;
    let database = postgres.create_database().await?;
    let pooler = PgBouncer::before(&postgres, 2).await?;
    println!("export DEFIB_DATABASE_URL={database}");
    println!("# through pgbouncer ({}): {}", pooler.pid().unwrap_or_default(), pooler.url(&database)?);
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
