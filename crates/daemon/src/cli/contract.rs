//! The part of `defib check` about the platform's adapter: the view, the functions, and the rows as the daemon would read them.

use std::collections::BTreeMap;

use defib_engine::EngineUrl;
use defib_policy::fleet::{Kind, Workspace};
use defib_policy::id::EngineName;
use defib_store::{Answer, Breach, FleetScope, Malformed, Question, Store, Trial};

use super::findings::{Findings, brief, count, some};
use crate::config::Config;
use crate::logging::{chain, printable};
use crate::own_settings;

/// How many containers are named one by one.
const NAMED_MAX: usize = 3;

/// Returns the workspaces that a daemon would judge. With `is_told` it has already been said that the fleet cannot be read.
pub(super) async fn check(findings: &mut Findings, config: &Config, store: &Store, is_told: bool) -> Vec<Workspace> {
    match store.check_contract(&config.watched_statuses).await {
        Ok(facts) => {
            for breach in &facts.breaches {
                findings.fail(subject(breach), &sentence(breach));
            }
            check_trials(findings, &facts.trials, facts.breaches.is_empty());
        }
        Err(error) => findings.fail("contract", &chain(&error)),
    }
    match store.read_fleet(FleetScope::All, &config.watched_statuses).await {
        Ok((read, malformed)) => {
            check_malformed(findings, &malformed);
            check_engines(findings, config, &read.workspaces);
            check_references(findings, &read.workspaces);
            check_policies(findings, config, &read.workspaces);
            return read.workspaces;
        }
        Err(_) if is_told => {}
        Err(error) => {
            findings.fail("fleet", &format!("the daemon cannot read it, so nobody is judged: {}", chain(&error)));
        }
    }
    Vec::new()
}

/// Settings of single workspaces that are not used, because they are not understood or do not go together with the fleet's.
fn check_policies(findings: &mut Findings, config: &Config, workspaces: &[Workspace]) {
    let mut reasons: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for workspace in workspaces {
        for fault in own_settings::faults(workspace, &config.policy) {
            reasons.entry(fault).or_default().push(workspace.id.as_str());
        }
    }
    let rest = reasons.len().saturating_sub(NAMED_MAX);
    for (fault, ids) in reasons.into_iter().take(NAMED_MAX) {
        findings.warn(
            "policy",
            &format!("not used for {} ({}): {}", count(ids.len(), "workspace"), some(ids), brief_sentence(&fault)),
        );
    }
    if rest > 0 {
        findings.warn(
            "policy",
            &format!("{rest} more settings of single workspaces are not used; `defib explain` of one names them"),
        );
    }
}

/// A text from outside for a sentence of ours. It may be longer than a name.
fn brief_sentence(text: &str) -> String {
    printable(text).chars().take(300).collect()
}

const fn subject(breach: &Breach) -> &'static str {
    match breach {
        Breach::NoFleet
        | Breach::MaterializedFleet
        | Breach::ColumnMissing { .. }
        | Breach::ColumnType { .. }
        | Breach::Duplicates { .. } => "fleet",
        Breach::FunctionMissing { .. }
        | Breach::Returns { .. }
        | Breach::NotVolatile { .. }
        | Breach::RunsAsCaller { .. }
        | Breach::SearchPath { .. }
        | Breach::ShippedFunction { .. }
        | Breach::Public { .. } => "functions",
    }
}

/// What is wrong, and what to do.
fn sentence(breach: &Breach) -> String {
    match breach {
        Breach::NoFleet => "there is no view defib.fleet. Run your adapter again (deploy/adapters), or make it as migrations/0001_fleet.sql does".to_owned(),
        Breach::MaterializedFleet => "defib.fleet is a materialized view: heartbeats stand still in it, and everybody looks stale. Make it a plain view".to_owned(),
        Breach::ColumnMissing { column, wanted } => format!(
            "defib.fleet has no column {column} ({wanted}). Add it to the view; deploy/adapters/README.md says what belongs into it"
        ),
        Breach::ColumnType { column, found, wanted } => format!(
            "column {column} of defib.fleet is {}, which cannot be cast to {wanted}. Convert it in the view",
            printable(found)
        ),
        Breach::Duplicates { ids, example } => format!(
            "{ids} workspace_id(s) are in more than one row of defib.fleet, {} for one: nobody knows which row is meant, so they are not judged. Look for a join that multiplies",
            brief(example)
        ),
        Breach::FunctionMissing { wanted, others } if others.is_empty() => {
            format!("{wanted} does not exist. Run your adapter again (deploy/adapters), then `defib migrate`")
        }
        Breach::FunctionMissing { wanted, others } => format!(
            "{wanted} does not exist, only the same with ({}). Give it those arguments, then run `defib migrate`",
            printable(&others.join("), ("))
        ),
        Breach::Returns { function, found, wanted } => format!(
            "{} returns {}, and not {wanted}. Drop it, make it anew, then run `defib migrate`",
            printable(function),
            printable(found)
        ),
        Breach::NotVolatile { function } => {
            format!("{} is declared stable or immutable, so it can lock and write nothing. Declare it volatile", printable(function))
        }
        Breach::RunsAsCaller { function } => format!(
            "{} is not SECURITY DEFINER: it has the daemon's rights, and the daemon has none on the platform's tables. Declare it security definer",
            printable(function)
        ),
        Breach::SearchPath { function, found } => format!(
            "{} runs with its owner's rights, and its caller chooses where it looks names up (search_path: {}). Declare it with set search_path = pg_catalog, pg_temp",
            printable(function),
            printable(found.as_deref().unwrap_or("the caller's"))
        ),
        Breach::ShippedFunction { function } => format!(
            "defib.fleet is about tables of the platform, and {} still is the one that ships with defib: it looks into defib.workspaces, where it finds none of \
             the view's workspaces. {} Make one for your tables (deploy/adapters/README.md)",
            printable(function),
            if function.contains("mark_dead") { "It vetoes every restart, so the dead stay dead." } else { "Nobody is ever marked recovered." }
        ),
        Breach::Public { function } => format!(
            "{} runs with its owner's rights, and everybody may call it. Run `defib migrate`, or revoke all on it from public",
            printable(function)
        ),
    }
}

fn check_trials(findings: &mut Findings, trials: &[Trial], kept: bool) {
    let mut right = 0;
    let mut locked: Vec<&Trial> = Vec::new();
    for trial in trials {
        let function = trial.question.function();
        let about = about(trial);
        match &trial.answer {
            Answer::Veto if !trial.question.wants_true() => right += 1,
            Answer::Agreed if trial.question.wants_true() => right += 1,
            Answer::Locked => locked.push(trial),
            Answer::Veto => findings.fail(
                "functions",
                &format!(
                    "defib.{function} answers false for {about}, so every restart would be vetoed: {}",
                    remedy(trial.question)
                ),
            ),
            Answer::Agreed => findings
                .fail("functions", &format!("defib.{function} answers true for {about}: {}", remedy(trial.question))),
            Answer::Null => findings
                .fail("functions", &format!("defib.{function} answers null for {about}: it must say true or false")),
            Answer::Raised(words) => findings.fail(
                "functions",
                &format!(
                    "defib.{function} raises for {about}, where it must return {}: {}. {}",
                    trial.question.wants_true(),
                    printable(words),
                    if trial.question.is_of_nobody() {
                        "Compare ids as text (id::text = workspace_id)"
                    } else {
                        "Mend it: nobody is restarted while it does"
                    }
                ),
            ),
        }
    }
    if let Some(first) = locked.first() {
        findings.note(
            "functions",
            &format!(
                "{} to defib.mark_dead got no answer: the row of {} stayed locked. Check again",
                count(locked.len(), "question"),
                brief(&first.workspace)
            ),
        );
    }
    if kept && right > 0 && right == trials.len() {
        let agrees = if trials.iter().any(|trial| trial.question.wants_true()) {
            ", and agreed to the one that it should agree to"
        } else {
            "; there is no watched workspace to ask whether it would agree to a restart"
        };
        let vetoes = trials.iter().filter(|trial| !trial.question.wants_true()).count();
        findings.well(
            "contract",
            &format!(
                "view and functions keep it: the functions refused all {vetoes} requests that they must refuse{agrees}"
            ),
        );
    }
}

fn about(trial: &Trial) -> String {
    let workspace = brief(&trial.workspace);
    match trial.question {
        Question::DeadUnknown | Question::RecoveredUnknown => "a workspace that does not exist".to_owned(),
        Question::OtherStatus => format!("{workspace} on evidence with another status"),
        Question::LaterHeartbeat => format!("{workspace} on evidence older than its heartbeat"),
        Question::LaterActivity => format!("{workspace} on evidence older than its activity"),
        Question::Suspended => format!("{workspace}, which defib.fleet calls suspended"),
        Question::Fitting => format!("{workspace} on evidence that fits its row"),
    }
}

const fn remedy(question: Question) -> &'static str {
    match question {
        Question::DeadUnknown | Question::RecoveredUnknown => "return false where there is no row",
        Question::OtherStatus => "compare `status` with the evidence, or what was paused meanwhile is restarted",
        Question::LaterHeartbeat => {
            "compare `last_heartbeat_at` with the evidence (defib.has_advanced), or what came back meanwhile is restarted"
        }
        Question::LaterActivity => {
            "compare `last_activity_at` with the evidence (defib.has_advanced), or what came back meanwhile is restarted"
        }
        Question::Fitting => {
            "does it know the workspaces of the view, and does it compare with the evidence as the view shows it?"
        }
        Question::Suspended => "veto what the view suspends, by the workspace's own status and by its ancestors'",
    }
}

/// Rows that the daemon reports and leaves alone. One line for each reason.
fn check_malformed(findings: &mut Findings, malformed: &[Malformed]) {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for row in malformed {
        reasons.entry(row.why).or_default().push(row.id.as_deref().unwrap_or("(null)"));
    }
    for (why, ids) in reasons {
        let more = if malformed.len() >= defib_store::MALFORMED_MAX { " or more" } else { "" };
        findings.fail(
            "fleet",
            &format!(
                "{}{more} watched row(s) are not judged: {why} ({}). Mend the view",
                ids.len(),
                some(ids.iter().copied())
            ),
        );
    }
}

fn check_engines(findings: &mut Findings, config: &Config, workspaces: &[Workspace]) {
    let mut engines: BTreeMap<(&EngineName, bool), Vec<&str>> = BTreeMap::new();
    for workspace in workspaces.iter().filter(|workspace| workspace.kind != Kind::External) {
        let is_instance = workspace.kind == Kind::Instance;
        engines.entry((&workspace.engine, is_instance)).or_default().push(workspace.id.as_str());
    }
    for ((engine, is_instance), ids) in engines {
        let name = brief(engine.as_str());
        let url = config.engines.iter().find(|(known, _)| known == engine).map(|(_, url)| url);
        let (count, some) = (ids.len(), some(ids.iter().copied()));
        match (url, is_instance) {
            (None, false) => findings.fail("fleet", &format!(
                "{count} watched workspaces ({some}) are on engine {name}, which is not in DEFIB_ENGINES: nobody looks at them. Add it there, or correct `engine` in defib.fleet"
            )),
            (None, true) => findings.fail("fleet", &format!(
                "{count} watched instances ({some}) are on engine {name}, which is not in DEFIB_ENGINES: nobody looks at them. Add their control plane there ({name}=cp+https://…), or leave them out of defib.fleet"
            )),
            (Some(url), true) if !matches!(url, EngineUrl::ControlPlane(_)) => findings.fail("fleet", &format!(
                "{count} watched instances ({some}) are on engine {name}, which has containers: it would find none of theirs and call them missing. Give them the engine of their control plane in defib.fleet"
            )),
            (Some(EngineUrl::ControlPlane(_)), false) => findings.fail("fleet", &format!(
                "{count} watched workspaces ({some}) are of kind container, which is the default, on engine {name}, which is a control plane and has instances: nobody can see them, and they stay unknown. Give them kind instance and an instance_ref, or the engine of their containers, in defib.fleet"
            )),
            _ => {}
        }
    }
}

/// Two workspaces with one container: if it dies, both are called dead, and a restart of one of them also ends the other.
fn check_references(findings: &mut Findings, workspaces: &[Workspace]) {
    let mut references: BTreeMap<(&EngineName, &str), Vec<&str>> = BTreeMap::new();
    let mut nameless: Vec<&str> = Vec::new();
    for workspace in workspaces {
        let reference = match workspace.kind {
            Kind::External => continue,
            Kind::Container => workspace.container_ref.as_deref(),
            Kind::Instance => {
                if workspace.instance_ref.is_none() {
                    nameless.push(workspace.id.as_str());
                }
                workspace.instance_ref.as_deref()
            }
        };
        if let Some(reference) = reference {
            let reference = reference.strip_prefix('/').unwrap_or(reference); // as Docker shows names
            references.entry((&workspace.engine, reference)).or_default().push(workspace.id.as_str());
        }
    }
    let mut shared = references.into_iter().filter(|(_, ids)| ids.len() > 1);
    for ((engine, reference), ids) in shared.by_ref().take(NAMED_MAX) {
        findings.fail("fleet", &format!(
            "{} watched workspaces ({}) say that {} on engine {} is theirs: one death would be held against all. Correct container_ref or instance_ref in defib.fleet",
            ids.len(), some(ids.iter().copied()), brief(reference), brief(engine.as_str())
        ));
    }
    let rest = shared.count();
    if rest > 0 {
        findings.fail("fleet", &format!("{rest} more containers are said to be of several workspaces. Correct container_ref or instance_ref in defib.fleet"));
    }
    if !nameless.is_empty() {
        findings.fail("fleet", &format!(
            "{} watched instances ({}) have no instance_ref: no control plane can find them. Fill it in in defib.fleet",
            nameless.len(), some(nameless.iter().copied())
        ));
    }
}
