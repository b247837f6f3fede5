//! The lab's cache and the one way things get into it.
//!
//! Everything the lab builds (roots, kernels, boot media) is an *artefact*: a
//! directory `<cache>/<name>-<hash of its recipe>`. It appears by one rename
//! when it is complete, so an interrupted build leaves nothing that looks done,
//! and a changed recipe never meets a stale result. Two processes that want the
//! same artefact wait for each other on `<name>.lock`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};

/// The lab: a cache directory and what was made in it.
#[derive(Debug, Clone)]
pub struct Lab {
    cache: PathBuf,
}

impl Lab {
    /// Opens the cache at [`crate::native::default_cache`].
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open() -> Result<Lab> {
        Lab::at(&crate::native::default_cache())
    }

    /// Opens the cache at `cache`, which is made if need be.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn at(cache: &Path) -> Result<Lab> {
        fs::create_dir_all(cache).with_context(|| format!("creating {}", cache.display()))?;
        Ok(Lab { cache: cache.canonicalize()? })
    }

    /// The cache directory, absolute.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// A directory in the cache that outlives recipes (downloads, keys).
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.cache.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(dir)
    }

    /// Returns the artefact `name` made by `recipe`, building it if it is not there.
    ///
    /// `recipe` is any text that changes whenever the result should; `build` gets
    /// an empty directory to fill. Artefacts of the same name made by other
    /// recipes are removed once the new one is complete.
    ///
    /// # Errors
    /// Whatever `build` returns, with the artefact's name.
    pub fn artefact(
        &self,
        name: &str,
        recipe: &str,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let hash = blake3::hash(recipe.as_bytes()).to_hex();
        let done = self.cache.join(format!("{name}-{}", &hash[..16]));
        if done.exists() {
            return Ok(done);
        }
        let lock = fs::File::create(self.cache.join(format!("{name}.lock")))?;
        lock.lock().with_context(|| format!("waiting for another build of {name}"))?;
        if done.exists() {
            return Ok(done);
        }
        let partial = self.cache.join(format!("{name}.partial"));
        remove(&partial)?;
        fs::create_dir_all(&partial)?;
        timed(&format!("build {name}"), || build(&partial))
            .with_context(|| format!("building {name}"))?;
        fs::rename(&partial, &done)?;
        self.remove_others(name, &done)?;
        Ok(done)
    }

    fn remove_others(&self, name: &str, keep: &Path) -> Result<()> {
        for entry in fs::read_dir(&self.cache)? {
            let path = entry?.path();
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_sibling =
                file.strip_prefix(name).and_then(|rest| rest.strip_prefix('-')).is_some_and(
                    |hash| hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()),
                );
            if is_sibling && path != keep {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

/// Removes a tree, if it is there, without leaving its file system.
fn remove(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    crate::run::run(
        std::process::Command::new("rm").args(["-rf", "--one-file-system", "--"]).arg(path),
    )?;
    Ok(())
}

/// Does `what`, saying so before and how long it took after.
///
/// # Errors
/// Whatever `body` returns.
pub fn timed<T>(what: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("lab: {what} …");
    let start = Instant::now();
    let result = body();
    let verdict = if result.is_ok() { "done" } else { "FAILED" };
    eprintln!("lab: {what}: {verdict} in {:.1} s", start.elapsed().as_secs_f64());
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artefacts_are_built_once_and_replaced_by_a_new_recipe() {
        let dir = tempfile::tempdir().unwrap();
        let lab = Lab::at(dir.path()).unwrap();
        let build = |text: &'static str| move |p: &Path| Ok(fs::write(p.join("f"), text)?);
        let one = lab.artefact("thing", "1", build("one")).unwrap();
        assert_eq!(lab.artefact("thing", "1", |_| panic!("built twice")).unwrap(), one);
        let other = lab.artefact("thing-tools", "1", build("other")).unwrap();
        let two = lab.artefact("thing", "2", build("two")).unwrap();
        assert_eq!(fs::read_to_string(two.join("f")).unwrap(), "two");
        assert!(!one.exists());
        assert!(other.exists(), "a longer name is another artefact");
    }

    #[test]
    fn a_failed_build_leaves_no_artefact() {
        let dir = tempfile::tempdir().unwrap();
        let lab = Lab::at(dir.path()).unwrap();
        assert!(lab.artefact("thing", "1", |_| anyhow::bail!("no")).is_err());
        let path = lab.artefact("thing", "1", |p| Ok(fs::write(p.join("f"), "")?)).unwrap();
        assert!(path.join("f").exists());
    }
}
