//! The tag of a body, by which a client that has the body already is spared it (RFC 9110, sections 8.8.3 and 13.1.2).
//!
//! In: a body; later the header `If-None-Match` of a request. Out: the header `ETag` of the answer, and whether
//! the client has that body. Equal bodies have equal tags on all control planes and gateways, because a tag is
//! a digest of the body. The compressed form of a body has a tag of its own, made of that of the plain one.

use data_encoding::HEXLOWER;
use http::{HeaderMap, HeaderValue, header};
use sha1::{Digest as _, Sha1};

/// The tag of a plain body. This reads the whole body.
///
/// # Panics
/// Never: the digits of a digest can stand in a header.
pub fn of(plain: &[u8]) -> HeaderValue {
    // No secret and no right depends on it: a tenant that made two lists with one digest would only deceive itself.
    let digest = HEXLOWER.encode(&Sha1::digest(plain));
    HeaderValue::try_from(format!("W/\"{digest}\"")).expect("digits can stand in a header")
}

/// True if the client that sent these headers has the body with this tag. Weak tags equal strong ones.
pub fn is_named(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let tag = opaque(tag.as_bytes());
    let values = headers.get_all(header::IF_NONE_MATCH).iter();
    // A tag of others may have a comma in it, and then neither half is one of ours.
    let mut named = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    named.any(|named| matches!(named.trim_ascii(), b"*") || opaque(named.trim_ascii()) == tag)
}

/// The headers of a request that name tags, for a time when the request itself is gone.
pub fn known(headers: &HeaderMap) -> HeaderMap {
    let tags = headers.get_all(header::IF_NONE_MATCH).iter();
    tags.map(|tag| (header::IF_NONE_MATCH, tag.clone())).collect()
}

/// A tag without the mark of weak ones.
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// Adds the tag of an answer's body. A client may keep the body, and asks before each use of it.
pub fn mark(headers: &mut HeaderMap, tag: &HeaderValue) {
    headers.insert(header::ETAG, tag.clone());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// The tag of the compressed form of the body that has this tag: a cache must not take one form for the other.
///
/// # Panics
/// Never: it is made of a tag and letters.
pub fn of_gzip(plain: &HeaderValue) -> HeaderValue {
    let plain = plain.as_bytes().strip_suffix(b"\"").unwrap_or(plain.as_bytes());
    HeaderValue::from_bytes(&[plain, b"-gzip\""].concat()).expect("a tag and letters")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(value: &'static str, tag: &HeaderValue) -> bool {
        let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static(value))]);
        is_named(&headers, tag)
    }

    #[test]
    fn a_client_has_a_body_whose_tag_it_names() {
        let tag = of(b"{}");
        assert_eq!(tag, r#"W/"bf21a9e8fbc5a3846fb05b4fa0859e0917b2202f""#);
        let mut headers = HeaderMap::new();
        assert!(!is_named(&headers, &tag));
        headers.append(header::IF_NONE_MATCH, of(b""));
        assert!(!is_named(&headers, &tag));
        headers.append(header::IF_NONE_MATCH, tag.clone());
        assert!(is_named(&headers, &tag), "in a second line");
        assert_eq!(of_gzip(&tag), r#"W/"bf21a9e8fbc5a3846fb05b4fa0859e0917b2202f-gzip""#);
        assert!(!is_named(&headers, &of_gzip(&tag)));
    }

    #[test]
    fn all_forms_of_the_header_are_read() {
        let tag = of(b"{}");
        assert!(
            names(r#""a,b" , "bf21a9e8fbc5a3846fb05b4fa0859e0917b2202f""#, &tag),
            "made strong by a cache"
        );
        assert!(names("*", &tag));
        assert!(names(r#""own""#, &HeaderValue::from_static(r#""own""#)));
        for other in ["", r#""a""#, "W/", "bf21a9e8fbc5a3846fb05b4fa0859e0917b2202f"] {
            assert!(!names(other, &tag), "{other}");
        }
    }
}
