//! How `defib explain` tells the last words of a container.

use defib_store::LastWords;

use super::show;
use crate::logging::printable;

/// How its container had ended, followed by what its health check said and the end of its log.
pub(super) fn last_words(words: &LastWords) -> String {
    let exit = words.exit_code.map_or_else(|| "exit code not known".to_owned(), |code| format!("exit code {code}"));
    let oom = if words.oom_killed { ", killed by the kernel for its memory" } else { "" };
    let finished = words.finished_at.map_or_else(String::new, |at| format!(", ended at {}", show::clock(at)));
    let log = match &words.log {
        None => "; its log is not known".to_owned(),
        Some(log) if log.is_empty() => "; its log is empty".to_owned(),
        Some(_) => "; its log ends:".to_owned(),
    };
    let fault = words.log_fault.as_deref().map_or_else(String::new, |fault| format!(" ({})", printable(fault)));
    let mut text = format!("last words {exit}{oom}{finished}{log}{fault}");
    for line in words.health.iter().flat_map(|health| health.split('\n')) {
        text.push_str("\n        ");
        text.push_str(&printable(line));
    }
    for line in words.log.iter().filter(|log| !log.is_empty()).flat_map(|log| log.split('\n')) {
        text.push_str("\n        | ");
        text.push_str(&printable(line));
    }
    text
}
