//! Sealing and unsealing with a real (software) TPM.

use super::testing::SoftwareTpm;
use super::{PcrPolicy, Sealed, Tpm, TpmError, Unsealing};
use keystone_protocol::secret::Secret;

fn secret(text: &str) -> Secret {
    Secret::from(text.to_owned())
}

fn unseal(
    tpm: &mut Tpm,
    sealed: &Sealed,
    policy: &PcrPolicy,
    pin: Option<&Secret>,
) -> Result<Secret, TpmError> {
    tpm.unseal(Unsealing { blob: &sealed.blob, srk: &sealed.srk, policy }, pin)
}

#[test]
fn inventory_of_a_fresh_tpm() {
    let software = SoftwareTpm::start();
    let mut tpm = software.connect();
    let found = tpm.inventory().unwrap();
    assert_eq!(found.manufacturer, "IBM");
    assert!(found.firmware.contains('.'), "{}", found.firmware);
    assert_eq!(found.pcr7["sha256"], "00".repeat(32));
    assert!(found.ecc_p256);
    assert!(!found.in_lockout && !found.owner_auth_set && !found.srk);
    assert_eq!(found.lockout.0, 0);
    assert!(found.lockout.1 > 0);
    tpm.extend_pcr(7);
    assert_ne!(tpm.inventory().unwrap().pcr7["sha256"], found.pcr7["sha256"]);
}

#[test]
fn what_is_sealed_is_unsealed_until_a_pcr_changes() {
    let software = SoftwareTpm::start();
    let mut tpm = software.connect();
    // More PCRs than one TPM2_PCR_Read returns.
    let policy = PcrPolicy::new("sha256", &[23, 7, 0, 1, 2, 3, 4, 5, 6, 8]).unwrap();
    let key = secret("thirty-two bytes of a random key");
    let sealed = tpm.seal(&key, &policy, None).unwrap();
    assert!(tpm.inventory().unwrap().srk);
    assert_eq!(unseal(&mut tpm, &sealed, &policy, None).unwrap(), key);

    drop(tpm);
    let mut tpm = software.connect();
    assert_eq!(unseal(&mut tpm, &sealed, &policy, None).unwrap(), key);
    tpm.extend_pcr(23);
    let changed = unseal(&mut tpm, &sealed, &policy, None);
    assert!(matches!(changed, Err(TpmError::PolicyFails)), "{changed:?}");
    let other = PcrPolicy::new("sha256", &[7]).unwrap();
    let changed = unseal(&mut tpm, &sealed, &other, None);
    assert!(matches!(changed, Err(TpmError::PolicyFails)), "{changed:?}");
}

#[test]
fn nothing_is_left_in_the_tpm() {
    let software = SoftwareTpm::start();
    let mut tpm = software.connect();
    let policy = PcrPolicy::new("sha256", &[7]).unwrap();
    let sealed = tpm.seal(&secret("key"), &policy, None).unwrap();
    tpm.extend_pcr(7);
    // There is room for three objects and three sessions in a TPM without resource manager.
    for _ in 0..8 {
        let failed = unseal(&mut tpm, &sealed, &policy, None);
        assert!(matches!(failed, Err(TpmError::PolicyFails)), "{failed:?}");
    }
    for _ in 0..4 {
        let sealed = tpm.seal(&secret("key"), &policy, None).unwrap();
        unseal(&mut tpm, &sealed, &policy, None).unwrap();
    }
}

#[test]
fn a_pin_is_needed_and_guessing_it_locks_out() {
    let software = SoftwareTpm::start();
    let mut tpm = software.connect();
    let policy = PcrPolicy::new("sha256", &[]).unwrap();
    let (key, pin) = (secret("key"), secret("1234"));
    let sealed = tpm.seal(&key, &policy, Some(&pin)).unwrap();
    assert_eq!(unseal(&mut tpm, &sealed, &policy, Some(&pin)).unwrap(), key);
    let without = unseal(&mut tpm, &sealed, &policy, None);
    assert!(matches!(without, Err(TpmError::PolicyFails)), "{without:?}");
    let wrong = secret("4321");
    let guessed = unseal(&mut tpm, &sealed, &policy, Some(&wrong));
    assert!(matches!(guessed, Err(TpmError::WrongPin)), "{guessed:?}");
    assert_eq!(tpm.inventory().unwrap().lockout.0, 1);
    let locked = (0..10).find_map(|_| match unseal(&mut tpm, &sealed, &policy, Some(&wrong)) {
        Err(TpmError::WrongPin) => None,
        other => Some(other),
    });
    assert!(matches!(locked, Some(Err(TpmError::Lockout))), "{locked:?}");
    assert!(tpm.inventory().unwrap().in_lockout);
    // Without a PIN the same TPM still seals and unseals.
    let sealed = tpm.seal(&key, &policy, None).unwrap();
    assert_eq!(unseal(&mut tpm, &sealed, &policy, None).unwrap(), key);
}

#[test]
fn an_owner_password_matters_without_a_storage_root_key_only() {
    let software = SoftwareTpm::start();
    let mut tpm = software.connect();
    let policy = PcrPolicy::new("sha256", &[7]).unwrap();
    tpm.set_owner_auth(b"owned");
    assert!(tpm.inventory().unwrap().owner_auth_set);
    let refused = tpm.seal(&secret("key"), &policy, None);
    assert!(matches!(refused, Err(TpmError::OwnerAuth)), "{refused:?}");

    let software = SoftwareTpm::start();
    let mut tpm = software.connect();
    tpm.ensure_storage_root_key().unwrap();
    tpm.set_owner_auth(b"owned");
    let sealed = tpm.seal(&secret("key"), &policy, None).unwrap();
    assert_eq!(unseal(&mut tpm, &sealed, &policy, None).unwrap(), secret("key"));
}

#[test]
fn a_storage_root_key_that_is_there_is_used_whatever_its_kind() {
    let software = SoftwareTpm::start();
    let mut tpm = software.connect();
    tpm.store_rsa_storage_root_key(&[]);
    let policy = PcrPolicy::new("sha256", &[7]).unwrap();
    let sealed = tpm.seal(&secret("key"), &policy, None).unwrap();
    assert_eq!(sealed.srk_algorithm, "rsa");
    assert_eq!(unseal(&mut tpm, &sealed, &policy, None).unwrap(), secret("key"));

    let software = SoftwareTpm::start();
    let mut tpm = software.connect();
    tpm.store_rsa_storage_root_key(b"password");
    let refused = tpm.seal(&secret("key"), &policy, None);
    assert!(matches!(refused, Err(TpmError::NotAStorageKey(_))), "{refused:?}");
}

#[test]
fn another_tpm_unseals_nothing() {
    let (first, second) = (SoftwareTpm::start(), SoftwareTpm::start());
    let policy = PcrPolicy::new("sha256", &[]).unwrap();
    let sealed = first.connect().seal(&secret("key"), &policy, None).unwrap();
    let mut tpm = second.connect();
    let without_srk = unseal(&mut tpm, &sealed, &policy, None);
    assert!(matches!(without_srk, Err(TpmError::OtherTpm)), "{without_srk:?}");
    let own = tpm.seal(&secret("key"), &policy, None).unwrap();
    let other_srk = unseal(&mut tpm, &sealed, &policy, None);
    assert!(matches!(other_srk, Err(TpmError::OtherTpm)), "{other_srk:?}");
    let foreign = Sealed { blob: sealed.blob, ..own };
    let other_blob = unseal(&mut tpm, &foreign, &policy, None);
    assert!(matches!(other_blob, Err(TpmError::OtherTpm)), "{other_blob:?}");
}

#[test]
fn an_inactive_bank_is_named() {
    let mut software = SoftwareTpm::start();
    let mut tpm = software.connect();
    tpm.allocate_only_sha256();
    drop(tpm);
    software.restart();
    let mut tpm = software.connect();
    let found = tpm.inventory().unwrap();
    assert_eq!(found.pcr7.keys().collect::<Vec<_>>(), ["sha256"]);
    let refused = tpm.seal(&secret("key"), &PcrPolicy::new("sha384", &[7]).unwrap(), None);
    assert!(
        matches!(refused, Err(TpmError::InactivePcr { bank: "sha384", pcr: 7 })),
        "{refused:?}"
    );
    assert!(PcrPolicy::new("md5", &[7]).is_err());
    assert!(PcrPolicy::new("sha256", &[24]).is_err());
}

/// Answers every command first with "busy", and then lets the TPM answer.
struct Busy {
    inner: super::transport::Socket,
    last: Vec<u8>,
}

impl super::transport::Transport for Busy {
    fn transact(&mut self, command: &[u8]) -> std::io::Result<zeroize::Zeroizing<Vec<u8>>> {
        if self.last != command {
            self.last = command.to_vec();
            let busy = [0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x09, 0x22];
            return Ok(zeroize::Zeroizing::new(busy.to_vec()));
        }
        self.inner.transact(command)
    }
}

#[test]
fn a_busy_tpm_is_asked_again_with_the_same_bytes() {
    let software = SoftwareTpm::start();
    let inner = super::transport::Socket::connect(&software.socket()).unwrap();
    let mut tpm = Tpm::over(Busy { inner, last: Vec::new() });
    let policy = PcrPolicy::new("sha256", &[7]).unwrap();
    let sealed = tpm.seal(&secret("key"), &policy, Some(&secret("1234"))).unwrap();
    let unsealed = unseal(&mut tpm, &sealed, &policy, Some(&secret("1234"))).unwrap();
    assert_eq!(unsealed, secret("key"));
}

/// Changes a byte of the parameters of every answer that carries a session's proof.
struct Tampering {
    inner: super::transport::Socket,
    seen: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
    tamper: bool,
}

impl super::transport::Transport for Tampering {
    fn transact(&mut self, command: &[u8]) -> std::io::Result<zeroize::Zeroizing<Vec<u8>>> {
        let mut response = self.inner.transact(command)?;
        let mut seen = self.seen.lock().unwrap();
        seen.extend_from_slice(command);
        seen.extend_from_slice(&response);
        let unseal = command[6..10] == 0x015e_u32.to_be_bytes();
        if self.tamper && unseal && response[6..10] == [0; 4] {
            response[16] ^= 1;
        }
        Ok(response)
    }
}

#[test]
fn the_bus_carries_no_secret_and_alterations_are_seen() {
    let software = SoftwareTpm::start();
    let seen = std::sync::Arc::default();
    let connect = |tamper| {
        let inner = super::transport::Socket::connect(&software.socket()).unwrap();
        Tpm::over(Tampering { inner, seen: std::sync::Arc::clone(&seen), tamper })
    };
    let mut tpm = connect(false);
    let policy = PcrPolicy::new("sha256", &[7]).unwrap();
    let key = secret("a secret that stands out in a dump");
    let sealed = tpm.seal(&key, &policy, None).unwrap();
    assert_eq!(unseal(&mut tpm, &sealed, &policy, None).unwrap(), key);
    let bus = seen.lock().unwrap().clone();
    let contains = |needle: &[u8]| bus.windows(needle.len()).any(|window| window == needle);
    assert!(contains(&sealed.blob), "the dump is of the bus");
    assert!(!contains(b"a secret that stands out"));
    drop(tpm);
    let altered = unseal(&mut connect(true), &sealed, &policy, None);
    assert!(matches!(altered, Err(TpmError::NotAuthentic { .. })), "{altered:?}");
}
