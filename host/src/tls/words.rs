//! Faults of TLS in words, with the next step.
//!
//! In: the text of an error, as rustls, NATS' client or a store's client writes it. Out: the same text with
//! advice behind it. Texts are searched and not types, because most clients hand on nothing but the text.

/// A part of an error's text, and the advice for it. The first that is found counts.
const ADVICE: [(&str, &str); 17] = [
    ("CaUsedAsEndEntity", AUTHORITY),
    (
        "EndEntityUsedAsCa",
        "a certificate on the way to the authority is no authority's: name the file of the authority itself as the \
         one to trust",
    ),
    (
        "UnknownIssuer",
        "no authority that is trusted here has signed the certificate: name the file of its authority (`--ca`, or \
         the setting that ends in `ca`), and let the server send the certificates in between",
    ),
    (
        "UnsupportedCertVersion",
        "the certificate is of version 1, without extensions: `muster certificate` makes a right one, and so does \
         openssl with -extfile and a subjectAltName",
    ),
    ("certificate is not valid for any names", NAMELESS),
    (
        "not valid for name",
        "connect by one of the names in the certificate, or make one for this name: `muster certificate NAME`",
    ),
    (
        "NotValidForName",
        "connect by one of the names in the certificate: `muster certificate NAME` makes one",
    ),
    ("certificate expired", "put a new certificate in its place; and check the clocks of both machines"),
    ("certificate not valid yet", "check the clocks of both machines, or wait"),
    (
        "does not allow extended key usage",
        "the certificate is for another purpose: a server's needs extendedKeyUsage serverAuth, a client's clientAuth",
    ),
    (
        "InvalidPurpose",
        "the certificate is for another purpose: a server's needs extendedKeyUsage serverAuth, a client's clientAuth",
    ),
    (
        "BadSignature",
        "another key has signed the certificate than that of the trusted authority of the same name: name the file \
         of the authority that did",
    ),
    (
        "CertificateRequired",
        "the server asks for a client's certificate: name one and its key (`--certificate` and `--key`, or the \
         settings of that name)",
    ),
    ("fatal alert: UnknownCa", "the other side does not trust the authority of the certificate shown to it"),
    (
        "fatal alert: BadCertificate",
        "the other side refuses the certificate shown to it; its log has the reason",
    ),
    ("fatal alert: CertificateExpired", "the certificate shown to the other side has expired"),
    ("InvalidContentType", "the port does not speak TLS: write http:// or nats://, or turn TLS on there"),
];

/// The advice for an authority's certificate in the place of a server's.
pub(super) const AUTHORITY: &str = "the certificate is that of an authority (CA:TRUE), as a plain `openssl req -x509` \
    makes it, and clients refuse it as a server's: `muster certificate` makes a right one, and so does openssl with \
    -addext basicConstraints=critical,CA:FALSE";
/// The advice for a certificate without names.
pub(super) const NAMELESS: &str = "the certificate has no subjectAltName, and clients do not read its common name: \
    `muster certificate NAME` makes a right one, and so does openssl with -addext subjectAltName=DNS:NAME";

/// The text of an error, with advice behind it if it tells of a known fault of TLS.
pub fn with_advice(text: impl Into<String>) -> String {
    let text = text.into();
    match advice(&text) {
        Some(advice) => format!("{text}; {advice}"),
        None => text,
    }
}

fn advice(text: &str) -> Option<&'static str> {
    ADVICE.iter().find(|(part, _)| text.contains(part)).map(|(_, advice)| *advice)
}
