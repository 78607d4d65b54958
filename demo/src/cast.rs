//! Who plays: a dozen workspaces, each with one agent in one container, and one more whose agent runs on an instance.

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

/// Id and name of the one that has no container.
const ON_AN_INSTANCE: (&str, &str) = ("marsh", "invoices");

/// One workspace, before it has a container or its instance is booted.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    /// Where its agent listens, on the loopback interface.
    pub(crate) address: SocketAddr,
    /// What the control plane calls its instance; `None` for one in a container.
    pub(crate) instance: Option<String>,
}

/// One workspace on the stage, in its container.
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

/// The workspace on an instance.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) id: &'static str,
    /// Where its agent listens.
    pub(crate) address: SocketAddr,
    /// What the control plane called the instance at the beginning.
    pub(crate) first: String,
}

/// Those in containers, with a port for each.
pub(crate) fn roles() -> Result<Vec<Role>> {
    CAST.into_iter().map(|who| role(who, None)).collect()
}

/// The one on this instance.
pub(crate) fn role_on(instance: String) -> Result<Role> {
    role(ON_AN_INSTANCE, Some(instance))
}

fn role((id, name): (&'static str, &'static str), instance: Option<String>) -> Result<Role> {
    let address = loopback(free_port().context("find a port for an agent")?);
    Ok(Role { id, name, address, instance })
}

/// What an agent gets to know, wherever it runs.
pub(crate) fn environment(id: &str, address: SocketAddr, platform: SocketAddr) -> Vec<String> {
    vec![format!("AGENT_ID={id}"), format!("AGENT_LISTEN={address}"), format!("AGENT_PLATFORM={platform}")]
}

pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
