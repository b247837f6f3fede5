//! `cargo lab`.

use std::ffi::OsString;

use anyhow::Result;
use clap::{Parser, Subcommand};
use keystone_lab::native;

/// Keystone's lab
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the static C libraries that the agent links
    Native,
    /// Build the release agent and check that it is static and small enough
    Agent,
    /// Run a cargo command on the agent's crate with those libraries
    AgentCargo {
        /// Such as `test luks::` or `clippy --all-targets`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        args: Vec<OsString>,
    },
}

fn main() -> Result<()> {
    let Cli { command } = Cli::parse();
    let env = native::ensure(&native::default_cache())?;
    match command {
        Command::Native => println!(". {}/env.sh", env.prefix.display()),
        Command::Agent => println!("{}", native::build_agent(&env)?.display()),
        Command::AgentCargo { args } => native::agent_cargo(&env, args)?,
    }
    Ok(())
}
