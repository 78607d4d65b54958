//! The platform's own restart, as defib asks for it (`DEFIB_PLATFORM_URL`): what it is able to do beside an engine, and what it answers.
//!
//! In production, an engine and this endpoint are taken together as one engine (`crates/engine/src/with_platform.rs`). The same is done
//! here, so a removed container is made again by a request to the platform, and only where one is configured.

use defib_policy::abilities::Abilities;

use crate::time::Ms;

/// What the endpoint answers to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// It accepts, and makes a new container or instance by itself.
    Accepts,
    /// It answers 5xx, and does nothing.
    Refuses,
    /// It accepts, and its answer is lost.
    LosesItsAnswer,
}

/// The platform's endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// What it answers now.
    pub conduct: Conduct,
    /// It restarts what runs as well.
    pub kills: bool,
    /// The shortest time for which what it makes is pending before it runs.
    pub pending_min: Ms,
    /// The longest.
    pub pending_max: Ms,
    /// Whose requests it has accepted, in order.
    pub accepted: Vec<usize>,
}

impl Default for Endpoint {
    fn default() -> Self {
        Self { conduct: Conduct::Accepts, kills: true, pending_min: 500, pending_max: 3_000, accepted: Vec::new() }
    }
}

impl Endpoint {
    /// The same with instances that run soon after they were made.
    #[must_use]
    pub fn quick_again(self) -> Self {
        let Self { pending_min, pending_max, .. } = Self::default();
        Self { pending_min, pending_max, ..self }
    }

    /// What an engine of these abilities is able to do together with it.
    #[must_use]
    pub const fn beside(&self, engine: Abilities) -> Abilities {
        Abilities { starts: true, kills: engine.kills || self.kills, recreates: true, ..engine }
    }

    /// How many requests about a workspace it has accepted.
    #[must_use]
    pub fn accepted_of(&self, of: usize) -> usize {
        self.accepted.iter().filter(|it| **it == of).count()
    }
}
