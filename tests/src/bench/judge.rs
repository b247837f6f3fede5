//! Whether what arrived is what was sent, by real Nix and by `find`.

use super::closure::Part;
use super::place::Place;
use crate::run::text;
use anyhow::{Result, ensure};

/// Fails unless the store at `/bench/target` has exactly what `part` is, whole and registered.
///
/// # Errors
/// It has not, or the judges can't be run.
pub fn same(place: &Place, part: &Part, metadata: bool) -> Result<()> {
    let dump = |store: &str| {
        let script = format!(
            "nix-store --store 'local?root=/bench/{store}' --dump-db $(cat {}) | sha256sum",
            part.list
        );
        text(&mut place.shell(&script))
    };
    // Before verifying, which drops rows of paths that are not there.
    ensure!(dump("source")? == dump("target")?, "the databases differ");
    text(
        &mut place
            .shell("nix-store --store 'local?root=/bench/target' --verify --check-contents 2>&1"),
    )?;
    ensure!(dump("source")? == dump("target")?, "nix-store --verify found something");
    if metadata {
        let find = |store: &str| {
            text(&mut place.shell(&format!(
                "cd /bench/{store}/nix/store; sed s,^/nix/store/,, {} | xargs -I{{}} find {{}} -printf '%m %U %G %T@ %p %l\\n' | LC_ALL=C sort | sha256sum",
                part.list
            )))
        };
        ensure!(find("source")? == find("target")?, "modes, owners, times or names differ");
    }
    Ok(())
}
