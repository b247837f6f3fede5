//! Keys that are made for us: the storage root key, and the one that salts sessions.

use super::command::{Authorization, Command};
use super::session::{DIGEST, Session, kdf_e, random};
use super::wire::{ECC_NIST_P256, Reader, Truncated, Writer, alg, cc, handle, object};
use super::{Tpm, TpmError, rc};
use p256::ecdh::diffie_hellman;
use p256::elliptic_curve::sec1::{FromEncodedPoint, ToEncodedPoint};
use p256::{EncodedPoint, PublicKey, SecretKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Handle of the storage root key (TCG TPM v2.0 Provisioning Guidance, section 7.5.1; systemd
/// v257 src/shared/tpm2-util.h `TPM2_SRK_HANDLE`).
pub(super) const SRK_HANDLE: u32 = 0x8100_0001;

/// Attributes of a storage root key (systemd v257 src/shared/tpm2-util.c
/// `tpm2_get_srk_template`, after the Provisioning Guidance).
const SRK_ATTRIBUTES: u32 = object::FIXED_TPM
    | object::FIXED_PARENT
    | object::SENSITIVE_DATA_ORIGIN
    | object::USER_WITH_AUTH
    | object::NO_DA
    | object::RESTRICTED
    | object::DECRYPT;

/// Attributes without which a key can be no parent.
const PARENT: u32 = object::RESTRICTED | object::DECRYPT;

/// `TPM_ST`-like kinds of a session (`TPM_SE`).
#[derive(Clone, Copy)]
pub(super) enum SessionKind {
    Hmac = 0x00,
    Policy = 0x01,
}

/// The storage root key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StorageRootKey {
    /// Its `TPMT_PUBLIC`.
    public: Vec<u8>,
    /// Its name: algorithm and digest of the public part.
    pub(super) name: Vec<u8>,
    algorithm: u16,
}

impl StorageRootKey {
    fn parse(public: &[u8], name: &[u8]) -> Result<Result<Self, TpmError>, Truncated> {
        let mut reader = Reader::new(public);
        let algorithm = reader.u16()?;
        let name_algorithm = reader.u16()?;
        let attributes = reader.u32()?;
        let key = StorageRootKey { public: public.to_vec(), name: name.to_vec(), algorithm };
        Ok(if !matches!(algorithm, alg::ECC | alg::RSA) {
            Err(TpmError::NotAStorageKey("not an asymmetric key"))
        } else if attributes & PARENT != PARENT {
            Err(TpmError::NotAStorageKey("not a restricted decryption key"))
        } else if name_algorithm == alg::SHA256 && key.sha256_name() != name {
            Err(TpmError::Nonsense("a key whose name is not its digest"))
        } else {
            Ok(key)
        })
    }

    fn sha256_name(&self) -> Vec<u8> {
        [&alg::SHA256.to_be_bytes()[..], &Sha256::digest(&self.public)].concat()
    }

    pub(super) fn algorithm_name(&self) -> &'static str {
        if self.algorithm == alg::RSA { "rsa" } else { "ecc" }
    }

    /// As the ESYS library of tpm2-tss serialises a handle, which is what systemd keeps in
    /// `tpm2_srk`: handle, name, kind of resource (1: a key), public part (tpm2-tss 4.1
    /// src/tss2-esys/esys_mu.c `iesys_MU_IESYS_RESOURCE_Marshal`).
    pub(super) fn serialized(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u32(SRK_HANDLE).sized(&self.name).u32(1).sized(&self.public);
        out.bytes().to_vec()
    }
}

/// A P-256 primary key's public area: `TPMT_PUBLIC` with empty point.
fn ecc_primary_template() -> Writer {
    let mut public = Writer::new();
    public.u16(alg::ECC).u16(alg::SHA256).u32(SRK_ATTRIBUTES).sized(&[]);
    public.u16(alg::AES).u16(128).u16(alg::CFB);
    public.u16(alg::NULL).u16(ECC_NIST_P256).u16(alg::NULL);
    public.sized(&[]).sized(&[]);
    public
}

impl Tpm {
    /// The storage root key, if there is one.
    pub(super) fn storage_root_key(&mut self) -> Result<Option<StorageRootKey>, TpmError> {
        let command = Command::new("TPM2_ReadPublic", cc::READ_PUBLIC).handle(SRK_HANDLE);
        let response = match command.run(self, Authorization::None) {
            Ok(response) => response,
            Err(error) if error.is_refused_with(&[rc::HANDLE]) => return Ok(None),
            Err(error) => return Err(error),
        };
        response
            .read(|parameters| {
                let public = parameters.sized()?;
                let name = parameters.sized()?;
                StorageRootKey::parse(public, name)
            })?
            .map(Some)
    }

    /// The storage root key; made, and kept in the TPM, if there is none.
    pub(super) fn ensure_storage_root_key(&mut self) -> Result<StorageRootKey, TpmError> {
        if let Some(key) = self.storage_root_key()? {
            return Ok(key);
        }
        let owner = |error: TpmError| match error {
            error if error.is_refused_with(&[rc::BAD_AUTH, rc::AUTH_FAIL]) => TpmError::OwnerAuth,
            error => error,
        };
        let (transient, _) = self.create_primary(handle::OWNER).map_err(owner)?;
        let mut command = Command::new("TPM2_EvictControl", cc::EVICT_CONTROL)
            .handle(handle::OWNER)
            .handle(transient);
        command.parameters.u32(SRK_HANDLE);
        let kept = command.run(self, Authorization::EmptyPassword).map_err(owner);
        self.flush(transient);
        kept?;
        self.storage_root_key()?.ok_or(TpmError::Nonsense("a key it has just stored is not there"))
    }

    /// Makes a P-256 primary key; its handle and public area.
    fn create_primary(&mut self, hierarchy: u32) -> Result<(u32, Vec<u8>), TpmError> {
        let mut command = Command::new("TPM2_CreatePrimary", cc::CREATE_PRIMARY).handle(hierarchy);
        command
            .parameters
            // TPM2B_SENSITIVE_CREATE: no authorization value, no data.
            .sized(&[0, 0, 0, 0])
            .sized(ecc_primary_template().bytes())
            // No outside info, no PCRs.
            .sized(&[])
            .u32(0);
        let response = command.run(self, Authorization::EmptyPassword)?;
        let public = response.read(|parameters| parameters.sized().map(<[u8]>::to_vec));
        match public {
            Ok(public) => Ok((response.handle, public)),
            Err(error) => {
                self.flush(response.handle);
                Err(error)
            }
        }
    }

    /// Starts a session salted by a key of the null hierarchy, which needs no authorization on
    /// any TPM and is of a kind known here, whatever the storage root key is.
    pub(super) fn start_session(&mut self, kind: SessionKind) -> Result<Session, TpmError> {
        let (key, public) = self.create_primary(handle::NULL)?;
        let session = self.start_salted_session(kind, key, &public);
        self.flush(key);
        session
    }

    fn start_salted_session(
        &mut self,
        kind: SessionKind,
        key: u32,
        public: &[u8],
    ) -> Result<Session, TpmError> {
        let point =
            ecc_point(public).ok_or(TpmError::Nonsense("a P-256 key without a point on it"))?;
        let (salt, encrypted) = agree(&point);
        let nonce_caller = random::<DIGEST>();
        let mut command = Command::new("TPM2_StartAuthSession", cc::START_AUTH_SESSION)
            .handle(key)
            // Bound to nothing.
            .handle(handle::NULL);
        command
            .parameters
            .sized(&nonce_caller)
            .sized(&encrypted)
            .u8(kind as u8)
            .u16(alg::AES)
            .u16(128)
            .u16(alg::CFB)
            .u16(alg::SHA256);
        let response = command.run(self, Authorization::None)?;
        let nonce_tpm = response.read(|parameters| parameters.sized().map(<[u8]>::to_vec))?;
        Ok(Session::new(response.handle, &salt, &nonce_caller, nonce_tpm))
    }
}

/// The point of a public area made from [`ecc_primary_template`].
fn ecc_point(public: &[u8]) -> Option<PublicKey> {
    let mut reader = Reader::new(public);
    // Type, name algorithm, attributes.
    reader.raw(8).ok()?;
    // Policy.
    reader.sized().ok()?;
    // Symmetric algorithm, key bits, mode, scheme, curve, key derivation.
    reader.raw(12).ok()?;
    let x = padded(reader.sized().ok()?)?;
    let y = padded(reader.sized().ok()?)?;
    let point = EncodedPoint::from_affine_coordinates(&x.into(), &y.into(), false);
    PublicKey::from_encoded_point(&point).into_option()
}

fn padded(coordinate: &[u8]) -> Option<[u8; DIGEST]> {
    let mut out = [0; DIGEST];
    out.get_mut(DIGEST.checked_sub(coordinate.len())?..)?.copy_from_slice(coordinate);
    Some(out)
}

/// A salt, and what the TPM needs to agree on the same (part 1, annex C.6.1): the x coordinate
/// of the shared point through KDFe, and our point.
fn agree(theirs: &PublicKey) -> (Zeroizing<[u8; DIGEST]>, Vec<u8>) {
    let ours = loop {
        let scalar = Zeroizing::new(random::<DIGEST>());
        // Not a scalar of the curve once in 2^32 times.
        if let Ok(key) = SecretKey::from_slice(scalar.as_slice()) {
            break key;
        }
    };
    let shared = diffie_hellman(ours.to_nonzero_scalar(), theirs.as_affine());
    let our_point = ours.public_key().to_encoded_point(false);
    let their_point = theirs.to_encoded_point(false);
    let coordinate =
        |point: Option<&p256::FieldBytes>| point.map(|x| x.to_vec()).unwrap_or_default();
    let (x, y) = (coordinate(our_point.x()), coordinate(our_point.y()));
    let salt = kdf_e(shared.raw_secret_bytes(), b"SECRET", &x, &coordinate(their_point.x()));
    let mut point = Writer::new();
    point.sized(&x).sized(&y);
    (salt, point.bytes().to_vec())
}
