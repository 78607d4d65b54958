//! Instances behind a control plane that tells states and restarts nothing. defib is configured with the platform's own restart.
//!
//! The policies of others know container engines only, so these are beside the catalogue that all are compared in.

use defib_policy::abilities::Abilities;
use defib_policy::sample::Fault;
use defib_policy::settings::Action;

use super::story::{dies, fleet, phase, someone, sometime};
use crate::endpoint::{Conduct, Endpoint};
use crate::oracle::Oracle;
use crate::time::{Ms, mins, secs};
use crate::world::World;

/// Instances on one control plane: no events, and nothing that it could restart.
fn instances(world: &mut World, n: usize) {
    fleet(world, n, 1);
    let plane = &mut world.engines[0];
    plane.events = false;
    plane.abilities = Abilities { lists: false, starts: false, kills: false, ..Abilities::default() };
    (plane.list, plane.inspect) = (80, 80);
    world.endpoint = Some(Endpoint::default());
}

/// The platform accepts this many requests about a workspace.
fn accepted(oracle: Oracle, of: usize, times: usize) -> Oracle {
    oracle.check(move |world| {
        let made = world.endpoint.as_ref().map_or(0, |endpoint| endpoint.accepted_of(of));
        (made != times).then(|| format!("{} was made again {made} times, and not {times}", world.workspaces[of].id))
    })
}

/// For 20 to 60 minutes everything about the tenant is answered with 404, and so are its restarts. That says nothing of anybody. One dies
/// meanwhile, and is restarted afterwards.
pub(super) fn c01(world: &mut World) -> Oracle {
    instances(world, 30);
    let (begins, lasting) = (phase(world), mins(20) + sometime(world, mins(40)));
    let (of, at) = (someone(world, 30), begins + mins(2) + sometime(world, mins(10)));
    world.at(begins, move |world| {
        world.engine_fault(0, Fault::EngineError, lasting);
        answers(world, Conduct::Refuses);
        world.later(lasting, |world| answers(world, Conduct::Accepts));
    });
    dies(world, of, at);
    accepted(Oracle::deaths(mins(90)).at_most(1), of, 1)
}

/// For half an hour the control plane and the platform answer 5xx, in bursts of up to 40 s each minute. Two die, ten minutes apart.
pub(super) fn c02(world: &mut World) -> Oracle {
    instances(world, 20);
    for n in 0..30 {
        let (at, lasting) = (mins(n) + sometime(world, secs(15)), secs(5) + sometime(world, secs(35)));
        world.at(at, move |world| {
            world.engine_fault(0, Fault::EngineError, lasting);
            answers(world, Conduct::Refuses);
            world.later(lasting, |world| answers(world, Conduct::Accepts));
        });
    }
    let mut oracle = Oracle::deaths(mins(60)).within(mins(30));
    for (place, of) in world.dice.some_of(2, 20).into_iter().enumerate() {
        let at = mins(5) + mins(10) * place as Ms + sometime(world, secs(60));
        dies(world, of, at);
        oracle = accepted(oracle, of, 1);
    }
    oracle
}

/// A new instance is pending for about a minute, as `DEFIB_SETTLE` says that it may be, while requests to it fail every few seconds and the
/// answer to its restart is lost, by seed. It must not be taken for dead and be made once more: that would begin anew each time.
pub(super) fn c03(world: &mut World) -> Oracle {
    world.settings.settle = std::time::Duration::from_secs(90);
    instances(world, 12);
    let of = someone(world, 12);
    world.workspaces[of].spec.request_every = secs(5);
    let conduct = if world.dice.chance(0.3) { Conduct::LosesItsAnswer } else { Conduct::Accepts };
    world.endpoint = Some(Endpoint { conduct, pending_min: secs(50), pending_max: secs(70), ..Endpoint::default() });
    let at = phase(world);
    dies(world, of, at);
    accepted(Oracle::deaths(mins(15)).at_most(1), of, 1)
}

/// The control plane says "running" of an instance on which nothing lives any more. With the defaults that is reported, and nothing is done.
/// By seed `DEFIB_WEDGED_ACTION=restart` is set: then two callers who cannot reach it are the second witness, and the platform is asked once.
pub(super) fn c04(world: &mut World) -> Oracle {
    let restarts = world.dice.chance(0.5);
    if restarts {
        world.settings.wedged_action = Action::Restart;
    }
    instances(world, 12);
    let (of, at) = (someone(world, 12), phase(world));
    world.workspaces[of].spec.health_check = false;
    world.at(at, move |world| world.wedge(of));
    if restarts {
        let oracle = Oracle { wedged_too: true, ..Oracle::deaths(mins(30)) };
        accepted(oracle.at_most(1).within(mins(11)), of, 1)
    } else {
        Oracle::nobody(mins(30)).not_all_well().verdict_reached(of, "wedged")
    }
}

/// One dies, and for twenty minutes the platform accepts each request to restart it and makes an instance that stays pending. Each of these is
/// given up after `DEFIB_SETTLE`, and the back-off grows between the requests. One that is made after that time runs.
pub(super) fn c05(world: &mut World) -> Oracle {
    const NEVER: Ms = mins(24 * 60);
    instances(world, 12);
    let (of, at) = (someone(world, 12), phase(world));
    world.endpoint = Some(Endpoint { pending_min: NEVER, pending_max: NEVER, ..Endpoint::default() });
    world.at(mins(20), |world| world.endpoint = world.endpoint.take().map(Endpoint::quick_again));
    dies(world, of, at);
    Oracle::deaths(mins(120)).within(mins(60)).at_most(7).check(move |world| {
        let made = world.endpoint.as_ref().map_or(0, |endpoint| endpoint.accepted_of(of));
        (made < 3).then(|| format!("{} was made again only {made} times", world.workspaces[of].id))
    })
}

fn answers(world: &mut World, conduct: Conduct) {
    if let Some(endpoint) = world.endpoint.as_mut() {
        endpoint.conduct = conduct;
    }
}
