//! Bundles, written and read, and what damage does to them.

use super::common::nix::{self, NixStore, logical};
use super::common::web::Nginx;
use super::signatures::Keys;
use super::*;
use keystone_controller::bundle::{Bundle, BundleError, WriteOptions, verify, write};
use keystone_controller::closure::signature::SecretKey;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use tempfile::TempDir;

fn options(key: Option<SecretKey>) -> WriteOptions {
    WriteOptions { level: 3, key, replace: false }
}

fn make(store: &NixStore, dir: &TempDir, key: Option<SecretKey>) -> PathBuf {
    let file = dir.path().join("system.ksb");
    let own = own(store, &system());
    write(&own.manifest, own.source.as_ref(), &file, &options(key), &mut |_| true).unwrap();
    file
}

/// A store with more than one block of NARs.
fn store() -> NixStore {
    let store = NixStore::with_system();
    let noise: Vec<u8> =
        (0..20_000_000u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    std::fs::write(store.physical(nix::INITRD).join("initrd"), noise).unwrap();
    store.register_again(nix::INITRD, &[]);
    store
}

#[test]
fn what_goes_in_comes_out() {
    let (store, dir) = (store(), tempfile::tempdir().unwrap());
    let file = make(&store, &dir, None);
    let (expected, _) =
        Origin::Store(Store::below(store.root())).system(Some(Path::new(&system())), None).unwrap();
    let origin = Origin::named(file.to_str().unwrap()).unwrap();
    let (closure, source) = origin.system(None, None).unwrap();
    assert_eq!((&closure.facts, &closure.manifest), (&expected.facts, &expected.manifest));
    assert_same_contents(&Found { manifest: closure.manifest, source }, &store);
    verify(&Bundle::open(&file).unwrap(), &mut |_| true).unwrap();
    // A part of it, by its path.
    let part = origin.find(Some(Path::new(&logical(nix::KERNEL))), None).unwrap();
    assert_eq!(part.manifest.paths.len(), 1);
    assert_same_contents(&part, &store);
    let other = origin.find(Some(Path::new(&logical(nix::OTHER))), None).err().unwrap();
    assert_says(&said(&other), &["does not have", nix::OTHER]);
    // Written again it is the same, byte for byte.
    let again = tempfile::tempdir().unwrap();
    assert!(std::fs::read(&file).unwrap() == std::fs::read(make(&store, &again, None)).unwrap());
    // Nothing is written over it, and nothing else was left there.
    let own = own(&store, &system());
    let over = write(&own.manifest, own.source.as_ref(), &file, &options(None), &mut |_| true);
    assert_says(&said(&over.unwrap_err()), &["system.ksb", "it exists", "--force"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_store_that_was_changed_makes_no_bundle() {
    let (store, dir) = (NixStore::with_system(), tempfile::tempdir().unwrap());
    let kernel = store.physical(nix::KERNEL).join("bzImage");
    std::fs::write(kernel, vec![8; 3_000_001]).unwrap();
    let own = own(&store, &system());
    let file = dir.path().join("x.ksb");
    let failed = write(&own.manifest, own.source.as_ref(), &file, &options(None), &mut |_| true);
    assert_says(&said(&failed.unwrap_err()), &[nix::KERNEL, "changed or damaged"]);
    let stopped = write(&own.manifest, own.source.as_ref(), &file, &options(None), &mut |_| false);
    assert!(stopped.is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// One bit anywhere, and every length.
#[test]
fn no_damage_goes_unnoticed() {
    let (store, dir) = (NixStore::with_system(), tempfile::tempdir().unwrap());
    let keys = Keys::new("ours-1");
    let file = make(&store, &dir, Some(keys.secret()));
    let good = std::fs::read(&file).unwrap();
    let check = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        let bundle = Bundle::open(&file)?;
        verify(&bundle, &mut |_| true)?;
        // The signature is not part of what it signs.
        match bundle.signed_by(std::slice::from_ref(&keys.public)) {
            keystone_controller::bundle::Signed::By(_) => Ok(()),
            _ => Err(ClosureError::Bundle { path: "x".into(), source: BundleError::Stopped }),
        }
    };
    check(&good).unwrap();
    let mut state = 1u64;
    for _ in 0..400 {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (state >> 16) as usize % good.len();
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (state & 7);
        assert!(check(&bytes).is_err(), "bit {} of byte {at} of {}", state & 7, good.len());
        let cut = &good[..at];
        assert!(check(cut).is_err(), "cut at {at}");
    }
    let longer = [&good[..], b"x"].concat();
    assert_says(&said(&check(&longer).unwrap_err()), &["its end is missing"]);
    assert_says(&said(&check(b"something else entirely").unwrap_err()), &["system.ksb"]);
}

fn keystone(args: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keystone"))
        .args(args)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[track_caller]
fn text(output: &Output, code: i32) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8(both).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

/// From an https server with a private CA into a signed bundle, by the command.
#[test]
fn the_command_makes_checks_and_lists() {
    let (store, dir) = (NixStore::with_system(), tempfile::tempdir().unwrap());
    let (ours, theirs) = (Keys::new("ours-1"), Keys::new("theirs-1"));
    let cache = tempfile::tempdir().unwrap();
    store.copy_to_cache(&system(), cache.path(), "xz");
    let server = Nginx::serve(cache.path());
    let file = dir.path().join("system.ksb");
    let (file, url, system) = (file.to_str().unwrap(), server.https(), system());
    let secret = ours.secret_file().display().to_string();
    let make = ["bundle", &system, "-o", file, "--from", &url, "--sign-with", &secret];

    let machine = [("NIX_SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")];
    let stranger = text(&keystone(&make, &machine), 65);
    assert_says(&stranger, &["nix-cache-info can't be fetched", "certificate"]);
    let ca = server.ca().display().to_string();
    let trusted = [("NIX_SSL_CERT_FILE", ca.as_str())];
    let key = theirs.public.to_string();
    let unsigned = [&make[..], &["--require-signatures", &key]].concat();
    assert_says(&text(&keystone(&unsigned, &trusted), 65), &["no signature by theirs-1"]);
    assert_says(&text(&keystone(&make, &trusted), 0), &["system.ksb: 5 paths"]);
    assert_says(&text(&keystone(&make, &trusted), 65), &["it exists", "--force"]);

    let own = own(&store, &system);
    let found = Origin::Bundle(Arc::new(Bundle::open(Path::new(file)).unwrap())).find(None, None);
    assert_eq!(essence(&found.unwrap().manifest), essence(&own.manifest));

    let listed = text(&keystone(&["bundle", "list", file], &[]), 0);
    assert_says(&listed, &[&system, "5 paths", "says it is signed by ours-1", nix::KERNEL]);
    let listed = text(&keystone(&["bundle", "list", "--json", file], &[]), 0);
    let json: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(
        (json["paths"].as_array().unwrap().len(), &json["signers"][0]),
        (5, &"ours-1".into())
    );

    let verify = |more: &[&str]| keystone(&[&["bundle", "verify", file][..], more].concat(), &[]);
    assert_says(&text(&verify(&[]), 0), &["5 paths, whole"]);
    let (ours, theirs) = (ours.public.to_string(), theirs.public.to_string());
    let signed = text(&verify(&["--require-signatures", &theirs, &ours]), 0);
    assert_says(&signed, &["signed by ours-1"]);
    let refused = text(&verify(&["--require-signatures", &theirs]), 65);
    assert_says(&refused, &["no signature by theirs-1"]);
    assert_says(&text(&verify(&["--require-signatures", "root@host"]), 64), &["NAME:BASE64"]);
    let mut bytes = std::fs::read(file).unwrap();
    bytes[40] ^= 4;
    std::fs::write(file, bytes).unwrap();
    assert_says(&text(&verify(&["--json"]), 65), &["block 0 of 1 is damaged", "\"exit\":65"]);
}
