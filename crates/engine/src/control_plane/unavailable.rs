//! For which instances the control plane answers 503, and whether it is unavailable as a whole.
//!
//! The problem: a 503 does not say whom it is about. A gateway answers it for one machine whose host it cannot reach, and for every request
//! while the interface behind it is overloaded. If each 503 with a `Retry-After` were taken for the second, one broken machine would keep
//! all others from being looked at and restarted, again and again.
//!
//! The rule: a 503 for one instance is about that instance, and nothing about it is sent until its `Retry-After` is over. The whole control
//! plane is unavailable if [`INSTANCES_IN_A_ROW`] instances get a 503 with no other answer in between.
//!
//! An instance counts only if its trouble began in this row. Where there is a list, the broken instances may be the only ones that are
//! asked about one by one, so a few of them form a row after each reading of the list. If others got answers since the trouble of an
//! instance began, that trouble is its own.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// How many instances have to get a 503 in a row before the control plane counts as unavailable. Larger: one that is overloaded gets more
/// requests in vain before it is left alone. Smaller: a few instances that break at the same time, because they share a host, pause
/// everything.
pub(super) const INSTANCES_IN_A_ROW: usize = 3;

/// How long after its delay an instance in trouble is remembered if it is not asked about again. Larger: instances that have left the fleet
/// are kept in mind for longer. Smaller: where a look at everybody takes longer than this, an old trouble counts as a new one.
const REMEMBERED: Duration = Duration::from_secs(3_600);

/// The instance that a request is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instance<'a> {
    pub(crate) workspace: &'a str,
    /// What the interface calls it.
    pub(crate) reference: &'a str,
}

/// The instances whose last answer was a 503.
#[derive(Debug, Default)]
pub(super) struct Unavailable {
    /// By workspace.
    in_trouble: HashMap<Box<str>, Trouble>,
    /// Each answer other than a 503 begins a new row.
    row: u64,
}

#[derive(Debug)]
struct Trouble {
    /// The name of the instance. Another instance of the same workspace is not in trouble.
    reference: Box<str>,
    /// When a request about it may be sent again.
    until: Instant,
    /// In which row its trouble began.
    row: u64,
}

impl Unavailable {
    /// Takes note of a 503 for this instance, which is to be left alone for this long.
    pub(super) fn note(&mut self, instance: Instance<'_>, delay: Duration, now: Instant) {
        self.in_trouble.retain(|_, trouble| now < trouble.until + REMEMBERED);
        let (row, until) = match self.trouble(instance) {
            Some(known) => (known.row, known.until.max(now + delay)),
            None => (self.row, now + delay),
        };
        self.in_trouble.insert(instance.workspace.into(), Trouble { reference: instance.reference.into(), until, row });
    }

    /// Takes note of any other answer. `instance`: whom it is about, if it is about one.
    pub(super) fn answered(&mut self, instance: Option<Instance<'_>>) {
        self.row += 1;
        if let Some(instance) = instance {
            self.in_trouble.remove(instance.workspace);
        }
    }

    /// When a request about this instance may be sent. `None`: at once.
    pub(super) fn until(&self, instance: Instance<'_>, now: Instant) -> Option<Instant> {
        self.trouble(instance).map(|trouble| trouble.until).filter(|until| now < *until)
    }

    /// Whether the control plane as a whole is unavailable.
    pub(super) fn is_whole(&self) -> bool {
        self.in_trouble.values().filter(|trouble| trouble.row == self.row).count() >= INSTANCES_IN_A_ROW
    }

    fn trouble(&self, instance: Instance<'_>) -> Option<&Trouble> {
        self.in_trouble.get(instance.workspace).filter(|trouble| &*trouble.reference == instance.reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn of(workspace: &str) -> Instance<'_> {
        Instance { workspace, reference: "i-1" }
    }

    /// A small letter is a 503 for the instance of that name, a capital one is another answer about it. Returns whether the control plane
    /// counts as unavailable after each.
    fn after_each(known: &mut Unavailable, letters: &str, now: Instant) -> Vec<bool> {
        let mut found = Vec::new();
        for letter in letters.chars() {
            let name = letter.to_ascii_lowercase().to_string();
            if letter.is_ascii_uppercase() {
                known.answered(Some(of(&name)));
            } else {
                known.note(of(&name), SECOND, now);
            }
            found.push(known.is_whole());
        }
        found
    }

    #[test]
    fn different_instances_in_a_row_are_the_whole_control_plane() {
        let now = Instant::now();
        for (letters, expected) in [
            ("abc", &[false, false, true][..]),
            ("abcab", &[false, false, true, true, true]),
            ("aaaa", &[false; 4]),
            ("abab", &[false; 4]),
            ("abXcd", &[false; 5]),
            ("abXcde", &[false, false, false, false, false, true]),
            ("abcX", &[false, false, true, false]),
        ] {
            assert_eq!(after_each(&mut Unavailable::default(), letters, now), expected, "{letters}");
        }
    }

    #[test]
    fn an_instance_whose_trouble_is_older_than_the_row_does_not_count() {
        let now = Instant::now();
        for (letters, expected) in [
            ("abcXabcabc", false),
            ("abcXabcde", false),
            ("abcXabcdef", true),
            // `a` was well in between.
            ("abcXAade", true),
        ] {
            assert_eq!(after_each(&mut Unavailable::default(), letters, now).pop(), Some(expected), "{letters}");
        }
    }

    #[test]
    fn a_delay_is_that_of_one_instance_and_ends_with_its_next_answer() {
        let (mut known, now) = (Unavailable::default(), Instant::now());
        known.note(of("a"), 30 * SECOND, now);
        assert_eq!(known.until(of("a"), now + 29 * SECOND), Some(now + 30 * SECOND));
        assert_eq!(known.until(of("a"), now + 30 * SECOND), None);
        assert_eq!(known.until(of("b"), now), None);
        assert_eq!(known.until(Instance { workspace: "a", reference: "i-2" }, now), None, "another instance");
        known.note(of("a"), 10 * SECOND, now);
        assert_eq!(known.until(of("a"), now), Some(now + 30 * SECOND), "the longer of two delays holds");
        known.answered(Some(of("a")));
        assert_eq!(known.until(of("a"), now), None);
    }

    #[test]
    fn those_that_nobody_asks_about_any_more_are_forgotten() {
        let (mut known, now) = (Unavailable::default(), Instant::now());
        known.note(of("a"), SECOND, now);
        known.note(of("b"), SECOND, now + REMEMBERED);
        assert_eq!(known.in_trouble.len(), 2);
        known.note(of("b"), SECOND, now + REMEMBERED + SECOND);
        assert_eq!(known.in_trouble.len(), 1);
    }
}
