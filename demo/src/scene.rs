//! What every scene has: a clock that starts with it, a voice, eyes on defib's tables, and promises that it must keep.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};

use crate::cast::Player;
use crate::http;
use crate::news::{Item, News, What};
use crate::stage::Stage;
use crate::voice::{Look, Voice};

/// How often the tables are read while something is awaited.
const GLANCE: Duration = Duration::from_millis(25);

/// Nothing in the demo takes this long, not even on a machine that is busy with something else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// A scene that plays.
pub(crate) struct Scene<'a> {
    pub(crate) stage: &'a Stage<'a>,
    /// The zero of its clock.
    began: SystemTime,
}

impl<'a> Scene<'a> {
    pub(crate) fn begin(stage: &'a Stage<'a>, number: usize, title: &str) -> Self {
        stage.voice.title(Some(number), title);
        Self { stage, began: SystemTime::now() }
    }

    /// The time on the scene's clock.
    pub(crate) fn time_of(&self, at: SystemTime) -> Duration {
        at.duration_since(self.began).unwrap_or_default()
    }

    /// Something that was done just now.
    pub(crate) fn say(&self, who: &str, text: &str) {
        self.say_at(SystemTime::now(), who, text);
    }

    pub(crate) fn say_at(&self, at: SystemTime, who: &str, text: &str) {
        self.stage.voice.line(self.time_of(at), who, text);
    }

    /// `kill -9` of an agent's main process.
    pub(crate) async fn kill(&self, player: &Player) -> Result<SystemTime> {
        let at = self.stage.kill(player).await?;
        self.say_at(at, "you", &format!("kill -9 {}", player.id));
        Ok(at)
    }

    /// What happens to a workspace from the beginning of the scene on.
    pub(crate) fn news_of(&self, id: &'a str) -> News<'a> {
        News::new(&self.stage.viewer, Some(id), self.began)
    }

    /// Tells the news as they come, up to and with what `is_last` is true of.
    pub(crate) async fn follow(&self, news: &mut News<'_>, is_last: impl Fn(&What) -> bool) -> Result<Vec<Item>> {
        let mut told = Vec::new();
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            for item in news.fresh().await? {
                tell(self.stage.voice, self.time_of(item.at), &item);
                let is_last = is_last(&item.what);
                told.push(item);
                if is_last {
                    return Ok(told);
                }
            }
            self.stage.daemon.must_run()?;
            tokio::time::sleep(GLANCE).await;
        }
        bail!("what was awaited did not happen within {PATIENCE:?}; last came {:?}", told.last())
    }

    /// Knocks at an agent that was just killed until it answers again, and returns when that was. Not through the proxy: it
    /// is a witness of the demo, and tells nobody.
    pub(crate) async fn answers_again(&self, id: &str, address: SocketAddr) -> Result<SystemTime> {
        let until = Instant::now() + PATIENCE;
        let mut was_down = false;
        while Instant::now() < until {
            let answers = http::get(address, "/").await.is_ok_and(|answer| answer.status == 200);
            if answers && was_down {
                return Ok(SystemTime::now());
            }
            was_down |= !answers;
            tokio::time::sleep(GLANCE).await;
        }
        bail!("{id} did not answer within {PATIENCE:?}")
    }

    /// States what must be so. When it is not, the demo has failed.
    pub(crate) fn promise(&self, is_kept: bool, text: &str) -> Result<()> {
        if !is_kept {
            bail!("a promise was broken: {text}");
        }
        self.stage.voice.kept(text);
        Ok(())
    }

    /// The promise of every scene: nobody was started who had not died.
    pub(crate) fn promise_that_nobody_else_was_touched(&self, text: &str) -> Result<()> {
        let too_often: Vec<String> = self
            .stage
            .platform
            .records()
            .iter()
            .filter(|(id, record)| record.starts > 1 + record.started_by_operator + self.stage.deaths_of(id, record))
            .map(|(id, record)| format!("{id} was started {} times", record.starts))
            .collect();
        if !too_often.is_empty() {
            bail!("a promise was broken: {}", too_often.join(", "));
        }
        self.promise(true, text)
    }

    /// A count from defib's tables, of rows since the scene began (`$1`, in seconds since 1970).
    pub(crate) async fn count(&self, query: &str) -> Result<i64> {
        let since = crate::news::epoch_seconds(self.began);
        let row = self.stage.viewer.query_one(query, &[&since]).await.with_context(|| format!("ask: {query}"))?;
        Ok(row.get(0))
    }

    /// How many workspaces have each verdict now, those without a doubt left out.
    pub(crate) async fn verdicts(&self) -> Result<Vec<(String, String)>> {
        let rows = self.stage.viewer.query("select workspace_id, verdict from defib.verdicts order by 1", &[]).await;
        let rows = rows.context("read defib.verdicts")?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}

/// Whether it is the end of a recovery.
pub(crate) fn is_recovery(what: &What) -> bool {
    *what == What::Recovery
}

/// When something came that `is_it`.
pub(crate) fn time_of(items: &[Item], is_it: impl Fn(&What) -> bool) -> Option<SystemTime> {
    items.iter().find(|item| is_it(&item.what)).map(|item| item.at)
}

pub(crate) fn is_restarted(what: &What) -> bool {
    matches!(what, What::Restart { outcome, .. } if outcome == "succeeded")
}

/// One line for one thing that happened.
pub(crate) fn tell(voice: &Voice, at: Duration, item: &Item) {
    let about = &item.workspace;
    match &item.what {
        What::Suspicion { reason, http_status } => {
            let status = http_status.map_or_else(String::new, |status| format!(" {status}"));
            voice.line(at, "proxy", &format!("suspects {about}: {reason}{status}; the request goes to the next agent"));
        }
        What::Verdict { to, because, held } => {
            let held = match held.as_deref() {
                Some(why) if why != to => format!(", its restart held ({why})"),
                _ => String::new(),
            };
            voice.line_about(at, "defib", &format!("{about} is {to}{held}: {because}"), (look_of(to), to));
        }
        What::Restart { attempt, outcome, error } => {
            let error = error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
            let word = if outcome == "succeeded" { "restarted" } else { outcome };
            voice.line_about(at, "defib", &format!("{about} {word}, attempt {attempt}{error}"), (Look::Bold, word));
        }
        What::Recovery => {
            voice.line_about(at, "defib", &format!("{about} beats again: recovered"), (Look::Good, "recovered"));
        }
    }
}

fn look_of(verdict: &str) -> Look {
    match verdict {
        "alive" => Look::Good,
        "dead" | "exhausted" | "lost" | "contradiction" => Look::Bad,
        _ => Look::Doubtful,
    }
}
