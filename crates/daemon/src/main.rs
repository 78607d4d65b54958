//! defib restarts the workspaces that are really dead, and no others.

use std::process::ExitCode;

fn main() -> ExitCode {
    defib_daemon::main()
}
