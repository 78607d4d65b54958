//! Rounds in which some workspaces, the platform, the tables and the proxies misbehave while other workspaces die. Those that can be
//! restarted are restarted once, while the trouble lasts. When it is over, those that were in trouble are restarted as well.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use defib_testkit::eventually;
use defib_testkit::scripted_engine::{Call, Fault, FaultRule};
use tokio::task::JoinHandle;

use super::{Arena, RECOVERY, ids};
use crate::{Database, container, is_running};

/// Until those that can be healed run again, whatever the others do: a lease that has to run out, and in a storm some rounds, of which two
/// may fail and cost a cooldown each.
const BOUND: Duration = Duration::from_secs(45);

/// How many are in trouble at once, at most: a third, rounded up.
const TROUBLED_MAX: usize = 4;

/// The kinds of trouble that a workspace can be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    StartRefused,
    Removed,
    DiesAgain,
    Vetoed,
    MarkDeadRaises,
    MarkDeadHangs,
    MarkRecoveredRaises,
    MarkRecoveredHangs,
}

impl Trouble {
    const ALL: [Self; 8] = [
        Self::StartRefused,
        Self::Removed,
        Self::DiesAgain,
        Self::Vetoed,
        Self::MarkDeadRaises,
        Self::MarkDeadHangs,
        Self::MarkRecoveredRaises,
        Self::MarkRecoveredHangs,
    ];

    /// Which of the platform's functions does what, where it is one of them.
    const fn of_the_platform(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Vetoed => Some(("mark_dead", "veto")),
            Self::MarkDeadRaises => Some(("mark_dead", "raise")),
            Self::MarkDeadHangs => Some(("mark_dead", "hang")),
            Self::MarkRecoveredRaises => Some(("mark_recovered", "raise")),
            Self::MarkRecoveredHangs => Some(("mark_recovered", "hang")),
            Self::StartRefused | Self::Removed | Self::DiesAgain => None,
        }
    }

    /// How often its container is started for one death, once the trouble is over. `None`: as often as it died again.
    const fn starts(self) -> Option<usize> {
        match self {
            Self::Removed => Some(0), // the platform makes another one
            Self::DiesAgain => None,
            _ => Some(1),
        }
    }
}

/// The trouble that concerns all workspaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    Fair,
    HistoryLocked,
    VerdictsLocked,
    ReportersLie,
}

impl Arena {
    /// Makes the platform's functions do what the rows of `public.troubles` say.
    pub(super) async fn platform_may_misbehave(&self) -> Result<()> {
        self.stage.db.execute("create table public.troubles (id text, function text, what text)").await?;
        for function in ["mark_dead", "mark_recovered"] {
            let is = |what: &str| {
                format!(
                    "if exists (select 1 from public.troubles t
                                 where t.id = workspace_id and t.function = '{function}' and t.what = '{what}') then"
                )
            };
            let body = format!(
                "{} return false; end if; {} raise exception 'scripted'; end if; {} perform pg_catalog.pg_sleep(60); end if;
                 return platform.{function}(workspace_id, evidence);",
                is("veto"),
                is("raise"),
                is("hang")
            );
            self.stage.db.replace_function(function, &body).await?;
        }
        Ok(())
    }

    /// One round. The troubles and the weather are drawn anew.
    pub(super) async fn round_among_neighbours(&mut self) -> Result<()> {
        let troubles = self.draw_troubles();
        let weather = [Weather::Fair, Weather::HistoryLocked, Weather::VerdictsLocked, Weather::ReportersLie];
        let weather = weather[self.dice.below(weather.len())];
        let before: BTreeMap<String, usize> = ids().map(|id| (id.clone(), self.engine.starts_of(&id))).collect();
        let story = format!("{troubles:?} in {weather:?}");

        let slow = self.dice.millis(800);
        self.engine.set_fault(Call::Inspect, Fault::Delay(slow / 10));
        self.begin(&troubles).await?;
        let weather = begin(weather, &self.stage.db).await?;
        let dead = self.some_die(&troubles)?;
        if self.dice.below(2) == 0 {
            tokio::time::sleep(self.dice.millis(1_500)).await;
            self.kill_a_replica().await?;
        }
        let healed = self.run_again(&dead, BOUND).await;
        healed.with_context(|| format!("while others were in trouble: {story}"))?;
        self.end(&troubles).await?;
        if let Some(weather) = weather {
            weather.abort();
            let _ = weather.await;
        }
        let everybody: Vec<String> = ids().collect();
        self.run_again(&everybody, RECOVERY).await.with_context(|| format!("after the trouble: {story}"))?;
        self.platform_has_heard_of_it().await.with_context(|| story.clone())?;

        for (id, before) in before {
            let starts = self.engine.starts_of(&id) - before;
            let wanted = match troubles.get(&id) {
                Some(trouble) => trouble.starts(),
                None => Some(usize::from(dead.contains(&id))),
            };
            self.report.starts += starts;
            ensure!(wanted.is_none_or(|wanted| starts == wanted), "{id} was started {starts} times: {story}");
        }
        Ok(())
    }

    fn draw_troubles(&mut self) -> BTreeMap<String, Trouble> {
        let mut candidates: Vec<String> = ids().collect();
        let mut troubles = BTreeMap::new();
        for _ in 0..=self.dice.below(TROUBLED_MAX) {
            let id = candidates.swap_remove(self.dice.below(candidates.len()));
            troubles.insert(id, Trouble::ALL[self.dice.below(Trouble::ALL.len())]);
        }
        troubles
    }

    /// Puts them into their trouble. All of them die of it.
    async fn begin(&mut self, troubles: &BTreeMap<String, Trouble>) -> Result<()> {
        for (id, trouble) in troubles {
            self.report.troubles += 1;
            if let Some((function, what)) = trouble.of_the_platform() {
                let insert = "insert into public.troubles values ($1, $2, $3)";
                self.stage.db.query(insert, &[id, &function, &what]).await?;
            }
            match trouble {
                Trouble::Removed => {
                    self.engine.remove(id)?;
                    continue;
                }
                Trouble::StartRefused => {
                    let refused = Fault::server_error("scripted: no space left on device");
                    self.engine.add_fault(FaultRule::new(Call::Start, refused).container(id));
                }
                Trouble::DiesAgain => {
                    let dies_again = Fault::DoneThenExit(Duration::from_millis(100), 1);
                    self.engine.add_fault(FaultRule::new(Call::Start, dies_again).container(id));
                }
                _ => {}
            }
            self.engine.exit(id, 137)?;
        }
        Ok(())
    }

    /// One of those that are in no trouble dies, or several, or all.
    fn some_die(&mut self, troubles: &BTreeMap<String, Trouble>) -> Result<Vec<String>> {
        let mut well: Vec<String> = ids().filter(|id| !troubles.contains_key(id)).collect();
        let mut dead = Vec::new();
        for _ in 0..=self.dice.below(well.len()) {
            dead.push(well.swap_remove(self.dice.below(well.len())));
            if well.is_empty() {
                break;
            }
        }
        for id in &dead {
            self.engine.exit(id, 137)?;
        }
        self.report.deaths += dead.len() + troubles.len();
        Ok(dead)
    }

    async fn end(&self, troubles: &BTreeMap<String, Trouble>) -> Result<()> {
        self.engine.clear_faults();
        self.stage.db.execute("delete from public.troubles").await?;
        for (id, _) in troubles.iter().filter(|(_, trouble)| **trouble == Trouble::Removed) {
            self.engine.add(container(id));
        }
        Ok(())
    }

    async fn run_again(&self, who: &[String], within: Duration) -> Result<()> {
        eventually(within, "they run again", async || {
            let down: Vec<_> = who.iter().filter(|id| !is_running(&self.engine, id)).collect();
            if down.is_empty() { Ok(()) } else { Err(format!("down: {down:?}")) }
        })
        .await
    }

    /// Nobody stays marked, and nobody stays accused.
    async fn platform_has_heard_of_it(&self) -> Result<()> {
        let marked = "select count(*) from defib.workspaces where status <> 'online'";
        let accused = "select count(*) from defib.verdicts where verdict in ('dead', 'suspect', 'lost', 'exhausted')";
        eventually(RECOVERY, "all are online, and nobody is called dead", async || {
            match (self.stage.db.count(marked).await, self.stage.db.count(accused).await) {
                (Ok(0), Ok(0)) => Ok(()),
                other => Err(format!("marked and accused: {other:?}")),
            }
        })
        .await
    }

    /// Checks the end, after the last round.
    pub(super) async fn nothing_is_left_open(&self) -> Result<()> {
        let open = "select count(*) from defib.restarts where finished_at is null";
        eventually(RECOVERY, "no attempt is under way", async || match self.stage.db.count(open).await {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
    }
}

/// Begins the weather, which goes on until its task is aborted.
async fn begin(weather: Weather, db: &Database) -> Result<Option<JoinHandle<()>>> {
    let client = db.another_connection().await?;
    let held = match weather {
        Weather::Fair => return Ok(None),
        Weather::HistoryLocked => "begin; lock table defib.events in access exclusive mode",
        Weather::VerdictsLocked => "begin; lock table defib.verdicts in exclusive mode",
        Weather::ReportersLie => {
            let lying = async move {
                let lie = "select defib.report_suspicion(w.id, 'proxy-' || n, 'connection refused', 502)
                             from defib.workspaces w, generate_series(1, 20) as n";
                while client.batch_execute(lie).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            return Ok(Some(tokio::spawn(lying)));
        }
    };
    client.batch_execute(held).await?;
    // The connection is closed with the task, and the lock goes with it.
    Ok(Some(tokio::spawn(async move {
        let _client = client;
        std::future::pending::<()>().await;
    })))
}
