//! What the tests, the benches and the demo of defib use: private real servers, and an engine that misbehaves on command.
//!
//! | for | take |
//! | --- | --- |
//! | a database | [`PrivatePostgres`], one database per test |
//! | a second database server that streams from it | [`PrivatePostgres::standby`] |
//! | a transaction pooler before it | [`PgBouncer`] |
//! | a Redis, a cluster, a sentinel | [`PrivateRedis`] |
//! | certificates | [`CertificateAuthority`] |
//! | a Docker engine that really starts processes | [`PrivateDockerd`], of either of two releases |
//! | podman's service, which speaks the same interface | [`PrivatePodman`] |
//! | containers on any engine | [`EngineHandle`] |
//! | a real engine of which some calls do not get through | [`relay::Relay`], [`filtering_proxy::FilteringProxy`] |
//! | an engine with faults: time-outs, lies, half answers | [`ScriptedEngine`] |
//! | a control plane with faults, in the words of those that presets ship for | [`ScriptedControlPlane`] |
//! | a webhook's receiver, with faults | [`WebhookReceiver`] |
//! | the `defib` binary | [`Program`] |
//! | a condition that comes true in a while | [`eventually`] |
//!
//! `cargo run -p defib-testkit --bin servers` gives a Postgres and a dockerd to play with by hand.
//!
//! Whatever is started here ends with its value, and with the process, even one that is killed with SIGKILL
//! ([`guardian`]). A missing server is an error that names what to install, never a reason to skip.

mod account;
pub mod certificates;
pub mod dockerd;
pub mod engine_handle;
pub mod engine_process;
pub mod filtering_proxy;
pub mod guardian;
mod namespace;
mod net;
pub mod pgbouncer;
pub mod podman;
pub mod postgres;
pub mod process;
pub mod program;
pub mod redis;
pub mod relay;
pub mod scripted_control_plane;
pub mod scripted_engine;
mod wait;
pub mod webhook_receiver;

pub use certificates::{Certificate, CertificateAuthority};
pub use dockerd::PrivateDockerd;
pub use engine_handle::{EngineHandle, WorkspaceContainer};
pub use guardian::Guardian;
pub use net::free_port;
pub use pgbouncer::PgBouncer;
pub use podman::PrivatePodman;
pub use postgres::{PrivatePostgres, StopMode};
pub use program::Program;
pub use redis::PrivateRedis;
pub use scripted_control_plane::ScriptedControlPlane;
pub use scripted_engine::ScriptedEngine;
pub use wait::eventually;
pub use webhook_receiver::WebhookReceiver;
