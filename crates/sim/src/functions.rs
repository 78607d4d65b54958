//! The platform's own functions, which may be badly written: `mark_dead` and `mark_recovered` may raise an error or hang, for one workspace
//! and not for another, and `mark_dead` may veto.

use crate::time::Ms;

/// A call of a function of the platform is given up after this long: the store's own time-out.
pub const FUNCTION_TIMEOUT: Ms = 2_000;

/// What a function does when it is called for a workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conduct {
    /// It works as it should.
    #[default]
    Works,
    /// It refuses, whatever the evidence (`mark_dead` only).
    Vetoes,
    /// It raises an error.
    Raises,
    /// It does not come back.
    Hangs,
}

impl Conduct {
    /// Whether the call ends in an error.
    #[must_use]
    pub const fn fails(self) -> bool {
        matches!(self, Self::Raises | Self::Hangs)
    }

    /// How much longer than a statement the call takes.
    #[must_use]
    pub const fn takes(self) -> Ms {
        match self {
            Self::Works | Self::Vetoes | Self::Raises => 0,
            Self::Hangs => FUNCTION_TIMEOUT,
        }
    }
}

/// What both functions do for one workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Functions {
    /// `defib.mark_dead`.
    pub mark_dead: Conduct,
    /// `defib.mark_recovered`.
    pub mark_recovered: Conduct,
}
