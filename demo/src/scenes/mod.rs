//! The scenes, each in a file of its own, in the order in which they are played.
//!
//! They are kept apart: more than three deaths within one dead window would be a storm, and its guard would rightly slow
//! everything down.

pub(crate) mod busy_then_killed;
pub(crate) mod crash_loop;
pub(crate) mod engine_hangs;
pub(crate) mod killed;
pub(crate) mod paused;
pub(crate) mod platform_restart;
pub(crate) mod transient_503;
