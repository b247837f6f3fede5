//! Sealing a secret as systemd does, and unsealing it as systemd will.
//!
//! The secret becomes a keyed-hash object under the storage root key whose policy is made of the
//! PCRs' values and, if wanted, a PIN (systemd v257 src/shared/tpm2-util.c `tpm2_seal`,
//! `tpm2_calculate_sealing_policy`, `tpm2_unseal`). What an object may be used for is decided by
//! its policy's digest, which is calculated here (TCG TPM 2.0 Library, part 3, sections 23.7 and
//! 23.13) and again by the TPM at every unsealing.

use super::command::{Authorization, Command};
use super::inventory::Bank;
use super::key::SessionKind;
use super::session::{DECRYPT, DIGEST, ENCRYPT, SessionUse};
use super::wire::{Reader, Writer, alg, cc, object};
use super::{Tpm, TpmError, rc};
use keystone_protocol::secret::Secret;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// PCRs that are read again when one of them changed meanwhile, so often.
const PCR_READ_TRIES: u32 = 10;

/// The PCRs that a secret is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrPolicy {
    bank: Bank,
    pcrs: Vec<u8>,
}

/// A bank or PCR that there is none of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSuchPcr {
    /// An unknown bank.
    #[error("there is no PCR bank {0}: known are sha1, sha256, sha384 and sha512")]
    Bank(String),
    /// A number that is no PCR's.
    #[error("there is no PCR {0}: PCRs are numbered 0 to 23")]
    Pcr(u8),
}

impl PcrPolicy {
    /// PCRs of a bank (`sha256`), in any order.
    ///
    /// # Errors
    /// [`NoSuchPcr`].
    pub fn new(bank: &str, pcrs: &[u8]) -> Result<Self, NoSuchPcr> {
        let bank = Bank::by_name(bank).ok_or_else(|| NoSuchPcr::Bank(bank.to_owned()))?;
        if let Some(wrong) = pcrs.iter().find(|pcr| **pcr > 23) {
            return Err(NoSuchPcr::Pcr(*wrong));
        }
        let mut pcrs = pcrs.to_vec();
        pcrs.sort_unstable();
        pcrs.dedup();
        Ok(PcrPolicy { bank, pcrs })
    }

    /// The bank's name, as in `tpm2-pcr-bank`.
    pub fn bank(&self) -> &'static str {
        self.bank.name
    }

    /// The PCRs, ascending.
    pub fn pcrs(&self) -> &[u8] {
        &self.pcrs
    }

    /// A `TPML_PCR_SELECTION` of one bank with three bytes of bits.
    fn selection(bank: Bank, pcrs: &[u8]) -> Vec<u8> {
        let mut bits = [0_u8; 3];
        for pcr in pcrs {
            bits[usize::from(pcr / 8)] |= 1 << (pcr % 8);
        }
        let mut out = Writer::new();
        out.u32(1).u16(bank.algorithm).u8(3).raw(&bits);
        out.bytes().to_vec()
    }
}

/// A sealed secret, as it goes into a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Private part and public part, one after the other as `TPM2_Create` returned them.
    pub blob: Vec<u8>,
    /// Digest of its policy.
    pub policy_hash: [u8; DIGEST],
    /// The storage root key it is under, as tpm2-tss serialises it.
    pub srk: Vec<u8>,
    /// That key's algorithm, as systemd spells it: `ecc` or `rsa`.
    pub srk_algorithm: &'static str,
}

/// What is needed to unseal, besides the TPM and a PIN.
#[derive(Debug, Clone, Copy)]
pub struct Unsealing<'a> {
    /// As in [`Sealed`].
    pub blob: &'a [u8],
    /// As in [`Sealed`].
    pub srk: &'a [u8],
    /// The PCRs.
    pub policy: &'a PcrPolicy,
}

/// The authorization value that a PIN stands for: its digest without trailing zeros, which the
/// TPM drops (systemd v257 src/shared/tpm2-util.c `tpm2_auth_value_from_pin`).
fn auth_value(pin: Option<&Secret>) -> Zeroizing<Vec<u8>> {
    let Some(pin) = pin else { return Zeroizing::default() };
    let mut value = Zeroizing::new(Sha256::digest(pin.expose()).to_vec());
    while value.last() == Some(&0) {
        value.pop();
    }
    value
}

impl Tpm {
    /// Seals a secret. `pin` is what is hashed into the authorization value: with systemd's
    /// salted PINs, not the PIN itself.
    ///
    /// # Errors
    /// [`TpmError`]: no storage root key can be made, a PCR is not active, I/O.
    pub fn seal(
        &mut self,
        secret: &Secret,
        policy: &PcrPolicy,
        pin: Option<&Secret>,
    ) -> Result<Sealed, TpmError> {
        let values = self.pcr_values(policy.bank, &policy.pcrs)?;
        let policy_hash = policy_digest(policy, &values, pin.is_some());
        let srk = self.ensure_storage_root_key()?;

        let mut sensitive = Writer::new();
        sensitive.sized(&auth_value(pin)).sized(secret.expose());
        let mut public = Writer::new();
        let lockout = if pin.is_some() { 0 } else { object::NO_DA };
        public
            .u16(alg::KEYEDHASH)
            .u16(alg::SHA256)
            .u32(object::FIXED_TPM | object::FIXED_PARENT | lockout)
            .sized(&policy_hash)
            // No scheme, empty unique.
            .u16(alg::NULL)
            .sized(&[]);

        let session = self.start_session(SessionKind::Hmac)?;
        let blob = self.with_session(session, |tpm, session| {
            let mut command =
                Command::new("TPM2_Create", cc::CREATE).object(super::key::SRK_HANDLE, &srk.name);
            command.parameters.sized(sensitive.bytes()).sized(public.bytes()).sized(&[]).u32(0);
            let authorization = SessionUse::new(session, DECRYPT, &[], true);
            let response = command
                .run(tpm, Authorization::Session(authorization))
                .map_err(TpmError::about_storage_root_key)?;
            let length = response.read(|parameters| {
                parameters.sized()?;
                parameters.sized()?;
                Ok(response.parameters().len() - parameters.rest().len())
            })?;
            Ok(response.parameters()[..length].to_vec())
        })?;
        Ok(Sealed { blob, policy_hash, srk: srk.serialized(), srk_algorithm: srk.algorithm_name() })
    }

    /// Unseals.
    ///
    /// # Errors
    /// [`TpmError::PolicyFails`], [`TpmError::WrongPin`], [`TpmError::Lockout`],
    /// [`TpmError::OtherTpm`], and those of talking to the TPM.
    pub fn unseal(
        &mut self,
        sealed: Unsealing<'_>,
        pin: Option<&Secret>,
    ) -> Result<Secret, TpmError> {
        let srk = self.storage_root_key()?.ok_or(TpmError::OtherTpm)?;
        if srk.serialized() != sealed.srk {
            return Err(TpmError::OtherTpm);
        }
        let mut load =
            Command::new("TPM2_Load", cc::LOAD).object(super::key::SRK_HANDLE, &srk.name);
        load.parameters.raw(sealed.blob);
        let loaded = load.run(self, Authorization::EmptyPassword).map_err(|error| match error {
            error if error.is_refused_with(&[rc::INTEGRITY]) => TpmError::OtherTpm,
            error => error.about_storage_root_key(),
        })?;
        let unsealed = self.unseal_loaded(&loaded, sealed.policy, pin);
        self.flush(loaded.handle);
        unsealed
    }

    fn unseal_loaded(
        &mut self,
        loaded: &super::command::Response,
        policy: &PcrPolicy,
        pin: Option<&Secret>,
    ) -> Result<Secret, TpmError> {
        let name = loaded.read(|parameters| parameters.sized().map(<[u8]>::to_vec))?;
        let auth = auth_value(pin);
        let session = self.start_session(SessionKind::Policy)?;
        self.with_session(session, |tpm, session| {
            if !policy.pcrs.is_empty() {
                let mut command =
                    Command::new("TPM2_PolicyPCR", cc::POLICY_PCR).handle(session.handle);
                // No expected digest: the TPM takes the PCRs as they are.
                let selection = PcrPolicy::selection(policy.bank, &policy.pcrs);
                command.parameters.sized(&[]).raw(&selection);
                command.run(tpm, Authorization::None)?;
            }
            if pin.is_some() {
                Command::new("TPM2_PolicyAuthValue", cc::POLICY_AUTH_VALUE)
                    .handle(session.handle)
                    .run(tpm, Authorization::None)?;
            }
            let authorization = SessionUse::new(session, ENCRYPT, &auth, pin.is_some());
            let response = Command::new("TPM2_Unseal", cc::UNSEAL)
                .object(loaded.handle, &name)
                .run(tpm, Authorization::Session(authorization))
                .map_err(TpmError::about_pin)?;
            response.read(|parameters| parameters.sized().map(|data| Secret::new(data.to_vec())))
        })
    }

    /// Values of PCRs, ascending by number, all of the same moment.
    ///
    /// # Errors
    /// [`TpmError::InactivePcr`], [`TpmError::UnsteadyPcrs`].
    pub(super) fn pcr_values(&mut self, bank: Bank, pcrs: &[u8]) -> Result<Vec<Vec<u8>>, TpmError> {
        let active = if pcrs.is_empty() { Vec::new() } else { self.active_pcrs(bank)? };
        if let Some(pcr) = pcrs.iter().copied().find(|pcr| !active.contains(pcr)) {
            return Err(TpmError::InactivePcr { bank: bank.name, pcr });
        }
        for _ in 0..PCR_READ_TRIES {
            if let Some(values) = self.read_pcrs(bank, pcrs)? {
                return Ok(values.into_values().collect());
            }
        }
        Err(TpmError::UnsteadyPcrs)
    }

    /// Reads them, a few at a time as the TPM likes; `None` if one changed meanwhile.
    fn read_pcrs(
        &mut self,
        bank: Bank,
        pcrs: &[u8],
    ) -> Result<Option<BTreeMap<u8, Vec<u8>>>, TpmError> {
        let mut values = BTreeMap::new();
        let mut counter = None;
        while values.len() < pcrs.len() {
            let missing: Vec<u8> =
                pcrs.iter().copied().filter(|pcr| !values.contains_key(pcr)).collect();
            let mut command = Command::new("TPM2_PCR_Read", cc::PCR_READ);
            command.parameters.raw(&PcrPolicy::selection(bank, &missing));
            let response = command.run(self, Authorization::None)?;
            let (now, read) = response.read(|parameters| {
                let counter = parameters.u32()?;
                let selected = selected(parameters)?;
                let count = parameters.u32()?;
                let digests: Result<Vec<_>, _> =
                    (0..count).map(|_| parameters.sized().map(<[u8]>::to_vec)).collect();
                Ok((counter, selected.into_iter().zip(digests?).collect::<Vec<_>>()))
            })?;
            if *counter.get_or_insert(now) != now {
                return Ok(None);
            }
            let before = values.len();
            values.extend(
                read.into_iter()
                    .filter(|(pcr, value)| missing.contains(pcr) && value.len() == bank.length),
            );
            if values.len() == before {
                return Err(TpmError::Nonsense("an active PCR without a value"));
            }
        }
        Ok(Some(values))
    }
}

/// The PCRs of a `TPML_PCR_SELECTION` of at most one bank.
fn selected(reader: &mut Reader<'_>) -> Result<Vec<u8>, super::Truncated> {
    let mut pcrs = Vec::new();
    for _ in 0..reader.u32()? {
        reader.u16()?;
        let length = reader.u8()?;
        let bits = reader.raw(length.into())?;
        pcrs.extend(
            (0..=u8::MAX)
                .take(bits.len() * 8)
                .filter(|pcr| bits[usize::from(pcr / 8)] & (1 << (pcr % 8)) != 0),
        );
    }
    Ok(pcrs)
}

/// The digest of a policy: PCRs first, then the PIN, as systemd orders them.
fn policy_digest(policy: &PcrPolicy, values: &[Vec<u8>], pin: bool) -> [u8; DIGEST] {
    let mut digest = [0; DIGEST];
    if !policy.pcrs.is_empty() {
        let mut hash = Sha256::new();
        hash.update(digest);
        hash.update(cc::POLICY_PCR.to_be_bytes());
        hash.update(PcrPolicy::selection(policy.bank, &policy.pcrs));
        hash.update(Sha256::digest(values.concat()));
        digest = hash.finalize().into();
    }
    if pin {
        let mut hash = Sha256::new();
        hash.update(digest);
        hash.update(cc::POLICY_AUTH_VALUE.to_be_bytes());
        digest = hash.finalize().into();
    }
    digest
}
