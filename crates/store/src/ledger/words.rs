//! The last words of a container, kept beside the attempt that restarted it.
//!
//! Nothing depends on them. They are deleted together with their attempt, because of the foreign key.

use defib_policy::moment::Timestamp;
use tokio_postgres::types::Type;

use crate::Store;
use crate::decode::{beginning, system_time, text};
use crate::error::StoreError;

/// Bytes of a log that are kept of one attempt. The table refuses more.
pub const LAST_WORDS_MAX: usize = 16 * 1024;

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
    /// The end of what it wrote, at most [`LAST_WORDS_MAX`] bytes; `None`: not known.
    pub log: Option<String>,
    /// Why that is not known, or not all of it.
    pub log_fault: Option<String>,
}

const KEEP: &str = "
    insert into defib.last_words (attempt_id, exit_code, oom_killed, finished_at, log, log_fault)
    values ($1, $2, $3, $4, $5, $6) on conflict do nothing";

impl Store {
    /// Keeps the last words of the container that `attempt` restarts.
    pub async fn keep_last_words(&self, attempt: i64, words: &LastWords) -> Result<(), StoreError> {
        self.within_deadline(async {
            let finished_at = words.finished_at.map(system_time);
            let log = words.log.as_deref().map(text);
            let fault = words.log_fault.as_deref().map(|fault| text(beginning(fault, FAULT_LENGTH_MAX)));
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
                    ],
                )
                .await
                .map(drop)
        })
        .await
        .map_err(StoreError::KeepLastWords)
    }
}
