//! `keystone`: the operator's command.

use std::process::ExitCode;

fn main() -> ExitCode {
    keystone_protocol::secret::keep_memory_private();
    keystone_controller::cli::main()
}
