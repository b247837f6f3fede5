//! A deterministic closure, made of this machine's installed packages.
//!
//! One store path for each of about 185 packages with their dependencies as references, a hundred
//! paths of one small file, a farm of links, a single file of 200 MB, thousands of tiny files,
//! odd names, and two generations of a top that refers to all of it.

use super::place::Place;
use crate::lab::timed;
use crate::run::{run, text};
use anyhow::{Result, ensure};
use std::fmt;
use std::fs;
use std::process::Command;

const MAKE: &str = include_str!("closure.sh");
const REGISTER: &str = include_str!("register.sh");

/// A closure in the store below `/bench/source`.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its top.
    pub toplevel: String,
    /// A file, inside the root, with all its paths, one a line.
    pub list: String,
    /// How many they are.
    pub paths: usize,
}

/// Both generations.
#[derive(Debug, Clone)]
pub struct Made {
    /// The one that is copied first.
    pub first: Part,
    /// The one of which about a twentieth is new.
    pub second: Part,
    /// What is new in it, with its top.
    pub new: Part,
    what: String,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// Makes it, unless it was made by an earlier run.
///
/// # Errors
/// The machine has too few packages, or Nix does not take what was made.
pub fn make(place: &Place) -> Result<Made> {
    let source = place.work().join("source");
    let stamp = place.work().join("source.made");
    let key = blake3::hash(format!("{MAKE}{REGISTER}").as_bytes()).to_hex().to_string();
    if fs::read_to_string(&stamp).unwrap_or_default() != key {
        timed("make the closure to copy", || {
            let script = place.work().join("closure.sh");
            fs::write(&script, MAKE)?;
            run(Command::new("bash").arg(&script).arg(&source))?;
            run(&mut place.shell(REGISTER))?;
            Ok(())
        })?;
        fs::write(&stamp, &key)?;
    }
    let part = |generation: u32| -> Result<Part> {
        let list = format!("/bench/source/list.{generation}");
        let paths = fs::read_to_string(place.at(&list))?.lines().count();
        let toplevel = fs::read_to_string(place.at(&format!("{list}.top")))?.trim().to_owned();
        ensure!(paths > 100, "the closure has {paths} paths: too few packages are installed");
        Ok(Part { toplevel, list, paths })
    };
    let (first, second) = (part(1)?, part(2)?);
    let count = |query: &str| {
        text(place.shell(&format!("cd /bench/source/nix/store; sed s,^/nix/store/,, {} | xargs -I{{}} find {{}} {query} -printf . | wc -c", first.list)).stdin(std::process::Stdio::null()))
    };
    let size = text(&mut place.shell(&format!(
        "nix-store --store 'local?root=/bench/source' -q --size $(cat {}) | awk '{{s+=$1}} END {{print s}}'",
        first.list
    )))?;
    let list = "/bench/source/list.new".to_owned();
    let fresh = text(&mut place.shell(&format!(
        "comm -13 <(sort {}) <(sort {}) > {list}; xargs nix-store --store 'local?root=/bench/source' -q --size < {list} | awk '{{s+=$1}} END {{print s}}'",
        first.list, second.list
    )))?;
    let paths = fs::read_to_string(place.at(&list))?.lines().count();
    let new = Part { toplevel: second.toplevel.clone(), list, paths };
    let what = format!(
        "closure: {} paths, {size} NAR bytes, {} files, {} links, {} directories; second generation: {fresh} NAR bytes are new",
        first.paths,
        count("-type f")?,
        count("-type l")?,
        count("-type d")?
    );
    Ok(Made { first, second, new, what })
}
