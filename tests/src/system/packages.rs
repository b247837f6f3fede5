//! Which Debian packages make up the reference system, and in what order.
//!
//! Dependencies are read from the packages' own control files (Debian Policy 7.1).
//! Of alternatives, the first that was downloaded counts. Nix builds only what has
//! no cycle, and Debian has some (libc6 and libgcc-s1): the dependency that closes
//! one is dropped, and found at run time through the merged tree.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::run;

/// A package, as `default.nix` takes it.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub(super) struct Package {
    /// Its Debian name.
    pub(super) name: String,
    /// Its version, in the characters a store path may have.
    pub(super) version: String,
    /// The file, as the builder sees it.
    pub(super) deb: String,
    /// Hash of the file, so that another file is another store path.
    pub(super) blake3: String,
    /// Names of packages that come earlier.
    pub(super) deps: Vec<String>,
}

/// What a control file says.
#[derive(Debug, Default, Clone)]
struct Control {
    file: String,
    blake3: String,
    version: String,
    /// Groups of alternatives.
    depends: Vec<Vec<String>>,
}

/// Names in the list of packages, without its comments.
pub(super) fn wanted(list: &str) -> Vec<&str> {
    list.lines()
        .flat_map(|line| line.split('#').next().unwrap_or_default().split_whitespace())
        .collect()
}

/// All packages in `debs`, each after the ones it depends on. `seen_as` is that
/// directory's path in the builder.
///
/// # Errors
/// A file cannot be read, or `dpkg-deb` refuses it.
pub(super) fn read(debs: &Path, seen_as: &str) -> Result<Vec<Package>> {
    let mut controls = BTreeMap::new();
    let mut provides: BTreeMap<String, String> = BTreeMap::new();
    let mut files: Vec<_> = fs::read_dir(debs)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    files.retain(|p| p.extension().is_some_and(|e| e == "deb"));
    files.sort();
    for path in files {
        let text = run::text(Command::new("dpkg-deb").arg("--field").arg(&path))?;
        let fields = fields(&text);
        let get = |name: &str| fields.get(name).copied().unwrap_or_default();
        let name = get("Package").to_owned();
        let mut depends = groups(get("Pre-Depends"));
        depends.extend(groups(get("Depends")));
        for provided in groups(get("Provides")).into_iter().flatten() {
            provides.entry(provided).or_insert_with(|| name.clone());
        }
        let base = path.file_name().unwrap_or_default().to_string_lossy();
        let control = Control {
            file: format!("{seen_as}/{base}"),
            blake3: blake3::hash(&fs::read(&path)?).to_hex().to_string(),
            version: store_version(get("Version")),
            depends,
        };
        controls.insert(name, control);
    }
    Ok(order(&controls, &provides))
}

/// The fields of a control file that take one line.
fn fields(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter(|l| !l.starts_with(' ')).filter_map(|l| l.split_once(": ")).collect()
}

/// `a (>= 1) | b:any, c` as `[[a, b], [c]]`.
fn groups(field: &str) -> Vec<Vec<String>> {
    let name = |text: &str| {
        let word = text.split_whitespace().next()?;
        Some(word.split(':').next().unwrap_or(word).to_owned())
    };
    field
        .split(',')
        .map(|group| group.split('|').filter_map(name).collect::<Vec<_>>())
        .filter(|group| !group.is_empty())
        .collect()
}

/// A Debian version without its epoch, in the characters Nix allows in a name
/// (Nix manual, "Store Path": `0-9a-zA-Z+-._?=`).
fn store_version(version: &str) -> String {
    let version = version.split_once(':').map_or(version, |(_, v)| v);
    version
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "+._?=-".contains(c) { c } else { '-' })
        .collect()
}

fn order(
    controls: &BTreeMap<String, Control>,
    provides: &BTreeMap<String, String>,
) -> Vec<Package> {
    struct Walk<'a> {
        controls: &'a BTreeMap<String, Control>,
        provides: &'a BTreeMap<String, String>,
        open: BTreeSet<&'a str>,
        done: BTreeSet<&'a str>,
        ordered: Vec<Package>,
    }
    impl<'a> Walk<'a> {
        fn resolve(&self, group: &'a [String]) -> Option<&'a str> {
            group.iter().find_map(|name| {
                let name = if self.controls.contains_key(name) {
                    name
                } else {
                    self.provides.get(name)?
                };
                self.controls.get_key_value(name).map(|(k, _)| k.as_str())
            })
        }

        fn visit(&mut self, name: &'a str) {
            self.open.insert(name);
            let control = &self.controls[name];
            let mut deps: Vec<String> = Vec::new();
            for group in &control.depends {
                let Some(dep) = self.resolve(group) else { continue };
                if self.open.contains(dep) || deps.iter().any(|d| d == dep) {
                    continue;
                }
                if !self.done.contains(dep) {
                    self.visit(dep);
                }
                deps.push(dep.to_owned());
            }
            self.open.remove(name);
            self.done.insert(name);
            self.ordered.push(Package {
                name: name.to_owned(),
                version: control.version.clone(),
                deb: control.file.clone(),
                blake3: control.blake3.clone(),
                deps,
            });
        }
    }
    let mut walk = Walk {
        controls,
        provides,
        open: BTreeSet::new(),
        done: BTreeSet::new(),
        ordered: Vec::new(),
    };
    for name in controls.keys() {
        if !walk.done.contains(name.as_str()) {
            walk.visit(name);
        }
    }
    walk.ordered
}

/// The list in `tests/system/packages`.
///
/// # Errors
/// It cannot be read.
pub(super) fn list(expressions: &Path) -> Result<String> {
    fs::read_to_string(expressions.join("packages"))
        .context("reading the list of the reference system's packages")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(depends: &str) -> Control {
        Control { depends: groups(depends), ..Control::default() }
    }

    #[test]
    fn lists_have_comments() {
        assert_eq!(wanted("# all\na b # c\n\nd"), ["a", "b", "d"]);
    }

    #[test]
    fn a_dependency_field_is_groups_of_names() {
        assert_eq!(
            groups("a (>= 1) | b:any, c"),
            [vec!["a".to_owned(), "b".to_owned()], vec!["c".to_owned()]]
        );
        assert!(groups("").is_empty());
    }

    #[test]
    fn versions_become_names() {
        assert_eq!(store_version("1:9.2~rc1-1~deb13u1"), "9.2-rc1-1-deb13u1");
        assert_eq!(store_version("2.3+dfsg-1"), "2.3+dfsg-1");
    }

    #[test]
    fn every_package_comes_after_its_dependencies_and_cycles_are_cut() {
        let controls = BTreeMap::from([
            ("app".to_owned(), control("virtual | lib, missing")),
            ("lib".to_owned(), control("libc")),
            ("libc".to_owned(), control("libgcc")),
            ("libgcc".to_owned(), control("libc")),
        ]);
        let provides = BTreeMap::from([("virtual".to_owned(), "lib".to_owned())]);
        let ordered = order(&controls, &provides);
        let names: Vec<_> = ordered.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["libgcc", "libc", "lib", "app"]);
        assert_eq!(ordered[3].deps, ["lib"]);
        assert_eq!(ordered[1].deps, ["libgcc"]);
        assert!(ordered[0].deps.is_empty(), "the cycle is cut where it closes");
    }
}
