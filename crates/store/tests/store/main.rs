//! The store on a real Postgres: one private server for this process, a database for each test.

// A whole crate of tests: clippy knows only those marked `#[test]`, not what they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod adapter;
mod changes;
mod claim;
mod contract;
mod fixture;
mod fleet;
mod guide;
mod hostile;
mod lease;
mod ledger;
mod listen;
mod marks;
mod migrate;
mod operators;
mod outbox;
mod platform;
mod pooler;
mod privileges;
mod races;
mod retention;
mod said;
mod suspicion;
mod timeouts;
mod tls;
mod verdict;
mod view;
