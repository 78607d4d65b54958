//! How the demo speaks: short lines with aligned times. Colour on a terminal only, and not where `NO_COLOR` is set.

use std::io::{IsTerminal as _, Stdout, Write as _};
use std::time::{Duration, Instant};

/// Columns of a line of speech, margin included.
const WIDTH: usize = 110;

/// What stands before the text of a line: the time and who speaks.
const MARGIN: usize = 21;

/// How a word looks on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Plain,
    Dim,
    Bold,
    Good,
    Bad,
    Doubtful,
}

impl Look {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Dim => "2",
            Self::Bold => "1",
            Self::Good => "1;32",
            Self::Bad => "1;31",
            Self::Doubtful => "1;33",
        }
    }
}

/// Standard output, and the time since the demo began.
#[derive(Debug)]
pub(crate) struct Voice {
    output: Stdout,
    colour: bool,
    began: Instant,
}

impl Voice {
    pub(crate) fn new() -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|word| word.is_empty());
        Self { output: std::io::stdout(), colour, began: Instant::now() }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// A line as it is. Nobody may be reading any more (`| head`): the show goes on, because it also cleans up.
    pub(crate) fn print(&self, text: &str) {
        let _ = writeln!(self.output.lock(), "{text}");
    }

    /// The beginning of a part.
    pub(crate) fn title(&self, number: Option<usize>, text: &str) {
        let number = number.map_or_else(String::new, |number| format!("{number}  "));
        self.print(&format!("\n{}", self.paint(Look::Bold, &format!("{number}{text}"))));
    }

    /// Something that happened `at` a time: who did it, and the sentence.
    pub(crate) fn line(&self, at: Duration, who: &str, text: &str) {
        self.line_about(at, who, text, (Look::Plain, ""));
    }

    /// The same, with one word in the sentence that matters.
    pub(crate) fn line_about(&self, at: Duration, who: &str, text: &str, (look, word): (Look, &str)) {
        let time = self.paint(Look::Dim, &format!("{:>7.2} s", at.as_secs_f64()));
        let lines = wrap(text, WIDTH - MARGIN);
        for (n, line) in lines.iter().enumerate() {
            if n == 0 {
                let line = line.replacen(word, &self.paint(look, word), 1);
                self.print(&format!("{time}  {who:<9} {line}"));
            } else {
                self.print(&format!("{:MARGIN$}{line}", ""));
            }
        }
    }

    /// A promise that was kept.
    pub(crate) fn kept(&self, text: &str) {
        for (n, line) in wrap(text, WIDTH - MARGIN).iter().enumerate() {
            let mark = if n == 0 { self.paint(Look::Good, "ok") } else { "  ".to_owned() };
            self.print(&format!("       {mark}{:12}{line}", ""));
        }
    }

    /// A promise that was broken, or another reason to give up.
    pub(crate) fn failed(&self, text: &str) {
        self.print(&format!("\n{}  {text}", self.paint(Look::Bad, "failed")));
    }

    pub(crate) fn paint(&self, look: Look, text: &str) -> String {
        if self.colour && look != Look::Plain && !text.is_empty() {
            format!("\x1b[{}m{text}\x1b[0m", look.code())
        } else {
            text.to_owned()
        }
    }
}

/// Breaks a text between words. Never empty.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        let is_first = line.is_empty();
        if !is_first && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !is_first {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_breaks_between_words_and_a_long_word_stays_whole() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("antidisestablishment one", 7), ["antidisestablishment", "one"]);
        assert_eq!(wrap("", 7), [""]);
    }

    #[test]
    fn without_a_terminal_there_is_no_colour() {
        let voice = Voice { colour: false, ..Voice::new() };
        assert_eq!(voice.paint(Look::Bad, "dead"), "dead");
    }
}
