//! One round of a storm: a batch of canaries, and what comes of it.
//!
//! A round finds out whether restarting helps *the scope*. A canary that was started gives an answer: it comes back, or exits, or does not
//! come back in time. A canary whose call fails, or which is vetoed, held or superseded, says nothing about the scope. It leaves the round
//! at once, and another takes its place.
//!
//! The first batch after the beginning or after a failed round fails when most of it fail. A later one follows a batch that was
//! verified, so restarting is known to help somebody: it fails when more than two thirds of it fail. With a third of the dead beyond
//! help, half of a batch of six fails by chance in one draw of ten, and each such failure would cost everybody a cooldown.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::WorkspaceId;
use crate::moment::Moment;
use crate::restart::End;
use crate::sample::Incarnation;

/// What a pass saw of a canary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    /// What became of it.
    pub(crate) what: What,
    /// The life that was seen, if one was.
    pub(crate) life: Option<&'a Incarnation>,
    /// When the look was begun.
    pub(crate) at: Moment,
    /// Its restart is still being made by this process.
    pub(crate) in_flight: bool,
    /// How the newest attempt in the ledger ended, and its id.
    pub(crate) attempt: Option<(i64, Option<End>)>,
}

/// What became of a canary, as the evidence of one pass has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// It beats, or has never beaten and has outlived its settle window.
    Back,
    /// It is stopped or missing.
    Down,
    /// It runs, and has not been heard of.
    Runs,
    /// Nothing can be said now.
    Unknown,
    /// It no longer belongs to this scope: it was parked, frozen, or moved to another replica.
    Gone,
}

/// A workspace that was let through.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Canary {
    /// The life that was convicted.
    pub(crate) life: Option<Incarnation>,
    /// The newest attempt of it in the ledger before this one.
    pub(crate) attempt_before: Option<i64>,
    /// How long after its start it must be back.
    pub(crate) span: Duration,
    /// When it was let through.
    pub(crate) released_at: Moment,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outstanding {
    canary: Canary,
    /// When it was started, as far as we know: the engine made the restart, or another life was seen.
    started: Option<Moment>,
    /// The time by which it must be back or, as long as it was not started, be started.
    by: Moment,
    /// Whether the last pass could say nothing about it.
    unknown: bool,
}

/// What a round has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Come {
    /// Most of its canaries are back.
    Through,
    /// Most of its canaries failed.
    Failed,
    /// Not known yet.
    Open,
}

/// The present round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Round {
    /// From 0; a part of the seed of the draw.
    pub(super) number: u32,
    /// How many may be out in this round.
    size: usize,
    /// Whether this is the first batch, or the first one after a round that failed.
    first: bool,
    outstanding: HashMap<WorkspaceId, Outstanding>,
    back: usize,
    failed: usize,
    /// The round before failed, so no restart is let through before this moment.
    closed_until: Option<Moment>,
}

impl Round {
    /// The first round, of `size` canaries.
    pub(super) fn first(size: usize) -> Self {
        Self {
            number: 0,
            size: size.max(1),
            first: true,
            outstanding: HashMap::new(),
            back: 0,
            failed: 0,
            closed_until: None,
        }
    }

    /// The round after this one: twice as large, or after a failure of `size` again and not before `closed_until`.
    pub(super) fn next(&self, failed: Option<(Moment, usize)>) -> Self {
        let size = failed.map_or(self.size.saturating_mul(2), |(_, size)| size);
        let closed_until = failed.map(|(until, _)| until);
        Self { number: self.number.wrapping_add(1), first: failed.is_some(), closed_until, ..Self::first(size) }
    }

    /// How many more may go now.
    pub(super) fn room(&self, now: Moment) -> usize {
        if self.closed_until.is_some_and(|until| now < until) {
            return 0;
        }
        self.size.saturating_sub(self.back + self.failed + self.outstanding.len())
    }

    /// Whether no canary is waited for.
    pub(super) fn is_idle(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// The canaries whose answer is awaited.
    pub(super) fn outstanding(&self) -> impl Iterator<Item = &WorkspaceId> {
        self.outstanding.keys()
    }

    /// How many are let through in this round.
    pub(super) const fn size(&self) -> usize {
        self.size
    }

    pub(super) fn has(&self, id: &WorkspaceId) -> bool {
        self.outstanding.contains_key(id)
    }

    /// Lets a canary go.
    pub(super) fn release(&mut self, id: &WorkspaceId, canary: Canary) {
        let by = canary.released_at + canary.span;
        self.outstanding.insert(id.clone(), Outstanding { canary, started: None, by, unknown: false });
    }

    /// Takes a canary out of the round without an answer.
    pub(super) fn leaves(&mut self, id: &WorkspaceId) {
        self.outstanding.remove(id);
    }

    /// The order for a canary has ended. It will give an answer only if the restart was made.
    pub(super) fn ended(&mut self, id: &WorkspaceId, end: End, now: Moment) {
        match end {
            End::Made => {
                if let Some(it) = self.outstanding.get_mut(id) {
                    it.starts(now);
                }
            }
            End::Failed | End::NotAsked => self.leaves(id),
        }
    }

    /// A pass saw one of the canaries.
    pub(super) fn sees(&mut self, id: &WorkspaceId, seen: Seen<'_>, now: Moment) {
        let before = self.outstanding.get(id).and_then(|it| it.canary.attempt_before);
        if let Some((attempt, Some(end))) = seen.attempt
            && before.is_none_or(|before| attempt > before)
        {
            self.ended(id, end, now);
        }
        let Some(it) = self.outstanding.get_mut(id) else { return };
        it.unknown = seen.what == What::Unknown;
        let same_life = seen.life.is_some_and(|life| it.is_convicted(life));
        if !same_life && matches!(seen.what, What::Back | What::Runs) {
            it.starts(seen.at);
        }
        if it.started.is_none() && seen.in_flight {
            it.by = now + it.canary.span;
        }
        let another_died = seen.life.is_some_and(|life| it.is_surely_another(life));
        let died = another_died || (!same_life && it.started.is_some_and(|started| seen.at > started));
        match seen.what {
            What::Back if it.started.is_some() => {
                self.back += 1;
                self.leaves(id);
            }
            What::Back | What::Gone => self.leaves(id),
            What::Down if died && !seen.in_flight => {
                self.failed += 1;
                self.leaves(id);
            }
            What::Down | What::Runs | What::Unknown => {}
        }
    }

    /// Gives up on canaries that are late. One that was started and is not back has failed, unless its engine gave no answer about it. One
    /// that is not known to have been started says nothing, and leaves its place.
    pub(super) fn give_up_on_the_late(&mut self, now: Moment) {
        let Self { outstanding, failed, .. } = self;
        outstanding.retain(|_, it| {
            let late = now > it.by;
            *failed += usize::from(late && it.started.is_some() && !it.unknown);
            !late
        });
    }

    /// What the round has come to so far.
    pub(super) fn come(&self) -> Come {
        let is_failure = if self.first { 2 * self.failed > self.size } else { 3 * self.failed > 2 * self.size };
        let is_decided = self.back + self.failed >= self.size;
        if is_failure {
            Come::Failed
        } else if 2 * self.back > self.size || is_decided {
            Come::Through
        } else {
            Come::Open
        }
    }
}

impl Outstanding {
    fn starts(&mut self, at: Moment) {
        if self.started.is_none() {
            self.started = Some(at);
            self.by = at + self.canary.span;
        }
    }

    /// Whether `life` is surely another than the one that was convicted.
    fn is_surely_another(&self, life: &Incarnation) -> bool {
        self.canary.life.as_ref().is_none_or(|convicted| !convicted.may_be(life))
    }

    /// Whether `life` is surely the one that was convicted.
    fn is_convicted(&self, life: &Incarnation) -> bool {
        self.canary.life.as_ref().is_some_and(|convicted| convicted == life && life.started_at.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moment::Timestamp;

    const SPAN: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Moment {
        Moment::after(Duration::from_secs(1_000 + seconds))
    }

    fn id(n: usize) -> WorkspaceId {
        WorkspaceId::from(format!("w{n}"))
    }

    fn life(started: i64) -> Incarnation {
        Incarnation { container_id: "c".into(), started_at: Some(Timestamp(started)) }
    }

    /// A round of `size` in which everybody was let through at 0, convicted in life 1.
    fn full(size: usize) -> Round {
        let mut round = Round::first(size);
        for n in 0..size {
            let canary = Canary { life: Some(life(1)), attempt_before: Some(5), span: SPAN, released_at: at(0) };
            round.release(&id(n), canary);
        }
        round
    }

    fn see(round: &mut Round, n: usize, what: What, life: Option<&Incarnation>, seconds: u64) {
        let seen = Seen { what, life, at: at(seconds), in_flight: false, attempt: None };
        round.sees(&id(n), seen, at(seconds));
    }

    #[test]
    fn a_canary_that_says_nothing_leaves_its_place_to_another() {
        for (end, room) in [(End::Made, 0), (End::Failed, 1), (End::NotAsked, 1)] {
            let mut round = full(3);
            assert_eq!(round.room(at(0)), 0);
            round.ended(&id(0), end, at(1));
            assert_eq!((round.room(at(1)), round.come()), (room, Come::Open), "{end:?}");
        }
        let mut parked = full(3);
        see(&mut parked, 0, What::Gone, None, 5);
        see(&mut parked, 1, What::Back, Some(&life(1)), 5);
        assert_eq!((parked.room(at(5)), parked.come()), (2, Come::Open), "nor does one that was never stopped");
    }

    #[test]
    fn the_ledger_tells_how_an_order_ended_where_nobody_else_has() {
        for (attempt, end, room) in [
            (6, Some(End::Failed), 1),
            (6, Some(End::NotAsked), 1),
            (6, Some(End::Made), 0),
            (6, None, 0),
            (5, Some(End::Failed), 0),
        ] {
            let mut round = full(3);
            let seen = Seen {
                what: What::Down,
                life: Some(&life(1)),
                at: at(5),
                in_flight: false,
                attempt: Some((attempt, end)),
            };
            round.sees(&id(0), seen, at(5));
            assert_eq!(round.room(at(5)), room, "attempt {attempt}: {end:?}");
        }
    }

    #[test]
    fn one_that_exits_after_its_start_has_failed_and_one_that_was_not_started_yet_has_not() {
        let mut round = full(3);
        see(&mut round, 0, What::Down, Some(&life(1)), 5);
        assert_eq!(round.failed, 0, "still the life that was convicted");
        see(&mut round, 2, What::Down, None, 5);
        see(&mut round, 2, What::Down, None, 6);
        assert_eq!(round.failed, 0, "nobody has seen it started");
        see(&mut round, 0, What::Down, Some(&life(2)), 6);
        assert_eq!((round.failed, round.room(at(6))), (1, 0), "its place is taken: it has answered");
        round.ended(&id(1), End::Made, at(10));
        see(&mut round, 1, What::Down, None, 10);
        assert_eq!(round.failed, 1, "a look that began before the start");
        see(&mut round, 1, What::Down, None, 11);
        assert_eq!((round.failed, round.come()), (2, Come::Failed), "its container was removed since");
    }

    #[test]
    fn one_has_its_span_from_its_start_on_and_not_a_moment_more() {
        for (late, come) in [(60, Come::Open), (61, Come::Failed)] {
            let mut round = full(1);
            round.ended(&id(0), End::Made, at(20));
            see(&mut round, 0, What::Runs, Some(&life(2)), 40);
            round.give_up_on_the_late(at(20 + late));
            assert_eq!(round.come(), come, "{late}");
        }
    }

    #[test]
    fn one_of_which_nothing_is_known_in_the_end_leaves() {
        let mut lost = full(1);
        lost.give_up_on_the_late(at(61));
        assert_eq!((lost.come(), lost.room(at(61))), (Come::Open, 1), "nobody knows what became of its order");
        let mut away = full(1);
        away.ended(&id(0), End::Made, at(1));
        see(&mut away, 0, What::Unknown, None, 50);
        away.give_up_on_the_late(at(62));
        assert_eq!((away.come(), away.room(at(62))), (Come::Open, 1), "its engine does not answer");
        let mut queued = full(1);
        let seen = Seen { what: What::Down, life: Some(&life(1)), at: at(50), in_flight: true, attempt: None };
        queued.sees(&id(0), seen, at(50));
        queued.give_up_on_the_late(at(110));
        assert_eq!(queued.room(at(110)), 0, "it waits for a permit");
        let mut idle = full(1);
        see(&mut idle, 0, What::Down, Some(&life(1)), 50);
        idle.give_up_on_the_late(at(61));
        assert_eq!(idle.room(at(61)), 1, "nobody is at work on it");
        let mut started = full(1);
        started.ended(&id(0), End::Made, at(20));
        let seen = Seen { what: What::Runs, life: Some(&life(2)), at: at(50), in_flight: true, attempt: None };
        started.sees(&id(0), seen, at(50));
        started.give_up_on_the_late(at(81));
        assert_eq!(started.come(), Come::Failed, "its span is counted from its start");
    }

    /// (size, first batch, failed, back) and what the round has come to.
    #[test]
    fn most_must_fail_of_a_first_batch_and_more_than_two_thirds_of_a_later_one() {
        for (size, first, failed, back, come) in [
            (3, true, 1, 0, Come::Open),
            (3, true, 1, 1, Come::Open),
            (3, true, 1, 2, Come::Through),
            (3, true, 0, 2, Come::Through),
            (3, true, 2, 0, Come::Failed),
            (3, true, 2, 1, Come::Failed),
            (2, true, 1, 1, Come::Through),
            (6, false, 4, 0, Come::Open),
            (6, false, 4, 2, Come::Through),
            (6, false, 5, 0, Come::Failed),
            (6, false, 0, 3, Come::Open),
            (6, false, 0, 4, Come::Through),
            (6, false, 3, 3, Come::Through),
            (1, true, 1, 0, Come::Failed),
            (1, true, 0, 1, Come::Through),
        ] {
            let round = Round { first, back, failed, ..Round::first(size) };
            assert_eq!(round.come(), come, "{failed} failed and {back} back of {size}, first: {first}");
        }
    }

    #[test]
    fn a_round_that_came_through_doubles_and_one_that_failed_begins_again_after_its_cooldown() {
        let round = full(6);
        let next = round.next(None);
        assert_eq!((next.number, next.room(at(0)), next.first), (1, 12, false));
        let again = next.next(Some((at(100), 3)));
        assert_eq!((again.number, again.room(at(99)), again.room(at(100)), again.first), (2, 0, 3, true));
    }
}
