//! A tablespace without a free block: a restart whose claim cannot be written is not made.

use anyhow::{Context, Result, ensure};
use defib_testkit::postgres::SMALL_TABLESPACE;
use defib_testkit::{PrivatePostgres, ScriptedEngine, eventually};
use defib_tests::{SOON, Stage};

use crate::{A_WHILE, nobody_is_touched, only_this_one_is_restarted, stage_with, warned};

/// Room for the empty tables and indexes of the schema.
const DISK_BYTES: u64 = 4 << 20;

/// These tables are empty and on a disk that is full: not even a first row finds room.
async fn stage_on_a_full_disk(tables: &[&str]) -> Result<(PrivatePostgres, Stage, ScriptedEngine)> {
    let server = PrivatePostgres::start_with_small_disk(DISK_BYTES).await?;
    let (stage, engine) = stage_with(&server, &["dies", "lives"]).await?;
    for table in tables {
        stage.db.execute(&format!("alter table defib.{table} set tablespace {SMALL_TABLESPACE}")).await?;
        let indexes = "select indexname::text from pg_indexes where schemaname = 'defib' and tablename = $1";
        for index in stage.db.query(indexes, &[table]).await? {
            let index: String = index.get(0);
            stage.db.execute(&format!("alter index defib.{index} set tablespace {SMALL_TABLESPACE}")).await?;
        }
    }
    // What somebody else has put there. Never vacuumed: that might cut off the pages of the insert that fails.
    let fill = format!("create table fill (n int) with (autovacuum_enabled = off) tablespace {SMALL_TABLESPACE}");
    stage.db.execute(&fill).await?;
    let filled = stage.db.execute("insert into fill select generate_series(1, 1000000)").await;
    let refusal = filled.err().context("the disk is larger than what was put there")?;
    ensure!(format!("{refusal:#}").contains("No space left on device"), "{refusal:#}");
    Ok((server, stage, engine))
}

#[tokio::test]
async fn a_ledger_on_a_full_disk_is_no_claim_and_so_no_restart() -> Result<()> {
    let (_server, stage, engine) = stage_on_a_full_disk(&["restarts"]).await?;
    let daemon = stage.run().await?;
    engine.exit("dies", 137)?;
    let told = async || match warned(&daemon, &["restart not claimed", "No space left on device", "(resources)"]) {
        Ok(true) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    eventually(SOON, "the log says why nothing is claimed", told).await?;
    nobody_is_touched(&daemon, &engine, A_WHILE).await?;
    stage.nothing_is_claimed(A_WHILE).await?;
    stage.db.execute("drop table fill").await?;
    only_this_one_is_restarted(&stage, &engine, "dies", 0).await
}

#[tokio::test]
async fn verdicts_that_cannot_be_written_for_want_of_space_restart_nobody_and_are_told() -> Result<()> {
    let (_server, stage, engine) = stage_on_a_full_disk(&["restarts", "verdicts", "events", "suspicions"]).await?;
    let daemon = stage.start().await?;
    engine.exit("dies", 137)?;
    daemon.wait_until_unready("No space left on device").await?;
    nobody_is_touched(&daemon, &engine, A_WHILE).await?;
    ensure!(warned(&daemon, &["No space left on device", "(resources)"])?, "the log does not say why");
    stage.db.execute("drop table fill").await?;
    daemon.wait_until_ready().await?;
    only_this_one_is_restarted(&stage, &engine, "dies", 0).await?;
    ensure!(stage.db.history("dies").await?.iter().any(|verdict| verdict == "dead"), "the verdict was lost");
    Ok(())
}
