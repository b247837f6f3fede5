//! `cargo lab`.

use std::ffi::OsString;

use anyhow::Result;
use clap::{Parser, Subcommand};
use keystone_lab::{debian, installer, lab::Lab, native, shell, system};

/// Keystone's lab
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the machines' kernel with OpenZFS
    Kernel,
    /// Build the installer's boot medium
    Medium {
        /// The one that has the tools
        #[arg(long)]
        oracle: bool,
    },
    /// Boot the live system on a blank machine and give a shell in it
    Shell {
        /// The one that has the tools
        #[arg(long)]
        oracle: bool,
        /// Run this instead
        command: Vec<String>,
    },
    /// Build a Debian root with these packages, to look at
    Root {
        /// Names of Debian packages
        packages: Vec<String>,
    },
    /// Build the reference system and its variants
    System,
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
    match command {
        Command::Kernel => {
            let kernel = debian::kernel(&Lab::open()?)?;
            println!("Linux {}, OpenZFS {}: {}", kernel.version, kernel.zfs_version, kernel.image.display());
            return Ok(());
        }
        Command::Medium { oracle } => {
            let variant = if oracle { installer::Variant::Oracle } else { installer::Variant::Installer };
            println!("{}", installer::medium(&Lab::open()?, variant)?.image.display());
            return Ok(());
        }
        Command::Shell { oracle, command } => {
            let variant = if oracle { installer::Variant::Oracle } else { installer::Variant::Installer };
            return shell::shell(&Lab::open()?, variant, &command);
        }
        Command::Root { packages } => {
            let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
            println!("{}", debian::Root::new("trial", &packages).build(&Lab::open()?)?.display());
            return Ok(());
        }
        Command::System => {
            let system = system::build(&Lab::open()?)?;
            println!("--store {} {:#?}", system.root.display(), system.toplevels);
            return Ok(());
        }
        _ => {}
    }
    let env = native::ensure(&native::default_cache())?;
    match command {
        Command::Kernel | Command::Medium { .. } | Command::Shell { .. } | Command::Root { .. } | Command::System => unreachable!("handled above"),
        Command::Native => println!(". {}/env.sh", env.prefix.display()),
        Command::Agent => println!("{}", native::build_agent(&env)?.display()),
        Command::AgentCargo { args } => native::agent_cargo(&env, args)?,
    }
    Ok(())
}
