//! The same program as `defib`, with places in it where the crash tests let it die (feature `failpoints`). Never shipped.

use std::process::ExitCode;

fn main() -> ExitCode {
    defib_daemon::main()
}
