//! The end of a container's log, and the last results of its health check.
//!
//! A log may have any size and any content, so the bytes that are kept are bounded, and so is the time. If a logging driver sends the log
//! elsewhere, there is nothing to read, and the engine says so in an error.

use std::collections::VecDeque;
use std::time::Duration;

use bollard::query_parameters::LogsOptionsBuilder;
use defib_policy::id::ContainerId;
use futures_util::{Stream, StreamExt};
use serde::Deserialize;

use super::deadline::Budget;
use super::listing::valid_reference;
use super::{DockerEngine, client};
use crate::report::Call;
use crate::{CheckResult, EngineError, LastLines};

/// How long a log may take to read. Larger: an engine that hangs holds connections for longer. Smaller: the last words are lost more often
/// on a busy engine.
const READ_MAX: Duration = Duration::from_secs(2);

/// What a container's record says of its health check. The engine keeps a few results, and a few kilobytes of what each printed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Checked {
    state: Option<CheckedState>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CheckedState {
    health: Option<CheckedHealth>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CheckedHealth {
    log: Option<Vec<CheckedOnce>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CheckedOnce {
    exit_code: Option<i64>,
    output: Option<String>,
}

impl Checked {
    fn results(self) -> Vec<CheckResult> {
        let log = self.state.and_then(|state| state.health).and_then(|health| health.log).unwrap_or_default();
        let result = |once: CheckedOnce| CheckResult {
            exit_code: once.exit_code.unwrap_or_default(),
            output: once.output.unwrap_or_default(),
        };
        log.into_iter().map(result).collect()
    }
}

/// The last bytes of something that is read from its beginning.
struct Tail {
    bytes: VecDeque<u8>,
    most: usize,
}

impl Tail {
    fn push(&mut self, new: &[u8]) {
        let new = &new[new.len().saturating_sub(self.most)..];
        let excess = (self.bytes.len() + new.len()).saturating_sub(self.most);
        self.bytes.drain(..excess);
        self.bytes.extend(new);
    }
}

impl DockerEngine {
    /// Reads the last `lines` lines of both its streams, and keeps at most the last `most` bytes of them. The results of its health check are
    /// asked for beside that; if they cannot be read, that is no fault.
    pub(super) async fn last_lines(
        &self,
        container: &ContainerId,
        lines: u32,
        most: usize,
    ) -> Result<LastLines, EngineError> {
        let gone = || EngineError::Gone { engine: self.name().clone(), container: container.clone() };
        let id = valid_reference(container.as_str()).ok_or_else(gone)?;
        let budget = Budget::new(READ_MAX, READ_MAX);
        let client = self.hello(&budget).await.map_err(|error| self.error(Call::Version, error))?;
        let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail(&lines.to_string()).build();
        let mut tail = Tail { bytes: VecDeque::new(), most };
        let reading = read(client.logs(id, Some(options)), &mut tail);
        let checked = client::read::<Checked>(&client, format!("/containers/{id}/json"));
        let (checked, ended) = tokio::join!(budget.call(Call::Inspect, checked), budget.call(Call::Logs, reading));
        let health = checked.map(Checked::results).unwrap_or_default();
        let bytes = Vec::from(tail.bytes);
        match ended {
            Ok(()) => Ok(LastLines { health, bytes, broke_off: None }),
            Err(error) if error.is_no_such_container() => Err(gone()),
            Err(error) if bytes.is_empty() && health.is_empty() => Err(self.error(Call::Logs, error)),
            Err(error) => Ok(LastLines { health, bytes, broke_off: Some(self.error(Call::Logs, error)) }),
        }
    }
}

async fn read<E>(log: impl Stream<Item = Result<bollard::container::LogOutput, E>>, tail: &mut Tail) -> Result<(), E> {
    let mut log = std::pin::pin!(log);
    while let Some(output) = log.next().await {
        tail.push(&output?.into_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_bytes_are_kept_however_they_come() {
        for sizes in [vec![1; 20], vec![3, 4, 13], vec![20], vec![11, 0, 9]] {
            let mut tail = Tail { bytes: VecDeque::new(), most: 5 };
            let mut next = 0..;
            for size in sizes {
                let piece: Vec<u8> = next.by_ref().take(size).collect();
                tail.push(&piece);
            }
            assert_eq!(Vec::from(tail.bytes), [15, 16, 17, 18, 19]);
        }
    }
}
