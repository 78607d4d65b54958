//! What really happened: every death, every restart call with the truth at its moment, and the timeline for people.

use defib_policy::verdict::Rule;

use crate::time::Ms;

/// Who did something to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The detector on trial.
    Detector,
    /// The engine's own restart policy.
    Engine,
    /// The platform or an operator.
    Platform,
}

/// What a restart call of the detector was worth, by the truth at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merit {
    /// It was really dead, and wanted. Or it came to by itself while the last answer of the database was on its way.
    Needed,
    /// It was well: a mistake.
    Healthy,
    /// It was parked, deleted, or being worked on by the platform: a mistake.
    NotOurs,
    /// The call was a start, and its container ran already, so it did nothing.
    Idle,
}

/// One restart call.
#[derive(Clone, Debug)]
pub struct Restart {
    /// Of whom.
    pub workspace: usize,
    /// When.
    pub at: Ms,
    /// What it was worth.
    pub merit: Merit,
    /// The rule and the sentence that explain it, where the detector gave one.
    pub because: Option<(Rule, String)>,
}

/// How a workspace died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The container exited.
    Exited,
    /// The container vanished.
    Vanished,
    /// The container runs, but its process will never do anything again.
    Wedged,
}

/// The callers who could not reach a wedged workspace. They are the second witness that its restart needs, and how soon two of them have
/// gone on saying so for long enough depends on the traffic.
#[derive(Clone, Copy, Debug, Default)]
pub struct Callers {
    /// Of each login: when its present accusation began, and when it last spoke. Worlds have no more logins than this.
    spoke: [Option<(Ms, Ms)>; 4],
    /// When two had both been accusing for long enough.
    pub agreed_at: Option<Ms>,
}

/// When two callers agree that a workspace hangs.
#[derive(Clone, Copy, Debug)]
pub struct Agreement {
    /// What they say within this after its death does not count, because its last heartbeat is still fresh then and refutes them.
    pub fresh: Ms,
    /// For how long both must have gone on saying so.
    pub lasting: Ms,
    /// Whoever was silent for longer than this begins anew.
    pub lapse: Ms,
}

/// The life that ended with a death.
#[derive(Clone, Copy, Debug)]
pub struct EndedLife {
    /// When it began.
    pub began_at: Ms,
    /// A heartbeat of it had reached the database.
    pub heard: bool,
}

/// One true death.
#[derive(Clone, Debug)]
pub struct Loss {
    /// Of whom.
    pub workspace: usize,
    /// When.
    pub at: Ms,
    /// The moment from which its bound counts: its death, or the end of a time in which nobody could know of it.
    pub counted_from: Ms,
    /// How.
    pub how: Death,
    /// Whether the detector on trial is able to heal it. Only the platform can make a removed container again.
    pub healable: bool,
    /// When the life began that ended.
    pub began_at: Ms,
    /// A heartbeat of that life had reached the database: before, it may as well still be starting.
    pub heard: bool,
    /// What callers have seen of it since then.
    pub callers: Callers,
    /// The attempts that touched it in the run before this death. Because of them a back-off is due.
    pub tries: u32,
    /// The detector's restart call.
    pub restarted_at: Option<Ms>,
    /// It works again.
    pub back_at: Option<Ms>,
    /// When it needed no help any more, because somebody else revived, parked or deleted it.
    pub excused_at: Option<Ms>,
}

/// Which workspaces an obstacle concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// All workspaces.
    Everybody,
    /// The workspaces of an engine.
    Engine(usize),
    /// One workspace. Its neighbours must not suffer from it.
    Workspace(usize),
}

/// An obstacle to detection or restarts.
#[derive(Clone, Copy, Debug)]
pub struct Obstacle {
    /// Which workspaces it concerns.
    pub before: Before,
    /// When it began.
    pub from: Ms,
    /// When it no longer counts: its end, and the time after it that the rules grant.
    pub until: Ms,
}

/// A storm, as the guard of one replica saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storm {
    /// Whose guard.
    pub replica: u8,
    /// The engine that it is on. `None`: it is the storm of the whole fleet.
    pub engine: Option<usize>,
    /// When it began.
    pub from: Ms,
    /// When it ended. The end of time while it goes on.
    pub until: Ms,
}

/// Everything that happened.
#[derive(Debug, Default)]
pub struct Chronicle {
    /// The deaths.
    pub losses: Vec<Loss>,
    /// The death of each workspace that nobody has answered yet.
    pub open: Vec<Option<usize>>,
    /// The restart calls of the detector.
    pub restarts: Vec<Restart>,
    /// What stood in the way.
    pub obstacles: Vec<Obstacle>,
    /// Changes of verdict that the detector reported, if it does: who, when, and the verdict's label.
    pub verdicts: Vec<(usize, Ms, &'static str)>,
    /// The storms, in the order of their beginnings.
    pub storms: Vec<Storm>,
    /// The places of the storms that go on.
    pub storming: Vec<usize>,
    /// When the clock of the database stepped, and by how far it was put back. Zero: it was put forward.
    pub clock_steps: Vec<(Ms, Ms)>,
    /// When the process of a detector ended, and when it began again.
    pub process_changes: Vec<Ms>,
    /// The timeline, if it is wanted.
    pub trace: Option<Vec<(Ms, String)>>,
    /// Restart calls by anybody else.
    pub foreign_restarts: u32,
    /// Calls to engines made by the detector.
    pub engine_calls: u64,
}

impl Chronicle {
    /// Adds a line to the timeline, if one is kept.
    pub fn note(&mut self, at: Ms, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push((at, line()));
        }
    }

    /// The mistakes.
    pub fn mistakes(&self) -> impl Iterator<Item = &Restart> {
        self.restarts.iter().filter(|restart| matches!(restart.merit, Merit::Healthy | Merit::NotOurs))
    }

    /// How many restart calls the detector made for a workspace, idle ones left out.
    #[must_use]
    pub fn restarts_of(&self, workspace: usize) -> usize {
        self.restarts.iter().filter(|it| it.workspace == workspace && it.merit != Merit::Idle).count()
    }

    /// A replica's storm guard began or ended a storm.
    pub fn storm(&mut self, replica: u8, engine: Option<usize>, begins: bool, now: Ms) {
        if begins {
            self.storming.push(self.storms.len());
            self.storms.push(Storm { replica, engine, from: now, until: Ms::MAX });
        } else {
            self.end_storms(now, |storm| storm.replica == replica && storm.engine == engine);
        }
    }

    /// A replica died, and its storms with it.
    pub fn storms_forgotten(&mut self, replica: u8, now: Ms) {
        self.end_storms(now, |storm| storm.replica == replica);
    }

    fn end_storms(&mut self, now: Ms, ends: impl Fn(&Storm) -> bool) {
        let Self { storms, storming, .. } = self;
        storming.retain(|place| {
            let storm = &mut storms[*place];
            if ends(storm) {
                storm.until = now;
            }
            storm.until == Ms::MAX
        });
    }

    /// Someone died.
    pub fn death(&mut self, workspace: usize, at: Ms, how: Death, tries: u32, life: EndedLife, healable: bool) {
        if let Some(loss) = self.open[workspace] {
            if !healable && self.losses[loss].restarted_at.is_none() {
                (self.losses[loss].how, self.losses[loss].healable) = (how, false);
            }
            return;
        }
        self.open[workspace] = Some(self.losses.len());
        let loss = Loss {
            workspace,
            at,
            counted_from: at,
            how,
            healable,
            began_at: life.began_at,
            heard: life.heard,
            callers: Callers::default(),
            tries,
            restarted_at: None,
            back_at: None,
            excused_at: None,
        };
        self.losses.push(loss);
    }

    /// The open death of a workspace needs no help any more.
    pub fn excuse(&mut self, workspace: usize, at: Ms) {
        if let Some(loss) = self.open[workspace].take() {
            self.losses[loss].excused_at = Some(at);
        }
    }

    /// The container of a workspace runs again after a pause: what spoke against it while it was frozen does not count (rule 4.3).
    pub fn unpaused(&mut self, workspace: usize, at: Ms) {
        if let Some(loss) = self.open[workspace] {
            let loss = &mut self.losses[loss];
            (loss.counted_from, loss.callers) = (at, Callers::default());
        }
    }

    /// A login says that it could not reach a workspace, which may be dead.
    pub fn unreached(&mut self, workspace: usize, login: u8, at: Ms, agreement: Agreement) {
        let Some(loss) = self.open[workspace] else { return };
        let loss = &mut self.losses[loss];
        let callers = &mut loss.callers;
        let Some(own) = callers.spoke.get_mut(usize::from(login)) else { return };
        if at < loss.counted_from + agreement.fresh {
            return;
        }
        let began = own.filter(|(_, last)| at - last <= agreement.lapse).map_or(at, |(first, _)| first);
        *own = Some((began, at));
        let others = (0..).zip(callers.spoke).filter(|(other, _)| *other != login);
        let agree = |(_, (first, last)): (u8, (Ms, Ms))| last.saturating_sub(began.max(first)) >= agreement.lasting;
        if others.filter_map(|(other, spoke)| Some((other, spoke?))).any(agree) {
            callers.agreed_at.get_or_insert(at);
        }
    }

    /// A caller is no longer believed, so a workspace that hangs waits until two callers agree again.
    pub fn callers_fall_out(&mut self) {
        for loss in self.open.iter().flatten() {
            self.losses[*loss].callers = Callers::default();
        }
    }

    /// The detector called for a restart of one that was dead.
    pub fn answer(&mut self, workspace: usize, at: Ms) {
        if let Some(loss) = self.open[workspace] {
            self.losses[loss].restarted_at.get_or_insert(at);
        }
    }

    /// A workspace works again.
    pub fn back(&mut self, workspace: usize, at: Ms) {
        if let Some(loss) = self.open[workspace].take() {
            self.losses[loss].back_at = Some(at);
        }
    }

    /// The deaths until a moment, itself included. They are kept in the order of time.
    #[must_use]
    pub fn losses_until(&self, until: Ms) -> &[Loss] {
        &self.losses[..self.losses.partition_point(|loss| loss.at <= until)]
    }

    /// The restart calls between two moments, both included. They are kept in the order of time.
    #[must_use]
    pub fn restarts_between(&self, from: Ms, until: Ms) -> &[Restart] {
        let rest = &self.restarts[self.restarts.partition_point(|restart| restart.at < from)..];
        &rest[..rest.partition_point(|restart| restart.at <= until)]
    }

    /// Whether a workspace that was restarted at a moment worked again within so long, and did not die at once again.
    #[must_use]
    pub fn was_well_again(&self, workspace: usize, restarted_at: Ms, within: Ms) -> bool {
        let until = restarted_at + within;
        // The deaths are in the order of time, and a workspace that is dead does not die: its last death until then is the one that
        // the restart answered, unless it died again.
        self.losses_until(until).iter().rev().find(|loss| loss.workspace == workspace).is_some_and(|last| {
            let back = last.back_at.is_some_and(|at| (restarted_at..=until).contains(&at));
            back && last.at <= restarted_at
        })
    }

    /// For how much of a span a workspace on `engine` had no obstacle: the sum, and the longest stretch.
    #[must_use]
    pub fn unobstructed(&self, workspace: usize, engine: usize, from: Ms, until: Ms) -> (Ms, Ms) {
        let concerns = |it: &&Obstacle| match it.before {
            Before::Everybody => true,
            Before::Engine(on) => on == engine,
            Before::Workspace(of) => of == workspace,
        };
        let mut spans: Vec<(Ms, Ms)> = self
            .obstacles
            .iter()
            .filter(|it| it.from < until && it.until > from)
            .filter(concerns)
            .map(|it| (it.from.max(from), it.until.min(until)))
            .collect();
        spans.sort_unstable();
        let (mut total, mut longest, mut reached) = (0, 0, from);
        for (start, end) in spans.into_iter().chain([(until, until)]) {
            let free = start.saturating_sub(reached);
            total += free;
            longest = longest.max(free);
            reached = reached.max(end);
        }
        (total, longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_of_an_open_death_counts_from_the_end_of_a_pause() {
        let mut chronicle = Chronicle { open: vec![None], ..Chronicle::default() };
        chronicle.unpaused(0, 5);
        chronicle.death(0, 10, Death::Wedged, 0, EndedLife { began_at: 0, heard: true }, true);
        assert_eq!(chronicle.losses[0].counted_from, 10);
        chronicle.unpaused(0, 40);
        chronicle.back(0, 50);
        chronicle.unpaused(0, 60);
        assert_eq!((chronicle.losses[0].at, chronicle.losses[0].counted_from), (10, 40));
    }

    #[test]
    fn overlapping_obstacles_count_once_and_those_of_others_do_not() {
        use Before::{Engine, Everybody, Workspace};
        let mut chronicle = Chronicle::default();
        for (before, from, until) in
            [(Everybody, 10, 20), (Engine(1), 15, 30), (Engine(2), 0, 100), (Everybody, 40, 50), (Workspace(7), 0, 9)]
        {
            chronicle.obstacles.push(Obstacle { before, from, until });
        }
        assert_eq!(chronicle.unobstructed(3, 1, 0, 45), (20, 10), "0 to 10 and 30 to 40");
        assert_eq!(chronicle.unobstructed(3, 0, 12, 100), (70, 50), "20 to 40 and 50 to 100");
        assert_eq!(chronicle.unobstructed(3, 2, 5, 45), (0, 0));
        assert_eq!(chronicle.unobstructed(7, 1, 0, 45), (11, 10), "9 to 10 and 30 to 40");
    }

    #[test]
    fn one_was_well_again_that_came_back_in_time_and_did_not_die_again() {
        let mut chronicle = Chronicle { open: vec![None, None], ..Chronicle::default() };
        let die = |chronicle: &mut Chronicle, of, at| {
            chronicle.death(of, at, Death::Exited, 0, EndedLife { began_at: 0, heard: true }, true);
        };
        die(&mut chronicle, 0, 10);
        assert!(!chronicle.was_well_again(0, 12, 100), "still dead");
        chronicle.back(0, 20);
        die(&mut chronicle, 1, 21);
        assert!(chronicle.was_well_again(0, 12, 8) && !chronicle.was_well_again(0, 12, 7));
        assert!(!chronicle.was_well_again(0, 21, 100), "it was back before");
        die(&mut chronicle, 0, 30);
        chronicle.back(0, 31);
        assert!(chronicle.was_well_again(0, 12, 17) && !chronicle.was_well_again(0, 12, 18), "it died again");
        assert!(!chronicle.was_well_again(1, 22, 100));
    }

    #[test]
    fn a_storm_ends_for_the_replica_that_saw_it() {
        let mut chronicle = Chronicle::default();
        chronicle.storm(0, None, true, 5);
        chronicle.storm(1, Some(2), true, 6);
        chronicle.storm(0, Some(2), false, 7);
        assert_eq!(chronicle.storming, [0, 1]);
        chronicle.storm(0, None, false, 8);
        chronicle.storms_forgotten(1, 9);
        assert_eq!(chronicle.storms.iter().map(|storm| storm.until).collect::<Vec<_>>(), [8, 9]);
        assert!(chronicle.storming.is_empty());
    }

    #[test]
    fn two_callers_agree_when_both_have_gone_on_for_long_enough() {
        let mut chronicle = Chronicle { open: vec![None], ..Chronicle::default() };
        let agreement = Agreement { fresh: 5, lasting: 10, lapse: 50 };
        chronicle.unreached(0, 0, 1, agreement);
        chronicle.death(0, 5, Death::Wedged, 0, EndedLife { began_at: 0, heard: true }, true);
        let mut agreed = |login, at| {
            chronicle.unreached(0, login, at, agreement);
            chronicle.losses[0].callers.agreed_at
        };
        assert_eq!(agreed(1, 9), None, "its last heartbeat is still fresh, so this does not count");
        assert_eq!(agreed(0, 10), None);
        assert_eq!(agreed(0, 30), None, "one alone");
        assert_eq!(agreed(1, 31), None, "the second has just begun");
        assert_eq!(agreed(1, 90), None, "the first has been silent since");
        assert_eq!(agreed(0, 100), None, "it was silent for so long that it begins anew");
        assert_eq!(agreed(1, 109), None, "not for long enough");
        assert_eq!(agreed(0, 111), None, "the other spoke last a moment ago");
        assert_eq!(agreed(1, 112), Some(112));
        assert_eq!(agreed(1, 140), Some(112));
    }
}
