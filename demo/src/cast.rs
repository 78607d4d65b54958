//! Who plays: a dozen workspaces, each with one agent in one container.

use std::net::SocketAddr;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use defib_testkit::free_port;

/// Id and name of each.
const CAST: [(&str, &str); 12] = [
    ("amber", "research"),
    ("birch", "billing"),
    ("cedar", "translation"),
    ("delta", "support"),
    ("ember", "archive"),
    ("fjord", "forecast"),
    ("grove", "scheduling"),
    ("haven", "moderation"),
    ("inlet", "summaries"),
    ("jetty", "shipping"),
    ("knoll", "recruiting"),
    ("linen", "laundry"),
];

/// One workspace, before it has a container.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    /// Where its agent listens, on the loopback interface.
    pub(crate) address: SocketAddr,
}

/// One workspace on the stage.
#[derive(Clone, Debug)]
pub(crate) struct Player {
    pub(crate) id: &'static str,
    /// Where its agent listens.
    pub(crate) address: SocketAddr,
    /// The container's id.
    pub(crate) container: String,
    /// The container's name, for people.
    pub(crate) container_name: String,
    /// When its container was first started, by the engine's clock.
    pub(crate) started_at: SystemTime,
}

/// All roles, with a port for each.
pub(crate) fn roles() -> Result<Vec<Role>> {
    let role = |(id, name)| Ok(Role { id, name, address: loopback(free_port()?) });
    CAST.into_iter().map(role).collect::<Result<_>>().context("find ports for the agents")
}

pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
