//! The production policy in a simulated world.
//!
//! A world ([`world::World`]) holds the truth: engines, a database, processes that live and die. Detectors ([`world::Detector`])
//! see of it what they would see in production. One of them is [`defib::Defib`], which drives the very
//! [`Judge`](defib_policy::judge::Judge) that production runs; the others are the policies that others use ([`baseline`]).
//! Scenarios ([`catalogue`]) are incidents with an oracle; [`chaos`] draws faults for years; [`report`] makes the table.

pub mod baseline;
pub mod bench;
pub mod catalogue;
pub mod chaos;
pub mod chronicle;
pub mod database;
pub mod defib;
pub mod dice;
pub mod endpoint;
pub mod engine;
pub mod facts;
pub mod functions;
pub mod lease;
pub mod ledger;
pub mod life;
pub mod liveness;
pub mod oracle;
pub mod platform;
pub mod queue;
pub mod remedy;
pub mod report;
pub mod scenario;
pub mod schedules;
pub mod score;
pub mod svg;
pub mod time;
pub mod weakening;
pub mod workspace;
pub mod world;
