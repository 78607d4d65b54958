//! The findings of `defib check`. They are printed as they are made, and counted for the result.

/// How many names one line has. Thousands of the same fault are still one line.
const NAMED_MAX: usize = 3;

/// How many findings of each weight there were.
#[derive(Debug, Default)]
pub(super) struct Findings {
    failed: usize,
    warned: usize,
}

impl Findings {
    /// Something is as it should be.
    pub(super) fn well(&self, what: &str, detail: &str) {
        let _ = self;
        say!("ok    {what}: {detail}");
    }

    /// Worth knowing. Nothing to mend.
    pub(super) fn note(&self, what: &str, detail: &str) {
        let _ = self;
        say!("note  {what}: {detail}");
    }

    /// Probably a mistake. Either it neither keeps a dead workspace dead nor restarts a healthy one, or somebody has chosen it.
    pub(super) fn warn(&mut self, what: &str, detail: &str) {
        self.warned += 1;
        say!("warn  {what}: {detail}");
    }

    /// It would keep a dead workspace dead, or restart a healthy one.
    pub(super) fn fail(&mut self, what: &str, detail: &str) {
        self.failed += 1;
        say!("FAIL  {what}: {detail}");
    }

    /// The last line. Whether the check passed: without failures, and with `strict` also without warnings.
    pub(super) fn conclude(&self, strict: bool) -> bool {
        let warnings = match self.warned {
            0 => String::new(),
            1 => "1 warning".to_owned(),
            n => format!("{n} warnings"),
        };
        match (self.failed, self.warned) {
            (0, 0) => say!("\nall is well"),
            (0, _) if strict => say!("\n{warnings}, and --strict counts them as failures"),
            (0, _) => say!("\nnothing fails, {warnings}"),
            (n, 0) => say!("\n{n} to mend"),
            (n, _) => say!("\n{n} to mend, {warnings}"),
        }
        self.failed == 0 && !(strict && self.warned > 0)
    }
}

/// The first few, and that there are more.
pub(super) fn some<'a>(ids: impl IntoIterator<Item = &'a str>) -> String {
    let mut ids = ids.into_iter();
    let mut named: Vec<String> = ids.by_ref().take(NAMED_MAX).map(brief).collect();
    if ids.next().is_some() {
        named.push("…".to_owned());
    }
    named.join(", ")
}

/// Somebody else's text, in a line of ours.
pub(super) fn brief(text: &str) -> String {
    crate::logging::printable(text).chars().take(64).collect()
}

/// `1 workspace`, `3 workspaces`.
pub(super) fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_are_named() {
        assert_eq!(some(["a", "b", "c"]), "a, b, c");
        assert_eq!(some(["a", "b", "c", "d"]), "a, b, c, …");
        assert_eq!(brief(&"x".repeat(100)).len(), 64);
    }

    #[test]
    fn warnings_fail_a_strict_check_only() {
        let mut findings = Findings::default();
        assert!(findings.conclude(true));
        findings.warn("fleet", "w");
        assert!(findings.conclude(false) && !findings.conclude(true));
        findings.fail("fleet", "f");
        assert!(!findings.conclude(false));
    }
}
