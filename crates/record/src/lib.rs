//! The flight recorder: what the judge is told and what it says, in bounded segments that survive a crash.
//!
//! ```text
//! Recorded (a judge) ─► Encoder ─► Tape ─► Files: segments of zstd frames      Reader ─► Told ─► a judge again
//! ```
//!
//! Each call to a [`Judge`](defib_policy::judge::Judge) that changes what it knows is a [`Told`](told::Told). A [`Recorded`] judge makes the
//! call and writes it down; [`Reader`] reads the calls back, and [`tell`](told::tell) makes them to another judge. What has not changed since
//! it was last written is left out (`known.rs`, `written.rs`).

mod encode;
mod error;
mod files;
mod known;
mod reader;
mod recorded;
mod scene;
mod seen;
mod segment;
mod tape;
pub mod told;
mod wire;
mod written;

pub use error::RecordError;
pub use files::RecordSettings;
pub use reader::{Item, Reader, SegmentInfo};
pub use recorded::Recorded;
pub use scene::Scene;
pub use segment::{FORMAT, Header, Torn};
pub use tape::{Condition, DirectTape, Recorder, Tape};

/// A fingerprint of the policy that this program was built with. A judge's memory is taken from a recording only if the recording program had
/// the same.
pub const POLICY: &str = env!("DEFIB_POLICY_FINGERPRINT");
