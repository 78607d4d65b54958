//! `defib check`: is everything reachable, permitted and sanely tuned? Every line that is not well says what to do.
//!
//! The check fails on everything that would keep a dead workspace dead or restart a healthy one. What is only probably a mistake is a
//! warning, on which the check fails only with `--strict`.

use std::time::Duration;

use defib_engine::RestartBy;
use defib_policy::id::WorkspaceId;
use defib_policy::moment::Timestamp;
use defib_policy::settings::Mode;
use defib_store::{CheckFacts, FleetFacts, ListenSettings, SchemaState, Store, can_listen};

use super::findings::{Findings, brief};
use super::mapping::{self, Rows};
use super::{Ended, contract, notify};
use crate::cache::Keys as _;
use crate::config::Config;
use crate::logging::{chain, printable};
use crate::marked_status::{self, MarkedStatus};
use crate::told::show;
use crate::{clock, connect, driver, files};

/// Clocks that are further apart than this are mentioned. Verdicts do not depend on that, but people who read timelines do.
const SKEW_MAX: Duration = Duration::from_secs(2);

pub(super) async fn run(config: &Config, strict: bool) -> anyhow::Result<Ended> {
    let mut findings = Findings::default();
    let clock = clock::monotonic();
    let store =
        connect::store_with(&config.database_url, "defib check", connect::POOL_SIZE, config.fleet_max, clock.clone())?;
    let listening = connect::listen_settings(config)?;
    let now = check_database(&mut findings, config, &store).await;
    let (mut judged, mut all) = (Vec::new(), Vec::new());
    if let Some(facts) = now.as_ref().filter(|facts| facts.schema != SchemaState::Missing) {
        judged = contract::check(&mut findings, config, &store, facts.fleet.is_err()).await;
        // This only asks which ids there are. If the fleet cannot be read, that has been said above.
        all = store.status().await.unwrap_or_default();
    }
    if now.is_some() {
        check_listening(&findings, config, &listening).await;
    }
    let engines = connect::engines(config, &clock)?;
    mapping::check(&mut findings, config, &engines, &Rows { judged: &judged, all: &all }).await;
    if let Some(platform) = connect::platform(config)? {
        let which = match config.restart_by {
            RestartBy::Engine => "restarts that an engine cannot make",
            RestartBy::Platform => "all restarts",
        };
        findings.well("platform", &format!("{which} are asked of {}", printable(platform.shown())));
        if !platform.kills() && config.restart_by == RestartBy::Platform {
            findings.note(
                "platform",
                "its preset has no [[restart.kill_steps]], so what runs and is stuck is not restarted",
            );
        }
    }
    check_cache(&mut findings, config).await?;
    if now.as_ref().is_some_and(|facts| facts.schema == SchemaState::Current) {
        check_marked_status(&mut findings, config, &store).await;
    }
    if now.as_ref().is_some_and(|facts| facts.schema == SchemaState::Current) {
        notify::check(&mut findings, config, &store).await;
        check_windows(&mut findings, config, &store).await;
    }
    check_files(&findings);
    check_tuning(&mut findings, config, now.as_ref());
    Ok(if findings.conclude(strict) { Ended::Well } else { Ended::Failed })
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
        findings.warn(
            "role",
            &format!("{0} does not exist. Have somebody with CREATEROLE run `create role {0} nologin`, then run `defib migrate`", role.name),
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

/// Everything works without it, only later. So it is a note, and no failure.
async fn check_listening(findings: &Findings, config: &Config, listening: &ListenSettings) {
    match can_listen(listening, driver::CHANNELS).await {
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
    let (watched, others): (Vec<_>, Vec<_>) = fleet.by_status.iter().partition(|(status, _)| is_watched(status));
    let sum = |statuses: &[&(Option<String>, i64)]| statuses.iter().map(|(_, count)| count).sum::<i64>();
    let (watched, unwatched) = (sum(&watched), sum(&others));
    let others: Vec<String> = others
        .iter()
        .take(8)
        .map(|(status, count)| format!("{count} {}", brief(status.as_deref().unwrap_or("(null)"))))
        .collect();
    let detail = format!(
        "{watched} of {} workspaces have a watched status{}, {} are suspended, {} never sent a heartbeat",
        watched + unwatched,
        unseen(config, fleet),
        fleet.suspended,
        fleet.never_beat
    );
    let words = config.watched_statuses.join(",");
    if watched + unwatched == 0 {
        findings.warn("fleet", "defib.fleet is empty: there is nobody to watch over");
    } else if watched == 0 {
        findings.fail(
            "fleet",
            &format!(
                "{detail}, so nobody is judged. DEFIB_WATCHED_STATUSES is {words}, the fleet has {}: are those the platform's words?",
                others.join(", ")
            ),
        );
    } else {
        findings.well("fleet", &detail);
        if unwatched > 0 {
            findings.note("fleet", &format!("not watched: {}", others.join(", ")));
        }
    }
    for (status, count) in fleet.by_status.iter().filter_map(|(status, count)| Some((status.as_ref()?, count))) {
        let meant = config.watched_statuses.iter().find(|watched| *watched != status && is_nearly(watched, status));
        if let Some(meant) = meant.filter(|_| !config.watched_statuses.contains(status)) {
            findings.fail(
                "fleet",
                &format!(
                    "{count} workspaces are `{}`, and watched is `{meant}`: statuses are compared exactly, so nobody watches over them. Correct \
                     DEFIB_WATCHED_STATUSES or the view",
                    brief(status)
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

/// The watched statuses that no workspace has. In a small fleet that is normal, but it may also be a misspelt word.
fn unseen(config: &Config, fleet: &FleetFacts) -> String {
    let is_seen = |watched: &&String| !fleet.by_status.iter().any(|(status, _)| status.as_ref() == Some(watched));
    let unseen: Vec<&str> = config.watched_statuses.iter().filter(is_seen).map(String::as_str).collect();
    if unseen.is_empty() || fleet.by_status.is_empty() {
        String::new()
    } else {
        format!(" (none is {})", unseen.join(" or "))
    }
}

/// Whether two words differ only in case and blanks, such as `Online` and ` online`.
fn is_nearly(watched: &str, status: &str) -> bool {
    watched.trim().eq_ignore_ascii_case(status.trim())
}

fn check_tuning(findings: &mut Findings, config: &Config, facts: Option<&CheckFacts>) {
    let policy = &config.policy;
    if policy.mode == Mode::Observe {
        findings.warn("mode", "DEFIB_MODE=observe: it judges and records, and restarts nobody. Set DEFIB_MODE=enforce when you trust what it says");
    }
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
                    "the database started {} ago: no stale heartbeat counts as evidence for one window",
                    show::age(uptime)
                ),
            );
        }
    }
}

/// Whoever beats less than twice within the longest window looks stale between two beats.
async fn check_windows(findings: &mut Findings, config: &Config, store: &Store) {
    let longest = config.policy.recent_max;
    if let Ok(Some(seldom)) = store.seldom_beats(longest).await {
        findings.warn(
            "tuning",
            &format!(
                "{} of the workspaces beat so seldom that DEFIB_RECENT_MAX={} is less than two intervals, and they look stale while they are well; \
                 {} beats each {}. Let them beat more often, or raise DEFIB_RECENT_MAX",
                seldom.workspaces,
                show::age(longest),
                printable(seldom.example.as_str()),
                show::age(seldom.interval)
            ),
        );
    }
}

/// If `mark_dead` writes a status that is not watched, a workspace leaves the fleet when its first restart fails.
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

/// Whether the keys of a dead workspace could be deleted. The check deletes the keys of a workspace that cannot exist, because only a
/// deletion shows that the login may write to these keys and that the server is no replica.
async fn check_cache(findings: &mut Findings, config: &Config) -> anyhow::Result<()> {
    let (Some(cache), Some(evict)) = (connect::cache(config)?, &config.evict) else { return Ok(()) };
    let nobody = WorkspaceId::from("(defib check)");
    let keys: Vec<String> = evict.patterns.iter().map(|pattern| pattern.key(&nobody)).collect();
    let shown = evict.redis.shown();
    match cache.delete(&keys).await {
        Ok(()) => findings.well("redis", &format!("the keys of a dead workspace ({} each) can be deleted at {shown}", keys.len())),
        Err(why) => findings.fail(
            "redis",
            &format!(
                "keys at {shown} cannot be deleted: {}. The restarts go on without it, and callers may be sent to a dead address meanwhile. Is \
                 DEFIB_REDIS_URL right, and may its login use DEL on the keys of DEFIB_REDIS_EVICT?",
                printable(&why)
            ),
        ),
    }
    Ok(())
}

/// Whether the process may open enough files. Connections to engines, to the database and to the HTTP port are all files.
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
