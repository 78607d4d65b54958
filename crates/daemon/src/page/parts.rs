//! Small parts that every page uses: text from outside, times, numbers, marks.

use std::time::Duration;

use defib_policy::moment::Timestamp;
use maud::{Markup, html};

use crate::logging::printable;
use crate::told::picture::Word;
use crate::told::show;

/// How many characters of a text from outside are shown in a table or a sentence.
const TEXT_MAX: usize = 240;

/// The beginning of a text, with a sign where something is left out.
pub(super) fn cut(raw: &str, length: usize) -> String {
    let short = printable(raw);
    match short.char_indices().nth(length) {
        Some((end, _)) => format!("{}…", &short[..end]),
        None => short,
    }
}

/// Text from outside, cut to a bearable length. Its control characters are made visible, and its direction does not affect the text around
/// it.
pub(super) fn text(raw: &str) -> Markup {
    html! { bdi { (cut(raw, TEXT_MAX)) } }
}

/// Text from outside at full length, for the one place that is about this text.
pub(super) fn whole(raw: &str) -> Markup {
    html! { bdi { (printable(raw)) } }
}

/// Text from outside, cut shorter where there is little room.
pub(super) fn short(raw: &str) -> Markup {
    html! { bdi { (cut(raw, 64)) } }
}

/// Text from outside, or a dash.
pub(super) fn or_dash(raw: Option<&str>) -> Markup {
    html! { @match raw { Some(raw) => (text(raw)), None => span.none { "–" } } }
}

/// A moment as its age, with the clock's reading on hover. The script keeps the age right between two pictures.
pub(super) fn when(at: Timestamp, now: Timestamp) -> Markup {
    let age = match now.since(at) {
        _ if at > now => format!("in {}", show::age(at.since(now))),
        age if age.as_secs() == 0 => "just now".to_owned(),
        age => format!("{} ago", show::age(age)),
    };
    html! { time datetime=(at) title=(show::clock(at)) data-age="" { (age) } }
}

/// The same from an age.
pub(super) fn ago(age: Duration, now: Timestamp) -> Markup {
    when(before(now, age), now)
}

/// How long something has lasted. The moment of its beginning is shown on hover.
pub(super) fn lasting(age: Duration, now: Timestamp) -> Markup {
    let since = before(now, age);
    html! { time datetime=(since) title={ "since " (show::clock(since)) } data-age="for" { (show::age(age)) } }
}

pub(super) fn before(now: Timestamp, age: Duration) -> Timestamp {
    now.shifted(-i64::try_from(age.as_micros()).unwrap_or(i64::MAX))
}

/// A number with its thousands separated.
pub(super) fn number(count: impl Into<u64>) -> String {
    let digits = count.into().to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with its noun.
pub(super) fn count(count: impl Into<u64>, one: &str, many: &str) -> String {
    let count = count.into();
    format!("{} {}", number(count), if count == 1 { one } else { many })
}

/// The class that colours a word by how serious it is.
pub(super) fn tone(word: Word) -> &'static str {
    match word.urgency() {
        7.. => "bad",
        3..=6 => "doubt",
        _ => match word.label() {
            "alive" => "well",
            "busy" | "settling" => "active",
            _ => "aside",
        },
    }
}

/// The shape of a word. The word always stands beside it, so screen readers leave the shape out.
pub(super) fn mark(label: &str) -> Markup {
    html! {
        svg.mark width="16" height="16" viewBox="0 0 16 16" aria-hidden="true" { use href={ "#m-" (label.replace(' ', "-")) } {} }
    }
}

/// A word with its shape and its colour.
pub(super) fn badge(word: Word) -> Markup {
    html! { span.state.(tone(word)) { (mark(word.label())) (word.label()) } }
}

/// The word for a label, or the label itself if this program does not know it.
pub(super) fn badge_of(label: &str) -> Markup {
    Word::from_slug(label).map_or_else(|| html! { span.state.aside { (mark("other")) (text(label)) } }, badge)
}

/// The sign beside the name.
pub(super) fn pulse() -> Markup {
    html! {
        svg.pulse width="22" height="22" viewBox="0 0 22 22" aria-hidden="true" {
            path d="M1 12h5l2-5 4 11 3-8 1.5 2H21" {}
        }
    }
}

/// The definitions of the shapes, which each page has once. The shapes can be told apart without their colours.
pub(super) fn shapes() -> Markup {
    let shapes = [
        ("alive", r"M8 4.5a3.5 3.5 0 1 1 0 7a3.5 3.5 0 0 1 0-7z", ""),
        ("busy", r"M8 5.5a2.5 2.5 0 1 1 0 5a2.5 2.5 0 0 1 0-5z", "M8 2a6 6 0 1 1-6 6"),
        ("settling", "", "M8 2.5a5.5 5.5 0 0 1 5.5 5.5M8 13.5a5.5 5.5 0 0 1-5.5-5.5M8 5.5V8l2 1.5"),
        ("silent", "", "M8 3.5a4.5 4.5 0 1 1 0 9a4.5 4.5 0 0 1 0-9z"),
        ("suspect", "", "M8 2.5L14 13.5H2zM8 6.8v3M8 11.6v.2"),
        ("unhealthy", "", "M2 2.5h12L8 13.5zM8 4.8v3M8 9.6v.2"),
        ("wedged", "M3 6.5h10v3H3z", "M8 2v3M8 11v3"),
        ("dead", "M2.5 1h11L15 2.5v11L13.5 15h-11L1 13.5v-11z", "!M5 5l6 6M11 5l-6 6"),
        ("exhausted", "M5 1h6l4 4v6l-4 4H5l-4-4V5z", "!M8 4.2v4.6M8 11.4v.3"),
        ("contradiction", "", "M3 5.5h9M9.5 3L12 5.5L9.5 8M13 10.5H4M6.5 8L4 10.5L6.5 13"),
        ("lost", "M8 1l7 7l-7 7l-7-7z", "!M5.8 5.8l4.4 4.4M10.2 5.8l-4.4 4.4"),
        ("frozen", "M4 3h3v10H4zM9 3h3v10H9z", ""),
        ("unknown", "", "M5.2 6a2.8 2.8 0 1 1 4.2 2.4C8.4 9 8 9.4 8 10.4M8 12.8v.2"),
        ("suspended", "", "M4.5 3.5h2v9h-2zM9.5 3.5h2v9h-2z"),
        ("not-watched", "", "M3 8h10"),
        ("not-judged", "", "M3 5V3h2M7 3h2M11 3h2v2M13 7v2M13 11v2h-2M9 13H7M5 13H3v-2M3 9V7"),
        ("other", "", "M3.5 8h.2M8 8h.2M12.5 8h.2"),
    ];
    html! {
        svg.shapes width="0" height="0" aria-hidden="true" {
            @for (name, solid, lines) in shapes {
                symbol id={ "m-" (name) } viewBox="0 0 16 16" {
                    @if !solid.is_empty() { path.solid d=(solid) {} }
                    @if let Some(cut) = lines.strip_prefix('!') { path.cut d=(cut) {} }
                    @else if !lines.is_empty() { path.line d=(lines) {} }
                }
            }
            pattern #calm width="10" height="10" patternUnits="userSpaceOnUse" { rect.calm x="1" y="1" width="8" height="8" rx="1.5" {} }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_is_text_and_has_an_end() {
        let hostile = format!("<script>alert(1)</script>\u{202e}\u{1b}[31m{}", "x".repeat(10_000));
        let shown = text(&hostile).into_string();
        assert!(shown.starts_with("<bdi>&lt;script&gt;alert(1)&lt;/script&gt;\\u{202e}\\u{1b}[31mxxx"), "{shown}");
        assert!(shown.len() < 600 && shown.ends_with("…</bdi>"), "{shown}");
    }

    #[test]
    fn a_moment_of_this_second_is_just_now() {
        let at = Timestamp(1_700_000_000_000_000);
        let told = |later: i64| when(at, at.shifted(later)).into_string();
        assert!(told(0).contains(">just now<") && told(999_999).contains(">just now<"));
        assert!(told(1_000_000).contains(">1s ago<") && told(-5_000_000).contains(">in 5s<"), "{}", told(-5_000_000));
    }

    #[test]
    fn numbers_have_their_thousands_apart() {
        assert_eq!([0_u32, 999, 1_000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            (count(1_u32, "workspace", "workspaces"), count(0_u32, "a", "b")),
            ("1 workspace".to_owned(), "0 b".to_owned())
        );
    }

    #[test]
    fn moments_are_told_by_their_age_and_have_their_clock_on_hover() {
        let now = Timestamp(1_764_000_000_000_000);
        let shown = ago(Duration::from_secs(65), now).into_string();
        assert_eq!(
            shown,
            "<time datetime=\"2025-11-24T15:58:55.000000Z\" title=\"2025-11-24 15:58:55.000Z\" data-age=\"\">1m 5s ago</time>"
        );
        assert!(when(now.plus(Duration::from_secs(9)), now).into_string().contains(">in 9s<"));
    }

    #[test]
    fn every_word_has_a_shape() {
        let shapes = shapes().into_string();
        for word in Word::all() {
            assert!(shapes.contains(&format!("id=\"m-{}\"", word.slug())), "{}", word.label());
        }
    }
}
