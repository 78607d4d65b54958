//! A refusal to start: the operator has to mend something first.

use std::fmt;

/// An error that the operator has to mend, as one line. The program prints it and exits with code 2.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}
