//! Building the agent, and making sure it is what it claims to be.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use super::{NativeEnv, TARGET, elf::is_static, workspace_root};

/// The most the stripped agent may weigh: it is uploaded over slow links.
pub const MAX_AGENT_BYTES: u64 = 14 * 1024 * 1024;

/// Builds `keystone-agent` in release mode and returns its path.
///
/// # Errors
/// If cargo fails, if the executable needs a loader or a shared library, or if
/// it is larger than [`MAX_AGENT_BYTES`].
pub fn build_agent(env: &NativeEnv) -> Result<PathBuf> {
    agent_cargo(env, ["build", "--release"])?;
    let agent = target_dir().join(TARGET).join("release/keystone-agent");
    ensure!(is_static(&agent)?, "{} needs a loader; it must be fully static", agent.display());
    let size = fs::metadata(&agent)?.len();
    ensure!(
        size <= MAX_AGENT_BYTES,
        "{} has {size} bytes; at most {MAX_AGENT_BYTES} are allowed",
        agent.display()
    );
    Ok(agent)
}

/// Builds one of the agent's examples, static as the agent is, and returns its path.
///
/// # Errors
/// If cargo fails, or if the executable needs a loader or a shared library.
pub fn build_example(env: &NativeEnv, name: &str) -> Result<PathBuf> {
    agent_cargo(env, ["build", "--quiet", "--example", name])?;
    let example = target_dir().join(TARGET).join("debug/examples").join(name);
    ensure!(is_static(&example)?, "{} needs a loader; it must be static", example.display());
    Ok(example)
}

/// Runs `cargo <command> -p keystone-agent <rest>` with the static libraries.
///
/// # Errors
/// If there is no command, or cargo does not succeed.
pub fn agent_cargo<S: AsRef<OsStr>>(
    env: &NativeEnv,
    args: impl IntoIterator<Item = S>,
) -> Result<()> {
    let mut args = args.into_iter();
    let Some(command) = args.next() else {
        bail!("say what cargo shall do with the agent, such as `test`")
    };
    let command = command.as_ref();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(cargo);
    cargo.current_dir(workspace_root()).arg(command).args(["-p", "keystone-agent"]);
    for arg in args {
        cargo.arg(arg);
    }
    let status = env.apply(&mut cargo).status().context("running cargo")?;
    ensure!(
        status.success(),
        "cargo {} of keystone-agent ended with {status}",
        command.to_string_lossy()
    );
    Ok(())
}

fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace_root().join(dir),
        None => workspace_root().join(Path::new("target")),
    }
}
