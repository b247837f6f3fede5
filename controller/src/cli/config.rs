//! `keystone.toml`: defaults of options, for all hosts and for each.
//!
//! ```toml
//! [defaults]
//! identity = ["/home/me/.ssh/lab"]
//!
//! [host.nas]
//! flake = ".#nas"
//! disk = ["root=nvme-Samsung_SSD_990_PRO_2TB_S7"]
//! chown = [["/home/alice", "alice:users"]]
//! ```
//!
//! Keys are the options' long names. What stands on the command line wins, also over a default
//! that contradicts it. Agreement to a plan is given on the command line only.

use super::args::Cli;
use crate::ssh::Address;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;
use toml::{Table, Value};

/// The file that is read if it is there.
const FILE: &str = "keystone.toml";
/// Options that mean agreement, or are for tests.
const NOT_HERE: &[&str] = &[
    "yes",
    "plan-hash",
    "disk-id",
    "end-system",
    "erase",
    "skip-seal-for-tests",
    "config",
    "help",
];
/// Options of which only one is taken.
const ALTERNATIVES: &[&[&str]] = &[
    &["store-path", "store-paths", "flake"],
    &["from", "flake"],
    &["from", "store"],
    &["fetch", "flake"],
    &["fetch", "store"],
    &["phases", "no-reboot", "stop-after-disko"],
    &["ssh-password-file", "env-password"],
];

/// The file can't be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no TOML.
    #[error("{} can't be understood: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
    /// Something in it has no meaning.
    #[error("{}: {what}", path.display())]
    Meaning {
        /// The file.
        path: PathBuf,
        /// What, a sentence.
        what: String,
    },
}

/// The arguments, with the file's defaults for the host that they name put before them.
///
/// # Errors
/// There is a file, and it can't be used.
pub fn with_defaults(argv: Vec<OsString>) -> Result<Vec<OsString>, ConfigError> {
    let mut command = Cli::command().ignore_errors(true);
    command.build();
    let Ok(matches) = command.clone().try_get_matches_from(&argv) else { return Ok(argv) };
    let Some((name, given)) = matches.subcommand() else { return Ok(argv) };
    let Some(command) = command.find_subcommand(name) else { return Ok(argv) };
    // Commands that concern no machine have no defaults.
    if !command.get_arguments().any(|arg| arg.get_id() == "destination") {
        return Ok(argv);
    }
    let (path, named) = match given.get_one::<PathBuf>("config") {
        Some(path) => (path.clone(), true),
        None => (PathBuf::from(FILE), false),
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !named => return Ok(argv),
        Err(source) => return Err(ConfigError::Read { path, source }),
    };
    let host = |id| given.get_one::<Address>(id).map(|address| address.host.as_str());
    let host = host("destination").or_else(|| host("target_host"));
    let defaults = defaults(&path, &text, host, command, given)?;
    // After the program and the command.
    let at = argv.len().min(2);
    let mut all = argv;
    all.splice(at..at, defaults);
    Ok(all)
}

fn defaults(
    path: &Path,
    text: &str,
    host: Option<&str>,
    command: &Command,
    given: &ArgMatches,
) -> Result<Vec<OsString>, ConfigError> {
    let meaning = |what: String| ConfigError::Meaning { path: path.to_owned(), what };
    let file: Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
        path: path.to_owned(),
        message: error.to_string().trim().to_owned(),
    })?;
    let table = |value: &Value, name: &str| {
        let table = value.as_table().cloned();
        table.ok_or_else(|| meaning(format!("{name} has to be a table: [{name}]")))
    };
    let mut merged = Table::new();
    for (key, value) in &file {
        match key.as_str() {
            "defaults" => merged.extend(table(value, "defaults")?),
            "host" => drop(table(value, "host")?),
            other => {
                return Err(meaning(format!(
                    "there is no [{other}], only [defaults] and [host.NAME]"
                )));
            }
        }
    }
    let hosts = file.get("host").and_then(Value::as_table);
    if let Some(own) = host.and_then(|host| hosts?.get(host)) {
        let own = table(own, &format!("host.{}", host.unwrap_or_default()))?;
        merged.retain(|key, _| !own.keys().any(|other| excludes(other, key)));
        merged.extend(own);
    }
    let mut arguments = Vec::new();
    for (key, value) in &merged {
        if NOT_HERE.contains(&key.as_str()) {
            let what = format!("{key} is given on the command line, each time, or not at all");
            return Err(meaning(what));
        }
        let find = |command: &Command| {
            command.get_arguments().find(|arg| arg.get_long() == Some(key)).cloned()
        };
        let Some(arg) = find(command) else {
            // Other commands may have it.
            let all = Cli::command();
            if all.get_subcommands().any(|command| find(command).is_some()) {
                continue;
            }
            return Err(meaning(unknown(key, command)));
        };
        if !is_given(&arg, command, given) {
            arguments.extend(option(key, &arg, value).map_err(&meaning)?);
        }
    }
    Ok(arguments)
}

/// Whether an option on the command line leaves no room for this one.
fn is_given(arg: &Arg, command: &Command, given: &ArgMatches) -> bool {
    let long = arg.get_long().unwrap_or_default();
    command.get_arguments().any(|other| {
        let on_line = given.try_contains_id(other.get_id().as_str()).unwrap_or(false)
            && given.value_source(other.get_id().as_str()) == Some(ValueSource::CommandLine);
        let same = other.get_id() == arg.get_id();
        let contradicts = excludes(other.get_long().unwrap_or_default(), long)
            || command.get_arg_conflicts_with(arg).iter().any(|c| c.get_id() == other.get_id());
        on_line && (same || contradicts)
    })
}

fn excludes(one: &str, other: &str) -> bool {
    one != other && ALTERNATIVES.iter().any(|set| set.contains(&one) && set.contains(&other))
}

fn unknown(key: &str, command: &Command) -> String {
    let names = command.get_arguments().filter_map(Arg::get_long);
    let near = names.map(|name| (strsim::jaro_winkler(name, key), name));
    let best = near.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(likeness, _)| *likeness > 0.8);
    match best {
        Some((_, name)) => format!("there is no option {key}; {name}, perhaps?"),
        None => format!("there is no option {key}: keys are the long names of options"),
    }
}

fn option(key: &str, arg: &Arg, value: &Value) -> Result<Vec<OsString>, String> {
    let words = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        _ => Err(format!("{key} has to be a string or a number, or an array of those")),
    };
    let flag = format!("--{key}");
    if !arg.get_action().takes_values() {
        return match value {
            Value::Boolean(true) => Ok(vec![flag.into()]),
            Value::Boolean(false) => Ok(Vec::new()),
            _ => Err(format!("{key} has to be true or false")),
        };
    }
    let pair = arg.get_num_args().is_some_and(|range| range.min_values() == 2);
    if pair {
        let values = value.as_array().ok_or_else(|| format!("{key} has to be an array"))?;
        let pairs: Vec<&Value> = match values.first() {
            Some(Value::Array(_)) => values.iter().collect(),
            _ => vec![value],
        };
        let mut out = Vec::new();
        for pair in pairs {
            match pair.as_array().map(Vec::as_slice) {
                Some([first, second]) => {
                    out.extend([flag.clone().into(), words(first)?.into(), words(second)?.into()]);
                }
                _ => return Err(format!("{key} takes two values: [\"…\", \"…\"]")),
            }
        }
        return Ok(out);
    }
    let values = match value {
        Value::Array(values) => values.iter().map(words).collect::<Result<Vec<_>, _>>()?,
        one => vec![words(one)?],
    };
    Ok(values.into_iter().map(|value| format!("{flag}={value}").into()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command, InstallArgs};
    use clap::Parser;

    fn argv(text: &str, given: &[&str]) -> Result<Vec<OsString>, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keystone.toml");
        std::fs::write(&file, text).unwrap();
        let mut argv: Vec<OsString> = ["keystone", "install"].map(OsString::from).into();
        argv.extend(given.iter().map(OsString::from));
        argv.extend(["--config".into(), file.into()]);
        with_defaults(argv)
    }

    fn install(text: &str, given: &[&str]) -> InstallArgs {
        match Cli::try_parse_from(argv(text, given).unwrap()).unwrap().command {
            Command::Install(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    const TEXT: &str = r#"
        [defaults]
        port = 2222
        identity = ["a", "b"]
        store-path = "./result"
        layout = "layout.json"
        expect = "of another command"
        store = "/elsewhere"
        [host.nas]
        flake = ".#nas"
        chown = [["/home/a b", "a:users"], ["/srv", "1"]]
        copy-host-keys = true
        no-reboot = true
        [host.other]
        boot-timeout = 5
    "#;

    #[test]
    fn hosts_have_defaults_and_the_command_line_wins() {
        let args = install(TEXT, &["root@nas"]);
        assert_eq!(args.link.port, Some(2222));
        assert_eq!(args.system.flake.unwrap().to_string(), ".#nas");
        assert_eq!(args.system.origin.store_path, None, "nas has a flake instead");
        assert_eq!(args.system.additions.chown, ["/home/a b", "a:users", "/srv", "1"]);
        assert!(args.system.additions.copy_host_keys && args.phases.no_reboot);

        let line = ["root@nas", "--store-path", "x", "-p", "22", "--phases", "disko", "-i", "c"];
        let args = install(TEXT, &line);
        assert_eq!(args.system.origin.store_path, Some("x".into()));
        assert_eq!((args.system.flake, args.link.port), (None, Some(22)));
        assert!(!args.phases.no_reboot);
        assert_eq!(args.link.identities, [PathBuf::from("c")]);

        let args = install(TEXT, &["root@nas", "--from", "https://cache.example"]);
        assert_eq!((args.system.flake, args.system.origin.place.store), (None, "/".into()));

        let args = install(TEXT, &["--target-host", "root@other"]);
        assert_eq!((args.boot_timeout, args.system.flake), (5, None));
    }

    #[test]
    fn what_has_no_meaning_is_named() {
        let said = |text: &str| argv(text, &["root@nas"]).unwrap_err().to_string();
        assert!(said("[defaults]\nstore-pat = 'x'").contains("store-path, perhaps?"));
        assert!(said("[defaults]\nyes = true").contains("on the command line"));
        assert!(said("[hosts.nas]\n").contains("[host.NAME]"));
        assert!(said("[defaults]\nno-reboot = 1").contains("true or false"));
        assert!(said("[defaults]\nchown = ['/a']").contains("two values"));
        assert!(said("[defaults").contains("can't be understood"));
        assert!(said("[host]\nnas = 1").contains("[host.nas]"));
    }
}
