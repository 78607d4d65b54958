//! The answer as one page of HTML that needs nothing else: a plot of who would have restarted when, the table, and the differences.

use std::fmt::Write as _;

use crate::report::Report;
use crate::text::{COLUMNS, head, outcome};

const LEFT: f64 = 230.0;
const WIDTH: f64 = 900.0;
const LANE: f64 = 30.0;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums}th,td{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #ddd}\
th:first-child,td:first-child{text-align:left}svg{max-width:100%;height:auto}.needed{fill:#0a7d2c}.not_needed{fill:#b3261e}.untold{fill:#888}\
.death{fill:#d9b44a}li{margin:.6rem 0}.lane{fill:#f4f4f4}text{font-size:12px;fill:currentColor}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}.lane{fill:#262626}th,td{border-color:#444}.needed{fill:#4cc26f}.not_needed{fill:#ff7a70}}";

impl Report {
    /// The page.
    #[must_use]
    pub fn html(&self) -> String {
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
             <title>defib backtest</title><style>{STYLE}</style>\n<h1>What each policy would have done</h1>\n"
        );
        for line in head(self) {
            // Writing to a String cannot fail.
            let _ = writeln!(page, "<p>{}</p>", escape(&line));
        }
        self.plot(&mut page);
        self.table(&mut page);
        let _ = writeln!(
            page,
            "<h2>Lives that some would have ended and others not: {}</h2>\n<ul>",
            self.differences.len()
        );
        for it in &self.differences {
            let said: Vec<String> = it.defib_said.iter().map(|said| escape(said)).collect();
            let because = std::iter::once(escape(&it.because)).chain(said).collect::<Vec<_>>().join("<br>");
            let _ = writeln!(
                page,
                "<li><time>{}</time> <b>{}</b>: {}.<br>Restarted by {}; left alone by {}.<br>{because}</li>",
                escape(&it.at),
                escape(&it.workspace),
                outcome(it.outcome),
                escape(&it.restarted_by.join(", ")),
                escape(&it.left_alone_by.join(", ")),
            );
        }
        page.push_str("</ul>\n<h2>How to read it</h2>\n<ul>\n");
        for note in &self.notes {
            let _ = writeln!(page, "<li>{}</li>", escape(note));
        }
        page.push_str("</ul>\n</html>\n");
        page
    }

    fn plot(&self, page: &mut String) {
        let x = |seconds: f64| LEFT + seconds.clamp(0.0, self.seconds) / self.seconds.max(1.0) * (WIDTH - LEFT - 20.0);
        let height = LANE * (self.results.len() + 1) as f64 + 30.0;
        let _ = writeln!(
            page,
            "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Deaths, and the restarts of each policy, over time\">"
        );
        let lane = |page: &mut String, n: usize, name: &str| {
            let y = LANE * n as f64;
            let _ = writeln!(
                page,
                "<rect class=\"lane\" x=\"{LEFT}\" y=\"{y}\" width=\"{}\" height=\"24\"/><text x=\"4\" y=\"{}\">{}</text>",
                WIDTH - LEFT - 20.0,
                y + 16.0,
                escape(name)
            );
        };
        lane(page, 0, "deaths");
        for (from, until) in &self.deaths {
            let (from, until) = (x(*from), x(*until));
            let _ = writeln!(
                page,
                "<rect class=\"death\" x=\"{from:.1}\" y=\"3\" width=\"{:.1}\" height=\"18\"/>",
                (until - from).max(2.0)
            );
        }
        for (n, result) in self.results.iter().enumerate() {
            lane(page, n + 1, &result.policy);
            let y = LANE * (n + 1) as f64 + 12.0;
            for (at, outcome) in &result.moments {
                let at = x(*at);
                // The outcomes differ by shape as well as by colour, for readers who do not see colours.
                let _ = if *outcome == "not_needed" {
                    writeln!(page, "<path class=\"{outcome}\" d=\"M{at:.1} {}l7 12h-14z\"/>", y - 7.0)
                } else {
                    writeln!(page, "<circle class=\"{outcome}\" cx=\"{at:.1}\" cy=\"{y}\" r=\"5\"/>")
                };
            }
        }
        let y = height - 12.0;
        let (from, until) = (&self.recording.from, &self.recording.until);
        let ends = [(LEFT, "start", from), (WIDTH - 20.0, "end", until)];
        for (x, anchor, moment) in ends {
            let moment = escape(moment.as_deref().unwrap_or_default());
            let _ = writeln!(page, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{moment}</text>");
        }
        page.push_str(
            "</svg>\n<p>● a restart that was needed (green) or of which it cannot be told (grey); ▲ one that was not needed; bars: deaths, for \
             as long as they lasted.</p>\n",
        );
    }

    fn table(&self, page: &mut String) {
        page.push_str("<table><thead><tr><th scope=\"col\">policy</th>");
        for (heading, _) in COLUMNS {
            let _ = write!(page, "<th scope=\"col\">{}</th>", escape(heading));
        }
        page.push_str("</tr></thead><tbody>\n");
        for result in &self.results {
            let _ = write!(
                page,
                "<tr><th scope=\"row\" title=\"{}\">{}</th>",
                escape(&result.source),
                escape(&result.policy)
            );
            for (_, cell) in COLUMNS {
                let _ = write!(page, "<td>{}</td>", escape(&cell(result)));
            }
            page.push_str("</tr>\n");
        }
        page.push_str("</tbody></table>\n");
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
