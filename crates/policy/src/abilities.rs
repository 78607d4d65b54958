//! What a kind of engine is able to do.

use serde::{Deserialize, Serialize};

/// What can be asked of an engine, and what it tells. A fact about its kind, which the rules take into account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about a kind of engine, not a state")]
pub struct Abilities {
    /// It lists everything that it has with one call, so that absence from a complete list means something.
    pub lists: bool,
    /// It starts what does not run.
    pub starts: bool,
    /// It kills what runs and starts it again.
    pub kills: bool,
    /// It can make a container again that no longer exists.
    pub recreates: bool,
    /// It tells when a life began.
    pub tells_starts: bool,
}

impl Abilities {
    /// Those of a container engine such as Docker or Podman: all but making a removed container again.
    pub const CONTAINER_ENGINE: Self =
        Self { lists: true, starts: true, kills: true, recreates: false, tells_starts: true };
}

impl Default for Abilities {
    fn default() -> Self {
        Self::CONTAINER_ENGINE
    }
}
