//! The rules by which the judge decides, a rule a test. They are one program so that a mutant of the policy is linked with it once.
#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    reason = "the names of the tests say it; helpers of tests may panic"
)]

mod boots;
mod bounds;
mod by_operator;
mod canaries;
mod common;
mod crash_loops;
mod explanations;
mod externals;
mod finished;
mod guards;
mod hopeless;
mod mass_death;
mod recoveries;
mod replicas;
mod reporters;
mod storms;
mod verdicts;
