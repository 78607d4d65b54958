//! The short version of `make soak`. Each soak also replays what its replicas have recorded, and fails where a replay says something else.

use anyhow::{Result, ensure};
use defib_tests::{Breaking, Soak, soak};

#[tokio::test]
async fn replicas_killed_at_random_restart_each_dead_one_once() -> Result<()> {
    let report = soak(Soak { seed: 1, rounds: 6, breaking: Breaking::Replicas }).await?;
    ensure!(report.deaths >= 6 && report.kills == 6, "{report}");
    // Three replicas, and those that took the places of the killed ones. One that is killed in its first second may leave no recording.
    ensure!(report.replayed.processes >= 6 && report.replayed.orders > 0, "{report}");
    Ok(())
}

#[tokio::test]
async fn a_postgres_restarted_at_random_costs_and_doubles_no_restart() -> Result<()> {
    let report = soak(Soak { seed: 2, rounds: 5, breaking: Breaking::Postgres }).await?;
    ensure!(report.deaths >= 5 && report.outages == 5, "{report}");
    ensure!(report.replayed.processes >= 3 && report.replayed.orders >= report.deaths, "{report}");
    Ok(())
}

#[tokio::test]
async fn whoever_can_be_healed_is_healed_once_whatever_the_neighbours_do() -> Result<()> {
    let report = soak(Soak { seed: 3, rounds: 4, breaking: Breaking::Neighbours }).await?;
    ensure!(report.deaths >= 8 && report.troubles >= 4, "{report}");
    ensure!(report.replayed.processes >= 3 && report.replayed.orders > 0, "{report}");
    Ok(())
}
