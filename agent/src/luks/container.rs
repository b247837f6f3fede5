//! A loaded header, and libcryptsetup's messages.
//!
//! Unless told otherwise, libcryptsetup prints its messages, the ordinary ones to standard
//! output, which is where the agent speaks its protocol. So a log callback is set before anything
//! else; errors are kept per thread and become a part of the error they explain.

use super::LuksError;
use libcryptsetup_rs::consts::vals::EncryptionFormat;
use libcryptsetup_rs::{CryptDevice, CryptInit, LibcryptErr};
use std::cell::RefCell;
use std::ffi::CStr;
use std::os::raw::{c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::Once;

thread_local! {
    static ERRORS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// `CRYPT_LOG_ERROR` of libcryptsetup.h.
const LOG_ERROR: c_int = 1;

unsafe extern "C" fn take_message(level: c_int, message: *const c_char, _: *mut c_void) {
    if message.is_null() {
        return;
    }
    // SAFETY: libcryptsetup passes a NUL-terminated string that lives until we return.
    let message = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    let message = message.trim();
    if message.is_empty() {
        return;
    }
    tracing::debug!(target: "libcryptsetup", "{message}");
    if level == LOG_ERROR {
        ERRORS.with_borrow_mut(|errors| errors.push(message.to_owned()));
    }
}

fn keep_messages() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| libcryptsetup_rs::set_log_callback::<()>(Some(take_message), None));
}

/// A device with a LUKS2 header.
pub(super) struct Container {
    pub(super) device: CryptDevice,
    pub(super) path: PathBuf,
}

impl Container {
    /// A device without a loaded header, to be formatted.
    pub(super) fn blank(path: &Path) -> Result<Self, LuksError> {
        let device = attempt("open", path, || CryptInit::init(path))?;
        Ok(Container { device, path: path.to_owned() })
    }

    /// Reads the header; `None` if there is no (LUKS2) header.
    pub(super) fn find(path: &Path) -> Result<Option<Self>, LuksError> {
        let mut container = Self::blank(path)?;
        let loaded = container.attempt("read the LUKS2 header of", |device| {
            device.context_handle().load::<()>(Some(EncryptionFormat::Luks2), None)
        });
        match loaded {
            Ok(()) => Ok(Some(container)),
            Err(error) if error.errno() == Some(libc::EINVAL) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the header.
    pub(super) fn load(path: &Path) -> Result<Self, LuksError> {
        Self::find(path)?.ok_or_else(|| LuksError::NotLuks(path.to_owned()))
    }

    /// Does something with libcryptsetup; its messages explain the error.
    pub(super) fn attempt<T>(
        &mut self,
        action: &'static str,
        work: impl FnOnce(&mut CryptDevice) -> Result<T, LibcryptErr>,
    ) -> Result<T, LuksError> {
        let device = &mut self.device;
        attempt(action, &self.path, || work(device))
    }

    pub(super) fn uuid(&mut self) -> Result<uuid::Uuid, LuksError> {
        self.attempt("read the UUID of", |device| device.status_handle().get_uuid())
    }
}

/// As [`Container::attempt`], without one.
pub(super) fn attempt<T>(
    action: &'static str,
    subject: &Path,
    work: impl FnOnce() -> Result<T, LibcryptErr>,
) -> Result<T, LuksError> {
    keep_messages();
    ERRORS.take();
    work().map_err(|source| LuksError::Crypt {
        action,
        device: subject.to_owned(),
        messages: ERRORS.take().join("; "),
        source,
    })
}

impl LuksError {
    /// libcryptsetup's error number, if that is what failed.
    pub(super) fn errno(&self) -> Option<i32> {
        match self {
            LuksError::Crypt { source: LibcryptErr::IOError(error), .. } => error.raw_os_error(),
            _ => None,
        }
    }
}
