//! Scripted engines in a process of their own, so that what they cost is not taken for what defib costs, and can be told.
//!
//! The engines answer a list from memory, where it lies as bytes since it was first asked for. Their entries are as long as those that
//! Docker writes for containers of Compose: about 840 bytes each.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use defib_testkit::scripted_engine::ScriptedContainer;
use defib_testkit::{Program, ScriptedEngine};

/// What the process says when all of its engines listen.
const READY: &str = "all engines listen";

/// How long it may take to make all of its containers.
const START_MAX: Duration = Duration::from_secs(60);

/// The running process.
#[derive(Debug)]
pub(super) struct Engines {
    program: Program,
    /// The addresses of the engines, in order.
    pub(super) urls: Vec<String>,
}

impl Engines {
    /// Starts it. The workspaces with these numbers are spread evenly over the engines.
    pub(super) async fn start(engines: usize, workspaces: usize) -> Result<Self> {
        let own = std::env::current_exe().context("find the running program")?;
        let (engines, workspaces) = (engines.to_string(), workspaces.to_string());
        let program = Program::start(own, ["engines", &engines, &workspaces], &BTreeMap::new())?.quiet();
        program.wait_for_line(READY, START_MAX).await?;
        let urls = program.stdout().lines().filter(|line| line.starts_with("unix://")).map(str::to_owned).collect();
        Ok(Self { program, urls })
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.program.pid()
    }
}

/// What the process does: it makes the engines, tells their addresses, and serves until it is killed.
///
/// # Errors
/// A socket could not be made.
pub async fn serve(engines: usize, workspaces: usize) -> Result<()> {
    let mut scripted = Vec::with_capacity(engines);
    for _ in 0..engines {
        scripted.push(ScriptedEngine::start_unix().await?);
    }
    for number in 0..workspaces {
        scripted[number % engines].add(container(number));
    }
    for engine in &scripted {
        println!("{}", engine.url());
    }
    println!("{READY}");
    std::future::pending().await
}

fn container(number: usize) -> ScriptedContainer {
    let id = format!("{number:064x}");
    let (hash, name) = (format!("{:064x}", number.wrapping_mul(0x9e37_79b9)), format!("workspace-agent-{number:06}"));
    ScriptedContainer::running(id)
        .name(&name)
        .label("com.docker.compose.config-hash", hash)
        .label("com.docker.compose.project", "workspaces")
        .label("com.docker.compose.service", name)
        .label("org.opencontainers.image.revision", "4f9c8a6c5b557f2e7b2d1c0a9e8d7c6b5a493827")
        .label("com.platform.tenant", "0b7c4b6e-5a0f-4f52-9c52-6a3c3f8f9d10")
        .label("defib.workspace", super::world::workspace(number))
}
