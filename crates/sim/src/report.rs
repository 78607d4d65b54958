//! The report: every policy through every incident and through the same chaos, as Markdown and plots.

use std::fmt::Write as _;

use crate::baseline;
use crate::catalogue;
use crate::chaos::{self, Climate};
use crate::scenario::{self, Policy, Run, Scenario};
use crate::score::{Score, quantile, shown};
use crate::svg;

/// How much to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Seeds of each incident for defib.
    pub seeds: u64,
    /// Seeds of each incident for the others.
    pub seeds_of_others: u64,
    /// Days of chaos for everybody.
    pub chaos_days: u64,
    /// The first seed.
    pub seed: u64,
}

/// One policy's results.
pub struct Standing {
    /// The policy.
    pub policy: Policy,
    /// For each incident of the catalogue, in its order.
    pub incidents: Vec<Lived>,
    /// Over all incidents.
    pub total: Score,
    /// In the chaos.
    pub chaos: Score,
    /// Median time from the first death of S51 to the last recovery.
    pub mass_recovery: Option<u64>,
}

/// One policy's results in one incident.
pub struct Lived {
    /// Seeds in which an oracle was broken.
    pub broken: u64,
    /// Seeds in which somebody was left dead whom the policy is not able to heal: a removed container, for defib.
    pub left: u64,
    /// The sums over all seeds.
    pub score: Score,
}

impl Lived {
    /// Whether no seed broke an oracle, and nobody was left to the platform.
    #[must_use]
    pub const fn survived(&self) -> bool {
        self.broken == 0 && self.left == 0
    }
}

impl Standing {
    fn survived(&self) -> usize {
        self.incidents.iter().filter(|lived| lived.survived()).count()
    }
}

/// A finished report: files by name.
pub type Files = Vec<(String, String)>;

/// Runs everything and writes it up. `told` is called with progress.
pub fn make(effort: Effort, command: &str, mut told: impl FnMut(&str)) -> Files {
    let standings: Vec<Standing> = Policy::all()
        .into_iter()
        .map(|policy| {
            told(policy.name());
            stand(policy, effort)
        })
        .collect();
    let mut files = vec![
        ("report.md".to_owned(), text(&standings, effort, command)),
        ("summary.md".to_owned(), summary(&standings, effort)),
    ];
    let title = |what: &str| format!("{what}: time to restart the dead, and restarts of the living");
    let of = |pick: fn(&Standing) -> &Score| -> Vec<svg::Point> {
        standings.iter().filter_map(|it| point(it, pick)).collect()
    };
    files.push((
        "catalogue.svg".to_owned(),
        svg::scatter(&of(|it| &it.total), &title(&format!("{} incidents", catalogue::ALL.len()))),
    ));
    files.push(("chaos.svg".to_owned(), svg::scatter(&of(|it| &it.chaos), &title("Chaos"))));
    for id in ["S02", "S10", "S24", "S47", "S51"] {
        if let Some(scenario) = catalogue::find(id) {
            files.push((format!("{}.svg", id.to_lowercase()), timeline(scenario, effort.seed)));
        }
    }
    files
}

fn stand(policy: Policy, effort: Effort) -> Standing {
    let seeds = if policy == Policy::Defib { effort.seeds } else { effort.seeds_of_others };
    let (mut total, mut incidents, mut recoveries) = (Score::default(), Vec::new(), Vec::new());
    for scenario in catalogue::ALL {
        let (mut broken, mut left, mut score) = (0, 0, Score::default());
        for seed in effort.seed..effort.seed + seeds {
            let run = scenario::run(scenario, seed, policy, false);
            broken += u64::from(!run.failures.is_empty());
            left += u64::from(!run.left_to_the_platform.is_empty());
            score.add(&run.world);
            if scenario.id == "S51" {
                recoveries.extend(mass_recovery(&run));
            }
        }
        total.merge(score.clone());
        incidents.push(Lived { broken, left, score });
    }
    let mut chaos = Score::default();
    chaos.add(&chaos::live(Climate::of_days(effort.chaos_days), effort.seed, policy, false).world);
    Standing { policy, incidents, total, chaos, mass_recovery: quantile(&mut recoveries, 0.5) }
}

/// From the first death to the last return, if everybody returned.
fn mass_recovery(run: &Run) -> Option<u64> {
    let losses = &run.world.chronicle.losses;
    let first = losses.iter().map(|loss| loss.at).min()?;
    let all = (0..run.world.workspaces.len()).all(|of| run.world.workspaces[of].is_well());
    let last = losses.iter().filter_map(|loss| loss.back_at.or(loss.excused_at)).max()?;
    all.then(|| last.saturating_sub(first))
}

fn point(standing: &Standing, pick: fn(&Standing) -> &Score) -> Option<svg::Point> {
    let score = pick(standing);
    let median = quantile(&mut score.detection.clone(), 0.5)?;
    Some((standing.policy.name().to_owned(), median as f64 / 1_000.0, score.false_restarts()))
}

fn timeline(scenario: &Scenario, seed: u64) -> String {
    let runs: Vec<(String, Run)> = Policy::all()
        .into_iter()
        .map(|policy| (policy.name().to_owned(), scenario::run(scenario, seed, policy, false)))
        .collect();
    let lanes: Vec<_> = runs.iter().map(|(name, run)| (name.clone(), &run.world)).collect();
    svg::timeline(&lanes, &format!("{} {}: {}", scenario.id, scenario.name, scenario.story))
}

fn text(standings: &[Standing], effort: Effort, command: &str) -> String {
    let mut out = String::from("# What the simulation says\n\n");
    let _ = writeln!(
        out,
        "Made by `{command}`. The same command and seed make the same report.\n\n\
         Every policy lives through the same worlds: the {} incidents of the catalogue ({} seeds each for defib, {} for the \
         others), and {} days of chaos with 100 workspaces on 5 engines and a fault each ten minutes. A *false restart* is one of \
         a workspace whose process was well at that moment, or which was parked, deleted or in the platform's hands. Detection \
         is from the true death of a container to the restart call.\n",
        catalogue::ALL.len(),
        effort.seeds,
        effort.seeds_of_others,
        effort.chaos_days
    );
    let _ = writeln!(out, "## The incidents\n\n![detection against false restarts](catalogue.svg)\n");
    table(&mut out, standings, |it| &it.total, true);
    if let Some(defib) = standings.first() {
        missed(&mut out, defib, effort);
    }
    let _ = writeln!(
        out,
        "\n## Chaos\n\nThree faults of ten are troubles of a neighbour: starts that are refused, vetoes, removed containers, functions of the \
         platform that raise or hang, locked tables, and reporters that lie. A workspace that \
         nobody may restart for hours (a veto, a hold, an outage) counts with its whole wait.\n\n![detection against false restarts in chaos](chaos.svg)\n"
    );
    table(&mut out, standings, |it| &it.chaos, false);
    matrix(&mut out, standings, effort);
    if let Some(defib) = standings.first() {
        by_incident(&mut out, defib, effort);
    }
    let _ = writeln!(out, "\n## Timelines\n");
    for id in ["s02", "s10", "s24", "s47", "s51"] {
        let _ = writeln!(out, "![{id}]({id}.svg)\n");
    }
    let _ = writeln!(out, "## Where the other policies come from\n");
    for other in baseline::ALL {
        let _ = writeln!(out, "- `{}`: {}", other.name, other.source);
    }
    out
}

/// The table of the README: as few columns as the argument needs.
fn summary(standings: &[Standing], effort: Effort) -> String {
    let mut out = format!(
        "| policy | incidents survived | healthy restarted, incidents | healthy restarted, {} days of chaos | dead restarted after (median, chaos) |\n\
         | --- | ---: | ---: | ---: | ---: |\n",
        effort.chaos_days
    );
    for standing in standings {
        let kept = standing.survived();
        let name = standing.policy.name();
        let name = if standing.policy == Policy::Defib { format!("**{name}**") } else { name.to_owned() };
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "| {name} | {kept} of {} | {:.0} | {} | {} |",
            standing.incidents.len(),
            standing.total.false_restarts(),
            standing.chaos.mistakes,
            shown(quantile(&mut standing.chaos.detection.clone(), 0.5))
        );
    }
    out
}

/// Why some of the dead are counted as missed although every oracle is kept, and which incidents defib does not survive.
fn missed(out: &mut String, defib: &Standing, effort: Effort) {
    let by_incident = catalogue::ALL.iter().zip(&defib.incidents).filter(|(_, lived)| lived.score.missed > 0);
    let list: Vec<String> =
        by_incident.map(|(scenario, lived)| format!("{} ({})", scenario.id, lived.score.missed)).collect();
    if !list.is_empty() {
        let _ = writeln!(
            out,
            "\n*Missed* are the deaths that no restart had answered when the run ended. Those of defib: {}. In these incidents a restart \
             cannot help some of the dead: they die again after every restart, the engine refuses their start, the platform vetoes it, an \
             operator holds them, or their container was removed. When the run ended, the next try was still to come.",
            list.join(", ")
        );
    }
    let left = catalogue::ALL.iter().zip(&defib.incidents).filter(|(_, lived)| lived.left > 0);
    let left: Vec<String> =
        left.map(|(scenario, lived)| format!("{} ({} of {} seeds)", scenario.id, lived.left, effort.seeds)).collect();
    if !left.is_empty() {
        let _ = writeln!(
            out,
            "\n*Survived* is an incident that broke no rule and left nobody dead. defib left somebody dead in {}: the container \
             was removed, an engine cannot make it again, and so it stays dead until the platform makes a new one. The other policies \
             run inside the platform and are given the power to make one.",
            left.join(", ")
        );
    }
}

fn table(out: &mut String, standings: &[Standing], pick: fn(&Standing) -> &Score, catalogue: bool) {
    let (head, rule) = if catalogue { (" survived | mass death, all back |", " ---: | ---: |") } else { ("", "") };
    let _ = writeln!(
        out,
        "| policy | false restarts / 1,000 workspace-days | mistake recurrence | detected p50 | p99 | max | wedged, p50 | missed | \
         restarts / death | explained |{head}\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |{rule}"
    );
    for standing in standings {
        let score = pick(standing);
        let (mut detection, mut wedged) = (score.detection.clone(), score.wedged.clone());
        let recurrence = score.mistake_recurrence().map_or_else(|| "never".to_owned(), |days| format!("{days:.1} d"));
        let ratio = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
        let explained =
            score.explained_share().map_or_else(|| "–".to_owned(), |share| format!("{:.0} %", share * 100.0));
        let _ = write!(
            out,
            "| {} | {:.1} ({}) | {recurrence} | {} | {} | {} | {} | {} of {} | {} | {explained} |",
            standing.policy.name(),
            score.false_restarts(),
            score.mistakes,
            shown(quantile(&mut detection, 0.5)),
            shown(quantile(&mut detection, 0.99)),
            shown(quantile(&mut detection, 1.0)),
            shown(quantile(&mut wedged, 0.5)),
            score.missed,
            score.deaths,
            ratio(score.restarts_per_death()),
        );
        if catalogue {
            let kept = standing.survived();
            let _ = write!(out, " {kept} of {} | {} |", standing.incidents.len(), shown(standing.mass_recovery));
        }
        out.push('\n');
    }
}

/// False restarts by incident and policy.
fn matrix(out: &mut String, standings: &[Standing], effort: Effort) {
    let _ = writeln!(out, "\n## False restarts by incident\n\nMean for each run; · is none at all.\n");
    let names: Vec<&str> = standings.iter().map(|it| it.policy.name()).collect();
    let _ = writeln!(out, "| | {} |\n| --- |{}", names.join(" | "), " ---: |".repeat(names.len()));
    for (n, scenario) in catalogue::ALL.iter().enumerate() {
        let cells: Vec<String> = standings
            .iter()
            .map(|it| {
                let score = &it.incidents[n].score;
                let seeds = if it.policy == Policy::Defib { effort.seeds } else { effort.seeds_of_others };
                if score.mistakes == 0 {
                    "·".to_owned()
                } else {
                    format!("{:.1}", score.mistakes as f64 / seeds as f64)
                }
            })
            .collect();
        let _ = writeln!(out, "| {} {} | {} |", scenario.id, scenario.name, cells.join(" | "));
    }
}

fn by_incident(out: &mut String, defib: &Standing, effort: Effort) {
    let _ = writeln!(
        out,
        "\n## defib, incident by incident\n\n{} seeds each, from {}. One of them: `defib-sim run --scenario S24 --seed 7 --trace`.\n\n\
         | incident | story | oracle | deaths | detected p50 | max | restarts | false |\n\
         | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
        effort.seeds, effort.seed
    );
    for (scenario, lived) in catalogue::ALL.iter().zip(&defib.incidents) {
        let Lived { broken, left, score } = lived;
        let kept = match (broken, left) {
            (0, 0) => "kept".to_owned(),
            (0, left) => format!("kept; left to the platform in {left}"),
            (broken, _) => format!("**broken in {broken}**"),
        };
        let mut times: Vec<u64> = score.detection.iter().chain(&score.wedged).copied().collect();
        let _ = writeln!(
            out,
            "| {} {} | {} | {kept} | {} | {} | {} | {} | {} |",
            scenario.id,
            scenario.name,
            scenario.story,
            score.deaths,
            shown(quantile(&mut times, 0.5)),
            shown(quantile(&mut times, 1.0)),
            score.restarts,
            score.mistakes
        );
    }
}
