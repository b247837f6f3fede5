//! Signatures and content addresses, as real Nix makes and judges them.

use super::common::nix::{self, NixStore, logical};
use super::common::{run, tool};
use super::*;
use keystone_controller::closure::Trust;
use keystone_controller::closure::narinfo::NarInfo;
use keystone_controller::closure::signature::{PublicKey, SecretKey, fingerprint};
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// A key pair by Nix: files of the secret and the public key, and the public key.
pub struct Keys {
    dir: TempDir,
    pub public: PublicKey,
}

impl Keys {
    pub fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        run(Command::new(tool("nix-store", "nix-bin"))
            .args(["--generate-binary-cache-key", name])
            .args([dir.path().join("secret"), dir.path().join("public")]));
        let public = std::fs::read_to_string(dir.path().join("public")).unwrap();
        Keys { public: public.parse().unwrap(), dir }
    }

    pub fn secret_file(&self) -> PathBuf {
        self.dir.path().join("secret")
    }

    pub fn secret(&self) -> SecretKey {
        std::fs::read_to_string(self.secret_file()).unwrap().parse().unwrap()
    }

    pub fn trust(&self) -> Trust {
        Trust::new(vec![self.public.clone()])
    }
}

fn sign(store: &NixStore, keys: &Keys, paths: &[&str]) {
    let file = keys.secret_file().display().to_string();
    store.nix(&[&["store", "sign", "--key-file", &file], paths].concat());
}

fn from_store(store: &NixStore, path: &str, trust: &Trust) -> Result<Found, ClosureError> {
    Origin::Store(Store::below(store.root())).find(Some(Path::new(path)), Some(trust))
}

#[test]
fn what_nix_signed_is_trusted_and_nothing_else() {
    let store = NixStore::with_system();
    let (ours, theirs) = (Keys::new("ours-1"), Keys::new("theirs-1"));
    let refused = said(&from_store(&store, &system(), &ours.trust()).err().unwrap());
    assert_says(
        &refused,
        &["no signature by ours-1", "has no signature", "4 more", "nothing was sent"],
    );
    let own = own(&store, &system()).manifest;
    let all: Vec<&str> = own.paths.iter().map(|info| info.path.as_str()).collect();
    sign(&store, &theirs, &all);
    let refused = said(&from_store(&store, &system(), &ours.trust()).err().unwrap());
    assert_says(&refused, &["no signature by ours-1", "it names theirs-1"]);
    let but_kernel: Vec<&str> = all.iter().copied().filter(|p| !p.ends_with(nix::KERNEL)).collect();
    sign(&store, &ours, &but_kernel);
    let refused = said(&from_store(&store, &system(), &ours.trust()).err().unwrap());
    assert_says(&refused, &[nix::KERNEL, "ours-1"]);
    assert!(!refused.contains("more"), "{refused}");
    let either = Trust::new(vec![ours.public.clone(), theirs.public.clone()]);
    assert!(from_store(&store, &system(), &either).is_ok());
    sign(&store, &ours, &[&logical(nix::KERNEL)]);
    let found = from_store(&store, &system(), &ours.trust()).unwrap();

    // Signatures come along into a cache, and cover what they have to.
    let dir = tempfile::tempdir().unwrap();
    store.copy_to_cache(&system(), dir.path(), "zstd");
    let origin = Origin::named(&format!("file://{}", dir.path().display())).unwrap();
    let cached = origin.find(Some(Path::new(&system())), Some(&ours.trust())).unwrap();
    assert_eq!(cached.manifest, found.manifest);
    let changes: [&dyn Fn(&mut PathInfo); 4] = [
        &|info| info.nar_size += 1,
        &|info| info.nar_sha256 = "0".repeat(64),
        &|info| drop(info.references.pop()),
        &|info| info.path = info.path.replace("nixos-system", "nixos-sistem"),
    ];
    for change in changes {
        let mut manifest = found.manifest.clone();
        change(manifest.paths.iter_mut().find(|info| info.path == system()).unwrap());
        let error = ours.trust().check(&manifest).unwrap_err();
        assert_says(&said(&error), &["no signature by ours-1", "it names ours-1, theirs-1"]);
    }
}

/// `nix store verify` takes our signatures.
#[test]
fn nix_trusts_what_we_sign() {
    let store = NixStore::with_system();
    let keys = Keys::new("ours-1");
    let dir = tempfile::tempdir().unwrap();
    store.copy_to_cache(&system(), dir.path(), "none");
    let verify = |store: &NixStore| {
        let public = keys.public.to_string();
        let cache = format!("file://{}", dir.path().display());
        let mut command = store.nix_command();
        let args = ["store", "verify", "--recursive", "--store", &cache, "--sigs-needed", "1"];
        command.args(args).args(["--trusted-public-keys", &public, &system()]);
        command.output().unwrap()
    };
    let unsigned = verify(&store);
    assert!(!unsigned.status.success(), "unsigned paths are taken: this test shows nothing");
    for info in own(&store, &system()).manifest.paths {
        let file = dir.path().join(format!("{}.narinfo", &info.path[11..43]));
        let mut narinfo = NarInfo::parse(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let text = fingerprint(&narinfo.info).unwrap();
        narinfo.info.signatures.push(keys.secret().sign(text.as_bytes()));
        std::fs::write(file, narinfo.to_string()).unwrap();
    }
    // A store of its own, so that nothing is remembered.
    let signed = verify(&NixStore::new());
    assert!(signed.status.success(), "{}", String::from_utf8_lossy(&signed.stderr));
}

/// Each kind of content address that Nix makes, in one closure.
#[test]
fn content_addressed_paths_prove_themselves() {
    let store = NixStore::new();
    let stranger = Keys::new("stranger-1").trust();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("plain-file");
    std::fs::write(&file, b"contents").unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("a"), b"in a tree").unwrap();
    let (file, tree) = (file.display().to_string(), tree.display().to_string());
    let trim = |text: String| text.trim().to_owned();
    let flat256 = trim(store.query(&["--add-fixed", "sha256", &file]));
    let flat512 = trim(store.query(&["--add-fixed", "sha512", &file]));
    let tree256 = trim(store.query(&["--add-fixed", "--recursive", "sha256", &tree]));
    let tree512 = trim(store.query(&["--add-fixed", "--recursive", "sha512", &tree]));
    let text = r#"let a = builtins.toFile "a" "one"; in builtins.toFile "b" "${a} and more""#;
    let text = trim(store.nix(&["eval", "--raw", "--impure", "--expr", text]));
    for (path, address) in [
        (&flat256, "fixed:sha256:"),
        (&flat512, "fixed:sha512:"),
        (&tree256, "fixed:r:sha256:"),
        (&tree512, "fixed:r:sha512:"),
        (&text, "text:sha256:"),
    ] {
        let found = from_store(&store, path, &stranger).unwrap_or_else(|e| panic!("{}", said(&e)));
        let info = found.manifest.paths.iter().find(|info| info.path == *path).unwrap();
        assert!(info.ca.as_deref().unwrap().starts_with(address), "{info:?}");
        for info in &found.manifest.paths {
            nar(&found, &info.path).unwrap();
        }
        // Under another name, with other references or another address it proves nothing.
        let changes: [&dyn Fn(&mut PathInfo); 3] = [
            &|info| info.path.push('x'),
            &|info| info.references.push(logical(nix::OTHER)),
            &|info| info.ca = info.ca.take().map(|ca| ca.replace(['1', '2', '3'], "4")),
        ];
        for change in changes {
            let mut manifest = found.manifest.clone();
            change(manifest.paths.iter_mut().find(|info| info.path == *path).unwrap());
            assert_says(
                &said(&stranger.check(&manifest).unwrap_err()),
                &["no signature by stranger-1"],
            );
        }
    }
    // MD5 and SHA-1 prove nothing.
    let weak = trim(store.query(&["--add-fixed", "--recursive", "sha1", &tree]));
    assert!(from_store(&store, &weak, &stranger).is_err());
    // Contents that are not those of the address, of the size that was announced.
    for path in [&flat256, &flat512, &text] {
        let physical = store.physical(&path[11..]);
        let other = std::fs::read(&physical).unwrap().iter().map(|b| b ^ 1).collect::<Vec<u8>>();
        std::fs::remove_file(&physical).unwrap();
        std::fs::write(&physical, other).unwrap();
        let found = from_store(&store, path, &stranger).unwrap();
        assert_says(&nar(&found, path).unwrap_err(), &[path, "content-addressed"]);
    }
}

/// A path that refers to itself, made content-addressed by Nix: its hash part is left out.
#[test]
fn a_content_addressed_path_that_refers_to_itself() {
    let store = NixStore::with_system();
    let stranger = Keys::new("stranger-1").trust();
    let zfs = logical(nix::ZFS);
    let physical = store.physical(nix::ZFS);
    std::fs::write(physical.join("self"), format!("{zfs}/bin:{zfs}/lib and again {zfs}")).unwrap();
    // Registered anew, with its reference to itself.
    store.register_again(nix::ZFS, &[&zfs]);
    let said_json = store.nix(&["store", "make-content-addressed", "--json", &zfs]);
    let json: serde_json::Value = serde_json::from_str(&said_json).unwrap();
    let path = json["rewrites"][&zfs].as_str().unwrap().to_owned();
    let found = from_store(&store, &path, &stranger).unwrap_or_else(|e| panic!("{}", said(&e)));
    let info = &found.manifest.paths[0];
    assert_eq!((&info.references, found.manifest.paths.len()), (&vec![path.clone()], 1));
    assert!(String::from_utf8_lossy(&nar(&found, &path).unwrap()).contains(&path));
    let file = store.physical(&path[11..]).join("self");
    let text = std::fs::read_to_string(&file).unwrap().replace("again", "aga1n");
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, text).unwrap();
    let found = from_store(&store, &path, &stranger).unwrap();
    assert_says(&nar(&found, &path).unwrap_err(), &["content-addressed"]);
}
