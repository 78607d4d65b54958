//! How many files this process may have open: connections are files too.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// With fewer files than this, little is left for the engines and the database once the metrics' port has taken its share.
pub(crate) const FILES_WANTED: u64 = 1_024;

/// Raises the soft limit to the hard one, which needs no privilege. This is done before anything is opened. If the system refuses, the
/// limit stays as it was, and `defib check` says how much that is.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// How many files this process may have open; `None`: without a limit.
pub(crate) fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// How many files it has open now, if the system tells.
pub(crate) fn open() -> Option<u64> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
    // The directory that was just read is one of them.
    u64::try_from(open).ok().map(|open| open.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        raise_limit();
        assert_eq!(limit(), getrlimit(Resource::Nofile).maximum);
        assert!(open().is_none_or(|open| open > 0 && limit().is_none_or(|limit| open <= limit)));
    }
}
