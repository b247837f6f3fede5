//! Hooks: shell text of the layout, run as disko runs it.
//!
//! By bash, with `set -efu`, with the attributes of what it belongs
//! to as variables (nixpkgs `lib.toShellVars`), on the running system's `PATH`. Its output is
//! handed on while it runs; any status but 0 is a failure. The text stands in a file for root
//! alone while it runs, not among arguments that every process can read; unlike disko's, it is
//! not traced (`set -x`), which would print what it expands.

use crate::block::Roots;
use crate::tool::{self, Run, Say, ToolError};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// How long a hook may take.
const BOUND: Duration = Duration::from_secs(3600);

/// A hook failed.
#[derive(Debug, Error)]
pub enum HookError {
    /// It ended with another status than 0, or there is no shell.
    #[error("the hook {hook} of the layout failed")]
    Failed {
        /// Its place in the layout.
        hook: String,
        /// How.
        #[source]
        source: ToolError,
    },
    /// Its text can't be put where the shell finds it.
    #[error("writing the hook {hook} to {}", path.display())]
    Write {
        /// Its place in the layout.
        hook: String,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A variable's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A word.
    Word(String),
    /// An array.
    List(Vec<String>),
    /// An associative array.
    Map(BTreeMap<String, String>),
}

/// Runs the hook at the place `hook` of the layout; returns once it has ended.
///
/// # Errors
/// [`HookError::Failed`] with its last words.
pub fn run(
    roots: &Roots,
    hook: &str,
    variables: &BTreeMap<String, Value>,
    script: &str,
    say: Say<'_>,
    stop: &dyn Fn() -> bool,
) -> Result<(), HookError> {
    let failed = |source| HookError::Failed { hook: hook.to_owned(), source };
    let shell = tool::need("bash").map_err(failed)?;
    let text = text(variables, script);
    let file = Script::write(roots, &text).map_err(|(path, source)| {
        let hook = hook.to_owned();
        HookError::Write { hook, path, source }
    })?;
    let run = Run::new(&shell).arg(file.path()).bound(BOUND).stopped_by(stop);
    run.run(say).map(drop).map_err(failed)
}

/// What the shell reads: variables, options, the hook.
fn text(variables: &BTreeMap<String, Value>, script: &str) -> String {
    let mut text = String::new();
    for (name, value) in variables.iter().filter(|(name, _)| is_name(name)) {
        let line = match value {
            Value::Word(word) => format!("{name}={}", quoted(word)),
            Value::List(words) => {
                let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
                format!("declare -a {name}=({})", words.join(" "))
            }
            Value::Map(map) => {
                let pairs =
                    map.iter().map(|(key, word)| format!("[{}]={}", quoted(key), quoted(word)));
                format!("declare -A {name}=({})", pairs.collect::<Vec<_>>().join(" "))
            }
        };
        let _ = writeln!(text, "{line}");
    }
    text.push_str("set -efu\n");
    text.push_str(script);
    text.push('\n');
    text
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A script in a file for root alone; gone when dropped.
struct Script(PathBuf);

impl Script {
    fn write(roots: &Roots, text: &str) -> Result<Script, (PathBuf, io::Error)> {
        let dir = roots.run.join("keystone");
        let path = dir.join(format!("hook-{:016x}", rand::random::<u64>()));
        let script = Script(path.clone());
        let write = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(text.as_bytes())
        };
        write().map(|()| script).map_err(|source| (path, source))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> BTreeMap<String, Value> {
        BTreeMap::from([
            ("device".to_owned(), Value::Word("/dev/disk/by-id/it's".to_owned())),
            ("mountOptions".to_owned(), Value::List(vec!["a b".to_owned(), "c".to_owned()])),
            (
                "options".to_owned(),
                Value::Map(BTreeMap::from([("com.sun:x".to_owned(), "1".to_owned())])),
            ),
            ("no-name".to_owned(), Value::Word("x".to_owned())),
        ])
    }

    fn run_it(script: &str) -> (Result<(), HookError>, Vec<String>, usize) {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots { run: dir.path().to_owned(), ..Roots::default() };
        let mut said = Vec::new();
        let mut say = |line: &str| said.push(line.to_owned());
        let ended =
            run(&roots, "disk.main.preCreateHook", &variables(), script, &mut say, &|| false);
        let left = fs::read_dir(dir.path().join("keystone")).unwrap().count();
        (ended, said, left)
    }

    #[test]
    fn its_variables_are_there_and_its_words_come() {
        let (ended, said, left) = run_it(
            "echo \"$device\"; echo \"${#mountOptions[@]} ${mountOptions[0]}\"\n\
             echo \"${options[com.sun:x]}\"; echo /et*; tr '\\0' ' ' < /proc/$$/cmdline; echo\n\
             type mkfs.ext4 > /dev/null",
        );
        ended.unwrap();
        assert_eq!(said[..4], ["/dev/disk/by-id/it's", "2 a b", "1", "/et*"]);
        assert!(!said[4].contains("by-id"), "{}", said[4]);
        assert_eq!(left, 0);
    }

    #[test]
    fn its_failure_is_a_failure() {
        for script in ["echo no; false; true", "echo \"$nothing\"", "exit 3"] {
            let (ended, _, left) = run_it(script);
            let error = ended.unwrap_err();
            assert!(error.to_string().starts_with("the hook disk.main.preCreateHook"), "{error}");
            assert_eq!(left, 0);
        }
    }
}
