//! How long the status page and `/api/v1` take to answer, while the daemon judges the whole fleet.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::report::{Report, Row};
use super::world::{World, workspace};
use crate::Daemon;

/// For so many polls pages are asked for, so that many of the answers come while a new picture of the fleet is made.
const POLLS: u32 = 4;

/// Between two rounds of requests. A person is slower.
const PAUSE: Duration = Duration::from_millis(200);

/// The longest that 95 of 100 answers may take.
const MOST: Duration = Duration::from_millis(100);

/// The first looks at daemons at whose page nobody has looked.
#[derive(Default)]
pub(super) struct FirstLooks {
    page: Vec<Duration>,
    whole: Vec<Duration>,
}

impl FirstLooks {
    /// Looks at one of them, and waits until the whole fleet is there as well.
    pub(super) async fn at(&mut self, daemon: &Daemon) -> Result<()> {
        let begun = Instant::now();
        ask(daemon, "/").await?;
        self.page.push(begun.elapsed());
        ask(daemon, "/api/v1/status").await?;
        self.whole.push(begun.elapsed());
        Ok(())
    }

    pub(super) fn report(&self, report: &mut Report) {
        report.add(Row::within("page: the first look after nobody has looked", &self.page, (0.95, MOST)));
        report.add(Row::told("page: until the whole fleet is there after a first look", &self.whole));
    }
}

/// Asks for each place in turn, as browsers would.
pub(super) async fn answers(world: &mut World, daemon: &Daemon, report: &mut Report) -> Result<()> {
    let middle = workspace(world.workspaces / 2);
    let last = world.engines.urls.len() - 1;
    let places = [
        ("page: the fleet", "/".to_owned()),
        ("page: one engine", format!("/engines/rack-{last:03}")),
        ("page: the list from its middle on", format!("/workspaces?after={middle}")),
        ("page: a search", "/workspaces?q=WORKSPACE+77".to_owned()),
        ("page: one workspace", format!("/workspaces/{middle}")),
        ("API: workspaces, the first page", "/api/v1/workspaces?limit=100".to_owned()),
        ("API: workspaces, from the middle on", format!("/api/v1/workspaces?limit=100&after={middle}")),
        ("API: workspaces, a search", "/api/v1/workspaces?limit=100&q=WORKSPACE+77".to_owned()),
        ("API: engines", "/api/v1/engines".to_owned()),
    ];
    let mut times: Vec<Vec<Duration>> = places.iter().map(|_| Vec::new()).collect();
    let until = Instant::now() + world.poll * POLLS;
    while Instant::now() < until {
        world.beat().await?;
        let round_until = Instant::now() + world.poll;
        while Instant::now() < round_until {
            for ((_, path), times) in places.iter().zip(&mut times) {
                let begun = Instant::now();
                ask(daemon, path).await?;
                times.push(begun.elapsed());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    for ((what, _), times) in places.iter().zip(&times) {
        report.add(Row::within(what, times, (0.95, MOST)));
    }
    Ok(())
}

async fn ask(daemon: &Daemon, path: &str) -> Result<()> {
    let (status, body) = daemon.get(path).await?;
    ensure!(status == 200, "{path} answers {status}: {body}");
    Ok(())
}
