//! Running an incident: a world is built from a seed, a detector is put on trial in it, and the oracle looks at the end.

use crate::baseline;
use crate::defib::Defib;
use crate::oracle::Oracle;
use crate::world::{Detector, World};

/// An incident.
pub struct Scenario {
    /// Its number.
    pub id: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its story in a line.
    pub story: &'static str,
    /// Builds its world and says what must be true at the end.
    pub build: fn(&mut World) -> Oracle,
}

/// Who is on trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The production policy.
    Defib,
    /// Another one, by its place in [`baseline::ALL`].
    Baseline(usize),
}

impl Policy {
    /// All of them, defib first.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let others = (0..baseline::ALL.len()).map(Self::Baseline);
        std::iter::once(Self::Defib).chain(others).collect()
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Defib => "defib",
            Self::Baseline(n) => baseline::ALL[n].name,
        }
    }

    /// The policy of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|policy| policy.name() == name)
    }

    fn detectors(self, world: &World) -> Vec<Box<dyn Detector>> {
        match self {
            Self::Defib => {
                (0..world.replicas).map(|_| Box::new(Defib::new(&world.settings)) as Box<dyn Detector>).collect()
            }
            Self::Baseline(n) => vec![baseline::ALL[n].detector()],
        }
    }

    /// Puts it on trial in a world.
    pub fn enter(self, world: &mut World) {
        world.platform_recreates = self != Self::Defib;
        for detector in self.detectors(world) {
            world.put_on_trial(detector);
        }
    }
}

/// What came of a run.
pub struct Run {
    /// The world at its end.
    pub world: World,
    /// What the oracle found broken.
    pub failures: Vec<String>,
    /// Deaths that whoever was on trial could not have healed, and that nobody else healed in time.
    pub left_to_the_platform: Vec<String>,
}

/// Runs a scenario.
#[must_use]
pub fn run(scenario: &Scenario, seed: u64, policy: Policy, trace: bool) -> Run {
    let mut world = World::new(seed ^ number_of(scenario.id) << 40);
    world.chronicle.trace = trace.then(Vec::new);
    let oracle = (scenario.build)(&mut world);
    policy.enter(&mut world);
    let end = world.zero + oracle.horizon;
    world.run_until(end);
    let failures = oracle.failures(&world);
    let left_to_the_platform = oracle.left_to_the_platform(&world);
    Run { world, failures, left_to_the_platform }
}

fn number_of(id: &str) -> u64 {
    id.bytes().fold(0, |sum, byte| sum * 31 + u64::from(byte)) & 0xffff
}
