//! Containers in plain files: libcryptsetup needs no block device but to activate them.

use super::dump::{KeyslotKdf, dump};
use super::enroll::{
    Tpm2Policy, enroll_key_file, enroll_password, enroll_recovery, enroll_tpm2, recovery_slots,
};
use super::*;
use crate::ensure::Ensured;
use crate::tpm2::PcrPolicy;
use crate::tpm2::testing::SoftwareTpm;
use keystone_protocol::secret::Secret;
use std::collections::BTreeMap;
use std::fs::File;

fn secret(text: &str) -> Secret {
    Secret::from(text.to_owned())
}

/// A file as large as Keystone's credstore.
fn blank() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(100 << 20).unwrap();
    file
}

fn bootstrapped() -> (tempfile::NamedTempFile, Secret) {
    let (file, key) = (blank(), secret("ephemeral"));
    assert_eq!(format(file.path(), FirstSlot::Bootstrap, &key).unwrap(), Ensured::Created);
    (file, key)
}

fn minimal() -> KeyslotKdf {
    KeyslotKdf::Pbkdf2 { hash: "sha512".to_owned(), iterations: 1000 }
}

fn bound_to_pcr_7(pin: Option<&str>) -> Tpm2Policy {
    Tpm2Policy { pcrs: PcrPolicy::new("sha256", &[7]).unwrap(), pin: pin.map(secret) }
}

#[test]
fn formatting_is_idempotent_and_never_overwrites() {
    let file = blank();
    assert!(!is_luks(file.path()).unwrap());
    assert!(matches!(uuid(file.path()), Err(LuksError::NotLuks(_))));
    let key = secret("ephemeral");
    assert_eq!(format(file.path(), FirstSlot::Bootstrap, &key).unwrap(), Ensured::Created);
    let made = uuid(file.path()).unwrap();
    assert_eq!(format(file.path(), FirstSlot::Bootstrap, &key).unwrap(), Ensured::AlreadySo);
    assert_eq!(uuid(file.path()).unwrap(), made);
    let other = format(file.path(), FirstSlot::Bootstrap, &secret("another"));
    assert!(matches!(&other, Err(LuksError::OtherContainer { uuid, .. }) if *uuid == made));
    assert_eq!(test_key(file.path(), None, &key).unwrap(), BOOTSTRAP_SLOT);
}

#[test]
fn the_bootstrap_slot_is_quick_and_a_lasting_one_is_as_luks_format_makes_it() {
    let (file, _) = bootstrapped();
    let header = dump(file.path()).unwrap();
    assert_eq!(header.cipher, "aes-xts-plain64");
    assert_eq!(header.data_offset, 16 << 20);
    assert_eq!(header.keyslots.len(), 1);
    assert_eq!(header.keyslots[0].kdf, minimal());
    assert_eq!(header.keyslots[0].key_bits, 512);

    let file = blank();
    let _ = format(file.path(), FirstSlot::Lasting, &secret("from the layout")).unwrap();
    let header = dump(file.path()).unwrap();
    assert_eq!(header.keyslots[0].number, 0);
    let KeyslotKdf::Argon2 { variant, memory, time, .. } = &header.keyslots[0].kdf else {
        panic!("{header:?}")
    };
    assert_eq!(variant, "argon2id");
    // LUKS2's bounds: 64 MiB and half of the memory, or 1 GiB; four iterations at least.
    assert!((65536..=1 << 20).contains(memory) && *time >= 4, "{memory} {time}");
}

#[test]
fn what_is_not_there_is_named() {
    let missing = std::path::Path::new("/nonexistent");
    let error = format(missing, FirstSlot::Lasting, &secret("key")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent"), "{error}");
    assert!(is_luks(missing).is_err());
}

#[test]
fn keyslots_of_all_kinds_and_the_bootstrap_slot_removed() {
    let (file, key) = bootstrapped();
    let device = file.path();
    let software = SoftwareTpm::start();
    let mut tpm = software.connect();
    let (did, tpm_slot) = enroll_tpm2(device, &key, &mut tpm, &bound_to_pcr_7(None)).unwrap();
    assert_eq!((did, tpm_slot), (Ensured::Created, 0));
    let (recovery_slot, recovery) = enroll_recovery(device, &key).unwrap();
    assert_eq!(recovery_slots(device).unwrap(), [recovery_slot]);
    let password = secret("correct horse battery");
    let (did, password_slot) = enroll_password(device, &key, &password, &Kdf::Argon2id).unwrap();
    assert_eq!(did, Ensured::Created);

    assert_eq!(remove_slot(device, BOOTSTRAP_SLOT).unwrap(), Ensured::Created);
    assert_eq!(remove_slot(device, BOOTSTRAP_SLOT).unwrap(), Ensured::AlreadySo);
    for slot in [tpm_slot, recovery_slot, BOOTSTRAP_SLOT] {
        let tested = test_key(device, Some(slot), &key);
        assert!(matches!(tested, Err(LuksError::WrongKey { .. })), "{slot}: {tested:?}");
    }
    assert_eq!(test_key(device, None, recovery.secret()).unwrap(), recovery_slot);

    let header = dump(device).unwrap();
    let kinds = BTreeMap::from([
        (tpm_slot, "tpm2".to_owned()),
        (recovery_slot, "recovery".to_owned()),
        (password_slot, "password".to_owned()),
    ]);
    assert_eq!(header.keyslot_kinds(), kinds);
    assert_eq!(header.keyslots[0].kdf, minimal());
    assert_eq!(header.keyslots[1].kdf, minimal());
    assert!(
        matches!(&header.keyslots[2].kdf, KeyslotKdf::Argon2 { variant, .. } if variant == "argon2id")
    );

    // With lasting keys as the source, all of it is so already.
    let again = enroll_tpm2(device, &password, &mut tpm, &bound_to_pcr_7(None)).unwrap();
    assert_eq!(again, (Ensured::AlreadySo, tpm_slot));
    let again = enroll_password(device, recovery.secret(), &password, &Kdf::Argon2id).unwrap();
    assert_eq!(again, (Ensured::AlreadySo, password_slot));
    assert_eq!(dump(device).unwrap(), header);
}

#[test]
fn an_enrolment_that_no_longer_opens_does_not_count() {
    let (file, key) = bootstrapped();
    let device = file.path();
    let software = SoftwareTpm::start();
    let mut tpm = software.connect();
    let (_, first) = enroll_tpm2(device, &key, &mut tpm, &bound_to_pcr_7(None)).unwrap();
    tpm.extend_pcr(7);
    let (did, second) = enroll_tpm2(device, &key, &mut tpm, &bound_to_pcr_7(None)).unwrap();
    assert_eq!(did, Ensured::Created);
    assert_ne!(first, second);
    let policy = bound_to_pcr_7(Some("1234"));
    let (did, third) = enroll_tpm2(device, &key, &mut tpm, &policy).unwrap();
    assert_eq!(did, Ensured::Created);
    let again = enroll_tpm2(device, &key, &mut tpm, &policy).unwrap();
    assert_eq!(again, (Ensured::AlreadySo, third));
    let (did, _) = enroll_tpm2(device, &key, &mut tpm, &bound_to_pcr_7(Some("4321"))).unwrap();
    assert_eq!(did, Ensured::Created);
}

#[test]
fn a_failed_enrolment_leaves_the_header_as_it_was() {
    let (file, key) = bootstrapped();
    let device = file.path();
    let before = dump(device).unwrap();
    let software = SoftwareTpm::start();
    let mut tpm = software.connect();
    let wrong = secret("not the key");
    let refused = enroll_tpm2(device, &wrong, &mut tpm, &bound_to_pcr_7(None));
    assert!(matches!(refused, Err(LuksError::WrongKey { slot: None, .. })), "{refused:?}");
    let refused = enroll_recovery(device, &wrong);
    assert!(matches!(refused, Err(LuksError::WrongKey { slot: None, .. })));
    let refused = enroll_password(device, &key, &secret("keystone"), &Kdf::Argon2id);
    assert!(matches!(refused, Err(LuksError::WeakPassword(_))), "{refused:?}");
    let inactive = Tpm2Policy { pcrs: PcrPolicy::new("sha1", &[7]).unwrap(), pin: None };
    tpm.allocate_only_sha256();
    drop(tpm);
    let mut software = software;
    software.restart();
    let refused = enroll_tpm2(device, &key, &mut software.connect(), &inactive);
    assert!(matches!(refused, Err(LuksError::Tpm(_))), "{refused:?}");
    assert_eq!(dump(device).unwrap(), before);
}

#[test]
fn the_last_keyslot_stays() {
    let (file, key) = bootstrapped();
    let refused = remove_slot(file.path(), BOOTSTRAP_SLOT);
    assert!(matches!(refused, Err(LuksError::LastSlot { slot: BOOTSTRAP_SLOT, .. })));
    assert_eq!(test_key(file.path(), None, &key).unwrap(), BOOTSTRAP_SLOT);
}

#[test]
fn a_token_goes_with_its_keyslot() {
    let (file, key) = bootstrapped();
    let (slot, _) = enroll_recovery(file.path(), &key).unwrap();
    assert_eq!(dump(file.path()).unwrap().tokens.len(), 1);
    let _ = remove_slot(file.path(), slot).unwrap();
    assert!(dump(file.path()).unwrap().tokens.is_empty());
}

#[test]
fn a_key_file_is_taken_byte_for_byte() {
    let (file, key) = bootstrapped();
    let contents = Secret::new(b"bytes\n\0\xff".to_vec());
    let (did, slot) = enroll_key_file(file.path(), &key, &contents, &Kdf::Argon2id).unwrap();
    assert_eq!(did, Ensured::Created);
    assert_eq!(test_key(file.path(), Some(slot), &contents).unwrap(), slot);
    let trimmed = Secret::new(b"bytes".to_vec());
    assert!(test_key(file.path(), Some(slot), &trimmed).is_err());
}

/// libcryptsetup prints to standard output unless it is told otherwise, where the agent speaks
/// its protocol.
#[test]
fn libcryptsetup_prints_nothing() {
    if let Some(path) = std::env::var_os("KEYSTONE_TEST_CONTAINER") {
        let file = File::create(&path).unwrap();
        file.set_len(32 << 20).unwrap();
        let path = std::path::Path::new(&path);
        let _ = format(path, FirstSlot::Bootstrap, &secret("key")).unwrap();
        assert!(test_key(path, None, &secret("another")).is_err());
        assert!(is_luks(std::path::Path::new("/nonexistent")).is_err());
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "luks::tests::libcryptsetup_prints_nothing", "--nocapture", "--quiet"])
        .env("KEYSTONE_TEST_CONTAINER", directory.path().join("container"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    assert!(
        lines.iter().all(|line| {
            line.starts_with("running 1 test") || line.starts_with("test result") || *line == "."
        }),
        "{text}"
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_layouts_options_are_in_the_header() {
    use keystone_protocol::plan::{LuksFormat, LuksPbkdf};
    let file = blank();
    let uuid = "3f8a3c9e-2f4b-4c55-9d6c-0a1b2c3d4e5f";
    let wanted = LuksFormat {
        cipher: Some("aes-cbc-essiv:sha256".into()),
        key_size: Some(256),
        sector_size: Some(512),
        label: Some("data".into()),
        uuid: Some(uuid.into()),
        pbkdf: LuksPbkdf {
            kind: Some("pbkdf2".into()),
            iter_time: Some(1),
            ..LuksPbkdf::default()
        },
        ..LuksFormat::default()
    };
    let key = secret("from the layout");
    assert_eq!(
        format_as(file.path(), FirstSlot::Lasting, &key, &wanted).unwrap(),
        Ensured::Created
    );
    let header = dump(file.path()).unwrap();
    assert_eq!(header.cipher, "aes-cbc-essiv:sha256");
    assert_eq!((header.uuid.to_string().as_str(), header.sector_size), (uuid, 512));
    assert_eq!(header.keyslots[0].key_bits, 256);
    assert!(matches!(&header.keyslots[0].kdf, KeyslotKdf::Pbkdf2 { .. }), "{header:?}");

    let forced = LuksPbkdf {
        iterations: Some(4),
        memory: Some(65536),
        parallel: Some(1),
        ..LuksPbkdf::default()
    };
    let forced = LuksFormat { pbkdf: forced, ..LuksFormat::default() };
    let other = secret("another");
    let (made, slot) = ensure_key(file.path(), &key, &other, &lasting_kdf(&forced)).unwrap();
    assert_eq!((made, slot), (Ensured::Created, 1));
    let KeyslotKdf::Argon2 { variant, memory, time, cpus } =
        &dump(file.path()).unwrap().keyslots[1].kdf.clone()
    else {
        panic!("not argon2")
    };
    assert_eq!((variant.as_str(), *memory, *time, *cpus), ("argon2id", 65536, 4, 1));

    let old = LuksFormat { version: Some(1), ..LuksFormat::default() };
    let refused = format_as(blank().path(), FirstSlot::Lasting, &key, &old).unwrap_err();
    assert!(matches!(refused, LuksError::Option(_)), "{refused}");
}
