//! Addresses as they may be shown.

/// An address without what may be secret in it: a name and a password before the host, and what
/// follows a question mark.
pub fn shown(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let Some((scheme, rest)) = url[..end].split_once("://") else { return url[..end].to_owned() };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn secrets_of_an_address_are_not_shown() {
        for (url, wanted) in [
            ("https://h/d/x.tar.gz?token=abc", "https://h/d/x.tar.gz"),
            ("http://me:secret@h:8080/k@2.tar", "http://h:8080/k@2.tar"),
            ("https://me@h", "https://h"),
            ("https://h/x#y", "https://h/x"),
        ] {
            assert_eq!(shown(url), wanted);
        }
    }
}
