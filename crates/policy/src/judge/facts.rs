//! The facts that a pass hands to the judge.

use serde::{Deserialize, Serialize};

use crate::abilities::Abilities;
use crate::attempt::Attempt;
use crate::fleet::Workspace;
use crate::id::WorkspaceId;
use crate::sample::{Fault, Sample};
use crate::settings::Settings;

/// What a pass learned about an engine as such.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineEvidence {
    /// Why it could not be asked; `None` when it answered.
    pub fault: Option<Fault>,
    /// Its own identity, where it was asked for it.
    pub identity: Option<String>,
    /// Whether it restarted since the last pass, as far as the caller could tell (its socket was gone in between).
    pub restarted: bool,
    /// Its clock minus the database's, in microseconds, where measured.
    pub clock_offset_micros: Option<i64>,
    /// What its kind is able to do.
    pub abilities: Abilities,
}

/// One workspace to judge, with what is known of it.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one workspace, not a state")]
pub struct Look<'a> {
    /// The fleet row.
    pub workspace: &'a Workspace,
    /// What its engine said; `None` for external ones.
    pub sample: Option<&'a Sample>,
    /// Its attempts in the ledger, newest first.
    pub attempts: &'a [Attempt],
    /// Whether this process is restarting it.
    pub in_flight: bool,
    /// Whether that restart waits for others on its engine, and has not been claimed yet.
    pub queued: bool,
    /// Whether this replica owns its engine. A replica that does not own it judges nevertheless, so that it is warm when it has to take
    /// over, but says and does nothing.
    pub ours: bool,
    /// Whether an operator's hold stands on it, on its engine or on the fleet.
    pub on_hold: bool,
    /// Its own settings, if it has any. They take the place of the fleet's knobs.
    pub own: Option<&'a OwnSettings>,
}

/// The settings of one workspace, and where they differ from the fleet's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OwnSettings {
    /// The fleet's settings with its own in their place.
    pub settings: Settings,
    /// Its own, as text for the evidence, and what was wrong with them.
    pub described: Vec<String>,
}

impl<'a> Look<'a> {
    /// The settings it is judged by.
    pub(super) fn settings(self, fleet: &'a Settings) -> &'a Settings {
        self.own.map_or(fleet, |own| &own.settings)
    }
}

/// A workspace that is no longer watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departed {
    /// Which.
    pub id: WorkspaceId,
    /// Whether this replica has recorded a verdict on it, which has to be cleared.
    pub recorded: bool,
}
