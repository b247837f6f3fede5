//! Authorization sessions and the encryption of parameters (TCG TPM 2.0 Library, part 1,
//! sections 11.4, 17 to 21 and annex C).
//!
//! Every session is salted: its key is agreed by ECDH with a key that the TPM makes for it in
//! the null hierarchy, so that what is sealed and unsealed never crosses the bus in the clear.
//! That keeps a passive listener on a discrete TPM's bus out. One who can replace messages can
//! pose as the TPM, here as with systemd before a storage root key is known.

use super::wire::{Reader, Truncated, Writer};
use aes::Aes128;
use cfb_mode::cipher::{AsyncStreamCipher, KeyIvInit};
use hmac::{Hmac, Mac};
use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Length of a SHA-256 digest; all sessions and policies are of SHA-256.
pub(super) const DIGEST: usize = 32;

/// Session attributes (`TPMA_SESSION`).
const CONTINUE: u8 = 1 << 0;
/// The first command parameter is encrypted.
pub(super) const DECRYPT: u8 = 1 << 5;
/// The first response parameter is encrypted.
pub(super) const ENCRYPT: u8 = 1 << 6;

/// A session that the TPM holds.
pub(super) struct Session {
    pub(super) handle: u32,
    key: Zeroizing<[u8; DIGEST]>,
    nonce_tpm: Vec<u8>,
}

/// A session as one command uses it.
pub(super) struct SessionUse<'a> {
    pub(super) session: &'a mut Session,
    /// [`DECRYPT`], [`ENCRYPT`]; `CONTINUE` is always added, and sessions are flushed.
    pub(super) attributes: u8,
    /// The authorization value of the entity that is authorized.
    pub(super) entity_auth: &'a [u8],
    /// Whether the proof includes that value. Not so in a policy session without
    /// `PolicyAuthValue`.
    pub(super) proves_auth: bool,
    pub(super) nonce_caller: [u8; DIGEST],
}

/// The TPM's proof in a response is not right: somebody else answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the response is not authentic: something between here and the TPM alters messages")]
pub struct NotAuthentic;

/// Random bytes from the kernel.
///
/// # Panics
/// If the kernel has no random numbers to give, which it always has once booted.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    OsRng.try_fill_bytes(&mut bytes).expect("the kernel's random number generator");
    bytes
}

impl Session {
    /// A session from `StartAuthSession`'s answer: its key is derived from the salt.
    pub(super) fn new(
        handle: u32,
        salt: &[u8; DIGEST],
        nonce_caller: &[u8],
        nonce_tpm: Vec<u8>,
    ) -> Self {
        let key = kdf_a(salt, b"ATH", &nonce_tpm, nonce_caller);
        Session { handle, key, nonce_tpm }
    }
}

impl<'a> SessionUse<'a> {
    pub(super) fn new(
        session: &'a mut Session,
        attributes: u8,
        entity_auth: &'a [u8],
        proves_auth: bool,
    ) -> Self {
        let nonce_caller = random();
        let attributes = attributes | CONTINUE;
        SessionUse { session, attributes, entity_auth, proves_auth, nonce_caller }
    }

    /// Writes this session's part of the authorization area.
    pub(super) fn authorize(&self, cp_hash: &[u8], out: &mut Writer) {
        let proof = self.proof(cp_hash, &self.nonce_caller, &self.session.nonce_tpm);
        out.u32(self.session.handle)
            .sized(&self.nonce_caller)
            .u8(self.attributes)
            .sized(&proof.finalize().into_bytes());
    }

    /// Encrypts the first command parameter, a `TPM2B`, in place.
    pub(super) fn encrypt_parameter(&self, parameters: &mut [u8]) -> Result<(), Truncated> {
        if self.attributes & DECRYPT == 0 {
            return Ok(());
        }
        let (key, iv) = self.parameter_key(&self.nonce_caller, &self.session.nonce_tpm);
        let data = first_sized(parameters)?;
        cfb_mode::Encryptor::<Aes128>::new((&*key).into(), (&*iv).into()).encrypt(data);
        Ok(())
    }

    /// Decrypts the first response parameter, a `TPM2B`, in place. After [`Self::verify`].
    pub(super) fn decrypt_parameter(&self, parameters: &mut [u8]) -> Result<(), Truncated> {
        if self.attributes & ENCRYPT == 0 {
            return Ok(());
        }
        let (key, iv) = self.parameter_key(&self.session.nonce_tpm, &self.nonce_caller);
        let data = first_sized(parameters)?;
        cfb_mode::Decryptor::<Aes128>::new((&*key).into(), (&*iv).into()).decrypt(data);
        Ok(())
    }

    /// Checks this session's part of a response's authorization area, and takes the new nonce.
    pub(super) fn verify(
        &mut self,
        rp_hash: &[u8],
        area: &mut Reader<'_>,
    ) -> Result<Result<(), NotAuthentic>, Truncated> {
        self.session.nonce_tpm = area.sized()?.to_vec();
        let attributes = area.u8()?;
        let theirs = area.sized()?;
        let mut proof = self.key_proof();
        proof.update(rp_hash);
        proof.update(&self.session.nonce_tpm);
        proof.update(&self.nonce_caller);
        proof.update(&[attributes]);
        Ok(proof.verify_slice(theirs).map_err(|_| NotAuthentic))
    }

    fn proof(&self, hash: &[u8], newer: &[u8], older: &[u8]) -> Hmac<Sha256> {
        let mut proof = self.key_proof();
        proof.update(hash);
        proof.update(newer);
        proof.update(older);
        proof.update(&[self.attributes]);
        proof
    }

    fn key_proof(&self) -> Hmac<Sha256> {
        let auth = if self.proves_auth { self.entity_auth } else { &[] };
        keyed(&[self.session.key.as_slice(), auth])
    }

    fn parameter_key(
        &self,
        newer: &[u8],
        older: &[u8],
    ) -> (Zeroizing<[u8; 16]>, Zeroizing<[u8; 16]>) {
        // The entity's value is part of the key whether or not the policy asks for it.
        let secret = Zeroizing::new([self.session.key.as_slice(), self.entity_auth].concat());
        let both = kdf_a(&secret, b"CFB", newer, older);
        let mut key = Zeroizing::new([0; 16]);
        let mut iv = Zeroizing::new([0; 16]);
        key.copy_from_slice(&both[..16]);
        iv.copy_from_slice(&both[16..]);
        (key, iv)
    }
}

fn first_sized(parameters: &mut [u8]) -> Result<&mut [u8], Truncated> {
    let (length, rest) = parameters.split_at_mut_checked(2).ok_or(Truncated)?;
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    rest.get_mut(..length).ok_or(Truncated)
}

fn keyed(parts: &[&[u8]]) -> Hmac<Sha256> {
    let key = Zeroizing::new(parts.concat());
    Hmac::new_from_slice(&key).expect("HMAC takes keys of any length")
}

/// KDFa (part 1, section 11.4.10.2) of SHA-256, one round: 256 bits.
fn kdf_a(key: &[u8], label: &[u8], u: &[u8], v: &[u8]) -> Zeroizing<[u8; DIGEST]> {
    let mut mac = keyed(&[key]);
    for part in [&1_u32.to_be_bytes()[..], label, &[0], u, v, &256_u32.to_be_bytes()] {
        mac.update(part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// KDFe (part 1, section 11.4.10.3) of SHA-256, one round: 256 bits.
pub(super) fn kdf_e(z: &[u8], label: &[u8], u: &[u8], v: &[u8]) -> Zeroizing<[u8; DIGEST]> {
    let mut hash = Sha256::new();
    for part in [&1_u32.to_be_bytes()[..], z, label, &[0], u, v] {
        hash.update(part);
    }
    Zeroizing::new(hash.finalize().into())
}
