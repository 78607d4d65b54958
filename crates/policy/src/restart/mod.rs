//! A restart as a value: what is asked next, and what each answer means (section 5 of the design).

/// How an order for a restart ended, as far as that tells anything about the scope that its workspace belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The engine carried the restart out. Whether the workspace comes back is for its heartbeat to say.
    Made,
    /// The engine was asked, and refused, failed or did not answer in time.
    Failed,
    /// The engine was never asked: vetoed, held, superseded, taken by another attempt, or handed back.
    NotAsked,
}
