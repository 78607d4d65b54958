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

/// A call for a restart by the detector, as the truth has it at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merit {
    /// It was really dead, and wanted.
    Needed,
    /// It was well: a mistake.
    Healthy,
    /// It was parked, deleted, or being worked on by the platform: a mistake.
    NotOurs,
    /// It ran already and the call did nothing (a start of what runs).
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

/// How somebody died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The container exited.
    Exited,
    /// The container vanished.
    Vanished,
    /// The container runs and nobody is at home.
    Wedged,
}

/// The callers who could not reach a wedged workspace: the second witness that its restart needs. How soon it speaks is the
/// traffic's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Callers {
    /// The proxy that was the first to see it, and when.
    first: Option<(u8, Ms)>,
    /// Another one has.
    distinct: bool,
    /// When there were two, and their reports had lasted for long enough.
    pub agreed_at: Option<Ms>,
}

/// One true death.
#[derive(Clone, Debug)]
pub struct Loss {
    /// Of whom.
    pub workspace: usize,
    /// When.
    pub at: Ms,
    /// Since when its bound counts: its death, or the end of a pause in which nothing could be said of it.
    pub counted_from: Ms,
    /// How.
    pub how: Death,
    /// Whoever is on trial is able to heal it. A container that was removed is made again by the platform alone.
    pub healable: bool,
    /// A heartbeat of the life that ended had reached the database: before, it may as well still be starting.
    pub heard: bool,
    /// What callers have seen of it since then.
    pub callers: Callers,
    /// The attempts that touched it in the run before this death: back-off is due.
    pub tries: u32,
    /// The detector's restart call.
    pub restarted_at: Option<Ms>,
    /// It works again.
    pub back_at: Option<Ms>,
    /// It needed no help any more: revived by somebody else, parked or deleted.
    pub excused_at: Option<Ms>,
}

/// Something stood in the way of detection or restarts.
#[derive(Clone, Copy, Debug)]
pub struct Obstacle {
    /// On this engine; on all of them without.
    pub engine: Option<usize>,
    /// From
    pub from: Ms,
    /// until, with the time after it that the rules grant.
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
    /// Storms that began.
    pub storms: u32,
    /// Storms that go on: of which replica, for which engine (all without), and their obstacle.
    pub storming: Vec<(u8, Option<usize>, usize)>,
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

    /// A replica's storm guard began or ended a storm. The rounds it prescribes are an obstacle like an outage; how long a storm
    /// lasts is judged for itself.
    pub fn storm(&mut self, replica: u8, engine: Option<usize>, begins: bool, now: Ms) {
        if begins {
            self.storms += 1;
            self.storming.push((replica, engine, self.obstacles.len()));
            self.obstacles.push(Obstacle { engine, from: now, until: Ms::MAX });
            return;
        }
        let ended = |it: &(u8, Option<usize>, usize)| it.0 == replica && it.1 == engine;
        for (_, _, obstacle) in self.storming.iter().filter(|it| ended(it)) {
            self.obstacles[*obstacle].until = now;
        }
        self.storming.retain(|it| !ended(it));
    }

    /// A replica died, and its storms with it.
    pub fn storms_forgotten(&mut self, replica: u8, now: Ms) {
        for (_, _, obstacle) in self.storming.iter().filter(|it| it.0 == replica) {
            self.obstacles[*obstacle].until = now;
        }
        self.storming.retain(|it| it.0 != replica);
    }

    /// Someone died.
    pub fn death(&mut self, workspace: usize, at: Ms, how: Death, tries: u32, heard: bool, healable: bool) {
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
            heard,
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
            self.losses[loss].counted_from = at;
        }
    }

    /// A proxy could not reach a workspace, which may be dead. Two proxies must have said so over `lasting`.
    pub fn unreached(&mut self, workspace: usize, proxy: u8, at: Ms, lasting: Ms) {
        let Some(loss) = self.open[workspace] else { return };
        let callers = &mut self.losses[loss].callers;
        let (first, since) = *callers.first.get_or_insert((proxy, at));
        callers.distinct |= first != proxy;
        if callers.distinct && at - since >= lasting {
            callers.agreed_at.get_or_insert(at);
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

    /// How much of a span nothing stood in the way on `engine`: in all, and the longest piece of it.
    #[must_use]
    pub fn unobstructed(&self, engine: usize, from: Ms, until: Ms) -> (Ms, Ms) {
        let mut spans: Vec<(Ms, Ms)> = self
            .obstacles
            .iter()
            .filter(|it| it.engine.is_none_or(|on| on == engine) && it.from < until && it.until > from)
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
        chronicle.death(0, 10, Death::Wedged, 0, true, true);
        assert_eq!(chronicle.losses[0].counted_from, 10);
        chronicle.unpaused(0, 40);
        chronicle.back(0, 50);
        chronicle.unpaused(0, 60);
        assert_eq!((chronicle.losses[0].at, chronicle.losses[0].counted_from), (10, 40));
    }

    #[test]
    fn overlapping_obstacles_count_once() {
        let mut chronicle = Chronicle::default();
        for (engine, from, until) in [(None, 10, 20), (Some(1), 15, 30), (Some(2), 0, 100), (None, 40, 50)] {
            chronicle.obstacles.push(Obstacle { engine, from, until });
        }
        assert_eq!(chronicle.unobstructed(1, 0, 45), (20, 10), "0 to 10 and 30 to 40");
        assert_eq!(chronicle.unobstructed(0, 12, 100), (70, 50), "20 to 40 and 50 to 100");
        assert_eq!(chronicle.unobstructed(2, 5, 45), (0, 0));
    }

    #[test]
    fn two_callers_agree_when_they_have_spoken_for_long_enough() {
        let mut chronicle = Chronicle { open: vec![None], ..Chronicle::default() };
        chronicle.unreached(0, 0, 1, 10);
        chronicle.death(0, 5, Death::Wedged, 0, true, true);
        let mut agreed = |proxy, at| {
            chronicle.unreached(0, proxy, at, 10);
            chronicle.losses[0].callers.agreed_at
        };
        assert_eq!(agreed(0, 10), None);
        assert_eq!(agreed(0, 30), None, "one alone");
        assert_eq!(agreed(1, 15), None, "two, and not for long");
        assert_eq!(agreed(0, 20), Some(20));
        assert_eq!(agreed(1, 40), Some(20));
    }
}
