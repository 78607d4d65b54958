//! `defib run` as a black box, on a real Postgres and a real Docker engine (or one that misbehaves on command).
//!
//! One program for all subjects, so that they share a Postgres and a dockerd; one module a subject, one behaviour a test.
//! Every wait has a reason that is looked at, every "nothing happens" is watched for as long as it is claimed.

#![allow(clippy::float_cmp, reason = "Prometheus writes counts as floats; they are whole")]

mod adapter;
mod attempts;
mod check;
mod configuration;
mod control_planes;
mod databases;
mod day;
mod deaths;
mod engine_access;
mod engines;
mod eviction;
mod externals;
mod first_platform;
mod last_words;
mod observability;
mod operators;
mod platforms;
mod podman;
mod recording;
mod replicas;
mod spared;
mod suspicions;
mod wedged;
