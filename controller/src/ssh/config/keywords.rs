//! Which keywords of ssh_config(5) do what here.

/// What a keyword means to this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It does what ssh_config(5) says.
    Used,
    /// It has no bearing on what is done here, or asks for less caution than is taken anyway.
    Irrelevant,
    /// Whoever set it relies on it, and it is not done here. The value that asks for nothing.
    Refused(&'static [&'static str]),
    /// OpenSSH knows none of that name.
    Unknown,
}

/// Of a keyword in lower case.
pub(super) fn meaning(keyword: &str) -> Meaning {
    let unasked = |values| Meaning::Refused(values);
    match keyword {
        "addressfamily"
        | "batchmode"
        | "certificatefile"
        | "challengeresponseauthentication"
        | "connecttimeout"
        | "globalknownhostsfile"
        | "hostkeyalias"
        | "hostname"
        | "identitiesonly"
        | "identityagent"
        | "identityfile"
        | "ignoreunknown"
        | "kbdinteractiveauthentication"
        | "numberofpasswordprompts"
        | "passwordauthentication"
        | "port"
        | "preferredauthentications"
        | "proxycommand"
        | "proxyjump"
        | "pubkeyauthentication"
        | "stricthostkeychecking"
        | "user"
        | "userknownhostsfile" => Meaning::Used,
        "bindaddress" | "bindinterface" => unasked(&[]),
        "canonicalizehostname" | "proxyusefdpass" => unasked(&["no", "false"]),
        "knownhostscommand" | "pkcs11provider" | "revokedhostkeys" => unasked(&["none"]),
        _ if IRRELEVANT.contains(&keyword) => Meaning::Irrelevant,
        _ => Meaning::Unknown,
    }
}

/// Forwarding, the terminal, multiplexing, logging, what is written to `known_hosts`, methods
/// that are not tried here, algorithms (of which only modern ones are offered here), and what
/// OpenSSH itself ignores.
const IRRELEVANT: &[&str] = &[
    "addkeystoagent",
    "afstokenpassing",
    "canonicaldomains",
    "canonicalizefallbacklocal",
    "canonicalizemaxdots",
    "canonicalizepermittedcnames",
    "casignaturealgorithms",
    "channeltimeout",
    "checkhostip",
    "cipher",
    "ciphers",
    "clearallforwardings",
    "compression",
    "compressionlevel",
    "connectionattempts",
    "controlmaster",
    "controlpath",
    "controlpersist",
    "dsaauthentication",
    "dynamicforward",
    "enableescapecommandline",
    "enablesshkeysign",
    "escapechar",
    "exitonforwardfailure",
    "fallbacktorsh",
    "fingerprinthash",
    "forkafterauthentication",
    "forwardagent",
    "forwardx11",
    "forwardx11timeout",
    "forwardx11trusted",
    "gatewayports",
    "globalknownhostsfile2",
    "gssapiauthentication",
    "gssapiclientidentity",
    "gssapidelegatecredentials",
    "gssapikexalgorithms",
    "gssapikeyexchange",
    "gssapirenewalforcesrekey",
    "gssapiserveridentity",
    "gssapitrustdns",
    "hashknownhosts",
    "hostbasedacceptedalgorithms",
    "hostbasedauthentication",
    "hostbasedkeytypes",
    "hostkeyalgorithms",
    "ipqos",
    "kbdinteractivedevices",
    "keepalive",
    "kerberosauthentication",
    "kerberostgtpassing",
    "kexalgorithms",
    "localcommand",
    "localforward",
    "loglevel",
    "logverbose",
    "macs",
    "nohostauthenticationforlocalhost",
    "obscurekeystroketiming",
    "permitlocalcommand",
    "permitremoteopen",
    "protocol",
    "pubkeyacceptedalgorithms",
    "pubkeyacceptedkeytypes",
    "rekeylimit",
    "remotecommand",
    "remoteforward",
    "requesttty",
    "requiredrsasize",
    "rhostsauthentication",
    "rhostsrsaauthentication",
    "rsaauthentication",
    "securitykeyprovider",
    "sendenv",
    "serveralivecountmax",
    "serveraliveinterval",
    "sessiontype",
    "setenv",
    "skeyauthentication",
    "smartcarddevice",
    "stdinnull",
    "streamlocalbindmask",
    "streamlocalbindunlink",
    "syslogfacility",
    "tag",
    "tcpkeepalive",
    "tisauthentication",
    "tunnel",
    "tunneldevice",
    "updatehostkeys",
    "useprivilegedport",
    "useroaming",
    "userknownhostsfile2",
    "usersh",
    "verifyhostkeydns",
    "versionaddendum",
    "visualhostkey",
    "warnweakcrypto",
    "xauthlocation",
];
