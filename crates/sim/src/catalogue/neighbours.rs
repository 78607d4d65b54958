//! G: trouble of one workspace, function, table or engine, which must not harm any other workspace.

use super::storms::hold;
use super::story::{dies, fleet, phase, someone, sometime};
use crate::functions::Conduct;
use crate::oracle::Oracle;
use crate::time::{Ms, hours, mins, secs};
use crate::workspace::{Body, EnginePolicy, Fate};
use crate::world::World;

/// Thirty workspaces die one after the other, never enough at once for a storm. `mark_dead` hangs or raises for them, so they wait until it
/// works. The ten that die after them must be restarted as if nothing had happened: those whose function hangs must not use up the places
/// for restarts.
pub(super) fn s63(world: &mut World) -> Oracle {
    fleet(world, 100, 1);
    let mut oracle = Oracle::deaths(mins(50)).within(mins(50));
    for (place, of) in world.dice.some_of(40, 100).into_iter().enumerate() {
        if place < 30 {
            world.db.functions[of].mark_dead = if place < 24 { Conduct::Hangs } else { Conduct::Raises };
            world.at(mins(15), move |world| world.db.functions[of].mark_dead = Conduct::Works);
        } else {
            oracle = oracle.check(move |world| answered_within(world, of, secs(10)));
        }
        let at = secs(10) * place as u64 + sometime(world, secs(5));
        dies(world, of, at);
    }
    oracle.at_most(40)
}

/// For half an hour, the engine cannot be reached for six seconds of every twenty. A workspace that its own restart policy has given up is
/// dead all that time. With each return of the engine its policies are waited for again, but all these waits together must not keep the
/// workspace dead.
pub(super) fn s66(world: &mut World) -> Oracle {
    fleet(world, 20, 2);
    let of = 2 * someone(world, 10);
    world.workspaces[of].spec.policy = EnginePolicy::UnlessStopped;
    let at = phase(world);
    world.at(at, move |world| {
        world.engines[0].daemon_up = false;
        world.exit(of, 1, false);
        world.engines[0].daemon_up = true;
    });
    for n in 0..90 {
        let start = secs(20) * n + sometime(world, secs(2));
        world.at(start, |world| world.engines[0].fault = Some(defib_policy::sample::Fault::Unreachable));
        world.at(start + secs(6), |world| {
            world.engines[0].fault = None;
            world.engines[0].returns += 1;
        });
    }
    Oracle::deaths(mins(40)).at_most(1).within(mins(7))
}

/// One is dead, and eight times in a row the database is gone, or defib is restarted (by seed), right after the claim and before the
/// engine is asked. Attempts that never asked count for nothing: once nothing happens any more it is restarted soon.
pub(super) fn s67(world: &mut World) -> Oracle {
    fleet(world, 12, 1);
    world.engines[0].inspect = 1_500;
    let (of, restarts, at) = (someone(world, 12), world.dice.chance(0.5), phase(world));
    dies(world, of, at);
    world.at(at, move |world| interrupt(world, of, restarts, 8));
    // The delays between the refusals grow, up to this one.
    let longest = mins(5);
    Oracle::deaths(hours(1)).within(hours(1)).at_most(1).check(move |world| {
        let last = world.db.ledger.rows_of(of).rfind(|row| row.acting_at.is_none())?;
        let asked = world.db.ledger.rows_of(of).find_map(|row| row.acting_at);
        let waited = asked.map(|asked| asked.since(last.claimed_at));
        let too_long = waited.is_none_or(|waited| waited > std::time::Duration::from_millis(longest + secs(30)));
        too_long.then(|| format!("after the last attempt that never asked its engine, the next one waited {waited:?}"))
    })
}

/// Takes the database away, or restarts defib, whenever a claim of the workspace is open and its engine was not asked.
fn interrupt(world: &mut World, of: usize, restarts: bool, times: u32) {
    let open = world.db.ledger.rows_of(of).any(|row| row.finished_at.is_none() && row.acting_at.is_none());
    let (times, wait) = if open { (times - 1, secs(4)) } else { (times, 100) };
    if open && restarts {
        world.crash_detector(0);
        world.later(500, |world| world.with_detector(0, |detector, world| detector.start(0, world)));
    } else if open {
        world.db.writable = false;
        world.later(secs(3), |world| world.db.writable = true);
    }
    if times > 0 {
        world.later(wait, move |world| interrupt(world, of, restarts, times));
    }
}

/// One dies, and right after the claim an operator holds it. Nothing is done, so the platform's row must not stay marked: somebody
/// starts it by hand a minute later.
pub(super) fn s65(world: &mut World) -> Oracle {
    fleet(world, 12, 1);
    world.engines[0].inspect = 1_500;
    let (of, at) = (someone(world, 12), phase(world));
    dies(world, of, at);
    world.at(at, move |world| hold_when_claimed(world, of));
    world.at(at + mins(2), move |world| world.foreign_restart(of));
    Oracle::deaths(mins(20)).at_most(0).within(mins(20)).ends_as(of, "online")
}

fn hold_when_claimed(world: &mut World, of: usize) {
    if world.db.ledger.rows_of(of).any(|row| row.finished_at.is_none() && row.acting_at.is_none()) {
        hold(world, of, mins(10));
    } else if world.workspaces[of].body != Body::Running {
        world.later(100, move |world| hold_when_claimed(world, of));
    }
}

/// It dies a second after each start. A list of its engine takes three seconds, and its events are heard at once. So it is judged by a list
/// that was asked for before its last restart, and that judgement must know of the restart: no attempt is made twice, and the back-off
/// grows.
pub(super) fn s71(world: &mut World) -> Oracle {
    fleet(world, 10, 1);
    world.engines[0].list = secs(3);
    let (of, at) = (someone(world, 10), phase(world));
    world.at(at, move |world| {
        world.workspaces[of].fate = Fate::DiesAfter(secs(1));
        world.exit(of, 1, false);
    });
    let oracle = Oracle::deaths(mins(20)).not_all_well().within(mins(31)).at_most(5);
    oracle.check(move |world| {
        let numbers: Vec<u32> = world.db.ledger.rows_of(of).map(|row| row.attempt).collect();
        let growing = numbers.windows(2).all(|pair| pair[0] < pair[1]);
        (!growing).then(|| format!("its attempts are numbered {numbers:?}"))
    })
}

fn answered_within(world: &World, of: usize, within: Ms) -> Option<String> {
    let loss = world.chronicle.losses.iter().find(|loss| loss.workspace == of)?;
    let took = loss.restarted_at.map(|at| at - loss.at);
    took.is_none_or(|took| took > within)
        .then(|| format!("{} was restarted after {took:?} ms", world.workspaces[of].id))
}
