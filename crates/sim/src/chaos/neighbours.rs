//! Neighbours that misbehave, and that must not harm anybody else: workspaces that cannot be helped for a while, functions of the platform
//! that veto, raise or hang for them, locks on defib's tables, reporters that lie, and boots that are under way when defib starts.

use std::time::Duration;

use super::faults::vanish;
use crate::functions::Conduct;
use crate::ledger::{Hold, HoldScope};
use crate::time::{Ms, hours, mins, ms, secs};
use crate::workspace::{Fate, Mind};
use crate::world::World;

/// The proxy that is another process of the first one's login.
const SECOND_NAME: u8 = 2;
/// The proxy that gives the id of each request as its name.
const NAMES_REQUESTS: u8 = 3;

/// One of them.
pub(super) fn draw(world: &mut World) {
    let of = world.dice.index(world.workspaces.len());
    match world.dice.below(100) {
        0..=29 => hopeless_one(world, of),
        30..=39 => mass_death(world),
        40..=54 => functions(world, of),
        55..=66 => locks(world),
        67..=76 => liars(world, of),
        77..=86 => boots_at_our_start(world),
        87..=92 => hold(world, of),
        _ => comes_to(world, of),
    }
}

fn is_up(world: &World, of: usize) -> bool {
    world.workspaces[of].mind == Mind::Working && world.is_wanted(of)
}

/// Somebody dies who cannot be helped for a while.
fn hopeless_one(world: &mut World, of: usize) {
    if !is_up(world, of) {
        return;
    }
    let lasting = world.dice.between(mins(2), hours(4));
    make_hopeless(world, of, lasting);
    if world.is_wanted(of) {
        world.exit(of, 1, false);
    }
}

/// By chance: its engine refuses to start it, its container is gone, the platform vetoes, `mark_dead` raises or hangs for it, or each
/// start of it dies again.
fn make_hopeless(world: &mut World, of: usize, lasting: Ms) {
    match world.dice.below(6) {
        0 => refuse_starts(world, of, lasting),
        1 => vanish(world, of),
        2 => conduct(world, of, Conduct::Vetoes, lasting),
        3 => conduct(world, of, Conduct::Raises, lasting),
        4 => conduct(world, of, Conduct::Hangs, lasting),
        _ => {
            let after = world.dice.between(secs(1), mins(3));
            world.workspaces[of].fate = Fate::DiesAfter(after);
            world.later(lasting, move |world| world.workspaces[of].fate = Fate::Works);
        }
    }
}

fn refuse_starts(world: &mut World, of: usize, lasting: Ms) {
    world.workspaces[of].start_refused = true;
    world.note(of, "(its engine refuses to start it)");
    // The attempts in vain count, so that the next one may be the rare one of an exhausted workspace.
    let settings = &world.settings;
    let grace = ms(settings.exhausted_retry) + ms(settings.settle) + mins(1);
    world.obstacle_of(of, lasting, grace);
    world.later(lasting, move |world| {
        world.workspaces[of].start_refused = false;
        world.note(of, "(its engine would start it)");
    });
}

/// `mark_dead` behaves so for a while. What is never asked of an engine waits with a growing delay of its own.
fn conduct(world: &mut World, of: usize, conduct: Conduct, lasting: Ms) {
    if world.db.functions[of].mark_dead != Conduct::Works {
        return;
    }
    world.db.functions[of].mark_dead = conduct;
    world.note(of, &format!("(mark_dead: {conduct:?})"));
    let grace = 2 * ms(world.settings.backoff_max);
    world.obstacle_of(of, lasting, grace);
    world.later(lasting, move |world| {
        world.db.functions[of].mark_dead = Conduct::Works;
        world.note(of, "(mark_dead works)");
    });
}

/// Many die within a minute, on one engine or anywhere, and any share of them is hopeless for a while.
fn mass_death(world: &mut World) {
    let engine = world.dice.chance(0.5).then(|| world.dice.index(world.engines.len()));
    let members: Vec<usize> =
        (0..world.workspaces.len()).filter(|of| engine.is_none_or(|on| world.workspaces[*of].engine == on)).collect();
    let n = 4 + world.dice.index(members.len() / 2);
    let (share, lasting) = (world.dice.unit(), world.dice.between(mins(5), hours(2)));
    for place in world.dice.some_of(n.min(members.len()), members.len()) {
        let (of, wait, hopeless) = (members[place], world.dice.below(secs(60)), world.dice.chance(share));
        world.later(wait, move |world| {
            if !is_up(world, of) {
                return;
            }
            if hopeless {
                make_hopeless(world, of, lasting);
            }
            world.exit(of, 137, false);
        });
    }
}

/// A function raises or hangs for a workspace that is well, and that may die meanwhile.
fn functions(world: &mut World, of: usize) {
    let conducts = [Conduct::Raises, Conduct::Hangs];
    let how = world.dice.pick(&conducts).copied().unwrap_or_default();
    let lasting = world.dice.between(mins(1), hours(3));
    if world.dice.chance(0.5) {
        return conduct(world, of, how, lasting);
    }
    world.db.functions[of].mark_recovered = how;
    world.note(of, &format!("(mark_recovered: {how:?})"));
    world.later(lasting, move |world| world.db.functions[of].mark_recovered = Conduct::Works);
}

/// Somebody holds locks: verdicts are written late, or nothing of defib's is, or every write is slow.
fn locks(world: &mut World) {
    let lasting = world.dice.between(secs(3), mins(8));
    match world.dice.below(3) {
        0 => {
            // History waits; restarts do not.
            world.db.history_locked = true;
            world.later(lasting, |world| world.db.history_locked = false);
        }
        1 if !world.db.defib_locked => {
            let grace = world.grace_after_outage();
            world.db.defib_locked = true;
            world.obstacle(None, lasting, grace);
            world.later(lasting, |world| world.db.defib_locked = false);
        }
        _ => {
            let grace = world.grace_after_outage();
            world.db.latency = world.dice.between(50, secs(2));
            world.obstacle(None, lasting, grace);
            world.later(lasting, |world| world.db.latency = 2);
        }
    }
}

/// Reporters that lie about healthy workspaces, some of which are silent.
///
/// No two of them ever lie about the same silent workspace: two logins that agree for two windows are the second witness by which a wedged
/// one is known, and nothing that anybody could be told distinguishes such liars from callers who tell the truth.
fn liars(world: &mut World, of: usize) {
    let lasting = world.dice.between(mins(5), mins(60));
    let remembered = 2 * ms(world.settings.wedged_after.max(2 * world.settings.recent_max));
    let which = world.dice.below(3);
    if which < 2 {
        if world.lied_about.get(&of).is_some_and(|until| world.now < *until) {
            return;
        }
        world.lied_about.insert(of, world.now + lasting + remembered);
    }
    match which {
        0 => {
            // One login that gives the id of each request as its name, about a few.
            world.logins.insert(NAMES_REQUESTS, NAMES_REQUESTS);
            world.names_requests = Some(NAMES_REQUESTS);
            world.mute(of, lasting);
            world.note(of, "(one login accuses it in the name of each request)");
            accuse(world, of, NAMES_REQUESTS, world.now + lasting);
        }
        1 => {
            // One login that begins to use a second name, for less than the two windows after which that would be a witness.
            world.logins.insert(SECOND_NAME, 0);
            world.mute(of, lasting);
            world.note(of, "(one login accuses it, and then under a second name)");
            accuse(world, of, 0, world.now + lasting);
            // The window is at least twice the interval: the workspace's own once that is learned, and the assumed one until then.
            let interval = world.workspaces[of].spec.interval.min(ms(world.settings.heartbeat_interval));
            let (begins, speaks_for) = (world.dice.below(lasting), 4 * interval);
            world.later(begins, move |world| accuse(world, of, SECOND_NAME, world.now + speaks_for));
        }
        _ => {
            // Two logins whose networks are broken: between them they accuse everybody, the silent ones too.
            let n = world.workspaces.len();
            for silent in world.dice.some_of(3, n) {
                world.mute(silent, lasting);
            }
            world.break_proxies(&[0, 1], lasting);
        }
    }
}

/// A proxy says of a workspace, again and again, that it cannot reach it.
fn accuse(world: &mut World, of: usize, proxy: u8, until: Ms) {
    world.request_failed(of, proxy);
    let wait = world.dice.between(secs(1), secs(20));
    if world.now + wait < until {
        world.later(wait, move |world| accuse(world, of, proxy, until));
    }
}

/// Some boot for long, with a heartbeat from before, and defib starts in the middle of it.
fn boots_at_our_start(world: &mut World) {
    let n = world.workspaces.len();
    for of in world.dice.some_of(4, n) {
        if is_up(world, of) {
            let boot = world.dice.between(mins(1), mins(25));
            world.workspaces[of].next_boot = Some(boot);
            world.foreign_restart(of);
        }
    }
    let grace = world.grace_after_outage() + secs(60);
    for which in 0..world.detectors() {
        let wait = world.dice.between(secs(1), mins(2));
        world.obstacle(None, wait, grace);
        world.later(wait, move |world| world.restart_detector(which));
    }
}

/// An operator holds a workspace, an engine or the fleet for a while.
fn hold(world: &mut World, of: usize) {
    let lasting = world.dice.between(mins(1), mins(40));
    let grace = world.grace_after_outage();
    let engine = world.workspaces[of].engine;
    let scope = match world.dice.below(4) {
        0 => {
            world.obstacle(None, lasting, grace);
            HoldScope::Fleet
        }
        1 => {
            world.obstacle(Some(engine), lasting, grace);
            HoldScope::Engine(world.engines[engine].name.clone())
        }
        _ => {
            world.obstacle_of(of, lasting, grace);
            HoldScope::Workspace(world.workspaces[of].id.clone())
        }
    };
    let (owner, reason) = ("operator".into(), "maintenance".into());
    let ends = world.db.clock(world.now).plus(Duration::from_millis(lasting));
    world.db.ledger.holds.push(Hold { scope: scope.clone(), owner, reason, expires_at: Some(ends) });
    world.remark(&format!("held: {scope:?}"));
    world.later(lasting + secs(1), move |world| world.db.ledger.holds.retain(|hold| hold.expires_at != Some(ends)));
}

/// It hangs, and comes to by itself after a while.
fn comes_to(world: &mut World, of: usize) {
    if is_up(world, of) {
        let lasting = world.dice.between(secs(30), mins(30));
        // A workspace that could not be reached for long, and whose heartbeats are still missing, looks as if it still could not be reached
        // until the reports of its callers are old.
        let for_long = lasting > 4 * world.workspaces[of].spec.interval;
        let beats_again = for_long || world.dice.chance(0.7);
        world.wedge_for(of, lasting, beats_again);
    }
}
