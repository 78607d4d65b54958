//! How long a replica, the database and an engine wait for each other. More than one file of this model counts on these times.

use defib_policy::abilities::Abilities;
use defib_policy::restart::Rules;

use crate::time::{Ms, span};

/// One call to the database, and how long a transaction may sit idle before the server ends it.
pub(super) const STATEMENT_TIMEOUT: Ms = 10_000;
/// `DEFIB_LEASE_TTL`.
pub(super) const LEASE_TTL: Ms = 15_000;

const _: () = assert!(STATEMENT_TIMEOUT < LEASE_TTL, "a transaction that sleeps must not outlive the leases of others");

/// `DEFIB_RESTART_TIMEOUT`.
pub(super) const RESTART_TIMEOUT: Ms = 30_000;
/// `DEFIB_STOP_GRACE`.
pub(super) const STOP_GRACE: Ms = 10_000;
/// The time between two looks after a lost answer. It is longer than the daemon's, so that there are fewer steps in which nothing happens.
const LOOK_AFTER_SPACING: Ms = 2_000;

/// What holds for every restart.
pub(super) fn rules() -> Rules {
    let rules = Rules::new(span(RESTART_TIMEOUT), span(STOP_GRACE), Abilities::CONTAINER_ENGINE);
    Rules { look_spacing: span(LOOK_AFTER_SPACING), ..rules }
}
