//! How the webhook fares, in a line.

use defib_store::WebhookState;

use super::show;
use crate::logging::printable;

/// The line of `defib status`; `None`: nobody has a webhook, and nothing waits.
pub(crate) fn line(webhook: Option<&WebhookState>) -> Option<String> {
    let webhook = webhook.filter(|webhook| webhook.is_wanted || webhook.pending > 0)?;
    let waiting = match webhook.oldest_ago {
        Some(oldest) => format!("{} waiting, the oldest for {}", webhook.pending, show::age(oldest)),
        None => "none waiting".to_owned(),
    };
    let lost = if webhook.lost > 0 { format!(", {} could not be written so far", webhook.lost) } else { String::new() };
    let host = printable(&webhook.host);
    let is = match &webhook.off {
        Some((ago, why)) => format!(
            "off for {} because the receiver answered {}; `defib notify resume` turns it on",
            show::age(*ago),
            printable(why)
        ),
        None if !webhook.is_wanted => "no running daemon has it".to_owned(),
        None if webhook.failures > 0 => {
            format!("the receiver has failed {} times in a row, last with {}", webhook.failures, last(webhook))
        }
        None => webhook
            .delivered_ago
            .map_or_else(|| "nothing delivered yet".to_owned(), |ago| format!("last delivered {} ago", show::age(ago))),
    };
    Some(format!("webhook {host}: {is}; {waiting}{lost}"))
}

fn last(webhook: &WebhookState) -> String {
    webhook.answer.as_ref().map_or_else(
        || "nothing".to_owned(),
        |(answer, ago)| format!("`{}` {} ago", printable(answer), show::age(*ago)),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn webhook() -> WebhookState {
        WebhookState {
            target: "t".into(),
            host: "hooks.example".into(),
            format: "standard".into(),
            configured_by: "r".into(),
            is_wanted: true,
            off: None,
            failures: 0,
            paused_for: None,
            answer: None,
            delivered_ago: Some(Duration::from_secs(5)),
            pending: 0,
            oldest_ago: None,
            lost: 0,
        }
    }

    #[test]
    fn the_line_says_how_the_webhook_fares() {
        let shown = |state: &WebhookState| line(Some(state)).unwrap();
        assert_eq!(line(None), None);
        assert_eq!(shown(&webhook()), "webhook hooks.example: last delivered 5s ago; none waiting");
        let minute = Duration::from_secs(60);
        let failing = WebhookState {
            failures: 3,
            answer: Some(("503".into(), minute)),
            pending: 2,
            oldest_ago: Some(minute),
            lost: 1,
            ..webhook()
        };
        assert_eq!(
            shown(&failing),
            "webhook hooks.example: the receiver has failed 3 times in a row, last with `503` 1m ago; 2 waiting, the oldest for 1m, 1 could \
             not be written so far"
        );
        let off = WebhookState { off: Some((minute, "410: archived".into())), ..webhook() };
        assert!(
            shown(&off).contains("off for 1m because the receiver answered 410: archived; `defib notify resume`"),
            "{}",
            shown(&off)
        );
        assert_eq!(line(Some(&WebhookState { is_wanted: false, ..webhook() })), None);
    }
}
