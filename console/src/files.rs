//! The files of the console, as they were built, and the two forms in which they are sent.

use std::io::Write as _;
use std::sync::OnceLock;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderValue;
use sha1::{Digest as _, Sha1};

/// A file of the console.
pub(crate) struct File {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) text: &'static [u8],
    forms: OnceLock<[Content; 2]>,
}

/// A file in the form in which it is sent.
pub(crate) struct Content {
    pub(crate) bytes: Bytes,
    /// The value of `ETag`, which names this form of this content.
    pub(crate) tag: HeaderValue,
}

impl File {
    const fn new(name: &'static str, kind: &'static str, text: &'static [u8]) -> Self {
        Self { name, kind, text, forms: OnceLock::new() }
    }

    /// The file as it is, or compressed. Both are made once, at the first request.
    pub(crate) fn content(&self, zipped: bool) -> &Content {
        let [whole, small] = self.forms.get_or_init(|| {
            let digest = HEXLOWER.encode(&Sha1::digest(self.text));
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            let small = encoder.write_all(self.text).and_then(|()| encoder.finish());
            let small = small.expect("memory takes everything that is written to it");
            let tag = HeaderValue::try_from(format!("\"{digest}\"")).expect("digits can stand in a header");
            let small = Content { bytes: Bytes::from(small), tag: answer::tag::of_gzip(&tag) };
            [Content { bytes: Bytes::from_static(self.text), tag }, small]
        });
        if zipped { small } else { whole }
    }
}

/// Every file of the bundle. They have fixed names, so that this list and the build agree.
pub(crate) static FILES: [File; 4] = [
    File::new("", "text/html; charset=utf-8", include_bytes!("../bundle/index.html")),
    File::new("app.js", "text/javascript; charset=utf-8", include_bytes!("../bundle/app.js")),
    File::new("app.css", "text/css; charset=utf-8", include_bytes!("../bundle/app.css")),
    File::new("icon.svg", "image/svg+xml", include_bytes!("../bundle/icon.svg")),
];

/// The file with this name, which is empty for the page itself.
pub(crate) fn named(name: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.name == name)
}
