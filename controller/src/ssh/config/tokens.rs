//! `%h` and its like: ssh_config(5), "TOKENS".

use std::path::PathBuf;

/// What tokens stand for.
#[derive(Debug, Clone)]
pub(in crate::ssh) struct Tokens {
    /// `%h`: the host that is connected to.
    pub host: String,
    /// `%n`: the host as it was given.
    pub given: String,
    /// `%p`
    pub port: u16,
    /// `%r`: who logs in.
    pub user: String,
    /// `%k`: what the host key is looked up by.
    pub key_name: String,
    /// `%j`: `ProxyJump` as it is written.
    pub jump: String,
}

impl Tokens {
    /// `text` with the tokens of `allowed` replaced.
    ///
    /// # Errors
    /// A sentence about a token that means nothing here.
    pub(in crate::ssh) fn expand(&self, text: &str, allowed: &str) -> Result<String, String> {
        let mut out = String::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let token = chars.next().ok_or_else(|| format!("'{text}' ends with a single %"))?;
            if token != '%' && !allowed.contains(token) {
                return Err(format!("%{token} in '{text}' is not replaced by keystone"));
            }
            match token {
                '%' => out.push('%'),
                'h' => out.push_str(&self.host),
                'n' => out.push_str(&self.given),
                'p' => out.push_str(&self.port.to_string()),
                'r' => out.push_str(&self.user),
                'k' => out.push_str(&self.key_name),
                'j' => out.push_str(&self.jump),
                'd' => out.push_str(&home()?.display().to_string()),
                'u' => out.push_str(&local_user()),
                'i' => out.push_str(&nix::unistd::getuid().to_string()),
                'l' => out.push_str(&local_host()),
                'L' => out.push_str(local_host().split('.').next().unwrap_or_default()),
                _ => return Err(format!("%{token} in '{text}' is not replaced by keystone")),
            }
        }
        Ok(out)
    }

    /// The path that `text` means: `~`, `${VARIABLE}` and tokens replaced.
    ///
    /// # Errors
    /// A sentence about what can't be replaced.
    pub(in crate::ssh) fn path(&self, text: &str) -> Result<PathBuf, String> {
        let text = variables(&tilde(text)?)?;
        Ok(self.expand(&text, "dhijkLlnpru")?.into())
    }
}

/// Tokens of `ProxyCommand`.
pub(in crate::ssh) const OF_COMMAND: &str = "hnpr";

/// Who runs this program.
pub(in crate::ssh) fn local_user() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
    user.map(|user| user.name).unwrap_or_else(|| "root".into())
}

fn local_host() -> String {
    nix::unistd::gethostname().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn home() -> Result<PathBuf, String> {
    std::env::home_dir().ok_or_else(|| "there is no home directory".into())
}

/// `~` and `~/…`; another user's home is not looked up.
pub(super) fn tilde(text: &str) -> Result<String, String> {
    match text.strip_prefix('~') {
        None => Ok(text.to_owned()),
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            Ok(format!("{}{rest}", home()?.display()))
        }
        Some(_) => Err(format!("'{text}': write the other user's directory out")),
    }
}

/// `${NAME}` by the environment's variable.
fn variables(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) =
            after.split_once('}').ok_or_else(|| format!("'{text}' has a ${{ without }}"))?;
        let value = std::env::var(name)
            .map_err(|_| format!("'{text}': the environment has no variable {name}"))?;
        out.push_str(before);
        out.push_str(&value);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}
