//! `defib check` on the mapping of workspaces to containers, both ways and engine by engine: watched rows that have no container, and
//! containers that carry the label and have no row. A workspace without a container is dead and stays so. A container without a row is
//! watched by nobody.

use std::collections::{BTreeMap, HashMap};

use defib_engine::{Engine, EngineCheck, Target};
use defib_policy::fleet::{Kind, Workspace};
use defib_policy::id::EngineName;
use defib_policy::sample::{Fault, Observation};
use defib_store::StatusRow;

use super::findings::{Findings, brief, count, some};
use crate::config::Config;
use crate::logging::{chain, printable};

/// What is known of the fleet; empty if it cannot be read.
#[derive(Debug, Default)]
pub(super) struct Rows<'a> {
    /// The workspaces that a daemon would judge.
    pub(super) judged: &'a [Workspace],
    /// All workspaces of the fleet.
    pub(super) all: &'a [StatusRow],
}

/// Instances of a control plane that it is asked about, at most: enough to see how each of its states is understood.
const EXAMPLES_MAX: usize = 16;

/// An engine that answers, and those of its workspaces that have no container there.
struct Seen<'a> {
    name: &'a EngineName,
    found: EngineCheck,
    /// The platform makes a removed container of it again, because defib asks it to.
    recreates: bool,
    judged: usize,
    /// Of how many it could not be told whether they run.
    unseen: usize,
    by_label: usize,
    missing: Vec<&'a Workspace>,
}

/// Asks one engine after the other, and compares what they have with the rows.
pub(super) async fn check<'a, E: AsRef<dyn Engine> + 'a>(
    findings: &mut Findings,
    config: &Config,
    engines: impl IntoIterator<Item = (&'a EngineName, &'a E)>,
    rows: &Rows<'_>,
) {
    let mut seen: Vec<Seen<'_>> = Vec::new();
    for (name, engine) in engines {
        let of_engine: Vec<&Workspace> =
            rows.judged.iter().filter(|row| row.kind == Kind::Container && row.engine == *name).collect();
        let instances: Vec<Target> = rows
            .judged
            .iter()
            .filter(|row| row.kind == Kind::Instance && row.engine == *name)
            .take(EXAMPLES_MAX)
            .map(|row| Target::instance(row.id.clone(), row.instance_ref.clone()))
            .collect();
        if let Some(one) = ask(findings, config, name, engine.as_ref(), &of_engine, &instances).await {
            seen.push(one);
        }
    }
    // Where a label was seen, for rows that look for it on another engine.
    let elsewhere: HashMap<&str, &EngineName> = seen
        .iter()
        .flat_map(|one| one.found.labelled().into_iter().flatten().map(|(workspace, _)| (workspace.as_str(), one.name)))
        .collect();
    for one in &seen {
        tell_missing(findings, config, one, &elsewhere);
    }
    tell_unclaimed(findings, config, &seen, rows);
}

async fn ask<'a>(
    findings: &mut Findings,
    config: &Config,
    name: &'a EngineName,
    engine: &dyn Engine,
    workspaces: &[&'a Workspace],
    instances: &[Target],
) -> Option<Seen<'a>> {
    let what = format!("engine {name}");
    let url =
        config.engines.iter().find(|(known, _)| known == name).map(|(_, url)| url.to_string()).unwrap_or_default();
    let found = match engine.check().await {
        Ok(found) => found,
        Err(error) => {
            findings.fail(&what, &format!("{}. Is it running at {url}, and may this user use it?", chain(&error)));
            return None;
        }
    };
    findings.well(&what, &printable(&found.to_string()));
    explain(findings, &what, engine, instances).await;
    let targets: Vec<Target> = workspaces
        .iter()
        .map(|workspace| Target::container(workspace.id.clone(), workspace.container_ref.clone()))
        .collect();
    let report = engine.sample_all(&targets).await;
    match report.reach {
        Ok(reached) if !reached.spoiled => {}
        Ok(_) => findings.fail(
            &what,
            "its list has an entry without an id, or with names or labels that cannot be read, so nobody knows whose container it is: \
             compare `docker ps --all` with the answer of GET /containers/json, and remove that container",
        ),
        Err(fault) => {
            findings.fail(&what, &format!("its containers cannot be listed: {fault}"));
            return None;
        }
    }
    let samples: HashMap<_, _> = report.samples.iter().map(|(id, sample)| (id, &sample.observation)).collect();
    let missing = workspaces
        .iter()
        .copied()
        .filter(|workspace| matches!(samples.get(&workspace.id), Some(Observation::Missing)))
        .collect();
    let unseen: Vec<(&Workspace, Fault)> = workspaces
        .iter()
        .filter_map(|workspace| match samples.get(&workspace.id) {
            Some(Observation::Unknown { fault }) => Some((*workspace, *fault)),
            Some(_) => None,
            None => Some((*workspace, Fault::NotAsked)),
        })
        .collect();
    // Rows of the wrong kind are told of with the fleet.
    let mut told = unseen.iter().filter(|(_, fault)| *fault != Fault::WrongKind).peekable();
    if let Some((_, fault)) = told.peek().copied() {
        let (ids, fault) = (told.map(|(workspace, _)| workspace.id.as_str()).collect::<Vec<_>>(), *fault);
        findings.fail(
            &what,
            &format!(
                "{} of its {} cannot be told to run or not ({}; the first because of {fault}), and stay unknown while that is so",
                ids.len(),
                count(workspaces.len(), "watched workspace"),
                some(ids.iter().copied())
            ),
        );
    }
    let by_label = workspaces.iter().filter(|workspace| workspace.container_ref.is_none()).count();
    let recreates = engine.abilities().recreates;
    Some(Seen { name, found, recreates, judged: workspaces.len(), unseen: unseen.len(), by_label, missing })
}

/// How the answers of a control plane about some of its instances are understood.
async fn explain(findings: &mut Findings, what: &str, engine: &dyn Engine, instances: &[Target]) {
    let explanation = engine.explain(instances).await;
    for answer in &explanation.answers {
        findings.note(what, &printable(&answer.to_string()));
    }
    if !engine.abilities().starts {
        let cannot = "it has no way to restart anything: set DEFIB_PLATFORM_URL to the platform's own restart, or add [[restart.steps]] to its preset";
        if instances.is_empty() {
            findings.note(what, cannot);
        } else {
            findings.fail(what, &format!("{cannot}. Until then its dead stay dead, held as cannot_restart"));
        }
    }
    for fault in &explanation.faults {
        findings.fail(what, &printable(fault));
    }
}

fn tell_missing(findings: &mut Findings, config: &Config, seen: &Seen<'_>, elsewhere: &HashMap<&str, &EngineName>) {
    let what = format!("engine {}", seen.name);
    if seen.judged > 0 && seen.missing.is_empty() && seen.unseen == 0 {
        return findings
            .well(&what, &format!("each of its {} has a container", count(seen.judged, "watched workspace")));
    }
    if seen.missing.is_empty() {
        return;
    }
    let label = &config.workspace_label;
    let by_label = seen.missing.iter().filter(|workspace| workspace.container_ref.is_none()).count();
    let nobody_has_it = seen.found.labelled().is_some_and(<[_]>::is_empty);
    if by_label > 0 && by_label == seen.by_label && nobody_has_it {
        findings.fail(
            &what,
            &format!(
                "no container carries the label {label}, by which {} would be found ({}): all of them count as missing. Is \
                 DEFIB_WORKSPACE_LABEL the label that your platform sets? Or fill in container_ref in defib.fleet",
                count(by_label, "watched workspace"),
                some(seen.missing.iter().filter(|workspace| workspace.container_ref.is_none()).map(|row| row.id.as_str()))
            ),
        );
        if by_label == seen.missing.len() {
            return;
        }
    }
    let mut moved: BTreeMap<&EngineName, Vec<&str>> = BTreeMap::new();
    for workspace in &seen.missing {
        if let Some(engine) = elsewhere.get(workspace.id.as_str()).filter(|engine| **engine != seen.name) {
            moved.entry(engine).or_default().push(workspace.id.as_str());
        }
    }
    for (engine, ids) in moved {
        findings.fail(
            &what,
            &format!(
                "{} ({}) have their container on engine {engine}. Correct `engine` in defib.fleet",
                count(ids.len(), "watched workspace"),
                some(ids.iter().copied())
            ),
        );
    }
    if seen.recreates {
        let (missing, watched) = (seen.missing.len(), count(seen.judged, "watched workspace"));
        let ids = some(seen.missing.iter().map(|workspace| workspace.id.as_str()));
        return findings.warn(
            &what,
            &format!(
                "{missing} of its {watched} have no container ({ids}): defib asks the platform to make them again"
            ),
        );
    }
    findings.fail(
        &what,
        &format!(
            "{} of its {} have no container ({}): they are dead, and stay so, because only the platform can make a container again. Recreate them, \
             set DEFIB_PLATFORM_URL to the platform's own restart, correct container_ref or the label {label}, or give them a status that is not watched",
            seen.missing.len(),
            count(seen.judged, "watched workspace"),
            some(seen.missing.iter().map(|workspace| workspace.id.as_str()))
        ),
    );
}

/// Containers whose workspace has no row at all, or one on another engine that does not find it.
fn tell_unclaimed(findings: &mut Findings, config: &Config, seen: &[Seen<'_>], rows: &Rows<'_>) {
    if rows.all.is_empty() {
        return; // another finding says that nothing is watched at all
    }
    let known: HashMap<&str, Option<&str>> =
        rows.all.iter().map(|row| (row.id.as_str(), row.engine.as_deref())).collect();
    for one in seen {
        let labelled = one.found.labelled().into_iter().flatten();
        let unclaimed: Vec<String> = labelled
            .filter(|(workspace, _)| !known.contains_key(workspace.as_str()))
            .map(|(workspace, container)| format!("{} of container {}", brief(workspace), brief(container)))
            .collect();
        if !unclaimed.is_empty() {
            findings.warn(
                &format!("engine {}", one.name),
                &format!(
                    "{} the label {} with an id that defib.fleet does not have ({}): nobody watches over them. Correct the label, or the view",
                    if unclaimed.len() == 1 { "1 container carries".to_owned() } else { format!("{} containers carry", unclaimed.len()) },
                    config.workspace_label,
                    some(unclaimed.iter().map(String::as_str))
                ),
            );
        }
    }
}
