//! `keystone-agent`: serves one conversation on stdin and stdout.
//!
//! It is uploaded and started by `keystone`; nobody types its name. Without arguments it serves;
//! `--version` prints its version; `lane SOCKET` is a further connection to one that serves, see
//! [`keystone_agent::session::lane`]; `enter …` is how it starts itself in a chroot, and `shell …` is
//! a shell in the target, see [`keystone_agent::activation`].

use keystone_agent::session;
use keystone_agent::session::wire::WireError;
use std::process::ExitCode;
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    keystone_protocol::secret::keep_memory_private();
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        None => serve(),
        Some(first) if first == "--version" => {
            println!("keystone-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some(first) if first == keystone_protocol::message::LANE => {
            session::lane::lane_main(arguments)
        }
        Some(first) if first == keystone_agent::activation::SUBCOMMAND => {
            keystone_agent::activation::child_main(arguments)
        }
        Some(first) if first == keystone_agent::activation::shell::SUBCOMMAND => {
            let target = std::path::Path::new(keystone_agent::execute::machine::TARGET);
            keystone_agent::activation::shell::shell_main(target, arguments)
        }
        Some(other) => {
            eprintln!(
                "keystone-agent: unknown argument {other:?}; it takes none, `keystone` starts it"
            );
            ExitCode::from(64)
        }
    }
}

fn serve() -> ExitCode {
    // What hooks make on the target is not to depend on how somebody logged in.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let level = std::env::var("KEYSTONE_LOG").ok().and_then(|level| level.parse().ok());
    tracing_subscriber::fmt()
        .with_max_level(level.unwrap_or(LevelFilter::INFO))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        // Nobody may read it any more: no reason to die.
        .log_internal_errors(false)
        .init();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("keystone-agent: must run as root: log in as root");
        return ExitCode::FAILURE;
    }
    match session::serve::serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(WireError::Ended) => ExitCode::FAILURE,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
