//! The end: the books are closed, defib itself is asked, and the addresses are given.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};

use crate::news::{News, What};
use crate::scene;
use crate::stage::{Stage, show};
use crate::voice::Voice;

/// Lines of the daemon's log that are shown after a failure.
const LOG_LINES: usize = 15;

/// The policies that the recording of the demo is also replayed through.
const OTHERS: &str = "proxy-one-shot,docker-autoheal,kubelet-probe,heartbeat-60s";

/// Shows what a person would look at next, and closes the books.
pub(crate) async fn fall(stage: &Stage<'_>) -> Result<Books> {
    let voice = stage.voice;
    show_command(voice, "defib status", &stage.defib_as_viewer(&["status"]).await?);
    let explained = stage.defib_as_viewer(&["explain", "cedar", "--limit", "12"]).await?;
    show_command(voice, "defib explain cedar", &explained);
    backtest(stage).await?;
    addresses(stage);
    Books::close(stage).await
}

/// Replays what was recorded of the scenes, and shows what other policies would have done in them. The command fails where the replay says
/// something else than the daemon said. The daemon goes on recording meanwhile; what it has not written yet is left out.
async fn backtest(stage: &Stage<'_>) -> Result<()> {
    let recording = stage.daemon.recording();
    let path = recording.to_str().context("the path of the recording is no text")?;
    let arguments = ["backtest", "--record", path, "--against", OTHERS];
    let answer = stage.defib_as_viewer(&arguments).await.context("replay the recording of the demo")?;
    // What follows the table goes into every life of every workspace.
    let table: Vec<&str> = answer.split("\n\n").take(2).collect();
    let command = format!("defib backtest --record {} --against {OTHERS}", show(recording));
    show_command(stage.voice, &command, &table.join("\n\n"));
    Ok(())
}

/// Keeps everything running, and tells what happens. Returns only when it cannot be told any more.
pub(crate) async fn stay_open(stage: &Stage<'_>) -> Result<()> {
    let voice = stage.voice;
    voice.title(None, "It all keeps running until Ctrl-C. Try it:");
    let (host, platform) = (stage.engine.handle().url(), stage.platform.address);
    let victim = stage.player("haven")?;
    let kill = format!("DOCKER_HOST={host} docker kill {}", victim.container_name);
    for hint in [&kill, &format!("curl -X POST http://{platform}/workspaces/ember/resume")] {
        voice.print(&format!("  {hint}"));
    }
    voice.print("");
    let began = SystemTime::now();
    let mut news = News::new(&stage.viewer, None, began);
    loop {
        for item in news.fresh().await? {
            // The proxy suspects ember for as long as it is paused.
            if !matches!(item.what, What::Suspicion { .. }) {
                let at = item.at.duration_since(began).unwrap_or_default();
                scene::tell(voice, at, &item);
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The end of the daemon's log, after a failure.
pub(crate) fn show_log(stage: &Stage<'_>) {
    let path = stage.daemon.log();
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    stage.voice.title(None, &format!("the log of defib ({}) ends:", show(path)));
    for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
        stage.voice.print(line);
    }
}

fn show_command(voice: &Voice, command: &str, output: &str) {
    voice.title(None, &format!("$ {command}"));
    voice.print(output.trim_end());
}

fn addresses(stage: &Stage<'_>) {
    let voice = stage.voice;
    voice.title(None, "Where to look (while it runs: make demo KEEP=1)");
    for (what, address) in [
        ("page", format!("http://{}/", stage.daemon.address)),
        ("metrics", format!("http://{}/metrics, and /healthz, /readyz", stage.daemon.address)),
        ("platform", format!("http://{}/", stage.platform.address)),
        ("proxy", format!("http://{}/, and /to/birch", stage.proxy.address)),
        ("log", show(stage.daemon.log())),
        ("recording", show(stage.daemon.recording())),
        (
            "shell",
            format!("export DEFIB_DATABASE_URL={} DOCKER_HOST={}", stage.viewer_url(), stage.engine.handle().url()),
        ),
        ("", format!("{} status", show(&stage.program))),
    ] {
        voice.print(&format!("  {what:<9} {address}"));
    }
}

/// What happened, by three witnesses: the platform's counts, defib's ledger, and the engine.
pub(crate) struct Books {
    deaths: u32,
    restarts: i64,
    /// Restarts of somebody who had not died.
    needless: Vec<String>,
    answered: u64,
    failed: u64,
    suspicions: u64,
    took: Duration,
}

impl Books {
    async fn close(stage: &Stage<'_>) -> Result<Self> {
        let mut books = Self {
            deaths: 0,
            restarts: 0,
            needless: Vec::new(),
            answered: 0,
            failed: 0,
            suspicions: stage.proxy.suspicions(),
            took: stage.voice.elapsed(),
        };
        let ledger = "select count(*) from defib.restarts where outcome = 'succeeded'";
        books.restarts = stage.viewer.query_one(ledger, &[]).await.context("read the ledger")?.get(0);
        (books.answered, books.failed) = stage.traffic.counts();
        for (id, record) in stage.platform.records() {
            let deaths = stage.deaths_of(&id, &record);
            books.deaths += deaths;
            let expected = 1 + record.started_by_operator + deaths;
            if record.starts > expected {
                books.needless.push(format!("{id} was started {} times and died {deaths} times", record.starts));
            }
            // One that was started anew is counted above, and may have another container by now. The instance has none.
            let untouched = stage.players.iter().find(|player| player.id == id && expected == 1);
            let Some(player) = untouched else { continue };
            let started_at = stage.engine.handle().started_at(&player.container).await?;
            if started_at != Some(player.started_at) {
                books.needless.push(format!("the engine says that {id} was started anew, and it had not died"));
            }
        }
        Ok(books)
    }

    /// The last line.
    pub(crate) fn sentence(&self) -> String {
        format!(
            "{} deaths, {} restarts, {} healthy restarted. {} requests answered, {} failed, {} suspicions. {:.0} s.",
            self.deaths,
            self.restarts,
            self.needless.len(),
            self.answered,
            self.failed,
            self.suspicions,
            self.took.as_secs_f64()
        )
    }

    /// Whether all of it is as promised.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(self.needless.is_empty(), "a promise was broken: {}", self.needless.join("; "));
        let deaths = i64::from(self.deaths);
        ensure!(self.restarts == deaths, "a promise was broken: {} restarts for {deaths} deaths", self.restarts);
        ensure!(self.failed == 0, "a promise was broken: {} requests failed", self.failed);
        Ok(())
    }
}
