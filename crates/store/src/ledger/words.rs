//! The last words of a container, kept beside the attempt that restarted it.
//!
//! Nothing depends on them. They are deleted together with their attempt, because of the foreign key. The ledger's own row has them as one
//! text, for people.

use defib_policy::moment::Timestamp;
use tokio_postgres::types::Type;

use crate::Store;
use crate::decode::{beginning, system_time, text};
use crate::error::StoreError;

/// Bytes of a log that are kept of one attempt. The table refuses more.
pub const LAST_WORDS_MAX: usize = 16 * 1024;

/// Bytes of the results of a health check that are kept of one attempt. The table refuses more.
pub const HEALTH_MAX: usize = 4 * 1024;

/// Characters that are kept of why a log could not be read.
const FAULT_LENGTH_MAX: usize = 500;

/// How a container had ended before it was restarted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastWords {
    /// Exit code of its main process; `None`: it had not ended, or the engine did not tell.
    pub exit_code: Option<i64>,
    /// The kernel killed it for memory, as far as the engine noticed.
    pub oom_killed: bool,
    /// When it ended, by the engine's clock.
    pub finished_at: Option<Timestamp>,
    /// The last results of its health check, at most [`HEALTH_MAX`] bytes; `None`: it has none, or they are not known.
    pub health: Option<String>,
    /// The end of what it wrote, at most [`LAST_WORDS_MAX`] bytes; `None`: not known.
    pub log: Option<String>,
    /// Why that is not known, or not all of it.
    pub log_fault: Option<String>,
}

impl LastWords {
    /// All of it as one text of at most [`LAST_WORDS_MAX`] bytes. If it does not fit, the beginning of the log is left out.
    #[must_use]
    pub fn in_short(&self) -> String {
        let exit = self.exit_code.map_or_else(|| "exit code not known".to_owned(), |code| format!("exit code {code}"));
        let oom = if self.oom_killed { ", killed by the kernel for its memory" } else { "" };
        let fault = self
            .log_fault
            .as_deref()
            .map_or_else(String::new, |fault| format!("\n(of its log: {})", beginning(fault, FAULT_LENGTH_MAX)));
        let health = self.health.as_deref().map_or_else(String::new, |health| format!("\n{health}"));
        let head = format!("{exit}{oom}{health}{fault}");
        let Some(log) = self.log.as_deref().filter(|log| !log.is_empty()) else { return head };
        let room = LAST_WORDS_MAX.saturating_sub(head.len() + 1);
        let from = log.len().saturating_sub(room);
        let from = (from..=log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(log.len());
        format!("{head}\n{}", &log[from..])
    }
}

const KEEP: &str = "
    with kept as (
        insert into defib.last_words (attempt_id, exit_code, oom_killed, finished_at, log, log_fault, health)
        values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing
        returning attempt_id)
    update defib.restarts r set last_words = $8 from kept where r.id = kept.attempt_id";

impl Store {
    /// Keeps the last words of the container that `attempt` restarts.
    pub async fn keep_last_words(&self, attempt: i64, words: &LastWords) -> Result<(), StoreError> {
        self.within_deadline(async {
            let finished_at = words.finished_at.map(system_time);
            let log = words.log.as_deref().map(text);
            let fault = words.log_fault.as_deref().map(|fault| text(beginning(fault, FAULT_LENGTH_MAX)));
            let (health, in_short) = (words.health.as_deref().map(text), words.in_short());
            let in_short = text(&in_short);
            self.pool
                .get()
                .await?
                .execute(
                    KEEP,
                    &[
                        (&attempt, Type::INT8),
                        (&words.exit_code, Type::INT8),
                        (&words.oom_killed, Type::BOOL),
                        (&finished_at, Type::TIMESTAMPTZ),
                        (&log, Type::TEXT),
                        (&fault, Type::TEXT),
                        (&health, Type::TEXT),
                        (&in_short, Type::TEXT),
                    ],
                )
                .await
                .map(drop)
        })
        .await
        .map_err(StoreError::KeepLastWords)
    }
}
