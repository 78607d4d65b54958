//! Log lines: text for a terminal, JSON for everything else, on standard error.

use std::io::IsTerminal as _;

use defib_store::StoreError;
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts logging. The filter was checked with the configuration; one that does not parse logs at `info`.
pub(crate) fn start(filter: &str, format: LogFormat) {
    // The scheduler logs about itself at info. The engine's client logs whole responses at debug, with the environment of every container
    // in them, so its debug level cannot be turned on at all.
    let filter = EnvFilter::builder()
        .parse(format!("tokio_cron_scheduler=warn,{filter},bollard=info"))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    // A log that cannot be written (its disk is full, its reader is gone) is no reason to stop watching. The library would report that on
    // standard error, and would panic if standard error is what cannot be written.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal)
        .log_internal_errors(false);
    // If logging was started before, as in tests, the first start stays in force.
    let _ = if json {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        builder.try_init()
    };
}

/// An error with everything below it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    printable(&text)
}

/// Why the database refused a call, for the log: the error with its causes, and its kind in brackets.
pub(crate) fn database_fault(error: &StoreError) -> String {
    format!("{} ({})", chain(error), error.kind())
}

/// Text from outside with its control characters escaped, so that it cannot forge a line or move a cursor.
pub(crate) fn printable(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    if !text.contains(hidden) {
        return text.to_owned();
    }
    text.chars().map(|c| if hidden(c) { c.escape_unicode().to_string() } else { c.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_bidirectional_tricks_become_visible() {
        assert_eq!(printable("plain ü"), "plain ü");
        assert_eq!(printable("a\u{1b}[31mb\nc\u{202e}d"), "a\\u{1b}[31mb\\u{a}c\\u{202e}d");
        assert_eq!(printable("a\u{61c}b\u{2028}c\u{200f}"), "a\\u{61c}b\\u{2028}c\\u{200f}");
    }

    #[test]
    fn a_chain_names_every_cause_once() {
        let inner = std::io::Error::other("refused");
        let outer = anyhow::Error::new(inner).context("cannot read");
        assert_eq!(chain(outer.as_ref()), "cannot read: refused");
    }
}
