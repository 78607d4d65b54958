//! The table of verdicts: takes the evidence about one workspace and returns an opinion. It changes nothing but the probe map and the notes
//! in the workspace's track. Whether and when somebody acts on the opinion is decided elsewhere in the judge.

use std::time::Duration;

use crate::cadence::Cadence;
use crate::fleet::{Kind, Workspace};
use crate::local_health::LocalHealth;
use crate::moment::{Moment, Timestamp};
use crate::pipeline::{NoWitness, Pipeline};
use crate::probe::{Doubt, ProbeMap, ProbeRules};
use crate::sample::{Exit, Health, Incarnation, Observation, Sample, Transition};
use crate::settings::{Action, Settings};
use crate::suspicion::Accused;
use crate::track::{Life, ReadStamp, Track};
use crate::verdict::{Rule, Verdict, Witness};

/// A heartbeat that arrives up to this long after a stop was sent before it, so it does not contradict the stop.
const BEAT_IN_FLIGHT: Duration = Duration::from_secs(2);

/// What the evidence amounts to.
#[derive(Clone, Debug)]
pub(crate) struct Opinion {
    pub(crate) verdict: Verdict,
    pub(crate) rule: Rule,
    /// The witnesses on which a restart would rest, if the evidence calls for one.
    pub(crate) conviction: Option<Conviction>,
    pub(crate) heartbeat: Heartbeat,
    /// When another look would be worth while.
    pub(crate) look_at: Option<Moment>,
}

/// The witnesses behind a call for a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "five independent facts about one piece of evidence, not a state")]
pub(crate) struct Conviction {
    /// Enough spaced misses.
    pub(crate) spaced: bool,
    /// A stale heartbeat.
    pub(crate) stale: bool,
    /// It runs, and must be killed first.
    pub(crate) running: bool,
    /// The container is gone.
    pub(crate) missing: bool,
    /// The engine has a restart policy for it.
    pub(crate) engine_restarts: bool,
}

/// What was made of the heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heartbeat {
    pub(crate) witness: Witness,
    /// Age of the last sign of life, even if it belongs to an earlier life.
    pub(crate) age: Option<Duration>,
    /// Whether its last sign of life is older than the window, even if that was in an earlier life. While the new life is starting, this
    /// says nothing. Once the new life has stopped, it counts as a missed heartbeat.
    pub(crate) silent_before: bool,
    /// For how much of its silence it can be accused.
    pub(crate) silent_for: Duration,
    pub(crate) window: Duration,
    /// How long we have been reading its heartbeats.
    pub(crate) watched_for: Duration,
}

/// Everything around one workspace that the table reads.
pub(crate) struct Context<'a> {
    pub(crate) now: Moment,
    pub(crate) stamp: ReadStamp,
    pub(crate) settings: &'a Settings,
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) health: LocalHealth,
    /// The engine's clock minus the database's, in microseconds.
    pub(crate) offset: i64,
    /// When the engine was last seen to come back: older health results are void.
    pub(crate) engine_back_at: Option<Timestamp>,
    pub(crate) accused: Accused,
}

impl Context<'_> {
    /// Whether its heartbeat is fresh, stale, or no witness: sections 4.2 and 4.3 of docs/design.md.
    pub(crate) fn heartbeat(&self, track: &Track, workspace: &Workspace) -> Heartbeat {
        let window = self.health.stretch(track.cadence.window(self.settings));
        let age = track.cadence.age(self.now, self.stamp.at, self.stamp.database_now);
        let (mut usable_for, mut cause) = self.pipeline.usable_for(self.now);
        if let Some(since_frozen) = track.frozen_at.map(|at| self.now - at).filter(|since| *since < usable_for) {
            (usable_for, cause) = (since_frozen, NoWitness::Frozen);
        }
        let since_start = track.life.as_ref().map_or_else(
            || self.age_without_container(track, workspace),
            |life| life.age(self.now, self.stamp, self.offset),
        );
        let current = workspace.kind == Kind::External || track.beat_is_current(self.offset);
        let beaten = age.filter(|_| current && track.cadence.has_lived());
        let silent_for = beaten.or(age).unwrap_or(since_start).min(usable_for).min(since_start);
        let witness = match beaten {
            Some(age) if age < window => Witness::Fresh,
            None if since_start < track.settle(self.health.stretch(self.settings.settle)) => {
                Witness::None(NoWitness::Starting)
            }
            _ if usable_for < window => Witness::None(cause),
            _ => Witness::Stale,
        };
        let silent_before = usable_for >= window && age.is_some_and(|age| age >= window);
        let watched_for = track.watched_since.map_or(Duration::ZERO, |since| self.now - since);
        Heartbeat { witness, age, silent_before, silent_for, window, watched_for }
    }

    /// Whether it has been silent for longer than `DEFIB_WEDGED_AFTER`. Its stamps alone do not prove that, because the clock of whoever
    /// writes them may be behind. So we must also have watched it for a window in which a heartbeat could have shown up.
    fn is_mute(&self, heartbeat: &Heartbeat) -> bool {
        let wedged_after = self.health.stretch(self.settings.wedged_after);
        heartbeat.silent_for > wedged_after && heartbeat.watched_for >= heartbeat.window.min(wedged_after)
    }

    fn age_of_life(&self, track: &Track) -> Duration {
        track.life.as_ref().map_or(Duration::MAX, |life| life.age(self.now, self.stamp, self.offset))
    }

    /// For a workspace whose container was never seen: how long the workspace has existed.
    fn age_without_container(&self, track: &Track, workspace: &Workspace) -> Duration {
        let known = self.now - track.known_since;
        let created = workspace.created_at.map(|created| self.stamp.database_now.since(created));
        created.map_or(known, |created| created.max(known))
    }

    /// The opinion on a workspace that has no container by design.
    pub(crate) fn judge_external(&self, track: &Track, workspace: &Workspace) -> Opinion {
        let heartbeat = self.heartbeat(track, workspace);
        let has_lived = track.cadence.has_lived();
        let (verdict, rule) = match heartbeat.witness {
            Witness::Stale if has_lived && self.is_mute(&heartbeat) => (Verdict::Lost, Rule::ExternalLost),
            // Once the platform has been told that it is lost, only a heartbeat takes that back. An outage, during which heartbeats prove
            // nothing, does not.
            Witness::Stale | Witness::None(_) if has_lived && track.is_lost() => (Verdict::Lost, Rule::ExternalLost),
            Witness::Stale => (Verdict::Silent, Rule::ExternalSilent),
            Witness::Fresh | Witness::None(_) => (Verdict::Alive, Rule::ExternalBeating),
        };
        Opinion { verdict, rule, conviction: None, heartbeat, look_at: None }
    }

    /// The opinion on a workspace with a container, after `sample` was taken note of in its track.
    pub(crate) fn judge_container(
        &self,
        track: &mut Track,
        probes: &mut ProbeMap,
        workspace: &Workspace,
        sample: &Sample,
    ) -> Opinion {
        let heartbeat = self.heartbeat(track, workspace);
        let plain = |verdict, rule| Opinion { verdict, rule, conviction: None, heartbeat, look_at: None };
        match &sample.observation {
            Observation::Unknown { .. } => plain(Verdict::Unknown, Rule::NoAnswer),
            Observation::Frozen { .. } => {
                probes.clear(&workspace.id);
                plain(Verdict::Frozen, Rule::EngineFrozen)
            }
            Observation::Transitional { incarnation, transition } => {
                let since = *track.transition_since.get_or_insert(sample.at);
                let lasting = self.now - since > self.health.stretch(self.settings.settle);
                if lasting && *transition != Transition::Removing {
                    let exit = Exit { engine_restarts: *transition == Transition::Restarting, ..Exit::default() };
                    self.judge_stopped(track, probes, workspace, sample.at, incarnation, &exit, heartbeat)
                } else {
                    // Somebody is at work on the container, so earlier misses no longer count. It is judged afresh when that work is done.
                    probes.clear(&workspace.id);
                    plain(Verdict::Settling, Rule::EngineTransition)
                }
            }
            Observation::Running { health, .. } => {
                self.judge_running(track, probes, workspace, sample.at, *health, heartbeat)
            }
            Observation::Stopped { incarnation, exit } => {
                self.judge_stopped(track, probes, workspace, sample.at, incarnation, exit, heartbeat)
            }
            Observation::Missing => self.judge_missing(track, probes, workspace, sample.at, heartbeat),
        }
    }

    fn judge_running(
        &self,
        track: &mut Track,
        probes: &mut ProbeMap,
        workspace: &Workspace,
        at: Moment,
        health: Health,
        heartbeat: Heartbeat,
    ) -> Opinion {
        let plain = |verdict, rule| Opinion { verdict, rule, conviction: None, heartbeat, look_at: None };
        let sick = self.is_sick(health);
        if sick {
            track.failing_since.get_or_insert(at);
        } else {
            track.failing_since = None;
        }
        if heartbeat.witness == Witness::None(NoWitness::Starting)
            && track.life.as_ref().is_some_and(Life::is_surely_young)
        {
            probes.clear(&workspace.id);
            // The database does not announce a heartbeat, so a second look is asked for to see the first one early.
            let look_at = Some(self.now + 2 * self.health.stretch(self.settings.probe_spacing));
            return Opinion { look_at, ..plain(Verdict::Settling, Rule::NewIncarnation) };
        }
        // A workspace that has never sent a heartbeat may not send any at all, so it is `silent` and never `wedged`.
        let wedged = heartbeat.witness == Witness::Stale
            && track.cadence.has_lived()
            && track.may_hang(self.age_of_life(track), self.pipeline)
            && self.is_mute(&heartbeat);
        // Against a wedged workspace a failing health check is the second witness. It is judged by itself, as `unhealthy`, where that
        // verdict alone leads to a restart.
        let counts_alone = !wedged || self.settings.unhealthy_action == Action::Restart;
        if sick && counts_alone && self.settings.unhealthy_action != Action::Ignore {
            let incarnation = track.life.as_ref().map(|life| &life.incarnation);
            let spaced = self.miss(probes, workspace, incarnation, Doubt::Unhealthy, at);
            let conviction = spaced.convicts.then_some(Conviction {
                spaced: true,
                stale: heartbeat.witness == Witness::Stale,
                running: true,
                missing: false,
                engine_restarts: false,
            });
            let look_at =
                (self.settings.unhealthy_action == Action::Restart && !spaced.convicts).then_some(spaced.next);
            return Opinion { conviction, look_at, ..plain(Verdict::Unhealthy, Rule::RunningUnhealthy) };
        }
        let lasting = self.second_witness_lasts(&heartbeat);
        // The engine calls a container unhealthy after several checks have failed, and healthy again after the first that passes. So it is
        // enough that this word has stood for two windows, even if we have seen a single check in that time: some are made only every five
        // minutes.
        let failing = wedged && track.failing_since.is_some_and(|since| at - since >= lasting);
        probes.clear(&workspace.id);
        match heartbeat.witness {
            Witness::Fresh => plain(Verdict::Alive, Rule::RunningFresh),
            Witness::None(_) => plain(Verdict::Alive, Rule::RunningNoWitness),
            Witness::Stale => {
                let busy =
                    workspace.active_tasks > 0 && heartbeat.silent_for <= self.health.stretch(self.settings.busy_grace);
                if busy {
                    plain(Verdict::Busy, Rule::RunningBusy)
                } else if wedged {
                    let accused = self.accused.reporters >= 2 && self.accused.over >= lasting;
                    let conviction = (accused || failing).then_some(Conviction {
                        spaced: true,
                        stale: true,
                        running: true,
                        missing: false,
                        engine_restarts: false,
                    });
                    Opinion { conviction, ..plain(Verdict::Wedged, Rule::RunningWedged) }
                } else {
                    plain(Verdict::Silent, Rule::RunningSilent)
                }
            }
        }
    }

    /// For how long a second witness against a wedged workspace must last: two windows, because one failed check, or one bad minute of the
    /// network, is not enough. A workspace that beats every few seconds has a window of seconds, in which a caller with a broken network calls
    /// too few others to be seen to accuse everybody. So the window that is configured counts where it is longer.
    fn second_witness_lasts(&self, heartbeat: &Heartbeat) -> Duration {
        let configured = self.health.stretch(Cadence::default().window(self.settings));
        2 * heartbeat.window.max(configured)
    }

    /// Whether a failing health check counts. It does not when its result is from before the engine's last return, or when the next check
    /// is overdue: after a restart of the engine the last result may be repeated for ever.
    fn is_sick(&self, health: Health) -> bool {
        let Health::Unhealthy { last_check_at, due_within } = health else { return false };
        let Some(checked) = last_check_at else { return true };
        let engine_now = self.stamp.database_now.shifted(self.offset).plus(self.now - self.stamp.at);
        let overdue = due_within.is_some_and(|within| engine_now.since(checked) > within);
        !overdue && self.engine_back_at.is_none_or(|back| checked > back)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one sample and what they are judged against")]
    fn judge_stopped(
        &self,
        track: &Track,
        probes: &mut ProbeMap,
        workspace: &Workspace,
        at: Moment,
        incarnation: &Incarnation,
        exit: &Exit,
        mut heartbeat: Heartbeat,
    ) -> Opinion {
        // A container that exits while it settles is dead without delay: section 4.6 of docs/design.md.
        if heartbeat.silent_before && heartbeat.witness == Witness::None(NoWitness::Starting) {
            heartbeat.witness = Witness::Stale;
        }
        let run = self.miss(probes, workspace, Some(incarnation), Doubt::Dead, at);
        let stopped_at = exit.finished_at.map(|finished| finished.shifted(self.offset.saturating_neg()));
        if heartbeat.witness == Witness::Fresh && self.beats_after(track, stopped_at, run.first) {
            return Opinion {
                verdict: Verdict::Contradiction,
                rule: Rule::BeatsWithoutContainer,
                conviction: None,
                heartbeat,
                look_at: None,
            };
        }
        let stale = heartbeat.witness == Witness::Stale;
        let conviction = (stale || run.convicts).then_some(Conviction {
            spaced: run.convicts,
            stale,
            running: false,
            missing: false,
            engine_restarts: exit.engine_restarts,
        });
        let (verdict, rule) = match (stale, run.convicts) {
            (true, _) => (Verdict::Dead, Rule::StoppedStale),
            (false, true) => (Verdict::Dead, Rule::StoppedSpaced),
            (false, false) => (Verdict::Suspect, Rule::StoppedOnce),
        };
        let look_at = (!run.convicts).then_some(run.next);
        Opinion { verdict, rule, conviction, heartbeat, look_at }
    }

    fn judge_missing(
        &self,
        track: &mut Track,
        probes: &mut ProbeMap,
        workspace: &Workspace,
        at: Moment,
        heartbeat: Heartbeat,
    ) -> Opinion {
        let since = *track.missing_since.get_or_insert(at);
        let run = self.miss(probes, workspace, None, Doubt::Dead, at);
        let grace = self.health.stretch(self.settings.missing_grace);
        let suspect = |verdict, rule, look_at| Opinion { verdict, rule, conviction: None, heartbeat, look_at };
        if at - since < grace {
            return suspect(Verdict::Suspect, Rule::MissingGrace, Some(since + grace));
        }
        if heartbeat.witness == Witness::Fresh && self.beats_after(track, None, since) {
            return suspect(Verdict::Contradiction, Rule::BeatsWithoutContainer, None);
        }
        let stale = heartbeat.witness == Witness::Stale;
        let overdue = heartbeat.silent_for > self.health.stretch(track.cadence.overdue_after(self.settings));
        if !(stale || overdue) {
            return suspect(Verdict::Suspect, Rule::MissingBeating, None);
        }
        let rule = if stale { Rule::MissingStale } else { Rule::MissingOverdue };
        let conviction =
            Conviction { spaced: run.convicts, stale: true, running: false, missing: true, engine_restarts: false };
        Opinion { verdict: Verdict::Dead, rule, conviction: Some(conviction), heartbeat, look_at: None }
    }

    /// Whether the heartbeat advanced after the container stopped. The stamps tell that where the engine said when it stopped. Our own
    /// sight tells it without any clock, but only of an advance after the first miss.
    fn beats_after(&self, track: &Track, stopped_at: Option<Timestamp>, first_missed: Moment) -> bool {
        let margin = BEAT_IN_FLIGHT.max(track.cadence.interval(self.settings) / 2);
        let stamped =
            stopped_at.zip(track.cadence.lived_at()).is_some_and(|(stopped, lived)| lived > stopped.plus(margin));
        let sighted = track.cadence.seen_between().is_some_and(|(after, _)| after > first_missed + margin);
        stamped || sighted
    }

    fn miss(
        &self,
        probes: &mut ProbeMap,
        workspace: &Workspace,
        incarnation: Option<&Incarnation>,
        doubt: Doubt,
        at: Moment,
    ) -> Run {
        let spacing = self.health.stretch(self.settings.probe_spacing);
        let rules = ProbeRules { threshold: self.settings.dead_threshold, spacing };
        let probe = probes.miss(&workspace.id, incarnation, doubt, at, rules);
        let misses = probe.misses_within(self.health.stretch(self.settings.dead_window));
        Run {
            convicts: misses >= self.settings.dead_threshold,
            first: probe.first_miss,
            next: probe.last_miss() + spacing,
        }
    }
}

/// The run of misses after one more look.
struct Run {
    convicts: bool,
    first: Moment,
    next: Moment,
}
