//! What the evidence about a workspace means.
//!
//! This crate decides and does nothing else: no I/O, no clock, no async, no logging. Time comes in as a
//! [`Moment`](moment::Moment), facts come in as values, and a [`Plan`](plan::Plan) comes out. That is what lets the simulator
//! run years of fleet time against the very code that restarts a production fleet.

pub mod abilities;
pub mod attempt;
pub mod backoff;
mod because;
pub mod cadence;
pub mod fast_hash;
pub mod fleet;
pub mod id;
pub mod judge;
pub mod lease;
pub mod local_health;
pub mod moment;
pub mod overrides;
pub mod ownership;
pub mod pipeline;
pub mod plan;
pub mod probe;
pub mod reading;
pub mod restart;
pub mod sample;
pub mod settings;
pub mod share;
pub mod storm;
pub mod suspicion;
mod track;
pub mod verdict;
