//! LUKS2 containers and TPM enrolments compared with those of cryptsetup 2.7 and systemd 257, and
//! opened by them. The agent's own code runs inside the oracle's root too: it is static, and must
//! not care about the libraries there.

use anyhow::{Context, Result, ensure};
use keystone_lab::lab::Lab;
use keystone_lab::native;
use keystone_lab::oracle::{SoftwareTpm, Systemd, write_key};
use keystone_lab::run::text;
use serde_json::{Value, json};
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

const KEY: &[u8] = b"the key of both containers";
const PASSWORD: &[u8] = b"correct horse battery";

/// The oracle's programs, the agent's example, a software TPM and a directory that all see.
struct Bench {
    systemd: Systemd,
    dir: tempfile::TempDir,
    tpm: SoftwareTpm,
}

/// The lab and the example, built once.
static PARTS: LazyLock<Result<(Lab, std::path::PathBuf)>> = LazyLock::new(|| {
    let lab = Lab::open()?;
    let env = native::ensure(lab.cache())?;
    let example = native::build_example(&env, "luks")?;
    Systemd::root(&lab)?;
    Ok((lab, example))
});

impl Bench {
    fn new() -> Result<Bench> {
        let (lab, example) = PARTS.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        let dir = tempfile::tempdir()?;
        let systemd = Systemd::new(lab, dir.path())?;
        let tpm = SoftwareTpm::start(dir.path())?;
        std::fs::copy(example, dir.path().join("luks"))?;
        let bench = Bench { systemd, dir, tpm };
        bench.key("key", KEY)?;
        bench.key("password", PASSWORD)?;
        bench.key("pin", b"1234")?;
        Ok(bench)
    }

    fn key(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_key(&self.dir.path().join(name), bytes)
    }

    /// A blank container file, as large as Keystone's credstore.
    fn blank(&self, name: &str) -> Result<()> {
        Ok(File::create(self.dir.path().join(name))?.set_len(100 << 20)?)
    }

    /// Runs the agent's side in the oracle's root.
    fn ours(&self, arguments: &str) -> Result<String> {
        text(self.systemd.command("/mnt/luks").args(arguments.split(' ')))
    }

    /// Runs the oracle's side, with a PIN for systemd in the environment.
    fn theirs(&self, command: &str) -> Result<String> {
        let mut words = command.split(' ');
        let program = words.next().context("no command")?;
        let mut command = self.systemd.command(program);
        text(command.args(words).env("PIN", "1234").env("NEWPIN", "1234"))
    }

    /// The metadata without what is random or depends on the machine's speed at the moment.
    fn metadata(&self, name: &str) -> Result<Value> {
        let dump = format!("cryptsetup luksDump --dump-json-metadata /mnt/{name}");
        let mut json: Value = serde_json::from_str(&self.theirs(&dump)?)?;
        for slot in json["keyslots"].as_object_mut().context("keyslots")?.values_mut() {
            let kdf = slot["kdf"].as_object_mut().context("kdf")?;
            ensure!(kdf.remove("salt").is_some());
            if kdf["type"] == "argon2id" {
                ensure!(kdf.remove("time").is_some() && kdf.remove("memory").is_some());
            }
        }
        for digest in json["digests"].as_object_mut().context("digests")?.values_mut() {
            for volatile in ["salt", "digest", "iterations"] {
                ensure!(digest.as_object_mut().context("digest")?.remove(volatile).is_some());
            }
        }
        for token in json["tokens"].as_object_mut().context("tokens")?.values_mut() {
            let token = token.as_object_mut().context("token")?;
            if let Some(blob) = token.get_mut("tpm2-blob") {
                *blob = blob.as_str().map(str::len).into();
            }
            if let Some(salt) = token.get_mut("tpm2_salt") {
                *salt = salt.as_str().map(str::len).into();
            }
        }
        Ok(json)
    }
}

fn enroll(arguments: &str) -> String {
    format!("systemd-cryptenroll --unlock-key-file=/mnt/key {arguments}")
}

const TPM: &str = "--tpm2-device=swtpm:path=/mnt/tpm";
const UNLOCK: &str = "systemd-cryptenroll --unlock-tpm2-device=swtpm:path=/mnt/tpm --recovery-key";

#[test]
fn a_container_equals_luks_formats() -> Result<()> {
    let bench = Bench::new()?;
    bench.blank("theirs")?;
    bench.blank("ours")?;
    bench.theirs("cryptsetup luksFormat -q --type luks2 --key-file /mnt/key /mnt/theirs")?;
    bench.ours("format /mnt/ours /mnt/key --lasting")?;
    assert_eq!(bench.metadata("ours")?, bench.metadata("theirs")?);
    bench.theirs("cryptsetup open --test-passphrase --key-file /mnt/key /mnt/ours")?;
    Ok(())
}

#[test]
fn keyslots_and_tokens_equal_systemds() -> Result<()> {
    let bench = Bench::new()?;
    for name in ["theirs", "ours"] {
        bench.blank(name)?;
        bench.ours(&format!("format /mnt/{name} /mnt/key"))?;
    }
    for (ours, theirs) in [
        ("enroll-tpm2 /mnt/ours /mnt/key /mnt/tpm 7", "--tpm2-pcrs=7"),
        (
            "enroll-tpm2 /mnt/ours /mnt/key /mnt/tpm 0+4+7 /mnt/pin",
            "--tpm2-pcrs=0+4+7 --tpm2-with-pin=yes",
        ),
        ("enroll-tpm2 /mnt/ours /mnt/key /mnt/tpm - /mnt/pin", "--tpm2-pcrs= --tpm2-with-pin=yes"),
        ("enroll-tpm2 /mnt/ours /mnt/key /mnt/tpm -", "--tpm2-pcrs="),
    ] {
        bench.ours(ours)?;
        bench.theirs(&enroll(&format!("{TPM} {theirs} /mnt/theirs")))?;
    }
    bench.ours("enroll-recovery /mnt/ours /mnt/key /mnt/recovery")?;
    let printed = bench.theirs(&enroll("--recovery-key /mnt/theirs"))?;
    let ours = std::fs::read_to_string(bench.dir.path().join("recovery"))?;
    let shape = |key: &str| -> Vec<usize> { key.trim().split('-').map(str::len).collect() };
    assert_eq!(shape(&ours), shape(&printed));

    let (ours, theirs) = (bench.metadata("ours")?, bench.metadata("theirs")?);
    assert_eq!(ours, theirs);
    // The comparison compared something.
    assert_eq!(ours["tokens"].as_object().map(serde_json::Map::len), Some(5));
    assert_eq!(ours["tokens"]["1"]["tpm2-pcrs"], json!([0, 4, 7]));
    assert!(ours["tokens"]["0"]["tpm2_srk"].is_string());
    Ok(())
}

#[test]
fn systemd_opens_what_we_enrol_and_we_what_it_enrols() -> Result<()> {
    let bench = Bench::new()?;
    bench.blank("ours")?;
    bench.ours("format /mnt/ours /mnt/key")?;
    bench.ours("enroll-tpm2 /mnt/ours /mnt/key /mnt/tpm 7")?;
    bench.ours("enroll-recovery /mnt/ours /mnt/key /mnt/recovery")?;
    bench.ours("enroll-password /mnt/ours /mnt/key /mnt/password")?;
    bench.ours("remove-bootstrap /mnt/ours")?;
    let listed = bench.theirs("systemd-cryptenroll /mnt/ours")?;
    let slots: Vec<Vec<&str>> =
        listed.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(slots, [["0", "tpm2"], ["1", "recovery"], ["2", "password"]]);
    bench.theirs(&format!("{UNLOCK} /mnt/ours"))?;
    for key in ["recovery", "password"] {
        let open = "cryptsetup open --test-passphrase --key-file";
        bench.theirs(&format!("{open} /mnt/{key} /mnt/ours"))?;
    }

    bench.key("other-pin", b"4321")?;
    for name in ["pin", "other-pin"] {
        bench.blank("with-pin")?;
        bench.ours("format /mnt/with-pin /mnt/key")?;
        bench.ours(&format!("enroll-tpm2 /mnt/with-pin /mnt/key /mnt/tpm 7 /mnt/{name}"))?;
        let opened = bench.theirs(&format!("{UNLOCK} /mnt/with-pin"));
        assert_eq!(opened.is_ok(), name == "pin", "with {name}: {opened:?}");
    }

    bench.blank("theirs")?;
    bench.ours("format /mnt/theirs /mnt/key")?;
    bench.theirs(&enroll(&format!("{TPM} --tpm2-pcrs=7 --tpm2-with-pin=yes /mnt/theirs")))?;
    let again = bench.ours("enroll-tpm2 /mnt/theirs /mnt/key /mnt/tpm 7 /mnt/pin")?;
    assert_eq!(again, "(AlreadySo, 0)");

    let extend = format!("tpm2_pcrextend -T swtpm:path=/mnt/tpm 7:sha256={}", "42".repeat(32));
    bench.theirs(&extend)?;
    let refused = bench.theirs(&format!("{UNLOCK} /mnt/ours"));
    assert!(refused.is_err(), "systemd unlocked although PCR 7 changed");
    let anew = bench.ours("enroll-tpm2 /mnt/theirs /mnt/key /mnt/tpm 7 /mnt/pin")?;
    assert!(anew.starts_with("(Created"), "{anew}");
    Ok(())
}

/// A static program that loads shared objects of the system it runs on (OpenSSL's providers, say)
/// gets that system's libc beside its own, and with it another's bugs.
#[test]
fn the_example_loads_nothing_of_the_system_it_runs_on() -> Result<()> {
    let bench = Bench::new()?;
    bench.blank("container")?;
    let trace = bench.dir.path().join("trace");
    let out = |name: &str| bench.dir.path().join(name).display().to_string();
    let status = Command::new("strace")
        .args(["-f", "-e", "trace=open,openat,execve", "-o"])
        .arg(&trace)
        .arg(bench.dir.path().join("luks"))
        .args(["format", &out("container"), &out("key"), "--lasting"])
        .status()
        .context("this test needs strace: apt-get install strace")?;
    ensure!(status.success());
    let traced = std::fs::read_to_string(&trace)?;
    ensure!(traced.contains("container"), "nothing was traced");
    let loaded: Vec<&str> = traced
        .lines()
        .filter(|line| line.contains(".so") || line.contains("openssl.cnf"))
        .collect();
    assert!(loaded.is_empty(), "{loaded:#?}");
    assert!(
        Path::new("/usr/lib/x86_64-linux-gnu/ossl-modules/legacy.so").exists(),
        "this test needs something to load: apt-get install libssl3"
    );
    drop(bench.tpm);
    Ok(())
}

/// Windows and older systems leave an RSA key as the storage root key.
#[test]
fn an_rsa_storage_root_key_is_used_as_systemd_uses_it() -> Result<()> {
    let bench = Bench::new()?;
    let tools = "-T swtpm:path=/mnt/tpm";
    let attributes =
        "restricted|decrypt|fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda";
    let key = "-C o -G rsa2048:aes128cfb -c /mnt/srk -a";
    bench.theirs(&format!("tpm2_createprimary {tools} {key} {attributes}"))?;
    bench.theirs(&format!("tpm2_evictcontrol {tools} -C o -c /mnt/srk 0x81000001"))?;
    bench.theirs(&format!("tpm2_flushcontext {tools} -t"))?;
    for name in ["theirs", "ours"] {
        bench.blank(name)?;
        bench.ours(&format!("format /mnt/{name} /mnt/key"))?;
    }
    bench.ours("enroll-tpm2 /mnt/ours /mnt/key /mnt/tpm 7")?;
    bench.theirs(&enroll(&format!("{TPM} --tpm2-pcrs=7 /mnt/theirs")))?;
    let ours = bench.metadata("ours")?;
    assert_eq!(ours, bench.metadata("theirs")?);
    assert_eq!(ours["tokens"]["0"]["tpm2-primary-alg"], "rsa");
    bench.theirs(&format!("{UNLOCK} /mnt/ours"))?;
    Ok(())
}
