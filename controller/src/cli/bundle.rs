//! `keystone bundle`: writes, checks and lists bundles.

use super::origin::PlaceArgs;
use super::outcome::Trouble;
use super::output::print;
use crate::bundle::{self, Bundle, Signed, WriteOptions};
use crate::closure::signature::{PublicKey, SecretKey};
use crate::closure::{ClosureError, ClosureSource, Origin, Trust};
use crate::install::{InstallError, Kind};
use crate::stop::Stop;
use crate::ui::format::bytes;
use crate::ui::style::Style;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use zeroize::Zeroizing;

/// `keystone bundle`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BundleArgs {
    /// What else to do.
    #[command(subcommand)]
    pub command: Option<BundleCommand>,
    /// The system: its store path, or a link to it such as ./result
    #[arg(value_name = "TOPLEVEL", required = true)]
    pub toplevel: Option<PathBuf>,
    /// The file to write
    #[arg(short, long, value_name = "FILE", required = true)]
    pub output: Option<PathBuf>,
    /// Where to take it from.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Sign it with the secret key in this file, as nix-store --generate-binary-cache-key writes it
    #[arg(long, value_name = "FILE")]
    pub sign_with: Option<PathBuf>,
    /// Zstandard's level: higher is smaller and slower
    #[arg(long, value_name = "LEVEL", default_value_t = 12,
          value_parser = clap::value_parser!(i32).range(1..=19))]
    pub level: i32,
    /// Replace the file if it exists
    #[arg(long)]
    pub force: bool,
    /// Write JSON to standard output
    #[arg(long)]
    pub json: bool,
}

/// What else can be done with bundles.
#[derive(Debug, Subcommand)]
pub enum BundleCommand {
    /// Read all of a bundle and check it: every block, every path
    Verify {
        /// The bundle
        file: PathBuf,
        /// Refuse it unless one of these keys (NAME:BASE64) signed it, or all its paths that are
        /// not addressed by their contents
        #[arg(long, value_name = "KEY", num_args = 1..)]
        require_signatures: Vec<PublicKey>,
        /// Write JSON to standard output
        #[arg(long)]
        json: bool,
    },
    /// Show what is in a bundle, without reading the paths
    List {
        /// The bundle
        file: PathBuf,
        /// Write JSON to standard output
        #[arg(long)]
        json: bool,
    },
}

/// Does it, says what came of it, and returns the exit code.
pub(super) async fn bundle(args: BundleArgs, stop: &Stop) -> u8 {
    let json = match &args.command {
        None => args.json,
        Some(BundleCommand::Verify { json, .. } | BundleCommand::List { json, .. }) => *json,
    };
    let asked = Arc::new(AtomicBool::new(false));
    let work = {
        let asked = Arc::clone(&asked);
        tokio::task::spawn_blocking(move || run(args, &asked))
    };
    tokio::pin!(work);
    // Once asked it ends at the next block, and removes what it wrote.
    let done = tokio::select! {
        done = &mut work => done,
        () = stop.asked(1) => {
            asked.store(true, Ordering::Relaxed);
            tokio::select! {
                done = &mut work => done,
                () = stop.asked(2) => return Kind::Interrupted.code(),
            }
        }
    };
    let done = done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    let error = match done {
        Ok(text) => {
            print(&text);
            return 0;
        }
        Err(_) if asked.load(Ordering::Relaxed) => InstallError::Interrupted,
        Err(error) => InstallError::Preflight(error.into()),
    };
    let trouble = Trouble::plain((&error).into(), &error);
    if json {
        print(&format!("{}\n", trouble.json()));
    }
    let _ = io::stderr().write_all(trouble.text(Style::of(&io::stderr())).as_bytes());
    trouble.kind().code()
}

/// What is to be printed.
fn run(args: BundleArgs, asked: &AtomicBool) -> Result<String, ClosureError> {
    match args.command {
        None => make(&args, asked),
        Some(BundleCommand::Verify { file, require_signatures, json }) => {
            verify(&file, require_signatures, json, asked)
        }
        Some(BundleCommand::List { file, json }) => list(&file, json),
    }
}

fn make(args: &BundleArgs, asked: &AtomicBool) -> Result<String, ClosureError> {
    let output = args.output.as_deref().unwrap_or(Path::new(""));
    let options = WriteOptions {
        level: args.level,
        key: args.sign_with.as_deref().map(secret_key).transpose()?,
        replace: args.force,
    };
    let (origin, given) = args.place.origin(args.toplevel.as_deref())?;
    let found = origin.find(given, args.place.trust().as_ref())?;
    let total = found.manifest.nar_bytes();
    let written = with_bar(total, asked, |progress| {
        bundle::write(&found.manifest, found.source.as_ref(), output, &options, progress)
    })?;
    let paths = found.manifest.paths.len();
    Ok(match args.json {
        true => line(&json!({"event": "bundled", "file": output.display().to_string(),
            "toplevel": found.manifest.toplevel, "paths": paths, "nar_bytes": written.nar_bytes,
            "bytes": written.length})),
        false => format!(
            "{}: {paths} paths, {} as NARs, {} as a file\n",
            output.display(),
            bytes(written.nar_bytes),
            bytes(written.length)
        ),
    })
}

/// A key file's key. Its contents are in no message.
fn secret_key(path: &Path) -> Result<SecretKey, ClosureError> {
    let fail = |source| ClosureError::Read { path: path.to_owned(), source };
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(fail)?);
    text.parse().map_err(|error| fail(io::Error::other(error)))
}

fn verify(
    file: &Path,
    keys: Vec<PublicKey>,
    json: bool,
    asked: &AtomicBool,
) -> Result<String, ClosureError> {
    let bundle = Arc::new(Bundle::open(file)?);
    let manifest = bundle.manifest();
    let signed = bundle.signed_by(&keys);
    with_bar(manifest.nar_bytes(), asked, |progress| bundle::verify(&bundle, progress))?;
    let trusted = match (&signed, keys.is_empty()) {
        (_, true) => "whole".to_owned(),
        (Signed::By(key), _) => format!("whole, and signed by {key}"),
        (Signed::ByNobodyKnown, _) => {
            // Then its paths have to be trusted one by one, some for what they contain.
            let origin = Origin::Bundle(Arc::clone(&bundle));
            let found = origin.find(None, Some(&Trust::new(keys)))?;
            prove(&found.manifest.paths, found.source.as_ref())?;
            "whole, and each of its paths is trusted".to_owned()
        }
    };
    Ok(match json {
        true => line(&json!({"event": "verified", "file": file.display().to_string(),
            "paths": manifest.paths.len(), "nar_bytes": manifest.nar_bytes(),
            "signed_by": match signed { Signed::By(key) => Some(key), Signed::ByNobodyKnown => None }})),
        false => format!("{}: {} paths, {trusted}\n", file.display(), manifest.paths.len()),
    })
}

/// Reads the paths whose contents may have to show what they are.
fn prove(
    paths: &[keystone_protocol::manifest::PathInfo],
    source: &dyn ClosureSource,
) -> Result<(), ClosureError> {
    for info in paths.iter().filter(|info| info.ca.is_some()) {
        match source.dump(info, &mut io::sink()) {
            Ok(()) => {}
            Err(crate::nar::DumpError::Source(error)) => return Err(error),
            Err(crate::nar::DumpError::Sink(source)) => {
                return Err(ClosureError::Read { path: (&info.path).into(), source });
            }
        }
    }
    Ok(())
}

fn list(file: &Path, json: bool) -> Result<String, ClosureError> {
    let bundle = Bundle::open(file)?;
    let manifest = bundle.manifest();
    let signers: Vec<&str> = bundle.signers().collect();
    if json {
        return Ok(format!(
            "{:#}\n",
            json!({"toplevel": manifest.toplevel, "signers": signers,
            "nar_bytes": manifest.nar_bytes(), "bytes": bundle.compressed(),
            "paths": manifest.paths})
        ));
    }
    let mut text = format!(
        "{}\n{} paths, {} as NARs, {} compressed, {}\n\n",
        manifest.toplevel,
        manifest.paths.len(),
        bytes(manifest.nar_bytes()),
        bytes(bundle.compressed()),
        match signers.is_empty() {
            true => "not signed".to_owned(),
            // Whether it is true is for verify.
            false => format!("says it is signed by {}", signers.join(", ")),
        }
    );
    for info in &manifest.paths {
        text.push_str(&format!("{:>10}  {}\n", bytes(info.nar_size), info.path));
    }
    Ok(text)
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}

/// Shows progress where somebody sees it.
fn with_bar<T>(
    total: u64,
    asked: &AtomicBool,
    work: impl FnOnce(&mut dyn FnMut(u64) -> bool) -> T,
) -> T {
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {eta}") {
        bar.set_style(style);
    }
    let done = work(&mut |at| {
        bar.set_position(at);
        !asked.load(Ordering::Relaxed)
    });
    bar.finish_and_clear();
    done
}
