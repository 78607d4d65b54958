//! What is counted in a walk.

/// What happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Workspaces that died or hung.
    pub deaths: u64,
    /// Faults of processes, networks, database and engines.
    pub faults: u64,
    /// Engines that changed hands.
    pub take_overs: u64,
    /// Claims that were granted.
    pub claims: u64,
    /// Calls that left.
    pub calls: u64,
    /// Lives that a call of ours began.
    pub restarts: u64,
    /// Attempts that another process settled, or the same one later.
    pub settled: u64,
    /// Calls that left under a lease that had ended, from a process that was stopped in the window.
    pub left_late: u64,
    /// Calls that left under a lease that had just been given up, or taken by a process of the same name: their rows stand in
    /// everybody's way.
    pub left_covered: u64,
    /// Starts of ours that found it running already, and did nothing.
    pub idle: u64,
    /// Successors killed by a call of a process that was stopped in the window.
    pub killed_by_woken: u64,
    /// Successors killed by a call that its engine carried out belatedly.
    pub killed_by_belated: u64,
    /// A life that somebody else began between our look and the engine's deed was killed.
    pub raced: u64,
    /// Starts that found a successor dead, because one of two calls was carried out after its attempt had been settled.
    pub revived: u64,
}

impl Tally {
    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.deaths, other.deaths),
            (&mut self.faults, other.faults),
            (&mut self.take_overs, other.take_overs),
            (&mut self.claims, other.claims),
            (&mut self.calls, other.calls),
            (&mut self.restarts, other.restarts),
            (&mut self.settled, other.settled),
            (&mut self.left_late, other.left_late),
            (&mut self.left_covered, other.left_covered),
            (&mut self.idle, other.idle),
            (&mut self.killed_by_woken, other.killed_by_woken),
            (&mut self.killed_by_belated, other.killed_by_belated),
            (&mut self.raced, other.raced),
            (&mut self.revived, other.revived),
        ];
        for (mine, theirs) in pairs {
            *mine += theirs;
        }
    }
}
