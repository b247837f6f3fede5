//! `URI#ATTR`.

use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A configuration in a flake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flake {
    uri: String,
    /// The attribute that is a configuration: `nixosConfigurations."nas".config`.
    config: String,
    given: String,
}

/// Not a configuration in a flake.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "'{given}' names no configuration: {why} (expected URI#NAME, as .#nas or github:me/fleet#nas)"
)]
pub struct FlakeError {
    given: String,
    why: &'static str,
}

impl Flake {
    /// An attribute of the configuration, as `nix` takes it.
    pub fn installable(&self, attribute: &str) -> String {
        format!("{}#{}.{attribute}", self.uri, self.config)
    }
}

impl fmt::Display for Flake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.given)
    }
}

impl FromStr for Flake {
    type Err = FlakeError;

    /// Reads `URI#NAME`, for `nixosConfigurations."NAME".config`; a name that begins with
    /// `nixosConfigurations.` is a configuration's attribute itself and taken as it is.
    fn from_str(text: &str) -> Result<Self, FlakeError> {
        let fail = |why| Err(FlakeError { given: text.to_owned(), why });
        let Some((uri, attribute)) = text.rsplit_once('#') else {
            return fail("there is no # in it");
        };
        if attribute.is_empty() {
            return fail("nothing follows the #");
        }
        if attribute.contains(['"', '\\', '$']) && !attribute.starts_with("nixosConfigurations.") {
            return fail("the name has a character that a host name can't have");
        }
        let config = match attribute.starts_with("nixosConfigurations.") {
            true => attribute.to_owned(),
            false => format!("nixosConfigurations.\"{attribute}\".config"),
        };
        let uri = if uri.is_empty() { "." } else { uri };
        Ok(Flake { uri: uri.to_owned(), config, given: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_attributes() {
        let installable = |text: &str| text.parse::<Flake>().unwrap().installable("x");
        assert_eq!(installable(".#nas"), ".#nixosConfigurations.\"nas\".config.x");
        assert_eq!(installable("#nas"), ".#nixosConfigurations.\"nas\".config.x");
        assert_eq!(
            installable("github:me/fleet?ref=a#nas.example.org"),
            "github:me/fleet?ref=a#nixosConfigurations.\"nas.example.org\".config.x"
        );
        assert_eq!(
            installable(".#nixosConfigurations.nas.config.virtualisation.vmVariant"),
            ".#nixosConfigurations.nas.config.virtualisation.vmVariant.x"
        );
        for bad in [".", ".#", ".#a\"b", ""] {
            assert!(bad.parse::<Flake>().unwrap_err().to_string().contains("URI#NAME"), "{bad}");
        }
    }
}
