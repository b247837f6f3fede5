//! `keystone`: the operator's command.

use std::process::ExitCode;

fn main() -> ExitCode {
    keystone_protocol::secret::keep_memory_private();
    if let Some(code) = keystone_controller::flake::relay::called() {
        return code;
    }
    keystone_controller::cli::main()
}
