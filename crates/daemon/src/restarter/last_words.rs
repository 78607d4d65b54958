//! The last words of a container: how it ended, what its health check said and the end of its log, kept beside the attempt that restarts it.
//!
//! ```text
//! claimed ─┬─ look ── may act? ── call ── …         a start waits for nothing: a container keeps its log when it is started
//!          └─ log ─────────────────────► kept
//! claimed ── log ── look ── may act? ── call ── …   a kill, and a start that makes something else: 500 ms at most
//! ```
//!
//! They are for people, and nothing is decided by them. If something goes wrong on the way, that is recorded in their place, and it delays
//! nothing.

use std::time::Duration;

use defib_engine::{CheckResult, EngineError, LastLines};
use defib_policy::fleet::Kind;
use defib_policy::plan::{Remedy, RestartOrder};
use defib_policy::sample::{Exit, Observation};
use defib_store::{HEALTH_MAX, LAST_WORDS_MAX, LastWords};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::OnEngine;
use crate::logging::{chain, printable};

/// How long after the claim a call that takes the log away waits for the log to be read. Larger: a log that hangs delays such a restart by
/// more. Smaller: with a busy engine the last words are lost.
const BEFORE_CALL_MAX: Duration = Duration::from_millis(500);

/// Bytes of a log that are read: more than are kept, because a line that is left out may be long.
const READ_MAX: usize = 4 * LAST_WORDS_MAX;

/// Bytes that are kept of one result of a health check. The engine itself keeps five results.
const CHECK_MAX: usize = HEALTH_MAX / 5 - 8;

type Read = Result<Option<LastLines>, EngineError>;

/// A log that is being read. When this is dropped, the reading stops.
pub(super) struct Capture {
    reading: AbortOnDropHandle<Read>,
    done: Option<Read>,
    lines: u32,
    /// Before this moment the look that precedes the call must not begin, unless the log has been read.
    holds_until: Option<Instant>,
}

impl Capture {
    /// Begins to read the last `lines` lines of the container that this order is about. `None`: there is nothing to read.
    pub(super) fn begin(on: &OnEngine, order: &RestartOrder, lines: u32) -> Option<Self> {
        if lines == 0 || order.kind != Kind::Container || order.remedy == Remedy::Recreate {
            return None;
        }
        let (engine, container) = (std::sync::Arc::clone(&on.engine), order.container_id()?.clone());
        let forgets = order.remedy != Remedy::Start || engine.start_forgets();
        let reading = tokio::spawn(async move { engine.last_lines(&container, lines, READ_MAX).await });
        let holds_until = forgets.then(|| Instant::now() + BEFORE_CALL_MAX);
        Some(Self { reading: AbortOnDropHandle::new(reading), done: None, lines, holds_until })
    }

    /// Waits until the look that precedes the call may begin.
    pub(super) async fn lets_go(&mut self) {
        let Some(until) = self.holds_until.take() else { return };
        if let Ok(read) = timeout_at(until, &mut self.reading).await {
            self.done = Some(read.unwrap_or(Ok(None)));
        }
    }

    /// What is to be kept, once the log has been read. `None`: nothing is known.
    pub(super) async fn words(mut self, seen: &Observation) -> Option<LastWords> {
        let read = match self.done.take() {
            Some(read) => read,
            None => self.reading.await.unwrap_or(Ok(None)),
        };
        let exit = match seen {
            Observation::Stopped { exit, .. } => exit.clone(),
            _ => Exit::default(),
        };
        let (log, log_fault, health) = match read {
            Ok(None) => return None,
            Ok(Some(LastLines { health, bytes, broke_off })) => {
                let fault = broke_off.map(|error| chain(&error));
                let log = (fault.is_none() || !bytes.is_empty()).then(|| readable(&bytes, self.lines));
                (log, fault, checks(&health))
            }
            Err(error) => (None, Some(chain(&error)), None),
        };
        Some(LastWords {
            exit_code: exit.exit_code,
            oom_killed: exit.oom_killed,
            finished_at: exit.finished_at,
            health,
            log,
            log_fault,
        })
    }
}

/// The results of a health check as text of at most [`HEALTH_MAX`] bytes, a line or more each, the last ones last. What does not fit is left out,
/// the oldest results first. `None`: there are none.
fn checks(results: &[CheckResult]) -> Option<String> {
    let mut told: Vec<String> = Vec::new();
    let mut length = 0;
    for result in results.iter().rev() {
        let output: Vec<String> = result.output.trim_end().lines().map(printable).collect();
        let mut line = format!("health check, exit code {}: {}", result.exit_code, output.join(" | "));
        if line.len() > CHECK_MAX {
            let to = (0..=CHECK_MAX).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
            line.truncate(to);
            line.push('…');
        }
        length += line.len() + 1;
        if length > HEALTH_MAX {
            break;
        }
        told.push(line);
    }
    told.reverse();
    (!told.is_empty()).then(|| told.join("\n"))
}

/// The last lines of a log as text of at most [`LAST_WORDS_MAX`] bytes in which nothing is hidden: control characters and bytes that are no
/// text are spelled out. If it does not fit, its beginning is left out.
fn readable(bytes: &[u8], lines: u32) -> String {
    let lines = usize::try_from(lines).unwrap_or(usize::MAX);
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let mut last: Vec<String> = Vec::new();
    let mut length = 0;
    for line in bytes.rsplit(|byte| *byte == b'\n').take(lines) {
        let line = spelled_out(line.strip_suffix(b"\r").unwrap_or(line));
        let room = LAST_WORDS_MAX - length;
        if line.len() < room {
            length += line.len() + 1;
            last.push(line);
        } else {
            let cut = "…";
            if room > cut.len() {
                let from = line.len().saturating_sub(room - cut.len() - 1);
                let from = (from..=line.len()).find(|at| line.is_char_boundary(*at)).unwrap_or(line.len());
                last.push(format!("{cut}{}", &line[from..]));
            }
            break;
        }
    }
    last.reverse();
    last.join("\n")
}

fn spelled_out(line: &[u8]) -> String {
    let mut text = String::new();
    for chunk in line.utf8_chunks() {
        text.push_str(&printable(chunk.valid()));
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_hidden_in_what_is_kept() {
        assert_eq!(
            readable(b"one\r\n\x1b[31mtwo\x00\n\xff\xfethr\xc3\xbc\n", 50),
            "one\n\\u{1b}[31mtwo\\u{0}\n\\xff\\xfethrü"
        );
        assert_eq!(readable(b"", 50), "");
        assert_eq!(readable(b"\n", 50), "");
    }

    #[test]
    fn the_results_of_a_health_check_are_told_last_ones_last_and_within_the_bound() {
        let result = |exit_code, output: &str| CheckResult { exit_code, output: output.to_owned() };
        assert_eq!(checks(&[]), None);
        assert_eq!(
            checks(&[result(0, "well\n"), result(1, "no answer\non port 80\x1b\n")]).as_deref(),
            Some("health check, exit code 0: well\nhealth check, exit code 1: no answer | on port 80\\u{1b}")
        );
        for output in ["a".repeat(10_000), "ü".repeat(10_000), "\x00".repeat(10_000)] {
            let many: Vec<CheckResult> = (0..9).map(|n| result(n, &output)).collect();
            let told = checks(&many).unwrap();
            assert!(told.len() <= HEALTH_MAX && told.contains("exit code 8") && told.contains("exit code 4"), "{told}");
            assert!(!told.contains("exit code 3"), "{told}");
        }
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        assert_eq!(readable(b"1\n2\n3\n4", 2), "3\n4");
        assert_eq!(readable(b"1\n2\n\n", 2), "2\n");
    }

    #[test]
    fn what_does_not_fit_loses_its_beginning_and_stays_within_the_bound() {
        let of = |line: &[u8], times: usize| line.repeat(times);
        for bytes in
            [of(b"\x00", 100_000), of(b"0123456789\n", 10_000), of("ü".as_bytes(), 20_000), of(b"\xff\n", 9_000)]
        {
            let text = readable(&bytes, 1_000_000);
            assert!(text.len() <= LAST_WORDS_MAX && text.len() > LAST_WORDS_MAX - 16, "{}", text.len());
            let end = readable(&bytes[bytes.len() - 2..], 50);
            assert!(text.ends_with(&end), "{end:?}");
        }
        let cut = readable(&of(b"a", 100_000), 50);
        assert!(cut.starts_with("…a"), "{}", &cut[..10]);
    }
}
