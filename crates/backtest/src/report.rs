//! The answer: what each contender would have done, and how good that was.

use std::collections::BTreeMap;
use std::time::Duration;

use defib_policy::moment::Timestamp;
use defib_policy::settings::Mode;
use defib_record::Header;
use serde::Serialize;

use crate::scene::{Death, End, Order, Outcome, Stage};

/// A death that lasted for this long without a restart by a contender was missed by it. A shorter one was ended by somebody else first.
const MISSED_AFTER: i64 = 60_000_000;

const DAY_SECONDS: f64 = 86_400.0;

/// What was replayed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Recording {
    /// The first read of the fleet that counts.
    pub from: Option<String>,
    /// The last one.
    pub until: Option<String>,
    /// The mode that the recorded daemon ran in.
    pub mode: &'static str,
    /// The versions of the program that recorded, in their order.
    pub programs: Vec<String>,
    /// Segments.
    pub segments: usize,
    /// Gaps between segments, because the daemon started anew or could not record.
    pub gaps: usize,
    /// Segments that end in the middle of a frame, because the process was killed.
    pub torn: usize,
    /// Calls that could not be recorded.
    pub calls_lost: u64,
    /// The most workspaces in one read.
    pub workspaces: usize,
    /// How many times a pass left a workspace out, because nothing concerned it.
    pub left_out: u64,
    /// Seconds for which workspaces were watched, summed up.
    pub workspace_seconds: f64,
    #[serde(skip)]
    pub(crate) span: Option<(i64, i64)>,
}

impl Recording {
    pub(crate) fn segment(&mut self, header: &Header) {
        self.segments += 1;
        self.mode = header.settings.mode.label();
        if self.programs.last() != Some(&header.program) {
            self.programs.push(header.program.clone());
        }
        // The count is of one process; another one begins at zero.
        self.calls_lost = self.calls_lost.max(header.lost);
    }

    pub(crate) fn reads(&mut self, at: i64, workspaces: usize) {
        self.workspaces = self.workspaces.max(workspaces);
        let (from, until) = self.span.map_or((at, at), |(from, until)| (from, until.max(at)));
        if self.from.is_none() {
            self.from = Some(Timestamp(from).to_string());
        }
        self.span = Some((from, until));
    }
}

/// Whether the replay with the recorded settings said what was recorded.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Exactness {
    /// Whether all of it was recorded by a program with the same policy.
    pub same_policy: bool,
    /// Passes that were compared.
    pub passes: usize,
    /// Reads of what had changed for which it was compared which workspaces the judge called by id.
    pub calls: usize,
    /// Changes of verdicts in the passes.
    pub verdicts: usize,
    /// Orders to restart in the passes.
    pub orders: usize,
    /// Passes in which the replay said something else, and reads for which it called other workspaces.
    pub differing: usize,
    /// The same in parts that a program with another policy has recorded. There the rules have changed.
    pub differing_by_rules: usize,
    /// The moment of the first of `differing`, or else of the first of `differing_by_rules`.
    pub first_difference: Option<String>,
    /// Whether the present part was recorded by a program with another policy.
    #[serde(skip)]
    is_foreign: bool,
}

impl Exactness {
    /// A part of the recording begins. `same_policy`: whether a program with the same policy has recorded it.
    pub(crate) const fn begin(&mut self, same_policy: bool, is_first: bool) {
        self.is_foreign = !same_policy;
        self.same_policy = same_policy && (is_first || self.same_policy);
    }

    /// The replay said something else than was recorded.
    pub(crate) fn differs(&mut self, at: Timestamp) {
        let is_first = self.differing == 0 && (!self.is_foreign || self.differing_by_rules == 0);
        if self.is_foreign {
            self.differing_by_rules += 1;
        } else {
            self.differing += 1;
        }
        if is_first {
            self.first_difference = Some(at.to_string());
        }
    }
}

/// What a contender would have done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Result {
    /// Its name.
    pub policy: String,
    /// Where its rule is from.
    pub source: String,
    /// Restarts, one at most for each life.
    pub restarts: usize,
    /// Restarts of workspaces that were down and gave no further sign of life in that life.
    pub needed: usize,
    /// Restarts of workspaces that gave a sign of life afterwards in the same life: mistakes.
    pub not_needed: usize,
    /// Restarts of which the recording does not tell whether they were needed.
    pub untold: usize,
    /// Containers that stopped or vanished although the platform wanted them to run.
    pub deaths: usize,
    /// Deaths that it would have answered.
    pub answered: usize,
    /// Deaths that lasted for a minute or more, and that it would not have answered.
    pub missed: usize,
    /// Shorter deaths, which somebody else ended before it would have acted.
    pub ended_by_others: usize,
    /// The median time from a death to its restart.
    pub detection_median_seconds: Option<f64>,
    /// The 95th percentile of that time.
    pub detection_p95_seconds: Option<f64>,
    /// How often it took one that lives for dead. Of a life that it would have restarted already, each further time counts as well.
    pub mistakes: usize,
    /// Mistakes in a thousand days for which a workspace was up (Chen, Toueg and Aguilera's mistake rate).
    pub mistakes_per_1000_workspace_days: f64,
    /// How long a mistake lasted until a sign of life showed that it was one, on average (their mistake duration).
    pub mistake_duration_mean_seconds: Option<f64>,
    /// The share of the time in which it was not mistaken about a workspace that lives (their query accuracy).
    pub query_accuracy: f64,
    /// When it made each restart, in seconds since the beginning, and what came of it: `needed`, `not_needed`, `untold`.
    #[serde(skip)]
    pub(crate) moments: Vec<(f64, &'static str)>,
}

/// A life that some would have ended, and others not.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// The workspace.
    pub workspace: String,
    /// When the first contender would have restarted it.
    pub at: String,
    /// The contenders that would have restarted it.
    pub restarted_by: Vec<String>,
    /// The contenders that would not have restarted it.
    pub left_alone_by: Vec<String>,
    /// What came of that life: `needed`, `not_needed`, `untold`.
    pub outcome: &'static str,
    /// Why the first contender would have restarted it.
    pub because: String,
    /// What defib had last said of it then, with each of its settings.
    pub defib_said: Vec<String>,
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was replayed.
    pub recording: Recording,
    /// Whether the replay is exact.
    pub exactness: Exactness,
    /// One for each contender; the first is defib with the recorded settings.
    pub results: Vec<Result>,
    /// Lives about which the contenders differ.
    pub differences: Vec<Difference>,
    /// What a reader of the report has to know.
    pub notes: Vec<String>,
    /// Workspace-seconds that were replayed in a second.
    pub speed: f64,
    #[serde(skip)]
    pub(crate) deaths: Vec<(f64, f64)>,
    #[serde(skip)]
    pub(crate) seconds: f64,
}

impl Report {
    pub(crate) fn new(
        mut recording: Recording,
        exactness: Exactness,
        names: &[(String, String)],
        stage: &Stage,
        words: &[Vec<Option<String>>],
        took: Duration,
    ) -> Self {
        let (from, until) = recording.span.unwrap_or_default();
        recording.until = Some(Timestamp(until).to_string());
        recording.workspace_seconds = stage.watched as f64 / 1e6;
        let results = names.iter().enumerate().map(|(me, name)| result(me, name, stage, from)).collect::<Vec<_>>();
        let real = |end: Option<End>| matches!(end, Some(End::Back | End::StillDown));
        let deaths = stage.deaths.iter().filter(|death| death.from >= from && real(death.end));
        let deaths = deaths.map(|death| (seconds(death.from - from), seconds(death.until - from))).collect();
        let others = names.len() > 1 && names.iter().any(|(name, _)| !name.starts_with("defib"));
        let speed = recording.workspace_seconds / took.as_secs_f64().max(1e-6);
        Self {
            notes: notes(&recording, &exactness, others),
            differences: differences(names, stage, words, from),
            seconds: seconds(until - from),
            recording,
            exactness,
            results,
            speed,
            deaths,
        }
    }
}

impl Report {
    /// The same report with every text from outside (ids, and sentences that name them) as `shown` shows it. For a terminal or a page, which
    /// such a text could otherwise command.
    #[must_use]
    pub fn with_texts(mut self, shown: impl Fn(&str) -> String) -> Self {
        for difference in &mut self.differences {
            difference.workspace = shown(&difference.workspace);
            difference.because = shown(&difference.because);
            difference.defib_said = difference.defib_said.iter().map(|said| shown(said)).collect();
        }
        self
    }
}

fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

fn label(outcome: Option<Outcome>) -> &'static str {
    match outcome {
        Some(Outcome::Needed) => "needed",
        Some(Outcome::NotNeeded(_)) => "not_needed",
        Some(Outcome::Untold) | None => "untold",
    }
}

fn result(me: usize, (name, source): &(String, String), stage: &Stage, from: i64) -> Result {
    let mine: Vec<&Order> = stage.orders.iter().filter(|order| order.contender == me && order.at >= from).collect();
    let restarts = || mine.iter().filter(|order| order.is_first);
    let count = |label_of: &str| restarts().filter(|order| label(order.outcome) == label_of).count();
    let mut result = Result {
        policy: name.clone(),
        source: source.clone(),
        restarts: restarts().count(),
        needed: count("needed"),
        not_needed: count("not_needed"),
        untold: count("untold"),
        moments: restarts().map(|order| (seconds(order.at - from), label(order.outcome))).collect(),
        query_accuracy: 1.0,
        ..Result::default()
    };
    let first: BTreeMap<usize, i64> = mine.iter().rev().filter_map(|order| Some((order.death?, order.at))).collect();
    let mut waits = Vec::new();
    for (n, death) in stage.deaths.iter().enumerate() {
        if death.from < from || !matches!(death.end, Some(End::Back | End::StillDown)) {
            continue;
        }
        result.deaths += 1;
        if let Some(at) = first.get(&n) {
            result.answered += 1;
            waits.push(seconds((at - death.from).max(0)));
        } else if death.until - death.from >= MISSED_AFTER {
            result.missed += 1;
        } else {
            result.ended_by_others += 1;
        }
    }
    waits.sort_by(f64::total_cmp);
    result.detection_median_seconds = quantile(&waits, 0.5);
    result.detection_p95_seconds = quantile(&waits, 0.95);
    let lasted = mine.iter().filter_map(|order| match order.outcome {
        Some(Outcome::NotNeeded(after)) => Some(seconds(after)),
        _ => None,
    });
    let lasted: Vec<f64> = lasted.collect();
    result.mistakes = lasted.len();
    let up = up_seconds(stage, from);
    if up > 0.0 {
        result.mistakes_per_1000_workspace_days = lasted.len() as f64 / up * DAY_SECONDS * 1_000.0;
        result.query_accuracy = 1.0 - lasted.iter().sum::<f64>() / up;
    }
    if !lasted.is_empty() {
        result.mistake_duration_mean_seconds = Some(lasted.iter().sum::<f64>() / lasted.len() as f64);
    }
    result
}

/// For how long the workspaces were watched and were up, summed up. Only then can a detector be mistaken about one.
fn up_seconds(stage: &Stage, from: i64) -> f64 {
    let was_down = |death: &&Death| death.from >= from && death.end.is_some_and(|end| end != End::NotDead);
    let down: i128 = stage.deaths.iter().filter(was_down).map(|death| i128::from(death.until - death.from)).sum();
    (stage.watched - down).max(0) as f64 / 1e6
}

/// The value that this share of the values does not exceed.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = (sorted.len() as f64 * share).ceil().max(1.0) - 1.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a list in memory")]
    sorted.get(place as usize).copied()
}

fn differences(names: &[(String, String)], stage: &Stage, words: &[Vec<Option<String>>], from: i64) -> Vec<Difference> {
    let mut lives: BTreeMap<(usize, u32), Vec<usize>> = BTreeMap::new();
    for (n, order) in stage.orders.iter().enumerate() {
        if order.at >= from {
            lives.entry((order.of, order.life)).or_default().push(n);
        }
    }
    let mut found: Vec<(i64, Difference)> = Vec::new();
    for orders in lives.into_values() {
        let Some(first) = orders.iter().copied().min_by_key(|n| (stage.orders[*n].at, *n)) else { continue };
        let restarted: Vec<usize> = orders.iter().map(|n| stage.orders[*n].contender).collect();
        let (by, not): (Vec<usize>, Vec<usize>) = (0..names.len()).partition(|me| restarted.contains(me));
        if not.is_empty() {
            continue;
        }
        let name = |me: &usize| names[*me].0.clone();
        let order = &stage.orders[first];
        let said = words.get(first).into_iter().flatten().enumerate();
        let said = said.filter_map(|(me, said)| Some(format!("{}: {}", names[me].0, said.as_ref()?)));
        found.push((
            order.at,
            Difference {
                workspace: stage.entries[order.of].id.to_string(),
                at: Timestamp(order.at).to_string(),
                restarted_by: by.iter().map(name).collect(),
                left_alone_by: not.iter().map(name).collect(),
                outcome: label(order.outcome),
                because: format!("{}: {}", names[order.contender].0, order.why),
                defib_said: said.collect(),
            },
        ));
    }
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, difference)| difference).collect()
}

fn notes(recording: &Recording, exactness: &Exactness, others: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if !exactness.same_policy {
        notes.push(
            "The recording, or a part of it, was made by a defib with another policy. There the replay begins without the recorded judge's \
             memory, and differences are changes of the rules."
                .to_owned(),
        );
    }
    if recording.mode == Mode::Enforce.label() {
        notes.push(
            "The recorded daemon restarted the dead itself. A policy that is slower than it finds them running again, and is counted as \
             one whom others came before. A recording in DEFIB_MODE=observe compares without that."
                .to_owned(),
        );
    }
    if recording.left_out > 0 {
        notes.push(
            "The recorded daemon did not look at those who ran as before. A policy with other settings that would have looked at one of \
             them is shown what was seen of it last."
                .to_owned(),
        );
    }
    notes.push(
        "Each life is restarted once at most by each policy, because the recording does not show what its first restart would have led to."
            .to_owned(),
    );
    if others {
        notes.push(
            "The policies of others see what defib saw, at most one poll interval old. A probe that they would have sent over the network \
             is not in the recording: what runs and is not unhealthy counts as answering, so they look better than they are with \
             workspaces that run and do not answer, and never worse."
                .to_owned(),
        );
    }
    if recording.gaps > 0 || recording.calls_lost > 0 {
        notes.push(format!(
            "The recording has {} gap(s); {} call(s) could not be written. Nothing is counted across a gap.",
            recording.gaps, recording.calls_lost
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand days of one workspace, of which it was down for a hundred.
    #[test]
    fn mistakes_are_counted_as_chen_toueg_and_aguilera_define_them() {
        const HOUR: i64 = 3_600_000_000;
        let mut stage = Stage::new(1, 0);
        stage.watched = i128::from(1_000 * 24 * HOUR);
        stage.deaths.push(Death { from: 0, until: 100 * 24 * HOUR, end: Some(End::Back) });
        stage.deaths.push(Death { from: 0, until: 100 * 24 * HOUR, end: Some(End::NotDead) }); // it was frozen, and lived
        let order = |life, at: i64, is_first, outcome| Order {
            contender: 0,
            of: 0,
            at,
            life,
            is_first,
            why: String::new(),
            death: (outcome == Outcome::Needed).then_some(0),
            outcome: Some(outcome),
        };
        stage.orders.push(order(0, 5, true, Outcome::Needed));
        stage.orders.push(order(1, 200 * 24 * HOUR, true, Outcome::NotNeeded(HOUR)));
        stage.orders.push(order(1, 300 * 24 * HOUR, false, Outcome::NotNeeded(3 * HOUR)));
        let result = result(0, &("p".to_owned(), String::new()), &stage, 0);
        // Lives: one restart was needed, one was not. Mistakes: it was mistaken twice about the second life.
        assert_eq!((result.restarts, result.needed, result.not_needed, result.mistakes), (2, 1, 1, 2));
        assert_eq!((result.deaths, result.answered), (1, 1));
        let near = |value: f64, wanted: f64| (value - wanted).abs() < 1e-9;
        assert!(near(result.mistakes_per_1000_workspace_days, 2.0 / 900.0 * 1_000.0), "{result:?}");
        assert_eq!(result.mistake_duration_mean_seconds, Some(7_200.0));
        assert!(near(result.query_accuracy, 1.0 - 4.0 / (900.0 * 24.0)), "{result:?}");
    }

    #[test]
    fn a_second_mistake_about_the_same_life_is_no_second_restart() {
        let mut stage = Stage::new(1, 0);
        let of = stage.place(&"w1".into());
        stage.order(0, of, |_| String::new());
        stage.order(0, of, |_| String::new());
        assert_eq!(stage.orders.len(), 1, "the first one waits for its outcome");
        stage.end();
        stage.order(0, of, |_| String::new());
        stage.gap();
        stage.order(0, of, |_| String::new());
        assert_eq!(stage.orders.iter().map(|order| order.is_first).collect::<Vec<_>>(), [true, false, true]);
    }

    #[test]
    fn what_another_policy_has_said_otherwise_is_no_fault_and_does_not_hide_one() {
        let mut exact = Exactness::default();
        exact.begin(false, true);
        exact.differs(Timestamp(1));
        exact.begin(true, false);
        assert_eq!((exact.same_policy, exact.differing, exact.differing_by_rules), (false, 0, 1));
        exact.differs(Timestamp(2));
        exact.differs(Timestamp(3));
        assert_eq!((exact.differing, exact.differing_by_rules), (2, 1), "these are faults");
        assert_eq!(exact.first_difference, Some(Timestamp(2).to_string()));
    }
}
