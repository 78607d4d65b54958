//! What a policy would have done to a fleet, by a recording of the flight recorder.
//!
//! ```text
//! recording ─► replay ─┬─► the recorded judge again: are its words the recorded ones?        ─► Exactness
//!                      ├─► scene: lives, deaths, signs of life (what really happened)
//!                      └─► contenders: defib with its settings, with others, policies of others ─► orders ─► Report
//! ```
//!
//! A contender's first restart of a life is compared with what the recording shows afterwards of the same life. What that restart would have
//! led to cannot be known, so its further restarts of that life are left out.

mod contender;
pub mod page;
pub mod replay;
mod report;
mod scene;
pub mod settings;
pub mod text;

pub use contender::{Unknown, policies};
pub use replay::{BacktestError, Request, run};
pub use report::{Difference, Exactness, Report, Result as ContenderResult};
