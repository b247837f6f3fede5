//! `keystone`: the operator's command.

use std::process::ExitCode;

fn main() -> ExitCode {
    keystone_controller::cli::main()
}
