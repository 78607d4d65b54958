//! Writing in batches, of which one row may be refused. The batch is halved until the refused row is alone, so that all others are written.

use std::ops::Range;
use std::time::Duration;

/// How many rows one transaction writes. Larger: other replicas wait longer for its locks. Smaller: a mass death takes more round trips.
const BATCH_MAX: usize = 2_000;

/// How many refusals one call accepts. To find a single bad row in a whole batch takes eleven. If most rows are refused, because somebody
/// added a constraint to the table, the rest of the batch is given up after this many.
const REFUSALS_MAX: usize = 128;

/// How long a transaction that records waits for one lock. That may be short: nobody waits for what is recorded, and it is tried again.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_millis(250);

/// When the process is frozen in the middle of a transaction, the server ends that transaction after this time, and so releases its locks.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// Which part of a batch to write next.
#[derive(Debug)]
pub(crate) struct Halving {
    waiting: Vec<Range<usize>>,
    refusals: usize,
}

impl Halving {
    /// For a batch of `rows` rows.
    pub(crate) fn new(rows: usize) -> Self {
        let starts = (0..rows).step_by(BATCH_MAX).rev();
        Self { waiting: starts.map(|start| start..rows.min(start + BATCH_MAX)).collect(), refusals: 0 }
    }

    /// The next part to write; `None`: all has been written or given up.
    pub(crate) fn next(&mut self) -> Option<Range<usize>> {
        self.waiting.pop()
    }

    /// Takes note that the database refused this part because of the content of one of its rows. Returns the rows that are given up: the
    /// row itself if it was alone, and the whole part once there were too many refusals.
    pub(crate) fn refused(&mut self, part: Range<usize>) -> Range<usize> {
        self.refusals += 1;
        if part.len() <= 1 || self.refusals >= REFUSALS_MAX {
            return part;
        }
        let middle = part.start + part.len() / 2;
        self.waiting.push(middle..part.end);
        self.waiting.push(part.start..middle);
        part.start..part.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which rows are written and which are given up, and how many transactions that takes.
    fn write(rows: usize, is_at_fault: impl Fn(usize) -> bool) -> (usize, Vec<usize>, usize) {
        let mut halving = Halving::new(rows);
        let (mut written, mut given_up, mut transactions) = (0, Vec::new(), 0);
        while let Some(part) = halving.next() {
            transactions += 1;
            if part.clone().any(&is_at_fault) {
                given_up.extend(halving.refused(part));
            } else {
                written += part.len();
            }
        }
        (written, given_up, transactions)
    }

    #[test]
    fn an_empty_batch_is_nothing_to_write() {
        assert_eq!(write(0, |_| true), (0, vec![], 0));
    }

    #[test]
    fn a_large_batch_is_written_in_parts() {
        assert_eq!(write(5_000, |_| false), (5_000, vec![], 3));
    }

    #[test]
    fn one_row_at_fault_costs_that_row() {
        let (written, given_up, transactions) = write(2_000, |row| row == 777);
        assert_eq!((written, given_up), (1_999, vec![777]));
        assert!(transactions <= 24, "{transactions}");
    }

    #[test]
    fn where_every_row_is_at_fault_the_work_is_bounded_and_every_row_is_told() {
        let (written, given_up, transactions) = write(20_000, |_| true);
        assert_eq!((written, given_up.len()), (0, 20_000));
        assert!(transactions < 400, "{transactions}");
    }
}
