//! Plots as SVG text, without a library: two kinds, both simple.

use std::fmt::Write as _;

use crate::chronicle::Merit;
use crate::time::Ms;
use crate::world::World;

const WIDTH: f64 = 860.0;
const HEAD: &str = r##"font-family="Helvetica,Arial,sans-serif" font-size="12" fill="#222""##;

/// A point of the scatter plot: name, detection time in seconds, false restarts in 1,000 workspace-days.
pub type Point = (String, f64, f64);

/// Detection time against false restarts, both logarithmic; no mistakes at all has a row of its own at the bottom.
#[must_use]
pub fn scatter(points: &[Point], title: &str) -> String {
    let (left, top, width, height) = (70.0, 50.0, WIDTH - 250.0, 330.0);
    let (x_low, x_high, y_low, y_high) = (0.0_f64, 4.0, 0.0_f64, 5.0);
    let x = |seconds: f64| left + (seconds.max(1.0).log10() - x_low) / (x_high - x_low) * width;
    let y = |rate: f64| {
        if rate <= 0.0 {
            top + height + 30.0
        } else {
            top + height - (rate.max(1.0).log10() - y_low) / (y_high - y_low) * height
        }
    };
    let mut svg = begin(height + 150.0, title);
    for decade in 0..=4_i32 {
        let (at, value) = (x(10_f64.powi(decade)), 10_f64.powi(decade));
        line(&mut svg, (at, top), (at, top + height + 45.0), "#ddd");
        text(&mut svg, at - 12.0, top + height + 62.0, &format!("{value} s"));
    }
    for decade in 0..=5_i32 {
        let (at, value) = (y(10_f64.powi(decade)), 10_f64.powi(decade));
        line(&mut svg, (left, at), (left + width, at), "#ddd");
        text(&mut svg, left - 58.0, at + 4.0, &format!("{value}"));
    }
    line(&mut svg, (left, y(0.0)), (left + width, y(0.0)), "#9c9");
    text(&mut svg, left - 58.0, y(0.0) + 4.0, "none");
    text(&mut svg, left, top + height + 84.0, "time from death to restart, median (log)");
    text(&mut svg, 10.0, top - 10.0, "false restarts in 1,000 workspace-days (log)");
    let mut labels: Vec<(f64, f64)> = Vec::new();
    for (name, seconds, rate) in points {
        let (at_x, at_y) = (x(*seconds), y(*rate));
        let colour = if name == "defib" { "#0a7d2c" } else { "#b3261e" };
        let _ = writeln!(svg, r#"<circle cx="{at_x:.1}" cy="{at_y:.1}" r="6" fill="{colour}"/>"#);
        let mut label_y = at_y + 4.0;
        while labels.iter().any(|(other_x, other_y)| (other_x - at_x).abs() < 150.0 && (other_y - label_y).abs() < 13.0)
        {
            label_y += 13.0;
        }
        labels.push((at_x, label_y));
        text(&mut svg, at_x + 10.0, label_y, name);
    }
    svg.push_str("</svg>\n");
    svg
}

/// What each policy did in one incident: a lane each, with deaths, restarts that were needed, and mistakes.
#[must_use]
pub fn timeline(lanes: &[(String, &World)], title: &str) -> String {
    let (left, top, lane, width) = (140.0, 60.0, 34.0, WIDTH - 180.0);
    let Some((_, first)) = lanes.first() else { return String::new() };
    let (from, until) = (first.zero, first.now);
    let x = |at: Ms| left + (at.clamp(from, until) - from) as f64 / (until - from).max(1) as f64 * width;
    let height = top + lane * lanes.len() as f64 + 60.0;
    let mut svg = begin(height, title);
    for (n, (name, world)) in lanes.iter().enumerate() {
        let y = top + lane * n as f64;
        text(&mut svg, 10.0, y + 17.0, name);
        let _ = writeln!(svg, r##"<rect x="{left}" y="{y:.1}" width="{width}" height="24" fill="#f4f4f4"/>"##);
        let chronicle = &world.chronicle;
        let obstacles = chronicle.obstacles.iter().map(|it| (it.from, it.until));
        for (from, until) in obstacles.chain(chronicle.storms.iter().map(|it| (it.from, it.until))) {
            let (a, b) = (x(from), x(until));
            let _ = writeln!(svg, r##"<rect x="{a:.1}" y="{y:.1}" width="{:.1}" height="24" fill="#e3dccb"/>"##, b - a);
        }
        for loss in &world.chronicle.losses {
            let (a, b) = (x(loss.at), x(loss.back_at.or(loss.excused_at).unwrap_or(until)));
            let _ = writeln!(
                svg,
                r##"<rect x="{a:.1}" y="{:.1}" width="{:.1}" height="8" fill="#888" opacity="0.5"/>"##,
                y + 16.0,
                (b - a).max(1.0)
            );
        }
        for restart in world.chronicle.restarts.iter().filter(|it| it.at >= from) {
            let colour = match restart.merit {
                Merit::Needed => "#0a7d2c",
                Merit::Idle => "#999",
                Merit::Healthy | Merit::NotOurs => "#d3261e",
            };
            let _ = writeln!(svg, r#"<circle cx="{:.1}" cy="{:.1}" r="4" fill="{colour}"/>"#, x(restart.at), y + 8.0);
        }
    }
    let foot = top + lane * lanes.len() as f64 + 14.0;
    for n in 0..=4_u64 {
        let at = from + (until - from) * n / 4;
        text(&mut svg, x(at) - 14.0, foot, &format!("{} s", (at - from) / 1_000));
    }
    text(
        &mut svg,
        left,
        foot + 26.0,
        "green: restart that was needed · red: restart of one that was well · grey bar: really dead · sand: an outage and the grace after it",
    );
    svg.push_str("</svg>\n");
    svg
}

fn begin(height: f64, title: &str) -> String {
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">"#
    );
    let _ = writeln!(svg, r#"<rect width="100%" height="100%" fill="white"/>"#);
    let _ = writeln!(svg, r#"<text x="10" y="22" {HEAD} font-weight="bold">{}</text>"#, escaped(title));
    svg
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let _ = writeln!(
        svg,
        r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="{colour}"/>"#,
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, x: f64, y: f64, text: &str) {
    let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" {HEAD}>{}</text>"#, escaped(text));
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_is_one_closed_document_with_every_name() {
        let svg = scatter(&[("a<b".into(), 3.0, 0.0), ("defib".into(), 3.0, 0.0)], "t");
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("a&lt;b") && svg.contains("defib"));
    }
}
