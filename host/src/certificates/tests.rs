use http::{HeaderValue, Request};
use rcgen::{CertificateParams, DnType, KeyPair, SanType};

use super::*;

fn certificate(common_names: &[&str], addresses: &[&str]) -> PeerCertificate {
    let mut parameters = CertificateParams::new(vec!["client.example".to_owned()]).expect("a name");
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    // The library keeps one name of each type, and does not know this type for the same.
    let kinds = [DnType::CommonName, DnType::CustomDnType(vec![2, 5, 4, 3])];
    for (kind, name) in kinds.into_iter().zip(common_names) {
        parameters.distinguished_name.push(kind, *name);
    }
    for address in addresses {
        parameters.subject_alt_names.push(SanType::URI((*address).try_into().expect("ASCII")));
    }
    let key = KeyPair::generate().expect("a key");
    PeerCertificate::read(parameters.self_signed(&key).expect("a certificate").der())
}

fn certificates(rules: &[&str], gateways: &[&str]) -> Certificates {
    let rules = rules.iter().map(|rule| CertificateRule::parse(rule).expect("a rule")).collect();
    Certificates::new(rules, gateways.iter().map(|name| GatewayName::parse(name).expect("a name")).collect())
}

/// The account of a client's own request with these headers.
fn account(
    certificates: &Certificates,
    certificate: &PeerCertificate,
    headers: &[(&'static str, &str)],
) -> Option<String> {
    let request = request(Some(certificate), headers);
    let account = certificates.of_client(Some(certificate), request.uri(), request.headers());
    account.map(|certified| certified.account.to_string())
}

fn request(certificate: Option<&PeerCertificate>, headers: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::new(());
    for (name, value) in headers {
        request.headers_mut().append(*name, HeaderValue::from_str(value).expect("a value"));
    }
    if let Some(certificate) = certificate {
        request.extensions_mut().insert(certificate.clone());
    }
    request
}

#[test]
fn a_certificate_stands_for_the_account_of_its_first_rule() {
    let rules = certificates(
        &[
            "spiffe://site/ns/shop/sa/cart=cart",
            "spiffe://site/ns/shop/sa/*=shop",
            "spiffe://site/ns/pay-*=pay",
            "O=x, billing=odd",
            "billing=billing",
        ],
        &[],
    );
    for (names, addresses, expected) in [
        (&[][..], &["spiffe://site/ns/shop/sa/cart"][..], Some("cart")),
        (&[], &["spiffe://site/ns/shop/sa/other"], Some("shop")),
        (&[], &["spiffe://site/ns/pay-1"], Some("pay")),
        // The star stands for one character at least, and ends with its segment.
        (&[], &["spiffe://site/ns/pay-"], None),
        (&[], &["spiffe://site/ns/pay-1/sa/x"], None),
        (&[], &["spiffe://site/ns/shop/sa/a/b"], None),
        (&[], &["spiffe://site/ns/shop/sa/.."], None),
        (&[], &["spiffe://site/ns/shop/sa/"], None),
        (&[], &["spiffe://site/ns/shop/sa/a%2Fb"], None),
        (&[], &["spiffe://other/ns/shop/sa/cart"], None),
        (&[], &["spiffe://site/ns/shop"], None),
        (&["billing"], &[], Some("billing")),
        (&["O=x, billing"], &[], Some("odd")),
        (&["Billing"], &[], None),
        (&["spiffe://site/ns/shop/sa/cart"], &[], None),
        (&["billing", "billing"], &[], None),
        (&[], &[], None),
        // With an address the common name says nothing, and two addresses say nothing clear.
        (&["billing"], &["spiffe://site/unknown"], None),
        (&["billing"], &["https://billing.example"], None),
        (&[], &["spiffe://site/ns/shop/sa/cart", "spiffe://site/ns/shop/sa/x"], None),
    ] {
        let certificate = certificate(names, addresses);
        assert_eq!(account(&rules, &certificate, &[]).as_deref(), expected, "{names:?} {addresses:?}");
    }
    assert_eq!(PeerCertificate::read(b"junk"), PeerCertificate::default());
}

#[test]
fn rules_are_names_with_a_star_at_the_end_at_most() {
    for good in ["spiffe://site/a=x", "spiffe://site/*=x", "spiffe://site/a/b-*=x.y_z-1", "name=x", "a=b=x"] {
        let rule = CertificateRule::parse(good).unwrap_or_else(|| panic!("{good} is a rule"));
        assert_eq!(rule.show(), good);
    }
    for bad in [
        "",
        "=x",
        "name",
        "name=",
        "name=a b",
        "na*=x",
        "*=x",
        "spiffe://=x",
        "spiffe://site=x",
        "spiffe://site/=x",
        "spiffe://*=x",
        "spiffe://si*=x",
        "spiffe://*/a=x",
        "spiffe://site/*/a=x",
        "spiffe://site/a**=x",
        "spiffe://site/a/=x",
        "spiffe://Site/a=x",
        "SPIFFE://site/a=x",
        "https://site/a=x",
    ] {
        assert_eq!(CertificateRule::parse(bad), None, "{bad}");
    }
    assert!(GatewayName::parse("spiffe://site/gateways/*").is_some());
    assert!(GatewayName::parse("*").is_none() && GatewayName::parse("").is_none());
}

#[test]
fn a_certificate_counts_for_the_owners_own_requests_only() {
    let rules = certificates(&["client=shop", "gate=far"], &["gate"]);
    let client = certificate(&["client"], &[]);
    assert_eq!(account(&rules, &client, &[("host", "registry:30100")]).as_deref(), Some("shop"));
    for header in [
        ("x-forwarded-for", "10.0.0.1"),
        ("forwarded", "for=10.0.0.1"),
        ("via", "1.1 proxy"),
        ("x-muster-account", "shop"),
        ("sec-fetch-site", "cross-site"),
        ("origin", "https://evil.example"),
    ] {
        assert_eq!(account(&rules, &client, &[("host", "registry:30100"), header]), None, "{header:?}");
    }
    let own = [("host", "registry:30100"), ("origin", "https://registry:30100")];
    assert_eq!(account(&rules, &client, &own).as_deref(), Some("shop"));
    assert_eq!(account(&rules, &certificate(&["gate"], &[]), &[]), None, "a gateway is no client");
}

#[test]
fn only_a_gateway_may_name_the_account_of_a_request() {
    let rules = certificates(&["client=shop"], &["gate"]);
    let gate = certificate(&["gate"], &[]);
    let client = certificate(&["client"], &[]);
    let named = |certificate: Option<&PeerCertificate>, values: &[&str]| {
        let headers: Vec<_> = values.iter().map(|value| ("x-muster-account", *value)).collect();
        let account = rules.of_request(&request(certificate, &headers));
        account.map(|certified| certified.map(|certified| certified.account.to_string()))
    };
    assert_eq!(named(Some(&gate), &["shop"]), Ok(Some("shop".to_owned())));
    assert_eq!(named(Some(&gate), &["root"]), Err(NotAGateway), "no rule names this account");
    assert_eq!(named(Some(&gate), &[""]), Ok(None));
    assert_eq!(named(Some(&gate), &[]), Ok(None));
    assert_eq!(named(Some(&gate), &["shop", "shop"]), Err(NotAGateway));
    assert_eq!(named(Some(&gate), &["", "shop"]), Err(NotAGateway));
    for stranger in [None, Some(&client)] {
        assert_eq!(named(stranger, &["shop"]), Err(NotAGateway));
        assert_eq!(named(stranger, &["", "shop"]), Err(NotAGateway));
        assert_eq!(named(stranger, &[""]), Ok(None), "the word of a gateway that is not named yet");
    }
    assert_eq!(named(Some(&client), &[]), Ok(Some("shop".to_owned())));

    let mut inner = request(Some(&client), &[("x-muster-account", "other")]);
    inner.extensions_mut().insert(FromGateway);
    let account = rules.of_request(&inner).expect("is believed").expect("an account");
    assert_eq!(&*account.account, "other");
}
