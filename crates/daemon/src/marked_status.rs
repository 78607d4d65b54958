//! The status that the platform's `mark_dead` writes must be watched, or a workspace leaves the fleet with its first mark.

use defib_policy::settings::Mode;
use defib_store::{Store, StoreError};

use crate::config::Config;

/// Whether the status that the platform's function writes is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MarkedStatus {
    /// The status that a dead workspace is given is watched.
    Watched(String),
    /// It is not watched. The sentence says what follows from that, and what to do.
    Unwatched(String),
    /// It is not known: the function is the platform's own, and agrees to mark no workspace at the moment.
    Unknown,
    /// Nobody is ever marked (`DEFIB_MODE=observe`), so it does not matter.
    NeverWritten,
}

/// Finds out by calling the platform's function, in a transaction that is rolled back. For the shipped function the answer is known, so it
/// is not called.
pub(crate) async fn find(store: &Store, config: &Config) -> Result<MarkedStatus, StoreError> {
    if config.policy.mode == Mode::Observe {
        return Ok(MarkedStatus::NeverWritten);
    }
    Ok(judge(store.status_that_mark_dead_writes().await?, &config.watched_statuses))
}

fn judge(written: Option<String>, watched: &[String]) -> MarkedStatus {
    match written {
        None => MarkedStatus::Unknown,
        Some(status) if watched.contains(&status) => MarkedStatus::Watched(status),
        Some(status) => MarkedStatus::Unwatched(format!(
            "DEFIB_WATCHED_STATUSES={} does not name {}, the status that defib.mark_dead gives to a dead workspace: after one failed \
             restart nobody would look at that workspace again. Add it to DEFIB_WATCHED_STATUSES",
            watched.join(","),
            status.escape_debug(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_that_is_written_and_not_watched_is_named() {
        let watched = ["up".to_owned(), "down".to_owned()];
        assert_eq!(judge(Some("down".to_owned()), &watched), MarkedStatus::Watched("down".to_owned()));
        assert_eq!(judge(None, &watched), MarkedStatus::Unknown);
        let MarkedStatus::Unwatched(why) = judge(Some("offline".to_owned()), &watched) else {
            panic!("it is not watched")
        };
        assert!(why.starts_with("DEFIB_WATCHED_STATUSES=up,down does not name offline"), "{why}");
    }
}
