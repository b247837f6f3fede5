//! Who fetches from a binary cache.

use crate::cli::origin::PlaceArgs;
use crate::install::InstallError;
use clap::{Args, ValueEnum};

/// Who fetches from a binary cache.
#[derive(Debug, Clone, Copy, Args)]
pub struct FetchArgs {
    /// Who fetches the closure from the web server that --from names
    #[arg(long, value_enum, default_value_t = FetchBy::Operator, value_name = "BY")]
    pub fetch: FetchBy,
}

/// `--fetch`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FetchBy {
    /// This computer, which sends it: the machine needs no network but this connection
    Operator,
    /// The machine itself, where it has the better line; what it can't fetch is sent from here
    OnTarget,
}

impl FetchArgs {
    /// Whether the machine does it.
    ///
    /// # Errors
    /// There is no web server to fetch from.
    pub fn on_target(&self, place: &PlaceArgs) -> Result<bool, InstallError> {
        let from = place.from.as_deref().unwrap_or_default();
        let is_web = from.starts_with("http://") || from.starts_with("https://");
        match self.fetch {
            FetchBy::Operator => Ok(false),
            FetchBy::OnTarget if is_web => Ok(true),
            FetchBy::OnTarget => Err(InstallError::Usage(
                "--fetch on-target: a machine can fetch from a binary cache at an http:// or \
                 https:// address only; give one with --from URL, or leave --fetch out"
                    .to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::install;

    #[test]
    fn only_from_a_web_server() {
        let on_target = |more: &[&str]| {
            let args = install(more).unwrap();
            args.fetch.on_target(&args.system.origin.place).map_err(|error| error.to_string())
        };
        assert_eq!(on_target(&["--from", "https://cache.example"]), Ok(false));
        let fetch = ["--fetch", "on-target"];
        for from in ["https://cache.example", "http://10.0.0.1:5000/cache"] {
            assert_eq!(on_target(&[&fetch[..], &["--from", from]].concat()), Ok(true));
        }
        assert!(on_target(&fetch).unwrap_err().contains("give one with --from URL"));
        for from in ["file:///srv/cache", "nas.ksb"] {
            let error = on_target(&[&fetch[..], &["--from", from]].concat()).unwrap_err();
            assert!(error.contains("http:// or https://"), "{error}");
        }
        assert!(install(&["--fetch", "elsewhere"]).is_err());
    }
}
