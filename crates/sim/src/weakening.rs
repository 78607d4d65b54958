//! The rules of the protocol that can be left out of the models on purpose, one at a time.
//!
//! The schedules and the model of the ledger are checkers. A checker that still finds nothing wrong when a rule is missing proves
//! nothing, so a test leaves each of these rules out and expects the walk to notice.

/// A rule of the protocol that is left out on purpose: a checker that does not notice proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weakening {
    /// An attempt may be claimed without the lease.
    ClaimWithoutTheLease,
    /// Two attempts may be under way for a workspace.
    TwoOpenAttempts,
    /// The engine may be asked without the lease.
    ActWithoutTheLease,
    /// The engine may be asked although the attempt was settled by somebody else.
    ActWhenSettled,
    /// That the engine is about to be asked is not written down.
    ActingNotWritten,
    /// An attempt that has turned to its engine is abandoned at once, like one that has not.
    AbandonTheActing,
    /// An attempt that has turned to its engine is settled at the first look, even before its deadline.
    SettleAtOnce,
    /// A replica settles attempts without looking at the epochs.
    SettleLaterEpochs,
    /// A new life counts as the end of a restart of a running container, even if somebody else began that life.
    AnyNewLifeIsOurs,
    /// An attempt can be ended twice.
    FinishTwice,
    /// A lease is taken before its end.
    TakeOverBeforeTheEnd,
    /// A lease is taken over while a claim is using it.
    TakeOverDuringAClaim,
    /// The epoch does not grow with the change of the holder.
    TheEpochStays,
    /// The replica does not look at the container before it acts.
    NoFreshLook,
    /// The replica does not look at its own clock before it acts.
    NoLocalClock,
    /// Its own clock says how long the lease lasts, and not how long ago the database said yes.
    OnlyTheLeasesClock,
    /// After a lost answer the replica looks for a few seconds only, whatever the engine may still be doing.
    LookAfterBriefly,
    /// The start that mends a half-made restart does not ask whether it is still wanted.
    MendUnasked,
}

impl Weakening {
    /// Every weakening.
    pub const ALL: [Self; 18] = [
        Self::ClaimWithoutTheLease,
        Self::TwoOpenAttempts,
        Self::ActWithoutTheLease,
        Self::ActWhenSettled,
        Self::ActingNotWritten,
        Self::AbandonTheActing,
        Self::SettleAtOnce,
        Self::SettleLaterEpochs,
        Self::AnyNewLifeIsOurs,
        Self::FinishTwice,
        Self::TakeOverBeforeTheEnd,
        Self::TakeOverDuringAClaim,
        Self::TheEpochStays,
        Self::NoFreshLook,
        Self::NoLocalClock,
        Self::OnlyTheLeasesClock,
        Self::LookAfterBriefly,
        Self::MendUnasked,
    ];
}
