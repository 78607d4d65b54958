//! What must be true at the end of a scenario, as code.
//!
//! Two things are asked of every world: no workspace is restarted that is well or not ours to restart, and every true death is answered
//! within the bound that the knobs give. A scenario adds what is special to it. A policy does not have to answer the death of a removed
//! container unless it can have one made again; how many were left for that reason is counted separately
//! ([`Oracle::left_to_the_platform`]).

use crate::chronicle::{Death, Loss, Merit};
use crate::liveness::{Within, by_the_knobs, late};
use crate::time::{Ms, clock};
use crate::world::World;

/// A condition of a single scenario. The text says how it was broken.
pub type Check = Box<dyn Fn(&World) -> Option<String>>;

/// The oracle of a scenario.
pub struct Oracle {
    /// How long the scenario lasts.
    pub horizon: Ms,
    /// Replaces the computed bound on the detection of a death.
    pub detect_within: Option<Ms>,
    /// Whether wedged workspaces must be restarted, within `detect_within`.
    pub wedged_too: bool,
    /// Restart calls in all, at most.
    pub restarts_max: Option<usize>,
    /// Whether all watched workspaces must be well at the end.
    pub all_well: bool,
    /// What else must hold.
    pub checks: Vec<Check>,
}

impl Oracle {
    /// Nobody may be restarted at all.
    #[must_use]
    pub fn nobody(horizon: Ms) -> Self {
        Self { restarts_max: Some(0), ..Self::deaths(horizon) }
    }

    /// The dead are restarted, within the computed bound.
    #[must_use]
    pub fn deaths(horizon: Ms) -> Self {
        Self { horizon, detect_within: None, wedged_too: false, restarts_max: None, all_well: true, checks: Vec::new() }
    }

    /// At most `n` restart calls in all.
    #[must_use]
    pub fn at_most(mut self, n: usize) -> Self {
        self.restarts_max = Some(n);
        self
    }

    /// Another bound on detection.
    #[must_use]
    pub fn within(mut self, bound: Ms) -> Self {
        self.detect_within = Some(bound);
        self
    }

    /// Some workspaces cannot be well at the end.
    #[must_use]
    pub fn not_all_well(mut self) -> Self {
        self.all_well = false;
        self
    }

    /// At most `n` restart calls for one workspace.
    #[must_use]
    pub fn at_most_of(self, of: usize, n: usize) -> Self {
        self.check(move |world| {
            let made = world.chronicle.restarts_of(of);
            (made > n).then(|| format!("{} was restarted {made} times, allowed are {n}", world.workspaces[of].id))
        })
    }

    /// Adds another condition.
    #[must_use]
    pub fn check(mut self, check: impl Fn(&World) -> Option<String> + 'static) -> Self {
        self.checks.push(Box::new(check));
        self
    }

    /// A workspace must end in this status.
    #[must_use]
    pub fn ends_as(self, of: usize, status: &'static str) -> Self {
        self.check(move |world| {
            let is = world.db.facts[of].status;
            (is != status).then(|| format!("{} ends as {is}, not as {status}", world.workspaces[of].id))
        })
    }

    /// A verdict must be reached for a workspace.
    #[must_use]
    pub fn verdict_reached(self, of: usize, label: &'static str) -> Self {
        self.check(move |world| {
            let reached = world.chronicle.verdicts.iter().any(|(whose, _, verdict)| *whose == of && *verdict == label);
            (!reached).then(|| format!("{} never got the verdict {label}", world.workspaces[of].id))
        })
    }

    /// Everything that is broken, one sentence each.
    #[must_use]
    pub fn failures(&self, world: &World) -> Vec<String> {
        let mut failures: Vec<String> = mistakes(world);
        let made = world.chronicle.restarts.iter().filter(|it| it.merit != Merit::Idle).count();
        if let Some(max) = self.restarts_max.filter(|max| made > *max) {
            failures.push(format!("{made} restarts, allowed are {max}"));
        }
        failures.extend(self.late_ones(world, true));
        if self.all_well {
            let unhealable = |of: &usize| {
                let loss = world.chronicle.open[*of].map(|loss| &world.chronicle.losses[loss]);
                loss.is_some_and(|loss| !loss.healable)
            };
            let unwell = (0..world.workspaces.len())
                .filter(|of| world.db.facts[*of].is_watched() && !world.workspaces[*of].is_well())
                .filter(|of| !unhealable(of));
            failures.extend(unwell.map(|of| format!("{} is dead at the end", world.workspaces[of].id)));
        }
        failures.extend(self.checks.iter().filter_map(|check| check(world)));
        failures
    }

    /// The deaths that the policy on trial could not mend, and that nobody else mended in time. They break no rule, but the incident does
    /// not count as survived.
    #[must_use]
    pub fn left_to_the_platform(&self, world: &World) -> Vec<String> {
        self.late_ones(world, false)
    }

    fn late_ones(&self, world: &World, healable: bool) -> Vec<String> {
        let counts = |loss: &&Loss| loss.healable == healable && (loss.how != Death::Wedged || self.wedged_too);
        let losses = world.chronicle.losses.iter().filter(counts);
        let within = |loss: &Loss| self.detect_within.map_or_else(|| by_the_knobs(world, loss), Within::Exactly);
        losses.filter_map(|loss| late(world, loss, within(loss))).collect()
    }
}

/// The restarts that were mistakes.
#[must_use]
pub fn mistakes(world: &World) -> Vec<String> {
    let tell = |it: &crate::chronicle::Restart| {
        let name = &world.workspaces[it.workspace].id;
        let why = it.because.as_ref().map_or("no reason given", |(_, why)| why.as_str());
        format!("FALSE RESTART of {name} at {} ({:?}): {why}", clock(it.at, world.zero), it.merit)
    };
    world.chronicle.mistakes().map(tell).collect()
}
