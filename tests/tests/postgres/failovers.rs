//! A server that goes and another that takes its place: two real clusters, one streaming from the other.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use defib_testkit::scripted_engine::Call;
use defib_testkit::{PgBouncer, PrivatePostgres, ScriptedEngine, StopMode};
use defib_tests::{Daemon, SOON, Stage};

use crate::{A_WHILE, OLD_ENOUGH, nobody_is_touched, one_wrong_look, only_this_one_is_restarted, stage_with, warned};

/// There are three at most, because four that look dead would be a storm, in which other rules hold.
const FLEET: [&str; 3] = ["dies", "lives", "beats"];

/// After this time a stale heartbeat would count as evidence again, for a daemon whose local health multiplier is 1.
const HEARTBEATS_COUNT_AFTER: Duration = Duration::from_secs(2);

/// A primary, its standby, and a stage on the primary.
struct Pair {
    primary: PrivatePostgres,
    standby: PrivatePostgres,
    stage: Stage,
    engine: ScriptedEngine,
}

impl Pair {
    async fn start() -> Result<Self> {
        let primary = PrivatePostgres::start().await?;
        let (stage, engine) = stage_with(&primary, &FLEET).await?;
        let standby = primary.standby().await?;
        Ok(Self { primary, standby, stage, engine })
    }

    /// The address that names both, the primary first.
    fn both_hosts(&self, options: &str) -> String {
        let (first, second) = (self.primary.port(), self.standby.port());
        format!("postgres://postgres@127.0.0.1:{first},127.0.0.1:{second}/{}{options}", self.stage.db.name())
    }

    /// Makes the daemon use this address.
    fn at(mut self, url: &str) -> Self {
        self.stage = self.stage.knob("DATABASE_URL", url);
        self
    }

    /// The standby takes over, and the platform writes there from now on.
    async fn take_over(&mut self) -> Result<()> {
        self.standby.promote().await?;
        self.stage.db.reconnect_to(self.standby.url(self.stage.db.name())).await
    }
}

/// What must hold from the moment at which the new primary answers: one wrong look at a fleet with stale heartbeats convicts nobody, the
/// dead workspace is restarted once, and the ledger has kept its rows.
async fn judged_afresh_after_the_outage(pair: &mut Pair, daemon: &Daemon) -> Result<()> {
    let (before, known) = (pair.engine.restarts(), pair.stage.db.all_restarts().await.unwrap_or_default());
    let looked = looks_at_a_living_one(&pair.engine);
    one_wrong_look(&pair.engine, FLEET.len());
    pair.take_over().await?;
    daemon.wait_until_ready().await?;
    only_this_one_is_restarted(&pair.stage, &pair.engine, "dies", before).await?;
    ensure!(looks_at_a_living_one(&pair.engine) > looked, "the wrong look was not made, so it proves nothing");
    let ledger = pair.stage.db.all_restarts().await?;
    ensure!(ledger.len() == known.len() + 1, "the ledger lost something: {ledger:#?}");
    Ok(())
}

/// How often the engine was asked about a living workspace. After a list that calls it stopped, it is asked once more, which proves that
/// the wrong look was made. (Verdicts would prove nothing: only the holder of the lease records them, and it may have got the lease a
/// moment later.)
fn looks_at_a_living_one(engine: &ScriptedEngine) -> usize {
    engine.count_of(Call::Inspect, "lives")
}

#[tokio::test]
async fn a_fail_over_restarts_the_dead_one_once_and_no_healthy_one() -> Result<()> {
    let mut pair = Pair::start().await?;
    let url = pair.both_hosts("?target_session_attrs=read-write");
    pair = pair.at(&url);
    let daemon = pair.stage.run().await?;
    pair.engine.exit("beats", 1)?;
    let earlier = pair.stage.db.wait_for_restart("beats", "succeeded", SOON).await?;
    pair.stage.db.beat("beats").await?;
    pair.stage.db.wait_for_verdict("beats", None).await?;

    pair.stage.db.wait_until_up_for(OLD_ENOUGH).await?;
    pair.primary.wait_until_replayed_by(&pair.standby).await?;
    pair.primary.stop_server_with(StopMode::Kill).await?;
    daemon.wait_until_unready("database").await?;
    pair.engine.exit("dies", 137)?;
    nobody_is_touched(&daemon, &pair.engine, A_WHILE).await?;

    pair.stage.db.reconnect_to(pair.standby.url(pair.stage.db.name())).await?;
    judged_afresh_after_the_outage(&mut pair, &daemon).await?;
    let kept = pair.stage.db.restarts("beats").await?;
    ensure!(kept.len() == 1 && kept[0].id == earlier.id && kept[0].outcome.is_some(), "{kept:#?}");
    Ok(())
}

/// The machine of the old primary hangs: it accepts connections, and never answers.
#[tokio::test]
async fn a_primary_that_hangs_is_given_up_for_the_promoted_standby() -> Result<()> {
    let mut pair = Pair::start().await?;
    let url = pair.both_hosts(""); // of several hosts, the one that can be written to is meant
    pair = pair.at(&url);
    let daemon = pair.stage.run().await?;
    pair.primary.wait_until_replayed_by(&pair.standby).await?;
    pair.primary.pause()?;
    pair.engine.exit("dies", 137)?;
    nobody_is_touched(&daemon, &pair.engine, A_WHILE).await?;
    pair.take_over().await?;
    only_this_one_is_restarted(&pair.stage, &pair.engine, "dies", 0).await
}

/// The old primary is fenced, as cluster managers do it: it lives, and so do the connections to it, but nothing can be written there.
#[tokio::test]
async fn an_old_primary_that_turned_read_only_is_left_for_the_new_one() -> Result<()> {
    let mut pair = Pair::start().await?;
    let url = pair.both_hosts("");
    pair = pair.at(&url);
    let daemon = pair.stage.run().await?;
    pair.primary.wait_until_replayed_by(&pair.standby).await?;
    pair.stage.db.execute("alter system set default_transaction_read_only = on").await?;
    pair.stage.db.execute("select pg_reload_conf()").await?;
    daemon.wait_until_unready("database").await?;
    pair.engine.exit("dies", 137)?;
    nobody_is_touched(&daemon, &pair.engine, A_WHILE).await?;
    judged_afresh_after_the_outage(&mut pair, &daemon).await
}

#[tokio::test]
async fn a_standby_reached_by_mistake_gives_no_verdicts_and_says_so() -> Result<()> {
    let mut pair = Pair::start().await?;
    let url = pair.standby.url(pair.stage.db.name());
    pair = pair.at(&url);
    let checked = pair.stage.defib(&["check"]).await?.with_code(1)?.stdout;
    ensure!(checked.contains("read-only"), "{checked}");
    let daemon = pair.stage.start().await?;
    daemon.wait_until_unready("read-only").await?;
    pair.engine.exit("dies", 137)?;
    nobody_is_touched(&daemon, &pair.engine, A_WHILE).await?;
    ensure!(warned(&daemon, &["read-only", "standby"])?, "the log does not say why");
    let metrics = daemon.metrics().await?;
    ensure!(metrics.value("defib_database_up")? == 0.0, "defib_database_up says that it is up");

    pair.primary.stop_server_with(StopMode::Immediate).await?;
    judged_afresh_after_the_outage(&mut pair, &daemon).await
}

#[tokio::test]
async fn a_pooler_that_is_pointed_at_the_new_primary_is_followed() -> Result<()> {
    let mut pair = Pair::start().await?;
    let pooler = PgBouncer::before(&pair.primary, 2).await?;
    let url = pooler.url(pair.stage.db.url())?;
    pair = pair.at(&url);
    let daemon = pair.stage.run().await?;
    let fail_over = async {
        pair.primary.wait_until_replayed_by(&pair.standby).await?;
        pair.primary.stop_server_with(StopMode::Kill).await?;
        daemon.wait_until_unready("database").await?;
        pair.engine.exit("dies", 137)?;
        pooler.point_at(&pair.standby).await?; // too early: it is a standby still
        nobody_is_touched(&daemon, &pair.engine, A_WHILE).await?;
        judged_afresh_after_the_outage(&mut pair, &daemon).await
    };
    let judged = tokio::select! {
        judged = fail_over => judged,
        not_started = pooler.start_whenever_it_ends() => not_started.map(drop),
    };
    judged.with_context(|| format!("the log of pgbouncer ends:\n{}", pooler.log_tail()))
}

/// A standby has been up for days when it takes over. A daemon that starts only then has seen no outage. Heartbeats could not be written
/// during the outage, and it must not hold that against anybody.
#[tokio::test]
async fn a_daemon_that_starts_after_a_fail_over_waits_for_heartbeats_as_one_that_saw_it() -> Result<()> {
    let mut pair = Pair::start().await?;
    // The platform's last write, as in any fleet that beats: a standby that never replayed one cannot be told from a primary.
    pair.stage.db.execute("update defib.workspaces set updated_at = now()").await?;
    pair.primary.wait_until_replayed_by(&pair.standby).await?;
    pair.primary.stop_server_with(StopMode::Kill).await?;
    pair.take_over().await?;
    pair.stage.db.wait_until_up_for(HEARTBEATS_COUNT_AFTER).await?; // by the age of the server they would
    one_wrong_look(&pair.engine, FLEET.len());
    let daemon = pair.stage.run().await?;
    pair.stage.nothing_is_claimed(A_WHILE).await?;
    let stopped = daemon.metrics().await?.sum("defib_probe_observations_total", "sample=\"stopped\"");
    ensure!(stopped > 0.0, "the wrong look was not made, so it proves nothing");
    pair.engine.exit("dies", 137)?;
    only_this_one_is_restarted(&pair.stage, &pair.engine, "dies", 0).await
}

#[tokio::test]
async fn a_death_during_an_immediate_shutdown_is_found_after_the_start_and_nobody_else_is() -> Result<()> {
    let server = PrivatePostgres::start().await?;
    let (mut stage, engine) = stage_with(&server, &FLEET).await?;
    let daemon = stage.run().await?;
    stage.db.wait_until_up_for(OLD_ENOUGH).await?;
    server.stop_server_with(StopMode::Immediate).await?;
    engine.exit("dies", 137)?;
    daemon.wait_until_unready("database").await?;
    nobody_is_touched(&daemon, &engine, Duration::from_secs(3)).await?;
    one_wrong_look(&engine, FLEET.len());
    server.start_server().await?;
    daemon.wait_until_ready().await?;
    stage.db.reconnect().await?;
    only_this_one_is_restarted(&stage, &engine, "dies", 0).await
}
