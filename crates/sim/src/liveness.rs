//! The oracle of liveness: the time within which a true death must be answered.
//!
//! The bound holds whatever the neighbours do. It is computed from the knobs and, in a storm, from how many died together. If some of those
//! cannot be helped, the bound is longer by the failed rounds that they cost, and by nothing else. Only what stands in the workspace's own
//! way (an outage, a hold, a function of the platform that raises for it) stops the clock of the bound.

use defib_policy::settings::Settings;

use crate::chronicle::{Death, Loss};
use crate::time::{Ms, clock, mins, ms, secs};
use crate::world::World;

/// How long a death may wait for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Within {
    /// This long.
    Exactly(Ms),
    /// This long, and what [`in_storms`] and [`put_back`] add to it.
    BesideStorms(Ms),
}

/// Whether a death was answered too late, or not at all.
///
/// The clock of the bound stands still while something is in the way. A wedged workspace, whose container runs, is convicted by its
/// silence, which counts anew after each outage and pause, and by a second witness. So its bound holds for each stretch of time without
/// obstacles by itself, and begins as long before the callers agree as a workspace may be silent.
#[must_use]
pub fn late(world: &World, loss: &Loss, within: Within) -> Option<String> {
    let ended = answered_at(world, loss);
    let engine = world.workspaces[loss.workspace].engine;
    let from = match loss.how {
        Death::Wedged => {
            let agreed = loss.callers.agreed_at.unwrap_or(ended).saturating_sub(patience(world, loss));
            loss.counted_from.max(agreed)
        }
        Death::Exited | Death::Vanished => loss.counted_from,
    };
    let (Within::Exactly(bound) | Within::BesideStorms(bound)) = within;
    // Nearly all are answered in time. What obstacles and storms add is costly to know, so it is asked only for the others.
    if ended.saturating_sub(from) <= bound {
        return None;
    }
    let (total, longest) = world.chronicle.unobstructed(loss.workspace, engine, from.min(ended), ended);
    let counted = if loss.how == Death::Wedged { longest } else { total };
    if counted <= bound {
        return None;
    }
    let beside = in_storms(world, loss) + put_back(world, loss);
    let bound = if within == Within::Exactly(bound) { bound } else { bound + beside };
    (counted > bound).then(|| {
        let name = &world.workspaces[loss.workspace].id;
        let at = clock(loss.at, world.zero);
        let how = loss.how;
        format!(
            "LATE: {name} died at {at} ({how:?}, {} tries before), {counted} ms counted, bound {bound} ms",
            loss.tries
        )
    })
}

/// The bound that the knobs give, and what storms add to it.
#[must_use]
pub fn by_the_knobs(world: &World, loss: &Loss) -> Within {
    Within::BesideStorms(bound(world, loss))
}

fn answered_at(world: &World, loss: &Loss) -> Ms {
    loss.restarted_at.or(loss.excused_at).or(loss.back_at).unwrap_or(world.now)
}

/// The bound on detection that the knobs give, for a world without obstacles and storms.
#[must_use]
pub fn bound(world: &World, loss: &Loss) -> Ms {
    let settings = &world.settings;
    let poll = ms(settings.poll_interval);
    let misses = u64::from(settings.dead_threshold) * ms(settings.probe_spacing);
    let detect = match loss.how {
        Death::Exited => poll + misses + secs(1),
        // It must have been missing for long enough, and its heartbeat must be overdue: that is at most a window after the last heartbeat,
        // and a poll has to see it.
        Death::Vanished => {
            poll + ms(settings.missing_grace).max(ms(settings.heartbeat_interval) * 3 / 2 + secs(15)) + secs(1)
        }
        // A second witness must last for two windows; how soon two reporters have gone on for that long is the traffic's.
        Death::Wedged => poll + patience(world, loss) + mins(10),
    };
    detect + backoff_ceiling(settings, loss.tries)
}

/// How much longer a death in a storm may wait: until the last of all that died with it runs again.
///
/// That is twice the time that it takes when all can be helped, also if some are vetoed, held or missing, or the call to start them fails.
/// Workspaces that are started and do not come back make rounds fail. A workspace that was tried waits until all others were tried, so the
/// bound grows by as many failed rounds as it takes to try everybody once.
#[must_use]
pub fn in_storms(world: &World, loss: &Loss) -> Ms {
    let (from, until, chronicle) = (loss.counted_from, answered_at(world, loss), &world.chronicle);
    let engine = world.workspaces[loss.workspace].engine;
    let mut whole_fleet = false;
    let mut storms = 0;
    for storm in chronicle.storms.iter().filter(|storm| storm.from <= until && storm.until >= from) {
        let concerns = storm.engine.is_none_or(|of| of == engine);
        storms += usize::from(concerns);
        whole_fleet |= concerns && storm.engine.is_none();
    }
    if storms == 0 {
        return 0;
    }
    let in_scope = |of: usize| whole_fleet || world.workspaces[of].engine == engine;
    let window = ms(world.settings.dead_window);
    // Those that died a window before it may have begun the storm.
    let together = |other: &&Loss| in_scope(other.workspace) && answered_at(world, other) + window >= from;
    let dead = chronicle.losses_until(until).iter().filter(together).count().max(1);
    let back_within = round(&world.settings);
    let failed = chronicle.restarts_between(from.saturating_sub(window), until).iter().any(|restart| {
        in_scope(restart.workspace) && !chronicle.was_well_again(restart.workspace, restart.at, back_within)
    });
    let rounds = if failed { tries_of_everybody(&world.settings, dead) } else { 0 };
    2 * mass_recovery(&world.settings, dead) + rounds * (back_within + ms(world.settings.storm_cooldown))
}

/// How much longer a death may wait because the database's clock was ahead when an attempt ended, was put back, and then a process of defib began
/// anew. Only a process that was told of the attempt before knows that it ended longer ago than its stamp says. The new one lets a back-off pass
/// from its own start at most.
#[must_use]
pub fn put_back(world: &World, loss: &Loss) -> Ms {
    let (until, chronicle) = (answered_at(world, loss), &world.chronicle);
    let own_tries = || chronicle.restarts_between(loss.at, until).iter().filter(|it| it.workspace == loss.workspace);
    let tries = || loss.tries.saturating_add(u32::try_from(own_tries().count()).unwrap_or(u32::MAX));
    let from = loss.at.saturating_sub(ms(world.settings.exhausted_retry));
    let forgotten = |at: Ms| chronicle.process_changes.iter().any(|change| (at..=until).contains(change));
    let steps = chronicle.clock_steps.iter().filter(|(at, back)| *back > 0 && (from..=until).contains(at));
    let back = steps.filter(|(at, _)| forgotten(*at)).map(|(_, back)| *back).max();
    back.map_or(0, |back| back.min(backoff_ceiling(&world.settings, tries())))
}

/// How long it takes until the last of `dead` who died together runs again, when nobody is hopeless: until every heartbeat is stale,
/// and then in rounds of which each is twice as large as the one before.
#[must_use]
pub fn mass_recovery(settings: &Settings, dead: usize) -> Ms {
    let first = settings.storm_min.max(1) as usize;
    let rounds = (dead.div_ceil(first) + 1).next_power_of_two().ilog2();
    ms(settings.recent_max) / 2 + u64::from(rounds) * round(settings)
}

/// How long a canary may take at most until it is back.
fn round(settings: &Settings) -> Ms {
    2 * ms(settings.settle).max(ms(settings.heartbeat_interval) * 5 / 2)
}

fn tries_of_everybody(settings: &Settings, dead: usize) -> Ms {
    dead.div_ceil(settings.storm_min.max(1) as usize) as Ms
}

/// How long a wedged workspace may be silent. One that may still be starting has until half an hour after its start. It may still be
/// starting if it was never heard of in its present life, or if the database's clock has stepped since it was: then nothing tells whether
/// that heartbeat was of the life before.
fn patience(world: &World, loss: &Loss) -> Ms {
    let settings = &world.settings;
    let until = answered_at(world, loss);
    let stepped = world.chronicle.clock_steps.iter().any(|(at, _)| (loss.began_at..=until).contains(at));
    let may_be_starting = if !loss.heard || stepped { (loss.began_at + mins(30)).saturating_sub(loss.at) } else { 0 };
    ms(settings.wedged_after).max(may_be_starting)
}

/// The longest back-off after this many tries.
fn backoff_ceiling(settings: &Settings, tries: u32) -> Ms {
    match tries {
        0 => 0,
        n if n >= settings.exhausted_after => ms(settings.exhausted_retry),
        n => (ms(settings.backoff_initial) << (n - 1).min(20)).min(ms(settings.backoff_max)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Spec;

    #[test]
    fn a_mass_death_recovers_in_rounds_that_double() {
        let settings = Settings::default();
        let rounds = |dead| (mass_recovery(&settings, dead) - ms(settings.recent_max) / 2) / round(&settings);
        assert_eq!([1, 3, 4, 9, 10, 21, 22, 45].map(rounds), [1, 1, 2, 2, 3, 3, 4, 4]);
    }

    #[test]
    fn only_what_is_in_its_own_way_stops_the_clock() {
        let mut world = World::new(1);
        world.add_fleet(4, 2, Spec::default());
        world.exit(0, 1, false);
        world.obstacle_of(2, mins(10), 0);
        world.run_until(world.now + mins(5));
        let first_is_late = |world: &World| {
            let loss = &world.chronicle.losses[0];
            late(world, loss, by_the_knobs(world, loss))
        };
        assert!(first_is_late(&world).is_some_and(|text| text.starts_with("LATE")));
        world.obstacle_of(0, 0, 0);
        world.chronicle.obstacles[1].from -= mins(5);
        assert_eq!(first_is_late(&world), None);
    }

    #[test]
    fn a_storm_makes_the_bound_longer_for_those_in_its_scope_alone() {
        let mut world = World::new(1);
        world.add_fleet(8, 2, Spec::default());
        for of in [0, 1, 2, 4] {
            world.exit(of, 1, false);
        }
        world.chronicle.storm(0, Some(0), true, world.now);
        let allowed: Vec<Ms> = world.chronicle.losses.iter().map(|loss| in_storms(&world, loss)).collect();
        let three = 2 * mass_recovery(&world.settings, 3);
        assert_eq!(allowed, [three, 0, three, three], "number 1 is on the other engine");
    }

    #[test]
    fn a_clock_that_was_put_back_and_a_process_that_began_after_it_allow_as_much_more_as_it_was_put_back() {
        let mut world = World::new(1);
        world.add_fleet(1, 1, Spec::default());
        world.step_clock(200_000_000);
        world.exit(0, 1, false);
        world.chronicle.losses[0].tries = 4;
        world.run_until(world.now + mins(1));
        world.step_clock(0);
        let allowed = |world: &World| put_back(world, &world.chronicle.losses[0]);
        assert_eq!(allowed(&world), 0, "whoever was told of the attempts still runs");
        world.restart_detector(0);
        let longest = backoff_ceiling(&world.settings, 4);
        assert_eq!((allowed(&world), longest < secs(200)), (longest, true), "no back-off is longer than this");
        world.chronicle.losses[0].tries = world.settings.exhausted_after;
        assert_eq!(allowed(&world), secs(200));
    }
}
