//! `extraFormatArgs` and `extraOpenArgs` of a container: cryptsetup's options, typed.
//!
//! The container is made by libcryptsetup, so every option is understood or refused. Source:
//! cryptsetup-luksFormat(8), cryptsetup-open(8).

use super::error::{LayoutError, closest};
use super::partition_type::is_guid;
use super::{read::Object, shell_words};
use crate::plan::{LuksFormat, LuksOpen};
use std::str::FromStr;

const FORMAT: [&str; 13] = [
    "--cipher",
    "--hash",
    "--iter-time",
    "--key-size",
    "--label",
    "--pbkdf",
    "--pbkdf-force-iterations",
    "--pbkdf-memory",
    "--pbkdf-parallel",
    "--sector-size",
    "--subsystem",
    "--type",
    "--uuid",
];

const OPEN: [&str; 6] = [
    "--allow-discards",
    "--perf-no_read_workqueue",
    "--perf-no_write_workqueue",
    "--perf-same_cpu_crypt",
    "--perf-submit_from_crypt_cpus",
    "--persistent",
];

/// Reads `extraFormatArgs`.
pub(super) fn format(object: &mut Object<'_>) -> Result<LuksFormat, LayoutError> {
    let path = object.path_of("extraFormatArgs");
    let mut words = shell_words::split(object, "extraFormatArgs")?.into_iter();
    let mut format = LuksFormat::default();
    while let Some(word) = words.next() {
        let (option, value) = match word.split_once('=') {
            Some((option, value)) => (option.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        // Options without a value that change nothing here.
        if ["-q", "--batch-mode", "--verify-passphrase", "-y"].contains(&option.as_str()) {
            continue;
        }
        let name = long(&option);
        if !FORMAT.contains(&name) {
            return Err(unknown(path, &option, &FORMAT));
        }
        let Some(value) = value.or_else(|| words.next()) else {
            return Err(LayoutError::invalid(path, format!("{option} has no value")));
        };
        let set = set(&mut format, name, &value);
        set.map_err(|problem| {
            LayoutError::invalid(path.clone(), format!("{option} {value}: {problem}"))
        })?;
    }
    Ok(format)
}

fn set(format: &mut LuksFormat, option: &str, value: &str) -> Result<(), String> {
    let text = || Some(value.to_owned());
    match option {
        "--type" => {
            format.version = Some(match value {
                "luks" | "luks2" => 2,
                "luks1" => 1,
                _ => return Err("only luks1 and luks2 are supported".to_owned()),
            });
        }
        "--cipher" => format.cipher = text(),
        "--hash" => format.hash = text(),
        "--key-size" => format.key_size = Some(number(value)?),
        "--sector-size" => {
            let size = number(value)?;
            if ![512, 1024, 2048, 4096].contains(&size) {
                return Err("a sector has 512, 1024, 2048 or 4096 bytes".to_owned());
            }
            format.sector_size = Some(size);
        }
        "--label" => format.label = text(),
        "--subsystem" => format.subsystem = text(),
        "--uuid" if is_guid(value) => format.uuid = Some(value.to_ascii_lowercase()),
        "--uuid" => return Err("is not a UUID".to_owned()),
        "--pbkdf" if ["argon2id", "argon2i", "pbkdf2"].contains(&value) => {
            format.pbkdf.kind = text();
        }
        "--pbkdf" => return Err("is not argon2id, argon2i or pbkdf2".to_owned()),
        "--iter-time" => format.pbkdf.iter_time = Some(number(value)?),
        "--pbkdf-force-iterations" => format.pbkdf.iterations = Some(number(value)?),
        "--pbkdf-memory" => format.pbkdf.memory = Some(number(value)?),
        "--pbkdf-parallel" => format.pbkdf.parallel = Some(number(value)?),
        _ => unreachable!("the option is one of FORMAT"),
    }
    Ok(())
}

fn number<T: FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| "is not a number".to_owned())
}

/// cryptsetup's one-letter names.
fn long(option: &str) -> &str {
    match option {
        "-c" => "--cipher",
        "-h" => "--hash",
        "-i" => "--iter-time",
        "-s" => "--key-size",
        "-M" => "--type",
        other => other,
    }
}

/// Reads `extraOpenArgs`.
pub(super) fn open(object: &mut Object<'_>) -> Result<LuksOpen, LayoutError> {
    let path = object.path_of("extraOpenArgs");
    let mut open = LuksOpen::default();
    let mut words = shell_words::split(object, "extraOpenArgs")?.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--allow-discards" => open.allow_discards = true,
            "--perf-no_read_workqueue" => open.no_read_workqueue = true,
            "--perf-no_write_workqueue" => open.no_write_workqueue = true,
            "--perf-same_cpu_crypt" => open.same_cpu_crypt = true,
            "--perf-submit_from_crypt_cpus" => open.submit_from_crypt_cpus = true,
            // It is persistent anyway, as with disko.
            "--persistent" => {}
            // How long and how often cryptsetup asks; it does not ask here.
            "--timeout" | "-t" | "--tries" | "-T" => {
                words.next();
            }
            word if word.starts_with("--timeout=") || word.starts_with("--tries=") => {}
            other => return Err(unknown(path, other, &OPEN)),
        }
    }
    Ok(open)
}

fn unknown(path: String, option: &str, known: &[&'static str]) -> LayoutError {
    let near = closest(option, known.iter().copied())
        .map_or(String::new(), |near| format!(" (the closest supported one is {near})"));
    LayoutError::not_supported(path, format!("the option {option} of cryptsetup{near} is"))
}
