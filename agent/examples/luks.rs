//! The `luks` and `tpm2` modules by hand: for comparing what they make with what systemd and
//! cryptsetup make, and for trying them on a machine.
//!
//! Keys are read from files, byte for byte. TPM is `device` for `/dev/tpmrm0`, or the path of
//! swtpm's data socket.
//!
//! ```text
//! luks format DEVICE KEY [--lasting]       a container; KEY in its bootstrap or first keyslot
//! luks enroll-tpm2 DEVICE KEY TPM PCRS [PIN]   PCRS as 0+7, or - for none; PIN is a file
//! luks enroll-recovery DEVICE KEY OUT      writes the recovery key to OUT
//! luks enroll-password DEVICE KEY PASSWORD
//! luks remove-bootstrap DEVICE
//! luks open DEVICE NAME KEY
//! luks close NAME
//! luks dump DEVICE                         the header as JSON
//! luks tpm TPM                             the TPM as JSON
//! ```

use anyhow::{Context, Result, bail, ensure};
use keystone_agent::luks::{self, FirstSlot, enroll};
use keystone_agent::tpm2::transport::Socket;
use keystone_agent::tpm2::{PcrPolicy, Tpm};
use keystone_protocol::secret::Secret;
use std::fs;
use std::path::Path;

fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
        .with_writer(std::io::stderr)
        .init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["format", device, key] => format(device, FirstSlot::Bootstrap, key),
        ["format", device, key, "--lasting"] => format(device, FirstSlot::Lasting, key),
        ["enroll-tpm2", device, key, tpm, pcrs, pin @ ..] => {
            ensure!(pin.len() <= 1, "too many arguments");
            let pcrs: Vec<u8> = match *pcrs {
                "-" => Vec::new(),
                list => list.split('+').map(str::parse).collect::<Result<_, _>>()?,
            };
            let policy = enroll::Tpm2Policy {
                pcrs: PcrPolicy::new("sha256", &pcrs)?,
                pin: pin.first().map(|pin| secret(pin)).transpose()?,
            };
            let device = Path::new(device);
            let done = enroll::enroll_tpm2(device, &secret(key)?, &mut open_tpm(tpm)?, &policy)?;
            println!("{done:?}");
            Ok(())
        }
        ["enroll-recovery", device, key, out] => {
            let (slot, recovery) = enroll::enroll_recovery(Path::new(device), &secret(key)?)?;
            fs::write(out, recovery.secret().expose())?;
            println!("{slot}");
            Ok(())
        }
        ["enroll-password", device, key, password] => {
            let (device, password) = (Path::new(device), secret(password)?);
            let kdf = luks::Kdf::Argon2id;
            println!("{:?}", enroll::enroll_password(device, &secret(key)?, &password, &kdf)?);
            Ok(())
        }
        ["remove-bootstrap", device] => {
            println!("{:?}", luks::remove_slot(Path::new(device), luks::BOOTSTRAP_SLOT)?);
            Ok(())
        }
        ["open", device, name, key] => {
            let (ensured, node) = luks::open(Path::new(device), name, &secret(key)?)?;
            println!("{ensured:?} {}", node.path.display());
            Ok(())
        }
        ["close", name] => {
            println!("{:?}", luks::close(name)?);
            Ok(())
        }
        ["dump", device] => {
            println!("{}", serde_json::to_string_pretty(&luks::dump(Path::new(device))?)?);
            Ok(())
        }
        ["tpm", tpm] => {
            println!("{}", serde_json::to_string_pretty(&open_tpm(tpm)?.inventory()?)?);
            Ok(())
        }
        _ => bail!("see the beginning of agent/examples/luks.rs for what can be asked"),
    }
}

fn format(device: &str, first: FirstSlot, key: &str) -> Result<()> {
    println!("{:?}", luks::format(Path::new(device), first, &secret(key)?)?);
    Ok(())
}

fn secret(path: &str) -> Result<Secret> {
    Ok(Secret::new(fs::read(path).with_context(|| format!("read {path}"))?))
}

fn open_tpm(tpm: &str) -> Result<Tpm> {
    match tpm {
        "device" => Tpm::open()?.context("the machine has no TPM 2.0"),
        socket => Ok(Tpm::over(Socket::connect(Path::new(socket))?)),
    }
}
