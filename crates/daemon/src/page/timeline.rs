//! The timeline as a drawing: doubt and verdict, restart and recovery as spans, reports as points, each leading to its words below.
//!
//! Typically a workspace has a few eventful seconds every other day, so on one axis over the whole history they would be dots. The history
//! is cut into episodes wherever nothing happened for a while, and each episode has an axis of its own.

use std::time::Duration;

use defib_policy::moment::Timestamp;
use defib_store::{Explanation, TimelineEntry, TimelineWhat};
use maud::{Markup, html};

use super::parts::{cut, mark, tone};
use super::restarts::took;
use super::story::sentence;
use crate::told::picture::Word;
use crate::told::show;

/// An episode ends when nothing happens for this long, unless the workspace is in trouble all that time.
const SILENCE: Duration = Duration::from_secs(180);

/// How many episodes are drawn: the newest ones. The timeline in words below the drawing has all of them.
const DRAWN: usize = 4;

/// How many characters of a verdict or of an outcome stand on a span. A newer defib may have words that this one does not know.
const LABEL_MAX: usize = 40;

/// Height of a lane with its name, and of a bar.
const LANE: usize = 44;
const BAR: usize = 22;

/// The lanes of the drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Verdict,
    Restart,
    Reports,
}

impl Lane {
    const ALL: [Self; 3] = [Self::Verdict, Self::Restart, Self::Reports];

    const fn name(self) -> &'static str {
        match self {
            Self::Verdict => "Verdict",
            Self::Restart => "Restart and recovery",
            Self::Reports => "Reports and operators",
        }
    }
}

/// Something that lasted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    lane: Lane,
    from: Timestamp,
    to: Timestamp,
    /// Whether it still goes on.
    is_open: bool,
    label: String,
    tone: &'static str,
    /// The place in the timeline of the entry that says more about it.
    entry: usize,
}

/// Something that happened at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Point {
    at: Timestamp,
    shape: &'static str,
    entry: usize,
}

/// A stretch of time in which something happened.
#[derive(Debug, Default)]
struct Episode {
    from: Timestamp,
    to: Timestamp,
    spans: Vec<Span>,
    points: Vec<Point>,
}

pub(super) fn draw(explanation: &Explanation) -> Markup {
    let episodes = episodes(&explanation.timeline, explanation.now);
    html! {
        @for episode in episodes.iter().rev().take(DRAWN) { (drawing(episode, &explanation.timeline)) }
        @if !episodes.is_empty() { p #note .note aria-live="polite" { "Point at a span, or move to it with the Tab key, to read what it rests on." } }
    }
}

/// The spans of the verdicts and of the restarts. A verdict lasts until the next one, a restart until its end, a recovery from there
/// until the heartbeat that proves it.
fn spans(timeline: &[TimelineEntry], now: Timestamp) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for (number, entry) in timeline.iter().enumerate() {
        let mut begin = |lane, label: &str, tone| {
            end(&mut spans, lane, entry.at);
            let label = cut(label, LABEL_MAX);
            spans.push(Span { lane, from: entry.at, to: now.max(entry.at), is_open: true, label, tone, entry: number });
        };
        match &entry.what {
            TimelineWhat::Verdict { to, .. } => begin(Lane::Verdict, to, Word::from_slug(to).map_or("aside", tone)),
            TimelineWhat::Claimed { attempt, .. } => begin(Lane::Restart, &format!("restart {attempt}"), "active"),
            TimelineWhat::Finished { outcome, .. } if outcome == "succeeded" => {
                begin(Lane::Restart, "recovers", "aside");
            }
            // It differs from one that succeeded by its word as well, for those who do not see colours.
            TimelineWhat::Finished { outcome, .. } => {
                if let Some(span) = end(&mut spans, Lane::Restart, entry.at) {
                    span.label = format!("{}: {}", span.label, cut(outcome, LABEL_MAX));
                    span.tone = if outcome == "failed" { "bad" } else { "doubt" };
                }
            }
            TimelineWhat::Recovered { .. } => _ = end(&mut spans, Lane::Restart, entry.at),
            _ => {}
        }
    }
    spans
}

/// Ends the span of a lane that still goes on, and returns it.
fn end(spans: &mut [Span], lane: Lane, at: Timestamp) -> Option<&mut Span> {
    let open = spans.iter_mut().rev().find(|span| span.lane == lane && span.is_open)?;
    (open.to, open.is_open) = (at, false);
    Some(open)
}

fn points(timeline: &[TimelineEntry]) -> Vec<Point> {
    let shape = |what: &TimelineWhat| match what {
        TimelineWhat::Suspected { .. } => Some("suspect"),
        TimelineWhat::Engine { .. } => Some("unknown"),
        TimelineWhat::Held { .. } => Some("frozen"),
        TimelineWhat::Released { .. }
        | TimelineWhat::Ordered { .. }
        | TimelineWhat::Answered { .. }
        | TimelineWhat::Acknowledged { .. } => Some("busy"),
        TimelineWhat::Verdict { .. }
        | TimelineWhat::Claimed { .. }
        | TimelineWhat::LastWords { .. }
        | TimelineWhat::Finished { .. }
        | TimelineWhat::Recovered { .. } => None,
    };
    let all = timeline.iter().enumerate();
    all.filter_map(|(entry, what)| Some(Point { at: what.at, shape: shape(&what.what)?, entry })).collect()
}

/// Cuts the history where nothing happened for a while. A time in which the workspace was well counts as nothing.
fn episodes(timeline: &[TimelineEntry], now: Timestamp) -> Vec<Episode> {
    let mut episodes: Vec<Episode> = Vec::new();
    let spans = spans(timeline, now);
    // Each stretch of time in which something happened.
    let is_calm = |span: &Span| span.label == "alive" || (span.is_open && span.lane == Lane::Restart);
    let mut stretches: Vec<(Timestamp, Timestamp)> =
        spans.iter().map(|span| (span.from, if is_calm(span) { span.from } else { span.to })).collect();
    stretches.extend(timeline.iter().map(|entry| (entry.at, entry.at)));
    stretches.sort();
    for (from, to) in stretches {
        match episodes.last_mut() {
            Some(last) if from.since(last.to) < SILENCE => last.to = last.to.max(to),
            _ => episodes.push(Episode { from, to, ..Episode::default() }),
        }
    }
    for span in spans {
        if let Some(home) = episodes.iter_mut().find(|episode| episode.from <= span.from && span.from <= episode.to) {
            let to = if is_calm(&span) { home.to.max(span.from) } else { span.to };
            home.spans.push(Span { to: to.min(span.to), ..span });
        }
    }
    for point in points(timeline) {
        if let Some(home) = episodes.iter_mut().find(|episode| episode.from <= point.at && point.at <= episode.to) {
            home.points.push(point);
        }
    }
    episodes
}

fn drawing(episode: &Episode, timeline: &[TimelineEntry]) -> Markup {
    let length = episode.to.since(episode.from).max(Duration::from_millis(200)).as_secs_f64();
    // A little room is left at both ends, so that a span that begins or ends there can be seen.
    let place = |at: Timestamp| 1.0 + 94.0 * (at.since(episode.from).as_secs_f64() / length).min(1.0);
    let is_used = |lane: Lane| {
        episode.spans.iter().any(|span| span.lane == lane) || (lane == Lane::Reports && !episode.points.is_empty())
    };
    let lanes: Vec<Lane> = Lane::ALL.into_iter().filter(|lane| is_used(*lane)).collect();
    let top = |lane: Lane| lanes.iter().position(|used| *used == lane).unwrap_or(0) * LANE + (LANE - BAR);
    let height = lanes.len() * LANE + 24;
    let told = |entry: usize| {
        timeline.get(entry).map_or_else(String::new, |entry| {
            let (kind, sentence) = sentence(entry);
            format!("{}  {kind}: {}", show::clock(entry.at), cut(&sentence, 600))
        })
    };
    html! {
        figure.episode {
            figcaption { (show::clock(episode.from)) span.aside { ", for " (took(episode.to.since(episode.from))) } }
            svg width="100%" height=(height) role="group" aria-label={ "What happened from " (show::clock(episode.from)) " on" } {
                @for tick in 0..=4_u32 {
                    @let x = 1.0 + 94.0 * f64::from(tick) / 4.0;
                    line.tick x1={ (percent(x)) } x2={ (percent(x)) } y1="14" y2=(height - 20) {}
                    text.axis x={ (percent(x)) } y=(height - 5) text-anchor=(match tick { 0 => "start", 4 => "end", _ => "middle" }) {
                        @if tick == 0 { (show::clock(episode.from).get(11..19).unwrap_or_default()) }
                        @else { "+" (took(Duration::from_secs_f64(length * f64::from(tick) / 4.0))) }
                    }
                }
                @for lane in &lanes { text.lane x="0" y=(top(*lane) - 6) { (lane.name()) } }
                @for span in &episode.spans {
                    @let (x, end) = (place(span.from), place(span.to) + if span.is_open { 4.0 } else { 0.0 });
                    @let width = (end - x).max(0.4);
                    @let lasted = took(span.to.since(span.from));
                    a.span.(span.tone).open[span.is_open] href={ "#entry-" (span.entry) } data-note=(told(span.entry))
                        aria-label={ (span.label) @if !span.is_open { " for " (lasted) } ": " (told(span.entry)) } {
                        svg x=(percent(x)) y=(top(span.lane)) width=(percent(width)) height=(BAR) {
                            rect.bar x="1" y="1" width="100%" height=(BAR - 2) rx="3" {}
                            @if width > 6.0 { text.label x="7" y="15" { (cut(&span.label, 24)) @if width > 16.0 && !span.is_open { tspan.lasted dx="6" { (lasted) } } } }
                        }
                    }
                }
                @for point in &episode.points {
                    @let x = place(point.at);
                    a.point href={ "#entry-" (point.entry) } data-note=(told(point.entry)) aria-label=(told(point.entry)) {
                        svg x=(percent(x)) y=(top(Lane::Reports) + 2) width="22" height="18" overflow="visible" {
                            rect.bar x="-9" y="0" width="18" height="18" rx="3" {}
                            svg x="-8" y="1" width="16" height="16" { (mark(point.shape)) }
                        }
                    }
                }
            }
        }
    }
}

fn percent(place: f64) -> String {
    format!("{place:.2}%")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: u64) -> Timestamp {
        Timestamp(1_764_000_000_000_000).plus(Duration::from_secs(second))
    }

    fn verdict(second: u64, to: &str) -> TimelineEntry {
        let evidence = json!({ "because": "it stopped", "rule": "stopped_stale" });
        TimelineEntry { at: at(second), what: TimelineWhat::Verdict { from: None, to: to.to_owned(), evidence } }
    }

    fn entry(second: u64, what: TimelineWhat) -> TimelineEntry {
        TimelineEntry { at: at(second), what }
    }

    fn claimed(second: u64) -> TimelineEntry {
        entry(
            second,
            TimelineWhat::Claimed {
                id: 1,
                attempt: 1,
                container_id: None,
                verdict: "dead".to_owned(),
                claimed_by: None,
                evidence: json!({}),
            },
        )
    }

    fn finished(second: u64, outcome: &str) -> TimelineEntry {
        entry(second, TimelineWhat::Finished { id: 1, outcome: outcome.to_owned(), error: None })
    }

    fn lanes(spans: &[Span]) -> Vec<(&str, u64, u64, bool)> {
        let second = |moment: Timestamp| moment.since(at(0)).as_secs();
        spans.iter().map(|span| (span.label.as_str(), second(span.from), second(span.to), span.is_open)).collect()
    }

    #[test]
    fn doubt_verdict_restart_and_recovery_follow_each_other() {
        let timeline = [
            verdict(1, "suspect"),
            verdict(3, "dead"),
            claimed(3),
            finished(4, "succeeded"),
            verdict(5, "settling"),
            entry(9, TimelineWhat::Recovered { id: 1 }),
            verdict(9, "alive"),
        ];
        assert_eq!(
            lanes(&spans(&timeline, at(1_000))),
            [
                ("suspect", 1, 3, false),
                ("dead", 3, 5, false),
                ("restart 1", 3, 4, false),
                ("recovers", 4, 9, false),
                ("settling", 5, 9, false),
                ("alive", 9, 1_000, true),
            ]
        );
        let episodes = episodes(&timeline, at(1_000));
        assert_eq!(episodes.len(), 1);
        assert_eq!((episodes[0].from, episodes[0].to), (at(1), at(9)), "being well for long is no part of it");
    }

    #[test]
    fn a_failed_restart_ends_without_a_recovery_and_stands_out() {
        for (outcome, tone) in [("failed", "bad"), ("abandoned", "doubt")] {
            let spans = spans(&[claimed(1), finished(4, outcome)], at(9));
            assert_eq!(lanes(&spans), [(format!("restart 1: {outcome}").as_str(), 1, 4, false)]);
            assert_eq!(spans[0].tone, tone);
        }
    }

    #[test]
    fn silence_cuts_the_history_and_trouble_does_not() {
        let parts = |timeline: &[TimelineEntry], now| episodes(timeline, now).len();
        assert_eq!(parts(&[verdict(1, "dead"), verdict(2, "alive"), verdict(5_000, "dead")], at(5_001)), 2);
        assert_eq!(parts(&[verdict(1, "dead"), verdict(5_000, "alive")], at(9_000)), 1);
        assert_eq!(parts(&[], at(1)), 0);
    }

    #[test]
    fn every_span_leads_to_its_words_and_tells_them() {
        let timeline = [verdict(1, "dead"), verdict(3, "alive")];
        let episodes = episodes(&timeline, at(10));
        let drawn = drawing(&episodes[0], &timeline).into_string();
        assert!(drawn.contains("href=\"#entry-0\"") && drawn.contains("verdict: (none) → dead: it stopped"), "{drawn}");
        assert!(drawn.contains("aria-label=\"dead for 2.0 s: "), "{drawn}");
    }
}
