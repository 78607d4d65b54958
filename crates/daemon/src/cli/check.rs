//! `defib check`: is everything reachable, permitted and sanely tuned? Every line that is not well says what to do.

use std::time::Duration;

use defib_policy::moment::Timestamp;
use defib_store::{CheckFacts, FleetFacts, SchemaState, Store, can_listen};

use super::{Ended, contract, show};
use crate::config::Config;
use crate::logging::{chain, printable};
use crate::marked_status::{self, MarkedStatus};
use crate::{clock, connect, driver, files};

/// Clocks further apart than this are worth a word: verdicts do not depend on it, people reading timelines do.
const SKEW_MAX: Duration = Duration::from_secs(2);

/// The findings, printed as they come.
#[derive(Default)]
pub(super) struct Findings {
    failed: usize,
}

impl Findings {
    pub(super) fn well(&self, what: &str, detail: &str) {
        let _ = self;
        say!("ok    {what}: {detail}");
    }

    pub(super) fn note(&self, what: &str, detail: &str) {
        let _ = self;
        say!("note  {what}: {detail}");
    }

    pub(super) fn fail(&mut self, what: &str, detail: &str) {
        self.failed += 1;
        say!("FAIL  {what}: {detail}");
    }
}

pub(super) async fn run(config: &Config) -> anyhow::Result<Ended> {
    let mut findings = Findings::default();
    let clock = clock::monotonic();
    let store = connect::store(&config.database_url, "defib check", clock.clone())?;
    let now = check_database(&mut findings, config, &store).await;
    if let Some(facts) = now.as_ref().filter(|facts| facts.schema != SchemaState::Missing) {
        contract::check(&mut findings, config, &store, facts.fleet.is_err()).await;
    }
    if now.is_some() {
        check_listening(&findings, config).await;
    }
    for (name, engine) in &connect::engines(config, &clock)? {
        let url =
            config.engines.iter().find(|(known, _)| known == name).map(|(_, url)| url.to_string()).unwrap_or_default();
        let what = format!("engine {name}");
        match engine.check().await {
            Ok(found) => {
                findings.well(
                    &what,
                    &format!(
                        "{} {} (API {}), {} containers, id {}",
                        printable(&found.name),
                        printable(&found.version),
                        printable(&found.api_version),
                        found.containers,
                        printable(&found.id)
                    ),
                );
                match engine.sample_all(&[]).await.reach {
                    Ok(reached) if !reached.spoiled => {}
                    Ok(_) => findings.fail(
                        &what,
                        "a container of it is in a state that defib does not know, so its list cannot be read whole: find it \
                         (`docker ps --all`), and remove it or have it started",
                    ),
                    Err(fault) => findings.fail(&what, &format!("its containers cannot be listed: {fault}")),
                }
            }
            Err(error) => {
                findings.fail(&what, &format!("{}. Is it running at {url}, and may this user use it?", chain(&error)));
            }
        }
    }
    if now.as_ref().is_some_and(|facts| facts.schema == SchemaState::Current) {
        check_marked_status(&mut findings, config, &store).await;
    }
    check_files(&findings);
    check_tuning(&findings, config, now.as_ref());
    if findings.failed == 0 {
        say!("\nall is well");
        return Ok(Ended::Well);
    }
    say!("\n{} to mend", findings.failed);
    Ok(Ended::Failed)
}

async fn check_database(findings: &mut Findings, config: &Config, store: &Store) -> Option<CheckFacts> {
    let facts = match store.check_facts().await {
        Ok(facts) => facts,
        Err(error) => {
            findings.fail("database", &format!("{}. Is DEFIB_DATABASE_URL right?", chain(&error)));
            return None;
        }
    };
    findings.well(
        "database",
        &format!("Postgres {} as {} in {}", facts.server_version, printable(&facts.user), printable(&facts.database)),
    );
    let skew = skew(facts.our_now, facts.now);
    if skew > SKEW_MAX {
        findings.note(
            "clock",
            &format!(
                "ours and the database's differ by {}; ages are computed by the database, so verdicts stand",
                show::age(skew)
            ),
        );
    }
    if facts.in_recovery || facts.read_only {
        findings.fail("database", "it is read-only (a stand-by?): nothing can be claimed, so nothing is restarted. Point DEFIB_DATABASE_URL at the primary");
    }
    match facts.schema {
        SchemaState::Current => findings.well("schema", "defib is up to date"),
        SchemaState::Missing => {
            findings.fail("schema", "there is no schema defib. Run `defib migrate`");
            return Some(facts);
        }
        SchemaState::Older { have, want } => {
            findings.fail("schema", &format!("version {have}, this program needs {want}. Run `defib migrate`"));
        }
        SchemaState::Newer { have, want } => {
            findings.fail("schema", &format!("version {have}, this program knows {want}. Use a newer defib"));
        }
    }
    for role in facts.roles.iter().filter(|role| !role.exists) {
        findings.note(
            "role",
            &format!("{} does not exist. Have a superuser create it, then `defib migrate` again", role.name),
        );
    }
    let missing: Vec<String> = facts
        .privileges
        .iter()
        .filter(|privilege| !privilege.granted)
        .map(|privilege| format!("{} on {}", privilege.needed, privilege.object))
        .collect();
    if missing.is_empty() {
        findings.well("rights", "all that the daemon needs");
    } else {
        findings.fail(
            "rights",
            &format!("missing: {}. Grant the role defib_daemon to {}", missing.join(", "), printable(&facts.user)),
        );
    }
    check_fleet(findings, config, &facts);
    Some(facts)
}

/// Without it everything works, only later: a note, and no failure.
async fn check_listening(findings: &Findings, config: &Config) {
    match can_listen(&connect::listen_settings(config), driver::CHANNELS).await {
        Ok(()) => findings.well("listening", "suspicions are heard at once"),
        Err(why) => findings.note(
            "listening",
            &format!(
                "{}. Suspicions wait for the next poll, {} at most. For less, give DEFIB_LISTEN_DATABASE_URL a direct connection to the primary",
                printable(&why),
                show::age(config.policy.poll_interval)
            ),
        ),
    }
}

fn check_fleet(findings: &mut Findings, config: &Config, facts: &CheckFacts) {
    let fleet = match &facts.fleet {
        Ok(fleet) => fleet,
        Err(error) => return findings.fail("fleet", &format!("defib.fleet cannot be read: {}", printable(error))),
    };
    let is_watched =
        |status: &Option<String>| status.as_ref().is_some_and(|status| config.watched_statuses.contains(status));
    let watched: i64 = fleet.by_status.iter().filter(|(status, _)| is_watched(status)).map(|(_, count)| count).sum();
    let all: i64 = fleet.by_status.iter().map(|(_, count)| count).sum();
    let detail = format!(
        "{watched} of {all} workspaces have a watched status{}, {} are suspended, {} never sent a heartbeat",
        unseen(config, fleet),
        fleet.suspended,
        fleet.never_beat
    );
    if watched == 0 && all > 0 {
        let found: Vec<String> = fleet
            .by_status
            .iter()
            .take(8)
            .map(|(status, _)| printable(status.as_deref().unwrap_or("(null)")))
            .collect();
        findings.note(
            "fleet",
            &format!(
                "{detail}. DEFIB_WATCHED_STATUSES is {}, the fleet has {}: are those the platform's words?",
                config.watched_statuses.join(","),
                found.join(",")
            ),
        );
    } else {
        findings.well("fleet", &detail);
    }
    for (status, count) in fleet.by_status.iter().filter_map(|(status, count)| Some((status.as_ref()?, count))) {
        let meant = config.watched_statuses.iter().find(|watched| *watched != status && is_nearly(watched, status));
        if let Some(meant) = meant.filter(|_| !config.watched_statuses.contains(status)) {
            findings.note(
                "fleet",
                &format!(
                    "{count} workspaces are `{}`, and watched is `{meant}`: statuses are compared exactly. Correct DEFIB_WATCHED_STATUSES or the view",
                    printable(status)
                ),
            );
        }
    }
    // The median age of a healthy fleet is half an interval. Twice that is an estimate that a skewed or half dead fleet
    // can only make too large, and too large warns too soon.
    if let Some([_, median, _, _]) = fleet.heartbeat_ages {
        let interval = median * 2;
        if interval > config.policy.recent_max / 2 {
            findings.note("tuning", &format!(
                "half of the fleet's heartbeats are older than {}: with an interval of about {} DEFIB_RECENT_MAX={} is less than two of them, and healthy workspaces look stale",
                show::age(median), show::age(interval), show::age(config.policy.recent_max)
            ));
        }
    }
}

/// The watched statuses that no workspace has. Nothing to mend in a small fleet, and the first hint of a word that is misspelt.
fn unseen(config: &Config, fleet: &FleetFacts) -> String {
    let is_seen = |watched: &&String| !fleet.by_status.iter().any(|(status, _)| status.as_ref() == Some(watched));
    let unseen: Vec<&str> = config.watched_statuses.iter().filter(is_seen).map(String::as_str).collect();
    if unseen.is_empty() || fleet.by_status.is_empty() {
        String::new()
    } else {
        format!(" (none is {})", unseen.join(" or "))
    }
}

/// The same word in another dress: `Online`, ` online`.
fn is_nearly(watched: &str, status: &str) -> bool {
    watched.trim().eq_ignore_ascii_case(status.trim())
}

fn check_tuning(findings: &Findings, config: &Config, facts: Option<&CheckFacts>) {
    let policy = &config.policy;
    if policy.dead_window < 2 * policy.poll_interval {
        findings.note(
            "tuning",
            "DEFIB_DEAD_WINDOW is less than two polls: without engine events two misses may never fit into it",
        );
    }
    if config.engine_timeout > policy.poll_interval {
        findings.note("tuning", "DEFIB_ENGINE_TIMEOUT is longer than DEFIB_POLL_INTERVAL: a slow engine is looked at less often than it is polled");
    }
    if policy.settle < policy.heartbeat_interval {
        findings.note("tuning", "DEFIB_SETTLE is shorter than DEFIB_HEARTBEAT_INTERVAL: a new incarnation may be judged before its first heartbeat is due");
    }
    if let Some(facts) = facts {
        let uptime = facts.now.since(facts.started_at);
        if uptime < policy.recent_max {
            findings.note(
                "heartbeats",
                &format!(
                    "the database started {} ago: stale heartbeats are held against nobody for one window",
                    show::age(uptime)
                ),
            );
        }
    }
}

/// A workspace whose mark is not watched leaves the fleet when its first restart fails.
async fn check_marked_status(findings: &mut Findings, config: &Config, store: &Store) {
    match marked_status::find(store, config).await {
        Ok(MarkedStatus::Watched(status)) => {
            findings.well("statuses", &format!("defib.mark_dead writes {}, which is watched", printable(&status)));
        }
        Ok(MarkedStatus::Unwatched(why)) => findings.fail("statuses", &why),
        Ok(MarkedStatus::Unknown) => findings.note(
            "statuses",
            "defib.mark_dead agrees to mark nobody now, so the status that it writes is not known. That status must be in DEFIB_WATCHED_STATUSES",
        ),
        Ok(MarkedStatus::NeverWritten) => {}
        Err(error) => findings.fail("statuses", &chain(&error)),
    }
}

/// Connections to engines, to the database and of strangers to the metrics' port are all files.
fn check_files(findings: &Findings) {
    files::raise_limit();
    let Some(limit) = files::limit() else { return };
    let open = files::open().unwrap_or_default();
    let detail = format!("{} of {limit} are left for connections", limit.saturating_sub(open));
    if limit < files::FILES_WANTED {
        findings.note("files", &format!("{detail}. Raise the limit (LimitNOFILE= of the unit, `ulimit -n`)"));
    } else {
        findings.well("files", &detail);
    }
}

fn skew(ours: Timestamp, theirs: Timestamp) -> Duration {
    ours.since(theirs).max(theirs.since(ours))
}
